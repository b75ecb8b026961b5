"""Rotary position embedding on a grid of any number of axes (Su et al. 2021).

A position turns each pair of channels by an angle proportional to it, so the product of a query and a key depends only
on how far apart they are. On a grid the channels are shared out among the axes. Networks differ in how:

    grid_rope, rotate        an equal part for each axis; channel i is paired with channel i + K/2
    axes_rope, rotate_pairs  parts and positions of any kind; channel 2i is paired with channel 2i + 1
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


def axes_rope(
    positions: Sequence[Float[Tensor, " _n"]], speeds: Sequence[Float[Tensor, " _P"]]
) -> Float[Tensor, "L pairs 2"]:
    """Tabulate the rotation of every token of a grid whose axes have channels and positions of their own.

    Args:
        positions: of the tokens along each axis; any numbers.
        speeds: for each axis, the angle in radians by which each of its pairs of channels turns from one position to
            the next, as from `falling_speeds`.

    Returns:
        Cosine and sine for each pair of channels of each token in row-major order, as `rotate_pairs` takes them; the
        pairs of the first axis come first. In float32.
    """
    sizes = [len(position) for position in positions]
    tables = []
    for axis, (position, speed) in enumerate(zip(positions, speeds, strict=True)):
        angles = position.float()[:, None] * speed  # n P: so few that their cosines cost nothing
        table = torch.stack([angles.cos(), angles.sin()], dim=-1)
        along = [size if other == axis else 1 for other, size in enumerate(sizes)]
        tables.append(table.reshape(*along, -1, 2).expand(*sizes, -1, 2))
    return torch.cat(tables, dim=-2).flatten(0, len(sizes) - 1)


def falling_speeds(
    channels: int, theta: float, device: torch.device | str | None = None
) -> Float[Tensor, "{channels}//2"]:
    """Return the angles by which pairs of channels turn a position: from 1 down almost to 1 / theta, geometrically."""
    return theta ** -(torch.arange(0, channels, 2, device=device, dtype=torch.float32) / channels)


def rotate_pairs(x: Float[Tensor, "... L K"], rope: Float[Tensor, "L K//2 2"]) -> Float[Tensor, "... L K"]:
    """Turn each query or key to its position; channel 2i is paired with channel 2i + 1.

    Args:
        x: queries or keys, in any layout whose last axis is dense.
        rope: tables from `axes_rope`; (1, 0) leaves a pair as it is.

    Returns:
        Same shape and dtype as `x`, turned in float32; lengths are kept.
    """
    pairs = x.float().unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():  # the compiler makes one kernel of this, and has none for complex numbers
        (a, b), (cos, sin) = pairs.unbind(-1), rope.unbind(-1)
        return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2).to(x.dtype)
    turned = torch.view_as_complex(pairs) * torch.view_as_complex(rope)  # as complex numbers: one pass, not five
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)
