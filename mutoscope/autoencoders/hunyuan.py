"""HunyuanVideo's autoencoder: 4 frames of 8 x 8 pixels become one latent of 16 channels; the first frame stands alone.

Paper: Kong et al., "HunyuanVideo: A Systematic Framework For Large Video Generative Models", arXiv 2412.03603, section
4.1. The weights ("884-16c-hy") are under the Tencent Hunyuan Community License: not for use in the European Union, the
United Kingdom and South Korea, and with limits on acceptable use. It is not an open-source licence; read it first.

    video    3 T H W, T = 4 k + 1
      stem, blocks down      128 T H W -> 256 T H/2 W/2 -> 512 T/2 H/4 W/4 -> 512 t h w, t = k + 1, h = H/8, w = W/8
      block, attention, block, head                    -> mean and log variance, 32 t h w
    latents  16 t h w
      stem, block, attention, block                    -> 512 t h w
      blocks up              512 t h w -> 512 t 2h 2w -> 512 T/2 H/4 W/4 -> 256 T H W -> 128 T H W
      head                                             -> 3 T H W

Convolutions see a frame and the two before it, and repeat the first frame and the border where there is none. Attention
sees its own frame and all before it. Yet nothing is causal, because group norms take their statistics over the whole
clip; so a clip cannot be decoded piece by piece, unless it changes. The published code cuts it into tiles, decodes more
than twice as many pixels as there are, and blends. Ours decodes the clip as one, layer by layer:

- An activation is a queue of parts, groups of consecutive frames. A layer takes parts from the queue of its input and
  puts parts of its output into another, so that the memory of the one comes free for the other. Statistics of a norm
  are those of the parts, put together.
- Norm and SiLU are written straight into a window of frames with its border, which is what the convolution reads.
  Beside its two queues, a layer needs memory for a few windows. The peak is the largest activation, in full.
- Convolution after nearest-neighbour upsampling sums each weight with its neighbour wherever both see the same pixel:
  2 x 2 x 2 sums in place of 3 x 3 x 3 products (`Upsample`).
- Attention takes frame after frame, with the keys so far: there is no mask over pairs of tokens.
- Channels are last in memory, as fast convolutions have them.

Where gradients are wanted, the same layers run on the clip as one part, in plain operations. Results differ by rounding
alone. The published tiles are there too, for those who want their exact pixels: see `Tiling`.
"""

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from types import MappingProxyType
from typing import Literal

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
PART_ELEMENTS = 2**21  # of a part: enough to keep a processor busy, little beside a clip
CACHE_ELEMENTS = 2**18  # that several operations in turn find in the cache
SLOW_BELOW = 20480  # channels x frames x rows up to which torch takes a slow kernel for a batch of one on a CPU
PAYS_ABOVE = 2**24  # products from which fewer or faster ones are worth some copying

Parts = deque[Tensor]  # an activation B C T H W as consecutive groups of frames


@dataclass(frozen=True)
class HunyuanConfig:
    """The shape of the network.

    Args:
        latent_channels: channels of a latent.
        dims: channels of the blocks, from pixels to latents.
        depth: residual blocks at each; the decoder has one more.
        groups: of channels, in a group norm.
        time_factor: frames that become one, a power of two.
        space_factor: pixels along a side that become one, a power of two.
        has_attention: whether the middle attends.
        scale: what turns latents into ones of unit variance.
    """

    latent_channels: int = 16
    dims: tuple[int, ...] = (128, 256, 512, 512)
    depth: int = 2
    groups: int = 32
    time_factor: int = 4
    space_factor: int = 8
    has_attention: bool = True
    scale: float = 0.476986


PUBLISHED = MappingProxyType(  # what a config.json calls these values, official or of diffusers
    {
        "latent_channels": "latent_channels",
        "block_out_channels": "dims",
        "layers_per_block": "depth",
        "norm_num_groups": "groups",
        "time_compression_ratio": "time_factor",
        "temporal_compression_ratio": "time_factor",
        "spatial_compression_ratio": "space_factor",
        "mid_block_add_attention": "has_attention",
        "scaling_factor": "scale",
    }
)
PRESETS = MappingProxyType(
    {"884-16c": HunyuanConfig(), "tiny": HunyuanConfig(latent_channels=4, dims=(8, 16, 16, 16), depth=1, groups=4)}
)


