"""A job: what a person asks for in paths and names, run to files on disk with their sidecars.

The command line and, later, servers describe work as a `GenerateJob`; `generate` makes it. Everything that can be
wrong with it is found before sampling begins, and a file appears under its name only when it is whole.
"""

import hashlib
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

import mutoscope
from mutoscope import plan
from mutoscope.apps import pictures
from mutoscope.apps.limits import refuse_foreign
from mutoscope.apps.pictures import Fit
from mutoscope.core.device import available_bytes, find_device
from mutoscope.core.errors import MediaError, RequestError
from mutoscope.core.files import replacing
from mutoscope.core.log import progress
from mutoscope.core.video import Audio, Video
from mutoscope.data import buckets
from mutoscope.diffusion.samplers import Step
from mutoscope.loading import Loading, load, outline
from mutoscope.pipeline import (
    DEFAULT_MODEL,
    Outline,
    Request,
    Settings,
    Size,
    System,
    is_bundled,
    refuse_given,
    settings_of,
    workload,
)
from mutoscope.tasks import avatar, faces
from mutoscope.tasks.avatar import Box

CONTINUED = 4  # frames of a clip that its continuation is given
ENDINGS = (".mp4", ".mov", ".mkv", ".webm", ".gif", ".png")
OTHER_ENDINGS = (".avi", ".jpeg", ".jpg", ".m4v", ".mpeg", ".mpg", ".ts", ".webp", ".wmv")  # not written


@dataclass(frozen=True)
class GenerateJob:
    """What to make, and from which files.

    Args:
        request: prompt and settings; its seed is that of the first video.
        model: see `loading.load`.
        image: picture that becomes the first frame.
        last_image: picture that becomes the last frame.
        video: clip whose last frames become the first ones.
        fit: what to do with a picture of another size.
        count: how many videos, with seeds that count up.
        out: folder, or file.
        loading: where the parts of the model are, and how they are kept.
        force: whether to try what has no room on the device.
        audio: voice with which the person in `image` speaks, for models that make somebody speak.
        face_box: where their face is, in pixels of `image`.
        skip_steps: see `tasks.avatar.Speech`.
        face_detector: file of what finds their face, instead of `face_box`; see `tasks.faces`.
        overwrite: whether the file `out` may take the place of another.
    """

    request: Request
    model: str = DEFAULT_MODEL
    image: Path | None = None
    last_image: Path | None = None
    video: Path | None = None
    fit: Fit = "exact"
    count: int = 1
    out: Path = Path("outputs")
    loading: Loading = Loading()
    force: bool = False
    audio: Path | None = None
    face_box: Box | None = None
    skip_steps: bool = False
    face_detector: Path | None = None
    overwrite: bool = False


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
    known = outline(job.model, job.loading) if system is None else system
    plan.refuse_tiles(known.family, known.name, job.loading.decode)
    plan.refuse_quantized(known.family, known.name, job.loading.quantize)
    if _speaks(job, known):
        return _speak(job, known, paths, quiet=quiet)
    _refuse_pictures(job, known)
    job, notes = _follow_picture(job, known.size)
    requests, more_notes = _requests(job, known)
    notes += more_notes
    if system is None:
        if not job.force:
            has_image = job.image is not None or job.video is not None
            _refuse_unless_it_fits(job, job.request, has_image=has_image)
        system = load(job.model, loading=job.loading)
    settings = system.settings(requests[0])
    Video.refuse_unwritable(paths[0], settings.height, settings.width, settings.fps, settings.num_frames)
    if is_bundled(system.name) and not job.force:
        unknown = [word for word, _ in system.encoder.unknown(job.request.prompt)]
        own = [
            (path, requests[0].given[at])
            for path, at in ((job.image, 0), (job.last_image, settings.num_frames - 1))
            if path
        ]
        refuse_foreign(job.model, job.request.prompt, unknown, own)
    if not quiet:
        _say([*notes, *_warnings(job, system, settings)])
    with progress(settings.walked * len(requests), "sampling", quiet=quiet) as bar:

        def on_step(step: Step) -> None:
            bar.advance(1)

        # One at a time: in a batch the last bits of a clip depend on its neighbours, and the same seed shall give the
        # same file.
        for request, path in zip(requests, paths, strict=True):
            video, way = system.stream(request, on_step, job.loading.decode)
            if not quiet:
                _say(video.notices)
            video.save(path)
            _write_sidecar(path, _as_made(job, way), request, settings, system, [*notes, *video.notices])
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


