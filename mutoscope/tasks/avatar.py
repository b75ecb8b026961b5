"""Somebody's picture, a voice and a prompt to a video of them speaking: how HunyuanVideo-Avatar is sampled.

    Speech --prepare--> Prepared --sample--> latents B C T H W --decode--> frames, as long as the voice, and the voice

    steps      guided by                  scale                        follows the voice
    0 to 9     the prompt and the voice   from 7.5 towards 2           by 0.6 in the face
    10, ...    the voice alone            towards 3.5, from up to 6.5  in full in the face

The network makes 33 latent frames, 129 frames of video. A longer clip is walked in windows of so many, which move by 10
at every step and are averaged (`diffusion.windows`). Silence follows the voice until the last window is full; what was
made of it is cut off before decoding. A clip of one window needs none of this.

Nothing here is a sampler. `Walk` is a field like any other, which looks up at which step of the grid it is asked, and
the solver is the one of `pipeline`. `guide` makes one velocity of the two branches, with the scale of that step; what
the branches see differs from step to step, which is why `System.prepare` and `System.sample` do not serve.

Some steps can skip all of the network but its last single block (`Speech.skips_steps`), as the published code does by
default. Here that is off unless asked for, because it changes the result.

How ours differs from the published code: it rounds each window to bfloat16 at every step, ours keeps float32; it draws
the reference's latents from their distribution, ours takes the mean; it cuts voices after 400 frames, ours hears 30 s.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from einops import repeat
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from mutoscope import loading as loading_of
from mutoscope.autoencoders.base import Size as PixelSize
from mutoscope.autoencoders.base import nearest_multiple
from mutoscope.core import folders, rng
from mutoscope.core.device import find_device
from mutoscope.core.errors import RequestError, WeightsError
from mutoscope.core.places import folder_with
from mutoscope.core.video import Audio, Video
from mutoscope.diffusion.guidance import Guidance, guide
from mutoscope.diffusion.samplers import OnStep
from mutoscope.diffusion.schedule import grid
from mutoscope.diffusion.windows import average, windows
from mutoscope.encoders.audio import Ear, frames_in, samples_of
from mutoscope.encoders.base import SeeingEncoder
from mutoscope.loading import Loading
from mutoscope.models import hunyuan
from mutoscope.models.family import Sampling
from mutoscope.models.hunyuan import Layout
from mutoscope.models.hunyuan_avatar import EXPRESSION, POSE, VIDEO_FRAMES, Condition, HunyuanAvatar, condition
from mutoscope.pipeline import SAMPLERS, Size, Stream, System, dtype_of
from mutoscope.plan import Way, Workload

WINDOW = 33  # latent frames that the network makes at once
SHOWN = VIDEO_FRAMES * (WINDOW - 1) + 1  # the same in frames of video, which the picture is repeated for
MOVE = 10  # latent frames that the windows move by from one step to the next
SPARE = 5  # silent video frames after a voice that is longer than a window
PROMPTED = 10  # steps guided by the prompt
PROMPT_FLOOR, VOICE_FLOOR, VOICE_RISE = 2.0, 3.5, 3.0  # of the scales of guidance
EARLY_FACE = 0.6  # of the mask of the face, in those first steps
PLANNED = 50  # steps for which the published plan of skipped ones was made
FACE_AREA = 3.0  # times the area of a face is moved by the voice
EAR = "whisper-tiny"  # folder of what hears
SIDE_STEP = 64  # pixels, of which sides chosen here are multiples
PREFIX = "Authentic, Realistic, Natural, High-quality, Lens-Fixed, "  # that the published code puts before a prompt


class Box(NamedTuple):
    """Where a face is, in pixels of the picture from its left and upper edges."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class Speech:
    """What to make. None stands for the model's own default.

    Args:
        prompt: what the video should show.
        picture: of the person who speaks, of any size.
        voice: at most 30 s.
        face: where the voice moves the picture: around the box of a face, or where a mask of the picture's size is
            True; everywhere if not given.
        negative: what to keep away from in the first steps.
        height: pixels; with `width`, or both from the shape of the picture.
        width: pixels.
        fps: frames a second, 25 or 12.5.
        steps: sampling steps.
        guidance: how strongly the first step follows the prompt and the voice.
        pose: strength of head movement.
        expression: strength of facial expression.
        skips_steps: compute only the last block in some of the later steps; faster, and not quite the same.
        seed: of the noise, at least 0.
    """

    prompt: str
    picture: UInt8[np.ndarray, "H W 3"]
    voice: Audio
    face: Box | Bool[np.ndarray, "h w"] | None = None
    negative: str | None = None
    height: int | None = None
    width: int | None = None
    fps: Fraction = Fraction(25)
    steps: int | None = None
    guidance: float | None = None
    pose: float = POSE
    expression: float = EXPRESSION
    skips_steps: bool = False
    seed: int = 0


