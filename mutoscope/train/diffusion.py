"""Train a video model: latents and captions in, velocity out, for every task by which frames are given.

    sample id -> latents "C T h w", caption, t, given frames, kept tokens       (all from seed, sample id and step)
                 or frames "T H W 3" of one of many sizes, which the autoencoder encodes on the device, step by step
    process.pair -> x_t, target, weight -> network(x_t, t, condition) -> mean of weight * (velocity - target)^2

STIV (arXiv 2412.07730): text is dropped with 10 % and, independently, the given image with 8 %; half of the spatial
tokens are left out of the main blocks; given frames carry no loss.
"""

import inspect
import json
import shutil
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Float16, Int, UInt8
from torch import Tensor, nn

from mutoscope.autoencoders.base import LatentShape, Patch
from mutoscope.core import config, rng, weights
from mutoscope.core.dist import print0
from mutoscope.core.errors import RecipeError, RequestError
from mutoscope.core.files import replacing
from mutoscope.core.video import Video
from mutoscope.data.batches import Batches, BatchSettings, Shape
from mutoscope.data.schema import Clip
from mutoscope.data.shards import Shards
from mutoscope.data.tars import Tars
from mutoscope.diffusion.flow import FlowMatching
from mutoscope.models import family as families
from mutoscope.models.family import Facts, Sampling
from mutoscope.pipeline import AUTOENCODER, BUNDLED, ENCODER, Request, Size, System
from mutoscope.train.precompute import clips_of_level, fingerprint_of
from mutoscope.train.step import Objective
from mutoscope.train.structure import MOVING, Supervision, TokenProbe, cell_weights, without_probe
from mutoscope.worlds.language import Language, Length, caption
from mutoscope.worlds.scene import Scene, Split, sample
from mutoscope.worlds.truth import truth_maps


@dataclass(frozen=True)
class Latents:
    """A folder of latents to train on.

    Args:
        folder: where ``train.precompute`` wrote them.
        repeat: how often an epoch shows each clip; weighs data sets against each other.
        most_things: of a world, only the clips that show at most so many things; None takes all.
    """

    folder: str
    repeat: int = 1
    most_things: int | None = None


@dataclass(frozen=True)
class CuratedClips:
    """The clips of a data set that `mutoscope curate` wrote, of many sizes, encoded while training.

    Args:
        folder: of the data set.
        batches: sizes that clips are brought to, and how many make a batch, by tokens as the network counts them. So
            many batches as its `ranks` are one step.
        level: of the nested levels that a stage `Nested` made, the one to take; all clips if not given.
        uncaptioned: train on clips without a caption too, as if it had been dropped. A data set that has such clips is
            refused otherwise.
    """

    folder: str
    batches: BatchSettings
    level: str | None = None
    uncaptioned: bool = False


@dataclass(frozen=True)
class Mix:
    """Weights of a draw among the names of the fields."""

    def __post_init__(self) -> None:
        if min(astuple(self)) < 0 or sum(astuple(self)) <= 0:
            raise RecipeError(f"{self} are weights of a draw: they must be 0 or more, and one above 0.")

    def choose(self, draw: np.random.Generator) -> str:
        """Draw the name of a field."""
        names = [field.name for field in fields(self)]
        edges = np.cumsum(astuple(self))
        return names[int(np.searchsorted(edges, draw.random() * edges[-1], side="right"))]


@dataclass(frozen=True)
class GivenMix(Mix):
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

    def draw(self, num_frames: int, draw: np.random.Generator) -> Bool[Tensor, " T"]:
        """Return which of so many frames are given."""
        given = torch.zeros(num_frames, dtype=torch.bool)
        match self.choose(draw):
            case "first":
                given[0] = True
            case "first_four":
                given[:4] = True
            case "first_last":
                given[[0, -1]] = True
            case "every_second":
                given[::2] = True
            case "random":
                given[draw.permutation(num_frames)[: draw.integers(1, num_frames)]] = True
        return given

    def least_frames(self) -> int:
        """Return the fewest frames with which every pattern used leaves something to learn."""
        needs = {"none": 1, "first": 2, "first_four": 5, "first_last": 3, "every_second": 2, "random": 2}
        return max(number for name, number in needs.items() if getattr(self, name) > 0)


