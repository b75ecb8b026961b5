"""What a model file must offer, and how it is found by name.

A family is one module here, ``mutoscope/models/<name>.py``, whose last statement is ``FAMILY = Family(...)``. Nothing
lists the families: a file that is there is one (docs/adding-a-family.md). A model is a family and one of its presets,
``stiv/toy``; hyphen and underscore do as well as the slash, and a family alone means its default preset.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from mutoscope import models
from mutoscope.core.errors import RequestError
from mutoscope.core.weights import Key
from mutoscope.diffusion.flow import FlowMatching
from mutoscope.diffusion.guidance import Guidance
from mutoscope.diffusion.samplers import Restarts
from mutoscope.encoders.base import Encoder, TextTokens


@dataclass(frozen=True)
class Facts:
    """What a model may be told of a clip besides its prompt.

    Args:
        height: of the clip before it was resized or cropped, in pixels. To ask for sharp pictures: the size asked for.
        width: the same, across.
        num_frames: frames of the clip as the model sees it.
        crop_top: pixels cut away above, after resizing.
        crop_left: pixels cut away at the left, after resizing.
        stride: frames of the source from one frame of the clip to the next, at least 1.
    """

    height: int
    width: int
    num_frames: int
    crop_top: int = 0
    crop_left: int = 0
    stride: int = 1


@runtime_checkable
class Condition(Protocol):
    """All that a network sees besides the noisy latents and the time: tensors whose first axis is the sample."""

    def __getitem__(self, rows: slice) -> "Condition":
        """Return some of the samples."""
        ...

    def to(self, device: torch.device | str) -> "Condition":
        """Return the same on another device."""
        ...

    @classmethod
    def cat(cls, parts: Sequence[Any]) -> "Condition":
        """Join batches along the samples, padding text to the longest."""
        ...


@runtime_checkable
class Config(Protocol):
    """What the rest of the package asks of a network's config; the rest of its fields are the family's own."""

    @property
    def patch_size(self) -> tuple[int, int, int]:
        """Latent frames, rows and columns that make one token."""
        ...

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        ...

    @property
    def text_dim(self) -> int:
        """Width of the text tokens."""
        ...

    @property
    def pooled_dim(self) -> int:
        """Width of the pooled text."""
        ...


@dataclass(frozen=True)
class Sampling:
    """How a family is sampled unless the request says otherwise.

    Args:
        steps: sampling steps, at least 1.
        sampler: a function of `diffusion.samplers`.
        guidance: scales and renormalisation.
        shift: of the grid of times; 1 leaves it even.
        image_share: of the given first frame in the noise of every frame, for families with a `Family.start`.
        restarts: how often the sampler goes back towards noise; None for never.
    """

    steps: int
    sampler: Literal["euler", "heun", "adams_bashforth"]
    guidance: Guidance
    shift: float = 1.0
    image_share: float = 0.0
    restarts: Restarts | None = None


@dataclass(frozen=True)
class Accepts:
    """What a request may bring besides sizes, which the autoencoder knows.

    Args:
        given: which frames may be given clean: none, the first alone, or any.
        needs_first: there is nothing to make without the first frame.
    """

    given: Literal["none", "first", "any"]
    needs_first: bool = False


@dataclass(frozen=True)
class Clips:
    """The clips that a model makes unless asked otherwise.

    Args:
        num_frames: frames that it samples.
        height: pixels down.
        width: pixels across.
        fps: frames a second.
        side: of the square, in pixels, whose area a clip has that takes its shape from the picture it begins with, as
            `data.buckets` has it; None where clips keep their shape.
    """

    num_frames: int
    height: int
    width: int
    fps: int
    side: int | None = None


@dataclass(frozen=True)
class Release:
    """Where the published weights of a family are, and on what terms.

    Args:
        weights: for each published preset, the places that hold it, as `core.folders` reads them. The first is a folder
            with everything: ``transformer``, ``vae``, and text encoders with their tokenizers.
        licence: what it is called.
        url: where it can be read.
        clips: what the published weights make unless asked otherwise.
        text_tokens: of the longest prompt.
        encoder_parameters: of all that encodes a prompt.
        autoencoder_dtype: type in which the published code runs the autoencoder.
    """

    weights: Mapping[str, Sequence[str]]
    licence: str
    url: str
    clips: Clips
    text_tokens: int
    encoder_parameters: int
    autoencoder_dtype: torch.dtype


@dataclass(frozen=True)
class Reader:
    """How prompts are read.

    Args:
        load: (folder with text encoders and tokenizers) -> the encoder.
        settings: all that decides how it encodes besides what is in the folder; remembered encodings are told apart by
            them.
        folders: names or patterns of what it reads in that folder.
    """

    load: Callable[[Path], Encoder]
    settings: tuple[str, ...] = ()
    folders: tuple[str, ...] = ("text_encoder*", "tokenizer*")


@dataclass(frozen=True)
class Family:
    """One published system, or one of our own.

    Args:
        name: of its module.
        network: builds the network from a config. Its forward takes (latents "B C T H W", t " B", condition) and
            returns a velocity, on the clock of `diffusion.process`.
        presets: configs by name; one is ``tiny``, small enough for tests.
        default: the preset meant when none is named.
        parameters: number of parameters of each preset, as counted without allocating it.
        process: how it is trained.
        autoencoder: class of the autoencoder whose latents it makes: an `autoencoders.base.Autoencoder` and a module,
            with ``load(path)``.
        encoder: class of the text encoder whose tokens it reads: an `encoders.base.Encoder` and a module, with
            ``load(path)``.
        condition: (text tokens, facts of each sample) -> condition.
        sampling: defaults.
        accepts: what a request may bring.
        keys: config -> for each published layout of weights, the names there of all our tensors.
        inflate: (weights of an image model, config of a video model) -> weights to start training the video model from;
            None if the family has no image model.
        join: the same from (weights of an image model, those of a video model, config).
        masks_text: padded text tokens are not looked at. False where the published model does look at them; its
            encoder's tokens are then all real, and always as many.
        unused: config -> names of the tensors that were published and change nothing; no gradient reaches them.
        release: its published weights, if there are any.
        example: (config, text tokens, facts, T H W of the latents) -> a made-up condition, for tests and timings; None
            if a condition needs text and facts alone.
        own_sampling: defaults of the presets that have others than `sampling`.
        embeds_guidance: config -> the network was distilled to follow a scale of guidance that it is told, by `tell`;
            then that is what a request's guidance is, and the prompt is not guided besides.
        tell: (config, condition, scale of guidance, latents of the given first frame or None) -> the condition with
            what the network is told of them; None if it is told neither.
        holds_given: config -> given frames are in the latents, clean whenever the network sees them, and stay what they
            are. False where it is told of them by its condition alone.
        start: (config, noise, latents of the given first frame, `Sampling.image_share`) -> the state that sampling
            starts from; None if it is noise.
        dropped: config -> decoded frames at the beginning that are no part of the video.
        negative: what to lead away from unless a request says otherwise, where a step is evaluated without the prompt.
        sees_pictures: its encoder is shown the first frame with the prompt: an `encoders.base.SeeingEncoder`.
        speaks: it makes somebody speak: `tasks.avatar` runs it.
        quantized: beginnings of the names of those parts of the network whose linear layers may be kept in eight bits,
            as `placement.quantize` does it.
        reader: (config, file with the template of prompts, or None) -> how its prompts are read; None if ``load`` of
            the encoder says it all, and there is no template.
        configured: (config, a published config.json of such a network) -> the config of that network; None if there is
            no such JSON.
    """

    name: str
    network: Callable[[Any], nn.Module]
    presets: Mapping[str, Any]
    default: str
    parameters: Mapping[str, int]
    process: FlowMatching
    autoencoder: type[Any]
    encoder: type[Any]
    condition: Callable[[TextTokens, Sequence[Facts]], Any]
    sampling: Sampling
    accepts: Accepts
    keys: Callable[[Any], Mapping[str, Sequence[Key]]] = lambda _: {}
    inflate: Callable[[Mapping[str, Tensor], Any], dict[str, Tensor]] | None = None
    join: Callable[[Mapping[str, Tensor], Mapping[str, Tensor], Any], dict[str, Tensor]] | None = None
    masks_text: bool = True
    unused: Callable[[Any], Sequence[str]] = lambda _: ()
    release: Release | None = None
    example: Callable[[Any, TextTokens, Sequence[Facts], Sequence[int]], Any] | None = None
    own_sampling: Mapping[str, Sampling] = field(default_factory=dict)
    embeds_guidance: Callable[[Any], bool] = lambda _: False
    tell: Callable[[Any, Any, float, Tensor | None], Any] | None = None
    holds_given: Callable[[Any], bool] = lambda _: True
    start: Callable[[Any, Tensor, Tensor, float], Tensor] | None = None
    dropped: Callable[[Any], int] = lambda _: 0
    negative: str = ""
    sees_pictures: bool = False
    speaks: bool = False
    quantized: Sequence[str] = ()
    reader: Callable[[Any, Path | None], Reader] | None = None
    configured: Callable[[Any, Mapping[str, Any]], Any] | None = None

    def guidance_around(self, config: Any, guidance: Guidance) -> Guidance:
        """Return what of a guidance is left to do around the network, by calling it with less than it could see."""
        return replace(guidance, text_scale=1.0) if self.embeds_guidance(config) else guidance

    def reader_of(self, config: Any, template: Path | None) -> Reader:
        """Say how prompts are read.

        Args:
            config: of the network.
            template: file with what stands around a prompt; None for the published one.

        Raises:
            RequestError: the template is none of this family's, or there is none to be had.
        """
        if self.reader is not None:
            return self.reader(config, template)
        if template is not None:
            raise RequestError(f"{self.name} puts nothing around a prompt. Leave --template out.")
        return Reader(self.encoder.load)


def families() -> list[str]:
    """Return the names of all families, sorted: the modules beside this one."""
    own = __name__.rpartition(".")[2]
    return sorted(module.name for module in pkgutil.iter_modules(models.__path__) if module.name != own)


def find(name: str) -> tuple[Family, Any]:
    """Return the family that a model name means, and the config of its preset.

    Args:
        name: ``family/preset`` or ``family``; a hyphen or an underscore will do for the slash.

    Raises:
        RequestError: there is no such model; names the nearest one.
    """
    family, preset = resolve(name)
    return load(family), load(family).presets[preset]


def resolve(name: str) -> tuple[str, str]:
    """Return the names of the family and the preset that a model name means.

    Raises:
        RequestError: there is no such model; names the nearest one.
    """
    wanted = _plain(name)
    for family in sorted(families(), key=len, reverse=True):  # a variant, hunyuan_avatar, before its parent
        if wanted == family:
            return family, load(family).default
        if wanted.startswith(f"{family}_"):
            presets = {_plain(preset): preset for preset in load(family).presets}
            preset = presets.get(wanted.removeprefix(f"{family}_"))
            if preset is not None:
                return family, preset
    every = [f"{family}/{preset}" for family in families() for preset in load(family).presets]
    nearest = difflib.get_close_matches(wanted, [_plain(model) for model in every], n=1, cutoff=0.0)
    suggestion = next(model for model in every if _plain(model) == nearest[0])
    raise RequestError(f"model {name!r} is not known. There are {', '.join(every)}. Did you mean {suggestion}?")


def load(family: str) -> Family:
    """Import a family by its exact name."""
    return importlib.import_module(f"{models.__name__}.{family}").FAMILY


def _plain(name: str) -> str:
    return name.strip().lower().replace("/", "_").replace("-", "_")