class Turn(NamedTuple):
    """What one step does."""

    guidance: float
    face: float
    """Factor on the mask of the face."""
    is_prompted: bool
    """The other branch reads the negative prompt; if not, both read the prompt, and the voice alone guides."""
    is_whole: bool
    """The whole network runs, not its last single block alone."""


@dataclass(frozen=True)
class Prepared:
    """All that sampling needs.

    Args:
        condition: with the prompt and the sound of every video frame that is walked, four for each latent frame.
        negative: the text that the first steps lead away from.
        noise: of all latent frames that are walked.
        grid: falling times.
        turns: what each step does.
        kept: latent frames to decode.
        size: of the video.
        fps: frames a second.
        notices: what a user should be told.
    """

    condition: Condition
    negative: hunyuan.Condition
    noise: Float[Tensor, "1 C T H W"]
    grid: Float[Tensor, " N"]
    turns: Sequence[Turn]
    kept: int
    size: PixelSize
    fps: Fraction
    notices: tuple[str, ...] = ()


def generate(
    system: System, ear: Ear, speech: Speech, on_step: OnStep | None = None, decode: Way | None = None
) -> Video:
    """Make a video of somebody speaking, in memory, with their voice; arguments as for `stream`."""
    video, _ = stream(system, ear, speech, on_step, decode)
    made = Video.from_array(video.array(), video.fps)
    return replace(made.with_audio(video.audio), notices=video.notices)


@torch.inference_mode()
def stream(
    system: System, ear: Ear, speech: Speech, on_step: OnStep | None = None, decode: Way | None = None
) -> Stream:
    """Sample a video of somebody speaking now, and decode it as its frames are read; with their voice.

    `Video.notices` says what was done to the picture.

    Args:
        system: HunyuanVideo-Avatar; see `load`.
        ear: what hears the voice.
        speech: what to make.
        on_step: sees each step before it is taken; what it raises stops the walk.
        decode: see `pipeline.System.generate`.
    """
    prepared = prepare(system, ear, speech)
    latents = sample(system, prepared, on_step)
    video, way = system.stream_of(latents, prepared.size, prepared.fps, decode)
    voice = speech.voice.take(0, prepared.size.num_frames / prepared.fps)
    return Stream(replace(video.with_audio(voice), notices=(*prepared.notices, *video.notices)), way)


