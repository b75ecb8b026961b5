"""Wan 2.1's autoencoder, which ContentV uses: 4 frames of 8 x 8 pixels become one latent of 16 channels.

Paper: Wan Team, "Wan: Open and Advanced Large-Scale Video Generative Models", arXiv 2503.20314, section 4.1. Code and
weights (Wan2.1_VAE) are under Apache-2.0.

    video    3 T H W, T = 4 k + 1
      stem, levels down      96 T H W -> 96 T H/2 W/2 -> 192 T/2 H/4 W/4 -> 384 t h w, t = k + 1, h = H/8, w = W/8
      block, attention, block, head             -> mean and log variance, 32 t h w
    latents  16 t h w
      stem, block, attention, block             -> 384 t h w
      levels up              384 t h w -> 192 T/2 2h 2w -> 192 T H/4 W/4 -> 96 T H/2 W/2 -> 96 T H W
      head                                      -> 3 T H W

Everything is causal: convolutions see a frame and the two before it, norms one pixel, attention one frame. So a clip
passes through in parts, groups of consecutive frames, and each convolution remembers the last two frames that it was
given (`Past`). Results do not depend on the parts, and memory does not grow with the clip. Two rules make the first
frame stand alone, and a convolution over the whole clip would not follow them: frames are joined in time only behind
the first, and doubled in time only behind the first, as though it had not been there.

How ours differs from the published code, in time and memory and not in results:

- Norm and SiLU are written straight into the window that the convolution reads, behind the frames remembered. Parts
  are as large as is good for the processor, larger where frames are small, in place of one latent frame everywhere.
- Convolution after nearest-neighbour upsampling sums each weight with its neighbour wherever both see the same pixel:
  2 x 2 sums in place of 3 x 3 products (`Upsample`).
- The first frame, which has nothing but zeros before it, is convolved with the last third of a kernel.
- Channels are last in memory, where a norm over them is fast, and convolutions too.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from types import MappingProxyType

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from mutoscope.autoencoders.base import CausalSizes, LatentShape, Patch, Size, clipped, hash_of
from mutoscope.core import config as configs
from mutoscope.core import layouts
from mutoscope.core.checkpoint import open_checkpoint
from mutoscope.core.errors import WeightsError
from mutoscope.core.weights import Key
from mutoscope.nn.attention import attend

REACH = 2  # frames of the past that a convolution sees
PART_ELEMENTS = 2**21  # of a part: enough to keep a processor busy
SLOW_BELOW = 20480  # channels x frames x rows up to which torch takes a slow kernel for a batch of one on a CPU
PAYS_ABOVE = 2**24  # products from which fewer or faster ones are worth some copying
# fmt: off
MEAN = (-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
        0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921)
STD = (2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
       3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160)
# fmt: on

Past = dict[nn.Module, Tensor]  # the last frames that each convolution in time was given


@dataclass(frozen=True)
class WanConfig:
    """The shape of the network.

    Args:
        dim: channels of the first level.
        multipliers: channels of every level, from pixels to latents, in units of `dim`.
        depth: residual blocks at each; the decoder has one more.
        is_temporal: whether frames are joined between one level and the next.
        mean: of the latent channels, which is taken off.
        std: of the latent channels, which are divided by it.
    """

    dim: int = 96
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    depth: int = 2
    is_temporal: tuple[bool, ...] = (False, True, True)
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        return len(self.mean)

    @property
    def time_factor(self) -> int:
        """Frames that become one."""
        return 2 ** sum(self.is_temporal)

    @property
    def space_factor(self) -> int:
        """Pixels along a side that become one."""
        return 2 ** len(self.is_temporal)


PUBLISHED = MappingProxyType(  # what a config.json of diffusers calls these values
    {
        "base_dim": "dim",
        "dim_mult": "multipliers",
        "num_res_blocks": "depth",
        "temperal_downsample": "is_temporal",
        "latents_mean": "mean",
        "latents_std": "std",
    }
)
PRESETS = MappingProxyType(
    {"2.1": WanConfig(), "tiny": WanConfig(dim=8, multipliers=(1, 2, 2, 2), depth=1, mean=MEAN[:4], std=STD[:4])}
)


class WanAutoencoder(nn.Module):
    """Encode and decode a clip. The interface is ``autoencoders.base.Autoencoder``."""

    def __init__(self, config: WanConfig = WanConfig()) -> None:
        super().__init__()
        levels, channels = len(config.multipliers), config.latent_channels
        if len(config.is_temporal) != levels - 1 or len(config.std) != channels:
            raise WeightsError(
                f"{levels} multipliers need {levels - 1} values of is_temporal, and {channels} of mean as many of std; "
                f"given are {len(config.is_temporal)} and {len(config.std)}. Mend the config."
            )
        self.config = config
        self.encoder = Encoder(config)
        self.to_moments = nn.Conv3d(2 * channels, 2 * channels, 1)
        self.from_latents = nn.Conv3d(channels, channels, 1)
        self.decoder = Decoder(config)
        for layer in self.modules():
            if isinstance(layer, nn.Conv3d):
                layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last_3d)

    @classmethod
    def load(cls, path: Path) -> "WanAutoencoder":
        """Read an autoencoder, ours or as published, ready to use and frozen.

        Args:
            path: the weights. Where neither they nor a config.json say another shape, it is the published one.

        Raises:
            WeightsError: if these are no weights of such an autoencoder.
        """
        checkpoint = open_checkpoint(path, within=("vae",))
        if (text := checkpoint.metadata.get("config")) is not None:
            config = configs.from_json(WanConfig, json.loads(text))
        else:
            config = configs.changed(PRESETS["2.1"], checkpoint.config or {}, PUBLISHED)
        with torch.device("meta"):
            autoencoder = cls(config)
        match = layouts.recognise(checkpoint, layouts.headers_of(autoencoder), keys(config), what="the wan autoencoder")
        layouts.fill(autoencoder, match)
        return autoencoder.eval().requires_grad_(False)

    def encode(self, video: Float[Tensor, "B 3 T H W"]) -> Float[Tensor, "B C t h w"]:
        """Encode a video in [-1, 1]; returns the means, normalised channel by channel.

        Raises:
            RequestError: if the size does not fit.
        """
        _, _, num_frames, height, width = video.shape
        self.latent_shape(num_frames, height, width)
        mean, std = self._statistics(video)
        return (self.moments(video).chunk(2, dim=1)[0] - mean) / std

    def decode(self, latents: Float[Tensor, "B C t h w"]) -> Float[Tensor, "B 3 T H W"]:
        """Decode latents into a video in [-1, 1]."""
        mean, std = self._statistics(latents)
        return self.pixels(latents * std + mean).clamp(-1, 1)

    def decode_stream(self, latents: Float[Tensor, "B C t h w"]) -> Iterator[Float[Tensor, "B 3 f H W"]]:
        """Yield the frames of ``decode`` in order, a group at a time; it takes no gradient."""
        mean, std = self._statistics(latents)
        with torch.no_grad():
            stream = self.decoder(pointwise(latents * std + mean, self.from_latents))
        return clipped(stream)

    def moments(self, video: Float[Tensor, "B 3 T H W"]) -> Float[Tensor, "B D t h w"]:
        """Encode a video into the mean, then the log variance, of every latent, not normalised."""
        with torch.set_grad_enabled(self._wants_gradient(video)):
            return pointwise(torch.cat(list(self.encoder(video)), dim=2), self.to_moments)

    def pixels(self, latents: Float[Tensor, "B C t h w"]) -> Float[Tensor, "B 3 T H W"]:
        """Decode latents, as the encoder's means are, into pixels that are about in [-1, 1], not clipped."""
        with torch.set_grad_enabled(self._wants_gradient(latents)):
            return torch.cat(list(self.decoder(pointwise(latents, self.from_latents))), dim=2)

    def latents_id(self) -> str:
        """Return what tells apart autoencoders that encode differently: a hash of the encoder and its config."""
        return hash_of(self.config, {"encoder.": self.encoder, "to_moments.": self.to_moments})

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
        return self._sizes.latent_shape(Size(num_frames, height, width), patch)

    def nearest_size(self, num_frames: int, height: int, width: int, patch: Patch = Patch()) -> Size:
        """Return the legal size nearest to the one given."""
        return self._sizes.nearest(Size(num_frames, height, width), patch)

    @property
    def _sizes(self) -> CausalSizes:
        config = self.config
        return CausalSizes("wan", config.latent_channels, config.time_factor, config.space_factor)

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and standard deviation of the latent channels, C 1 1 1."""
        return like.new_tensor(self.config.mean)[:, None, None, None], like.new_tensor(self.config.std)[
            :, None, None, None
        ]

    def _wants_gradient(self, x: Tensor) -> bool:
        return torch.is_grad_enabled() and (x.requires_grad or any(own.requires_grad for own in self.parameters()))


class Encoder(nn.Module):
    """Video to what the moments are made of."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        dims = [config.dim * multiplier for multiplier in (1, *config.multipliers)]
        self.step = config.time_factor
        self.stem = nn.Conv3d(3, dims[0], 3)
        self.levels = nn.ModuleList(
            Level([dims[i], *[dims[i + 1]] * config.depth], resize)
            for i, resize in enumerate(
                [*(Downsample(dim, time) for dim, time in zip(dims[1:-1], config.is_temporal, strict=True)), None]
            )
        )
        self.middle = Middle(dims[-1])
        self.norm = Norm(dims[-1])
        self.head = nn.Conv3d(dims[-1], 2 * config.latent_channels, 3)

    def forward(self, video: Float[Tensor, "B 3 T H W"]) -> Iterator[Float[Tensor, "B D _ h w"]]:
        """Yield the first frame of the result, then more, a group at a time."""
        past = Past()
        frames = fitting(video, self.stem.out_channels) // self.step * self.step
        for x in parts_of(video, max(self.step, frames)):
            x = convolve(x, self.stem, past)
            for level in self.levels:
                x = level(x, past)
            yield convolve(self.middle(x, past), self.head, past, self.norm)


