"""Where on the clock to work: the shift of t, and the falling grid that a sampler walks.

A shift s > 1 moves times towards noise, in training (`FlowMatching.times`) as in sampling (`grid`). In log-odds it is a
translation, ``logit(t') = logit(t) + ln s``, so shifts multiply: s1 and then s2 is s1 * s2.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from mutoscope.core.errors import RequestError


def shift_time(t: Float[Tensor, "*S"], shift: float) -> Float[Tensor, "*S"]:
    """Move times towards noise (shift > 1) or data (shift < 1); 0 and 1 stay where they are.

    Args:
        t: times in [0, 1].
        shift: the factor on the odds t / (1 - t), above 0.

    Returns:
        Times in [0, 1].

    Source:
        Esser et al. 2024 (Stable Diffusion 3), eq. 23 with shift = sqrt(m / n). The denominator (1 - t) + shift * t
        keeps t = 1 exactly 1 in floating point.
    """
    return shift * t / ((1 - t) + shift * t)


def resolution_shift(tokens: int, base_tokens: int, base_shift: float = 1.0) -> float:
    """Return the shift that makes `tokens` as uncertain at each t as `base_tokens` are under `base_shift`.

    Redundant neighbours average noise away, so a larger picture needs more noise to be destroyed as far.

    Args:
        tokens: positions of the latent grid to sample, at least 1.
        base_tokens: positions of the grid for which `base_shift` is right, at least 1.
        base_shift: shift at `base_tokens`, above 0.

    Returns:
        base_shift * sqrt(tokens / base_tokens).

    Source:
        Esser et al. 2024 (Stable Diffusion 3), section 5.3.2.
    """
    return base_shift * math.sqrt(tokens / base_tokens)


def grid(steps: int, shift: float = 1.0) -> Float[Tensor, " N"]:
    """Return the falling times that a sampler walks, evenly spaced before the shift.

    Args:
        steps: number of sampling steps, at least 1.
        shift: above 0; 1 leaves the grid even.

    Returns:
        steps + 1 times in float32 on the CPU, from exactly 1 to exactly 0.

    Raises:
        RequestError: for fewer than one step or a shift that is not above 0.
    """
    if steps < 1:
        raise RequestError(f"steps={steps} samples nothing. Give at least 1; 20 to 50 is usual.")
    if not 0 < shift < math.inf:
        raise RequestError(f"shift={shift} is not a shift. Give a number above 0; 1 means no shift.")
    even = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return shift_time(even, shift).float()