def prepare(system: System, ear: Ear, speech: Speech) -> Prepared:
    """Turn a request into tensors; every mistake that a user can make is found here, before anything slow.

    Raises:
        RequestError: the model does not speak, the prompt is empty, or a size, a rate, a face or the voice cannot be
            served.
    """
    if not isinstance(system.network, HunyuanAvatar):
        raise RequestError(f"{system.name} makes nobody speak. Use the model hunyuan-avatar.")
    times, plan = planned(speech, system.sampling)
    height, width = size_of(speech, system.size)
    channels, _, h, w = system.autoencoder.latent_shape(SHOWN, height, width, system.patch)
    heard = ear.encode(speech.voice, speech.fps).to(system.device)
    num_frames = heard.shape[1]
    walked, kept = walk_of(num_frames)
    audio = F.pad(heard, (0, 0, 0, 0, 0, 0, 0, VIDEO_FRAMES * walked - num_frames))  # silence, to the end of the walk

    frame, mask, notices = fitted(speech, height, width)
    pixels = torch.from_numpy(frame).to(system.device).movedim(-1, 0).float() / 127.5 - 1
    with system.at_work(system.autoencoder):
        still = pixels[None, :, None].expand(-1, -1, SHOWN, -1, -1)
        reference = system.autoencoder.encode(still.to(dtype_of(system.autoencoder))).float()
    with system.at_work(system.encoder):
        # Our reading: as in HunyuanVideo-I2V, the negative prompt comes with a black picture.
        encoder = cast(SeeingEncoder, system.encoder)
        text = encoder.encode([PREFIX + speech.prompt], [frame])
        away = system.family.negative if speech.negative is None else speech.negative
        negative = encoder.encode([away], [np.zeros_like(frame)])
    cond = condition(
        text,
        [],
        reference=reference,
        audio=audio,
        face=latent_mask(mask, h, w),
        pose=speech.pose,
        expression=speech.expression,
        fps=float(speech.fps),
    )
    return Prepared(
        cond.to(system.device),
        hunyuan.condition(negative, []).to(system.device),
        rng.noise((channels, walked, h, w), speech.seed, 0, device=system.device)[None],
        times,
        plan,
        kept,
        PixelSize(num_frames, height, width),
        speech.fps,
        notices,
    )


def planned(speech: Speech, own: Sampling) -> tuple[Float[Tensor, " N"], list[Turn]]:
    """Check all of a request that needs no model, and return its times and what each step does.

    Args:
        speech: what to make.
        own: defaults of the model.

    Raises:
        RequestError: the prompt is empty, or the voice, its rate, the face, guidance or the steps cannot be served.
    """
    if not speech.prompt.strip():
        raise RequestError("The prompt is empty. Say what the video should show, in a few words.")
    steps = own.steps if speech.steps is None else speech.steps
    times = grid(steps, own.shift)
    if speech.skips_steps and steps > PLANNED:
        raise RequestError(f"steps={steps} would skip every step after {PLANNED}. Use up to {PLANNED}, or skip none.")
    guidance = Guidance(own.guidance.text_scale if speech.guidance is None else speech.guidance)
    if speech.face is not None:
        face_mask(speech.face, *speech.picture.shape[:2])
    frames_of(speech)
    return times, turns(steps, guidance.text_scale, skips=speech.skips_steps)


def frames_of(speech: Speech) -> int:
    """Return how many frames a video has that lasts as long as the voice.

    Raises:
        RequestError: the voice or its rate cannot be served.
    """
    return frames_in(samples_of(speech.voice), speech.fps)


def in_windows(work: Workload) -> Workload:
    """Say what it comes to when somebody speaks for so many frames; skipped steps count as whole ones.

    Args:
        work: as `pipeline.workload` has it, with a frame for every one that the voice lasts.

    Raises:
        RequestError: there are no frames.
    """
    num_frames, height, width = work.size
    if num_frames < 1:
        raise RequestError(f"num_frames={num_frames} is no video. Give at least 1.")
    walked, kept = walk_of(num_frames)
    return replace(
        work,
        size=PixelSize(VIDEO_FRAMES * (kept - 1) + 1, height, width),
        branches=2,
        window=WINDOW,
        windows=len(places(walked, 0)),
        encoded=SHOWN,
    )