class Decoder(nn.Module):
    """Latents to pixels."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        dims = [config.dim * multiplier for multiplier in config.multipliers[::-1]]
        self.stem = nn.Conv3d(config.latent_channels, dims[0], 3)
        self.middle = Middle(dims[0])
        upsamples = [Upsample(dim, time) for dim, time in zip(dims[:-1], config.is_temporal[::-1], strict=True)]
        inputs = [dims[0], *(dim // 2 for dim in dims)]
        self.levels = nn.ModuleList(
            Level([inputs[i], *[dim] * (config.depth + 1)], resize)
            for i, (dim, resize) in enumerate(zip(dims, [*upsamples, None], strict=True))
        )
        self.norm = Norm(dims[-1])
        self.head = nn.Conv3d(dims[-1], 3, 3)

    def forward(self, latents: Float[Tensor, "B C t h w"]) -> Iterator[Float[Tensor, "B 3 _ H W"]]:
        """Yield the first frame, then more, a group at a time."""
        past = Past()
        for x in parts_of(latents, fitting(latents, self.stem.out_channels)):
            x = self.middle(convolve(x, self.stem, past), past)
            yield from self.rise(x, 0, past)

    def rise(self, x: Float[Tensor, "B D _ h w"], level: int, past: Past) -> Iterator[Float[Tensor, "B 3 _ H W"]]:
        """Yield the frames made of a part that has come up to a level."""
        if level == len(self.levels):
            yield convolve(x, self.head, past, self.norm)
            return
        layer = self.levels[level]
        assert isinstance(layer, Level)
        for piece in evenly(x, fitting(x, layer.widest) // layer.growth):
            yield from self.rise(layer(piece, past), level + 1, past)


class Level(nn.Module):
    """Residual blocks of the widths given, then a change of size."""

    def __init__(self, dims: Sequence[int], resize: "Upsample | Downsample | None") -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(*pair) for pair in pairwise(dims))
        self.resize = resize
        self.widest = max(dims)
        self.growth = resize.growth if isinstance(resize, Upsample) else 1

    def forward(self, x: Float[Tensor, "B C _ H W"], past: Past) -> Float[Tensor, "B D _ _ _"]:
        for layer in self.layers:
            x = layer(x, past)
        return x if self.resize is None else self.resize(x, past)


class Middle(nn.Module):
    """Two residual blocks with attention between them."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.block1 = Block(dim, dim)
        self.attention = Attention(dim)
        self.block2 = Block(dim, dim)

    def forward(self, x: Float[Tensor, "B C _ H W"], past: Past) -> Float[Tensor, "B C _ H W"]:
        return self.block2(self.attention(self.block1(x, past)), past)


