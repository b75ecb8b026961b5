"""STIV: text, and any frames one has, to video, by a diffusion transformer with factorised attention.

Paper: Lin et al., "STIV: Scalable Text and Image Conditioned Video Generation", arXiv 2412.07730; sections named below
are those of the paper. Neither weights nor code were published, so there is nothing to be compatible with. The weights
of the preset ``toy`` are our own, trained by this package (Apache-2.0).

    latents B C T H W   -> patches of 2 2 2: B t L D, t = T/2 slots of L = H/2 * W/2 tokens
    singletons B D      <- time, pooled text, micro-conditions; one MLP makes the modulation of all layers of them
    depth - 2 blocks    attend in space, in time, to the text (B S D), then MLP; in masked training on half of the L
    2 blocks            the same on all of the L
    velocity B C T H W  <- head B t L (C 2 2 2)

The paper leaves much open. What we chose is marked ``Our reading`` where it stands; the main choices:

- The printed depth counts the two blocks after the mask: 46 blocks of width 3072 come to 8.8B and 48 to 9.2B, where
  8.7B is printed.
- Tokens left out by the mask come back as the patch embeddings they were, not as one learned mask token. So every token
  knows its noise and carries loss, no weight serves masked training alone, and a mask that keeps all tokens is no mask.
- The paper prints ``scale * norm(x) + shift``, without "1 +". The scale comes from a table of each layer that starts at
  one; gates start at zero, and so do the last layers of temporal and cross attention: at the start a block is the
  identity, and a video network made by `inflate` is its image network on every frame.
- The network is not told which frames are given (section 2.3): they are clean, and it sees that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mutoscope.autoencoders.toy import ToyAutoencoder
from mutoscope.core.errors import RecipeError, WeightsError
from mutoscope.diffusion.flow import FlowMatching
from mutoscope.diffusion.guidance import Guidance
from mutoscope.encoders.base import TextTokens
from mutoscope.encoders.words import Words
from mutoscope.models.family import Accepts, Facts, Family, Sampling
from mutoscope.nn.attention import attend
from mutoscope.nn.embed import Embed, sinusoid
from mutoscope.nn.mlp import MLP
from mutoscope.nn.norm import RMSNorm, standardise
from mutoscope.nn.patchify import patchify, unpatchify
from mutoscope.nn.rope import grid_rope, rotate

MICRO = {  # section 2.1, singleton conditions: what the model is told of a clip, as fields of Facts
    "resolution": ("height", "width"),
    "crop": ("crop_top", "crop_left"),
    "stride": ("stride",),
    "num_frames": ("num_frames",),
}
FREQUENCIES = 256  # channels of the sinusoid of one number (Our reading: as in DiT)


@dataclass(frozen=True)
class Config:
    """The shape of the network.

    Args:
        depth: blocks, those after the mask included.
        dim: width.
        head_dim: width of one attention head; a divisor of `dim` and a multiple of 4 (two axes of pairs).
        full_blocks: the last blocks, which see all tokens also when masking (section 2.2: two).
        mlp_ratio: width of the MLP as a multiple of `dim` (Our reading: 4, as in DiT).
        patch_size: latent frames, rows, columns of a token. Section 3.3: 2 frames for video.
            Our reading: 2 x 2 in space, as in DiT, and 1 frame for images.
        temporal: attend in time. False is the image model, which sees frames one by one.
        latent_channels: channels of the latents (section 3.2: an internal autoencoder with 8).
        text_dim: width of text tokens and pooled text (section 3.2: an internal CLIP of bigG size, 1280).
        rope_grid: tokens along T, H, W in the training that this one continues; positions of a longer axis are squeezed
            into that range (section 2.4, interpolation). None: positions count tokens.
        weighed: weigh input and answer by time, as Karras et al. 2022 (section 5) do, for data of unit variance. Ours,
            not the paper's (docs/decisions/0002-training.md).
    """

    depth: int
    dim: int
    head_dim: int = 64
    full_blocks: int = 2
    mlp_ratio: int = 4
    patch_size: tuple[int, int, int] = (2, 2, 2)
    temporal: bool = True
    latent_channels: int = 8
    text_dim: int = 1280
    rope_grid: tuple[int, int, int] | None = None
    weighed: bool = False

    def __post_init__(self) -> None:
        if self.dim % self.head_dim or self.head_dim % 4:
            raise RecipeError(
                f"head_dim={self.head_dim} does not fit dim={self.dim}. Use a divisor of dim that is a multiple of 4."
            )
        if not 0 <= self.full_blocks <= self.depth:
            raise RecipeError(f"full_blocks={self.full_blocks} of depth={self.depth} blocks. Use 0 to {self.depth}.")

    @property
    def pooled_dim(self) -> int:
        """Width of the pooled text: that of its tokens."""
        return self.text_dim


PRESETS = MappingProxyType(
    {
        "XL": Config(depth=28, dim=1152),  # table 1: 18, 24 and 48 heads of width 64
        "XXL": Config(depth=38, dim=1536),
        "M": Config(depth=46, dim=3072),
        "toy": Config(depth=6, dim=160, head_dim=32, patch_size=(4, 1, 1), text_dim=192, weighed=True),
        "tiny": Config(depth=3, dim=32, head_dim=8, latent_channels=4, text_dim=12, weighed=True),
    }
)


@dataclass(frozen=True)
class Condition:
    """What the network sees besides latents and time; `condition` makes one.

    Args:
        tokens: text tokens, for cross-attention.
        mask: True where a token is real; at least one in each sample.
        pooled: the text as one vector.
        micro: the numbers that `MICRO` names.
    """

    tokens: Float[Tensor, "B S Dt"]
    mask: Bool[Tensor, "B S"]
    pooled: Float[Tensor, "B Dt"]
    micro: Float[Tensor, "B 6"]

    def __getitem__(self, rows: slice) -> "Condition":
        return Condition(self.tokens[rows], self.mask[rows], self.pooled[rows], self.micro[rows])

    def to(self, device: torch.device | str) -> "Condition":
        """Return the same on another device."""
        return Condition(*(part.to(device) for part in (self.tokens, self.mask, self.pooled, self.micro)))

    @classmethod
    def cat(cls, parts: Sequence["Condition"]) -> "Condition":
        """Join batches along the samples, padding text to the longest."""
        longest = max(part.mask.shape[1] for part in parts)
        return Condition(
            torch.cat([F.pad(part.tokens, (0, 0, 0, longest - part.mask.shape[1])) for part in parts]),
            torch.cat([F.pad(part.mask, (0, longest - part.mask.shape[1]), value=False) for part in parts]),
            torch.cat([part.pooled for part in parts]),
            torch.cat([part.micro for part in parts]),
        )


class STIV(nn.Module):
    """The network. Its clock outside is the package's: t = 1 is noise, velocity = noise - data."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        frames, rows, columns = config.patch_size
        patch = config.latent_channels * frames * rows * columns
        self.patch = nn.Linear(patch, config.dim)
        self.text = nn.Linear(config.text_dim, config.dim)
        self.singletons = Singletons(config)
        self.modulation = SharedModulation(config.dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.head = Head(config.dim, patch)
        self.apply(_initialise)

    def forward(
        self,
        x: Float[Tensor, "B C T H W"],
        t: Float[Tensor, " B"],
        cond: Condition,
        *,
        keep: Int[Tensor, "B K"] | None = None,
        taps: dict[int, Tensor] | None = None,
    ) -> Float[Tensor, "B C T H W"]:
        """Predict the velocity of noisy latents.

        Args:
            x: noisy latents, given frames clean; T, H, W multiples of the patch.
            t: times in [0, 1].
            cond: the rest.
            keep: masked training: the spatial tokens that the main blocks see, as indices into the h * w of a slot in
                row-major order, the same number for every sample and the same ones in all its slots (section 2.2).
            taps: numbers of blocks; each gets the tokens that leave that block, for a loss on them.

        Returns:
            The velocity, in the dtype of `x`.
        """
        stiv_t = 1 - t  # section 2.1, flow matching: STIV's clock runs from noise at 0 to data at 1
        weights = weigh(t, x.dtype) if self.config.weighed else None
        inputs = x if weights is None else weights.input * x
        tokens = self.patch(patchify(inputs, self.config.patch_size))  # B t L D
        text = standardise(self.text(cond.tokens.to(x.dtype)))
        layers, head = self.modulation(self.singletons(stiv_t, cond, x.dtype))
        space, time = self._ropes(x)
        seen, seen_space = tokens, space
        if keep is not None:
            index = keep[:, None, :, None].expand(-1, tokens.shape[1], -1, tokens.shape[3])
            seen = tokens.gather(2, index)
            seen_space = repeat(space[:, keep], "two B K D -> two (B t) 1 K D", t=tokens.shape[1])
        num_masked = self.config.depth - self.config.full_blocks
        for number, block in enumerate(self.blocks):
            seen = block(seen, layers, text, cond.mask, seen_space, time)
            if keep is not None and number + 1 == num_masked:
                seen, seen_space = tokens.to(seen.dtype).scatter(2, index, seen), space
            if taps is not None and number in taps:
                taps[number] = seen
        height = x.shape[3] // self.config.patch_size[1]
        stiv_velocity = unpatchify(self.head(seen, head), self.config.patch_size, height)
        velocity = -stiv_velocity.to(x.dtype)  # its velocity is data - noise
        return velocity if weights is None else weights.answer * velocity + weights.skip * x

    def _ropes(self, x: Float[Tensor, "B C T H W"]) -> tuple[Float[Tensor, "2 L head"], Float[Tensor, "2 t head"]]:
        """Tabulate positions in space and in time; cheaper than keeping them."""
        grid = [size // patch for size, patch in zip(x.shape[2:], self.config.patch_size, strict=True)]
        trained = self.config.rope_grid or tuple(grid)
        space = grid_rope(grid[1:], self.config.head_dim, trained=trained[1:], device=x.device)
        return space, grid_rope(grid[:1], self.config.head_dim, trained=trained[:1], device=x.device)


class Singletons(nn.Module):
    """Time, pooled text and micro-conditions, each normalised without weights, then summed (section 2.1)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.time = Embed(FREQUENCIES, config.dim)
        self.pooled = Embed(config.text_dim, config.dim)
        self.micro = nn.ModuleList(Embed(FREQUENCIES * len(fields), config.dim) for fields in MICRO.values())

    def forward(self, stiv_t: Float[Tensor, " B"], cond: Condition, dtype: torch.dtype) -> Float[Tensor, "B D"]:
        total = standardise(self.time(sinusoid(1000 * stiv_t, FREQUENCIES).to(dtype)))  # Our reading: 1000, as in DiT
        total = total + standardise(self.pooled(cond.pooled.to(dtype)))
        numbers = sinusoid(cond.micro, FREQUENCIES).to(dtype).split([len(fields) for fields in MICRO.values()], dim=1)
        for embed, number in zip(self.micro, numbers, strict=True):
            total = total + standardise(embed(rearrange(number, "B m F -> B (m F)")))
        return total


class SharedModulation(nn.Module):
    """One MLP for all layers (section 2.1, shared scale, shift and gate). Our reading: it serves the head, too."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, 8 * dim)

    def forward(self, vec: Float[Tensor, "B D"]) -> tuple[Float[Tensor, "6 B 1 1 D"], Float[Tensor, "2 B 1 1 D"]]:
        parts = rearrange(self.out(F.silu(self.hidden(vec))), "B (m D) -> m B 1 1 D", m=8)
        return parts[:6], parts[6:]


class Block(nn.Module):
    """Attend in space, in time, to the text; then an MLP (sections 2.1 and 2.2).

    Space and MLP have the modulated sandwich norm, x + gate * norm(f(scale * norm(x) + shift)), with nothing learned in
    the norms. Time has no modulation (section 3.3). Our reading: nor has cross-attention, and where there is no gate
    there is no norm after the layer, so that it can start at zero. Cross-attention stands where PixArt-α has it.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(6, config.dim))  # Our reading: added to the shared part, as in PixArt-α
        self.spatial = SelfAttention(config.dim, config.head_dim)
        self.temporal = SelfAttention(config.dim, config.head_dim) if config.temporal else None
        self.cross = CrossAttention(config.dim, config.head_dim)
        self.mlp = MLP(config.dim, config.mlp_ratio * config.dim)

    def forward(
        self,
        x: Float[Tensor, "B t L D"],
        shared: Float[Tensor, "6 B 1 1 D"],
        text: Float[Tensor, "B S D"],
        mask: Bool[Tensor, "B S"],
        space: Float[Tensor, "2 *b L head"],
        time: Float[Tensor, "2 t head"],
    ) -> Float[Tensor, "B t L D"]:
        slots, positions = x.shape[1:3]
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation(shared, self.table, x.dtype)
        h = torch.addcmul(shift1, standardise(x), scale1)
        h = self.spatial(rearrange(h, "B t L D -> (B t) L D"), space)
        x = torch.addcmul(x, gate1, standardise(rearrange(h, "(B t) L D -> B t L D", t=slots)))
        if self.temporal is not None:
            h = self.temporal(rearrange(standardise(x), "B t L D -> (B L) t D"), time)
            x = x + rearrange(h, "(B L) t D -> B t L D", L=positions)
        h = self.cross(rearrange(standardise(x), "B t L D -> B (t L) D"), text, mask)
        x = x + rearrange(h, "B (t L) D -> B t L D", t=slots)
        h = self.mlp(torch.addcmul(shift2, standardise(x), scale2))
        return torch.addcmul(x, gate2, standardise(h))


class SelfAttention(nn.Module):
    """Attention among the tokens of a sequence, with rotary positions and normalised queries and keys."""

    def __init__(self, dim: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads = dim // head_dim
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm = RMSNorm(head_dim)
        self.k_norm = RMSNorm(head_dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "A L D"], rope: Float[Tensor, "2 *b L head"]) -> Float[Tensor, "A L D"]:
        parts = rearrange(self.qkv(x), "A L (three N K) -> three A N L K", three=3, N=self.num_heads)
        q, k, v = parts.contiguous()  # one copy here saves several in what follows
        h = attend(rotate(self.q_norm(q), rope), rotate(self.k_norm(k), rope), v)
        return self.out(rearrange(h, "A N L K -> A L (N K)"))


class CrossAttention(nn.Module):
    """Attention from every token of the video to those of its text, with normalised queries and keys."""

    def __init__(self, dim: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads = dim // head_dim
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.q_norm = RMSNorm(head_dim)
        self.k_norm = RMSNorm(head_dim)
        self.out = nn.Linear(dim, dim)

    def forward(
        self, x: Float[Tensor, "B L D"], text: Float[Tensor, "B S D"], mask: Bool[Tensor, "B S"]
    ) -> Float[Tensor, "B L D"]:
        q = rearrange(self.q(x), "B L (N K) -> B N L K", N=self.num_heads)
        k, v = rearrange(self.kv(text), "B S (two N K) -> two B N S K", two=2, N=self.num_heads)
        h = attend(self.q_norm(q), self.k_norm(k), v, mask)
        return self.out(rearrange(h, "B N L K -> B L (N K)"))


class Head(nn.Module):
    """Tokens to patches, after a modulated norm (Our reading: as in DiT, zero at the start)."""

    def __init__(self, dim: int, patch: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(2, dim))
        self.out = nn.Linear(dim, patch)

    def forward(self, x: Float[Tensor, "B t L D"], shared: Float[Tensor, "2 B 1 1 D"]) -> Float[Tensor, "B t L P"]:
        shift, scale = modulation(shared, self.table, x.dtype)
        return self.out(torch.addcmul(shift, standardise(x), scale))


class Weights(NamedTuple):
    """What the noisy latents, the network's answer, and the latents beside it are multiplied by: see `weigh`."""

    input: Float[Tensor, "B 1 1 1 1"]
    answer: Float[Tensor, "B 1 1 1 1"]
    skip: Float[Tensor, "B 1 1 1 1"]


def weigh(t: Float[Tensor, " B"], dtype: torch.dtype) -> Weights:
    """Weigh so that a network sees and is asked for unit variance at every time, if that of the data is one.

    The best multiple of noisy latents x gives the velocity as skip * x; the network answers what is left of it.

    Args:
        t: times in [0, 1].
        dtype: of the result.

    Source:
        Karras et al. 2022, "Elucidating the design space of diffusion-based generative models", section 5, here for
        x = (1 - t) latents + t noise and the velocity noise - latents.
    """
    t = rearrange(t.float(), "B -> B 1 1 1 1")
    variance = (1 - t) ** 2 + t**2
    length = variance.rsqrt().to(dtype)
    return Weights(length, length, ((2 * t - 1) / variance).to(dtype))


def modulation(
    shared: Float[Tensor, "m B 1 1 D"], table: Float[Tensor, "m D"], dtype: torch.dtype
) -> tuple[Float[Tensor, "B 1 1 D"], ...]:
    """Add a layer's own table to the shared modulation; in the dtype of the tokens, which it must not widen."""
    return (shared + table[:, None, None, None]).to(dtype).unbind(0)


def _initialise(module: nn.Module) -> None:
    """Make every block the identity and the answer zero; all else as in DiT. Called for children before parents."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
    if isinstance(module, Block):
        module.table.data.copy_(torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0, 0.0])[:, None])
        for attention in (module.temporal, module.cross):
            if attention is not None:
                nn.init.zeros_(attention.out.weight)
    if isinstance(module, Head):
        module.table.data.copy_(torch.tensor([0.0, 1.0])[:, None])
    if isinstance(module, Head | SharedModulation):
        nn.init.zeros_(module.out.weight)


def condition(text: TextTokens, facts: Sequence[Facts]) -> Condition:
    """Make the condition of a batch.

    Args:
        text: encoded prompts; without prompt, the encoded empty string.
        facts: of each sample.
    """
    names = [name for fields in MICRO.values() for name in fields]
    micro = torch.tensor([[float(getattr(fact, name)) for name in names] for fact in facts])
    return Condition(text.tokens, text.mask, text.pooled, micro.to(text.tokens.device))


def inflate(image: Mapping[str, Tensor], config: Config) -> dict[str, Tensor]:
    """Grow an image model into a video model (section 2.4).

    Patch weights are spread evenly over the frames of a patch and the head's are repeated, so a slot of equal frames is
    to the video model what one of them is to the image model. Temporal attention is random, with a last layer of zero:
    before training, the video model answers each slot as the image model answers the mean of its frames.

    Args:
        image: state of a network with ``patch_size[0] == 1`` and ``temporal=False``, otherwise like `config`.
        config: of the video model.

    Returns:
        The state of the video model.
    """
    state = STIV(config).state_dict()
    frames, channels = config.patch_size[0], config.latent_channels
    growth = {"patch.weight": frames, "head.out.weight": frames, "head.out.bias": frames}
    names = [name for name in state if ".temporal." not in name]
    _refuse_unless(image, {name: state[name].numel() // growth.get(name, 1) for name in names}, "an image model")
    for name in names:
        state[name] = image[name]
    state["patch.weight"] = repeat(image["patch.weight"], "D (C q) -> D (C p q)", C=channels, p=frames) / frames
    for name in ("head.out.weight", "head.out.bias"):
        state[name] = repeat(image[name], "(C q) ... -> (C p q) ...", C=channels, p=frames)
    return state


def join(image: Mapping[str, Tensor], video: Mapping[str, Tensor], config: Config) -> dict[str, Tensor]:
    """Start a high-resolution video model from all that is at hand (section 3.3, "both").

    Args:
        image: state of the image model of high resolution; gives every weight but those of temporal attention.
        video: state of the video model of low resolution; gives temporal attention.
        config: of the new video model; set `rope_grid` to the tokens that `video` was trained on to squeeze positions.

    Returns:
        The state of the new video model.
    """
    state = inflate(image, config)
    _refuse_unless(video, {name: tensor.numel() for name, tensor in state.items()}, "a video model")
    return state | {name: video[name] for name in state if ".temporal." in name}


def _refuse_unless(given: Mapping[str, Tensor], numbers: Mapping[str, int], what: str) -> None:
    """Refuse weights unless each tensor is there, with that many numbers, and there is no other."""
    wrong = sorted(given.keys() ^ numbers.keys())
    wrong += [name for name, number in numbers.items() if name in given and given[name].numel() != number]
    if wrong:
        raise WeightsError(
            f"these are not the weights of {what} of this config: {len(wrong)} tensors differ, {wrong[0]} among them. "
            "Give weights of the same depth, dim and latent_channels; an image model has patch_size=(1, ...) and "
            "temporal=False."
        )


FAMILY = Family(
    name="stiv",
    network=STIV,
    presets=PRESETS,
    default="toy",
    parameters=MappingProxyType(
        {  # table 1 prints 600M, 1.5B, 8.7B; the first two fit without temporal attention (docs/families/stiv.md)
            "XL": 769_027_264,
            "XXL": 1_836_731_200,
            "M": 8_840_874_304,
            "toy": 3_841_664,
            "tiny": 140_144,
        }
    ),
    process=FlowMatching(),
    autoencoder=ToyAutoencoder,
    encoder=Words,
    condition=condition,
    sampling=Sampling(
        steps=50, sampler="euler", guidance=Guidance(text_scale=7.5, renormalised_by="sample")
    ),  # section 3.4: joint guidance of 7.5, renormalised. Our reading: Euler, 50 steps, the whole sample as axis
    accepts=Accepts(given="any"),
    inflate=inflate,
    join=join,
)