@dataclass(frozen=True)
class Tiling:
    """The published way to decode and encode in tiles, which changes the result; the numbers are the published ones.

    Args:
        side: of a tile, in pixels.
        latent_side: the same, in latents.
        frames: of a tile.
        latent_frames: the same, in latents.
        overlap: share of a tile that it has in common with the next, and which is blended.
    """

    side: int = 256
    latent_side: int = 32
    frames: int = 64
    latent_frames: int = 16
    overlap: float = 0.25


class HunyuanAutoencoder(nn.Module):
    """Encode and decode a clip. The interface is ``autoencoders.base.Autoencoder``.

    Args:
        config: the shape of the network.
        tiling: if given, encode and decode in these tiles, as the published code does; else exactly.
    """

    def __init__(self, config: HunyuanConfig = HunyuanConfig(), tiling: Tiling | None = None) -> None:
        super().__init__()
        self.config, self.tiling = config, tiling
        self.encoder = Encoder(config)
        self.to_moments = nn.Conv3d(2 * config.latent_channels, 2 * config.latent_channels, 1)
        self.from_latents = nn.Conv3d(config.latent_channels, config.latent_channels, 1)
        self.decoder = Decoder(config)
        for layer in self.modules():
            if isinstance(layer, nn.Conv3d):
                layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last_3d)

    @classmethod
    def load(cls, path: Path) -> "HunyuanAutoencoder":
        """Read an autoencoder, ours or as published, ready to use and frozen.

        Args:
            path: the weights. Where neither they nor a config.json say another shape, it is the published one.

        Raises:
            WeightsError: if these are no weights of such an autoencoder.
        """
        checkpoint = open_checkpoint(path, within=("vae",))
        if (text := checkpoint.metadata.get("config")) is not None:
            config = configs.from_json(HunyuanConfig, json.loads(text))
        else:
            config = configs.changed(PRESETS["884-16c"], checkpoint.config or {}, PUBLISHED)
        with torch.device("meta"):
            autoencoder = cls(config)
        match = layouts.recognise(
            checkpoint, layouts.headers_of(autoencoder), keys(config), what="the hunyuan autoencoder"
        )
        layouts.fill(autoencoder, match)
        return autoencoder.eval().requires_grad_(False)

    def encode(self, video: Float[Tensor, "B 3 T H W"]) -> Float[Tensor, "B C t h w"]:
        """Encode a video in [-1, 1]; returns the means, scaled to unit variance.

        Raises:
            RequestError: if the size does not fit.
        """
        _, _, num_frames, height, width = video.shape
        self.latent_shape(num_frames, height, width)
        return self.moments(video).chunk(2, dim=1)[0] * self.config.scale

    def decode(self, latents: Float[Tensor, "B C t h w"]) -> Float[Tensor, "B 3 T H W"]:
        """Decode latents into a video in [-1, 1]."""
        return self.pixels(latents / self.config.scale).clamp(-1, 1)

    def decode_stream(self, latents: Float[Tensor, "B C t h w"]) -> Iterator[Float[Tensor, "B 3 f H W"]]:
        """Yield the frames of ``decode`` in order, a group at a time; it takes no gradient."""
        return clipped(self._pixels(latents.detach() / self.config.scale))

    def decode_tiled(
        self,
        latents: Float[Tensor, "B C t h w"],
        run: Callable[[Float[Tensor, "B C _ _ _"]], Float[Tensor, "B 3 _ _ _"]] | None = None,
    ) -> Iterator[Float[Tensor, "B 3 f H W"]]:
        """Yield the frames of the published tiled decode in order, a group at a time; it takes no gradient.

        It differs from ``decode``, and its memory does not grow with the clip. The tiles are those of this
        autoencoder, or the published ones where it has none.

        Args:
            latents: of the clip.
            run: what makes pixels of one tile of latents, if not this autoencoder.
        """
        return clipped(self._pixels_of_tiles(latents.detach() / self.config.scale, self.tiling or Tiling(), run))

    def moments(self, video: Float[Tensor, "B 3 T H W"]) -> Float[Tensor, "B D t h w"]:
        """Encode a video of any size into the mean, then the log variance, of every latent, neither scaled nor clipped.

        The log variance is meant to be clipped to [-30, 20].
        """
        with torch.set_grad_enabled(self._wants_gradient(video)):
            return joined(Parts(self._moments(video)))

    def pixels(self, latents: Float[Tensor, "B C t h w"]) -> Float[Tensor, "B 3 T H W"]:
        """Decode latents, as the encoder's means are, into pixels that are about in [-1, 1], not clipped."""
        with torch.set_grad_enabled(self._wants_gradient(latents)):
            return joined(Parts(self._pixels(latents)))

    def latents_id(self) -> str:
        """Return what tells apart autoencoders that encode differently: a hash of the encoder, its scale and tiles."""
        return hash_of((self.config, self.tiling), {"encoder.": self.encoder, "to_moments.": self.to_moments})

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
        return CausalSizes("hunyuan", config.latent_channels, config.time_factor, config.space_factor)

    def _moments(self, video: Tensor) -> Iterator[Tensor]:
        """Yield moments, some frames at a time."""

        def run(video: Tensor) -> Tensor:
            return pointwise(self.encoder(video), self.to_moments)

        if (tiling := self.tiling) is None:
            yield run(video)
        else:
            sizes = (tiling.frames, tiling.side), (tiling.latent_frames, tiling.latent_side)
            yield from tiled(video, run, *sizes, tiling.overlap)

    def _pixels(self, latents: Tensor) -> Iterator[Tensor]:
        """Yield pixels, some frames at a time."""
        if self.tiling is None:
            yield from self._pixels_of_one(latents)
        else:
            yield from self._pixels_of_tiles(latents, self.tiling)

    def _pixels_of_one(self, latents: Tensor) -> Iterator[Tensor]:
        """Yield pixels of a clip or of one tile, some frames at a time."""
        return self.decoder(pointwise(latents, self.from_latents))

    def _pixels_of_tiles(
        self, latents: Tensor, tiling: Tiling, run: Callable[[Tensor], Tensor] | None = None
    ) -> Iterator[Tensor]:
        """Yield pixels of a clip in tiles, each made by `run` if given, some frames at a time."""
        sizes = (tiling.latent_frames, tiling.latent_side), (tiling.frames, tiling.side)
        return tiled(latents, run or (lambda part: joined(Parts(self._pixels_of_one(part)))), *sizes, tiling.overlap)

    def _wants_gradient(self, x: Tensor) -> bool:
        return torch.is_grad_enabled() and (x.requires_grad or any(own.requires_grad for own in self.parameters()))


