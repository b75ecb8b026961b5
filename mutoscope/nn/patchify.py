"""A video as a grid of patches and back. Pure reshapes: nothing learned, nothing lost."""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

Patch = tuple[int, int, int]  # frames, rows, columns


def patchify(x: Float[Tensor, "B C T H W"], patch: Patch) -> Float[Tensor, "B t L P"]:
    """Cut a video into patches.

    Args:
        x: video or latents whose T, H, W are multiples of the patch.
        patch: frames, rows and columns of one patch.

    Returns:
        B t L P: t slots in time, L = h * w patches in row-major order, P = channels * frames * rows * columns.
    """
    frames, rows, columns = patch
    return rearrange(x, "B C (t p) (h q) (w r) -> B t (h w) (C p q r)", p=frames, q=rows, r=columns)


def unpatchify(x: Float[Tensor, "B t L P"], patch: Patch, height: int) -> Float[Tensor, "B C T H W"]:
    """Undo `patchify` for a grid of `height` patches from top to bottom."""
    frames, rows, columns = patch
    return rearrange(x, "B t (h w) (C p q r) -> B C (t p) (h q) (w r)", h=height, p=frames, q=rows, r=columns)