def _refuse_unless_it_fits(job: GenerateJob, request: Request, *, has_image: bool) -> None:
    """Compare what a request of the job needs with what the device has, before anything is loaded."""
    loading = job.loading
    device, found = find_device(loading.device), outline(job.model, loading)
    on_cpu = device.type == "cpu"
    host = None if on_cpu else available_bytes("cpu")
    way, quantize = loading.decode, loading.quantize
    work = workload(found, request, has_image=has_image, on_cpu=on_cpu, decode=way, quantize=quantize)
    work = avatar.in_windows(work) if found.family.speaks else work
    plan.refuse_unless_it_fits(work, available_bytes(device), loading.offload, job.model, host=host)


def _as_made(job: GenerateJob, way: plan.Way) -> GenerateJob:
    """Return the job with the way to decode that makes the file again: as asked, or tiles if they were chosen."""
    if job.loading.decode is not None or way != "tiled":
        return job
    return replace(job, loading=replace(job.loading, decode=way))


def _name_files(job: GenerateJob) -> list[Path]:
    """Choose the names of the results, and find out now whether they can be written."""
    suffix = job.out.suffix.lower()
    if suffix in OTHER_ENDINGS and not job.out.is_dir():
        raise RequestError(f"--out {job.out} ends in {suffix}. Use {', '.join(ENDINGS)}, or name a folder.")
    is_file = suffix in ENDINGS and not job.out.is_dir()
    folder = job.out.parent if is_file else job.out
    probe = folder / ".can-write"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"0")
        probe.unlink()
    except OSError as error:
        raise MediaError(f"Cannot write to {folder}: {error.strerror}. Name another folder with --out.") from error
    if is_file:
        stems = [f"{job.out.stem}-{job.request.seed + index}" for index in range(job.count)]
        paths = [job.out] if job.count == 1 else [job.out.with_stem(stem) for stem in stems]
        if (taken := next(filter(Path.exists, paths), None)) and not job.overwrite:
            raise RequestError(f"{taken} exists. Add --overwrite to replace it, or give another name to --out.")
        return paths
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
        given[0] = pictures.read(job.image, settings, job.fit, notes, side)
    if job.video is not None:
        clip = Video.open(job.video)
        notes += [f"{job.video}: {notice}" for notice in clip.notices]
        total = clip.num_frames or 0  # of a file it is known
        if total < CONTINUED:
            raise RequestError(
                f"{job.video} has {total} frames; a continuation starts from {CONTINUED}. "
                "Give a longer clip, or its picture with --image."
            )
        for index, frame in enumerate(clip.take(total - CONTINUED, CONTINUED).frames()):
            given[index] = pictures.fitted(frame, settings, job.fit, str(job.video), notes if index == 0 else [])
        notes.append(f"frames {total - CONTINUED} to {total - 1} of {job.video} begin the new clip")
    if job.last_image is not None:
        given[settings.num_frames - 1] = pictures.read(job.last_image, settings, job.fit, notes)
    seeds = range(job.request.seed, job.request.seed + job.count)
    return [replace(job.request, given=given, seed=seed) for seed in seeds], notes


