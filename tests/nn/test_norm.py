import torch
import torch.nn.functional as F
from torch import Tensor

from mutoscope.nn.norm import HeadNorm, RMSNorm, standardise


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_standardised_vectors_have_zero_mean_and_unit_deviation() -> None:
    y = standardise(5 * draw(4, 32) + 3)
    torch.testing.assert_close(y.mean(-1), torch.zeros(4), atol=1e-6, rtol=0)
    torch.testing.assert_close(y.std(-1, correction=0), torch.ones(4))


def test_standardising_forgets_scale_and_offset() -> None:
    x = draw(4, 32)
    torch.testing.assert_close(standardise(7 * x - 2), standardise(x), atol=1e-5, rtol=0)


def test_rms_norm_is_the_vector_over_its_root_mean_square() -> None:
    norm = RMSNorm(4, eps=0.0)
    norm.weight.data = torch.tensor([1.0, 2.0, 1.0, 1.0])
    torch.testing.assert_close(norm(torch.tensor([3.0, 1.0, 1.0, 1.0])), torch.tensor([3.0, 2.0, 1.0, 1.0]) / 3**0.5)


def test_rms_norm_of_zero_is_zero_with_a_finite_slope() -> None:
    x = torch.zeros(2, 8, requires_grad=True)
    y = RMSNorm(8)(x)
    y.sum().backward()
    assert torch.equal(y, torch.zeros(2, 8))
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_rms_norm_agrees_with_torch() -> None:
    norm = RMSNorm(16)
    norm.weight.data = draw(16)
    x = draw(3, 5, 16)
    torch.testing.assert_close(norm(x), torch.nn.functional.rms_norm(x, (16,), norm.weight, 1e-6))


def test_head_norm_takes_its_statistics_in_float32() -> None:
    norm, x = HeadNorm(64), 100 * draw(3, 64)
    torch.testing.assert_close(norm(x), F.rms_norm(x, [64], eps=1e-6))
    narrow = x.bfloat16()
    assert torch.equal(norm(narrow), F.rms_norm(narrow.float(), [64], eps=1e-6).bfloat16())
