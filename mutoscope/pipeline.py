"""From a request to a video: prepare, sample, decode. The one sampling path for every caller.

    Request --prepare--> Prepared --sample--> latents "B C T H W" --decode--> frames --> Video

`generate` is the three in a row. Validation in training enters there; alignment enters at `sample`, where trajectories
are seen through `on_step`; a server calls the three by itself, to batch, preview and stop. `stream` is for one video
that goes into a file: it is decoded as it is written, and its frames are never all in memory. A clip depends on its
own request alone: its noise is drawn from its seed, whatever else is in the batch.
"""

import json
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field, replace
from fractions import Fraction
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, get_args

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from mutoscope.autoencoders.base import Autoencoder, LatentShape, Patch
from mutoscope.autoencoders.base import Size as PixelSize
from mutoscope.core import config, folders, rng
from mutoscope.core.errors import RequestError, WeightsError
from mutoscope.core.video import Video
from mutoscope.diffusion import samplers
from mutoscope.diffusion.guidance import Axes, Branch, Given, Guidance, guide
from mutoscope.diffusion.samplers import OnStep, Restarts, Sampler, restarting, stretches
from mutoscope.diffusion.schedule import grid
from mutoscope.encoders.base import Encoder, SeeingEncoder, TextTokens
from mutoscope.models.family import Condition, Config, Facts, Family, Release, Sampling, find, resolve
from mutoscope.models.family import load as load_family
from mutoscope.placement.blocks import return_large_blocks
from mutoscope.placement.offload import resident
from mutoscope.placement.quantize import Quantize
from mutoscope.plan import Decoding, Tileable, Way, Workload, choose_decoding, refuse_quantized

SAMPLERS: Mapping[str, Sampler] = {
    "euler": samplers.euler,
    "heun": samplers.heun,
    "adams_bashforth": samplers.adams_bashforth,
}
DEFAULT_MODEL = "stiv/toy"
BUNDLED = Path(str(resources.files("mutoscope") / "bundled"))
# The bundled companions of a model, when none lie beside its own weights.
AUTOENCODER, ENCODER = "autoencoder_toy.safetensors", "words.safetensors"
TEXT_TOKENS = 64  # of a prompt of the bundled model, which is not known when memory is planned


@dataclass(frozen=True)
class Request:
    """What to generate. None stands for the model's own default.

    Args:
        prompt: what the video should show.
        given: pictures that are known, by frame index; each already of the video's size.
        num_frames: frames.
        height: pixels.
        width: pixels.
        fps: frames a second, as played.
        steps: sampling steps.
        guidance: how strongly to follow the prompt, and the given pictures unless `image_guidance` says otherwise; 1 is
            as trained. A network that was distilled to follow guidance is told this number.
        image_guidance: how strongly to follow the given pictures.
        renormalise: what the guided velocity's length is kept over: "sample", "frame" or "token"; "none" lets it grow.
        sampler: a name of `SAMPLERS`.
        shift: how far the times of sampling lean towards noise, above 0; 1 spaces them evenly.
        restarts: how often the sampler goes back towards noise; 0 for never.
        seed: of the noise, at least 0.
        negative: what to lead away from, as far as `guidance` leads to the prompt; empty for nothing in particular.
    """

    prompt: str
    given: Mapping[int, UInt8[np.ndarray, "H W 3"]] = field(default_factory=dict)
    num_frames: int | None = None
    height: int | None = None
    width: int | None = None
    fps: Fraction | None = None
    steps: int | None = None
    guidance: float | None = None
    image_guidance: float | None = None
    renormalise: Axes | Literal["none"] | None = None
    sampler: str | None = None
    shift: float | None = None
    restarts: int | None = None
    seed: int = 0
    negative: str | None = None


@dataclass(frozen=True)
class Size:
    """The clips that a model was trained on, which it makes unless asked otherwise; `side` as in `family.Clips`."""

    num_frames: int
    height: int
    width: int
    fps: Fraction
    side: int | None = None


