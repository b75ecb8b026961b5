"""From a request to a video: prepare, sample, decode. The one sampling path for every caller.

    Request --prepare--> Prepared --sample--> latents "B C T H W" --decode--> frames --> Video

`generate` is the three in a row. Validation in training enters there; alignment enters at `sample`, where trajectories are
seen through `on_step`; a server calls the three by itself, to batch, preview and stop. A clip depends on its own request
alone: its noise is drawn from its seed, whatever else is in the batch.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from mutoscope.autoencoders.base import Autoencoder, Patch
from mutoscope.core import config, rng, weights
from mutoscope.core.errors import RequestError, WeightsError
from mutoscope.core.video import Video
from mutoscope.diffusion import samplers
from mutoscope.diffusion.guidance import Guidance, guide
from mutoscope.diffusion.samplers import OnStep
from mutoscope.diffusion.schedule import grid
from mutoscope.encoders.base import Encoder
from mutoscope.models.family import Family, find

SOLVERS: Mapping[str, Callable[..., Tensor]] = {
    "euler": samplers.euler,
    "heun": samplers.heun,
    "adams-bashforth": samplers.adams_bashforth,
}
DEFAULT_MODEL = "stiv/toy"


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
            as trained.
        image_guidance: how strongly to follow the given pictures.
        solver: a name of `SOLVERS`.
        seed: of the noise, at least 0.
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
    solver: str | None = None
    seed: int = 0


@dataclass(frozen=True)
class Settings:
    """A request's settings with every default filled in; the same for all clips of a batch."""

    num_frames: int
    height: int
    width: int
    fps: Fraction
    steps: int
    shift: float
    solver: str
    guidance: Guidance


@dataclass(frozen=True)
class Prepared:
    """All that sampling needs; nothing here was slow to make.

    `stacked` is the network's field over the guidance branches; see `guidance.guide`.
    """

    settings: Settings
    stacked: Callable[[Tensor, Tensor], Tensor]
    noise: Float[Tensor, "B C T H W"]
    grid: Float[Tensor, " N"]
    clean: Float[Tensor, "B C T H W"] | None
    given: Bool[Tensor, "B T"] | None


