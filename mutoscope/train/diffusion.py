"""Train a video model: latents and captions in, velocity out, for every task by which frames are given.

    sample id -> latents "C T h w", caption, t, given frames, kept tokens       (all from seed, sample id and step)
    process.pair -> x_t, target, weight -> network(x_t, t, condition) -> mean of weight * (velocity - target)^2

STIV (arXiv 2412.07730): text is dropped with 10 % and, independently, the given image with 8 %; half of the spatial tokens
are left out of the main blocks; given frames carry no loss.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mutoscope.core import config, rng, weights
from mutoscope.core.errors import RecipeError
from mutoscope.core.video import Video
from mutoscope.data.schema import Clip
from mutoscope.data.shards import Shards
from mutoscope.diffusion.flow import FlowMatching
from mutoscope.models import family as families
from mutoscope.train.precompute import fingerprint_of
from mutoscope.train.step import Objective
from mutoscope.worlds.language import caption
from mutoscope.worlds.scene import sample
@dataclass(frozen=True)
class Latents:
    """A folder of latents to train on.

    Args:
        folder: where ``train.precompute`` wrote them.
        repeat: how often an epoch shows each clip; weighs data sets against each other.
    """

    folder: str
    repeat: int = 1


@dataclass(frozen=True)
class Given:
    """Which frames are given, as weights of a draw: the task mix.

    ``none`` is text to video; next to ``first`` it is also STIV's image dropout (0.08 to 0.92).

    Args:
        none: no frame.
        first: the first frame (image to video).
        first_four: the first four (continue a clip).
        first_last: the first and the last (fill between).
        every_second: frames 0, 2, 4 ... (double the frame rate).
        random: a random number of frames, anywhere; never all.
    """

    none: float = 1.0
    first: float = 0.0
    first_four: float = 0.0
    first_last: float = 0.0
    every_second: float = 0.0
    random: float = 0.0

    def __post_init__(self) -> None:
        shares = _shares(self)
        if min(shares.values()) < 0 or sum(shares.values()) <= 0:
            raise RecipeError(f"Given has weights {shares}. They must be 0 or more, and one above 0.")

    def draw(self, num_frames: int, u: float, generator: torch.Generator) -> Bool[Tensor, " T"]:
        """Return which frames are given.

        Args:
            num_frames: latent frames of the clip.
            u: uniform number in [0, 1) that chooses the pattern.
            generator: for the pattern ``random``.
        """
        given = torch.zeros(num_frames, dtype=torch.bool)
        match _choose(_shares(self), u):
            case "first":
                given[:1] = True
            case "first_four":
                given[:4] = True
            case "first_last":
                given[[0, -1]] = True
            case "every_second":
                given[::2] = True
            case "random":
                number = int(torch.randint(1, num_frames, (), generator=generator))
                given[torch.randperm(num_frames, generator=generator)[:number]] = True
        return given

    def least_frames(self) -> int:
        """Return the fewest frames with which every pattern used leaves something to learn."""
        needs = {"none": 1, "first": 2, "first_four": 5, "first_last": 3, "every_second": 2, "random": 2}
        return max(needs[name] for name, share in _shares(self).items() if share > 0)


@dataclass(frozen=True)
class Languages:
    """How often captions are in each language, as weights."""

    en: float = 0.7
    zh: float = 0.3


@dataclass(frozen=True)
class Lengths:
    """How often captions are of each length, as weights; ``brief`` leaves out facts, ``dense`` is several sentences."""

    brief: float = 0.2
    short: float = 0.5
    dense: float = 0.3


@dataclass(frozen=True)
class DiffusionObjective:
    """Train a video model by its process.

    Args:
        data: folders of latents.
        autoencoder: weights file of the autoencoder that made them.
        encoder: weights file of the text encoder, which stays frozen.
        model: ``family/preset``.
        overrides: changes to the preset, such as ``patch_size=[1,2,2]``.
        process: law of t and its shift (Our reading: STIV states neither).
        text_dropout: share of captions replaced by the empty one.
        given: which frames are given, how often.
        mask_ratio: share of spatial tokens left out of the main blocks; 0 trains unmasked. Every token carries loss, those
            left out too (Our reading: STIV does not say which do).
        frames: ``clip`` trains on clips, ``one`` on one frame of each, drawn anew each time (images).
        languages: of the captions.
        lengths: of the captions.
        inflate: the weights to start from are those of an image model, whose patches grow along time.
        prompts: shown by ``sample_every``.
        sampling_steps: for those.
    """

    data: tuple[Latents, ...]
    autoencoder: str
    encoder: str
    model: str = "stiv/toy"
    overrides: tuple[str, ...] = ()
    process: FlowMatching = FlowMatching()
    text_dropout: float = 0.1
    given: Given = Given()
    mask_ratio: float = 0.0
    frames: Literal["clip", "one"] = "clip"
    languages: Languages = Languages()
    lengths: Lengths = Lengths()
    inflate: bool = False
    prompts: tuple[str, ...] = ("a small red circle drifts left over a checkered floor", "一个大的蓝色星形在旋转")
    sampling_steps: int = 20

    def __post_init__(self) -> None:
        if not (0 <= self.text_dropout <= 1 and 0 <= self.mask_ratio < 1):
            raise RecipeError(
                f"text_dropout={self.text_dropout} must be in [0, 1], mask_ratio={self.mask_ratio} in [0, 1)."
            )
        if not self.data:
            raise RecipeError("DiffusionObjective has no data. Give at least one folder: data=(Latents(...),).")

    def build(self, seed: int) -> "Denoising":
        """Make the network and open the data."""
        return Denoising(self, seed)


@dataclass(frozen=True)
class DenoisingBatch:
    """What a step trains on, before the noise is mixed in."""

    latents: Float[Tensor, "B C T h w"]
    noise: Float[Tensor, "B C T h w"]
    t: Float[Tensor, " B"]
    given: Bool[Tensor, "B T"]
    keep: Int[Tensor, "B K"] | None
    micro: Float[Tensor, "B M"]
    texts: tuple[str, ...]


class Denoising(Objective):
    """The objective that ``DiffusionObjective`` describes."""

    def __init__(self, settings: DiffusionObjective, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self.family, preset = families.find(settings.model)
        self.config = config.override(preset, settings.overrides)
        self.module: nn.Module = self.family.network(self.config)
        self.sources = [Shards(part.folder) for part in settings.data]
        self.ends = torch.tensor([len(s) * p.repeat for s, p in zip(self.sources, settings.data, strict=True)]).cumsum(0)
        self.sample_count: int | None = int(self.ends[-1])
        self._check_data()

    def batch(self, sample_ids: Sequence[int], step: int) -> DenoisingBatch:
        """Read the latents of these samples and draw all that is random."""
        drawn = [self._draw(sample_id, step) for sample_id in sample_ids]
        latents, clips, texts, keep, given = zip(*drawn, strict=True)
        shape = latents[0].shape
        u = torch.tensor([rng.uniform(self.seed, sample_id, step) for sample_id in sample_ids])
        return DenoisingBatch(
            latents=torch.stack(latents),
            noise=torch.stack([rng.noise(shape, self.seed, sample_id, step) for sample_id in sample_ids]),
            t=self.settings.process.times(u),
            given=torch.stack(given),
            keep=torch.stack(keep) if self.settings.mask_ratio > 0 else None,
            micro=torch.tensor([_micro(clip, shape[1]) for clip in clips]),
            texts=texts,
        )