@dataclass(frozen=True)
class Settings:
    """A request's settings with every default filled in; the same for all clips of a batch.

    `scale` is how strongly the prompt is followed: by `guidance`, or by a network that is told so. `negative` is None
    where no call of the network leaves the prompt out.
    """

    num_frames: int
    height: int
    width: int
    fps: Fraction
    steps: int
    shift: float
    sampler: str
    guidance: Guidance
    scale: float
    negative: str | None
    restarts: Restarts | None = None

    @property
    def walked(self) -> int:
        """Steps that are taken, restarts included."""
        return num_walked(self.steps, self.shift, self.restarts)


@dataclass(frozen=True)
class Prepared:
    """All that sampling needs; nothing here was slow to make.

    `condition` holds the batch once for each guidance branch, in the order in which `guidance.guide` stacks them.
    """

    settings: Settings
    condition: Condition
    noise: Float[Tensor, "B C T H W"]
    grid: Float[Tensor, " N"]
    given: Given | None
    seeds: tuple[int, ...]


class Stream(NamedTuple):
    """A video that is decoded as it is read, anew every time, and the way in which it is."""

    video: Video
    way: Way


class System:
    """A model with its autoencoder and its text encoder, ready to generate.

    Args:
        family: the model's family.
        network: its network, on the device and in the type to run in.
        autoencoder: pixels <-> latents.
        encoder: prompts -> tokens.
        name: how messages and sidecars call it.
        size: what it was trained on.
        sampling: defaults of its own, if it has others than its family.
        autocast: type for matrix products, or None to keep the network's own.
        fingerprint: SHA-256 of the files that its network, autoencoder and text encoder came from, if they did; or what
            finds it out, when it is first asked for.
        offload_to: device on which each of the three is only while it is used, if they live elsewhere.
        origin: where each of the three came from, and the SHA-256 of its files, if they are published weights.
    """

    def __init__(
        self,
        family: Family,
        network: nn.Module,
        autoencoder: Autoencoder,
        encoder: Encoder,
        name: str,
        size: Size,
        sampling: Sampling | None = None,
        autocast: torch.dtype | None = None,
        fingerprint: str | Callable[[], str] = "",
        offload_to: torch.device | None = None,
        origin: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        self.family, self.network, self.autoencoder, self.encoder = family, network, autoencoder, encoder
        self.name, self.size, self.autocast, self.origin = name, size, autocast, origin
        self.sampling, self.offload_to = sampling or family.sampling, offload_to
        self._fingerprint = fingerprint
        self.config = cast(Config, network.config)
        frames, rows, _ = self.config.patch_size
        self.patch = Patch(frames, rows)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that its parts were read from; empty if they were not read from files."""
        if not isinstance(self._fingerprint, str):
            self._fingerprint = self._fingerprint()
        return self._fingerprint

    @fingerprint.setter
    def fingerprint(self, fingerprint: str) -> None:
        self._fingerprint = fingerprint

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return self.offload_to or next(self.network.parameters()).device

    def settings(self, request: Request) -> Settings:
        """Fill in the defaults and refuse what this model cannot do.

        Raises:
            RequestError: see `settings_of`; and for an illegal size, or given pictures that share a latent.
        """
        settings = settings_of(self, request)
        size = settings.num_frames, settings.height, settings.width
        self.autoencoder.latent_shape(*size, self.patch)
        frames = sorted(request.given)
        if frames not in ([], [0]) and self._latents(*size).t != settings.num_frames:
            raise RequestError(
                f"{self.name} keeps several frames in one latent, so of given pictures it can take the first frame "
                f"alone, not frames {', '.join(map(str, frames))}."
            )
        return settings

    def _latents(self, num_frames: int, height: int, width: int) -> LatentShape:
        """Return the shape of the latents that are sampled for a clip."""
        num_frames += self.family.dropped(self.config)
        return self.autoencoder.latent_shape(num_frames, height, width, self.patch)

    def prepare(self, requests: Sequence[Request]) -> Prepared:
        """Turn requests into tensors; every mistake that a user can make is found here, before anything slow.

        Raises:
            RequestError: see `settings`; and if the requests of one batch differ in more than prompt, pictures and
            seed.
        """
        if not requests:
            raise RequestError("There is nothing to generate: give at least one request.")
        settings = self.settings(requests[0])
        frames = sorted(requests[0].given)
        refuse_given(self.family, self.name, frames)
        for request in requests[1:]:
            if self.settings(request) != settings or sorted(request.given) != frames:
                raise RequestError(
                    "Requests of one batch must share size, steps, guidance, its negative prompt and the frames that "
                    "are given. Generate the others in a batch of their own."
                )
        shape = self._latents(settings.num_frames, settings.height, settings.width)
        seeds = tuple(request.seed for request in requests)
        noise = _noise(shape, seeds).to(self.device)
        given = first = None
        if frames:
            pictures = np.stack([np.stack([request.given[index] for index in frames]) for request in requests])
            clean = torch.zeros_like(noise)
            clean[:, :, frames] = self._encode(pictures).to(noise.dtype)
            known = torch.zeros(noise.shape[0], noise.shape[2], dtype=torch.bool, device=self.device)
            known[:, frames] = True
            first = clean[:, :, :1] if frames[0] == 0 else None
            given = Given(clean, known) if self.family.holds_given(self.config) else None
        if first is not None and self.family.start is not None:
            noise = self.family.start(self.config, noise, first, self.sampling.image_share)
        condition = self._condition(requests, settings, settings.guidance.weights(has_image=given is not None), first)
        return Prepared(settings, condition, noise, grid(settings.steps, settings.shift), given, seeds)

    def _condition(
        self,
        requests: Sequence[Request],
        settings: Settings,
        branches: Collection[Branch],
        first: Float[Tensor, "B C 1 H W"] | None,
    ) -> Condition:
        """Encode prompts, and make the conditions of all branches out of them and of what else the network is told."""
        num_frames = settings.num_frames + self.family.dropped(self.config)
        facts = [Facts(settings.height, settings.width, num_frames)] * len(requests)

        def told(text: TextTokens) -> Any:
            condition = self.family.condition(text, facts)
            tell = self.family.tell
            return condition if tell is None else tell(self.config, condition, settings.scale, first)

        with self.at_work(self.encoder):
            conditions = {True: told(self._read(requests, [request.prompt for request in requests]))}
            if not all(branch.text for branch in branches):
                if settings.negative:
                    null = self._read(requests, [settings.negative] * len(requests), is_black=True)
                else:
                    null = self.encoder.null(len(requests))
                conditions[False] = told(null)
        return type(conditions[True]).cat([conditions[branch.text] for branch in branches]).to(self.device)

    def _read(self, requests: Sequence[Request], texts: Sequence[str], *, is_black: bool = False) -> TextTokens:
        """Encode texts, each with the first frame of its request, or with a black one, if the encoder sees."""
        if not self.family.sees_pictures:
            return self.encoder.encode(texts)
        pictures = [request.given[0] for request in requests]
        if is_black:
            pictures = [np.zeros_like(picture) for picture in pictures]
        return cast(SeeingEncoder, self.encoder).encode(texts, pictures)

    def sample(self, prepared: Prepared, on_step: OnStep | None = None) -> Float[Tensor, "B C T H W"]:
        """Walk from noise to latents. Gradients flow where the caller has them on.

        Args:
            prepared: from `prepare`.
            on_step: sees each step before it is taken; what it raises stops the walk.
        """

        def stacked(x: Tensor, t: Tensor) -> Tensor:
            with torch.autocast(self.device.type, self.autocast or torch.bfloat16, enabled=self.autocast is not None):
                return self.network(x.to(dtype_of(self.network)), t, prepared.condition)

        field = guide(stacked, prepared.settings.guidance, prepared.given)
        sampler, noise = SAMPLERS[prepared.settings.sampler], prepared.noise
        if prepared.settings.restarts is not None:

            def fresh(number: int) -> Tensor:
                return _noise(noise.shape[1:], prepared.seeds, number).to(noise)

            sampler = restarting(sampler, prepared.settings.restarts, fresh)
        with self.at_work(self.network):
            return sampler(field, noise, prepared.grid, on_step)

    def choose_decoding(self, latents: Float[Tensor, "B C T H W"], asked: Way | None = None) -> Decoding:
        """Choose how to decode by the memory that there is now; see `plan.choose_decoding`."""
        with self.at_work(self.autoencoder):
            return choose_decoding(self.autoencoder, latents.to(dtype_of(self.autoencoder)), asked)

    def decode(
        self, latents: Float[Tensor, "B C T H W"], way: Way = "exact"
    ) -> Generator[Float[Tensor, "B 3 f H W"], None, None]:
        """Yield the frames of the video, a group at a time, in [-1, 1], by the way of `choose_decoding`."""
        dropped = self.family.dropped(self.config)
        if self.family.release is not None:  # those clips are large; small ones take a third longer with it
            return_large_blocks()
        with self.at_work(self.autoencoder):
            decode = cast(Tileable, self.autoencoder).decode_tiled if way == "tiled" else self.autoencoder.decode_stream
            for group in decode(latents.to(dtype_of(self.autoencoder))):
                if group.shape[2] > dropped:
                    yield group[:, :, dropped:]
                dropped = max(0, dropped - group.shape[2])

    @torch.inference_mode()
    def generate(
        self,
        requests: str | Request | Sequence[str | Request],
        on_step: OnStep | None = None,
        decode: Way | None = None,
    ) -> list[Video]:
        """Generate one video for each request, in memory; all requests share their size and sampling settings.

        Args:
            requests: what to make; a text is a request with every setting the model's own, and one alone may be given.
            on_step: see `sample`.
            decode: how; if not given, exactly if it fits, else in tiles, which `Video.notices` tells.
        """
        several = [requests] if isinstance(requests, str | Request) else requests
        prepared = self.prepare([Request(one) if isinstance(one, str) else one for one in several])
        latents = self.sample(prepared, on_step)
        decoding = self.choose_decoding(latents, decode)
        fps = prepared.settings.fps
        groups = [[_pixels(one) for one in group] for group in self.decode(latents, decoding.way)]
        videos = (Video.from_array(np.concatenate(own), fps) for own in zip(*groups, strict=True))
        return [replace(video, notices=decoding.notices) for video in videos]

    @torch.inference_mode()
    def stream(self, request: Request, on_step: OnStep | None = None, decode: Way | None = None) -> Stream:
        """Sample a video now, and decode it as its frames are read: the same that `generate` makes.

        No more than a group of frames is in memory at once. Arguments as for `generate`.
        """
        prepared = self.prepare([request])
        latents = self.sample(prepared, on_step)
        settings = prepared.settings
        size = PixelSize(settings.num_frames, settings.height, settings.width)
        return self.stream_of(latents, size, settings.fps, decode)

    def stream_of(
        self, latents: Float[Tensor, "1 C T H W"], size: PixelSize, fps: Fraction, decode: Way | None = None
    ) -> Stream:
        """Return the video that latents of one clip stand for, which is decoded as its frames are read.

        Args:
            latents: from `sample`.
            size: of the video; frames that the latents have after these are not shown.
            fps: frames a second.
            decode: see `generate`.
        """
        decoding = self.choose_decoding(latents, decode)

        @torch.inference_mode()  # a group at a time, and not while the reader works
        def frames() -> Iterator[UInt8[np.ndarray, "H W 3"]]:
            with closing(self.decode(latents, decoding.way)) as groups:
                yield from islice((frame for group in groups for frame in _pixels(group[0])), size.num_frames)

        video = Video.from_frames(frames, size.height, size.width, fps, size.num_frames)
        return Stream(replace(video, notices=decoding.notices), decoding.way)

    @torch.no_grad()
    def _encode(self, pictures: UInt8[np.ndarray, "B T H W 3"]) -> Float[Tensor, "B C T h w"]:
        pixels = torch.from_numpy(pictures).to(self.device).movedim(-1, 1).float() / 127.5 - 1
        with self.at_work(self.autoencoder):
            return self.autoencoder.encode(pixels.to(dtype_of(self.autoencoder)))

    def at_work(self, component: object) -> AbstractContextManager[None]:
        """Have a component on the device, for those that live elsewhere."""
        return nullcontext() if self.offload_to is None else resident(cast(nn.Module, component), self.offload_to)


def _noise(shape: Sequence[int], seeds: Sequence[int], number: int = 0) -> Float[Tensor, "B *S"]:
    """Draw the noise of each clip that it begins with, or that of one of its restarts."""
    return torch.stack([rng.noise(shape, seed, 0, number) for seed in seeds])


def _pixels(group: Float[Tensor, "3 f H W"]) -> UInt8[np.ndarray, "f H W 3"]:
    return Video.from_tensor(group, 1).array()


def refuse_given(family: Family, name: str, frames: Sequence[int]) -> None:
    """Refuse given frames that a family cannot use, and none where it needs one; nothing of the model is needed.

    Args:
        family: of the model.
        name: of the model, for the message.
        frames: those that are given, in order.

    Raises:
        RequestError: see above.
    """
    accepts = family.accepts
    if frames and (accepts.given == "none" or (accepts.given == "first" and list(frames) != [0])):
        raise RequestError(
            f"{name} can be given {'no picture' if accepts.given == 'none' else 'its first frame only'}, not frames "
            f"{', '.join(map(str, frames))}. `mutoscope models` says what each model takes."
        )
    if accepts.needs_first and not frames:
        raise RequestError(
            f"{name} animates a picture, and there is none. Give its first frame (--image), or take another model: "
            "`mutoscope models` says what each takes."
        )


def dtype_of(component: object) -> torch.dtype:
    """Return the type of a component's weights."""
    return next(cast(nn.Module, component).parameters()).dtype


@dataclass(frozen=True)
class Outline:
    """What a model's name means, known before any of its weights.

    Args:
        name: as given.
        family: its family.
        preset: its preset, where it was named by one.
        config: of its network.
        size: what it makes unless asked otherwise, where anything says so.
        sampling: its defaults.
        path: the file that training wrote, where its weights are such a file.
        is_given: its weights are of the published kind, and were named by the user.
        encoder_parameters: of all that encodes a prompt, where that is not what the release says.
    """

    name: str
    family: Family
    preset: str | None
    config: Any
    size: Size | None
    sampling: Sampling
    path: Path | None
    is_given: bool = False
    encoder_parameters: int | None = None

    @property
    def release(self) -> Release | None:
        """The release that its weights are of, published under this name or named by the user, if they are of one."""
        found = self.family.release
        if found is None or self.path is not None:
            return None
        return found if self.is_given or self.preset in found.weights else None


def settings_of(model: Outline | System, request: Request) -> Settings:
    """Fill in the defaults of a request, and refuse what needs no weights to be refused.

    Args:
        model: what the request is made to.
        request: it.

    Raises:
        RequestError: for an empty prompt, an unknown solver, guidance that this model does not have, or given pictures
            that do not fit.
        WeightsError: the model has no weights.
    """
    own, size = model.sampling, model.size
    if size is None:
        raise no_weights(model.name)
    if not request.prompt.strip():
        raise RequestError("The prompt is empty. Say what the video should show, in a few words.")
    num_frames = size.num_frames if request.num_frames is None else request.num_frames
    height = size.height if request.height is None else request.height
    width = size.width if request.width is None else request.width
    sampler = request.sampler or own.sampler
    if sampler not in SAMPLERS:
        raise RequestError(f"There is no sampler {sampler!r}. Use one of: {', '.join(SAMPLERS)}.")
    steps, shift, restarts = _walk(own, request)
    num_walked(steps, shift, restarts)  # refuses what is no number of steps, no shift, and too few to restart
    guidance = _guidance(own, request)
    around = model.family.guidance_around(model.config, guidance)
    negative = _negative(model, request, around)
    fps = size.fps if request.fps is None else request.fps
    if fps <= 0:
        raise RequestError(f"fps={fps} cannot be played. Give a number above 0, such as {size.fps}.")
    for index, picture in request.given.items():
        if not 0 <= index < num_frames:
            raise RequestError(f"A picture is given for frame {index}, but the clip has frames 0 to {num_frames - 1}.")
        if picture.shape != (height, width, 3):
            raise RequestError(
                f"The picture given for frame {index} is {picture.shape[1]}x{picture.shape[0]}, the clip is "
                f"{width}x{height}. Fit the picture first, or ask for a clip of its size."
            )
    if frames := sorted(request.given):
        refuse_given(model.family, model.name, frames)
        if len(frames) == num_frames + model.family.dropped(model.config):
            raise RequestError(f"All {num_frames} frames are given, so there is nothing to make. Ask for more frames.")
    scale = guidance.text_scale
    return Settings(num_frames, height, width, fps, steps, shift, sampler, around, scale, negative, restarts)


def num_walked(steps: int, shift: float, restarts: Restarts | None) -> int:
    """Return how many steps a sampler takes, restarts included.

    Raises:
        RequestError: this is no number of steps, no shift, or too few steps to restart.
    """
    return sum(len(stretch) - 1 for stretch in stretches(grid(steps, shift), restarts))


def _walk(own: Sampling, request: Request) -> tuple[int, float, Restarts | None]:
    """Return the steps of a request, their shift, and the restarts."""
    steps = own.steps if request.steps is None else request.steps
    shift = own.shift if request.shift is None else request.shift
    if request.restarts is None:
        return steps, shift, own.restarts
    if request.restarts < 0:
        raise RequestError(f"restarts={request.restarts} cannot be taken. Give 0 for none, or 1 or more.")
    return steps, shift, replace(own.restarts or Restarts(), count=request.restarts) if request.restarts else None


def _guidance(own: Sampling, request: Request) -> Guidance:
    """Return a request's guidance, before a network that follows guidance by itself takes it over."""
    if request.renormalise not in (None, "none", *get_args(Axes)):
        raise RequestError(
            f"renormalise={request.renormalise!r} is no axis. Use one of: {', '.join(get_args(Axes))}, none."
        )
    return Guidance(
        own.guidance.text_scale if request.guidance is None else request.guidance,
        own.guidance.image_scale if request.image_guidance is None else request.image_guidance,
        {None: own.guidance.renormalised_by, "none": None}.get(request.renormalise, cast(Axes, request.renormalise)),
    )


def _negative(model: Outline | System, request: Request, guidance: Guidance) -> str | None:
    """Return what to lead away from, and refuse what would change nothing."""
    family = model.family
    if family.accepts.needs_first and request.image_guidance not in (None, 1.0):
        raise RequestError(
            f"{model.name} knows no clip without its picture, so image_guidance={request.image_guidance} has nothing "
            "to lead away from. Leave it out."
        )
    if any(not branch.text for has_image in (False, True) for branch in guidance.weights(has_image)):
        return family.negative if request.negative is None else request.negative.strip()
    if request.negative is not None:
        told = family.embeds_guidance(model.config)
        raise RequestError(
            f"{model.name} would not read the negative prompt: "
            + ("its network follows guidance by itself. Leave it out." if told else "guidance is 1. Raise that.")
        )
    return None


def outline(name: str) -> Outline:
    """Find out what a model's name means, from the head of its file or from its family.

    Args:
        name: see `load`.

    Raises:
        RequestError: there is no such model.
        WeightsError: the file is missing, damaged, or was not written by training.
    """
    if name.endswith(".safetensors"):
        return _outline_of_file(name, Path(name), None)
    family_name, preset = resolve(name)
    bundled = _bundled(family_name, preset)
    if bundled.exists():
        return _outline_of_file(name, bundled, preset)
    family = load_family(family_name)
    size = None
    if family.release is not None:
        clips, dropped = family.release.clips, family.dropped(family.presets[preset])
        size = Size(clips.num_frames - dropped, clips.height, clips.width, Fraction(clips.fps), clips.side)
    sampling = family.own_sampling.get(preset, family.sampling)
    return Outline(name, family, preset, family.presets[preset], size, sampling, None)


def workload(
    found: Outline,
    request: Request,
    *,
    has_image: bool,
    on_cpu: bool = False,
    decode: Way | None = None,
    quantize: Quantize | None = None,
) -> Workload:
    """Say what a request comes to, before anything is loaded.

    Args:
        found: the model.
        request: what was asked; its prompt and its pictures do not matter.
        has_image: whether a picture will be given.
        on_cpu: whether it will run on a CPU.
        decode: how; see `System.generate`.
        quantize: see `load`.

    Raises:
        RequestError: neither the request nor the model says a size, or the model has no layers to quantise.
    """
    refuse_quantized(found.family, found.name, quantize)
    size, own, release = found.size, found.sampling, found.release
    sides = {"num_frames": request.num_frames, "height": request.height, "width": request.width}
    if missing := [name for name, side in sides.items() if side is None and size is None]:
        options = " and ".join(f"--{name.replace('_', '-')}" for name in missing)
        raise RequestError(f"{found.name} makes clips of no size of its own. Say {options}.")
    filled = [side if side is not None else getattr(size, name) for name, side in sides.items()]
    is_held = found.family.holds_given(found.config)
    return Workload(
        found.family,
        found.config,
        PixelSize(*filled),
        num_walked(*_walk(own, request)),
        request.sampler or own.sampler,
        len(found.family.guidance_around(found.config, _guidance(own, request)).weights(has_image and is_held)),
        text_tokens=release.text_tokens if release else TEXT_TOKENS,
        dtype=torch.bfloat16 if release else torch.float32,
        autoencoder_dtype=autoencoder_dtype(release, on_cpu=on_cpu) if release else torch.float32,
        encoder_parameters=_encoder_parameters(found),
        parameters=_parameters(found),
        decode=decode,
        quantize=quantize,
    )


def _encoder_parameters(found: Outline) -> int:
    if found.encoder_parameters is not None:
        return found.encoder_parameters
    return found.release.encoder_parameters if found.release else 0


def _parameters(found: Outline) -> int | None:
    """Return the parameters of the network, about, where they are known without building it."""
    if found.path is not None:
        return found.path.stat().st_size // 4
    is_preset = found.config == found.family.presets.get(str(found.preset))
    return found.family.parameters[str(found.preset)] if is_preset else None


def autoencoder_dtype(release: Release, *, on_cpu: bool) -> torch.dtype:
    """Return the type in which a published autoencoder runs here: on a CPU, where half precision is slow, float32."""
    return torch.float32 if on_cpu else release.autoencoder_dtype


def _outline_of_file(name: str, path: Path, preset: str | None) -> Outline:
    if not path.is_file():
        raise WeightsError(f"there are no weights at {path}. Check the name, or make them again.")
    metadata = folders.read_head(path).metadata
    if not {"model", "config", "size"} <= metadata.keys():
        raise WeightsError(f"{path} was not written by this package's training: it does not say what it holds.")
    family, preset_config = find(metadata["model"])
    size = json.loads(metadata["size"])
    return Outline(
        name,
        family,
        preset,
        config.from_json(type(preset_config), json.loads(metadata["config"])),
        Size(size["num_frames"], size["height"], size["width"], Fraction(size["fps"])),
        config.from_json(Sampling, json.loads(metadata["sampling"])) if "sampling" in metadata else family.sampling,
        path,
    )


def is_bundled(name: str) -> bool:
    """Tell whether a model's name, such as ``stiv/toy``, stands for weights that come with this package."""
    return not name.endswith(".safetensors") and _bundled(*resolve(name)).exists()


def _bundled(family: str, preset: str) -> Path:
    return BUNDLED / f"{family}_{preset}.safetensors"


def no_weights(name: str) -> WeightsError:
    """Say that a model has no weights, and what to do."""
    return WeightsError(
        f"{name} has no weights here, for none were published. Train it (mutoscope train) and give the file that "
        f"training wrote as the model, or use the bundled {DEFAULT_MODEL}."
    )
