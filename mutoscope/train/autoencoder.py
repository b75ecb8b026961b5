"""Train the toy autoencoder on frames of procedural worlds, without an adversary.

    frame -> encoder -> latents, normalised by the batch -> plus noise -> decoder -> L1 + squares + edges

Three things make the latents good for a diffusion model and not only for the decoder. They are normalised inside the
loss, so that noise added to them cannot be outgrown; what matters is therefore spread over many channels, and small
errors of the diffusion model stay small in pixels. Training begins at the principal components of 8 x 8 squares, mixed
so that all channels have the same deviation, which are smooth to begin with. And latents halved by averaging must
decode to the frame halved by averaging (scale equivariance, Skorokhodov et al. 2025, arXiv 2502.14831), which keeps them
from hiding detail in high frequencies.
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
from torch.nn import functional as F

from mutoscope.autoencoders.toy import FACTOR, ToyAutoencoder, ToyConfig, unshuffle
from mutoscope.core import config, rng, weights
from mutoscope.core.errors import RecipeError
from mutoscope.core.log import progress
from mutoscope.core.video import Video
from mutoscope.train.step import Objective
from mutoscope.worlds.render import render
from mutoscope.worlds.scene import Split, sample

CLIP_FRAMES = 16
PREVIEW_CLIPS = 4
STATISTICS_FRAMES = 4096  # over which the published mean and deviation are taken
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
        halved: weight of the whole loss at half the scale, taken on half of the batch.
        frozen_encoder: train the decoder alone, so that latents made before stay good.
    """

    model: ToyConfig = ToyConfig()
    clips: int = 10_000
    frames_per_clip: int = 4
    first_seed: int = 0
    noise: float = 0.3
    squares: float = 4.0
    edges: float = 0.5
    halved: float = 0.25
    frozen_encoder: bool = False

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
        start_at_principal_components(module, to_float(self.frames[:: max(1, len(self.frames) // 2048)]))
        module.encoder.requires_grad_(not settings.frozen_encoder)
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
        settings = self.settings
        raw = module.encoder(batch.frames).float()
        if settings.frozen_encoder:
            latents = module.normalise(raw) + batch.noise
        else:
            mean, std = statistics(raw)
            latents = (raw - mean[:, None, None]) / std[:, None, None] + batch.noise
            with torch.no_grad():  # the newest statistics; those published are taken anew over many frames
                module.mean.copy_(mean)
                module.std.copy_(std)
        decoded = module.decoder(module.denormalise(latents)).float()
        losses = self._distance(decoded, batch.frames)
        if settings.halved > 0:
            half = max(1, len(losses) // 2)
            small = module.decoder(module.denormalise(F.avg_pool2d(latents[:half], 2))).float()
            at_half = self._distance(small, F.avg_pool2d(batch.frames[:half], 2))
            losses = losses + settings.halved * F.pad(at_half, (0, len(losses) - half))
        return losses, {"psnr_db": float(psnr(decoded.detach().clamp(-1, 1), batch.frames).mean())}

    def _distance(self, made: Float[Tensor, "B 3 H W"], wanted: Float[Tensor, "B 3 H W"]) -> Float[Tensor, " B"]:
        error = made - wanted
        edges = error.diff(dim=2).abs().mean((1, 2, 3)) + error.diff(dim=3).abs().mean((1, 2, 3))
        flat = error.abs().mean((1, 2, 3)) + self.settings.squares * error.square().mean((1, 2, 3))
        return flat + self.settings.edges * edges

    @torch.no_grad()
    def export(self, ema: nn.Module, path: Path) -> None:
        """Write the weights in bfloat16, with the channel statistics taken anew over many frames."""
        assert isinstance(ema, ToyAutoencoder)
        if not self.settings.frozen_encoder:
            picked = self.frames[:: max(1, len(self.frames) // STATISTICS_FRAMES)]
            raw = torch.cat([ema.encoder(to_float(part)) for part in picked.split(64)])
            for buffer, value in zip((ema.mean, ema.std), statistics(raw), strict=True):
                buffer.copy_(value)
        tensors = {
            name: value.float() if name in ("mean", "std") else value.bfloat16()
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


def statistics(raw: Float[Tensor, "B C h w"]) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"]]:
    """Return the mean and the deviation of every channel."""
    return raw.mean((0, 2, 3)), (raw.var((0, 2, 3)) + 1e-6).sqrt()


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


@torch.no_grad()
def start_at_principal_components(autoencoder: ToyAutoencoder, frames: Float[Tensor, "B 3 H W"]) -> None:
    """Set the linear maps beside encoder and decoder so that together they keep the principal components of squares.

    Component i, of variance v, is scaled by v^-1/4: between v^0, where noise buries the weak ones, and v^-1/2, where it
    drowns the strong ones in pixels; this is what loses least to equal noise on every channel. A Hadamard matrix then
    mixes the components, so that all channels have the same deviation.
    """
    channels = autoencoder.config.latent_channels
    squares = rearrange(unshuffle(frames, FACTOR), "B D h w -> (B h w) D").double()
    mean = squares.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(squares.T))
    values, vectors = values[-channels:], vectors[:, -channels:]
    mix = hadamard(channels) * values.sqrt().mean().rsqrt()
    forward = mix @ torch.diag(values**-0.25) @ vectors.T
    backward = torch.linalg.pinv(forward)
    maps = (autoencoder.encoder.linear, forward, -forward @ mean), (autoencoder.decoder.linear, backward, mean)
    for layer, weight, bias in maps:
        layer.weight = nn.Parameter(weight[:, :, None, None].float())
        layer.bias = nn.Parameter(bias.float())


def hadamard(size: int) -> Float[Tensor, "C C"]:
    """Return an orthogonal matrix whose entries all have the same magnitude, by Sylvester's doubling.

    Raises:
        RecipeError: if the size is no power of two.
    """
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    if len(matrix) != size:
        raise RecipeError(f"latent_channels={size} must be a power of two. Use {len(matrix) // 2} or {len(matrix)}.")
    return matrix / size**0.5
