"""Train the toy autoencoder on frames of procedural worlds, without an adversary.

    frames -> encoder -> latents, plus noise -> decoder -> L1 + squares + edges
                         latents, plus more noise -> probe -> what is where, against the truth of the world

Noise on the latents makes the encoder keep apart what looks different, and teaches the decoder to decode what a
diffusion model makes, which is never exactly what an encoder would have made. The probe makes the latents state what
pixels hardly show, such as an object's shape, and is dropped at export. First both are trained; then the latents are
final, and the decoder alone can be trained further.
"""

import copy
import json
import multiprocessing
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Float16, Int, UInt8
from torch import Tensor, nn

from mutoscope.autoencoders.toy import FACTOR, ToyAutoencoder, ToyConfig
from mutoscope.core import config, rng, weights
from mutoscope.core.errors import RecipeError
from mutoscope.core.log import progress
from mutoscope.core.video import Video
from mutoscope.train.step import Objective
from mutoscope.train.structure import STILL, Probe, without_probe
from mutoscope.worlds.render import render
from mutoscope.worlds.scene import Split, sample
from mutoscope.worlds.truth import COUNT, truth_maps

CLIP_FRAMES = 16
SIDE, LARGE_SIDE = 64, 128  # pixels
PREVIEW_CLIPS = 4
FITTED_FRAMES = 8192  # whose latents get mean 0 and variance 1
FIRST_HELD_OUT = 1_000_000_000  # seeds from here on are for measuring


@dataclass(frozen=True)
class AutoencoderObjective:
    """Train an autoencoder to give back the frames of procedural worlds.

    Args:
        model: shape of the network.
        trains: ``all``, or ``decoder``: then the encoder stays as it came, and the latents are final.
        clips: scenes to draw frames from.
        large_clips: further scenes, drawn at twice the size, so that the network also learns what lies far from every
            edge; 0 for none.
        large_every: every so many steps the batch is a quarter as many of these frames.
        frames_per_clip: frames taken of each, at random.
        first_seed: seed of the first scene; the others follow.
        noise: deviation of the noise on latents, whose own is 1; greatest one, if it varies.
        noise_varies: each sample draws its own deviation, from 0 to `noise`.
        squares: weight of the squared error beside the absolute one.
        edges: weight of the absolute error of differences between neighbouring pixels.
        structure: weight of the probe's error; 0 trains without a probe. Frames of twice the size have none.
        probe_noise: deviation of the noise on the latents that the probe reads.
        workers: processes that render; 0 does it in this one.
    """

    model: ToyConfig = ToyConfig()
    trains: Literal["all", "decoder"] = "all"
    clips: int = 20_000
    large_clips: int = 2000
    large_every: int = 8
    frames_per_clip: int = 4
    first_seed: int = 0
    noise: float = 0.3
    noise_varies: bool = False
    squares: float = 10.0
    edges: float = 0.5
    structure: float = 0.0
    probe_noise: float = 0.8
    workers: int = 0

    def __post_init__(self) -> None:
        if self.clips < 1 or not 1 <= self.frames_per_clip <= CLIP_FRAMES:
            raise RecipeError(
                f"clips={self.clips} must be at least 1, "
                f"and frames_per_clip={self.frames_per_clip} from 1 to {CLIP_FRAMES}."
            )
        if self.structure < 0 or (self.structure > 0 and self.trains == "decoder"):
            raise RecipeError(
                f"structure={self.structure} must be at least 0, and 0 where the decoder alone is trained: "
                "the probe reads latents, which are final then."
            )
        if self.large_clips < 0 or self.large_every < 1:
            raise RecipeError(
                f"large_clips={self.large_clips} must be at least 0, and large_every={self.large_every} at least 1."
            )

    def build(self, seed: int) -> "Reconstruction":
        """Render the frames and make the network."""
        return Reconstruction(self, seed)


@dataclass(frozen=True)
class ReconstructionBatch:
    """Frames, and the noise that their latents get."""

    frames: Float[Tensor, "b 3 H W"]
    noise: Float[Tensor, "b C h w"]
    weight: float  # of a frame: its pixels, in those of a small one
    probe_noise: Float[Tensor, "b C h w"] | None = None
    maps: Float[Tensor, "b n h w"] | None = None


