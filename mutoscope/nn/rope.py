"""Rotary position embedding on a grid of any number of axes (Su et al. 2021).

A position turns each pair of channels by an angle proportional to it, so the product of a query and a key depends only
on how far apart they are. On a grid the channels are shared out: an equal part turns with each axis.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def grid_rope(
    sizes: Sequence[int],
    head_dim: int,
    *,
    trained: Sequence[int] | None = None,
    theta: float = 10_000.0,
    device: torch.device | str | None = None,
) -> Float[Tensor, "2 L K"]:
    """Tabulate the rotation of every token of a grid, in row-major order.

    Args:
        sizes: tokens along each axis.
        head_dim: channels of one head; a multiple of twice the number of axes.
        trained: tokens along each axis in training. A longer axis has its positions squeezed into that range, so no
            angle is met that training did not show (position interpolation, Chen et al. 2023). None keeps them whole.
        theta: the slowest channels turn by 1 / theta a token.
        device: where the tables are made.

    Returns:
        Cosines and signed sines, as `rotate` takes them, 2 L K in float32.
    """
    channels = head_dim // (2 * len(sizes))
    speeds = theta ** -(torch.arange(channels, device=device, dtype=torch.float32) / channels)
    axes = []
    for axis, size in enumerate(sizes):
        squeeze = 1.0 if trained is None else min(1.0, trained[axis] / size)
        axes.append(torch.arange(size, device=device, dtype=torch.float32) * squeeze)
    positions = torch.stack([p.flatten() for p in torch.meshgrid(*axes, indexing="ij")])  # axes L
    angles = torch.cat([p[:, None] * speeds for p in positions], dim=1)  # L K/2
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([torch.cat([cos, cos], dim=1), torch.cat([-sin, sin], dim=1)])


def rotate(x: Float[Tensor, "... L K"], rope: Float[Tensor, "2 ... L K"]) -> Float[Tensor, "... L K"]:
    """Turn each query or key to its position; channel i is paired with channel i + K/2.

    Args:
        x: queries or keys.
        rope: tables from `grid_rope`, with any axes between the first and L that broadcast against `x`.

    Returns:
        Same shape and dtype as `x`; lengths are kept.
    """
    cos, sin = rope.to(x.dtype).unbind(0)
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)
