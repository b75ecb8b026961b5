"""Supervise latents or tokens by the exact truth of a world: what is where, read by one linear layer.

The squared error of a latent or of a velocity hardly sees an object's shape: it changes few pixels by little. A probe
that must read shape, colour, texture, place, size and orientation from every cell that an object reaches, and the
background from every other cell, makes a network keep them where the next network finds them. The probe belongs to
training alone. Related: REPA and VA-VAE, which align with the features of a foundation model; here the world's own
truth (``worlds.truth``) takes their place.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from mutoscope.core.errors import RecipeError
from mutoscope.worlds.truth import CHANNELS, NOWHERE, NUMBERS, OF_OBJECT, OF_SCENE

STILL = ("shape", "colour", "texture", "background", "tone", "offset", "log_radius", "turn", "mix")  # in one frame
MOVING = (*STILL, "motion", "camera", "velocity", "growth", "spin")  # what only a clip shows
# Weight of each number's squared error, about the inverse of its variance; a cross-entropy has weight 1.
WEIGHTS = MappingProxyType(
    {"offset": 0.35, "log_radius": 4.0, "turn": 0.5, "velocity": 4.0, "growth": 4.0, "spin": 4.0, "mix": 6.0}
)


@dataclass(frozen=True)
class Supervision:
    """How the truth of a world helps to train a video model on its clips.

    Args:
        object_weight: weight of the velocity's squared error where an object reaches; 1 weighs all cells alike.
        probe: weight of the error of a probe that reads what is where from the tokens of one block; 0 for none.
        block: number of that block, from 0: the probe reads what leaves it.
    """

    object_weight: float = 1.0
    probe: float = 0.0
    block: int = 2

    def __post_init__(self) -> None:
        if self.object_weight <= 0 or self.probe < 0 or self.block < 0:
            raise RecipeError(f"{self}: object_weight must be above 0, probe and block at least 0.")


class Probe(nn.Module):
    """One linear layer from the channels of a cell to what is true there."""

    def __init__(self, channels: int, reads: tuple[str, ...]) -> None:
        super().__init__()
        self.sizes = {"reach": 1, **{name: _size(name) for name in reads}}
        self.out = nn.Linear(channels, sum(self.sizes.values()))

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B n h w"]:
        """Answer for every cell, logits and numbers in the order of `sizes`."""
        return self.out(x.movedim(1, -1)).movedim(-1, 1)

    def errors(
        self, answers: Float[Tensor, "B n h w"], maps: Float[Tensor, "B m h w"]
    ) -> tuple[Float[Tensor, " B"], dict[str, float]]:
        """Compare answers with the truth.

        Args:
            answers: what `forward` returned.
            maps: of ``worlds.truth.truth_maps``, a frame each.

        Returns:
            The error of each frame, a sum over what is read: that of objects is a mean over the cells that one reaches,
            that of the background a mean over the others. And the share of cells whose class is right, by name.
        """
        reached = maps[:, CHANNELS["shape"].start] != NOWHERE
        reach, *rest = answers.split(list(self.sizes.values()), dim=1)
        error = 2 * F.binary_cross_entropy_with_logits(reach[:, 0], reached.to(reach.dtype), reduction="none").mean(
            (1, 2)
        )
        found: dict[str, float] = {}
        for name, answer in zip(list(self.sizes)[1:], rest, strict=True):
            truth = maps[:, CHANNELS[name]]
            cells = ~reached if name in ("background", "tone", "mix") else reached
            if name == "camera":
                cells = torch.ones_like(reached)
            if name in WEIGHTS:
                each = WEIGHTS[name] * (answer - truth).square().mean(1)
            else:
                classes = truth[:, 0].long()
                each = F.cross_entropy(answer, classes.clamp(min=0), reduction="none")
                right = (answer.detach().argmax(1) == classes) & cells
                found[name] = float(right.sum() / cells.sum().clamp(min=1))
            error = error + (each * cells).sum((1, 2)) / cells.sum((1, 2)).clamp(min=1)
        return error, found


class TokenProbe(Probe):
    """A probe on tokens that hold several frames of one cell each."""

    def __init__(self, dim: int, frames: int, reads: tuple[str, ...]) -> None:
        super().__init__(dim, reads)
        self.frames = frames
        self.out = nn.Linear(dim, frames * sum(self.sizes.values()))

    def of_tokens(self, tokens: Float[Tensor, "B t L D"], height: int) -> Float[Tensor, "b n h w"]:
        """Answer for every cell of every frame, b = B * t * frames; `height` is h, and L is h * w."""
        answers = self.out(tokens)
        return rearrange(answers, "B t (h w) (f n) -> (B t f) n h w", h=height, f=self.frames)


def cell_weights(maps: Float[Tensor, "B T n h w"], object_weight: float) -> Float[Tensor, "B 1 T h w"]:
    """Weigh the cells that an object reaches; the mean over all cells of all samples is 1."""
    reached = maps[:, None, :, CHANNELS["shape"].start] != NOWHERE
    weights = torch.where(reached, object_weight, 1.0)
    return weights / weights.mean()


def _size(name: str) -> int:
    """Return how many numbers are read for one map."""
    if name in NUMBERS:
        return NUMBERS[name]
    return len({**OF_OBJECT, **OF_SCENE}[name])


def without_probe(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave the probe's weights out of a state."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("probe.")}
