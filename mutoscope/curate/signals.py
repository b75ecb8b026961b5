"""Signals: one streaming decode of a video becomes a table of one row per frame, from which all else is decided.

    file ── stream ──> batches of rows ──┬── measure ──> pyarrow.Table
                                         └── save ──> Parquet, for any length in constant memory ── load ──> Table
    file ── keyframes ──> the rows of the key frames alone, more than 20 times cheaper

Splitting, thresholds and new filters read the table and never touch pixels again. Small JPEG pictures of selected
frames lie in it too, for the judges that must see. A photo is a table of one row.

Each row compares a frame with the row before; in the first row such columns are 0. Flow and what depends on it are
measured over steps of about 1/15 s and stand in every row of the step, per frame. The columns that need a frame at its
own size (`border_*`, `detail`, `picture`) are null except in sampled rows: one a second, and both sides of every
sudden change.
"""

import json
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from einops import reduce
from jaxtyping import UInt8

from mutoscope.core.errors import MediaError
from mutoscope.core.files import replacing
from mutoscope.core.media import claimed_duration_s, existing, reason
from mutoscope.core.pictures import photo_size, read_image
from mutoscope.core.seeking import whole_frames
from mutoscope.core.whole import truncated
from mutoscope.curate import pixels
from mutoscope.curate.pixels import NUM_CELLS, Flow, Levels, Planes, small_size

VERSION = 3
READ_ROWS = 256  # frames whose pictures are read together
MAX_PIXELS = 2**26  # of one frame: a header that claims more is taken for damage before memory is

_FLOATS = (
    *("luma_mean", "luma_std", "luma_low", "luma_high", "u_mean", "v_mean", "saturation"),
    *("content", "edge", "hash_distance", "histogram_distance", "still", "sharpness"),
    *("flow_x", "flow_y", "flow_zoom", "flow_roll", "flow_residual"),
)
_SAMPLED = ("border_top", "border_bottom", "border_left", "border_right", "detail")
SCHEMA = pa.schema(
    [("index", pa.int32()), ("time_s", pa.float64()), ("is_key", pa.bool_())]
    + [(name, pa.float32()) for name in (*_FLOATS, *_SAMPLED)]
    + [
        ("phash", pa.uint64()),
        ("histogram", pa.list_(pa.uint8(), 32)),
        ("cells", pa.list_(pa.uint8(), NUM_CELLS)),
        ("picture", pa.binary()),
    ]
)
"""The columns.

index: number of the frame. time_s: seconds since the first one. is_key: can be decoded by itself.
luma_mean, luma_std, luma_low, luma_high: mean, deviation, 5th and 95th percentile; black is 0, white is 1.
u_mean, v_mean: mean colour differences, -0.5 to 0.5. saturation: mean distance from grey, 0 to about 0.6.
content: mean change of luma plus those of U and V. edge: share of edges that came or went, the larger.
hash_distance: share of the 64 bits of phash that changed. histogram_distance: Hellinger distance of luma, 0 to 1.
still: share of pixels of the small frame that did not change.
sharpness: variance of the Laplacian of the small frame; detail: the same at the frame's own size; levels squared.
flow_x, flow_y: pan of the picture, in frame widths per frame; flow_zoom: log factor; flow_roll: radians, clockwise.
flow_residual: mean motion that the camera does not explain, in frame widths: things that move.
border_*: share of the height or width that a flat border takes.
phash: perceptual hash. histogram: 32 bins of luma, roots of shares, 255 for all pixels.
cells: mean levels of 8 x 8 cells of luma, then 4 x 4 of U, then 4 x 4 of V, row by row.
picture: a small JPEG, upright with square pixels.
"""


@dataclass(frozen=True)
class SignalSettings:
    """What is sampled, and how often.

    Args:
        picture_every_s: seconds between sampled frames.
        picture_px: short side of the pictures, in pixels.
        picture_quality: of their JPEG, 1 to 100.
        flow_step_s: seconds over which motion is measured.
        sudden_change: `content` from which a frame counts as a sudden change, if it is also thrice the usual.
        batch_frames: frames that are measured together; memory grows with it, results do not change.
    """

    picture_every_s: float = 1.0
    picture_px: int = 256
    picture_quality: int = 85
    flow_step_s: float = 1 / 15
    sudden_change: float = 0.06
    batch_frames: int = 48


