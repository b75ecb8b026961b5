import pytest
import torch

from mutoscope.nn.patchify import patchify, unpatchify


@pytest.mark.parametrize("patch", [(1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 1, 3)])
def test_nothing_is_lost_and_nothing_moves(patch: tuple[int, int, int]) -> None:
    x = torch.randn(2, 3, 4, 4, 6)
    assert torch.equal(unpatchify(patchify(x, patch), patch, x.shape[3] // patch[1]), x)


def test_tokens_are_row_major_and_channels_come_first_in_a_patch() -> None:
    x = torch.arange(2 * 2 * 4 * 6).reshape(1, 2, 2, 4, 6).float()
    tokens = patchify(x, (2, 2, 2))
    assert tokens.shape == (1, 1, 6, 16)
    assert torch.equal(tokens[0, 0, 4], x[0, :, :, 2:4, 2:4].flatten())  # second row, second column