def _warnings(job: GenerateJob, system: System, settings: Settings) -> list[str]:
    """Say where the request leaves what the model was trained on."""
    notes = [
        f'this model does not know "{word}"{", did you mean " + " or ".join(near) + "?" if near else ""}'
        for word, near in system.encoder.unknown(job.request.prompt)
    ]
    if notes:
        notes.append(f"`mutoscope info {job.model}` lists the words that it knows, `mutoscope models` other models")
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
        "weights": system.origin(),
        "seed": request.seed,
        "num_frames": settings.num_frames,
        "height": settings.height,
        "width": settings.width,
        "fps": str(settings.fps),
        "steps": settings.steps,
        "shift": settings.shift,
        "sampler": settings.sampler,
        "restarts": None if settings.restarts is None else asdict(settings.restarts),
        "guidance": settings.scale,
        "image_guidance": settings.guidance.image_scale,
        "negative": settings.negative,
        "renormalised_by": settings.guidance.renormalised_by,
        "sources": _sources(image=job.image, last_image=job.last_image, video=job.video, template=job.loading.template),
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
        "restarts": 0 if settings.restarts is None else settings.restarts.count,
        "negative": settings.negative if settings.negative or request.negative is not None else None,
        "sampler": settings.sampler,
        "seed": request.seed,
        "out": path,
        **_spelled(job.loading),
    }
    spelled = [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
    return ["mutoscope", "generate", request.prompt, *spelled, *(["--force"] if job.force else []), "--overwrite"]


def _spelled(loading: Loading) -> dict[str, object]:
    """Return the options of the command line that load a model in the same way; those left at None are not written."""
    return {
        "device": loading.device,
        "weights": loading.weights,
        "vae": loading.vae,
        "text-encoders": loading.text_encoders,
        "entry": loading.entry,
        "template": loading.template,
        "offload": None if loading.offload == "none" else loading.offload,
        "decode": loading.decode,
        "quantize": loading.quantize,
    }


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
        edges = [float(edge) for edge in text.split(",")]
        if not all(map(math.isfinite, edges)):
            raise ValueError
        return Box(*edges)
    except (ValueError, TypeError):
        raise RequestError(
            f"--face-box {text} is no box. Write LEFT,TOP,RIGHT,BOTTOM in pixels, such as 300,120,420,280."
        ) from None


def _box_text(box: Box) -> str:
    """Write a box as `face_box` reads it."""
    return ",".join(f"{edge:g}" for edge in box)


def _speaks(job: GenerateJob, known: Outline | System) -> bool:
    """Say whether the model makes somebody speak, and refuse what does not go with it."""
    request = job.request
    own = {
        "audio": job.audio,
        "face-box": job.face_box,
        "face-detector": job.face_detector,
        "skip-steps": job.skip_steps or None,
    }
    if not known.family.speaks:
        if given := [f"--{name}" for name, value in own.items() if value is not None]:
            raise RequestError(
                f"{known.name} makes nobody speak, so {', '.join(given)} cannot be used. Add --model hunyuan-avatar."
            )
        return False
    if job.image is None or job.audio is None:
        raise RequestError(
            f"{known.name} makes somebody speak. Give a picture of them (--image) and their voice (--audio)."
        )
    if job.face_box is not None and job.face_detector is not None:
        raise RequestError("Both --face-box and --face-detector say where the face is. Give one of them.")
    others = {
        "last-image": job.last_image,
        "video": job.video,
        "num-frames": request.num_frames,
        "image-guidance": request.image_guidance,
        "renormalise": request.renormalise,
        "sampler": request.sampler,
        "shift": request.shift,
        "restarts": request.restarts,
        "fit pad": "pad" if job.fit == "pad" else None,
    }
    if given := [f"--{name}" for name, value in others.items() if value is not None]:
        raise RequestError(
            f"{known.name} has no use for {', '.join(given)}: the video lasts as long as the voice. Leave it out."
        )
    return True


def _speak(job: GenerateJob, known: Outline | System, paths: Sequence[Path], *, quiet: bool) -> list[Path]:
    """Make the videos of a job for a model that makes somebody speak."""
    if job.face_detector is not None:
        job = replace(job, face_detector=faces.bring(job.face_detector))
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
    found: list[str] = []
    if job.face_detector is not None:
        box = faces.largest_face(speech.picture, job.face_detector)
        job, speech = replace(job, face_box=box), replace(speech, face=box)
        found = [f"the largest face in {job.image} is at {_box_text(box)}, by {job.face_detector}"]
    if not job.force:
        asked = replace(request, num_frames=avatar.frames_of(speech))
        if known.size is not None:
            height, width = avatar.size_of(speech, known.size)
            asked = replace(asked, height=height, width=width)
        _refuse_unless_it_fits(job, asked, has_image=False)
    system, ear = avatar.load(job.model, job.loading)
    with progress((len(times) - 1) * len(paths), "sampling", quiet=quiet) as bar:
        for index, path in enumerate(paths):
            speech = replace(speech, seed=request.seed + index)
            video, way = avatar.stream(system, ear, speech, lambda step: bar.advance(1), job.loading.decode)
            video = replace(video, notices=(*found, *video.notices))
            if not quiet and not index:
                _say(video.notices)
            video.save(path)
            _write_speech(path, _as_made(job, way), speech, request.seed + index, len(times) - 1, system, video)
    return list(paths)


def _write_speech(
    path: Path, job: GenerateJob, speech: avatar.Speech, seed: int, steps: int, system: System, video: Video
) -> None:
    """Write beside the video of somebody who speaks what made it."""
    negative = system.family.negative if speech.negative is None else speech.negative
    guidance = system.sampling.guidance.text_scale if speech.guidance is None else speech.guidance
    box = None if job.face_box is None else _box_text(job.face_box)
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
        **_spelled(job.loading),
    }
    spelled = [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
    flags = [flag for flag, is_set in (("--skip-steps", job.skip_steps), ("--force", job.force)) if is_set]
    flags.append("--overwrite")
    record = {
        "prompt": speech.prompt,
        "model": system.name,
        "weights_sha256": system.fingerprint,
        "weights": system.origin(),
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
        "sources": _sources(
            image=job.image, audio=job.audio, template=job.loading.template, face_detector=job.face_detector
        ),
        "notes": list(video.notices),
        **_made(system),
        "command": ["mutoscope", "generate", speech.prompt, *spelled, *flags],
    }
    _write_record(path, record)