def measure(path: str | Path, settings: SignalSettings = SignalSettings()) -> pa.Table:
    """Measure every frame of a video, or of a photo, in one decode.

    Args:
        path: the file.
        settings: what is sampled.

    Returns:
        A table of `SCHEMA`; its metadata holds what `facts` reads. It grows with the video's length;
        `save` does not.

    Raises:
        MediaError: the file is missing, not a video or picture, cut short or damaged; the message says which.
    """
    return _gather(stream(path, settings))


def keyframes(path: str | Path, settings: SignalSettings = SignalSettings()) -> pa.Table:
    """Measure the key frames alone: a cheap first look, in which each row is compared with the key frame before.

    Flow is not measured and is 0. Arguments, result and errors are those of `measure`.
    """
    return _gather(stream(path, settings, keys_only=True))


def save(path: str | Path, out: Path, settings: SignalSettings = SignalSettings()) -> None:
    """Measure a video into a Parquet file, in memory that does not grow with its length.

    Args:
        path: the video or photo.
        out: the file to write; it appears when all is done.
        settings: what is sampled.

    Raises:
        MediaError: as for `measure`.
        MutoscopeError: the file cannot be written.
    """
    batches = stream(path, settings)
    with replacing(out) as temporary, pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
        waiting: list[pa.RecordBatch] = []
        for batch in batches:
            waiting.append(batch)
            if len(waiting) == 40:  # a row group of about a minute
                writer.write_table(pa.Table.from_batches(_bare(waiting)))
                last, waiting = waiting[-1], []
        if waiting:
            writer.write_table(pa.Table.from_batches(_bare(waiting)))
            last = waiting[-1]
        writer.add_key_value_metadata(last.schema.metadata)


def load(path: Path, columns: Sequence[str] = tuple(SCHEMA.names)) -> pa.Table:
    """Read what `save` wrote.

    Args:
        path: the Parquet file.
        columns: those wanted; without pictures a table is small.

    Raises:
        MediaError: the file is missing, or no table of signals of this version.
    """
    try:
        with pq.ParquetFile(path) as file:
            table = file.read(list(columns)).replace_schema_metadata(file.metadata.metadata)
    except (OSError, pa.ArrowException) as error:
        raise MediaError(f"{path} cannot be read as signals: {reason(error)}. Measure the video again.") from error
    if table.column_names != list(columns) or facts(table).version != VERSION:
        raise MediaError(f"{path} is no table of signals of version {VERSION}. Measure the video again.")
    return table


@dataclass(frozen=True)
class Facts:
    """What a table says of its source: size as shown in pixels, frames a second, codec; and how it was measured."""

    version: int
    width: int
    height: int
    fps: float
    codec: str
    num_frames: int
    duration_s: float
    keys_only: bool
    settings: dict[str, Any] = field(repr=False)


def facts(table: pa.Table) -> Facts:
    """Read the facts of a table's source from its metadata.

    Raises:
        MediaError: the table has none.
    """
    told = (table.schema.metadata or {}).get(b"mutoscope.signals")
    if told is None:
        raise MediaError("The table holds no facts of its source. Give one that `measure` made.")
    return Facts(**json.loads(told))


def pictures(path: Path, wanted: Container[int] | None = None) -> Iterator[tuple[int, bytes]]:
    """Yield sampled frames with their JPEGs, in memory that does not grow with their number.

    Args:
        path: what `save` wrote.
        wanted: the frames; all that have a picture if not given.
    """
    index = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(READ_ROWS, columns=["picture"], use_threads=False):
            for data in batch.column(0):
                if data.is_valid and (wanted is None or index in wanted):
                    yield index, data.as_py()
                index += 1