@dataclass(frozen=True)
class LanguageMix(Mix):
    """How often captions are in each language, as weights."""

    en: float = 0.7
    zh: float = 0.3


@dataclass(frozen=True)
class LengthMix(Mix):
    """How often captions are of each length, as weights; ``brief`` leaves out facts, ``dense`` is several sentences."""

    brief: float = 0.2
    short: float = 0.5
    dense: float = 0.3


@dataclass(frozen=True)
class DiffusionObjective:
    """Train a video model by its process.

    Args:
        data: folders of latents of one size; or a curated data set, whose clips have many.
        autoencoder: weights file of the autoencoder that made the latents, or is to make them.
        encoder: weights file of the text encoder, which stays frozen.
        model: ``family/preset``.
        overrides: changes to the preset, such as ``patch_size=[1,2,2]``.
        process: law of t and its shift (Our reading: STIV states neither).
        text_dropout: share of captions replaced by the empty one.
        given: which frames are given, how often. Of a clip that is one latent frame, none is.
        mask_ratio: share of spatial tokens left out of the main blocks; 0 trains unmasked. Every token carries loss,
            those left out too (Our reading: STIV does not say which do).
        window: train on so many latent frames of each clip, one after another, from a place drawn anew each time; 1
            trains on images, None on whole clips. For latents of autoencoders that encode each frame by itself.
        languages: of the captions.
        lengths: of the captions.
        supervision: by the truth of a world, whose clips the data must be.
        inflate: the weights to start from are those of an image model, whose patches grow along time.
        motion_from: with `inflate`, weights file of a video model that gives the temporal attention (STIV's joint start
            from a sharp image model and a coarse video model); None starts it at random.
        prompts: shown by ``sample_every``.
        sampling: defaults for the model that is made, kept with its weights; None leaves it those of its family.
    """

    data: tuple[Latents, ...] | CuratedClips
    autoencoder: str
    encoder: str
    model: str = "stiv/toy"
    overrides: tuple[str, ...] = ()
    process: FlowMatching = FlowMatching()
    text_dropout: float = 0.1
    given: GivenMix = GivenMix()
    mask_ratio: float = 0.0
    window: int | None = None
    languages: LanguageMix = LanguageMix()
    lengths: LengthMix = LengthMix()
    supervision: Supervision | None = None
    inflate: bool = False
    motion_from: str | None = None
    prompts: tuple[str, ...] = ("a small red circle drifts left over a checkered floor", "一个大的蓝色星形在旋转")
    sampling: Sampling | None = None

    def __post_init__(self) -> None:
        if not (0 <= self.text_dropout <= 1 and 0 <= self.mask_ratio < 1):
            raise RecipeError(
                f"text_dropout={self.text_dropout} must be in [0, 1], mask_ratio={self.mask_ratio} in [0, 1)."
            )
        if not self.data:
            raise RecipeError("DiffusionObjective has no data. Give at least one folder: data=(Latents(...),).")
        if isinstance(self.data, CuratedClips) and self.supervision is not None:
            raise RecipeError("supervision is for latents of world clips. Leave it out to train on a curated data set.")
        if isinstance(self.data, CuratedClips) and self.window is not None:
            raise RecipeError(f"window={self.window} is for latents. Leave it out; `BatchSettings` has lengths.")

    def build(self, seed: int) -> "Denoising":
        """Make the network and open the data."""
        if isinstance(self.data, CuratedClips):
            return ManySizes(self, self.data, seed)
        return OneSize(self, self.data, seed)


@dataclass(frozen=True)
class DenoisingBatch:
    """What a step trains on, before the noise is mixed in. `clips` are latents, or frames still to be encoded."""

    clips: Float[Tensor, "B C T h w"] | UInt8[Tensor, "B F H W 3"]
    noise: Float[Tensor, "B C T h w"]
    t: Float[Tensor, " B"]
    given: Bool[Tensor, "B T"]
    keep: Int[Tensor, "B K"] | None
    texts: tuple[str, ...]
    facts: tuple[Facts, ...]
    maps: Float16[Tensor, "B T n h w"] | None = None


