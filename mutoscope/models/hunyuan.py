"""HunyuanVideo: text to video, by a transformer with two streams and then one.

Paper: Kong et al., "HunyuanVideo: A Systematic Framework For Large Video Generative Models", arXiv 2412.03603. The
weights are under the Tencent Hunyuan Community License: not for use in the European Union, the United Kingdom and South
Korea, and with limits on acceptable use and on very large services. It is not an open-source licence; read it before
you use them. Two families grew from this network: `hunyuan_i2v`, which animates a picture, and `hunyuan_avatar`.

    latents B C T H W -> patches of 1 2 2 -> image tokens B L D, row-major in t h w, turned to their place by RoPE
    text B S Dt       -> refiner, two blocks of its own -> text tokens B S D, which have no place
    vec B D           <- time + pooled text (+ the scale of guidance, of networks that were distilled to need one call)
    double blocks     two streams, image and text, with weights of their own, attend together; then
    single blocks     one stream [image, text]
    velocity B C T H W <- head, on the image tokens alone

How ours differs from the published code: it attends over the real tokens of a prompt alone, where the published one
lets padding attend to padding, which nothing reads; velocities are the same.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from mutoscope.autoencoders.hunyuan import HunyuanAutoencoder
from mutoscope.core import config as configs
from mutoscope.core.errors import RecipeError, RequestError
from mutoscope.core.weights import Key
from mutoscope.diffusion.flow import FlowMatching
from mutoscope.diffusion.guidance import Guidance
from mutoscope.encoders.base import TextTokens
from mutoscope.encoders.llm import LlamaClip, published_template, read_template
from mutoscope.models.family import Accepts, Clips, Facts, Family, Reader, Release, Sampling
from mutoscope.nn.attention import attend
from mutoscope.nn.embed import Embed, sinusoid
from mutoscope.nn.norm import HeadNorm, standardise
from mutoscope.nn.patchify import patchify, unpatchify
from mutoscope.nn.rope import axes_rope, falling_speeds, rotate_pairs

FREQUENCIES = 256  # channels of the sinusoid of one number
REFINER_BLOCKS, REFINER_MLP_RATIO = 2, 4  # whatever the size of the network
GUIDANCE = 6.0  # the scale that the shipped commands tell a distilled network
NEGATIVE = (  # what networks without `embeds_guidance` are led away from, unless asked otherwise
    "Aerial view, aerial view, overexposed, low quality, deformation, a poor composition, "
    "bad hands, bad teeth, bad eyes, bad limbs, distortion"
)


@dataclass(frozen=True)
class Config:
    """The shape of the network.

    Args:
        depth: double blocks.
        single_depth: single blocks, at least 1.
        dim: width.
        num_heads: heads of attention; a divisor of `dim`.
        rope_dims: channels of a head that turn with t, h and w; even numbers that sum to the width of a head.
        mlp_ratio: width of the MLPs as a multiple of `dim`, but for those of the refiner.
        rope_theta: the slowest pair of channels turns by about 1 / rope_theta a token.
        riflex: in clips of more than 48 latent frames, slow down the temporal pair that would come around.
        patch_size: latent frames, rows, columns of a token.
        latent_channels: channels of the latents.
        text_dim: width of the text tokens.
        pooled_dim: width of the pooled text.
        embeds_guidance: the network is told a scale of guidance (it was distilled to follow it in one call).
    """

    depth: int = 20
    single_depth: int = 40
    dim: int = 3072
    num_heads: int = 24
    rope_dims: tuple[int, int, int] = (16, 56, 56)
    mlp_ratio: float = 4.0
    rope_theta: float = 256.0
    riflex: bool = False
    patch_size: tuple[int, int, int] = (1, 2, 2)
    latent_channels: int = 16
    text_dim: int = 4096
    pooled_dim: int = 768
    embeds_guidance: bool = True

    def __post_init__(self) -> None:
        if self.dim % self.num_heads or any(channels % 2 for channels in self.rope_dims):
            raise RecipeError(
                f"num_heads={self.num_heads} and rope_dims={self.rope_dims} do not fit dim={self.dim}. Use a divisor "
                "of dim, and even numbers."
            )
        if sum(self.rope_dims) != self.head_dim:
            raise RecipeError(
                f"rope_dims={self.rope_dims} sum to {sum(self.rope_dims)}, but a head is {self.head_dim} wide. Make "
                "them sum to that."
            )
        if self.single_depth < 1:
            raise RecipeError(f"single_depth={self.single_depth} leaves no single block. Use at least 1.")

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.dim // self.num_heads

    @property
    def mlp_dim(self) -> int:
        """Width inside an MLP."""
        return int(self.dim * self.mlp_ratio)


PRESETS = MappingProxyType(
    {
        "t2v": Config(),  # HYVideo-T/2-cfgdistill, the released one
        "t2v-undistilled": Config(embeds_guidance=False),  # HYVideo-T/2
        "tiny": Config(
            depth=2,
            single_depth=2,
            dim=32,
            num_heads=2,
            rope_dims=(4, 6, 6),
            latent_channels=4,
            text_dim=12,
            pooled_dim=8,
        ),
    }
)


@dataclass(frozen=True)
class Condition:
    """What the network sees besides latents and time; `condition` makes one.

    Args:
        tokens: text tokens, the real ones first, zeros after them.
        lengths: how many are real, for each sample, at least 1. Numbers, not a tensor: shapes depend on them.
        pooled: the text as one vector.
        guidance: the scale of guidance to imitate; networks without `embeds_guidance` do not look at it.
    """

    tokens: Float[Tensor, "B S Dt"]
    lengths: tuple[int, ...]
    pooled: Float[Tensor, "B Dp"]
    guidance: Float[Tensor, " B"]

    def __getitem__(self, rows: slice) -> "Condition":
        return Condition(self.tokens[rows], self.lengths[rows], self.pooled[rows], self.guidance[rows])

    def to(self, device: torch.device | str) -> "Condition":
        """Return the same on another device."""
        return Condition(self.tokens.to(device), self.lengths, self.pooled.to(device), self.guidance.to(device))

    @classmethod
    def cat(cls, parts: Sequence["Condition"]) -> "Condition":
        """Join batches along the samples, padding text to the longest."""
        longest = max(part.tokens.shape[1] for part in parts)
        return cls(
            torch.cat([F.pad(part.tokens, (0, 0, 0, longest - part.tokens.shape[1])) for part in parts]),
            tuple(itertools.chain.from_iterable(part.lengths for part in parts)),
            torch.cat([part.pooled for part in parts]),
            torch.cat([part.guidance for part in parts]),
        )


class Run(NamedTuple):
    """Neighbours in a batch whose prompts have the same number of tokens."""

    rows: slice
    length: int


class Layout(NamedTuple):
    """Where the tokens of a batch are; the same in every block."""

    grid: tuple[int, int, int]
    """Image tokens along t, h and w."""
    rope: Float[Tensor, "M pairs 2"]
    """The rotation of image tokens, and none for the text tokens after them."""
    runs: tuple[Run, ...]
    first: int = 0
    """Image tokens, at the beginning, that have a modulation of their own: row 0 of `vec`, where the rest have 1."""

    @property
    def image_length(self) -> int:
        """Number of image tokens."""
        return self.grid[0] * self.grid[1] * self.grid[2]


class Hunyuan(nn.Module):
    """The network. Clock and sign are those of `diffusion.process`: t = 1 is noise, velocity = noise - data.

    `forward` is `trunk` and then `tip`, the last single block and the head. Who wants to skip the trunk in some steps
    keeps what it returned and calls `tip` alone, with the vec of the new time.

    Args:
        config: its shape.
        in_channels: channels that are cut into patches, where they are more than those of the latents.
    """

    def __init__(self, config: Config, in_channels: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.patch = PatchEmbed(in_channels or config.latent_channels, config.dim, config.patch_size)
        self.refiner = Refiner(config)
        self.time = Embed(FREQUENCIES, config.dim)
        self.pooled = Embed(config.pooled_dim, config.dim)
        self.guidance = Embed(FREQUENCIES, config.dim) if config.embeds_guidance else None
        self.doubles = nn.ModuleList(DoubleBlock(config) for _ in range(config.depth))
        self.singles = nn.ModuleList(SingleBlock(config) for _ in range(config.single_depth))
        frames, rows, columns = config.patch_size
        self.head = Head(config.dim, config.latent_channels * frames * rows * columns)
        _initialise(self)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights, in which it computes."""
        return self.patch.weight.dtype

    def forward(
        self, x: Float[Tensor, "B C T H W"], t: Float[Tensor, " B"], cond: Condition
    ) -> Float[Tensor, "B C T H W"]:
        """Return the velocity.

        Args:
            x: noisy latents; T, H, W multiples of the patch.
            t: time of each sample, in [0, 1].
            cond: of the same samples.

        Returns:
            The velocity, in the dtype of `x`.
        """
        if (order := side_by_side(cond.lengths)) is not None:
            by_length = Condition.cat([cond[row : row + 1] for row in order])
            return self(x[order], t[order], by_length)[torch.tensor(order).argsort()]
        vec, layout = self.vec(t, cond), self.layout(x.shape[2:], cond)
        return self.tip(self.trunk(x, t, cond, vec, layout), vec, layout).to(x.dtype)

    def vec(self, t: Float[Tensor, " B"], cond: Condition) -> Float[Tensor, "B 1 D"]:
        """Return what modulates every block.

        The published networks count time from 0 to 1000, and guidance in thousandths too. The scale is multiplied in
        the type of the weights: in bfloat16 a scale of 6 becomes 6016, and so it does in the published code.
        """
        vec = self.time_and_text(t, cond)
        if self.guidance is not None:
            scale = cond.guidance.to(self.dtype) * 1000
            vec = vec + self.guidance(sinusoid(scale, FREQUENCIES).to(self.dtype))
        return F.silu(vec)[:, None]

    def time_and_text(self, t: Float[Tensor, " B"], cond: Condition) -> Float[Tensor, "B D"]:
        """Return the part of `vec` that all networks of this family have, before its SiLU."""
        return self.time(sinusoid(1000 * t, FREQUENCIES).to(self.dtype)) + self.pooled(cond.pooled.to(self.dtype))

    def layout(self, size: Sequence[int], cond: Condition, earlier: int = 0) -> Layout:
        """Say where the tokens are.

        Args:
            size: T H W of the latents.
            cond: of the same samples.
            earlier: latent frames before those, which have the times -1, -2 and so on.
        """
        t, h, w = (length // patch for length, patch in zip(size, self.config.patch_size, strict=True))
        device = cond.tokens.device
        times = torch.arange(-earlier, t, device=device, dtype=torch.float32)
        down, across = (torch.arange(length, device=device, dtype=torch.float32) for length in (h, w))
        rope = with_text(axes_rope([times, down, across], self._speeds(t, device)), max(cond.lengths))
        return Layout((t + earlier, h, w), rope, runs_of(cond.lengths))

    def trunk(
        self,
        x: Float[Tensor, "B channels T H W"],
        t: Float[Tensor, " B"],
        cond: Condition,
        vec: Float[Tensor, "B r D"],
        layout: Layout,
    ) -> Float[Tensor, "B M D"]:
        """Return the tokens before the last single block: of the image, then of the text."""
        image, text = self.patch(x.to(self.dtype)), self.refine(cond, t, layout)
        for block in self.doubles:
            image, text = block(image, text, vec, layout)
        return self.merge(image, text, vec, layout)

    def refine(self, cond: Condition, t: Float[Tensor, " B"], layout: Layout) -> Float[Tensor, "B S D"]:
        """Return the text tokens that go into the first block."""
        return self.refiner(cond.tokens[:, : max(cond.lengths)].to(self.dtype), t, layout.runs)

    def merge(
        self, image: Float[Tensor, "B L D"], text: Float[Tensor, "B S D"], vec: Float[Tensor, "B r D"], layout: Layout
    ) -> Float[Tensor, "B M D"]:
        """Make one stream of two, and take it through all single blocks but the last."""
        tokens = torch.cat([image, text], dim=1)
        for block in self.singles[:-1]:
            tokens = block(tokens, vec, layout)
        return tokens

    def tip(
        self, tokens: Float[Tensor, "B M D"], vec: Float[Tensor, "B r D"], layout: Layout
    ) -> Float[Tensor, "B C T H W"]:
        """Return the velocity that the tokens before the last single block come to."""
        return self.draw(self.singles[-1](tokens, vec, layout)[:, : layout.image_length], vec, layout)

    def draw(
        self, image: Float[Tensor, "B L D"], vec: Float[Tensor, "B r D"], layout: Layout
    ) -> Float[Tensor, "B C T H W"]:
        """Turn image tokens, of as many frames as there are, into a velocity."""
        _, h, w = layout.grid
        patches = rearrange(self.head(image, vec[:, -1]), "B (t L) P -> B t L P", L=h * w)
        return unpatchify(patches, self.config.patch_size, h)

    def _speeds(self, frames: int, device: torch.device) -> list[Tensor]:
        """Return the angles by which pairs of channels turn a token, along t, h and w.

        Source: RIFLEx (Zhao et al. 2025), with the constants of the published image-to-video code, where it begins at
        193 frames of video, 49 of latents. Our reading: its length is that of the latents.
        """
        speeds = [falling_speeds(channels, self.config.rope_theta, device) for channels in self.config.rope_dims]
        if self.config.riflex and frames > 48:
            pair = min(max(2 + frames // 25, 4), 8) - 1
            speeds[0][pair] = 0.9 * 2 * torch.pi / frames  # not quite once around in the whole clip
        return speeds


class PatchEmbed(nn.Module):
    """Patches to tokens: a convolution that steps from patch to patch, done as one matrix product."""

    def __init__(self, channels: int, dim: int, patch: tuple[int, int, int]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim, channels, *patch))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B L D"]:
        frames, rows, columns = self.weight.shape[2:]
        return F.linear(patchify(x, (frames, rows, columns)).flatten(1, 2), self.weight.flatten(1), self.bias)


class Refiner(nn.Module):
    """Text tokens, made for reading, turned into tokens for drawing: two blocks that know the time and the text's mean.

    The gates are made from time and the mean of the raw tokens; there is no other modulation.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.time = Embed(FREQUENCIES, config.dim)
        self.mean = Embed(config.text_dim, config.dim)
        self.input = nn.Linear(config.text_dim, config.dim)
        self.blocks = nn.ModuleList(RefinerBlock(config) for _ in range(REFINER_BLOCKS))

    def forward(
        self, tokens: Float[Tensor, "B S Dt"], t: Float[Tensor, " B"], runs: Sequence[Run]
    ) -> Float[Tensor, "B S D"]:
        lengths = [run.length for run in runs for _ in range(run.rows.start, run.rows.stop)]
        counts = torch.tensor(lengths, device=tokens.device, dtype=torch.float32)
        mean = (tokens.float().sum(1) / counts[:, None]).to(tokens.dtype)  # what is padded is zero
        vec = F.silu(self.time(sinusoid(1000 * t, FREQUENCIES).to(tokens.dtype)) + self.mean(mean))
        x = self.input(tokens)
        for block in self.blocks:
            x = block(x, vec, runs)
        return x


class RefinerBlock(nn.Module):
    """Attend among the text, then an MLP with SiLU; norms with weights, gates, no shift and no scale."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.modulation = nn.Linear(config.dim, 2 * config.dim)
        self.norm1 = nn.LayerNorm(config.dim, eps=1e-6)
        self.qkv = nn.Linear(config.dim, 3 * config.dim)
        self.out = nn.Linear(config.dim, config.dim)
        self.norm2 = nn.LayerNorm(config.dim, eps=1e-6)
        hidden = REFINER_MLP_RATIO * config.dim
        self.mlp = nn.Sequential(nn.Linear(config.dim, hidden), nn.SiLU(), nn.Linear(hidden, config.dim))

    def forward(
        self, x: Float[Tensor, "B S D"], vec: Float[Tensor, "B D"], runs: Sequence[Run]
    ) -> Float[Tensor, "B S D"]:
        gate1, gate2 = self.modulation(vec)[:, None].chunk(2, dim=-1)
        q, k, v = rearrange(self.qkv(self.norm1(x)), "B S (three N K) -> three B N S K", three=3, N=self.num_heads)
        h = rearrange(attend_in_runs(q, k, v, 0, runs), "B N S K -> B S (N K)")
        x = torch.addcmul(x, gate1, self.out(h))
        return torch.addcmul(x, gate2, self.mlp(self.norm2(x)))


class DoubleBlock(nn.Module):
    """Image and text attend together, each with weights of its own before and after."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.image = Stream(config)
        self.text = Stream(config)

    def forward(
        self, image: Float[Tensor, "B L D"], text: Float[Tensor, "B S D"], vec: Float[Tensor, "B r D"], layout: Layout
    ) -> tuple[Float[Tensor, "B L D"], Float[Tensor, "B S D"]]:
        length = layout.image_length
        image_mod = self.image.modulation(vec).chunk(6, dim=-1)
        text_mod = self.text.modulation(vec[:, -1:]).chunk(6, dim=-1)
        q, k, v = self.image.project(image, layout.first, *image_mod[:2])
        text_q, text_k, text_v = self.text.project(text, 0, *text_mod[:2])
        rope = layout.rope[:length]
        q = torch.cat([rotate_pairs(q, rope), text_q], dim=2)
        k = torch.cat([rotate_pairs(k, rope), text_k], dim=2)
        h = attend_in_runs(q, k, torch.cat([v, text_v], dim=2), length, layout.runs)
        image = self.image.finish(image, h[:, :, :length], layout.first, *image_mod[2:])
        return image, self.text.finish(text, h[:, :, length:], 0, *text_mod[2:])


class Stream(nn.Module):
    """One side of a double block: what comes before attention (`project`) and after it (`finish`)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.modulation = nn.Linear(config.dim, 6 * config.dim)
        self.qkv = nn.Linear(config.dim, 3 * config.dim)
        self.q_norm = HeadNorm(config.head_dim)
        self.k_norm = HeadNorm(config.head_dim)
        self.out = nn.Linear(config.dim, config.dim)
        self.mlp = nn.Sequential(
            nn.Linear(config.dim, config.mlp_dim), nn.GELU("tanh"), nn.Linear(config.mlp_dim, config.dim)
        )

    def project(
        self, x: Float[Tensor, "B L D"], first: int, shift: Float[Tensor, "B r D"], scale: Float[Tensor, "B r D"]
    ) -> tuple[Float[Tensor, "B N L K"], Float[Tensor, "B N L K"], Float[Tensor, "B N L K"]]:
        """Return queries and keys, normalised, and values."""
        qkv = self.qkv(modulate(x, shift, scale, first))
        q, k, v = rearrange(qkv, "B L (three N K) -> three B N L K", three=3, N=self.num_heads)
        return self.q_norm(q), self.k_norm(k), v

    def finish(
        self,
        x: Float[Tensor, "B L D"],
        h: Float[Tensor, "B N L K"],
        first: int,
        gate1: Float[Tensor, "B r D"],
        shift2: Float[Tensor, "B r D"],
        scale2: Float[Tensor, "B r D"],
        gate2: Float[Tensor, "B r D"],
    ) -> Float[Tensor, "B L D"]:
        """Add what attention read, and then what the MLP makes of it."""
        x = add_gated(x, gate1, self.out(rearrange(h, "B N L K -> B L (N K)")), first)
        return add_gated(x, gate2, self.mlp(modulate(x, shift2, scale2, first)), first)


class SingleBlock(nn.Module):
    """Image and text as one sequence; attention and MLP side by side, from one product and into one product."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.num_heads, self.dim, self.mlp_dim = config.num_heads, config.dim, config.mlp_dim
        self.modulation = nn.Linear(config.dim, 3 * config.dim)
        self.qkv_mlp = nn.Linear(config.dim, 3 * config.dim + config.mlp_dim)
        self.q_norm = HeadNorm(config.head_dim)
        self.k_norm = HeadNorm(config.head_dim)
        self.out = nn.Linear(config.dim + config.mlp_dim, config.dim)

    def forward(self, x: Float[Tensor, "B M D"], vec: Float[Tensor, "B r D"], layout: Layout) -> Float[Tensor, "B M D"]:
        shift, scale, gate = self.modulation(vec).chunk(3, dim=-1)
        qkv, mlp = self.qkv_mlp(modulate(x, shift, scale, layout.first)).split([3 * self.dim, self.mlp_dim], dim=-1)
        q, k, v = rearrange(qkv, "B M (three N K) -> three B N M K", three=3, N=self.num_heads)
        q, k = rotate_pairs(self.q_norm(q), layout.rope), rotate_pairs(self.k_norm(k), layout.rope)
        h = rearrange(attend_in_runs(q, k, v, layout.image_length, layout.runs), "B N M K -> B M (N K)")
        del q, k  # room for the widest tensor of the block
        return add_gated(x, gate, self.out(torch.cat([h, F.gelu(mlp, approximate="tanh")], dim=-1)), layout.first)


class Head(nn.Module):
    """Tokens to patches, after a modulated norm."""

    def __init__(self, dim: int, patch: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, patch)

    def forward(self, x: Float[Tensor, "B L D"], vec: Float[Tensor, "B D"]) -> Float[Tensor, "B L P"]:
        shift, scale = self.modulation(vec)[:, None].chunk(2, dim=-1)
        return self.out(modulate(x, shift, scale, 0))


def modulate(
    x: Float[Tensor, "B M D"], shift: Float[Tensor, "B r D"], scale: Float[Tensor, "B r D"], first: int
) -> Float[Tensor, "B M D"]:
    """Standardise tokens and give them a scale and a shift; the `first` of them have row 0, all others the last row."""
    x, scale = standardise(x), 1 + scale
    rest = torch.addcmul(shift[:, -1:], x[:, first:], scale[:, -1:])
    return torch.cat([torch.addcmul(shift[:, :1], x[:, :first], scale[:, :1]), rest], dim=1) if first else rest


def add_gated(
    x: Float[Tensor, "B M D"], gate: Float[Tensor, "B r D"], h: Float[Tensor, "B M D"], first: int
) -> Float[Tensor, "B M D"]:
    """Add `h` to the tokens, each channel as far as its gate is open; rows as in `modulate`."""
    rest = torch.addcmul(x[:, first:], gate[:, -1:], h[:, first:])
    return torch.cat([torch.addcmul(x[:, :first], gate[:, :1], h[:, :first]), rest], dim=1) if first else rest


def attend_in_runs(
    q: Float[Tensor, "B N M K"],
    k: Float[Tensor, "B N M K"],
    v: Float[Tensor, "B N M K"],
    before: int,
    runs: Sequence[Run],
) -> Float[Tensor, "B N M K"]:
    """Let the real tokens of each sample attend to each other: the first `before`, and then as many as its text has.

    Returns:
        What each token read; zero for padding.
    """
    if len(runs) == 1:  # then there is no padding either
        return attend(q, k, v)
    parts = []
    for rows, length in runs:
        real = slice(before + length)
        read = attend(q[rows, :, real], k[rows, :, real], v[rows, :, real])
        parts.append(F.pad(read, (0, 0, 0, q.shape[2] - read.shape[2])))
    return torch.cat(parts)


def side_by_side(lengths: Sequence[int]) -> list[int] | None:
    """Return an order of the samples in which prompts of equal length are neighbours; None if they are already."""
    if len(runs_of(lengths)) == len(set(lengths)):
        return None
    return sorted(range(len(lengths)), key=lengths.__getitem__)


def runs_of(lengths: Sequence[int]) -> tuple[Run, ...]:
    """Find the neighbours of equal length."""
    runs, start = [], 0
    for length, group in itertools.groupby(lengths):
        stop = start + len(list(group))
        runs.append(Run(slice(start, stop), length))
        start = stop
    return tuple(runs)


def with_text(rope: Float[Tensor, "L pairs 2"], text_length: int) -> Float[Tensor, "M pairs 2"]:
    """Append text tokens to a table of rotations: they have no place, so they are turned by nothing."""
    still = rope.new_tensor([1.0, 0.0]).expand(text_length, rope.shape[1], 2)
    return torch.cat([rope, still])


def _initialise(network: Hunyuan) -> None:
    """Make every block the identity and the answer zero; small embeddings of numbers, and patches as in a linear layer.

    All else is as torch has it.
    """
    nn.init.xavier_uniform_(network.patch.weight.data.flatten(1))
    embeds = [network.time, network.refiner.time, network.pooled, network.guidance]
    for embed in filter(None, embeds):
        for index in (0, 2):
            nn.init.normal_(embed[index].weight, std=0.02)
    nn.init.zeros_(network.head.out.weight)
    nn.init.zeros_(network.head.out.bias)
    for module in network.modules():
        if isinstance(module, Stream | SingleBlock | RefinerBlock | Head):
            nn.init.zeros_(module.modulation.weight)
            nn.init.zeros_(module.modulation.bias)


def condition(text: TextTokens, facts: Sequence[Facts], *, guidance: float = GUIDANCE) -> Condition:
    """Make the condition of a batch; these networks are told nothing of a clip's size.

    Args:
        text: encoded prompts; without prompt, the encoded empty string.
        facts: of each sample; not looked at.
        guidance: scale of guidance that a distilled network imitates, at least 1; it was trained on 1 to 8.

    Raises:
        RequestError: a prompt has no token at all.
    """
    del facts
    lengths = tuple(text.mask.sum(dim=1).tolist())
    if 0 in lengths:
        raise RequestError("A prompt has no token. Encode it with its template, which the empty prompt has as well.")
    real_first = text.mask.int().argsort(dim=1, descending=True, stable=True)[:, : max(lengths), None]
    tokens = torch.where(text.mask[..., None], text.tokens, 0.0).take_along_dim(real_first, dim=1)
    scale = torch.full((len(lengths),), guidance, device=text.pooled.device)
    return Condition(tokens, lengths, text.pooled, scale)


def tell(config: Config, cond: Condition, guidance: float, image: Float[Tensor, "B C 1 H W"] | None) -> Condition:
    """Put the scale of guidance that a request asks for into a condition; there is no image."""
    del config, image
    return replace(cond, guidance=torch.full_like(cond.guidance, guidance))


def configured(config: Config, published: Mapping[str, Any]) -> Config:
    """Change a config to what a config.json of diffusers says.

    Raises:
        RecipeError: a value does not fit, or the network is another.
    """
    plain = dict(published)
    refiners = plain.pop("num_refiner_layers", REFINER_BLOCKS)
    if refiners != REFINER_BLOCKS:
        raise RecipeError(f"config.json has num_refiner_layers={refiners}; this network has {REFINER_BLOCKS}.")
    if {"num_attention_heads", "attention_head_dim"} <= plain.keys():
        plain["dim"] = plain["num_attention_heads"] * plain["attention_head_dim"]
    if {"patch_size", "patch_size_t"} <= plain.keys():
        plain["patches"] = [plain["patch_size_t"], plain["patch_size"], plain["patch_size"]]
    return configs.changed(config, plain, PUBLISHED)


def reader(config: Config, template: Path | None) -> Reader:
    """Say how prompts are read: in the published template for videos, or in one from a file."""
    del config
    around = published_template("video") if template is None else read_template(template, ("video", "image"))
    return Reader(lambda path: LlamaClip.load(path, around), (around.text,))


PUBLISHED = MappingProxyType(  # what a config.json of diffusers calls our values; two are put together in `configured`
    {
        "num_layers": "depth",
        "num_single_layers": "single_depth",
        "dim": "dim",
        "num_attention_heads": "num_heads",
        "rope_axes_dim": "rope_dims",
        "mlp_ratio": "mlp_ratio",
        "rope_theta": "rope_theta",
        "patches": "patch_size",
        "out_channels": "latent_channels",
        "text_embed_dim": "text_dim",
        "pooled_projection_dim": "pooled_dim",
        "guidance_embeds": "embeds_guidance",
    }
)
_Names = Mapping[str, tuple[str, str]]  # a module of ours -> its official name, its name or names in diffusers

_OUTER: _Names = {
    "patch": ("img_in.proj", "x_embedder.proj"),
    "time.0": ("time_in.mlp.0", "time_text_embed.timestep_embedder.linear_1"),
    "time.2": ("time_in.mlp.2", "time_text_embed.timestep_embedder.linear_2"),
    "pooled.0": ("vector_in.in_layer", "time_text_embed.text_embedder.linear_1"),
    "pooled.2": ("vector_in.out_layer", "time_text_embed.text_embedder.linear_2"),
    "guidance.0": ("guidance_in.mlp.0", "time_text_embed.guidance_embedder.linear_1"),
    "guidance.2": ("guidance_in.mlp.2", "time_text_embed.guidance_embedder.linear_2"),
    "refiner.time.0": ("txt_in.t_embedder.mlp.0", "context_embedder.time_text_embed.timestep_embedder.linear_1"),
    "refiner.time.2": ("txt_in.t_embedder.mlp.2", "context_embedder.time_text_embed.timestep_embedder.linear_2"),
    "refiner.mean.0": ("txt_in.c_embedder.linear_1", "context_embedder.time_text_embed.text_embedder.linear_1"),
    "refiner.mean.2": ("txt_in.c_embedder.linear_2", "context_embedder.time_text_embed.text_embedder.linear_2"),
    "refiner.input": ("txt_in.input_embedder", "context_embedder.proj_in"),
    "head.modulation": ("final_layer.adaLN_modulation.1", "norm_out.linear"),
    "head.out": ("final_layer.linear", "proj_out"),
}
_REFINER: _Names = {
    "modulation": ("adaLN_modulation.1", "norm_out.linear"),
    "norm1": ("norm1", "norm1"),
    "qkv": ("self_attn_qkv", "attn.to_q attn.to_k attn.to_v"),
    "out": ("self_attn_proj", "attn.to_out.0"),
    "norm2": ("norm2", "norm2"),
    "mlp.0": ("mlp.fc1", "ff.net.0.proj"),
    "mlp.2": ("mlp.fc2", "ff.net.2"),
}
_DOUBLE: _Names = {
    "image.modulation": ("img_mod.linear", "norm1.linear"),
    "image.qkv": ("img_attn_qkv", "attn.to_q attn.to_k attn.to_v"),
    "image.q_norm": ("img_attn_q_norm", "attn.norm_q"),
    "image.k_norm": ("img_attn_k_norm", "attn.norm_k"),
    "image.out": ("img_attn_proj", "attn.to_out.0"),
    "image.mlp.0": ("img_mlp.fc1", "ff.net.0.proj"),
    "image.mlp.2": ("img_mlp.fc2", "ff.net.2"),
    "text.modulation": ("txt_mod.linear", "norm1_context.linear"),
    "text.qkv": ("txt_attn_qkv", "attn.add_q_proj attn.add_k_proj attn.add_v_proj"),
    "text.q_norm": ("txt_attn_q_norm", "attn.norm_added_q"),
    "text.k_norm": ("txt_attn_k_norm", "attn.norm_added_k"),
    "text.out": ("txt_attn_proj", "attn.to_add_out"),
    "text.mlp.0": ("txt_mlp.fc1", "ff_context.net.0.proj"),
    "text.mlp.2": ("txt_mlp.fc2", "ff_context.net.2"),
}
_SINGLE: _Names = {
    "modulation": ("modulation.linear", "norm.linear"),
    "qkv_mlp": ("linear1", "attn.to_q attn.to_k attn.to_v proj_mlp"),
    "q_norm": ("q_norm", "attn.norm_q"),
    "k_norm": ("k_norm", "attn.norm_k"),
    "out": ("linear2", "proj_out"),
}
_PLACES: Mapping[str, tuple[str, str]] = {  # of the blocks with index {}
    "refiner.blocks.{}.": (
        "txt_in.individual_token_refiner.blocks.{}.",
        "context_embedder.token_refiner.refiner_blocks.{}.",
    ),
    "doubles.{}.": ("double_blocks.{}.", "transformer_blocks.{}."),
    "singles.{}.": ("single_blocks.{}.", "single_transformer_blocks.{}."),
}


def keys(config: Config) -> Mapping[str, tuple[Key, ...]]:
    """Return the names of all our tensors in the official files and in those of diffusers."""
    return {"official": tuple(_keys(config, 0)), "diffusers": tuple(_keys(config, 1))}


def _keys(config: Config, layout: Literal[0, 1]) -> Iterator[Key]:
    blocks = zip(
        _PLACES.items(),
        [(_REFINER, REFINER_BLOCKS), (_DOUBLE, config.depth), (_SINGLE, config.single_depth)],
        strict=True,
    )
    tables = [("", "", _OUTER)]
    for (ours, theirs), (table, depth) in blocks:
        tables += [(ours.format(index), theirs[layout].format(index), table) for index in range(depth)]
    for ours, theirs, table in tables:
        for name, their_names in table.items():
            if name.startswith("guidance.") and not config.embeds_guidance:
                continue
            parts = their_names[layout].split()
            rows = (*[config.dim] * 3, config.mlp_dim)[: len(parts)] if len(parts) > 1 else ()
            for tensor in ("weight",) if name.endswith(("q_norm", "k_norm")) else ("weight", "bias"):
                names = tuple(f"{theirs}{part}.{tensor}" for part in parts)
                yield Key(f"{ours}{name}.{tensor}", names, rows, swap=layout == 1 and name == "head.modulation")


FAMILY = Family(
    name="hunyuan",
    network=Hunyuan,
    presets=PRESETS,
    default="t2v",
    parameters=MappingProxyType(
        {
            "t2v": 12_821_012_544,
            "t2v-undistilled": 12_810_782_784,
            "tiny": 171_152,
        }
    ),
    process=FlowMatching(),
    autoencoder=HunyuanAutoencoder,
    encoder=LlamaClip,
    condition=condition,
    sampling=Sampling(steps=50, sampler="euler", guidance=Guidance(GUIDANCE), shift=7.0),
    accepts=Accepts(given="none"),
    keys=keys,
    embeds_guidance=lambda config: config.embeds_guidance,
    tell=tell,
    negative=NEGATIVE,
    reader=reader,
    configured=configured,
    quantized=("doubles.", "singles."),  # as in the published fp8 file
    release=Release(
        weights=MappingProxyType(
            {
                "t2v": (
                    "hub:hunyuanvideo-community/HunyuanVideo",
                    "hub:tencent/HunyuanVideo/hunyuan-video-t2v-720p",
                ),
            }
        ),
        licence="Tencent Hunyuan Community License (not for use in the EU, the UK and South Korea)",
        url="https://huggingface.co/tencent/HunyuanVideo",
        clips=Clips(num_frames=129, height=720, width=1280, fps=24),
        text_tokens=256,
        encoder_parameters=7_628_247_296,  # the language model of 7.505B, and CLIP-L
        autoencoder_dtype=torch.float16,
    ),
)
