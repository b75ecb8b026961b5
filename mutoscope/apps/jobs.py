"""A job: what a person asks for in paths and names, run to files on disk with their sidecars.

The command line and, later, servers describe work as a `GenerateJob`; `generate` makes it. Everything that can be
wrong with it is found before sampling begins, and a file appears under its name only when it is whole. The same holds
of a `ConvertJob`, which `convert` runs.
"""

import hashlib
import inspect
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

import mutoscope
from mutoscope import plan
from mutoscope.core import config, layouts
from mutoscope.core.checkpoint import open_checkpoint
from mutoscope.core.device import available_bytes
from mutoscope.core.errors import MediaError, RequestError, WeightsError
from mutoscope.core.files import replacing
from mutoscope.core.layouts import Layout
from mutoscope.core.log import progress
from mutoscope.core.video import Audio, Video
from mutoscope.core.weights import Key, few
from mutoscope.data import buckets
from mutoscope.diffusion.samplers import Step
from mutoscope.models.family import find
from mutoscope.models.hunyuan_avatar import HunyuanAvatar
from mutoscope.pipeline import (
    DEFAULT_MODEL,
    Outline,
    Request,
    Settings,
    Size,
    System,
    best_device,
    load,
    outline,
    refuse_given,
    settings_of,
    workload,
)
from mutoscope.placement.offload import Offload
from mutoscope.tasks import avatar
from mutoscope.tasks.avatar import Box
from mutoscope.worlds.render import render
from mutoscope.worlds.scene import Scene, Thing

Fit = Literal["exact", "crop", "pad"]
CONTINUED = 4  # frames of a clip that its continuation is given
ENDINGS = (".mp4", ".webm", ".gif", ".png")
PAD_GREY = 127


@dataclass(frozen=True)
class GenerateJob:
    """What to make, and from which files.

    Args:
        request: prompt and settings; its seed is that of the first video.
        model: see `pipeline.load`.
        image: picture that becomes the first frame.
        last_image: picture that becomes the last frame.
        video: clip whose last frames become the first ones.
        fit: what to do with a picture of another size.
        count: how many videos, with seeds that count up.
        out: folder, or file.
        device: see `pipeline.load`.
        published: see `pipeline.load`.
        offload: see `pipeline.load`.
        force: whether to try what has no room on the device.
        template: see `pipeline.load`.
        audio: voice with which the person in `image` speaks, for models that make somebody speak.
        face_box: where their face is, in pixels of `image`.
        skip_steps: see `tasks.avatar.Speech`.
    """

    request: Request
    model: str = DEFAULT_MODEL
    image: Path | None = None
    last_image: Path | None = None
    video: Path | None = None
    fit: Fit = "exact"
    count: int = 1
    out: Path = Path("outputs")
    device: str | None = None
    published: str | None = None
    offload: Offload = "none"
    force: bool = False
    template: Path | None = None
    audio: Path | None = None
    face_box: Box | None = None
    skip_steps: bool = False


def generate(job: GenerateJob, system: System | None = None, *, quiet: bool = False) -> list[Path]:
    """Make the videos of a job, each with a JSON sidecar that holds everything needed to make it again.

    Args:
        job: what to make.
        system: the model, if it is loaded already.
        quiet: show no progress and no notices.

    Returns:
        The files, one for each seed.

    Raises:
        RequestError, MediaError, WeightsError: for whatever is wrong with the job, before sampling begins.
    """
    if job.count < 1:
        raise RequestError(f"count={job.count} makes nothing. Give at least 1.")
    if job.request.seed < 0:
        raise RequestError(f"seed={job.request.seed} is negative. Give 0 or more.")
    if job.image is not None and job.video is not None:
        raise RequestError("Both --image and --video say how the clip begins. Give one of them.")
    paths = _name_files(job)
    known = outline(job.model) if system is None else system
    if _speaks(job, known):
        return _speak(job, known, paths, quiet=quiet)
    _refuse_pictures(job, known)
    job, notes = _follow_picture(job, known.size)
    requests, more_notes = _requests(job, known)
    notes += more_notes
    if system is None:
        if not job.force:
            _refuse_unless_it_fits(job)
        system = load(job.model, job.device, published=job.published, offload=job.offload, template=job.template)
    settings = system.settings(requests[0])
    if not quiet:
        _say([*notes, *_warnings(job, system, settings)])
    with progress(settings.steps * len(requests), "sampling", quiet=quiet) as bar:

        def on_step(step: Step) -> None:
            bar.advance(1)

        # One at a time: in a batch the last bits of a clip depend on its neighbours, and the same seed shall give the
        # same file.
        for request, path in zip(requests, paths, strict=True):
            system.generate([request], on_step)[0].save(path)
            _write_sidecar(path, job, request, settings, system, notes)
    return paths


