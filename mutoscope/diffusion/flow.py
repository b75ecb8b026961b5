"""Flow matching on the one clock (see `process`): training pairs, densities of t, given frames, denoised previews."""

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from mutoscope.core.errors import RecipeError
from mutoscope.diffusion.process import Pair
from mutoscope.diffusion.schedule import shift_time


@dataclass(frozen=True)
class Uniform:
    """Every time equally often."""

    def quantile(self, u: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Return the time below which a share `u` of all times lies."""
        return u


@dataclass(frozen=True)
class LogitNormal:
    """Middle times most often: logit(t) is normal.

    Args:
        mean: of logit(t); above 0 leans towards noise. A shift s of t is the same as adding ln s here.
        std: of logit(t), above 0.

    Source:
        Esser et al. 2024 (Stable Diffusion 3), section 3.1.
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and 0 < self.std < math.inf):
            raise RecipeError(
                f"LogitNormal(mean={self.mean}, std={self.std}) is no density. Give a finite mean and a std above 0, "
                "such as LogitNormal(mean=0.0, std=1.0)."
            )

    def quantile(self, u: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Return the time below which a share `u` of all times lies."""
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u))


@dataclass(frozen=True)
class FlowMatching:
    """Straight lines from data to noise, and how often training looks at which part of them.

    Args:
        density: law of t before the shift.
        shift: moves training times towards noise, above 0; 1 leaves them (see `schedule.shift_time`).
    """

    density: LogitNormal | Uniform = LogitNormal()
    shift: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.shift < math.inf:
            raise RecipeError(f"shift={self.shift} is not a shift. Give a number above 0; 1 means no shift.")

    def times(self, u: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Turn uniform numbers into the times at which to train.

        Args:
            u: in [0, 1]; independent or stratified, as the caller likes.

        Returns:
            Times in [0, 1], rising with `u`.
        """
        return shift_time(self.density.quantile(u), self.shift)

    def pair(
        self,
        latents: Float[Tensor, "B C T H W"],
        noise: Float[Tensor, "B C T H W"],
        t: Float[Tensor, " B"],
        given: Bool[Tensor, "B T"] | None = None,
    ) -> Pair:
        """Put latents and noise together at time t; frames that are given stay clean and weigh nothing.

        Args:
            latents: data, of about unit variance.
            noise: standard normal.
            t: times in [0, 1], one per sample.
            given: True where a frame is known (STIV's frame replacement); None for no such frame.

        Returns:
            The noisy latents, the velocity that the network should answer, and the weight of each frame's error.
        """
        x_t = torch.lerp(latents, noise, per_sample(t, latents))
        if given is None:
            weight = latents.new_ones(latents.shape[0], 1, latents.shape[2], 1, 1)
        else:
            x_t = replace_given(x_t, latents, given)
            weight = rearrange(~given, "B T -> B 1 T 1 1").to(latents.dtype)
        return Pair(x_t, noise - latents, weight)


def replace_given(
    x: Float[Tensor, "B C T H W"], clean: Float[Tensor, "B C T H W"], given: Bool[Tensor, "B T"]
) -> Float[Tensor, "B C T H W"]:
    """Overwrite the given frames of `x` with those of `clean`, whose other frames are never looked at."""
    return torch.where(rearrange(given, "B T -> B 1 T 1 1"), clean, x)


def to_denoised(
    x: Float[Tensor, "B *S"], velocity: Float[Tensor, "B *S"], t: Float[Tensor, " B"] | float
) -> Float[Tensor, "B *S"]:
    """Return the data that a velocity points at: where the straight line from (x, t) arrives at t = 0."""
    return x - per_sample(t, x) * velocity


def to_velocity(
    x: Float[Tensor, "B *S"], denoised: Float[Tensor, "B *S"], t: Float[Tensor, " B"] | float
) -> Float[Tensor, "B *S"]:
    """Return the velocity of the straight line through (x, t) that arrives at `denoised`; needs t > 0."""
    return (x - denoised) / per_sample(t, x)


def noisier(x: Float[Tensor, "B *S"], t: float, later: float, noise: Float[Tensor, "B *S"]) -> Float[Tensor, "B *S"]:
    """Add noise to the state at t until it is one of a later time on the clock, of the same data.

    Args:
        x: the state at t, (1 - t) * data + t * noise.
        t: its time, below 1.
        later: a time in [t, 1].
        noise: standard normal, independent of x.

    Returns:
        (1 - later) * data + later * another noise, which is standard normal, too.
    """
    kept = (1 - later) / (1 - t)  # of the data, and so of all of x
    return kept * x + (later**2 - (kept * t) ** 2) ** 0.5 * noise


def per_sample(t: Float[Tensor, " B"] | float, x: Float[Tensor, "B *S"]) -> Tensor | float:
    """Give one number per sample as many trailing axes as `x` has; a plain number stays as it is."""
    return t.view(-1, *[1] * (x.ndim - 1)) if isinstance(t, Tensor) else t