class Probed(ToyAutoencoder):
    """An autoencoder with a probe on its latents."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.probe = Probe(config.latent_channels, STILL)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        frames: Float[Tensor, "B 3 H W"],
        noise: Float[Tensor, "B C h w"],
        probe_noise: Float[Tensor, "B C h w"] | None = None,
    ) -> tuple[Float[Tensor, "B 3 H W"], Float[Tensor, "B n h w"] | None]:
        """Encode once, decode through one noise, and answer what is where through another, if there is one."""
        latents = self.encoder(frames)
        answers = None if probe_noise is None else self.probe(latents + probe_noise)
        return self.decoder(latents + noise), answers


class Reconstruction(Objective):
    """The objective that ``AutoencoderObjective`` describes."""

    def __init__(self, settings: AutoencoderObjective, seed: int) -> None:
        self.settings, self.seed = settings, seed
        s = settings
        after = s.first_seed + s.clips
        self.frames = world_frames(range(s.first_seed, after), s.frames_per_clip, SIDE, s.workers)
        self.maps = world_maps(range(s.first_seed, after), s.frames_per_clip) if s.structure > 0 else None
        self.large = world_frames(range(after, after + s.large_clips), s.frames_per_clip, LARGE_SIDE, s.workers)
        self.sample_count: int | None = len(self.frames)
        module = Probed(settings.model) if settings.structure > 0 else ToyAutoencoder(settings.model)
        if settings.trains == "decoder":
            module.encoder.requires_grad_(False)
            module.encoder.normalise.is_fitted = True
        self.module: nn.Module = module

    def start(self, tensors: Mapping[str, Tensor], *, source: str) -> None:
        """Begin from weights of this network; those of the encoder become final when the decoder alone is trained."""
        super().start(tensors if self.settings.structure > 0 else without_probe(tensors), source=source)
        if self.settings.trains == "decoder" and not _is_settled(tensors):
            self._settle(self.module)

    def compile(self) -> None:
        """Compile the network for each of its two sizes."""
        self.module.compile(dynamic=False)

    def batch(self, sample_ids: Sequence[int], step: int) -> ReconstructionBatch:
        """Gather the frames of these samples, mirrored half of the time, and draw their noise."""
        settings, source, ids = self.settings, self.frames, list(sample_ids)
        weight = 1.0
        if len(self.large) and step % settings.large_every == 0:
            source, few = self.large, max(1, len(ids) // (LARGE_SIDE // SIDE) ** 2)
            weight = len(ids) / few
            ids = ids[:few]
        rows = [one % len(source) for one in ids]
        frames = to_float(source[rows])
        maps = self.maps[rows].float() if self.maps is not None and source is self.frames else None
        if self.maps is None:  # the maps of a mirrored frame would be others
            mirrored = torch.tensor([rng.uniform(self.seed, one, step, "mirror") < 0.5 for one in ids])
            frames = torch.where(mirrored[:, None, None, None], frames.flip(-1), frames)
        shape = (settings.model.latent_channels, frames.shape[2] // FACTOR, frames.shape[3] // FACTOR)
        noise = torch.stack([rng.noise(shape, self.seed, one, step) for one in ids]) * settings.noise
        if settings.noise_varies:
            noise *= torch.tensor([rng.uniform(self.seed, one, step, "level") for one in ids])[:, None, None, None]
        if maps is None:
            return ReconstructionBatch(frames, noise, weight)
        seed = rng.generator(self.seed, "probe").initial_seed()
        probe_noise = torch.stack([rng.noise(shape, seed, one, step) for one in ids]) * settings.probe_noise
        return ReconstructionBatch(frames, noise, weight, probe_noise, maps)

    def loss(self, module: nn.Module, batch: ReconstructionBatch) -> tuple[Float[Tensor, " b"], Mapping[str, float]]:
        """Return the loss of each frame, the mean peak signal-to-noise ratio in decibels, and what the probe read."""
        if self.settings.structure == 0:
            decoded, answers = module(batch.frames, batch.noise), None
        else:
            decoded, answers = module(batch.frames, batch.noise, batch.probe_noise)
        decoded = decoded.float()
        quality = psnr(decoded.detach().clamp(-1, 1), batch.frames).mean()
        loss = batch.weight * self._distance(decoded, batch.frames)
        metrics = {"psnr_db": batch.weight * float(quality)}
        if answers is not None:
            assert isinstance(module, Probed) and batch.maps is not None
            error, found = module.probe.errors(answers.float(), batch.maps)
            loss = loss + self.settings.structure * error
            metrics.update(found)
        return loss, metrics

    def _distance(self, made: Float[Tensor, "b 3 H W"], wanted: Float[Tensor, "b 3 H W"]) -> Float[Tensor, " b"]:
        error = made - wanted
        edges = error.diff(dim=2).abs().mean((1, 2, 3)) + error.diff(dim=3).abs().mean((1, 2, 3))
        flat = error.abs().mean((1, 2, 3)) + self.settings.squares * error.square().mean((1, 2, 3))
        return flat + self.settings.edges * edges

    @torch.no_grad()
    def export(self, ema: nn.Module, path: Path) -> None:
        """Write the weights in bfloat16, the mean and deviation of the latents as they are."""
        tensors = {
            name: value if "normalise." in name else value.bfloat16()
            for name, value in without_probe(self._final(ema).state_dict()).items()
        }
        weights.save(path, tensors, {"config": json.dumps(config.to_json(self.settings.model))})

    def _final(self, ema: nn.Module) -> ToyAutoencoder:
        """Return the averaged weights with the latents that an export has."""
        final = copy.deepcopy(ema)
        assert isinstance(final, ToyAutoencoder)
        if self.settings.trains == "all":
            self._settle(final)
        return final

    @torch.no_grad()
    def _settle(self, module: nn.Module) -> None:
        """Give the encoder the precision in which it is stored, and all channels of its latents the same strength."""
        assert isinstance(module, ToyAutoencoder)
        encoder = module.encoder
        for parameter in encoder.parameters():
            parameter.copy_(parameter.bfloat16())
        encoder.normalise.mean.zero_()
        encoder.normalise.deviation.fill_(1)
        encoder.normalise.is_fitted = True
        few = self.frames[:: max(1, len(self.frames) // FITTED_FRAMES)]
        encoder.normalise.fit(torch.cat([encoder(to_float(part)) for part in few.split(64)]))

    @torch.no_grad()
    def preview(self, ema: nn.Module, step: int) -> Video:
        """Show clips of the held-out split above what the autoencoder makes of them."""
        final = self._final(ema)
        seeds = range(FIRST_HELD_OUT, FIRST_HELD_OUT + PREVIEW_CLIPS)
        clips = torch.cat([world_clip(seed, "held_out") for seed in seeds])
        both = torch.stack([clips, final.decode(final.encode(clips))])
        return Video.from_tensor(rearrange(both, "row B C T H W -> C T (row H) (B W)"), fps=8)


def _is_settled(tensors: Mapping[str, Tensor]) -> bool:
    """Tell whether these are exported weights, whose latents are final already."""
    return bool((tensors["encoder.normalise.deviation"] != 1).any())


def psnr(made: Float[Tensor, "B *S"], wanted: Float[Tensor, "B *S"]) -> Float[Tensor, " B"]:
    """Return the peak signal-to-noise ratio of each sample in decibels, for values in [-1, 1]."""
    return -10 * ((made - wanted).flatten(1).square().mean(1) / 4).log10()


def world_frames(seeds: range, frames_per_clip: int, side: int, workers: int = 0) -> UInt8[Tensor, "B 3 H W"]:
    """Render clips of the train split, square and `side` pixels wide, and keep a few frames of each."""
    kept = torch.empty(len(seeds) * frames_per_clip, 3, side, side, dtype=torch.uint8)
    few = partial(_few_frames, frames_per_clip=frames_per_clip, side=side)
    with ExitStack() as open_, progress(len(seeds), "render") as bar:
        made = map(few, seeds)
        if workers > 0:
            pool = open_.enter_context(multiprocessing.get_context("spawn").Pool(workers))
            made = pool.imap(few, seeds, chunksize=64)
        for chosen, place in zip(made, kept.unflatten(0, (len(seeds), frames_per_clip)), strict=True):
            place.copy_(torch.from_numpy(chosen))
            bar.advance()
    return kept


def _few_frames(seed: int, frames_per_clip: int, side: int) -> UInt8[np.ndarray, "f 3 H W"]:
    frames = render(sample(seed, split="train"), CLIP_FRAMES, side, side)
    return rearrange(frames[_places(seed, frames_per_clip)], "f H W C -> f C H W")


def _places(seed: int, count: int) -> Int[np.ndarray, " f"]:
    """Choose the frames that are kept of a clip."""
    return np.random.default_rng(seed).choice(CLIP_FRAMES, count, replace=False)


def world_maps(seeds: range, frames_per_clip: int) -> Float16[Tensor, "B n h w"]:
    """State what is where in the frames that `world_frames` keeps."""
    kept = torch.empty(len(seeds) * frames_per_clip, COUNT, SIDE // FACTOR, SIDE // FACTOR, dtype=torch.float16)
    with progress(len(seeds), "truth") as bar:
        for seed, place in zip(seeds, kept.unflatten(0, (len(seeds), frames_per_clip)), strict=True):
            maps = truth_maps(sample(seed, split="train"), CLIP_FRAMES, SIDE, SIDE, FACTOR)
            place.copy_(torch.from_numpy(maps[_places(seed, frames_per_clip)]))
            bar.advance()
    return kept


def world_clip(seed: int, split: Split) -> Float[Tensor, "1 3 T H W"]:
    """Render one clip to the pixels that an autoencoder takes."""
    return Video.from_array(render(sample(seed, split=split), CLIP_FRAMES), fps=8).tensor()


def to_float(frames: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """Bring bytes to [-1, 1]."""
    return frames.float() / 127.5 - 1
