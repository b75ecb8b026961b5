"""HunyuanVideo-I2V: a picture and a sentence to a video that begins with the picture; HunyuanVideo shown an image.

Released without a paper of its own; the network is that of Kong et al., arXiv 2412.03603, see `hunyuan`. The weights
are under the Tencent Hunyuan Community License, with its limits on territory and use: see there, and read it first.

    picture                    -> the language model sees it and puts tokens of it in front of the prompt's; and
                               -> its latents B C 1 H W, which come in by one of two ways:
    ``replace``  B C T H W     the first latent frame is the picture's, clean, and its tokens are modulated as those of
                               a clean image: by the vec of t = 0, without guidance
    ``concat``   B 2C+1 T H W  the picture's latents, and a mask of the frames that they fill, are channels beside the
                               noisy latents; the video begins with the fifth frame that is decoded
    the rest                   as in `hunyuan`, and RIFLEx in long clips

The presets ``replace`` and ``steady`` have the same weights. A steady clip starts from noise with a thousandth of the
picture in every frame, and on a grid of another shift; it moves less, and keeps nearer to the picture.

How ours differs from the published code: as in `hunyuan`; and the language model sees the picture in the size of the
clip, where the published one sees it in its own. Both are scaled to the language model's square, which is the same part
of the picture.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mutoscope.autoencoders.hunyuan import HunyuanAutoencoder
from mutoscope.core.errors import RequestError
from mutoscope.core.weights import Key
from mutoscope.diffusion.flow import FlowMatching
from mutoscope.diffusion.guidance import Guidance
from mutoscope.encoders.base import TextTokens
from mutoscope.encoders.llm import LlavaClip, published_template, read_template
from mutoscope.models import hunyuan
from mutoscope.models.family import Accepts, Clips, Facts, Family, Reader, Release, Sampling
from mutoscope.models.hunyuan import GUIDANCE, Hunyuan, Layout, side_by_side

STRIDE = MappingProxyType({"replace": 4, "concat": 2})  # every so manieth token of the picture goes with the prompt
STABILITY = 0.001  # share of the picture in the noise that a steady clip starts from
DROPPED = 4  # decoded frames in front, with ``concat``; those of one latent frame
NEGATIVE = "deformation, a poor composition and deformed video, bad teeth, bad eyes, bad limbs"


@dataclass(frozen=True)
class Config:
    """The shape of the network.

    Args:
        base: of the network without a picture.
        image: how the picture comes in: in place of the first latent frame, or as further channels.
    """

    base: hunyuan.Config
    image: Literal["replace", "concat"]

    @property
    def patch_size(self) -> tuple[int, int, int]:
        """Latent frames, rows and columns of a token."""
        return self.base.patch_size

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return self.base.latent_channels

    @property
    def text_dim(self) -> int:
        """Width of the text tokens."""
        return self.base.text_dim

    @property
    def pooled_dim(self) -> int:
        """Width of the pooled text."""
        return self.base.pooled_dim

    @property
    def in_channels(self) -> int:
        """Channels that are cut into patches: with ``concat``, those of noise and picture, and the mask."""
        return 2 * self.latent_channels + 1 if self.image == "concat" else self.latent_channels


_REPLACE = Config(hunyuan.Config(riflex=True), "replace")
PRESETS = MappingProxyType(
    {
        "replace": _REPLACE,
        "steady": _REPLACE,
        "concat": Config(hunyuan.Config(riflex=True, embeds_guidance=False), "concat"),
        "small": Config(  # HYVideo-S/2, never released
            hunyuan.Config(
                depth=6,
                single_depth=12,
                dim=480,
                num_heads=5,
                rope_dims=(12, 42, 42),
                riflex=True,
                embeds_guidance=False,
            ),
            "replace",
        ),
        "tiny": Config(hunyuan.PRESETS["tiny"], "replace"),
        "tiny-concat": Config(replace(hunyuan.PRESETS["tiny"], embeds_guidance=False), "concat"),
    }
)


@dataclass(frozen=True)
class Condition:
    """What the network sees besides latents and time; `condition` makes one.

    Args:
        text: as in `hunyuan`.
        image: latents of the first frame, for ``concat``; with ``replace`` they are among the noisy ones.
    """

    text: hunyuan.Condition
    image: Float[Tensor, "B C 1 H W"] | None = None

    def __getitem__(self, rows: slice) -> "Condition":
        return Condition(self.text[rows], None if self.image is None else self.image[rows])

    def to(self, device: torch.device | str) -> "Condition":
        """Return the same on another device."""
        return Condition(self.text.to(device), None if self.image is None else self.image.to(device))

    @classmethod
    def cat(cls, parts: Sequence["Condition"]) -> "Condition":
        """Join batches along the samples, padding text to the longest."""
        images = [part.image for part in parts if part.image is not None]
        if images and len(images) < len(parts):
            raise RequestError("Some samples of a batch have an image and some have none. Make a batch of each.")
        return cls(hunyuan.Condition.cat([part.text for part in parts]), torch.cat(images) if images else None)


class HunyuanI2V(nn.Module):
    """The network. Clock and sign are those of `diffusion.process`: t = 1 is noise, velocity = noise - data.

    `forward` is `trunk` and then `tip`, as in `hunyuan.Hunyuan`.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.base = Hunyuan(config.base, config.in_channels)

    def forward(
        self, x: Float[Tensor, "B C T H W"], t: Float[Tensor, " B"], cond: Condition
    ) -> Float[Tensor, "B C T H W"]:
        """Return the velocity.

        Args:
            x: noisy latents; T, H, W multiples of the patch. With ``replace``, the first latent frame is clean.
            t: time of each sample, in [0, 1].
            cond: of the same samples.

        Returns:
            The velocity, in the dtype of `x`.

        Raises:
            RequestError: there is an image in the condition and the network takes none, or the other way round.
        """
        if (order := side_by_side(cond.text.lengths)) is not None:
            by_length = Condition.cat([cond[row : row + 1] for row in order])
            return self(x[order], t[order], by_length)[torch.tensor(order).argsort()]
        vec, layout = self.vec(t, cond), self.layout(x.shape[2:], cond)
        return self.tip(self.trunk(x, t, cond, vec, layout), vec, layout).to(x.dtype)

    def vec(self, t: Float[Tensor, " B"], cond: Condition) -> Float[Tensor, "B r D"]:
        """Return what modulates every block: with ``replace``, first that of the first latent frame; then of the rest.

        A clean frame has the time 0 whatever the time of the others, and no guidance.
        """
        rest = self.base.vec(t, cond.text)
        if self.config.image == "concat":
            return rest
        clean = F.silu(self.base.time_and_text(torch.zeros_like(t), cond.text))
        return torch.cat([clean[:, None], rest], dim=1)

    def layout(self, size: Sequence[int], cond: Condition) -> Layout:
        """Say where the tokens are, of latents of `size` T H W."""
        layout = self.base.layout(size, cond.text)
        _, h, w = layout.grid
        return layout if self.config.image == "concat" else layout._replace(first=h * w)

    def trunk(
        self,
        x: Float[Tensor, "B C T H W"],
        t: Float[Tensor, " B"],
        cond: Condition,
        vec: Float[Tensor, "B r D"],
        layout: Layout,
    ) -> Float[Tensor, "B M D"]:
        """Return the tokens before the last single block: of the video, then of the text."""
        return self.base.trunk(self.shown(x, cond), t, cond.text, vec, layout)

    def tip(
        self, tokens: Float[Tensor, "B M D"], vec: Float[Tensor, "B r D"], layout: Layout
    ) -> Float[Tensor, "B C T H W"]:
        """Return the velocity that the tokens before the last single block come to."""
        return self.base.tip(tokens, vec, layout)

    def shown(self, x: Float[Tensor, "B C T H W"], cond: Condition) -> Float[Tensor, "B channels T H W"]:
        """Put the channels of the picture beside those of the noisy latents, if that is how the network takes it."""
        if (cond.image is not None) != (self.config.image == "concat"):
            raise RequestError(
                "This network needs the latents of a first frame in its condition. Give the clip's first frame."
                if cond.image is None
                else f'A network with image="{self.config.image}" has no channels for an image. Leave it out.'
            )
        if cond.image is None:
            return x
        later = (0, 0, 0, 0, 0, x.shape[2] - 1)  # zeros for all frames but the first
        mask = torch.ones_like(cond.image[:, :1])
        return torch.cat([x, F.pad(cond.image, later).to(x.dtype), F.pad(mask, later).to(x.dtype)], dim=1)