class Block(nn.Module):
    """Two convolutions, each behind norm and SiLU, beside an identity, or a product where the width changes."""

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.norm1 = Norm(dim_in)
        self.conv1 = nn.Conv3d(dim_in, dim_out, 3)
        self.norm2 = Norm(dim_out)
        self.conv2 = nn.Conv3d(dim_out, dim_out, 3)
        self.shortcut = nn.Conv3d(dim_in, dim_out, 1) if dim_in != dim_out else None

    def forward(self, x: Float[Tensor, "B C _ H W"], past: Past) -> Float[Tensor, "B D _ H W"]:
        hidden = convolve(x, self.conv1, past, self.norm1)
        change = convolve(hidden, self.conv2, past, self.norm2)
        rest = x if self.shortcut is None else pointwise(x, self.shortcut)
        return rest + change if torch.is_grad_enabled() else change.add_(rest)


class Attention(nn.Module):
    """Every pixel reads those of its own frame, with one head."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = Norm(dim, axes=2)
        self.qkv = nn.Conv2d(dim, 3 * dim, 1)
        self.out = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B C T H W"]:
        tokens = rearrange(self.norm(x), "B C T H W -> (B T) 1 (H W) C")
        qkv = F.linear(tokens, self.qkv.weight.flatten(1), self.qkv.bias)
        read = F.linear(attend(*qkv.chunk(3, dim=3)), self.out.weight.flatten(1), self.out.bias)
        return x + rearrange(read, "(B T) 1 (H W) C -> B C T H W", T=x.shape[2], H=x.shape[3])


class Norm(nn.Module):
    """Give the channels of every pixel a length of the root of their number, then scale each; in float32 at least.

    Args:
        dim: channels.
        axes: how many the scales have behind the channels, in published weights.
    """

    def __init__(self, dim: int, axes: int = 3) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim, *[1] * axes))

    def forward(self, x: Float[Tensor, "B C _ H W"]) -> Float[Tensor, "B C _ H W"]:
        return (x * self.factor(x) * self.gamma.view(-1, 1, 1, 1)).to(x.dtype)

    def factor(self, x: Float[Tensor, "B C _ H W"]) -> Float[Tensor, "B 1 _ H W"]:
        """Return what to multiply every pixel by."""
        wide = torch.promote_types(x.dtype, torch.float32)
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=wide)
        return x.shape[1] ** 0.5 / length.clamp_min(1e-12)

    def write(self, x: Float[Tensor, "B C _ H W"], out: Float[Tensor, "B C _ H W"]) -> None:
        """Write `x`, normalised and activated, to `out`."""
        factor = self.factor(x)
        if x.dtype == factor.dtype:
            F.silu(torch.mul(x, factor, out=out).mul_(self.gamma), inplace=True)
        else:
            out.copy_(F.silu((x * factor).mul_(self.gamma), inplace=True))


class Downsample(nn.Module):
    """Every other pixel by a convolution over each frame, then every other frame by one in time.

    The first frame passes; each later pair is made one, with the frame before it in view.
    """

    def __init__(self, dim: int, time: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3)
        self.time = nn.Conv3d(dim, dim, (3, 1, 1)) if time else None

    def forward(self, x: Float[Tensor, "B C _ H W"], past: Past) -> Float[Tensor, "B C _ h w"]:
        batch, height, width = len(x), (x.shape[3] - 2) // 2 + 1, (x.shape[4] - 2) // 2 + 1
        frames = rearrange(x, "B C T H W -> (B T) C H W")
        # Zeros stand to the right and below alone. With two on every side, all but the first outputs are those.
        frames = F.conv2d(frames, self.conv.weight, self.conv.bias, stride=2, padding=2)
        x = rearrange(frames[..., 1 : 1 + height, 1 : 1 + width], "(B T) C h w -> B C T h w", B=batch)
        if self.time is None:
            return x
        last = past.get(self.time)
        past[self.time] = x[:, :, -1:].clone()
        if last is None:
            return x
        return convolve_with(torch.cat([last, x], dim=2), self.time.weight, self.time.bias, stride=2)


class Upsample(nn.Module):
    """Two frames of each by a convolution in time, then every pixel four times and a convolution over each frame.

    The first frame passes the convolution in time, which sees zeros in its place.

    The three weights w of an output fall on two pixels along an axis on which each comes twice: (w0, w1 + w2) on k - 1
    and k for output 2k, (w0 + w1, w2) on k and k + 1 for 2k + 1. So four kernels of 2 x 2 weights, run together on the
    small frame, make what one of 3 x 3 makes on the large one.
    """

    def __init__(self, dim: int, time: bool) -> None:
        super().__init__()
        self.growth = (2 if time else 1) * 2  # of the number of elements, since the width is halved
        self.time = nn.Conv3d(dim, 2 * dim, (3, 1, 1)) if time else None
        self.conv = nn.Conv2d(dim, dim // 2, 3)

    def forward(self, x: Float[Tensor, "B C _ H W"], past: Past) -> Float[Tensor, "B D _ _ _"]:
        if self.time is not None and self.time in past:
            x = rearrange(convolve(x, self.time, past), "B (f C) T H W -> B C (T f) H W", f=2)
        elif self.time is not None:
            past[self.time] = x.new_zeros(x.shape).repeat(1, 1, REACH, 1, 1)
        batch, height, width = len(x), *x.shape[3:]
        frames = rearrange(x, "B C T H W -> (B T) C H W")
        if torch.is_grad_enabled() or 4 * self.conv.weight.numel() * frames[:, 0].numel() < PAYS_ABOVE:
            frames = frames.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
            frames = F.conv2d(frames, self.conv.weight, self.conv.bias, padding=1)
            return rearrange(frames, "(B T) C H W -> B C T H W", B=batch)
        bias = None if self.conv.bias is None else self.conv.bias.repeat(4)
        made = F.conv2d(frames, self.phases(), bias, padding=1).unflatten(1, (2, 2, -1))
        size = len(frames), self.conv.out_channels, 2 * height, 2 * width
        out = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        for b, c in product(range(2), repeat=2):
            out[..., b::2, c::2] = made[:, b, c, :, b : b + height, c : c + width]
        return rearrange(out, "(B T) C H W -> B C T H W", B=batch)

    def phases(self) -> Float[Tensor, "P C _ _"]:
        """Return the weights of all phases: down and across, outputs of each together."""
        weight = self.conv.weight.float()[None, None]  # phases of the two axes, then the kernel
        for axis in range(2):
            w0, w1, w2 = weight.unbind(axis + 4)
            kernels = torch.stack([w0, w1 + w2], axis + 4), torch.stack([w0 + w1, w2], axis + 4)
            weight = torch.cat(kernels, dim=axis)
        weight = weight.to(self.conv.weight.dtype).flatten(0, 2)
        return weight.contiguous(memory_format=torch.channels_last)


def convolve(
    x: Float[Tensor, "B C _ H W"], conv: nn.Conv3d, past: Past, norm: Norm | None = None
) -> Float[Tensor, "B D _ H W"]:
    """Convolve the next part behind the frames remembered, normalised and activated if so asked."""
    last, frames, weight = past.get(conv), x.shape[2], conv.weight
    if torch.is_grad_enabled():
        x = x if norm is None else F.silu(norm(x))
        window = F.pad(x, (0, 0, 0, 0, REACH, 0)) if last is None else torch.cat([last, x], dim=2)
        past[conv] = window[:, :, -REACH:]
        return convolve_with(window, weight, conv.bias)
    size = len(x), x.shape[1], REACH + frames, *x.shape[3:]
    window = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)
    now = window[:, :, REACH:]
    if norm is None:
        now.copy_(x)
    else:
        norm.write(x, now)
    if last is not None:
        window[:, :, :REACH] = last
        last.copy_(window[:, :, -REACH:])
        return convolve_with(window, weight, conv.bias)
    window[:, :, :REACH] = 0
    past[conv] = window[:, :, -REACH:].clone()
    if frames == 1:
        window, weight = now, weight[:, :, REACH:]
    return convolve_with(window, weight, conv.bias)


def convolve_with(
    window: Float[Tensor, "B C _ H W"],
    weight: Float[Tensor, "D C _ _ _"],
    bias: Float[Tensor, " D"] | None,
    stride: int = 1,
) -> Float[Tensor, "B D _ H W"]:
    """Convolve, without zeros in time; a small clip as pictures of many channels, up to ten times as fast."""
    batch, dim, frames, height, width = window.shape
    padding = weight.shape[3] // 2
    is_fast = batch > 1 or dim * frames * height > SLOW_BELOW
    if is_fast or weight.numel() * frames * height * width < PAYS_ABOVE:
        return F.conv3d(window, weight, bias, (stride, 1, 1), (0, padding, padding))
    pictures = rearrange(window.unfold(2, weight.shape[2], stride), "1 C n H W k -> n H W (k C)").movedim(-1, 1)
    out = F.conv2d(pictures, rearrange(weight, "D C k p q -> D (k C) p q"), bias, padding=padding)
    return rearrange(out, "n D H W -> 1 D n H W")


def pointwise(x: Float[Tensor, "B C _ H W"], conv: nn.Conv3d) -> Float[Tensor, "B D _ H W"]:
    """Convolve with a kernel of one pixel, as the matrix product that it is."""
    return F.linear(x.movedim(1, -1), conv.weight.flatten(1), conv.bias).movedim(-1, 1)


def fitting(x: Float[Tensor, "B C _ H W"], dim: int) -> int:
    """Return how many frames of `dim` channels make a part."""
    return PART_ELEMENTS * x.shape[1] // (dim * max(1, x[:, :, 0].numel()))


def parts_of(x: Float[Tensor, "B C T H W"], frames: int) -> list[Tensor]:
    """Cut a clip into its first frame, which stands alone, and parts of so many frames; all at once for gradients."""
    if x.shape[2] == 1:
        return [x]
    rest = x[:, :, 1:]
    return [x[:, :, :1], *([rest] if torch.is_grad_enabled() else rest.split(max(1, frames), dim=2))]


def evenly(x: Float[Tensor, "B C T H W"], frames: int) -> tuple[Tensor, ...]:
    """Cut a part into pieces of at most so many frames, as equal as can be."""
    count = -(-x.shape[2] // max(1, frames))
    return x.split(-(-x.shape[2] // count), dim=2)


_BLOCK = MappingProxyType(
    {
        "norm1.gamma": ("residual.0.gamma", "norm1.gamma"),
        "conv1": ("residual.2", "conv1"),
        "norm2.gamma": ("residual.3.gamma", "norm2.gamma"),
        "conv2": ("residual.6", "conv2"),
        "shortcut": ("shortcut", "conv_shortcut"),
    }
)
_MIDDLE = MappingProxyType(
    {
        "middle.block1": ("middle.0", "mid_block.resnets.0"),
        "middle.attention": ("middle.1", "mid_block.attentions.0"),
        "middle.block2": ("middle.2", "mid_block.resnets.1"),
    }
)
_ATTENTION = MappingProxyType({"norm.gamma": "norm.gamma", "qkv": "to_qkv", "out": "proj"})
_ENDS = MappingProxyType(
    {"stem": ("conv1", "conv_in"), "norm.gamma": ("head.0.gamma", "norm_out.gamma"), "head": ("head.2", "conv_out")}
)


def keys(config: WanConfig) -> Mapping[str, tuple[Key, ...]]:
    """Return the names of all our tensors in the official files and in those of diffusers."""
    names = [
        (f"{ours}{tensor}", f"{official}{tensor}", f"{diffusers}{tensor}")
        for ours, official, diffusers in _modules(config)
        for tensor in ([""] if ours.endswith("gamma") else [".weight", ".bias"])
    ]
    return {
        "official": tuple(Key(ours, (official,)) for ours, official, _ in names),
        "diffusers": tuple(Key(ours, (diffusers,)) for ours, _, diffusers in names),
    }


def _modules(config: WanConfig) -> Iterator[tuple[str, str, str]]:
    """Yield every scale of a norm and every layer with weights: as ours, as official, and as those of diffusers."""
    yield "to_moments", "conv1", "quant_conv"
    yield "from_latents", "conv2", "post_quant_conv"
    for half in ("encoder", "decoder"):
        for ours, (official, diffusers) in _ENDS.items():
            yield f"{half}.{ours}", f"{half}.{official}", f"{half}.{diffusers}"
        for place, (official, diffusers) in _MIDDLE.items():
            if place == "middle.attention":
                inside = ((ours, (theirs, theirs)) for ours, theirs in _ATTENTION.items())
            else:
                inside = ((ours, theirs) for ours, theirs in _BLOCK.items() if ours != "shortcut")
            for ours, theirs in inside:
                yield f"{half}.{place}.{ours}", f"{half}.{official}.{theirs[0]}", f"{half}.{diffusers}.{theirs[1]}"
        yield from _levels(config, half)


def _levels(config: WanConfig, half: str) -> Iterator[tuple[str, str, str]]:
    is_decoder = half == "decoder"
    multipliers = config.multipliers[::-1] if is_decoder else config.multipliers
    is_temporal = config.is_temporal[::-1] if is_decoder else config.is_temporal
    depth, flat = config.depth + is_decoder, 0  # the published lists are flat
    dim = config.dim * multipliers[0] if is_decoder else config.dim
    for i, multiplier in enumerate(multipliers):
        for j in range(depth):
            official = f"{half}.upsamples.{flat}" if is_decoder else f"{half}.downsamples.{flat}"
            diffusers = f"{half}.up_blocks.{i}.resnets.{j}" if is_decoder else f"{half}.down_blocks.{flat}"
            for ours, theirs in _BLOCK.items():
                if ours != "shortcut" or dim != config.dim * multiplier:
                    yield f"{half}.levels.{i}.layers.{j}.{ours}", f"{official}.{theirs[0]}", f"{diffusers}.{theirs[1]}"
            dim, flat = config.dim * multiplier, flat + 1
        if i < len(is_temporal):
            official = f"{half}.upsamples.{flat}" if is_decoder else f"{half}.downsamples.{flat}"
            diffusers = f"{half}.up_blocks.{i}.upsamplers.0" if is_decoder else f"{half}.down_blocks.{flat}"
            yield f"{half}.levels.{i}.resize.conv", f"{official}.resample.1", f"{diffusers}.resample.1"
            if is_temporal[i]:
                yield f"{half}.levels.{i}.resize.time", f"{official}.time_conv", f"{diffusers}.time_conv"
            dim, flat = dim // 2 if is_decoder else dim, flat + 1