class Encoder(nn.Module):
    """Video to what the moments are made of."""

    def __init__(self, config: HunyuanConfig) -> None:
        super().__init__()
        self.stem = nn.Conv3d(3, config.dims[0], 3)
        last = len(config.dims) - 1
        spatial, temporal = strides(config)
        self.blocks = nn.ModuleList(
            Level(
                [config.dims[max(0, i - 1)]] + [dim] * config.depth,
                config.groups,
                None if i == last else Downsample(dim, temporal[i], spatial[i]),
            )
            for i, dim in enumerate(config.dims)
        )
        self.middle = Middle(config)
        self.norm = nn.GroupNorm(config.groups, config.dims[-1], eps=1e-6)
        self.head = nn.Conv3d(config.dims[-1], 2 * config.latent_channels, 3)

    def forward(self, video: Float[Tensor, "B 3 T H W"]) -> Float[Tensor, "B D t h w"]:
        window = Window()
        x = Parts(convolve(window(part), self.stem) for part in parts_of(video, self.stem.out_channels))
        for block in self.blocks:
            x = block(x)
        x = self.middle(x)
        activation, window = Activation(self.norm, x), Window()
        return joined(Parts(convolve(window(part, activation), self.head) for part in drain(x)))


class Decoder(nn.Module):
    """Latents to pixels."""

    def __init__(self, config: HunyuanConfig) -> None:
        super().__init__()
        dims = config.dims[::-1]
        self.stem = nn.Conv3d(config.latent_channels, dims[0], 3)
        self.middle = Middle(config)
        spatial, temporal = strides(config)
        self.blocks = nn.ModuleList(
            Level(
                [dims[max(0, i - 1)]] + [dim] * (config.depth + 1),
                config.groups,
                None if i == len(dims) - 1 else Upsample(dim, temporal[i], spatial[i]),
            )
            for i, dim in enumerate(dims)
        )
        self.norm = nn.GroupNorm(config.groups, dims[-1], eps=1e-6)
        self.head = nn.Conv3d(dims[-1], 3, 3)

    def forward(self, latents: Float[Tensor, "B C t h w"]) -> Iterator[Float[Tensor, "B 3 _ H W"]]:
        """Yield frames, a group at a time."""
        window = Window()
        x = Parts(convolve(window(part), self.stem) for part in parts_of(latents, self.stem.out_channels))
        x = self.middle(x)
        for block in self.blocks:
            x = block(x)
        activation, window = Activation(self.norm, x), Window()
        for part in drain(x):
            yield convolve(window(part, activation), self.head)