def condition(
    text: TextTokens,
    facts: Sequence[Facts],
    *,
    guidance: float = GUIDANCE,
    image: Float[Tensor, "B C 1 H W"] | None = None,
) -> Condition:
    """Make the condition of a batch; these networks are told nothing of a clip's size.

    Args:
        text: encoded prompts, each with its picture; without prompt, the encoded empty string with a black one.
        facts: of each sample; not looked at.
        guidance: scale of guidance that a distilled network imitates, at least 1.
        image: latents of the first frame, for ``concat``.

    Raises:
        RequestError: a prompt has no token at all.
    """
    return Condition(hunyuan.condition(text, facts, guidance=guidance), image)


def example(config: Config, text: TextTokens, facts: Sequence[Facts], size: Sequence[int]) -> Condition:
    """Make up a condition for latents of `size` T H W: with a grey first frame, where the network takes one so."""
    shape = len(text.pooled), config.latent_channels, 1, *size[1:]
    return condition(text, facts, image=text.pooled.new_zeros(shape) if config.image == "concat" else None)


def tell(config: Config, cond: Condition, guidance: float, image: Float[Tensor, "B C 1 H W"] | None) -> Condition:
    """Put the scale of guidance that a request asks for into a condition, and with ``concat`` the first frame."""
    shown = image if config.image == "concat" else None
    return Condition(hunyuan.tell(config.base, cond.text, guidance, image), shown)


