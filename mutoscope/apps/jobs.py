"""A job: what a person asks for in paths and names, run to files on disk with their sidecars.

The command line and, later, servers describe work as a `GenerateJob`; `generate` makes it. Everything that can be
wrong with it is found before sampling begins, and a file appears under its name only when it is whole.
"""

import hashlib
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from rich.console import Console
from rich.table import Table

import mutoscope
from mutoscope.core.errors import MediaError, RequestError
from mutoscope.core.files import replacing
from mutoscope.core.log import progress
from mutoscope.core.video import Video
from mutoscope.diffusion.samplers import Step
from mutoscope.models.family import families
from mutoscope.models.family import load as load_family
from mutoscope.pipeline import BUNDLED, DEFAULT_MODEL, Request, Settings, System, load
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
    system = system or load(job.model, job.device)
    requests, notes = _requests(job, system)
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


def _requests(job: GenerateJob, system: System) -> tuple[list[Request], list[str]]:
    """Read the pictures and spell the job out, one request for each seed; say what was done to the pictures."""
    settings = system.settings(job.request)
    notes: list[str] = []
    given: dict[int, UInt8[np.ndarray, "H W 3"]] = {}
    if job.image is not None:
        given[0] = _picture(job.image, settings, job.fit, notes)
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


def _picture(path: Path, settings: Settings, fit: Fit, notes: list[str]) -> UInt8[np.ndarray, "H W 3"]:
    video = Video.open(path)
    notes += [f"{path}: {notice}" for notice in video.notices]
    return _fit(next(iter(video.frames())), settings, fit, str(path), notes)


def _fit(
    frame: UInt8[np.ndarray, "h w 3"], settings: Settings, fit: Fit, source: str, notes: list[str]
) -> UInt8[np.ndarray, "H W 3"]:
    """Bring a picture to the clip's size in the way that was asked for."""
    height, width = frame.shape[:2]
    if (height, width) == (settings.height, settings.width):
        return frame
    wanted = f"{settings.width}x{settings.height}"
    if fit == "exact":
        raise RequestError(
            f"{source} is {width}x{height}, the clip is {wanted}. Add --fit crop to scale it and cut the edges, "
            "or --fit pad to scale it and add grey edges."
        )
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
    if (settings.num_frames, settings.height, settings.width) != (own.num_frames, own.height, own.width):
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
    sources = {
        option: {"path": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        for option, file in (("image", job.image), ("last_image", job.last_image), ("video", job.video))
        if file is not None
    }
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
        "guidance": settings.guidance.text_scale,
        "image_guidance": settings.guidance.image_scale,
        "renormalised_by": settings.guidance.renormalised_by,
        "sources": sources,
        "fit": job.fit,
        "notes": list(notes),
        "mutoscope": mutoscope.__version__,
        "torch": torch.__version__,
        "device": str(system.device),
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": _command(job, request, settings, path),
    }
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
        "guidance": settings.guidance.text_scale,
        "image-guidance": settings.guidance.image_scale,
        "sampler": settings.sampler,
        "seed": request.seed,
        "out": path,
        "device": job.device,
    }
    spelled = [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
    return ["mutoscope", "generate", request.prompt, *spelled]


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


def print_models() -> None:
    """Print a table of all models: size, what they accept, and whether their weights are here."""
    table = Table(title="Models", title_justify="left")
    for column in ("name", "parameters", "given pictures", "weights"):
        table.add_column(column, overflow="fold")
    for name in families():
        family = load_family(name)
        for preset, parameters in family.parameters.items():
            here = (BUNDLED / f"{name}_{preset}.safetensors").exists()
            given = {"none": "none", "first": "first frame", "any": "any frames"}[family.accepts.given]
            size = f"{parameters / 1e9:.2f}B" if parameters >= 1e9 else f"{parameters / 1e6:.1f}M"
            table.add_row(f"{name}/{preset}", size, given, "bundled" if here else "train it: mutoscope train")
    Console().print(table)