class Level(nn.Module):
    """Residual blocks of the widths given, then a change of size; the middle and the levels use up their input."""

    def __init__(self, dims: list[int], groups: int, resize: nn.Module | None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(*pair, groups) for pair in pairwise(dims))
        self.resize = resize

    def forward(self, x: Parts) -> Parts:
        for layer in self.layers:
            x = layer(x)
        return x if self.resize is None else self.resize(x)


class Middle(nn.Module):
    """Two residual blocks with attention between them."""

    def __init__(self, config: HunyuanConfig) -> None:
        super().__init__()
        dim = config.dims[-1]
        self.block1 = Block(dim, dim, config.groups)
        self.attention = Attention(dim, config.groups) if config.has_attention else None
        self.block2 = Block(dim, dim, config.groups)

    def forward(self, x: Parts) -> Parts:
        x = self.block1(x)
        if self.attention is not None:
            x = parts_of(self.attention(joined(x)), x[0].shape[1])
        return self.block2(x)


class Block(nn.Module):
    """Two convolutions, each behind norm and SiLU, beside an identity, or a product where the width changes."""

    def __init__(self, dim_in: int, dim_out: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, dim_in, eps=1e-6)
        self.conv1 = nn.Conv3d(dim_in, dim_out, 3)
        self.norm2 = nn.GroupNorm(groups, dim_out, eps=1e-6)
        self.conv2 = nn.Conv3d(dim_out, dim_out, 3)
        self.shortcut = nn.Conv3d(dim_in, dim_out, 1) if dim_in != dim_out else None

    def forward(self, x: Parts) -> Parts:
        hidden, skip, out = Parts(), Parts(), Parts()
        activation, window = Activation(self.norm1, x), Window()
        for part in drain(x):
            hidden.append(convolve(window(part, activation), self.conv1))
            skip.append(part if self.shortcut is None else pointwise(part, self.shortcut))
        activation, window = Activation(self.norm2, hidden), Window()
        for part in drain(hidden):
            change, rest = convolve(window(part, activation), self.conv2), skip.popleft()
            out.append(rest + change if torch.is_grad_enabled() else rest.add_(change))
        return out


class Attention(nn.Module):
    """Every token reads the tokens of its own frame and of those before it, with one head."""

    def __init__(self, dim: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, dim, eps=1e-6)
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B C T H W"]:
        tokens = rearrange(self.norm(x), "B C T H W -> B 1 (T H W) C")
        q, k, v = self.q(tokens), self.k(tokens), self.v(tokens)
        frame = x.shape[3] * x.shape[4]
        read = [
            attend(q[:, :, end - frame : end], k[:, :, :end], v[:, :, :end])
            for end in range(frame, q.shape[2] + 1, frame)
        ]
        change = self.out(torch.cat(read, dim=2))
        return x + rearrange(change, "B 1 (T H W) C -> B C T H W", T=x.shape[2], H=x.shape[3])


