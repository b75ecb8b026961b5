"""Turn clips into latents once, before training: render a world or read a folder of videos, encode, write shards.

    WorldClips, FolderClips or DatasetClips --workers--> frames "T H W 3" --autoencoder--> latents "C T h w"
                                                                                           └──> data/shards.py

Shards that are whole are never made again, so the same call goes on after a stop. A world's captions are not stored:
they are drawn from the scene while training, so each epoch reads new ones.
"""

import hashlib
import multiprocessing
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from mutoscope.core import config
from mutoscope.core.dist import print0
from mutoscope.core.errors import MediaError, RecipeError, WeightsError
from mutoscope.core.log import progress
from mutoscope.core.video import Video
from mutoscope.data import shards, tables
from mutoscope.data.batches import at_rate, available_frames, opened
from mutoscope.data.schema import Caption, Clip
from mutoscope.data.tars import Tars
from mutoscope.models.family import find
from mutoscope.worlds.render import render
from mutoscope.worlds.scene import Split, sample

Frames = UInt8[np.ndarray, "T H W 3"]
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
AT_ONCE = 16  # clips encoded together


@dataclass(frozen=True)
class WorldClips:
    """Clips of the procedural world.

    Args:
        count: how many.
        first_seed: seed of the first scene; the others follow.
        split: which attribute combinations, see ``worlds.scene``.
        num_frames: frames of a clip.
        height: pixels down.
        width: pixels across.
        fps: frames a second that the clips are said to have.
    """

    count: int
    first_seed: int = 0
    split: Split = "train"
    num_frames: int = 16
    height: int = 64
    width: int = 64
    fps: int = 8

    def listing(self) -> list["_WorldClip"]:
        """Return every clip, still to be rendered."""
        return [_WorldClip(self, seed) for seed in range(self.first_seed, self.first_seed + self.count)]


