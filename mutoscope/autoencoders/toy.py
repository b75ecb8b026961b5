"""The image autoencoder of the bundled model: 8 x 8 pixels become one latent of 16 channels, frame by frame.

Trained by this package alone (``recipes/toy/autoencoder.py``) on procedural worlds; Apache-2.0 like the code. STIV
encodes every frame on its own (arXiv 2412.07730, section 3), so that any frame of a clip can be given; so does this.

    frames  3 H W
      unshuffle 4             48 x H/4 x W/4    nothing is lost: a square of 4 x 4 pixels becomes 48 channels
      conv, blocks            64 x H/4 x W/4
      unshuffle 2, blocks    128 x H/8 x W/8
      conv, normalise         16 x H/8 x W/8    latents: zero mean, unit deviation in each channel
    and back, wider, with shuffles; the decoder has nearly twice the weights of the encoder.
    Beside both ways runs a linear map between a square of 8 x 8 pixels and its latent. Training begins with that map
    alone, at the principal components of the squares (``train.autoencoder``), and the rest learns what it misses.

There is no full-resolution convolution: those take most of the time of a common decoder and bring little here. There is
no attention and no norm across positions, so any size whose sides are multiples of 8 works. The channel statistics are
buffers, saved with the weights.
"""

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

STEM = 4  # pixels along each side of the squares that the first layer sees
FACTOR = 8  # pixels along each side of a latent


@dataclass(frozen=True)
class ToyConfig:
    """The shape of the network.

    Args:
        latent_channels: channels of a latent.
        encoder_dims: channels at H/4 and at H/8 in the encoder.
        encoder_depths: residual blocks at each.
        decoder_dims: channels at H/4 and at H/8 in the decoder.
        decoder_depths: residual blocks at each.
    """

    latent_channels: int = 16
    encoder_dims: tuple[int, int] = (48, 96)
    encoder_depths: tuple[int, int] = (2, 1)
    decoder_dims: tuple[int, int] = (72, 128)
    decoder_depths: tuple[int, int] = (3, 2)


class ToyAutoencoder(nn.Module):
    """Encode and decode a clip frame by frame. The interface is ``autoencoders.base.Autoencoder``."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: ToyConfig = ToyConfig()) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.register_buffer("mean", torch.zeros(config.latent_channels))
        self.register_buffer("std", torch.ones(config.latent_channels))
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
        latents = torch.cat([self.normalise(self.encoder(frames)) for frames in groups])
        return rearrange(latents, "(B T) C h w -> B C T h w", B=batch)

    def decode(self, latents: Float[Tensor, "B C T h w"]) -> Float[Tensor, "B 3 T H W"]:
        """Decode every latent frame to a frame in [-1, 1]."""
        return torch.cat(list(self.decode_stream(latents)), dim=2)

    def decode_stream(self, latents: Float[Tensor, "B C T h w"]) -> Iterator[Float[Tensor, "B 3 f H W"]]:
        """Yield the frames of ``decode`` in order, a group at a time."""
        batch, _, _, h, w = latents.shape
        for group in latents.split(max(1, group_size(h * FACTOR, w * FACTOR) // batch), dim=2):
            frames = self.decoder(self.denormalise(rearrange(group, "B C f h w -> (B f) C h w")))
            yield rearrange(frames.clamp(-1, 1), "(B f) C H W -> B C f H W", B=batch)

    def normalise(self, raw: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """Bring the encoder's output to zero mean and unit deviation by the stored statistics."""
        return (raw - self.mean[:, None, None]) / self.std[:, None, None]

    def denormalise(self, latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """Undo ``normalise``."""
        return latents * self.std[:, None, None] + self.mean[:, None, None]

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
    """Squares of 4 x 4 pixels, then residual blocks at two scales."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        (fine, coarse), (fine_depth, coarse_depth) = config.encoder_dims, config.encoder_depths
        self.stem = conv(3 * STEM**2, fine)
        self.fine = nn.Sequential(*(Block(fine) for _ in range(fine_depth)))
        self.down = nn.Conv2d(fine * 4, coarse, 1)
        self.coarse = nn.Sequential(*(Block(coarse) for _ in range(coarse_depth)))
        self.head = conv(coarse, config.latent_channels)
        self.linear = nn.Conv2d(3 * FACTOR**2, config.latent_channels, 1)
        nn.init.zeros_(self.head.weight)

    def forward(self, frames: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """Return latents that are not normalised yet."""
        x = self.fine(self.stem(unshuffle(frames, STEM)))
        x = self.coarse(self.down(unshuffle(x, FACTOR // STEM)))
        return self.head(F.silu(x)) + self.linear(unshuffle(frames, FACTOR))


class Decoder(nn.Module):
    """The encoder's way back, wider."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        (fine, coarse), (fine_depth, coarse_depth) = config.decoder_dims, config.decoder_depths
        self.stem = conv(config.latent_channels, coarse)
        self.coarse = nn.Sequential(*(Block(coarse) for _ in range(coarse_depth)))
        self.up = nn.Conv2d(coarse, fine * 4, 1)
        self.fine = nn.Sequential(*(Block(fine) for _ in range(fine_depth)))
        self.head = conv(fine, 3 * STEM**2)
        self.linear = nn.Conv2d(config.latent_channels, 3 * FACTOR**2, 1)
        nn.init.zeros_(self.head.weight)

    def forward(self, latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
        """Return frames, about in [-1, 1], from latents that are no longer normalised."""
        x = self.up(self.coarse(self.stem(latents)))
        x = self.fine(shuffle(x, FACTOR // STEM))
        return shuffle(self.head(F.silu(x)), STEM) + shuffle(self.linear(latents), FACTOR)


class Block(nn.Module):
    """Two convolutions beside an identity; the identity alone at the start."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = conv(dim, dim)
        self.conv2 = conv(dim, dim)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Float[Tensor, "B D h w"]) -> Float[Tensor, "B D h w"]:
        return x + self.conv2(F.silu(self.conv1(F.silu(x))))


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