class System:
    """A model with its autoencoder and its text encoder, ready to generate.

    Args:
        family: the model's family.
        network: its network, on the device and in the type to run in.
        autoencoder: pixels <-> latents.
        encoder: prompts -> tokens.
        name: how messages and sidecars call it.
        autocast: type for matrix products, or None to keep the network's own.
    """

    def __init__(
        self,
        family: Family,
        network: torch.nn.Module,
        autoencoder: Autoencoder,
        encoder: Encoder,
        name: str,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.family, self.network, self.autoencoder, self.encoder = family, network, autoencoder, encoder
        self.name, self.autocast = name, autocast

    @property
    def device(self) -> torch.device:
        """Where the network lives."""
        return next(self.network.parameters()).device

    def settings(self, request: Request) -> Settings:
        """Fill in the defaults and refuse what this model cannot do.

        Raises:
            RequestError: for an empty prompt, an illegal size, an unknown solver, or given pictures that do not fit.
        """
        own = self.family.sampling
        if not request.prompt.strip():
            raise RequestError("The prompt is empty. Say what the video should show, in a few words.")
        size = [
            mine if asked is None else asked
            for asked, mine in (
                (request.num_frames, own.num_frames),
                (request.height, own.height),
                (request.width, own.width),
            )
        ]
        patch = self.family.accepts.patch
        self.autoencoder.latent_shape(*size, Patch(*patch))
        solver = request.solver or own.solver
        if solver not in SOLVERS:
            raise RequestError(f"There is no solver {solver!r}. Use one of: {', '.join(SOLVERS)}.")
        guidance = Guidance(
            own.guidance.text_scale if request.guidance is None else request.guidance,
            own.guidance.image_scale if request.image_guidance is None else request.image_guidance,
            own.guidance.renormalised_by,
        )
        fps = own.fps if request.fps is None else request.fps
        if fps <= 0:
            raise RequestError(f"fps={fps} cannot be played. Give a number above 0, such as {own.fps}.")
        for index, picture in request.given.items():
            if not 0 <= index < size[0]:
                raise RequestError(f"A picture is given for frame {index}, but the clip has frames 0 to {size[0] - 1}.")
            if picture.shape != (size[1], size[2], 3):
                raise RequestError(
                    f"The picture given for frame {index} is {picture.shape[1]}x{picture.shape[0]}, the clip is "
                    f"{size[2]}x{size[1]}. Fit the picture first, or ask for a clip of its size."
                )
        return Settings(*size, fps, own.steps if request.steps is None else request.steps, own.shift, solver, guidance)

    def prepare(self, requests: Sequence[Request]) -> Prepared:
        """Turn requests into tensors; every mistake that a user can make is found here, before anything slow.

        Raises:
            RequestError: see `settings`; and if the requests of one batch differ in more than prompt, pictures and seed.
        """
        if not requests:
            raise RequestError("There is nothing to generate: give at least one request.")
        settings = self.settings(requests[0])
        frames = sorted(requests[0].given)
        for request in requests[1:]:
            if self.settings(request) != settings or sorted(request.given) != frames:
                raise RequestError(
                    "Requests of one batch must share size, steps, guidance and the frames that are given. "
                    "Generate the others in a batch of their own."
                )
        schedule = grid(settings.steps, settings.shift)
        text = self.encoder.encode([request.prompt for request in requests])
        null = self.encoder.null(len(requests))
        shape = self.autoencoder.latent_shape(
            settings.num_frames, settings.height, settings.width, Patch(*self.family.accepts.patch)
        )
        noise = torch.stack([rng.noise(shape, request.seed, 0) for request in requests]).to(self.device)
        clean = given = None
        if frames:
            clean = torch.zeros_like(noise)
            given = torch.zeros(noise.shape[0], noise.shape[2], dtype=torch.bool, device=self.device)
            given[:, frames] = True
            pictures = np.stack([np.stack([request.given[index] for index in frames]) for request in requests])
            clean[:, :, frames] = self._encode(pictures)
        branches = settings.guidance.weights(has_image=given is not None)
        stacked = self.family.condition(
            self.network,
            [text if branch.text else null for branch in branches],
            num_frames=settings.num_frames,
            height=settings.height,
            width=settings.width,
            fps=settings.fps,
        )
        return Prepared(settings, stacked, noise, schedule, clean, given)

    def sample(self, prepared: Prepared, on_step: OnStep | None = None) -> Float[Tensor, "B C T H W"]:
        """Walk from noise to latents. Gradients flow where the caller has them on.

        Args:
            prepared: from `prepare`.
            on_step: sees each step before it is taken; what it raises stops the walk.
        """
        field = guide(self._field(prepared.stacked), prepared.settings.guidance, prepared.clean, prepared.given)
        return SOLVERS[prepared.settings.solver](field, prepared.noise, prepared.grid, on_step)

    def decode(self, latents: Float[Tensor, "B C T H W"]) -> Iterator[Float[Tensor, "B 3 f H W"]]:
        """Yield the frames, a group at a time, in [-1, 1]."""
        yield from self.autoencoder.decode_stream(latents)

    @torch.inference_mode()
    def generate(self, requests: Sequence[Request], on_step: OnStep | None = None) -> list[Video]:
        """Generate one video for each request; all requests share their size and sampling settings."""
        prepared = self.prepare(requests)
        groups = list(self.decode(self.sample(prepared, on_step)))
        return [
            Video.from_tensor(torch.cat([group[index] for group in groups], dim=1), prepared.settings.fps)
            for index in range(len(requests))
        ]

    def _field(self, stacked: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        def call(x: Tensor, t: Tensor) -> Tensor:
            with torch.autocast(self.device.type, self.autocast or torch.bfloat16, enabled=self.autocast is not None):
                return stacked(x, t)

        return call

    @torch.no_grad()
    def _encode(self, pictures: UInt8[np.ndarray, "B T H W 3"]) -> Float[Tensor, "B C T h w"]:
        pixels = torch.from_numpy(pictures).to(self.device).movedim(-1, 1).float() / 127.5 - 1
        return self.autoencoder.encode(pixels)


def load(name: str = DEFAULT_MODEL, device: str | torch.device | None = None) -> System:
    """Load a model with its autoencoder and text encoder.

    Args:
        name: ``family/preset`` of a bundled model (hyphen and underscore serve as well), or a weights file that training
            wrote. An autoencoder or encoder that lies beside the file is used before the bundled one of that name.
        device: where to run; a GPU where there is one, if not given.

    Raises:
        RequestError: there is no such model.
        WeightsError: there are no weights for it, or they are damaged.
    """
    device = torch.device(device or best_device())
    path = Path(name) if name.endswith(".safetensors") else _bundled_weights(name)
    tensors, metadata = weights.read(path)
    family, _ = find(metadata.get("family", ""))
    network = family.network(config.from_json(family.config, json.loads(metadata["config"])))
    weights.load_into(network, tensors, source=str(path))
    autoencoder = family.autoencoder.load(_companion(path, metadata["autoencoder"])).to(device).eval()
    encoder = family.encoder.load(_companion(path, metadata["encoder"])).to(device).eval()
    # bfloat16 halves the time of matrix products where the processor has them; on GPUs it is the usual type.
    autocast = torch.bfloat16 if device.type == "cuda" or _cpu_has_bf16(device) else None
    return System(family, network.to(device).eval(), autoencoder, encoder, name, autocast)


def best_device() -> str:
    """Return the name of the fastest device here."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
