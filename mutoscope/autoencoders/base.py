"""What every autoencoder offers, and the one place that knows which sizes it takes.

    video "B 3 T H W" in [-1, 1]  --encode-->  latents "B C t h w", zero mean, unit variance over all channels together
    latents "B C t h w"           --decode-->  video "B 3 T H W" in [-1, 1]
                                  --decode_stream-->  the same frames in order, in groups that fit in memory

No other file knows how many latents a size gives: ask ``latent_shape``. A size that does not fit is refused, and the
message names the nearest one that does.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mutoscope.core.errors import RequestError


class Size(NamedTuple):
    """The size of a clip: frames, and pixels down and across."""

    num_frames: int
    height: int
    width: int


class LatentShape(NamedTuple):
    """The shape of a clip's latents: channels, then the compressed grid."""

    channels: int
    t: int
    h: int
    w: int


class Patch(NamedTuple):
    """The latents that a network joins into one token, along time and along each side of the frame."""

    time: int = 1
    space: int = 1


@runtime_checkable
class Autoencoder(Protocol):
    """Turn pixels into normalised latents and latents into pixels."""

    def encode(self, video: Float[Tensor, "B 3 T H W"]) -> Float[Tensor, "B C t h w"]:
        """Encode a video in [-1, 1] into latents of zero mean and unit variance over all channels together."""
        ...

    def decode(self, latents: Float[Tensor, "B C t h w"]) -> Float[Tensor, "B 3 T H W"]:
        """Decode latents into a video in [-1, 1]."""
        ...

    def decode_stream(self, latents: Float[Tensor, "B C t h w"]) -> Iterator[Float[Tensor, "B 3 f H W"]]:
        """Yield the frames of ``decode`` in order, a group at a time."""
        ...

    def latent_shape(self, num_frames: int, height: int, width: int, patch: Patch = Patch()) -> LatentShape:
        """Return the shape of the latents of a clip, or refuse a size that does not fit."""
        ...

    def latents_id(self) -> str:
        """Return what tells apart autoencoders that encode differently; the decoder does not count."""
        ...

    def nearest_size(self, num_frames: int, height: int, width: int, patch: Patch = Patch()) -> Size:
        """Return the legal size nearest to the one given."""
        ...


def nearest_multiple(value: int, multiple: int) -> int:
    """Return the positive multiple of ``multiple`` nearest to ``value``; of two as near, the greater."""
    return max(1, (2 * value + multiple) // (2 * multiple)) * multiple


class CausalSizes(NamedTuple):
    """The sizes of an autoencoder that encodes the first frame by itself and every `time` frames after it as one.

    Args:
        name: how messages call the autoencoder.
        channels: of a latent.
        time: frames after the first that become one latent frame.
        space: pixels along a side that become one latent.
    """

    name: str
    channels: int
    time: int
    space: int

    def latent_shape(self, given: Size, patch: Patch) -> LatentShape:
        """Return the shape of a clip's latents.

        Raises:
            RequestError: if the size does not fit; the message names the nearest that does.
        """
        nearest = self.nearest(given, patch)
        if given != nearest:
            frames = f"{self.time * patch.time}k + {1 + self.time * (patch.time - 1)}"
            raise RequestError(
                f"num_frames={given.num_frames} height={given.height} width={given.width} does not fit the {self.name} "
                f"autoencoder, which needs {frames} frames and sides that are multiples of {self.space * patch.space}. "
                f"Use num_frames={nearest.num_frames} height={nearest.height} width={nearest.width}."
            )
        t = (given.num_frames - 1) // self.time + 1
        return LatentShape(self.channels, t, given.height // self.space, given.width // self.space)

    def nearest(self, given: Size, patch: Patch) -> Size:
        """Return the legal size nearest to the one given."""
        side, lead = self.space * patch.space, self.time - 1
        frames = nearest_multiple(given.num_frames + lead, self.time * patch.time) - lead
        return Size(frames, nearest_multiple(given.height, side), nearest_multiple(given.width, side))


def hash_of(settings: object, modules: Mapping[str, nn.Module]) -> str:
    """Return a hash of the weights of some modules and of all else that decides what they do."""
    digest = hashlib.sha256(repr(settings).encode())
    state = {name: value for key, module in modules.items() for name, value in module.state_dict(prefix=key).items()}
    for name in sorted(state):
        digest.update(state[name].detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def clipped(stream: Iterator[Tensor]) -> Iterator[Tensor]:
    """Yield groups of frames clipped to [-1, 1], made without gradients."""
    while True:
        with torch.no_grad():  # not around the yield, or it would hold for the caller
            frames = next(stream, None)
        if frames is None:
            return
        yield frames.clamp_(-1, 1)
