import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mutoscope.nn.attention import FEW_KEYS, attend


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


@pytest.mark.parametrize("keys", [5, FEW_KEYS + 1])
def test_attention_is_the_average_of_values_by_softmax_of_products(keys: int) -> None:
    q, k, v = draw(2, 3, 4, 8), draw(2, 3, keys, 8) + 1, draw(2, 3, keys, 8)
    for b in range(2):
        for n in range(3):
            for i in range(4):
                weights = [math.exp(float(q[b, n, i] @ k[b, n, j]) / math.sqrt(8)) for j in range(keys)]
                wanted = sum(w * v[b, n, j] for j, w in enumerate(weights)) / sum(weights)
                torch.testing.assert_close(attend(q, k, v)[b, n, i], wanted)


@pytest.mark.parametrize("keys", [5, FEW_KEYS + 1])
def test_padding_is_as_if_it_were_not_there(keys: int) -> None:
    q, k, v = draw(2, 3, 4, 8), draw(2, 3, keys, 8), draw(2, 3, keys, 8) * 100
    mask = torch.arange(keys) < torch.tensor([[keys - 1], [2]])
    read = attend(q, k, v, mask)
    torch.testing.assert_close(read[:1], attend(q[:1], k[:1, :, :-1], v[:1, :, :-1]))
    torch.testing.assert_close(read[1:], attend(q[1:], k[1:, :, :2], v[1:, :, :2]))


def test_plain_products_and_fused_kernel_have_the_same_gradient() -> None:
    q, k, v = (x.requires_grad_() for x in (draw(2, 3, 4, 8), draw(2, 3, 6, 8), draw(2, 3, 7, 8)[:, :, :6].clone()))
    mask = torch.arange(6) < torch.tensor([[6], [2]])
    plain = torch.autograd.grad(attend(q, k, v, mask).square().sum(), (q, k, v))
    fused = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None])
    for ours, theirs in zip(plain, torch.autograd.grad(fused.square().sum(), (q, k, v)), strict=True):
        torch.testing.assert_close(ours, theirs)