@dataclass(frozen=True)
class FolderClips:
    """Clips of real videos or pictures, with captions in a table.

    Args:
        folder: where the files are.
        captions: a table of files and captions (.csv, .jsonl, .parquet ...), as `data.tables` describes it. A file in
            several rows has several captions.
        num_frames: frames of a clip; 1 for pictures.
        height: pixels down, after resizing.
        width: pixels across, after resizing.
        fps: frames a second to which videos are brought; the nearest frames are taken, none is blended.
        crop: cut off the edges of files of another shape, which are refused otherwise.
        windows: greatest number of clips, one after another, taken from one file.
    """

    folder: str
    captions: str
    num_frames: int = 16
    height: int = 64
    width: int = 64
    fps: int = 8
    crop: bool = False
    windows: int = 1

    def listing(self) -> list["_FileClip"]:
        """Return every clip, still to be decoded; name the files that are too short.

        Raises:
            MutoscopeError: if a file cannot be read or has another shape, or all are too short.
        """
        listing: list[_FileClip] = []
        for file, captions in _captions(Path(self.captions)).items():
            available = self.opened(file).num_frames or 0
            fits = min(self.windows, available // self.num_frames)
            if fits == 0:
                print0(f"{file} is left out: it has {available} frames at {self.fps} a second, not {self.num_frames}")
            listing += [_FileClip(self, file, window, captions) for window in range(fits)]
        if not listing:
            raise MediaError(
                f"No file of {self.captions} has {self.num_frames} frames at {self.fps} a second. "
                "Lower num_frames or raise fps."
            )
        return listing

    def opened(self, file: str) -> Video:
        """Return a file at the size and rate asked for, not yet decoded."""
        video = at_rate(Video.open(Path(self.folder) / file), self.fps)
        return video.resized(self.height, self.width, crop=self.crop)


@dataclass(frozen=True)
class DatasetClips:
    """Clips of a data set that `mutoscope curate` wrote.

    Args:
        folder: of the data set.
        num_frames: frames of a clip; 1 takes its pictures, and more take its videos.
        height: pixels down, after resizing.
        width: pixels across, after resizing.
        fps: frames a second to which videos are brought; the nearest frames are taken, none is blended.
        crop: cut off the edges of clips of another shape, which are refused otherwise.
        windows: greatest number of clips, one after another, taken from one of the data set.
        level: of the nested levels that a stage `Nested` made, the one to take; all clips if not given.
    """

    folder: str
    num_frames: int = 16
    height: int = 64
    width: int = 64
    fps: int = 8
    crop: bool = False
    windows: int = 1
    level: str | None = None

    def listing(self) -> list["_DatasetClip"]:
        """Return every clip, still to be decoded; say how many are too short.

        Raises:
            MediaError: the data set is not whole, has no such level, or has no clip that is long enough.
        """
        kind = "picture" if self.num_frames == 1 else "video"
        stored = [row for row in Tars(self.folder).rows if (row.num_frames == 1) == (kind == "picture")]
        if self.level is not None:
            inside = clips_of_level(Path(self.folder), self.level)
            stored = [row for row in stored if row.id in inside]
        listing: list[_DatasetClip] = []
        for row in stored:
            fits = min(self.windows, available_frames(row, self.fps) // self.num_frames)
            listing += [_DatasetClip(self, row.id, window) for window in range(fits)]
        short = len(stored) - len({clip.id for clip in listing})
        if short:
            print0(f"{short} of {len(stored)} clips are left out: not {self.num_frames} frames at {self.fps} a second")
        if not listing:
            raise MediaError(
                f"No {kind} of {self.folder} has {self.num_frames} frames at {self.fps} a second. "
                "Lower num_frames or raise fps."
            )
        return listing


def clips_of_level(folder: Path, level: str) -> set[str]:
    """Return the ids of the clips that belong to a level, as curation wrote them down."""
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(folder / "clips.parquet", columns=["id", "levels"]).to_pylist()
    except (OSError, ValueError) as error:
        raise MediaError(f"{folder} has no levels. Curate it with a stage Nested, or leave out level.") from error
    inside = {row["id"] for row in rows if row["levels"] and level in row["levels"]}
    if not inside:
        known = max((row["levels"] or [] for row in rows), key=len, default=[])
        raise MediaError(f"No clip of {folder} is in level {level!r}. Choose from {', '.join(known) or 'none'}.")
    return inside


@lru_cache(maxsize=2)
def _opened_dataset(folder: str) -> tuple[Tars, dict[str, int]]:
    """Open a data set once in each process, and number its clips."""
    dataset = Tars(folder)
    return dataset, {row.id: index for index, row in enumerate(dataset.rows)}


@dataclass(frozen=True)
class Precompute:
    """A phase that writes latents.

    Args:
        name: of the phase.
        source: which clips.
        autoencoder: its weights file.
        folder: where the shards go; recipes may share it.
        shard_size: clips of a shard.
        dtype: of the latents on disk.
        model: family or model whose kind of autoencoder it is.
        workers: processes that render or decode; 0 does it in this one.
    """

    name: str
    source: WorldClips | FolderClips | DatasetClips
    autoencoder: str
    folder: str
    shard_size: int = 256
    dtype: Literal["fp16", "bf16", "fp32"] = "fp16"
    model: str = "stiv"
    workers: int = 0

    def __post_init__(self) -> None:
        if self.shard_size < 1 or self.workers < 0:
            raise RecipeError(f"Phase {self.name}: shard_size must be at least 1 and workers at least 0.")


def encode(task: Precompute, *, device: str | torch.device = "cpu", stop: threading.Event | None = None) -> None:
    """Write the shards of a task that are not there yet.

    Args:
        task: what to encode and where to put it.
        device: where the autoencoder runs.
        stop: when set, the shard under way is finished and no other begun.

    Raises:
        RequestError: if the autoencoder does not take the size; before anything is rendered.
        MediaError: if the folder holds latents of something else.
    """
    source, folder = task.source, Path(task.folder)
    path = Path(task.autoencoder)
    family, _ = find(task.model)
    autoencoder = family.autoencoder.load(path).to(device).eval()
    autoencoder.latent_shape(source.num_frames, source.height, source.width)
    clips = source.listing()
    described = {name: value for name, value in config.to_json(source).items() if name != "count"}
    if isinstance(source, DatasetClips):  # it may be curated anew under its name
        described["plan"] = Tars(source.folder).metadata.get("plan", "")
    encoder = autoencoder.latents_id()
    shards.describe(
        folder, {"source": described, "autoencoder": encoder, "shard_size": task.shard_size, "dtype": task.dtype}
    )
    groups = [clips[at : at + task.shard_size] for at in range(0, len(clips), task.shard_size)]
    stored = shards.count(folder)
    if stored > len(clips):
        raise MediaError(f"{folder} holds {stored} clips, more than the {len(clips)} asked for. Give another folder.")
    missing = [index for index, group in enumerate(groups) if shards.rows(folder, index) != len(group)]
    if not missing:
        print0(f"{task.name}: {stored} clips are there")
        return
    total = sum(len(groups[index]) for index in missing)
    with progress(len(clips), task.name, done=len(clips) - total) as bar:
        for index, made in zip(missing, _load_all([groups[index] for index in missing], task.workers), strict=True):
            records, latents = [], []
            while few := list(islice(made, AT_ONCE)):
                latents.append(_encode([frames for frames, _ in few], source.fps, autoencoder, device))
                records += [clip for _, clip in few]
                bar.advance(len(few))
            shards.write(folder, index, torch.cat(latents).to(DTYPES[task.dtype]), records)
            if stop is not None and stop.is_set():
                return


def fingerprint_of(path: Path) -> str:
    """Return what tells one weights file from another."""
    if not path.is_file():
        raise WeightsError(f"There are no weights at {path}. Train them first, or name another file.")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@torch.no_grad()
def _encode(
    frames: Sequence[Frames], fps: int, autoencoder: nn.Module, device: str | torch.device
) -> Float[Tensor, "B C t h w"]:
    video = torch.cat([Video.from_array(one, fps).tensor() for one in frames])
    return autoencoder.encode(video.to(device)).cpu()  # pyright: ignore[reportCallIssue]


@dataclass(frozen=True)
class _WorldClip:
    source: WorldClips
    seed: int

    def load(self) -> tuple[Frames, Clip]:
        s = self.source
        frames = render(sample(self.seed, split=s.split), s.num_frames, s.height, s.width)
        return frames, Clip(
            id=f"{s.split}-{self.seed}",
            source="world",
            num_frames=s.num_frames,
            height=s.height,
            width=s.width,
            fps=str(s.fps),
            split=s.split,
            scene_seed=self.seed,
            source_height=s.height,
            source_width=s.width,
        )


@dataclass(frozen=True)
class _FileClip:
    source: FolderClips
    file: str
    window: int
    captions: tuple[Caption, ...]

    def load(self) -> tuple[Frames, Clip]:
        s, original = self.source, Video.open(Path(self.source.folder) / self.file)
        frames = s.opened(self.file).take(self.window * s.num_frames, s.num_frames).array()
        return frames, _record(s, original, f"{self.file}-{self.window}", self.file, self.captions)


@dataclass(frozen=True)
class _DatasetClip:
    source: DatasetClips
    id: str
    window: int

    def load(self) -> tuple[Frames, Clip]:
        s = self.source
        dataset, places = _opened_dataset(s.folder)
        with opened(dataset.sample(places[self.id])) as (original, clip):
            video = at_rate(original, s.fps).resized(s.height, s.width, crop=s.crop)
            frames = video.take(self.window * s.num_frames, s.num_frames).array()
        record = _record(s, original, f"{self.id}-{self.window}", clip.source, clip.captions)
        return frames, replace(
            record, split=clip.split, source_height=clip.source_height, source_width=clip.source_width
        )


def _record(
    s: FolderClips | DatasetClips, original: Video, name: str, source: str, captions: tuple[Caption, ...]
) -> Clip:
    """Describe some frames of a video as they are trained on."""
    scale = max(s.height / original.height, s.width / original.width)
    return Clip(
        id=name,
        source=source,
        num_frames=s.num_frames,
        height=s.height,
        width=s.width,
        fps=str(s.fps),
        captions=captions,
        source_height=original.height,
        source_width=original.width,
        crop_top=round((original.height * scale - s.height) / 2),
        crop_left=round((original.width * scale - s.width) / 2),
        stride=max(1, round(original.fps / s.fps)),
    )


def _captions(table: Path) -> dict[str, tuple[Caption, ...]]:
    """Read the captions of each file, in the order of the table."""
    described = tables.load(table)
    for file, about in described.items():
        if not about.captions:
            raise MediaError(f"{table}: {about.where} has no caption for {file}. Give it one, or the text ''.")
    return {file: about.captions for file, about in described.items()}


def _load_all(
    groups: Sequence[Sequence[_WorldClip | _FileClip | _DatasetClip]], workers: int
) -> Iterator[Iterator[tuple[Frames, Clip]]]:
    """Yield each group's clips as they are rendered or decoded, in order; the group after is under way by then."""
    if workers == 0:
        for group in groups:
            yield (clip.load() for clip in group)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_ignore_interrupts) as pool:
        ahead: list[list[Future]] = []
        upcoming = iter(groups)
        while True:
            ahead += [[pool.submit(clip.load) for clip in group] for group in islice(upcoming, 2 - len(ahead))]
            if not ahead:
                return
            try:
                yield (future.result() for future in ahead.pop(0))
            except GeneratorExit:
                pool.shutdown(cancel_futures=True)
                raise


def _ignore_interrupts() -> None:
    """Leave Ctrl-C to the process that started this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