class Drawn(NamedTuple):
    """What is drawn of a clip at a step, besides time and noise."""

    text: str
    frames: slice
    given: Bool[Tensor, " T"]
    keep: Int[Tensor, " K"] | None


class Denoising(Objective):
    """The objective that ``DiffusionObjective`` describes, but for where its clips come from.

    Attributes:
        size: of the clips that the model makes unless asked otherwise.
    """

    size: Size

    def __init__(self, settings: DiffusionObjective, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self.family, preset = families.find(settings.model)
        self.config = config.override(preset, settings.overrides)
        self._open()
        self.encoder = self.family.encoder.load(Path(settings.encoder)).eval().requires_grad_(False)
        self.module: nn.Module = self.family.network(self.config)
        if settings.inflate and self.family.inflate is None:
            raise RecipeError(f"{self.family.name} has no image model to inflate. Set inflate to False.")
        if settings.motion_from is not None and not (settings.inflate and self.family.join):
            raise RecipeError("motion_from joins a video model to an image model. Set inflate to True, or drop it.")
        self.motion = weights.read(Path(settings.motion_from))[0] if settings.motion_from is not None else None
        if settings.mask_ratio > 0 and "keep" not in inspect.signature(self.module.forward).parameters:
            raise RecipeError(f"{self.family.name} cannot leave tokens out. Set mask_ratio to 0.")
        if settings.supervision is not None and settings.supervision.probe > 0:
            self._add_probe(settings.supervision)

    def _add_probe(self, supervision: Supervision) -> None:
        """Give the network a probe on the tokens of a block."""
        frames, *patch = self.config.patch_size
        if "taps" not in inspect.signature(self.module.forward).parameters or patch != [1, 1]:
            raise RecipeError(
                f"{self.settings.model} with patches of {frames}x{patch[0]}x{patch[1]} has no tokens of one cell each "
                "that a probe could read. Set probe to 0, or override patch_size with [T,1,1]."
            )
        if supervision.block >= self.config.depth:
            raise RecipeError(f"block={supervision.block}: the network has blocks 0 to {self.config.depth - 1}.")
        self.module.add_module("probe", TokenProbe(self.config.dim, frames, MOVING))

    @abstractmethod
    def _open(self) -> None:
        """Open the data, and refuse those that this network cannot be trained on."""

    def _encoded(self, clips: Tensor) -> Float[Tensor, "B C T h w"]:
        """Return the latents of the clips of a batch."""
        return clips

    def loss(self, module: nn.Module, batch: DenoisingBatch) -> tuple[Float[Tensor, " B"], Mapping[str, float]]:
        """Return each sample's mean squared error of the velocity over the frames that were not given."""
        with torch.no_grad():
            latents = self._encoded(batch.clips)
            text = self.encoder.to(latents.device).encode(batch.texts)
        condition = self.family.condition(text, batch.facts)
        x_t, target, weight = self.settings.process.pair(latents, batch.noise, batch.t, batch.given)
        extras: dict[str, object] = {} if batch.keep is None else {"keep": batch.keep}
        supervision = self.settings.supervision
        taps: dict[int, Tensor] = {}
        if supervision is not None and supervision.probe > 0:
            extras["taps"] = taps = {supervision.block: latents}  # to be replaced
        velocity = module(x_t, batch.t, condition, **extras)
        error = (velocity.float() - target).square()
        maps = None if batch.maps is None else batch.maps.float()
        if supervision is not None and maps is not None:
            error = error * cell_weights(maps, supervision.object_weight)
        error = error.mean(dim=(1, 3, 4), keepdim=True) * weight
        loss = error.sum(dim=(1, 2, 3, 4)) / weight.sum(dim=(1, 2, 3, 4))
        if not taps or supervision is None or maps is None:
            return loss, {}
        probe = module.get_submodule("probe")
        assert isinstance(probe, TokenProbe)
        answers = probe.of_tokens(taps[supervision.block], maps.shape[3])
        wrong, found = probe.errors(answers.float(), rearrange(maps, "B T n h w -> (B T) n h w"))
        wrong = rearrange(wrong, "(B T) -> B T", B=len(loss)).mean(1)
        numbers = {"velocity_error": float(loss.detach().mean())}
        return loss + supervision.probe * wrong, numbers | {f"probe_{name}": share for name, share in found.items()}

    def start(self, tensors: Mapping[str, Tensor], *, source: str) -> None:
        """Begin from weights of this network, or, if asked to, from those of the family's image model."""
        if self.motion is not None:
            assert self.family.join is not None  # checked when built
            tensors = self.family.join(tensors, self.motion, self.config)
        elif self.settings.inflate:
            assert self.family.inflate is not None  # checked when built
            tensors = self.family.inflate(tensors, self.config)
        probe = {name: value for name, value in self.module.state_dict().items() if name.startswith("probe.")}
        if not any(name.startswith("probe.") for name in tensors):
            tensors = {**tensors, **probe}  # a new one
        weights.load_into(self.module, tensors if probe else without_probe(tensors), source=source)

    def compile(self) -> None:
        """Compile the network and the text encoder, which is a quarter of the work where clips are single frames."""
        self.module.compile()
        self.encoder.compile()

    def export(self, ema: nn.Module, path: Path) -> None:
        """Write the averaged weights in bfloat16 with all that `loading.load` needs, its companions beside them."""
        own_size = self.size
        size = {"num_frames": own_size.num_frames, "height": own_size.height, "width": own_size.width}
        for own, name in ((self.settings.autoencoder, AUTOENCODER), (self.settings.encoder, ENCODER)):
            if not (BUNDLED / name).exists() or fingerprint_of(Path(own)) != fingerprint_of(BUNDLED / name):
                with replacing(path.with_name(name)) as temporary:
                    shutil.copyfile(own, temporary)
        metadata = {
            "model": self.settings.model,
            "config": json.dumps(config.to_json(self.config)),
            "size": json.dumps({**size, "fps": str(own_size.fps)}),
        }
        if self.settings.sampling is not None:
            metadata["sampling"] = json.dumps(config.to_json(self.settings.sampling))
        state = without_probe(ema.state_dict())
        weights.save(path, {k: v.bfloat16() if v.is_floating_point() else v for k, v in state.items()}, metadata)

    def preview(self, ema: nn.Module, step: int) -> Video | None:
        """Generate the prompts of the recipe, side by side."""
        if not self.settings.prompts:
            return None
        size = self.size
        autoencoder = self.family.autoencoder.load(Path(self.settings.autoencoder)).eval()
        autoencoder.to(next(ema.parameters()).device)
        system = System(self.family, ema, autoencoder, self.encoder, self.settings.model, size, self.settings.sampling)
        videos = system.generate([Request(prompt, seed=seed) for seed, prompt in enumerate(self.settings.prompts)])
        return Video.from_array(np.concatenate([video.array() for video in videos], axis=2), size.fps)

    def _batch(
        self,
        clips: Float[Tensor, "B C T h w"] | UInt8[Tensor, "B F H W 3"],
        shape: Sequence[int],
        sample_ids: Sequence[int],
        step: int,
        records: Sequence[Clip],
        drawn: Sequence[Drawn],
    ) -> DenoisingBatch:
        """Put a batch together, and draw its times and noise; `shape` is that of the latents of one clip."""
        u = torch.tensor([rng.uniform(self.seed, one, step) for one in sample_ids])
        kept = [one.keep for one in drawn if one.keep is not None]
        return DenoisingBatch(
            clips=clips,
            noise=torch.stack([rng.noise(shape, self.seed, one, step) for one in sample_ids]),
            t=self.settings.process.times(u),
            given=torch.stack([one.given for one in drawn]),
            keep=torch.stack(kept) if kept else None,
            texts=tuple(one.text for one in drawn),
            facts=tuple(_facts(record, self.settings.window) for record in records),
            maps=self._maps(records, drawn),
        )

    def _maps(self, records: Sequence[Clip], drawn: Sequence[Drawn]) -> Float16[Tensor, "B T n h w"] | None:
        """State what is where in the frames drawn of world clips, if that supervises the network."""
        if self.settings.supervision is None:
            return None
        maps = [_truth(clip.scene_seed, clip.split, clip.num_frames, clip.height, clip.width) for clip in records]
        return torch.stack([torch.from_numpy(one)[each.frames] for one, each in zip(maps, drawn, strict=True)])

    def _draw(self, sample_id: int, step: int, clip: Clip, shape: Sequence[int]) -> Drawn:
        """Draw what a sample shows at one step of a clip whose latents have this shape: C T h w."""
        settings, (_, num_frames, *_) = self.settings, shape
        draw = np.random.default_rng([self.seed, sample_id, step])
        text = "" if draw.random() < settings.text_dropout else self._text(clip, draw)
        first = 0
        if settings.window is not None:
            first = int(draw.integers(num_frames - settings.window + 1))
            num_frames = settings.window
        keep = None
        if settings.mask_ratio > 0:
            num_tokens = self._tokens_of_frame(shape)
            kept = max(1, round(num_tokens * (1 - settings.mask_ratio)))  # that the main blocks see
            keep = torch.from_numpy(np.sort(draw.permutation(num_tokens)[:kept]))
        given = settings.given.draw(num_frames, draw) if num_frames > 1 else torch.zeros(1, dtype=torch.bool)
        return Drawn(text, slice(first, first + num_frames), given, keep)

    def _tokens_of_frame(self, shape: Sequence[int]) -> int:
        """Return the spatial tokens of latents of a shape, C T h w."""
        _, rows, columns = self.config.patch_size
        return (shape[2] // rows) * (shape[3] // columns)

    def _text(self, clip: Clip, draw: np.random.Generator) -> str:
        language = cast(Language, self.settings.languages.choose(draw))
        length = cast(Length, self.settings.lengths.choose(draw))
        if clip.scene_seed is not None:
            return caption(_scene(clip.scene_seed, clip.split), int(draw.integers(2**31)), language, length)
        # A real clip has what captions it has: those that fit, or else any.
        fitting = [one for one in clip.captions if (one.language, one.length) == (language, length)] or clip.captions
        return fitting[draw.integers(len(fitting))].text

    def _refuse_channels(self, channels: int, where: str) -> None:
        if channels != self.config.latent_channels:
            raise RecipeError(
                f"{self.settings.model} takes latents of {self.config.latent_channels} channels, "
                f"{where} has {channels}. Use an autoencoder with as many, or override latent_channels."
            )

    def _refuse_given(self, num_frames: int) -> None:
        least = self.settings.given.least_frames()
        if least > num_frames:
            raise RecipeError(
                f"The frames that Given asks for need clips of {least} frames, these have {num_frames}. "
                "Set those weights to 0."
            )


class OneSize(Denoising):
    """Training on stored latents, all of one size."""

    def __init__(self, settings: DiffusionObjective, data: tuple[Latents, ...], seed: int) -> None:
        self.data = data
        super().__init__(settings, seed)
        # Last, as drawing the scenes of a large data set takes its time, and errors should come before.
        self.taken = [_taken(source, part) for source, part in zip(self.sources, data, strict=True)]
        sizes = [len(taken) * part.repeat for taken, part in zip(self.taken, data, strict=True)]
        self.sample_count: int | None = sum(sizes)
        self.starts = [sum(sizes[:index]) for index in range(len(sizes))]

    def batch(self, sample_ids: Sequence[int], step: int) -> DenoisingBatch:
        """Read the latents of these samples and draw all that is random."""
        found = [self._find(one) for one in sample_ids]
        records = [shards.clip(index) for shards, index in found]
        drawn = [
            self._draw(one, step, record, shards.latent_shape)
            for one, record, (shards, _) in zip(sample_ids, records, found, strict=True)
        ]
        latents = torch.stack(
            [shards.latents(index, one.frames) for (shards, index), one in zip(found, drawn, strict=True)]
        )
        return self._batch(latents, latents.shape[1:], sample_ids, step, records, drawn)

    def _find(self, sample_id: int) -> tuple[Shards, int]:
        """Return where a sample is stored."""
        source = bisect_right(self.starts, sample_id) - 1
        taken = self.taken[source]
        return self.sources[source], taken[(sample_id - self.starts[source]) % len(taken)]

    def _open(self) -> None:
        settings = self.settings
        self.sources = [Shards(part.folder) for part in self.data]
        first = self.sources[0].clip(0)
        num_frames = settings.window or first.num_frames
        self.size = Size(num_frames, first.height, first.width, first.frames_a_second)
        made_with = self.family.autoencoder.load(Path(settings.autoencoder)).latents_id()
        for shards in self.sources:
            if shards.description.get("autoencoder") != made_with:
                raise RecipeError(
                    f"{shards.folder} was encoded by another autoencoder than {settings.autoencoder}. "
                    "Name the one that was used, or precompute again into another folder."
                )
            if shards.latent_shape != self.sources[0].latent_shape:
                raise RecipeError(
                    f"{shards.folder} has latents of shape {shards.latent_shape}, {self.sources[0].folder} of "
                    f"{self.sources[0].latent_shape}. Latents have one size; `CuratedClips` may have many."
                )
        channels, stored, rows, columns = self.sources[0].latent_shape
        if settings.window is not None and not 1 <= settings.window <= stored:
            raise RecipeError(
                f"window={settings.window} does not fit clips of {stored} latent frames. Give 1 to {stored}."
            )
        num_frames = settings.window or stored
        patch = self.config.patch_size
        self._refuse_channels(channels, str(self.sources[0].folder))
        if num_frames % patch[0] or rows % patch[1] or columns % patch[2]:
            raise RecipeError(
                f"Latents of {num_frames}x{rows}x{columns} cannot be cut into patches of {'x'.join(map(str, patch))}. "
                "Set overrides, such as patch_size=[1,2,2], or precompute another size."
            )
        self._refuse_given(num_frames)


class ManySizes(Denoising):
    """Training on the clips of a curated set, each batch of one of many sizes, encoded on the device as they come.

    A sample id is the place of a clip among those of its step: what is drawn for it follows from (seed, place, step).
    """

    def __init__(self, settings: DiffusionObjective, data: CuratedClips, seed: int) -> None:
        self.data = data
        super().__init__(settings, seed)

    def sample_ids(self, seed: int, step: int, batch_size: int | None, micro_batches: int) -> list[list[int]]:
        """Return the places of a step's clips, by batch."""
        _, batches = self.batches.micro_batches(step)
        return [[pick.place for pick in picks] for picks in batches]

    def batch(self, sample_ids: Sequence[int], step: int) -> DenoisingBatch:
        """Decode the frames of the clips at these places of a step, and draw all that is random."""
        shape, picks = self.batches.picks(step)
        loaded = self.batches.load_picks(step, shape, [picks[one] for one in sample_ids])
        latent_shape = self._latent_shape(shape)
        drawn = [
            self._draw(one, step, record, latent_shape) for one, record in zip(sample_ids, loaded.clips, strict=True)
        ]
        frames = torch.from_numpy(loaded.frames)
        return self._batch(frames, latent_shape, sample_ids, step, loaded.clips, drawn)

    def _encoded(self, clips: Tensor) -> Float[Tensor, "B C T h w"]:
        """Encode clips one by one, so that their number costs no memory, in the autoencoder's own precision."""
        autoencoder = self.autoencoder.to(clips.device)
        with torch.autocast(clips.device.type, enabled=False):
            return torch.cat([autoencoder.encode(to_video(clip)) for clip in clips.split(1)])

    def _open(self) -> None:
        settings, data = self.settings, self.data
        self.autoencoder = self.family.autoencoder.load(Path(settings.autoencoder)).eval().requires_grad_(False)
        only = None if data.level is None else clips_of_level(Path(data.folder), data.level)
        self.batches = Batches(Tars(data.folder), data.batches, self._count_tokens, self.seed, only)
        buckets = self.batches.buckets
        self.sample_count: int | None = sum(len(bucket.indices) for bucket in buckets)
        self.plan: str | None = self.batches.plan
        several = [frames for bucket in buckets if (frames := self._latent_shape(bucket.shape).t) > 1]
        self._refuse_given(min(several, default=1))
        self._refuse_uncaptioned()
        # What it makes: a clip of the size seen most often; of videos, where there are any.
        seen = max(buckets, key=lambda bucket: (bucket.shape.num_frames > 1, bucket.draws, bucket.shape))
        self.size = Size(*seen.shape, Fraction(data.batches.fps))
        for line in self.batches.lines():
            print0(f"{data.folder}: {line}")

    def _refuse_uncaptioned(self) -> None:
        """Refuse clips without captions unless asked for, where captions are asked for at all."""
        indices = [int(index) for bucket in self.batches.buckets for index in bucket.indices]
        missing = [index for index in indices if self.batches.data.captions(index) == 0]
        if not missing or self.settings.text_dropout == 1:
            return
        told = f"{len(missing)} of {len(indices)} clips of {self.data.folder} have no caption"
        if not self.data.uncaptioned:
            raise RecipeError(
                f"{told}, {self.batches.data.rows[missing[0]].id} among them. Curate it with captions "
                "(docs/life/captions.md), or set uncaptioned=True to train on them without words."
            )
        print0(f"{told}: trained on without words")

    def _latent_shape(self, shape: Shape) -> LatentShape:
        """Return the shape of the latents of a clip.

        Raises:
            RecipeError: the autoencoder or the network's patches do not take it.
        """
        time, rows, _ = self.config.patch_size
        try:
            found: LatentShape = self.autoencoder.latent_shape(*shape, Patch(time, rows))
        except RequestError as error:
            raise RecipeError(
                f"Clips of {' x '.join(map(str, shape))} cannot be trained on: {error} "
                "Change lengths or step_px, or the patch: overrides such as patch_size=[1,2,2]."
            ) from error
        self._refuse_channels(found.channels, self.settings.autoencoder)
        return found

    def _count_tokens(self, shape: Shape) -> int:
        """Return the tokens that the network makes of a clip."""
        found = self._latent_shape(shape)
        return found.t // self.config.patch_size[0] * self._tokens_of_frame(found)


def to_video(clip: UInt8[Tensor, "1 T H W 3"]) -> Float[Tensor, "1 3 T H W"]:
    """Bring the bytes of a clip to what autoencoders take, in [-1, 1]: exactly what `Video.tensor` makes of them."""
    return rearrange(clip.float() / 127.5 - 1, "one T H W C -> one C T H W").contiguous()


@lru_cache(maxsize=1 << 16)  # drawing a scene takes longer than all else about a sample
def _scene(seed: int, split: Split) -> Scene:
    return sample(seed, split=split)


@lru_cache(maxsize=1 << 16)  # 40 KB each for 16 frames of 64 x 64
def _truth(seed: int | None, split: Split, num_frames: int, height: int, width: int) -> Float16[np.ndarray, "T n h w"]:
    if seed is None:
        raise RecipeError("supervision needs clips of a world, and this data set has others. Leave it out.")
    return truth_maps(_scene(seed, split), num_frames, height, width)


def _taken(shards: Shards, part: Latents) -> Sequence[int]:
    """Return the numbers of the clips of a folder that are trained on."""
    if part.most_things is None:
        return range(len(shards))
    clips = [shards.clip(index) for index in range(len(shards))]
    taken = [
        index
        for index, clip in enumerate(clips)
        if clip.scene_seed is not None and len(_scene(clip.scene_seed, clip.split).things) <= part.most_things
    ]
    if not taken:
        raise RecipeError(
            f"{part.folder} has no clip of a world with at most {part.most_things} things. "
            "Raise most_things, or leave it out to take all clips."
        )
    return taken


def _facts(clip: Clip, window: int | None) -> Facts:
    return Facts(
        height=clip.source_height,
        width=clip.source_width,
        num_frames=window or clip.num_frames,
        crop_top=clip.crop_top,
        crop_left=clip.crop_left,
        stride=1 if window == 1 else clip.stride,
    )
