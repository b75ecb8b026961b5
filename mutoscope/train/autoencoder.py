"""Train the toy autoencoder on frames of procedural worlds, without an adversary.

    frames -> principal components (fitted once) -> latents, plus noise -> decoder -> L1 + squares + edges

The encoder is fitted, not trained, so what is learned here is the decoder alone. Noise on the latents teaches it to
decode what a diffusion model makes, which is never exactly what an encoder would have made.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from mutoscope.autoencoders.toy import FACTOR, ToyAutoencoder, ToyConfig
from mutoscope.core import config, rng, weights
from mutoscope.core.errors import RecipeError
from mutoscope.core.log import progress
from mutoscope.core.video import Video
from mutoscope.train.step import Objective
from mutoscope.worlds.render import render
from mutoscope.worlds.scene import Split, sample

CLIP_FRAMES = 16
PREVIEW_CLIPS = 4
FITTED_FRAMES = 8192  # whose squares the components are taken from
FIRST_HELD_OUT = 1_000_000_000  # seeds from here on are for measuring


@dataclass(frozen=True)
class AutoencoderObjective:
    """Train an autoencoder to give back the frames of procedural worlds.

    Args:
        model: shape of the network.
        clips: scenes to draw frames from.
        frames_per_clip: frames taken of each, at random.
        first_seed: seed of the first scene; the others follow.
        noise: greatest deviation of the noise on latents, whose own is 1; each sample draws its own, from 0 up.
        squares: weight of the squared error beside the absolute one.
        edges: weight of the absolute error of differences between neighbouring pixels.
    """

    model: ToyConfig = ToyConfig()
    clips: int = 20_000
    frames_per_clip: int = 4
    first_seed: int = 0
    noise: float = 0.3
    squares: float = 4.0
    edges: float = 0.5

    def __post_init__(self) -> None:
        if self.clips < 1 or not 1 <= self.frames_per_clip <= CLIP_FRAMES:
            raise RecipeError(
                f"clips={self.clips} must be at least 1, "
                f"and frames_per_clip={self.frames_per_clip} from 1 to {CLIP_FRAMES}."
            )

    def build(self, seed: int) -> "Reconstruction":
        """Render the frames and make the network."""
        return Reconstruction(self, seed)


@dataclass(frozen=True)
class ReconstructionBatch:
    """Frames, and the noise that their latents get."""

    frames: Float[Tensor, "B 3 H W"]
    noise: Float[Tensor, "B C h w"]


class Reconstruction(Objective):
    """The objective that ``AutoencoderObjective`` describes."""

    def __init__(self, settings: AutoencoderObjective, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self.frames = world_frames(settings.clips, settings.frames_per_clip, settings.first_seed)
        self.sample_count: int | None = len(self.frames)
        module = ToyAutoencoder(settings.model)
        module.components.fit(to_float(self.frames[:: max(1, len(self.frames) // FITTED_FRAMES)]))
        self.module: nn.Module = module

    def batch(self, sample_ids: Sequence[int], step: int) -> ReconstructionBatch:
        """Gather the frames of these samples, mirrored half of the time, and draw their noise."""
        frames = to_float(self.frames[list(sample_ids)])
        mirrored = torch.tensor([rng.uniform(self.seed, one, step, "mirror") < 0.5 for one in sample_ids])
        frames = torch.where(mirrored[:, None, None, None], frames.flip(-1), frames)
        shape = (self.settings.model.latent_channels, frames.shape[2] // FACTOR, frames.shape[3] // FACTOR)
        level = torch.tensor([rng.uniform(self.seed, one, step, "level") for one in sample_ids])
        noise = torch.stack([rng.noise(shape, self.seed, one, step) for one in sample_ids])
        return ReconstructionBatch(frames, noise * (self.settings.noise * level)[:, None, None, None])

    def loss(self, module: nn.Module, batch: ReconstructionBatch) -> tuple[Float[Tensor, " B"], Mapping[str, float]]:
        """Return the loss of each frame, and the mean peak signal-to-noise ratio in decibels."""
        assert isinstance(module, ToyAutoencoder)
        with torch.no_grad(), torch.autocast(batch.frames.device.type, enabled=False):
            latents = module.components(batch.frames) + batch.noise
            linear = module.components.invert(latents)
        decoded = linear + module.detail(latents).float()
        quality = psnr(decoded.detach().clamp(-1, 1), batch.frames).mean()
        return self._distance(decoded, batch.frames), {"psnr_db": float(quality)}

    def _distance(self, made: Float[Tensor, "B 3 H W"], wanted: Float[Tensor, "B 3 H W"]) -> Float[Tensor, " B"]:
        error = made - wanted
        edges = error.diff(dim=2).abs().mean((1, 2, 3)) + error.diff(dim=3).abs().mean((1, 2, 3))
        flat = error.abs().mean((1, 2, 3)) + self.settings.squares * error.square().mean((1, 2, 3))
        return flat + self.settings.edges * edges

    @torch.no_grad()
    def export(self, ema: nn.Module, path: Path) -> None:
        """Write the weights in bfloat16, the components as they are."""
        tensors = {
            name: value if name.startswith("components") else value.bfloat16()
            for name, value in ema.state_dict().items()
        }
        weights.save(path, tensors, {"config": json.dumps(config.to_json(self.settings.model))})

    @torch.no_grad()
    def preview(self, ema: nn.Module, step: int) -> Video:
        """Show clips of the held-out split above what the autoencoder makes of them."""
        assert isinstance(ema, ToyAutoencoder)
        seeds = range(FIRST_HELD_OUT, FIRST_HELD_OUT + PREVIEW_CLIPS)
        clips = torch.cat([world_clip(seed, "held_out") for seed in seeds])
        both = torch.stack([clips, ema.decode(ema.encode(clips))])
        return Video.from_tensor(rearrange(both, "row B C T H W -> C T (row H) (B W)"), fps=8)


def psnr(made: Float[Tensor, "B *S"], wanted: Float[Tensor, "B *S"]) -> Float[Tensor, " B"]:
    """Return the peak signal-to-noise ratio of each sample in decibels, for values in [-1, 1]."""
    return -10 * ((made - wanted).flatten(1).square().mean(1) / 4).log10()


def world_frames(clips: int, frames_per_clip: int, first_seed: int) -> UInt8[Tensor, "B 3 H W"]:
    """Render clips of the train split and keep a few frames of each."""
    kept = []
    with progress(clips, "render") as bar:
        for seed in range(first_seed, first_seed + clips):
            frames = render(sample(seed, split="train"), CLIP_FRAMES)
            places = np.random.default_rng(seed).choice(CLIP_FRAMES, frames_per_clip, replace=False)
            kept.append(torch.from_numpy(frames[places]))
            bar.advance()
    return rearrange(torch.cat(kept), "B H W C -> B C H W")


def world_clip(seed: int, split: Split) -> Float[Tensor, "1 3 T H W"]:
    """Render one clip to the pixels that an autoencoder takes."""
    return Video.from_array(render(sample(seed, split=split), CLIP_FRAMES), fps=8).tensor()


def to_float(frames: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """Bring bytes to [-1, 1]."""
    return frames.float() / 127.5 - 1