def _refuse_pictures(job: GenerateJob, known: Outline | System) -> None:
    """Refuse pictures that the model cannot use, and none where it needs one, before anything is loaded."""
    num_frames = job.request.num_frames or (known.size.num_frames if known.size else None)
    if num_frames is None:  # then there are no weights either, which will be said
        return
    frames = {
        *([0] if job.image else []),
        *(range(CONTINUED) if job.video else []),
        *([num_frames - 1] if job.last_image else []),
    }
    refuse_given(known.family, known.name, sorted(frames))


def _follow_picture(job: GenerateJob, size: Size | None) -> tuple[GenerateJob, list[str]]:
    """Give the clip the shape of its picture, where the model has sizes for many shapes and none was asked for."""
    request = job.request
    is_asked = request.height is not None or request.width is not None
    if size is None or size.side is None or job.image is None or is_asked:
        return job, []
    picture = Video.open(job.image)
    height, width = buckets.choose(buckets.buckets(size.side), picture.height, picture.width)
    note = f"the clip is {width}x{height}, of this model's sizes the nearest in shape to {job.image}"
    return replace(job, request=replace(request, height=height, width=width)), [note]


def _refuse_unless_it_fits(job: GenerateJob) -> None:
    """Compare what the job needs with what the device has, before anything is loaded."""
    device = job.device or best_device()
    has_image = job.image is not None or job.video is not None
    work = workload(outline(job.model), job.request, has_image=has_image)
    host = None if torch.device(device).type == "cpu" else available_bytes("cpu")
    plan.refuse_unless_it_fits(work, available_bytes(device), job.offload, job.model, host=host)


def _name_files(job: GenerateJob) -> list[Path]:
    """Choose the names of the results, and find out now whether their folder can be written."""
    suffix = job.out.suffix.lower()
    if suffix and suffix not in ENDINGS:
        raise RequestError(f"--out {job.out} ends in {suffix}. Use {', '.join(ENDINGS)}, or name a folder.")
    folder = job.out.parent if suffix else job.out
    probe = folder / ".can-write"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"0")
        probe.unlink()
    except OSError as error:
        raise MediaError(f"Cannot write to {folder}: {error.strerror}. Name another folder with --out.") from error
    if suffix:
        if job.count == 1:
            return [job.out]
        return [job.out.with_stem(f"{job.out.stem}-{job.request.seed + index}") for index in range(job.count)]
    return [_free_name(folder, f"{_slug(job.request.prompt)}-{job.request.seed + index}") for index in range(job.count)]


def _slug(prompt: str) -> str:
    """Turn a prompt into a short file name."""
    words = re.sub(r"[^\w]+", "-", prompt.lower()).strip("-")
    return words[:48].rstrip("-") or "video"


def _free_name(folder: Path, stem: str) -> Path:
    """Return a name that no earlier result has."""
    path, number = folder / f"{stem}.mp4", 2
    while path.exists():
        path, number = folder / f"{stem}-{number}.mp4", number + 1
    return path


def _requests(job: GenerateJob, known: Outline | System) -> tuple[list[Request], list[str]]:
    """Read the pictures and spell the job out, one request for each seed; say what was done to the pictures."""
    settings = settings_of(known, job.request)
    notes: list[str] = []
    given: dict[int, UInt8[np.ndarray, "H W 3"]] = {}
    side = known.size.side if known.size else None
    if job.image is not None:
        given[0] = _picture(job.image, settings, job.fit, notes, side)
    if job.video is not None:
        clip = Video.open(job.video)
        notes += [f"{job.video}: {notice}" for notice in clip.notices]
        frames = clip.array()
        if len(frames) < CONTINUED:
            raise RequestError(
                f"{job.video} has {len(frames)} frames; a continuation starts from {CONTINUED}. "
                "Give a longer clip, or its picture with --image."
            )
        for index, frame in enumerate(frames[-CONTINUED:]):
            given[index] = _fit(frame, settings, job.fit, str(job.video), notes if index == 0 else [])
        notes.append(f"frames {len(frames) - CONTINUED} to {len(frames) - 1} of {job.video} begin the new clip")
    if job.last_image is not None:
        given[settings.num_frames - 1] = _picture(job.last_image, settings, job.fit, notes)
    seeds = range(job.request.seed, job.request.seed + job.count)
    return [replace(job.request, given=given, seed=seed) for seed in seeds], notes