class Downsample(nn.Module):
    """Convolution with a stride."""

    def __init__(self, dim: int, time: int, space: int) -> None:
        super().__init__()
        self.stride = (time, space, space)
        self.conv = nn.Conv3d(dim, dim, 3)

    def forward(self, x: Parts) -> Parts:
        window, out = Window(), Parts()
        for part in drain(x):
            # Every other frame, beginning with the first. All parts but the first begin at an odd one, and the first
            # frame to make out of them sees one frame of the past, not two.
            lead = REACH - 1 if out and self.stride[0] == 2 else 0
            out.append(convolve(window(part)[:, :, lead:], self.conv, self.stride))
        return parts_of(joined(out), self.conv.out_channels)


class Upsample(nn.Module):
    """Repeat every pixel, and every frame but the first, then convolve.

    Along an axis on which each sample k comes twice, as 2k and 2k + 1, the three weights w of an output fall on two
    samples: (w0, w1 + w2) on k - 1 and k for one of the two outputs, (w0 + w1, w2) for the other, on k and k + 1 in
    space, and in time, where k comes as 2k - 1 and 2k and nothing ahead is seen, on k - 1 and k. So eight kernels of
    2 x 2 x 2 weights, run together on the small clip, make what one of 3 x 3 x 3 makes on the large one.
    """

    def __init__(self, dim: int, time: int, space: int) -> None:
        super().__init__()
        self.time, self.space = time, space
        self.conv = nn.Conv3d(dim, dim, 3)

    def forward(self, x: Parts) -> Parts:
        products = x[0].shape[3] * x[0].shape[4] * self.conv.weight.numel() * sum(part.shape[2] for part in x)
        if torch.is_grad_enabled() or products * self.time * self.space**2 < PAYS_ABOVE:
            return Parts([convolve(Window()(self.repeat(joined(x))), self.conv)])
        weight = self.phases()
        bias = None if self.conv.bias is None else self.conv.bias.repeat(weight.shape[0] // self.conv.out_channels)
        window, out = Window(weight.shape[2] - 1), Parts()
        for part in drain(x):
            elements = part[:, :, 0].numel() * self.time * self.space**2
            for piece in part.split(max(1, PART_ELEMENTS // elements), dim=2):
                made = self.interleave(convolve_with(window(piece), weight, bias), *piece.shape[2:])
                out.append(made if out or self.time == 1 else made[:, :, 1:])  # the first frame comes once
        return out

    def repeat(self, x: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B C _ _ _"]:
        """Return the clip as the convolution sees it."""
        x = x.repeat_interleave(self.time, dim=2)[:, :, self.time - 1 :]
        return x.repeat_interleave(self.space, dim=3).repeat_interleave(self.space, dim=4)

    def phases(self) -> Float[Tensor, "P C _ _ _"]:
        """Return the weights of all phases: in time, down and across, outputs of each together."""
        weight = self.conv.weight[None, None, None]  # phases of the three axes, then the kernel
        for axis, factor in enumerate((self.time, self.space, self.space)):
            if factor == 2:
                w0, w1, w2 = weight.float().unbind(axis + 5)
                one, other = torch.stack([w0, w1 + w2], axis + 5), torch.stack([w0 + w1, w2], axis + 5)
                weight = torch.cat([other, one] if axis == 0 else [one, other], dim=axis)
        weight = weight.to(self.conv.weight.dtype).flatten(0, 3)
        return weight.contiguous(memory_format=torch.channels_last_3d)

    def interleave(self, x: Float[Tensor, "B P _ _ _"], frames: int, height: int, width: int) -> Tensor:
        """Put the outputs of all phases into their places."""
        phases = x.unflatten(1, (self.time, self.space, self.space, -1))
        size = len(x), phases.shape[4], frames * self.time, height * self.space, width * self.space
        out = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)
        for a, b, c in product(range(self.time), range(self.space), range(self.space)):
            source = phases[:, a, b, c, :, :, b : b + height, c : c + width]
            out[:, :, a :: self.time, b :: self.space, c :: self.space] = source
        return out


class Activation:
    """Group norm over the whole clip, then SiLU.

    Args:
        norm: its groups and weights.
        x: the clip, of which the statistics are gathered.
    """

    def __init__(self, norm: nn.GroupNorm, x: Parts) -> None:
        size = max(1, CACHE_ELEMENTS // x[0][:, :, 0].numel())
        pieces = [piece for part in x for piece in part.split(size, dim=2)]
        means, variances = zip(*map(moments_of, pieces), strict=True)  # of each piece and channel
        counts = means[0].new_tensor([piece.shape[2] for piece in pieces])
        share = (counts / counts.sum()).view(-1, 1, 1, 1)
        groups = (norm.num_groups, -1)
        means, variances = torch.stack(means).unflatten(2, groups), torch.stack(variances).unflatten(2, groups)
        mean = (share * means).sum(0).mean(-1)
        variance = (share * (variances + (means - mean[..., None]).square())).sum(0).mean(-1)
        scale = norm.weight.unflatten(0, groups) * (variance + norm.eps).rsqrt()[..., None]
        shift = norm.bias.unflatten(0, groups) - mean[..., None] * scale
        self.scale, self.shift = (value.flatten(1)[:, :, None, None, None] for value in (scale, shift))

    def __call__(self, part: Float[Tensor, "B C _ H W"]) -> Float[Tensor, "B C _ H W"]:
        """Return the part, normalised and activated."""
        return F.silu(torch.addcmul(self.shift, part, self.scale)).to(part.dtype)

    def write(self, part: Float[Tensor, "B C _ H W"], out: Float[Tensor, "B C _ H W"]) -> None:
        """Write the part to `out`, normalised and activated."""
        if part.dtype == self.scale.dtype:
            F.silu(torch.addcmul(self.shift, part, self.scale, out=out), inplace=True)
        else:
            out.copy_(F.silu(torch.addcmul(self.shift, part, self.scale), inplace=True))


class Window:
    """What a convolution reads: consecutive parts behind frames of the past, in a border of one pixel.

    Where there is nothing to see, before the first frame and past the border, the nearest pixel stands.
    """

    def __init__(self, reach: int = REACH) -> None:
        self.reach = reach
        self.last: Tensor | None = None

    def __call__(
        self, part: Float[Tensor, "B C _ H W"], activation: Activation | None = None
    ) -> Float[Tensor, "B C _ _ _"]:
        """Return the next part with its past and border, activated if so asked; good until the next call."""
        if torch.is_grad_enabled():  # the part is the clip
            part = part if activation is None else activation(part)
            return F.pad(part, (1, 1, 1, 1, self.reach, 0), mode="replicate")
        batch, dim, frames, height, width = part.shape
        last, size = self.last, (batch, dim, self.reach + frames, height + 2, width + 2)
        if last is not None and last.shape == size:
            window = last
        else:
            window = torch.empty(size, dtype=part.dtype, device=part.device, memory_format=torch.channels_last_3d)
        if last is not None:
            for i in range(self.reach):  # one by one: they may overlap
                window[:, :, i] = last[:, :, i - self.reach]
        now = window[:, :, self.reach :]
        inner = now[..., 1:-1, 1:-1]
        if activation is None:
            inner.copy_(part)
        else:
            activation.write(part, inner)
        now[..., 0, :], now[..., -1, :] = now[..., 1, :], now[..., -2, :]
        now[..., 0], now[..., -1] = now[..., 1], now[..., -2]
        if last is None:
            window[:, :, : self.reach] = now[:, :, :1]
        self.last = window
        return window


def convolve(
    window: Float[Tensor, "B C _ _ _"], conv: nn.Conv3d, stride: tuple[int, int, int] = (1, 1, 1)
) -> Float[Tensor, "B D _ _ _"]:
    """Convolve where the whole kernel fits."""
    return convolve_with(window, conv.weight, conv.bias, stride)


def convolve_with(
    window: Float[Tensor, "B C _ _ _"],
    weight: Float[Tensor, "D C _ _ _"],
    bias: Float[Tensor, " D"] | None,
    stride: tuple[int, int, int] = (1, 1, 1),
) -> Float[Tensor, "B D _ _ _"]:
    """Convolve where the whole kernel fits; a small clip as pictures of many channels, up to ten times as fast."""
    batch, dim, frames, height, width = window.shape
    is_fast = batch > 1 or dim * frames * height > SLOW_BELOW
    if is_fast or weight.numel() * frames * height * width < PAYS_ABOVE:
        return F.conv3d(window, weight, bias, stride)
    pictures = rearrange(window.unfold(2, weight.shape[2], stride[0]), "1 C n H W k -> n H W (k C)").movedim(-1, 1)
    out = F.conv2d(pictures, rearrange(weight, "D C k p q -> D (k C) p q"), bias, stride[1:])
    return rearrange(out, "n D H W -> 1 D n H W")


def pointwise(x: Float[Tensor, "B C T H W"], conv: nn.Conv3d) -> Float[Tensor, "B D T H W"]:
    """Convolve with a kernel of one pixel, as the matrix product that it is."""
    return F.linear(x.movedim(1, -1), conv.weight.flatten(1), conv.bias).movedim(-1, 1)


def moments_of(x: Float[Tensor, "B C T H W"]) -> tuple[Float[Tensor, "B C"], Float[Tensor, "B C"]]:
    """Return the mean and the variance of every channel, in float32 at least."""
    mean = x.mean((2, 3, 4), keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
    return mean.flatten(1), (x - mean.detach()).square().mean((2, 3, 4))  # which the mean makes least


def parts_of(x: Float[Tensor, "B C T H W"], dim: int) -> Parts:
    """Cut a clip into parts of at most `PART_ELEMENTS` when they have `dim` channels, but of two frames or more.

    All but the first begin at odd frames, so that every part has whole pairs for a stride of two; a clip of an even
    number of frames, and one for gradients, is left whole.
    """
    frames = max(2, PART_ELEMENTS * x.shape[1] // (dim * x[:, :, 0].numel()) // 2 * 2)
    if torch.is_grad_enabled() or x.shape[2] % 2 == 0 or x.shape[2] <= 1 + frames:
        return Parts([x])
    return Parts([x[:, :, : 1 + frames], *x[:, :, 1 + frames :].split(frames, dim=2)])


def joined(x: Parts) -> Float[Tensor, "B C T H W"]:
    """Return the parts as one clip."""
    return x[0] if len(x) == 1 else torch.cat(list(x), dim=2)


def drain(x: Parts) -> Iterator[Tensor]:
    """Take the parts out, first to last."""
    while x:
        yield x.popleft()


def strides(config: HunyuanConfig) -> tuple[list[int], list[int]]:
    """Return the strides of all levels but the last: those in space come first, those in time last."""
    resizes = len(config.dims) - 1
    space, time = config.space_factor.bit_length() - 1, config.time_factor.bit_length() - 1
    if max(space, time) > resizes or (1 << space, 1 << time) != (config.space_factor, config.time_factor):
        raise WeightsError(
            f"space_factor={config.space_factor} and time_factor={config.time_factor} must be powers of two, and at "
            f"most {2**resizes} for {len(config.dims)} dims. Mend the config."
        )
    return [2] * space + [1] * (resizes - space), [1] * (resizes - time) + [2] * time


def tiled(
    x: Tensor,
    run: Callable[[Tensor], Tensor],
    tile: tuple[int, int],
    made: tuple[int, int],
    overlap: float,
) -> Iterator[Tensor]:
    """Yield what `run` makes of tiles of a clip, blended into their neighbours, some frames at a time.

    A tile in time has one frame more, in front, which lets it begin as a clip does; what is made of it is dropped.

    Args:
        x: the clip, B C T H W.
        run: makes pixels of latents or the other way round.
        tile: frames and side of a tile.
        made: frames and side of what is made of it.
        overlap: share of a tile that it has in common with the next.
    """

    def spatial(x: Tensor) -> Tensor:
        return run(x) if max(x.shape[3:]) <= tile[1] else tiled_frames(x, run, tile[1], made[1], overlap)

    frames = x.shape[2]
    if frames <= tile[0]:
        yield spatial(x)
        return
    stride, blended = int(tile[0] * (1 - overlap)), int(made[0] * overlap)
    before: Tensor | None = None
    for start in range(0, frames, stride):
        piece = spatial(x[:, :, start : start + tile[0] + 1])
        if before is None:
            yield piece[:, :, : made[0] - blended + 1]
        else:
            piece = blend(before, piece[:, :, 1:], blended, dim=2)
            yield piece[:, :, : made[0] - blended]
        before = piece


def tiled_frames(x: Tensor, run: Callable[[Tensor], Tensor], tile: int, made: int, overlap: float) -> Tensor:
    """Return what `run` makes of square tiles of all frames, each blended with the one above, then the one before."""
    stride, blended = int(tile * (1 - overlap)), int(made * overlap)
    kept = made - blended
    rows, above = [], []
    for top in range(0, x.shape[3], stride):
        row: list[Tensor] = []
        for left in range(0, x.shape[4], stride):
            piece = run(x[..., top : top + tile, left : left + tile])
            if above:
                piece = blend(above[len(row)], piece, blended, dim=3)
            row.append(blend(row[-1], piece, blended, dim=4) if row else piece)
        rows.append(torch.cat([piece[..., :kept, :kept] for piece in row], dim=4))
        above = row
    return torch.cat(rows, dim=3)


def blend(before: Tensor, after: Tensor, extent: int, dim: int) -> Tensor:
    """Return `after`, which begins as `before` ends and changes evenly over `extent` pixels or frames."""
    extent = min(extent, before.shape[dim], after.shape[dim])
    shape = [-1 if axis == dim else 1 for axis in range(after.dim())]
    ramp = (torch.arange(extent, dtype=torch.float32, device=after.device) / max(1, extent)).to(after.dtype).view(shape)
    old = before.narrow(dim, before.shape[dim] - extent, extent)
    mixed = old * (1 - ramp) + after.narrow(dim, 0, extent) * ramp
    return torch.cat([mixed, after.narrow(dim, extent, after.shape[dim] - extent)], dim=dim)


_BLOCK = MappingProxyType(
    {
        "norm1": "norm1",
        "conv1": "conv1.conv",
        "norm2": "norm2",
        "conv2": "conv2.conv",
        "shortcut": "conv_shortcut.conv",
    }
)
_ATTENTION = MappingProxyType({"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out.0"})
_ENDS = MappingProxyType({"stem": "conv_in.conv", "norm": "conv_norm_out", "head": "conv_out.conv"})


def keys(config: HunyuanConfig) -> Mapping[str, tuple[Key, ...]]:
    """Return the names of all our tensors in the official files and in those of diffusers, which are the same."""
    names = tuple(
        Key(f"{ours}.{tensor}", (f"{theirs}.{tensor}",))
        for ours, theirs in _modules(config)
        for tensor in ("weight", "bias")
    )
    return {"official": names, "diffusers": names}


def _modules(config: HunyuanConfig) -> Iterator[tuple[str, str]]:
    """Yield every module that has weights, as ours and as theirs."""
    yield from (("to_moments", "quant_conv"), ("from_latents", "post_quant_conv"))
    halves: tuple[tuple[str, Literal["down", "up"], int], ...] = (("encoder", "down", 0), ("decoder", "up", 1))
    for half, way, more in halves:
        dims = config.dims[::-1] if more else config.dims
        yield from ((f"{half}.{ours}", f"{half}.{theirs}") for ours, theirs in _ENDS.items())
        places = [(f"{half}.middle.block{i + 1}", f"{half}.mid_block.resnets.{i}", False) for i in range(2)]
        for i, dim in enumerate(dims):
            before = dims[max(0, i - 1)]
            for j in range(config.depth + more):
                theirs = f"{half}.{way}_blocks.{i}.resnets.{j}"
                places.append((f"{half}.blocks.{i}.layers.{j}", theirs, j == 0 and before != dim))
            if i < len(dims) - 1:
                yield f"{half}.blocks.{i}.resize.conv", f"{half}.{way}_blocks.{i}.{way}samplers.0.conv.conv"
        for ours, theirs, has_shortcut in places:
            names = _BLOCK if has_shortcut else {name: _BLOCK[name] for name in _BLOCK if name != "shortcut"}
            yield from ((f"{ours}.{name}", f"{theirs}.{their}") for name, their in names.items())
        if config.has_attention:
            attention = f"{half}.middle.attention", f"{half}.mid_block.attentions.0"
            yield from ((f"{attention[0]}.{name}", f"{attention[1]}.{their}") for name, their in _ATTENTION.items())
