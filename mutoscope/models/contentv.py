"""ContentV: text to video, by the image transformer of Stable Diffusion 3.5 Large with another position table.

Paper: "ContentV: Efficient Training of Video Generation Models with Limited Compute", arXiv 2506.05343. Weights:
ByteDance/ContentV-8B on the hub. Code and Wan 2.1's autoencoder are Apache-2.0; the transformer derives from Stable
Diffusion 3.5 Large, so its weights are under the **Stability AI Community License**.

    latents B 16 T H W  -> patches of 1 2 2, plus where they are: B L D, L = T * H/2 * W/2
    text B 333 4096     -> B 333 D: 77 tokens of two CLIPs side by side, 256 of T5, padding and all
    vector B D          <- time, and the pooled text of the two CLIPs
    depth blocks        of two streams, video and text, with their own weights and one attention over both; the text
                        leaves the last block unread
    velocity B 16 T H W <- head B L (2 2 16)

Ours differs from the published code in cost alone: positions are tabulated in float64 along each axis, not for every
token. In the last block the text asks nothing, so one tensor of the published weights changes nothing (`unused`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from mutoscope.autoencoders.wan import WanAutoencoder
from mutoscope.core import config as configs
from mutoscope.core.errors import RecipeError
from mutoscope.core.weights import Key
from mutoscope.diffusion.flow import FlowMatching
from mutoscope.diffusion.guidance import Guidance
from mutoscope.encoders.base import TextTokens
from mutoscope.encoders.t5 import ClipT5
from mutoscope.models.family import Accepts, Clips, Facts, Family, Release, Sampling
from mutoscope.nn.attention import attend
from mutoscope.nn.embed import Embed, sinusoid
from mutoscope.nn.norm import HeadNorm, standardise
from mutoscope.nn.patchify import patchify

FREQUENCIES = 256  # channels of the sinusoid of time
NEGATIVE = (  # of the published demo; its pipeline has none
    "overexposed, low quality, deformation, a poor composition, bad hands, bad teeth, bad eyes, bad limbs, distortion"
)
PLACE_STEP = 2.0  # positions from one patch to the next, across and down; along time it is 1


@dataclass(frozen=True)
class Config:
    """The shape of the network.

    Args:
        depth: blocks, at least 1.
        num_heads: attention heads.
        head_dim: width of one; the product of both, the network's width, is a multiple of 16, because a quarter of it
            says when a token is and three eighths each say where, by pairs of channels.
        mlp_ratio: width of the MLPs as a multiple of the network's.
        patch_size: latent frames, rows, columns of a token; one frame, and a square.
        latent_channels: channels of the latents.
        text_dim: width of text tokens.
        pooled_dim: width of the pooled text.
    """

    depth: int
    num_heads: int
    head_dim: int = 64
    mlp_ratio: int = 4
    patch_size: tuple[int, int, int] = (1, 2, 2)
    latent_channels: int = 16
    text_dim: int = 4096
    pooled_dim: int = 2048

    def __post_init__(self) -> None:
        if self.dim % 16:
            raise RecipeError(
                f"num_heads={self.num_heads} of head_dim={self.head_dim} make a width of {self.dim}. "
                "Use heads whose product is a multiple of 16."
            )
        if self.depth < 1:
            raise RecipeError(f"depth={self.depth} leaves no block. Use at least 1.")
        frames, rows, columns = self.patch_size
        if frames != 1 or rows != columns:
            raise RecipeError(
                f"patch_size={list(self.patch_size)} does not fit ContentV, whose patches are squares of one latent "
                f"frame. Use [1, {rows}, {rows}]."
            )

    @property
    def dim(self) -> int:
        """Width of the network."""
        return self.num_heads * self.head_dim


PRESETS = MappingProxyType(
    {
        "8B": Config(depth=38, num_heads=38),
        "tiny": Config(depth=2, num_heads=2, head_dim=16, latent_channels=4, text_dim=12, pooled_dim=8),
    }
)


@dataclass(frozen=True)
class Condition:
    """What the network sees besides latents and time; `condition` makes one.

    Args:
        tokens: text tokens, all of them read.
        pooled: the text as one vector.
    """

    tokens: Float[Tensor, "B S Dt"]
    pooled: Float[Tensor, "B Dp"]

    def __getitem__(self, rows: slice) -> "Condition":
        return Condition(self.tokens[rows], self.pooled[rows])

    def to(self, device: torch.device | str) -> "Condition":
        """Return the same on another device."""
        return Condition(self.tokens.to(device), self.pooled.to(device))

    @classmethod
    def cat(cls, parts: Sequence["Condition"]) -> "Condition":
        """Join batches along the samples; all have as many tokens, as padding would be read."""
        return Condition(torch.cat([part.tokens for part in parts]), torch.cat([part.pooled for part in parts]))


class ContentV(nn.Module):
    """The network. It runs in the type of its weights; time goes in as float32."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        _, rows, columns = config.patch_size
        self.patch = nn.Conv2d(config.latent_channels, config.dim, (rows, columns), (rows, columns))
        self.text = nn.Linear(config.text_dim, config.dim)
        self.time = Embed(FREQUENCIES, config.dim)
        self.pooled = Embed(config.pooled_dim, config.dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth - 1))
        self.last = LastBlock(config)
        self.head = Head(config.dim, config.latent_channels * rows * columns)
        self.apply(_initialise)

    def forward(
        self, x: Float[Tensor, "B C T H W"], t: Float[Tensor, " B"], cond: Condition
    ) -> Float[Tensor, "B C T H W"]:
        """Predict the velocity of noisy latents.

        Args:
            x: noisy latents; H and W multiples of the patch.
            t: times in [0, 1].
            cond: the rest.

        Returns:
            The velocity, in the dtype of `x`.
        """
        timestep = 1000 * t  # ContentV counts the same way, from data at 0 to noise at 1000
        dtype = self.patch.weight.dtype
        patches = patchify(x.to(dtype), self.config.patch_size)  # B T L (C q r), as the convolution's weights are
        tokens = F.linear(patches, self.patch.weight.flatten(1), self.patch.bias)
        _, rows, columns = self.config.patch_size
        grid = Grid(x.shape[2], x.shape[3] // rows, x.shape[4] // columns)
        video = rearrange(tokens + positions(grid, tokens), "B T L D -> B (T L) D")
        text = self.text(cond.tokens.to(dtype))
        vec = F.silu(self.time(sinusoid(timestep, FREQUENCIES).to(dtype)) + self.pooled(cond.pooled.to(dtype)))
        for block in self.blocks:
            video, text = block(video, text, vec)
        patches = self.head(self.last(video, text, vec), vec)
        velocity = rearrange(
            patches, "B (T h w) (q r C) -> B C T (h q) (w r)", T=grid.t, h=grid.h, w=grid.w, q=rows, r=columns
        )
        return velocity.to(x.dtype)


class Grid(NamedTuple):
    """Tokens along time, down and across."""

    t: int
    h: int
    w: int


def positions(grid: Grid, like: Float[Tensor, "B t L D"]) -> Float[Tensor, "t L D"]:
    """Tabulate when and where each token is: a quarter of the channels for time, three eighths for x, the rest for y.

    Nothing is learned. Frames count by 1, columns and rows by 2, all from the first. Along an axis, the first half of
    its channels are sines and the second cosines, of speeds that fall geometrically from 1 towards 1 / 10,000. As
    published, angles are in float64; but only along each axis, which leaves so few that a CPU makes them at once.

    Args:
        grid: tokens along each axis.
        like: the tokens, of which the table takes width, type and device.
    """
    dim = like.shape[-1]
    time = _wave(grid.t, 1.0, dim // 4, like)[:, None, None]
    across = _wave(grid.w, PLACE_STEP, dim * 3 // 8, like)[None, None, :]
    down = _wave(grid.h, PLACE_STEP, dim * 3 // 8, like)[None, :, None]
    return torch.cat([axis.expand(*grid, -1) for axis in (time, across, down)], dim=-1).flatten(1, 2)


def _wave(count: int, step: float, channels: int, like: Tensor) -> Float[Tensor, "{count} {channels}"]:
    half = channels // 2
    speeds = 10_000 ** -(torch.arange(half, dtype=torch.float64) / half)
    angles = step * torch.arange(count, dtype=torch.float64)[:, None] * speeds
    return torch.cat([angles.sin(), angles.cos()], dim=-1).to(like.dtype).to(like.device)


class Block(nn.Module):
    """Two streams, each modulated in its own way, that meet in one attention (Esser et al. 2024, figure 2b)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.video = Stream(config)
        self.text = Stream(config)

    def forward(
        self, video: Float[Tensor, "B L D"], text: Float[Tensor, "B S D"], vec: Float[Tensor, "B D"]
    ) -> tuple[Float[Tensor, "B L D"], Float[Tensor, "B S D"]]:
        video_modulation, text_modulation = self.video.chunks(vec), self.text.chunks(vec)
        ours, theirs = self.video.look(video, video_modulation), self.text.look(text, text_modulation)
        q, k, v = (torch.cat(pair, dim=2) for pair in zip(ours, theirs, strict=True))
        read = rearrange(attend(q, k, v), "B N L K -> B L (N K)")
        length = video.shape[1]
        video = self.video.take(video, read[:, :length], video_modulation)
        return video, self.text.take(text, read[:, length:], text_modulation)


class LastBlock(nn.Module):
    """The same, after which the text is needed no more: it is read, and reads nothing."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.video = Stream(config)
        self.text = ReadStream(config)

    def forward(
        self, video: Float[Tensor, "B L D"], text: Float[Tensor, "B S D"], vec: Float[Tensor, "B D"]
    ) -> Float[Tensor, "B L D"]:
        modulation = self.video.chunks(vec)
        q, k, v = self.video.look(video, modulation)
        _, text_k, text_v = self.text.look(text, vec)
        read = attend(q, torch.cat([k, text_k], dim=2), torch.cat([v, text_v], dim=2))
        return self.video.take(video, rearrange(read, "B N L K -> B L (N K)"), modulation)


Modulation = tuple[Float[Tensor, "B 1 D"], ...]


class Stream(nn.Module):
    """What one stream, video or text, has for itself in a block: all but the attention."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.modulation = nn.Linear(config.dim, 6 * config.dim)
        self.heads = Heads(config)
        self.out = nn.Linear(config.dim, config.dim)
        self.mlp = MLP(config.dim, config.mlp_ratio * config.dim)

    def chunks(self, vec: Float[Tensor, "B D"]) -> Modulation:
        """Return shift, scale and gate of the attention, then those of the MLP."""
        return self.modulation(vec)[:, None].chunk(6, dim=-1)

    def look(self, x: Float[Tensor, "B L D"], modulation: Modulation) -> tuple[Float[Tensor, "B N L K"], ...]:
        """Return queries, keys and values."""
        shift, scale, *_ = modulation
        return self.heads(modulate(x, shift, scale))

    def take(
        self, x: Float[Tensor, "B L D"], read: Float[Tensor, "B L D"], modulation: Modulation
    ) -> Float[Tensor, "B L D"]:
        """Add what the attention read, then what the MLP makes of it."""
        _, _, gate1, shift2, scale2, gate2 = modulation
        x = torch.addcmul(x, gate1, self.out(read))
        return torch.addcmul(x, gate2, self.mlp(modulate(x, shift2, scale2)))


class ReadStream(nn.Module):
    """What the text still has in the last block."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.modulation = nn.Linear(config.dim, 2 * config.dim)
        self.heads = Heads(config)

    def look(self, x: Float[Tensor, "B S D"], vec: Float[Tensor, "B D"]) -> tuple[Float[Tensor, "B N S K"], ...]:
        """Return queries, keys and values."""
        scale, shift = self.modulation(vec)[:, None].chunk(2, dim=-1)
        return self.heads(modulate(x, shift, scale))


class Heads(nn.Module):
    """Tokens to queries, keys and values, the first two normalised."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.dim, 3 * config.dim)
        self.q_norm = HeadNorm(config.head_dim)
        self.k_norm = HeadNorm(config.head_dim)

    def forward(self, x: Float[Tensor, "B L D"]) -> tuple[Float[Tensor, "B N L K"], ...]:
        q, k, v = rearrange(self.qkv(x), "B L (three N K) -> three B N L K", three=3, N=self.num_heads)
        return self.q_norm(q), self.k_norm(k), v


class MLP(nn.Module):
    """`nn.mlp.MLP` with the approximate GELU of the published model."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(dim, hidden)
        self.down = nn.Linear(hidden, dim)

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return self.down(F.gelu(self.up(x), approximate="tanh"))


class Head(nn.Module):
    """Tokens to patches, after a modulated norm."""

    def __init__(self, dim: int, patch: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, patch)

    def forward(self, x: Float[Tensor, "B L D"], vec: Float[Tensor, "B D"]) -> Float[Tensor, "B L P"]:
        scale, shift = self.modulation(vec)[:, None].chunk(2, dim=-1)
        return self.out(modulate(x, shift, scale))


def modulate(
    x: Float[Tensor, "B L D"], shift: Float[Tensor, "B 1 D"], scale: Float[Tensor, "B 1 D"]
) -> Float[Tensor, "B L D"]:
    """Normalise each token, then scale and shift it by what time and prompt say."""
    return torch.addcmul(shift, standardise(x), 1 + scale)


def _initialise(module: nn.Module) -> None:
    """Make every block the identity and the answer zero. Called for children before parents."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.xavier_uniform_(module.weight.data.flatten(1))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    if isinstance(module, Stream | ReadStream | Head):
        nn.init.zeros_(module.modulation.weight)
    if isinstance(module, Head):
        nn.init.zeros_(module.out.weight)


def condition(text: TextTokens, facts: Sequence[Facts]) -> Condition:
    """Make the condition of a batch. The model is told nothing of the clip, and reads padding as it reads tokens.

    Args:
        text: encoded prompts; without prompt, the encoded empty string.
        facts: of each sample.
    """
    return Condition(text.tokens, text.pooled)


def unused(config: Config) -> tuple[str, ...]:
    """Return the weights that were published and change nothing: the norm of queries that the text does not ask."""
    return ("last.text.heads.q_norm.weight",)


def keys(config: Config) -> Mapping[str, tuple[Key, ...]]:
    """Return the names of our tensors in the released folder, "diffusers", and in Stability's file, "official".

    Stability's file is that of Stable Diffusion 3.5, with ``model.diffusion_model.`` taken off its names; ContentV came
    out as a folder alone. The file has shift before scale where the folder has scale before shift.
    """
    return {layout: tuple(_keys(config, layout == "official")) for layout in ("diffusers", "official")}


def _keys(config: Config, is_official: bool) -> Iterator[Key]:
    rows = (config.dim,) * 3
    for ours, folder, file in _names(config):
        theirs = (file,) if is_official else folder
        swap = is_official and ours in ("head.modulation", "last.text.modulation")
        for kind in ("weight",) if ours.endswith("_norm") else ("weight", "bias"):
            names = tuple(f"{name}.{kind}" for name in theirs)
            yield Key(f"{ours}.{kind}", names, rows if len(names) > 1 else (), swap)


def _names(config: Config) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Yield each of our layers, its layers in the folder, and its layer in the file."""
    embedder = "time_text_embed"
    yield "patch", ("pos_embed.proj",), "x_embedder.proj"
    yield "text", ("context_embedder",), "context_embedder"
    for index in (0, 2):
        linear = f"linear_{index // 2 + 1}"
        yield f"time.{index}", (f"{embedder}.timestep_embedder.{linear}",), f"t_embedder.mlp.{index}"
        yield f"pooled.{index}", (f"{embedder}.text_embedder.{linear}",), f"y_embedder.mlp.{index}"
    for index in range(config.depth):
        block = "last" if index == config.depth - 1 else f"blocks.{index}"
        for stream in ("video", "text"):
            yield from _stream_names(f"{block}.{stream}", index, stream, ends=f"{block}.{stream}" == "last.text")
    yield "head.modulation", ("norm_out.linear",), "final_layer.adaLN_modulation.1"
    yield "head.out", ("proj_out",), "final_layer.linear"


def _stream_names(ours: str, index: int, stream: str, ends: bool) -> Iterator[tuple[str, tuple[str, ...], str]]:
    folder = f"transformer_blocks.{index}"
    if stream == "video":
        file, norm, mlp, out = f"joint_blocks.{index}.x_block", "norm1", "ff", "to_out.0"
        qkv, head_norm = ("to_q", "to_k", "to_v"), "norm"
    else:
        file, norm, mlp, out = f"joint_blocks.{index}.context_block", "norm1_context", "ff_context", "to_add_out"
        qkv, head_norm = ("add_q_proj", "add_k_proj", "add_v_proj"), "norm_added"
    yield f"{ours}.modulation", (f"{folder}.{norm}.linear",), f"{file}.adaLN_modulation.1"
    yield f"{ours}.heads.qkv", tuple(f"{folder}.attn.{name}" for name in qkv), f"{file}.attn.qkv"
    for which in ("q", "k"):
        yield f"{ours}.heads.{which}_norm", (f"{folder}.attn.{head_norm}_{which}",), f"{file}.attn.ln_{which}"
    if not ends:
        yield f"{ours}.out", (f"{folder}.attn.{out}",), f"{file}.attn.proj"
        yield f"{ours}.mlp.up", (f"{folder}.{mlp}.net.0.proj",), f"{file}.mlp.fc1"
        yield f"{ours}.mlp.down", (f"{folder}.{mlp}.net.2",), f"{file}.mlp.fc2"


def configured(config: Config, published: Mapping[str, Any]) -> Config:
    """Change a config to what a config.json of diffusers says.

    Raises:
        RecipeError: a value does not fit.
    """
    plain = dict(published)
    if "patch_size" in plain:
        plain["patches"] = [1, plain["patch_size"], plain["patch_size"]]
    return configs.changed(config, plain, PUBLISHED)


PUBLISHED = MappingProxyType(  # what a config.json of diffusers calls our values
    {
        "num_layers": "depth",
        "num_attention_heads": "num_heads",
        "attention_head_dim": "head_dim",
        "patches": "patch_size",
        "in_channels": "latent_channels",
        "joint_attention_dim": "text_dim",
        "pooled_projection_dim": "pooled_dim",
    }
)

FAMILY = Family(
    name="contentv",
    network=ContentV,
    presets=PRESETS,
    default="8B",
    parameters=MappingProxyType({"8B": 8_056_627_520, "tiny": 76_368}),
    process=FlowMatching(),  # Our reading: logit-normal times, as Stable Diffusion 3 was trained; not stated
    autoencoder=WanAutoencoder,
    encoder=ClipT5,
    condition=condition,
    sampling=Sampling(
        steps=50, sampler="euler", guidance=Guidance(text_scale=6.0), shift=3.0
    ),  # Our reading: the shift is that of Stable Diffusion 3.5 Large. The released scheduler's file has the last word
    accepts=Accepts(given="none"),
    keys=keys,
    masks_text=False,
    unused=unused,
    negative=NEGATIVE,
    configured=configured,
    quantized=("blocks.", "last."),  # our own; none were published
    release=Release(
        weights=MappingProxyType({"8B": ("hub:ByteDance/ContentV-8B",)}),
        licence="Stability AI Community License (the transformer) and the Apache License 2.0 (the autoencoder)",
        url="https://huggingface.co/ByteDance/ContentV-8B",
        clips=Clips(num_frames=125, height=432, width=768, fps=24),
        text_tokens=333,
        encoder_parameters=5_580_620_800,  # CLIP-L 0.124B, CLIP-G 0.695B, T5 XXL 4.762B
        autoencoder_dtype=torch.float32,
    ),
)