def _picture(
    path: Path, settings: Settings, fit: Fit, notes: list[str], side: int | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    video = Video.open(path)
    notes += [f"{path}: {notice}" for notice in video.notices]
    return _fit(next(iter(video.frames())), settings, fit, str(path), notes, side)


def _fit(
    frame: UInt8[np.ndarray, "h w 3"],
    settings: Settings,
    fit: Fit,
    source: str,
    notes: list[str],
    side: int | None = None,
) -> UInt8[np.ndarray, "H W 3"]:
    """Bring a picture to the clip's size in the way that was asked for.

    A clip that has the shape of its picture, among sizes of the area of a square of `side` pixels, is cropped to as the
    model's own code does it.
    """
    height, width = frame.shape[:2]
    if (height, width) == (settings.height, settings.width):
        return frame
    bucket = None if side is None else buckets.choose(buckets.buckets(side), height, width)
    is_of_its_shape = bucket == (settings.height, settings.width)
    wanted = f"{settings.width}x{settings.height}"
    if fit == "exact":
        why = ", of this model's sizes the nearest in shape" if is_of_its_shape else ""
        raise RequestError(
            f"{source} is {width}x{height}, the clip is {wanted}{why}. Add --fit crop to scale it and cut the edges, "
            "or --fit pad to scale it and add grey edges."
        )
    if fit == "crop" and bucket is not None and is_of_its_shape:
        scaled_height, scaled_width, _, _ = buckets.plan(height, width, bucket)
        notes.append(
            f"{source}: {width}x{height} scaled to {scaled_width}x{scaled_height}, "
            f"{scaled_width - bucket.width} columns and {scaled_height - bucket.height} rows cut"
        )
        return buckets.fit(frame, bucket)
    choose = max if fit == "crop" else min
    scale = choose(settings.height / height, settings.width / width)
    scaled = max(1, round(width * scale)), max(1, round(height * scale))
    picture = np.asarray(Image.fromarray(frame).resize(scaled, Image.Resampling.LANCZOS))
    result = np.full((settings.height, settings.width, 3), PAD_GREY, np.uint8)
    # Where the two overlap: the middle of the picture for crop, the middle of the clip for pad.
    rows, columns = min(scaled[1], settings.height), min(scaled[0], settings.width)
    top, left = (scaled[1] - rows) // 2, (scaled[0] - columns) // 2
    to_top, to_left = (settings.height - rows) // 2, (settings.width - columns) // 2
    result[to_top : to_top + rows, to_left : to_left + columns] = picture[top : top + rows, left : left + columns]
    cut = f"{scaled[0] - columns} columns and {scaled[1] - rows} rows cut"
    added = f"{settings.width - columns} columns and {settings.height - rows} rows of grey added"
    notes.append(f"{source}: {width}x{height} scaled to {scaled[0]}x{scaled[1]}, {cut if fit == 'crop' else added}")
    return result


def _warnings(job: GenerateJob, system: System, settings: Settings) -> list[str]:
    """Say where the request leaves what the model was trained on."""
    notes = [
        f'this model does not know "{word}" (nearest known: {", ".join(near) or "none"}); '
        "`mutoscope models` lists models that know more"
        for word, near in system.encoder.unknown(job.request.prompt)
    ]
    own = system.size
    sizes = [(own.height, own.width), *(buckets.buckets(own.side) if own.side else [])]
    if settings.num_frames != own.num_frames or (settings.height, settings.width) not in sizes:
        notes.append(
            f"this model was trained on clips of {own.num_frames} x {own.width}x{own.height}; others may look worse"
        )
    return notes


def _say(notes: Sequence[str]) -> None:
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


def _write_sidecar(
    path: Path, job: GenerateJob, request: Request, settings: Settings, system: System, notes: Sequence[str]
) -> None:
    """Write beside the video what made it, down to the bytes of every file that went in."""
    record = {
        "prompt": request.prompt,
        "model": system.name,
        "weights_sha256": system.fingerprint,
        "seed": request.seed,
        "num_frames": settings.num_frames,
        "height": settings.height,
        "width": settings.width,
        "fps": str(settings.fps),
        "steps": settings.steps,
        "shift": settings.shift,
        "sampler": settings.sampler,
        "guidance": settings.scale,
        "image_guidance": settings.guidance.image_scale,
        "negative": settings.negative,
        "renormalised_by": settings.guidance.renormalised_by,
        "sources": _sources(image=job.image, last_image=job.last_image, video=job.video, template=job.template),
        "fit": job.fit,
        "notes": list(notes),
        **_made(system),
        "command": _command(job, request, settings, path),
    }
    _write_record(path, record)


def _sources(**files: Path | None) -> dict[str, dict[str, str]]:
    """Tell the files that went in by their bytes."""
    return {
        option: {"path": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        for option, file in files.items()
        if file is not None
    }


def _made(system: System) -> dict[str, str]:
    """Say by what, where and when."""
    return {
        "mutoscope": mutoscope.__version__,
        "torch": torch.__version__,
        "device": str(system.device),
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _write_record(path: Path, record: Mapping[str, Any]) -> None:
    with replacing(path.with_suffix(path.suffix + ".json")) as temporary:
        temporary.write_text(json.dumps(record, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _command(job: GenerateJob, request: Request, settings: Settings, path: Path) -> list[str]:
    """Spell out the command that makes the file again, with every default written down."""
    options: dict[str, object] = {
        "model": job.model,
        "image": job.image,
        "last-image": job.last_image,
        "video": job.video,
        "fit": job.fit,
        "num-frames": settings.num_frames,
        "height": settings.height,
        "width": settings.width,
        "fps": float(settings.fps),
        "steps": settings.steps,
        "guidance": settings.scale,
        "image-guidance": settings.guidance.image_scale,
        "renormalise": settings.guidance.renormalised_by or "none",
        "shift": settings.shift,
        "negative": settings.negative if settings.negative or request.negative is not None else None,
        "sampler": settings.sampler,
        "seed": request.seed,
        "out": path,
        "device": job.device,
        "weights": job.published,
        "template": job.template,
        "offload": None if job.offload == "none" else job.offload,
    }
    spelled = [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
    return ["mutoscope", "generate", request.prompt, *spelled, *(["--force"] if job.force else [])]


def face_box(text: str | None) -> Box | None:
    """Read where a face is, in pixels of a picture.

    Args:
        text: LEFT,TOP,RIGHT,BOTTOM, or None.

    Raises:
        RequestError: it is something else.
    """
    if text is None:
        return None
    try:
        return Box(*map(float, text.split(",")))
    except (ValueError, TypeError):
        raise RequestError(
            f"--face-box {text} is no box. Write LEFT,TOP,RIGHT,BOTTOM in pixels, such as 300,120,420,280."
        ) from None


def _speaks(job: GenerateJob, known: Outline | System) -> bool:
    """Say whether the model makes somebody speak, and refuse what does not go with it."""
    own, request = {"audio": job.audio, "face-box": job.face_box, "skip-steps": job.skip_steps or None}, job.request
    if known.family.network is not HunyuanAvatar:
        if given := [f"--{name}" for name, value in own.items() if value is not None]:
            raise RequestError(
                f"{known.name} makes nobody speak, so {', '.join(given)} cannot be used. Add --model hunyuan-avatar."
            )
        return False
    if job.image is None or job.audio is None:
        raise RequestError(
            f"{known.name} makes somebody speak. Give a picture of them (--image) and their voice (--audio)."
        )
    others = {
        "last-image": job.last_image,
        "video": job.video,
        "num-frames": request.num_frames,
        "image-guidance": request.image_guidance,
        "renormalise": request.renormalise,
        "sampler": request.sampler,
        "shift": request.shift,
        "fit pad": "pad" if job.fit == "pad" else None,
    }
    if given := [f"--{name}" for name, value in others.items() if value is not None]:
        raise RequestError(
            f"{known.name} has no use for {', '.join(given)}: the video lasts as long as the voice. Leave it out."
        )
    return True


def _speak(job: GenerateJob, known: Outline | System, paths: Sequence[Path], *, quiet: bool) -> list[Path]:
    """Make the videos of a job for a model that makes somebody speak."""
    assert job.image is not None and job.audio is not None
    request = job.request
    speech = avatar.Speech(
        request.prompt,
        next(Video.open(job.image).frames()),
        Audio.open(job.audio),
        job.face_box,
        request.negative,
        request.height,
        request.width,
        request.fps or avatar.Speech.fps,
        request.steps,
        request.guidance,
        skips_steps=job.skip_steps,
    )
    times, _ = avatar.planned(speech, known.sampling)
    if not job.force:
        _refuse_unless_it_fits(job)
    system, ear = avatar.load(
        job.model, job.device, published=job.published, offload=job.offload, template=job.template
    )
    with progress((len(times) - 1) * len(paths), "sampling", quiet=quiet) as bar:
        for index, path in enumerate(paths):
            video = avatar.generate(
                system, ear, replace(speech, seed=request.seed + index), lambda step: bar.advance(1)
            )
            if not quiet and not index:
                _say(video.notices)
            video.save(path)
            _write_speech(path, job, speech, request.seed + index, len(times) - 1, system, video)
    return list(paths)


def _write_speech(
    path: Path, job: GenerateJob, speech: avatar.Speech, seed: int, steps: int, system: System, video: Video
) -> None:
    """Write beside the video of somebody who speaks what made it."""
    negative = system.family.negative if speech.negative is None else speech.negative
    guidance = system.sampling.guidance.text_scale if speech.guidance is None else speech.guidance
    box = None if job.face_box is None else ",".join(f"{edge:g}" for edge in job.face_box)
    options: dict[str, object] = {
        "model": job.model,
        "image": job.image,
        "audio": job.audio,
        "face-box": box,
        "height": video.height,
        "width": video.width,
        "fps": float(video.fps),
        "steps": steps,
        "guidance": guidance,
        "negative": negative,
        "seed": seed,
        "out": path,
        "device": job.device,
        "weights": job.published,
        "template": job.template,
        "offload": None if job.offload == "none" else job.offload,
    }
    spelled = [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
    flags = [flag for flag, is_set in (("--skip-steps", job.skip_steps), ("--force", job.force)) if is_set]
    record = {
        "prompt": speech.prompt,
        "model": system.name,
        "weights_sha256": system.fingerprint,
        "seed": seed,
        "num_frames": video.num_frames,
        "height": video.height,
        "width": video.width,
        "fps": str(video.fps),
        "steps": steps,
        "shift": system.sampling.shift,
        "sampler": system.sampling.sampler,
        "guidance": guidance,
        "negative": negative,
        "skipped_steps": job.skip_steps,
        "face_box": box,
        "sources": _sources(image=job.image, audio=job.audio, template=job.template),
        "notes": list(video.notices),
        **_made(system),
        "command": ["mutoscope", "generate", speech.prompt, *spelled, *flags],
    }
    _write_record(path, record)


Component = Literal["transformer", "autoencoder"]


@dataclass(frozen=True)
class ConvertJob:
    """Which weights to write under other names.

    Args:
        model: family and preset that they were made for.
        source: where they are, as `core.folders` reads it.
        out: a new folder, or a file ending in .safetensors.
        layout: whose names to write.
        component: which of the model's networks.
        shard_gb: what a file may weigh at most, in GB of 10^9 bytes; a file that was named takes all.
        entry: for files of `torch.save` with several sets of weights, the one to take.
    """

    model: str
    source: str
    out: Path
    layout: Layout
    component: Component = "transformer"
    shard_gb: float = 4.0
    entry: str | None = None


def convert(job: ConvertJob, *, quiet: bool = False) -> tuple[list[Path], str]:
    """Write weights under the names of another layout.

    Args:
        job: which, and where to.
        quiet: show no progress.

    Returns:
        The files, and the layout that the weights had.

    Raises:
        RequestError, WeightsError: for whatever is wrong with the job, before anything is written.
    """
    if job.shard_gb <= 0:
        raise RequestError(f"shard_size_gb={job.shard_gb} holds nothing. Give a number above 0.")
    network, published, settings = _component(job.model, job.component)
    keys = {**published, "mutoscope": [Key(name, (name,)) for name in network]}
    if job.layout not in keys:
        raise RequestError(f"The {job.component} of {job.model} has no {job.layout} layout. It has: {', '.join(keys)}.")
    checkpoint = open_checkpoint(job.source, within=layouts.FOLDERS[job.component], entry=job.entry)
    match = layouts.recognise(checkpoint, network, published, what=f"the {job.component} of {job.model}")
    own = {"model": job.model, "component": job.component, "config": settings}
    if match.layout == "mutoscope":
        _refuse_other_config(job, checkpoint.metadata, settings)
        own |= checkpoint.metadata
    target = keys[job.layout]
    with progress(sum(len(key.theirs) for key in target), "written", quiet=quiet) as bar:
        files = layouts.convert(
            match,
            target,
            job.layout,
            job.out,
            metadata=own if job.layout == "mutoscope" else {},
            shard_bytes=int(job.shard_gb * 1e9),
            on_tensor=lambda: bar.advance(1),
        )
    return files, match.layout


def _component(model: str, component: Component) -> tuple[dict[str, layouts.Header], Mapping[str, Sequence[Key]], str]:
    """Return the tensors of a component, their published names, and its config as JSON; no memory is taken."""
    family, preset = find(model)
    with torch.device("meta"):
        network: Any = family.network(preset) if component == "transformer" else family.autoencoder()
    keys = family.keys if component == "transformer" else getattr(inspect.getmodule(family.autoencoder), "keys", None)
    published = {} if keys is None else keys(network.config)
    return layouts.headers_of(network), published, json.dumps(config.to_json(network.config))


def _refuse_other_config(job: ConvertJob, metadata: Mapping[str, str], settings: str) -> None:
    """Refuse weights of ours that say that they were made for another network, though all shapes agree."""
    given, needed = json.loads(metadata.get("config", settings)), json.loads(settings)
    if differing := sorted(name for name in {*given, *needed} if given.get(name) != needed.get(name)):
        raise WeightsError(
            f"{job.source} was made for another {job.component} than that of {job.model}: they differ in "
            f"{few(differing)}. Name the model that it was made for."
        )


# What the demo generates: file name and prompt. The last begins from a picture that the world draws.
DEMO = (
    ("circle", "a small red circle drifts slowly to the left over a checkered grey floor, static camera"),
    ("star", "a large yellow star spins slowly in front of a slate gradient, static camera"),
    ("heart", "a medium pink heart bounces quickly in front of a plain black wall, static camera"),
    ("pair", "a small blue square moves slowly right and a medium orange ring grows over a plain white background"),
    ("chinese", "一个中等大小的绿色三角形快速地向上移动，背景是米色渐变背景，镜头静止"),
    ("camera", "a small cyan cross stays still over a grey checkerboard, the camera zooms in"),
    ("from-picture", "a medium purple heart drifts slowly to the right over a plain beige background, static camera"),
)
DEMO_SCENE = Scene(
    (
        Thing(
            shape="heart",
            colour="purple",
            size="medium",
            texture="solid",
            motion="right",
            speed="slow",
            x=-0.1,
            y=0.1,
            radius=0.26,
            angle=0.0,
            extent=0.38,
            phase=0.0,
            turning=1,
        ),
    ),
    background="plain",
    tone="beige",
    camera="static",
    camera_extent=0.0,
    phase=(0.0, 0.0),
    heading=0.0,
    seed=0,
)


def demo(out: Path, device: str | None = None) -> tuple[list[Path], Path]:
    """Generate a few videos from text and one from a picture with the bundled model.

    Args:
        out: folder to write to.
        device: where to run; the fastest there is, if not given.

    Returns:
        The videos, and a GIF that plays them side by side.
    """
    system = load(DEFAULT_MODEL, device)
    videos = []
    for name, prompt in DEMO:
        picture = None
        if name == "from-picture":
            picture = out / "picture.png"
            size = system.size
            Video.from_array(render(DEMO_SCENE, 1, size.height, size.width), size.fps).save(picture)
        videos += generate(GenerateJob(Request(prompt), image=picture, out=out / f"{name}.mp4"), system)
        print(f"{videos[-1]}: {prompt}")
    sheet = out / "all.gif"
    side_by_side = np.concatenate([Video.open(path).array() for path in videos], axis=2)
    height, width = side_by_side.shape[1:3]
    Video.from_array(side_by_side, system.size.fps).resized(2 * height, 2 * width).save(sheet)
    return videos, sheet