def _bare(batches: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
    return [batch.replace_schema_metadata(None) for batch in batches]


def _gather(batches: Iterator[pa.RecordBatch]) -> pa.Table:
    gathered = list(batches)
    return pa.Table.from_batches(_bare(gathered)).replace_schema_metadata(gathered[-1].schema.metadata)


def stream(
    path: str | Path, settings: SignalSettings = SignalSettings(), keys_only: bool = False
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a video as they are measured; the last batch carries the metadata. See `measure`."""
    path = existing(path)
    if photo_size(path) is None:
        yield from _stream_video(path, settings, keys_only)
    else:
        yield from _stream_photo(path, settings)


# ---- frames ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Source:
    """What must be known of a video before its rows can be measured; sizes are of the upright picture."""

    width: int
    height: int
    turn: int  # clockwise, in quarter turns
    is_bt709: bool
    fps: float
    codec: str

    @classmethod
    def of(cls, first: VideoFrame, aspect: Fraction, fps: float, codec: str) -> "_Source":
        turn = round(-first.rotation / 90) % 4
        # stretched to square pixels, never shrunk, as core.media shows it
        size = (round(first.width * max(aspect, 1)), round(first.height / min(aspect, 1)))
        width, height = size[::-1] if turn % 2 else size
        is_hd = first.width >= 1280 or first.height > 576
        # untagged video of HD size is BT.709 by common practice
        is_bt709 = first.colorspace == 1 or (first.colorspace == 2 and is_hd)
        return cls(width, height, turn, is_bt709, fps, codec)


@contextmanager
def _opened(path: Path, keys_only: bool) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a video for one thread, and refuse what is none."""
    try:
        with av.open(f"file:{path}") as container:  # the prefix keeps a colon in the name from naming a protocol
            video = container.streams.best("video")
            is_text = container.format.name == "tty"  # FFmpeg takes any text file for terminal art
            if is_text or not isinstance(video, VideoStream) or video.disposition & Disposition.attached_pic:
                raise MediaError(f"{path} holds no video. Give a video, a GIF or a picture.")
            context = video.codec_context
            if context is None:
                raise MediaError(f"{path} is coded in a way that cannot be decoded. Give another file.")
            if context.width * context.height > MAX_PIXELS:
                raise MediaError(f"{path} claims frames of {context.width}x{context.height}. Give a smaller video.")
            video.thread_type, context.thread_count = "NONE", 1
            # deblocking is left out where no other frame is predicted from the result, so that nothing can drift
            context.options = {"skip_loop_filter": "noref", "max_pixels": str(MAX_PIXELS)}
            if keys_only:
                context.skip_frame = "NONKEY"
            yield container, video
    except (FFmpegError, OSError, ValueError) as error:
        raise MediaError(f"{path} cannot be read as a video: {reason(error)}. Give another file.") from error


def _frames(path: Path, container: InputContainer, video: VideoStream, keys_only: bool) -> Iterator[VideoFrame]:
    """Yield whole frames of one size, and find at the end whether any are missing."""
    size, count, end_s = None, 0, 0.0

    def packets() -> Iterator[Packet]:
        nonlocal end_s
        for packet in container.demux():
            stamp = packet.dts if packet.pts is None else packet.pts
            if stamp is not None and packet.size:
                end_s = max(end_s, float((stamp + (packet.duration or 0)) * packet.time_base))
            if packet.stream_index == video.index and not (keys_only and packet.size and not packet.is_keyframe):
                yield packet

    for frame in whole_frames(packets(), video):
        size = size or (frame.width, frame.height)
        if (frame.width, frame.height) != size:
            raise MediaError(f"{path} turns {frame.width}x{frame.height} at frame {count}. Split it there.")
        if frame.is_corrupt:
            raise truncated(path, f"frame {count} has holes")
        count += 1
        yield frame
    if not count:
        raise MediaError(f"{path} holds no frame that can be decoded. Give another file.")
    claimed_s = claimed_duration_s(container, video)
    if claimed_s - end_s > 0.5:
        raise truncated(path, f"it announces {float(claimed_s):.2f} s and holds {end_s:.2f} s")


def _stream_video(path: Path, settings: SignalSettings, keys_only: bool) -> Iterator[pa.RecordBatch]:
    with _opened(path, keys_only) as (container, video):
        rate = video.average_rate or video.guessed_rate
        fps = float(rate) if rate and 0 < rate < 1000 else 25.0
        tick = float(video.time_base or Fraction(1, av.time_base))
        frames = _frames(path, container, video, keys_only)
        first = next(frames)
        aspect = Fraction(video.sample_aspect_ratio or 1)
        source = _Source.of(first, aspect, fps, video.codec_context.codec.canonical_name)
        run, start, time_s = _Pass(source, settings, keys_only), None, -1 / fps
        for frame in chain([first], frames):
            stamp = frame.dts if frame.pts is None else frame.pts
            start = stamp if start is None else start
            shown_s = time_s + 1 / fps if stamp is None or start is None else (stamp - start) * tick
            time_s = max(shown_s, time_s + 1e-6)  # stamps that do not rise are some writer's mistake
            yield from run.add(frame, time_s)
        yield run.finish(time_s + 1 / fps)


def _stream_photo(path: Path, settings: SignalSettings) -> Iterator[pa.RecordBatch]:
    frame = VideoFrame.from_ndarray(read_image(path), "rgb24")
    run = _Pass(_Source.of(frame, Fraction(1), 1.0, "photo"), settings, keys_only=False)
    yield from run.add(frame, 0.0)
    yield run.finish(1.0)


# ---- rows ------------------------------------------------------------------------------------------------------------


@dataclass
class _Row:
    """One frame until its batch is measured; `whole` is let go when the next frame has come.

    Otherwise the decoder would have to find new memory for each frame, which costs a good part of the decoding.
    """

    index: int
    time_s: float
    is_key: bool
    small: UInt8[np.ndarray, "h w"]
    tile: UInt8[np.ndarray, "32 32"]
    chroma_tiles: UInt8[np.ndarray, "2 16 16"]
    whole: tuple[Planes, Levels] | None
    picture: bytes | None = None
    sampled: tuple[float, ...] | None = None


class _Pass:
    """Rows of one video, measured in batches; holds one batch and one frame at its own size."""

    def __init__(self, source: _Source, settings: SignalSettings, keys_only: bool) -> None:
        self.source, self.settings, self.keys_only = source, settings, keys_only
        self.size = small_size(source.width, source.height)
        scale = settings.picture_px / min(source.width, source.height)
        self.picture_size = (max(1, round(source.width * scale)), max(1, round(source.height * scale)))
        self.flow = Flow.of(source.width, source.height)
        self.step = max(1, round(source.fps * settings.flow_step_s))
        self.batch = max(1, settings.batch_frames // self.step) * self.step
        self.convert = VideoReformatter()
        self.rows: list[_Row] = []
        self.carried: _Row | None = None  # the last row of the batch before
        self.count = 0
        self.usual, self.next_picture_s, self.last_sudden_s = 0.0, 0.0, -1.0

    def add(self, frame: VideoFrame, time_s: float) -> Iterator[pa.RecordBatch]:
        """Take in a frame; yield a batch where one was full."""
        planes = pixels.planes_of(frame, self.convert)
        levels = pixels.levels_of(planes, self.size, self.settings.picture_px, self.source.turn)
        index = round(time_s * self.source.fps) if self.keys_only else self.count
        small = levels.small.copy() if levels.small.base is not None else levels.small  # it may be the frame's own
        row = _Row(index, time_s, frame.key_frame, small, levels.tile, levels.chroma_tiles, (planes, levels))
        before = self.rows[-1] if self.rows else None
        if before is not None and self._is_sudden(before, row):
            self._sample(before)
            self._sample(row)
        if before is not None:
            before.whole = None
        if len(self.rows) == self.batch:  # not sooner, because the last row might have been sampled just now
            yield self._flush()
        if time_s >= self.next_picture_s:
            self._sample(row)
            self.next_picture_s = max(self.next_picture_s + self.settings.picture_every_s, time_s)
        self.rows.append(row)
        self.count += 1

    def finish(self, end_s: float) -> pa.RecordBatch:
        """Return the last batch, which carries the metadata."""
        source = self.source
        told = Facts(
            VERSION, source.width, source.height, source.fps, source.codec, self.count, end_s, self.keys_only,
            asdict(self.settings),
        )  # fmt: skip
        return self._flush().replace_schema_metadata({"mutoscope.signals": json.dumps(asdict(told))})

    def _is_sudden(self, before: _Row, row: _Row) -> bool:
        change = cv2.norm(row.small, before.small, cv2.NORM_L1) / (row.small.size * pixels.LUMA_RANGE)
        is_sudden = change > max(self.settings.sudden_change, 3 * self.usual)
        self.usual += (min(change, 2 * self.usual + 0.005) - self.usual) / 8
        if not is_sudden or row.time_s - self.last_sudden_s < self.settings.picture_every_s / 4:
            return False
        self.last_sudden_s = row.time_s
        return True

    def _sample(self, row: _Row) -> None:
        """Measure what needs the frame at its own size."""
        if row.picture is not None or row.whole is None:
            return
        planes, levels = row.whole
        row.picture = pixels.picture(levels, self.picture_size, self.source.is_bt709, self.settings.picture_quality)
        top, bottom, left, right = pixels.borders(planes.luma, planes.shift)
        around = [top, right, bottom, left]  # clockwise, so that a turn shifts them
        around = around[-self.source.turn :] + around[: -self.source.turn] if self.source.turn else around
        sharp = pixels.detail(planes.luma, planes.shift)
        row.sampled = (around[0], around[2], around[3], around[1], sharp)

    def _flush(self) -> pa.RecordBatch:
        """Measure the rows at hand."""
        rows = self.rows
        first = self.carried or rows[0]  # the first row of all is compared with itself
        small = np.stack([row.small for row in (first, *rows)])
        columns = self._alone(rows) | self._compared(first, rows, small)
        columns |= self._moved(small, 0 if self.carried else 1)
        for index, name in enumerate(_SAMPLED):
            columns[name] = pa.array([row.sampled and row.sampled[index] for row in rows], pa.float32())
        columns["picture"] = pa.array([row.picture for row in rows], pa.binary())
        self.carried, self.rows = rows[-1], []
        self.carried.picture = None
        arrays = [pa.array(columns[item.name], item.type) for item in SCHEMA]
        return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)

    def _alone(self, rows: list[_Row]) -> dict[str, Any]:
        """Measure what a frame shows by itself, and its histogram and hash against the row before."""
        chroma = np.stack([row.chroma_tiles for row in rows])
        tiles = np.stack([row.tile for row in rows])
        centred = (chroma.astype(np.float32) - pixels.GREY) / np.float32(pixels.CHROMA_RANGE)
        means = reduce(centred, "n c h w -> c n", "mean")
        cells = pixels.cells_of(tiles, chroma)
        return {
            "index": np.array([row.index for row in rows], np.int32),
            "time_s": np.array([row.time_s for row in rows]),
            "is_key": np.array([row.is_key for row in rows]),
            "u_mean": means[0],
            "v_mean": means[1],
            "saturation": reduce(np.hypot(centred[:, 0], centred[:, 1]), "n h w -> n", "mean"),
            "cells": pa.FixedSizeListArray.from_arrays(pa.array(cells.ravel()), NUM_CELLS),
        }

    def _compared(self, first: _Row, rows: list[_Row], small: UInt8[np.ndarray, "m h w"]) -> dict[str, Any]:
        """Measure luma, and what changed since the row before."""
        shares = pixels.histograms(small)
        hashes = pixels.hashes(np.stack([row.tile for row in (first, *rows)]))
        chroma = np.stack([row.chroma_tiles for row in (first, *rows)]).astype(np.float32)
        colour = reduce(np.abs(np.diff(chroma, axis=0)), "n c h w -> n", "mean") * 2 / pixels.CHROMA_RANGE
        change, still = pixels.changes(small)
        overlap = np.sqrt(shares[1:] * shares[:-1]).sum(axis=1)
        coarse = pixels.coarse_histograms(shares[1:])
        return pixels.luma_statistics(shares[1:]) | {
            "content": (change + colour).astype(np.float32),
            "still": still,
            "edge": pixels.edge_changes(small),
            "sharpness": pixels.sharpness(small[1:]),
            "phash": hashes[1:],
            "hash_distance": np.bitwise_count(hashes[1:] ^ hashes[:-1]).astype(np.float32) / 64,
            "histogram_distance": np.sqrt(np.maximum(1 - overlap, 0)),
            "histogram": pa.FixedSizeListArray.from_arrays(pa.array(coarse.ravel()), coarse.shape[1]),
        }

    def _moved(self, small: UInt8[np.ndarray, "m h w"], skipped: int) -> dict[str, Any]:
        """Measure motion over steps; `small` begins with the row before, or `skipped` repeats of the first row."""
        names, count = ("flow_x", "flow_y", "flow_zoom", "flow_roll", "flow_residual"), len(small) - 1
        if self.keys_only or count + 1 - skipped < 2:
            return {name: np.zeros(count, np.float32) for name in names}
        starts = range(0, count, self.step)
        ends = [min(start + self.step, count) for start in starts]
        motions, seen = self.flow.between(small[[*starts, count]])
        lengths = np.array([b - max(a, skipped) for a, b in zip(starts, ends, strict=True)])
        camera = self.flow.camera(motions, seen) / np.maximum(lengths, 1)[:, None]
        by_row = np.repeat(camera, self.step, axis=0)[:count].astype(np.float32)
        return dict(zip(names, by_row.T, strict=True))