def start(
    config: Config, noise: Float[Tensor, "B C T H W"], image: Float[Tensor, "B C 1 H W"], image_share: float = 0.0
) -> Float[Tensor, "B C T H W"]:
    """Return the state from which to animate a picture.

    Args:
        config: of the network; with ``replace`` the first frame of the result is the picture, and a guided field that
            holds it as given (`diffusion.guidance.Given`) never moves it.
        noise: standard normal.
        image: latents of the first frame.
        image_share: of the picture in every frame of the noise.
    """
    state = (1 - image_share) * noise + image_share * image if image_share else noise
    return torch.cat([image, state[:, :, 1:]], dim=2) if config.image == "replace" else state


def configured(config: Config, published: Mapping[str, Any]) -> Config:
    """Change a config to what a config.json of diffusers says; how the picture comes in stays as the preset has it.

    Raises:
        RecipeError: a value does not fit, or the network is another.
    """
    return replace(config, base=hunyuan.configured(config.base, published))


def reader(config: Config, template: Path | None) -> Reader:
    """Say how prompts are read: in the published template with a place for the picture, or in one from a file."""
    stride = STRIDE[config.image]
    names = "video_i2v", "image_i2v"
    around = published_template("video_i2v") if template is None else read_template(template, names)
    return Reader(lambda path: LlavaClip.load(path, around, stride=stride), (around.text, f"stride {stride}"))


def keys(config: Config) -> Mapping[str, tuple[Key, ...]]:
    """Return the names of all our tensors in the official files and in those of diffusers: those of `hunyuan`."""
    return {
        layout: tuple(key._replace(ours=f"base.{key.ours}") for key in found)
        for layout, found in hunyuan.keys(config.base).items()
    }


_SAMPLING = Sampling(steps=50, sampler="euler", guidance=Guidance(GUIDANCE, image_scale=1.0), shift=17.0)
_COMMUNITY, _TENCENT = "hub:hunyuanvideo-community/HunyuanVideo-I2V", "hub:tencent/HunyuanVideo-I2V"
_REPLACED = (_COMMUNITY, f"{_TENCENT}/hunyuan-video-i2v-720p")

FAMILY = Family(
    name="hunyuan_i2v",
    network=HunyuanI2V,
    presets=PRESETS,
    default="replace",
    parameters=MappingProxyType(
        {
            "replace": 12_821_012_544,
            "steady": 12_821_012_544,
            "concat": 12_810_991_680,
            "small": 103_854_592,
            "tiny": 171_152,
            "tiny-concat": 162_512,
        }
    ),
    process=FlowMatching(),
    autoencoder=HunyuanAutoencoder,
    encoder=LlavaClip,
    condition=condition,
    sampling=_SAMPLING,
    own_sampling=MappingProxyType(
        {
            "steady": replace(_SAMPLING, shift=7.0, image_share=STABILITY),
            "concat": replace(_SAMPLING, guidance=Guidance(1.0, image_scale=1.0)),  # as its command has it: none
        }
    ),
    accepts=Accepts(given="first", needs_first=True),
    keys=keys,
    example=example,
    embeds_guidance=lambda config: config.base.embeds_guidance,
    tell=tell,
    holds_given=lambda config: config.image == "replace",
    start=start,
    dropped=lambda config: DROPPED if config.image == "concat" else 0,
    negative=NEGATIVE,
    sees_pictures=True,
    reader=reader,
    configured=configured,
    quantized=("base.doubles.", "base.singles."),  # as `hunyuan`
    release=Release(
        weights=MappingProxyType(
            {"replace": _REPLACED, "steady": _REPLACED, "concat": (f"{_COMMUNITY}-33ch",)},
        ),
        licence="Tencent Hunyuan Community License (not for use in the EU, the UK and South Korea)",
        url="https://huggingface.co/tencent/HunyuanVideo-I2V",
        clips=Clips(num_frames=129, height=720, width=1280, fps=24, side=960),
        text_tokens=396,  # 252 of the prompt, 144 of the picture
        encoder_parameters=7_952_734_464,  # the language model of 7.505B, its eye, and CLIP-L
        autoencoder_dtype=torch.float16,
    ),
)
