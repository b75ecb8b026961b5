"""Normalisations: one without weights, for the stream; one with, for queries and keys."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def standardise(x: Float[Tensor, "*B D"], eps: float = 1e-6) -> Float[Tensor, "*B D"]:
    """Give each vector zero mean and unit variance, with nothing learned (layer norm without weights).

    Args:
        x: vectors along the last axis.
        eps: added to the variance.

    Returns:
        Same shape and dtype as `x`.
    """
    return F.layer_norm(x, x.shape[-1:], eps=eps)


class RMSNorm(nn.Module):
    """Divide each vector by its root mean square and scale each channel (Zhang & Sennrich 2019, equation 4).

    Written out, because it stays in the dtype of its input and is twice as fast on a CPU as the composite in torch.
    """

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """Return `x` with unit root mean square along the last axis, times the learned weight."""
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight.to(x.dtype)


class HeadNorm(nn.Module):
    """`RMSNorm` in float32 whatever the type of its input, rounded to that type before the learned scale.

    For the queries and keys of networks that were published so.
    """

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Float[Tensor, "*B K"]) -> Float[Tensor, "*B K"]:
        """Return `x` with unit root mean square along the last axis, times the learned weight."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return wide.to(x.dtype) * self.weight.to(x.dtype)