def sample(system: System, prepared: Prepared, on_step: OnStep | None = None) -> Float[Tensor, "1 C T H W"]:
    """Walk from noise to latents. Gradients flow where the caller has them on.

    Args:
        system: see `generate`.
        prepared: from `prepare`.
        on_step: sees each step before it is taken; what it raises stops the walk.

    Returns:
        The latent frames to decode.
    """
    walk = Walk(
        cast(HunyuanAvatar, system.network), prepared.condition, prepared.negative, prepared.grid, prepared.turns
    )

    def field(x: Tensor, t: Tensor) -> Tensor:
        with torch.autocast(system.device.type, system.autocast or torch.bfloat16, enabled=system.autocast is not None):
            return walk(x, t)

    with system.at_work(system.network):
        arrived = SAMPLERS[system.sampling.sampler](field, prepared.noise, prepared.grid, on_step)
    return arrived[:, :, : prepared.kept]


# ---- the published loop ----------------------------------------------------------------------------------------------


def turns(steps: int, guidance: float, *, skips: bool = False) -> list[Turn]:
    """Say what each step does.

    Args:
        steps: of the walk.
        guidance: scale of the first step.
        skips: leave the network but for its last block out in some steps, by the published plan. It was made for 50
            steps, of which 20 are skipped; of more, all after the 50th are.
    """
    made = []
    for step in range(steps):
        left, is_prompted = 1 - step / steps, step < PROMPTED
        scale = left * (guidance - PROMPT_FLOOR) + PROMPT_FLOOR if is_prompted else left * VOICE_RISE + VOICE_FLOOR
        is_whole = step <= 15 or step in range(20, 41, 5) or step in range(41, PLANNED)
        made.append(Turn(scale, EARLY_FACE if is_prompted else 1.0, is_prompted, is_whole or not skips))
    return made


