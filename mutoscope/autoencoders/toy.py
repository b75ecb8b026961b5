"""The image autoencoder of the bundled model: 8 x 8 pixels become one latent of 8 channels, frame by frame.

Trained by this package alone (``recipes/toy/autoencoder.py``) on procedural worlds; Apache-2.0 like the code. STIV
encodes every frame on its own (arXiv 2412.07730, section 3), so that any frame of a clip can be given; so does this.

    frames  3 H W
      unshuffle 8, linear, blocks   128 x H/8 x W/8
      linear, normalise               8 x H/8 x W/8     latents: every channel of mean 0 and variance 1
    latents
      conv, blocks                  128 x H/8 x W/8
      linear, shuffle 2, blocks      64 x H/4 x W/4
      conv, shuffle 4                 3 x H x W

While encoder and decoder are trained, every latent gets noise of the same strength (the fixed variance of LatentLM's
autoencoder, Sun et al. 2024, arXiv 2412.08635). So the encoder puts what looks different so far apart that noise seldom
bridges it, and the decoder makes a clean outline of a latent that is nearly right. A diffusion model then has to be
right to within that noise, and no more.

The decoder can be trained further without touching what was trained on the latents. There is no attention and no norm
across positions, so any size whose sides are multiples of 8 works.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from mutoscope.autoencoders.base import LatentShape, Patch, Size, nearest_multiple
from mutoscope.core import config as configs
from mutoscope.core import weights
from mutoscope.core.errors import RequestError, WeightsError

FACTOR = 8  # pixels along each side of a latent
LAST = 4  # pixels along each side of the squares that the last convolution writes


@dataclass(frozen=True)
class ToyConfig:
    """The shape of the network.

    Args:
        latent_channels: channels of a latent.
        dims: channels at H/8 and, in the decoder alone, at H/4.
        encoder_depth: residual blocks of the encoder.
        decoder_depths: residual blocks of the decoder at H/8 and H/4.
    """

    latent_channels: int = 8
    dims: tuple[int, int] = (128, 64)
    encoder_depth: int = 1
    decoder_depths: tuple[int, int] = (3, 2)


class ToyAutoencoder(nn.Module):
    """Encode and decode a clip frame by frame. The interface is ``autoencoders.base.Autoencoder``."""

    def __init__(self, config: ToyConfig = ToyConfig()) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):  # several times faster on a CPU with channels last
                layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)

    @classmethod
    def load(cls, path: Path) -> "ToyAutoencoder":
        """Read an autoencoder with the config that its weights carry, ready to use and frozen.

        Raises:
            WeightsError: if the file is no such autoencoder.
        """
        tensors, metadata = weights.read(path)
        if "config" not in metadata:
            raise WeightsError(f"{path} carries no config. Give a file that the recipe toy/autoencoder wrote.")
        autoencoder = cls(configs.from_json(ToyConfig, json.loads(metadata["config"])))
        weights.load_into(autoencoder, tensors, source=str(path))
        return autoencoder.eval().requires_grad_(False)

    def encode(self, video: Float[Tensor, "B 3 T H W"]) -> Float[Tensor, "B C T h w"]:
        """Encode every frame of a video in [-1, 1].

        Raises:
            RequestError: if a side is not a multiple of 8.
        """
        batch, _, num_frames, height, width = video.shape
        self.latent_shape(num_frames, height, width)
        groups = rearrange(video, "B C T H W -> (B T) C H W").split(group_size(height, width))
        latents = torch.cat([self.encoder(frames) for frames in groups])
        return rearrange(latents, "(B T) C h w -> B C T h w", B=batch)

    def decode(self, latents: Float[Tensor, "B C T h w"]) -> Float[Tensor, "B 3 T H W"]:
        """Decode every latent frame to a frame in [-1, 1]."""
        return torch.cat(list(self.decode_stream(latents)), dim=2)

    def decode_stream(self, latents: Float[Tensor, "B C T h w"]) -> Iterator[Float[Tensor, "B 3 f H W"]]:
        """Yield the frames of ``decode`` in order, a group at a time."""
        batch, _, _, h, w = latents.shape
        for group in latents.split(max(1, group_size(h * FACTOR, w * FACTOR) // batch), dim=2):
            frames = self.decode_frames(rearrange(group, "B C f h w -> (B f) C h w"))
            yield rearrange(frames.clamp(-1, 1), "(B f) C H W -> B C f H W", B=batch)

    def latents_id(self) -> str:
        """Return what tells apart autoencoders that encode differently: a hash of the encoder."""
        state = self.encoder.state_dict()
        return hashlib.sha256(b"".join(state[name].cpu().numpy().tobytes() for name in sorted(state))).hexdigest()

    def decode_frames(self, latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
        """Decode pictures, about in [-1, 1] but not clipped."""
        return self.decoder(latents)

    def forward(self, frames: Float[Tensor, "B 3 H W"], noise: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
        """Encode pictures, add noise to their latents, and decode: what training runs."""
        return self.decoder(self.encoder(frames) + noise)

    def latent_shape(self, num_frames: int, height: int, width: int, patch: Patch = Patch()) -> LatentShape:
        """Return the shape of a clip's latents.

        Args:
            num_frames: frames of the clip.
            height: pixels down.
            width: pixels across.
            patch: latents that the network behind joins into one token; the grid must be a whole number of them.

        Raises:
            RequestError: if the size does not fit; the message names the nearest that does.
        """
        given = Size(num_frames, height, width)
        nearest = self.nearest_size(*given, patch)
        if given != nearest:
            needs = f"sides that are multiples of {FACTOR * patch.space}"
            needs += f" and a number of frames that is a multiple of {patch.time}" if patch.time > 1 else ""
            raise RequestError(
                f"num_frames={num_frames} height={height} width={width} does not fit the toy autoencoder, which needs "
                f"{needs}. Use num_frames={nearest.num_frames} height={nearest.height} width={nearest.width}."
            )
        return LatentShape(self.config.latent_channels, num_frames, height // FACTOR, width // FACTOR)

    def nearest_size(self, num_frames: int, height: int, width: int, patch: Patch = Patch()) -> Size:
        """Return the legal size nearest to the one given."""
        side = FACTOR * patch.space
        return Size(
            nearest_multiple(num_frames, patch.time), nearest_multiple(height, side), nearest_multiple(width, side)
        )


class Encoder(nn.Module):
    """Pictures to latents."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        dim = config.dims[0]
        self.stem = nn.Conv2d(3 * FACTOR**2, dim, 1)
        self.blocks = nn.Sequential(*(Block(dim) for _ in range(config.encoder_depth)))
        self.head = nn.Conv2d(dim, config.latent_channels, 1)
        self.normalise = Normalise(config.latent_channels)

    def forward(self, frames: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        x = self.blocks(self.stem(unshuffle(frames, FACTOR)))
        return self.normalise(self.head(standardise(x)).float())


class Normalise(nn.Module):
    """Mean 0 and variance 1 for every channel: those of the batch, until `fit` has found those of the data."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))
        self.is_fitted = False

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        if self.training and not self.is_fitted:
            deviation, mean = torch.std_mean(x, dim=(0, 2, 3))
        else:
            deviation, mean = self.deviation, self.mean
        return (x - mean[:, None, None]) / deviation[:, None, None]

    @torch.no_grad()
    def fit(self, x: Float[Tensor, "B C h w"]) -> None:
        """Keep the mean and deviation of these for good; they must not be normalised yet."""
        deviation, mean = torch.std_mean(x.double(), dim=(0, 2, 3))
        self.mean.copy_(mean)
        self.deviation.copy_(deviation)
        self.is_fitted = True


class Decoder(nn.Module):
    """Latents, or what is near them, to pictures."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        (coarse, fine), (coarse_depth, fine_depth) = config.dims, config.decoder_depths
        self.stem = conv(config.latent_channels, coarse)
        self.coarse_blocks = nn.Sequential(*(Block(coarse) for _ in range(coarse_depth)))
        self.up = nn.Conv2d(coarse, fine * (FACTOR // LAST) ** 2, 1)
        self.fine_blocks = nn.Sequential(*(Block(fine) for _ in range(fine_depth)))
        self.head = conv(fine, 3 * LAST**2)

    def forward(self, latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
        x = self.coarse_blocks(self.stem(latents))
        x = self.fine_blocks(shuffle(self.up(standardise(x)), FACTOR // LAST))
        return shuffle(self.head(standardise(x)), LAST)


class Block(nn.Module):
    """Two convolutions beside an identity, behind a norm over channels; the identity alone at the start."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = conv(dim, dim)
        self.conv2 = conv(dim, dim)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Float[Tensor, "B D h w"]) -> Float[Tensor, "B D h w"]:
        return x + self.conv2(F.silu(self.conv1(standardise(x))))


def standardise(x: Float[Tensor, "B D h w"]) -> Float[Tensor, "B D h w"]:
    """Give the channels of each position unit mean square."""
    return x * (x.square().mean(1, keepdim=True) + 1e-6).rsqrt()


def conv(dim_in: int, dim_out: int) -> nn.Conv2d:
    """Return a 3 x 3 convolution that keeps the size."""
    return nn.Conv2d(dim_in, dim_out, 3, padding=1)


def unshuffle(x: Float[Tensor, "B C H W"], factor: int) -> Float[Tensor, "B D h w"]:
    """Turn squares of pixels into channels."""
    squares = rearrange(x, "B C (h p) (w q) -> B (C p q) h w", p=factor, q=factor)
    return squares.contiguous(memory_format=torch.channels_last)


def shuffle(x: Float[Tensor, "B D h w"], factor: int) -> Float[Tensor, "B C H W"]:
    """Turn channels into squares of pixels."""
    pixels = rearrange(x, "B (C p q) h w -> B C (h p) (w q)", p=factor, q=factor)
    return pixels.contiguous(memory_format=torch.channels_last)


def group_size(height: int, width: int) -> int:
    """Return how many frames to handle at once: as many pixels as 64 frames of 64 x 64."""
    return max(1, 64**3 // (height * width))
