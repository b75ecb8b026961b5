"""Numbers as vectors."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


def sinusoid(values: Float[Tensor, " *B"], dim: int, max_period: float = 10_000.0) -> Float[Tensor, "*B {dim}"]:
    """Embed each number as cosines and sines of geometrically spaced frequencies (Vaswani et al. 2017, section 3.5).

    Args:
        values: numbers whose differences of about 1 matter.
        dim: an even number of channels.
        max_period: the longest period is 2 pi times this.

    Returns:
        Cosines, then sines, in float32.
    """
    half = dim // 2
    speeds = torch.exp(-math.log(max_period) / half * torch.arange(half, device=values.device, dtype=torch.float32))
    angles = values.float()[..., None] * speeds
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class Embed(nn.Sequential):
    """Lift a vector to the width of the network by a two-layer perceptron."""

    def __init__(self, dim_in: int, dim: int) -> None:
        super().__init__(nn.Linear(dim_in, dim), nn.SiLU(), nn.Linear(dim, dim))