def latent_frames(heard: int, window: int = WINDOW) -> tuple[int, int]:
    """Say how many latent frames to walk, and how many of them to keep, for so many video frames of sound.

    What is walked is a window, or the least k (window - 1) + 1 frames, k > 1, that have room for more than the sound.
    """
    kept, span = heard // VIDEO_FRAMES + 1, window - 1
    return (window if kept <= window else (heard // (VIDEO_FRAMES * span) + 1) * span + 1), kept


def walk_of(num_frames: int) -> tuple[int, int]:
    """Say how many latent frames to walk, and how many of them to keep, for a video of so many frames."""
    return latent_frames(SHOWN if num_frames <= SHOWN else num_frames + SPARE)


def places(frames: int, step: int, window: int = WINDOW, move: int = MOVE) -> Int[Tensor, "n window"]:
    """Return the windows of a step in a clip of so many latent frames."""
    return windows(frames, window, move * step % window)


def sounds(frames: Int[Tensor, " window"], total: int) -> Int[Tensor, " F"]:
    """Return the video frames whose sound belongs to a window of latent frames.

    Args:
        frames: of the window, neighbours on a circle.
        total: latent frames of the circle, which has four times as many video frames.
    """
    count = VIDEO_FRAMES * (len(frames) - 1) + 1
    return (VIDEO_FRAMES * frames[0] + torch.arange(count, device=frames.device)) % (VIDEO_FRAMES * total)


class Walk:
    """The field of a whole clip: the mean of its windows' velocities, each guided as its step asks.

    A function of `x` and `t` alone, as long as no step is skipped; a step that is skipped goes by what the last whole
    step left.

    Args:
        network: the network, on the device and in the type to run in.
        whole: condition of the clip, as `Prepared` has it; its reference is as long as a window.
        negative: the text of the other branch, in the first steps.
        times: the grid that will be walked.
        turns: what each step does.
    """

    def __init__(
        self,
        network: HunyuanAvatar,
        whole: Condition,
        negative: hunyuan.Condition,
        times: Float[Tensor, " N"],
        turns: Sequence[Turn],
    ) -> None:
        self.network, self.whole, self.negative, self.times, self.turns = network, whole, negative, times, turns
        self.window = whole.reference.shape[2]
        self.memory: dict[int, Memory] = {}

    def __call__(self, x: Float[Tensor, "B C T H W"], t: Float[Tensor, " B"]) -> Float[Tensor, "B C T H W"]:
        """Return the velocity of the clip."""
        step = self.step_at(float(t[0]))
        where = places(x.shape[2], step, self.window)
        return average(lambda part, frames: self.answer(part, t, frames, step), x, where)

    def step_at(self, t: float) -> int:
        """Return the step of the grid that begins at a time."""
        return int((self.times[:-1] - t).abs().argmin())

    def answer(
        self, x: Float[Tensor, "B C window H W"], t: Float[Tensor, " B"], frames: Int[Tensor, " window"], step: int
    ) -> Float[Tensor, "B C window H W"]:
        """Return the guided velocity of one window."""
        turn = self.turns[step]
        guidance = Guidance(turn.guidance)
        heard = self.whole.audio.index_select(1, sounds(frames, self.whole.audio.shape[1] // VIDEO_FRAMES))
        listens = replace(self.whole, audio=heard, face=turn.face * self.whole.face)
        ignores = replace(listens, audio=torch.zeros_like(heard))
        if turn.is_prompted:
            ignores = replace(ignores, text=self.negative)
        branches = guidance.weights(has_image=False)
        cond = Condition.cat([listens if branch.text else ignores for branch in branches])

        def stacked(views: Tensor, times: Tensor) -> Tensor:
            vec, layout = self.network.vec(times, cond), self.network.layout(views.shape[2:], cond)
            if turn.is_whole:
                tokens = self.network.trunk(views, times, cond, vec, layout)
                self._keep(tokens, layout, frames, step)
            else:
                tokens = self._recall(frames)
            return self.network.tip(tokens, vec, layout)

        return guide(stacked, guidance)(x, t)

    def _keep(self, tokens: Float[Tensor, "n M D"], layout: Layout, frames: Int[Tensor, " window"], step: int) -> None:
        """Remember the tokens of a window by frame, if the next step will skip; of two windows, the later one's."""
        if all(turn.is_whole for turn in self.turns[step + 1 : step + 2]):
            return
        length = layout.grid[1] * layout.grid[2]
        reference, *video = tokens[:, : layout.image_length].split(length, dim=1)
        for frame, own in zip(frames.tolist(), video, strict=True):
            self.memory[frame] = Memory(reference, own, tokens[:, layout.image_length :])

    def _recall(self, frames: Int[Tensor, " window"]) -> Float[Tensor, "n M D"]:
        """Put the tokens of a window together again; those of reference and text are its first frame's."""
        kept = [self.memory[frame] for frame in frames.tolist()]
        return torch.cat([kept[0].reference, *(memory.video for memory in kept), kept[0].text], dim=1)


class Memory(NamedTuple):
    """The tokens before the last single block that a latent frame had in its last whole step."""

    reference: Float[Tensor, "n L D"]
    video: Float[Tensor, "n L D"]
    text: Float[Tensor, "n S D"]


# ---- the picture -----------------------------------------------------------------------------------------------------


def size_of(speech: Speech, own: Size) -> tuple[int, int]:
    """Return the height and width of the video: as asked for, or about those of the model in the picture's shape.

    The short side is that of the model's clips, unless that makes more pixels than they have; multiples of 64.

    Raises:
        RequestError: only one of them was asked for.
    """
    if speech.height is not None and speech.width is not None:
        return speech.height, speech.width
    if speech.height is not None or speech.width is not None:
        raise RequestError("Only one of height and width was given. Give both, or none to keep the picture's shape.")
    rows, columns = speech.picture.shape[:2]
    scale = min(min(own.height, own.width) / min(rows, columns), math.sqrt(own.height * own.width / (rows * columns)))
    return nearest_multiple(round(scale * rows), SIDE_STEP), nearest_multiple(round(scale * columns), SIDE_STEP)


def fitted(
    speech: Speech, height: int, width: int
) -> tuple[UInt8[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"], tuple[str, ...]]:
    """Scale the picture to the video's size, cut off what is too much, and do the same to the mask of the face.

    Returns:
        The picture, the mask, and what was done, in words.
    """
    shown = Video.from_array(speech.picture[None], 1).resized(height, width, crop=True)
    (frame,) = shown.frames()
    if speech.face is None:
        note = "no face was given, so the whole picture follows the voice"
        return frame, np.ones((height, width), np.bool_), (*shown.notices, note)
    mask = face_mask(speech.face, *speech.picture.shape[:2])
    white = Video.from_array(repeat(255 * mask.astype(np.uint8), "h w -> 1 h w 3"), 1)
    (moves,) = white.resized(height, width, crop=True).frames()
    return frame, moves[..., 0] > 127, shown.notices


def face_mask(face: Box | Bool[np.ndarray, "h w"], height: int, width: int) -> Bool[np.ndarray, "H W"]:
    """Return where in a picture the voice may move something: in a box of three times the face's area, or in a mask.

    Args:
        face: box of the face, or the mask itself.
        height: pixels of the picture.
        width: the same, across.

    Raises:
        RequestError: the box is empty or not in the picture, or the mask is empty or of another size.
    """
    if isinstance(face, np.ndarray):
        if face.shape != (height, width) or not face.any():
            raise RequestError(
                f"The mask of the face is {face.shape[1]}x{face.shape[0]}, with {int(face.sum())} pixels set. It must "
                f"be of the picture's size, {width}x{height}, and set somewhere."
            )
        return face
    left, top, right, bottom = face
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise RequestError(
            f"The face's box {left:g},{top:g},{right:g},{bottom:g} does not lie in a picture of {width}x{height}. Give "
            "left,top,right,bottom in its pixels."
        )
    mask = np.zeros((height, width), np.bool_)
    (first_row, last_row), (first, last) = (_grown(top, bottom, height), _grown(left, right, width))
    mask[first_row:last_row, first:last] = True
    return mask


def _grown(start: float, stop: float, length: int) -> tuple[int, int]:
    middle, reach = (start + stop) / 2, (stop - start) / 2 * math.sqrt(FACE_AREA)
    return max(0, round(middle - reach)), min(length, round(middle + reach))


def latent_mask(mask: Bool[np.ndarray, "H W"], h: int, w: int) -> Float[Tensor, "1 1 1 h w"]:
    """Bring a mask of pixels to the size of the latents, bilinearly; the network takes the nearest for its tokens."""
    pixels = torch.from_numpy(mask.astype(np.float32))[None, None]
    return F.interpolate(pixels, (h, w), mode="bilinear")[:, :, None]


# ---- loading ---------------------------------------------------------------------------------------------------------


def load(name: str = "hunyuan-avatar", loading: Loading = Loading()) -> tuple[System, Ear]:
    """Load HunyuanVideo-Avatar with its autoencoder, text encoder and ear.

    The text encoder is loaded when there is a prompt to encode that it has not encoded before with the same image on
    this machine: see `encoders.cache`.

    Args:
        name: of the model.
        loading: where its parts are, and how they are kept. The ear, ``whisper-tiny``, is looked for beside the text
            encoders and the network; it is small, and stays on the device.

    Raises:
        RequestError: it is another model, or its template is not to be had.
        WeightsError: there are no weights for it, or they are damaged.
        MissingExtra: they are to be downloaded, and huggingface_hub is not installed.
    """
    found = loading_of.outline(name, loading)
    if not found.family.speaks or found.release is None:
        raise RequestError(f"{name} is no released model that makes an avatar speak. Use hunyuan-avatar.")
    # First the ear, which is small: what is wrong with it is found before the network is read.
    sources = filter(None, (loading.text_encoders, loading_of.source_of(name, loading), loading_of.source_of(name)))
    around = (folder for source in sources if (folder := folder_with(source, (EAR,))) is not None)
    folder = next(around, None)
    if folder is None:
        raise WeightsError(f"there is no {EAR} around the weights of {name}. Put its folder beside text_encoder_2.")
    device = find_device(loading.device)
    ear = Ear.load(folders.bring(folder.source, (EAR,)) / EAR, dtype=torch.float32).to(device)
    return loading_of.load(name, loading=loading), ear
