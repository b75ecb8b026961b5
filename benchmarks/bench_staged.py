"""Measure our one pass against the default video stages of NeMo Curator, rebuilt from their description: CPU seconds.

Usage: python benchmarks/bench_staged.py VIDEO [--repeats 3] [--transcode]

The stages, each of which decodes for itself, on one thread, with the decoder that we use:

    shots      every frame, scaled to 48x27 RGB: the input of its learned shot detector, which is left out of both
    transcode  only with --transcode: each clip of 10 s encoded anew by x264, veryfast; what follows reads these files
    motion     motion vectors of the codec, in the first half of each clip, 2 a second; mean and least of 256 patches
    frames     one frame a second at its own size, RGB: the input of its aesthetic score
    captions   two frames a second at 448x252, RGB, in windows of 256 frames: the input of its captioner

Ours is one decode that makes the table of frames and pictures, the cuts from it, and the clips' scores; cut into the
same clips, so that the number of clips is not what is compared. It measures much that the stages do not. Checked: both
see all frames, and the frames that both sample are alike. The stages run models after this; those are in neither.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from av.video.frame import PictureType

from mutoscope.curate import ingest, signals, split
from mutoscope.curate.score import Scores
from mutoscope.curate.stage import CLIPS, Work, clip_id, save

cv2.setNumThreads(1)
CLIP_S, WINDOW = 10.0, 256


def frames(path: Path, start_s: float = 0.0, end_s: float = 1e9, **options: str) -> Iterator[av.VideoFrame]:
    """Decode a part of a file on one thread, from the key frame before it on."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        stream.codec_context.options = options
        if start_s:
            container.seek(round(start_s * av.time_base))
        for frame in container.decode(stream):
            if frame.time >= end_s:
                return
            if frame.time >= start_s:
                yield frame


def shots(path: Path) -> int:
    """Return how many small frames were made."""
    return sum(frame.to_ndarray(format="rgb24", width=48, height=27).shape == (27, 48, 3) for frame in frames(path))


def transcoded(path: Path, clips: list[tuple[float, float]], folder: Path) -> list[Path]:
    """Encode each clip anew."""
    written = []
    for start_s, end_s in clips:
        written.append(folder / f"{start_s:g}.mp4")
        with av.open(str(written[-1]), "w") as container:
            stream: Any = None
            for count, frame in enumerate(frames(path, start_s, end_s)):
                if stream is None:
                    stream = container.add_stream("libx264", rate=30, options={"preset": "veryfast"})
                    stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, "yuv420p"
                    stream.codec_context.thread_count = 1
                frame.pts, frame.time_base, frame.pict_type = count, Fraction(1, 30), PictureType.NONE
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    return written


def motion(path: Path, start_s: float, end_s: float) -> list[float]:
    """Return mean and least patch of the motion vectors of sampled frames in [start_s, end_s)."""
    found, due_s = [], start_s
    for frame in frames(path, start_s, end_s, flags2="+export_mvs"):
        vectors = frame.side_data.get("MOTION_VECTORS")
        if frame.time < due_s or vectors is None:
            continue
        due_s += 0.5
        told = vectors.to_ndarray()
        way = np.hypot(told["dst_x"] - told["src_x"], told["dst_y"] - told["src_y"]) / frame.height
        sides = (("dst_y", frame.height), ("dst_x", frame.width))
        row, column = (np.clip(told[name].astype(int) * 16 // side, 0, 15) for name, side in sides)
        patch = 16 * row + column
        count = np.maximum(np.bincount(patch, minlength=256), 1)
        found += [float(way.mean()), float((np.bincount(patch, way, 256) / count).min())]
    return found


def sampled(path: Path, start_s: float, end_s: float, every_s: float, size: tuple[int, int] | None) -> list[np.ndarray]:
    """Return frames at a steady rate as RGB."""
    found, due_s = [], start_s
    for frame in frames(path, start_s, end_s):
        if frame.time >= due_s - 1e-6:
            due_s += every_s
            pixels = frame.to_ndarray(format="rgb24")
            found.append(pixels if size is None else cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))
    return found


def staged(path: Path, clips: list[tuple[float, float]], transcodes: bool) -> tuple[int, list[np.ndarray]]:
    """Run the stages one after the other; return the number of frames seen, and the frames of the stage `frames`."""
    count = shots(path)
    with tempfile.TemporaryDirectory() as folder:
        parts = [(path, *clip) for clip in clips]
        if transcodes:
            parts = [
                (file, 0.0, b - a) for file, (a, b) in zip(transcoded(path, clips, Path(folder)), clips, strict=True)
            ]
        for file, start_s, end_s in parts:
            motion(file, start_s, (start_s + end_s) / 2)
        kept = [pixels for part in parts for pixels in sampled(*part, 1.0, None)]
        for part in parts:
            small = sampled(*part, 0.5, (448, 252))
            for at in range(0, len(small), WINDOW):
                np.stack(small[at : at + WINDOW])
    return count, kept


def ours(path: Path, clips: list[tuple[float, float]]) -> tuple[int, list[bytes]]:
    """Make the table, the cuts and the scores; return the number of frames seen, and the pictures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        signals.save(path, folder / "signals.parquet")
        table = signals.load(folder / "signals.parquet")
        split.transitions(table)
        time_s = table["time_s"].to_numpy()
        source = ingest.Source("0" * 16, str(path), num_frames=len(time_s), duration_s=float(time_s[-1]))
        spans = [(*(int(at) for at in np.searchsorted(time_s, clip)), *clip) for clip in clips]
        rows = [
            {
                "id": clip_id(source, a, b), "source": source.id, "start": a, "end": b, "start_s": start_s,
                "end_s": end_s, "dropped_by": "", "reason": "", "notes": "",
            }
            for a, b, start_s, end_s in spans
        ]  # fmt: skip
        save(pa.Table.from_pylist(rows, CLIPS), folder / "clips.parquet")
        work = Work(source, pq.read_table(folder / "clips.parquet"), folder / "signals.parquet", lambda: path)
        Scores().run(work, folder / "scores.parquet")
        pictures = [(at, data) for at, data in zip(time_s, table["picture"].to_pylist(), strict=True) if data]
    return table.num_rows, [data for at, data in pictures if abs(at - round(at)) < 1e-3]


def check(theirs: tuple[int, list[np.ndarray]], mine: tuple[int, list[bytes]]) -> float:
    """Stop unless both saw the same frames; return by how many levels those that both keep differ at one size."""
    assert theirs[0] == mine[0], f"{theirs[0]} frames and {mine[0]}"
    assert len(theirs[1]) == len(mine[1]), f"{len(theirs[1])} sampled frames and {len(mine[1])}"
    differences = []
    for pixels, data in zip(theirs[1], mine[1], strict=True):
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        small = cv2.resize(pixels, picture.shape[1::-1], interpolation=cv2.INTER_AREA)
        differences.append(np.abs(small.astype(np.float32) - picture[..., ::-1]).mean())
    worst = float(np.max(differences))
    assert worst < 8, f"sampled frames differ by {worst:.1f} levels"
    return worst


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--transcode", action="store_true")
    asked = parser.parse_args()
    told = signals.facts(signals.keyframes(asked.video))
    starts = np.arange(0, told.duration_s, CLIP_S)
    clips = [(float(start), min(float(start) + CLIP_S, told.duration_s)) for start in starts]
    jobs: dict[str, Callable[[], Any]] = {
        "ours": lambda: ours(asked.video, clips),
        "staged": lambda: staged(asked.video, clips, False),
    }
    if asked.transcode:
        jobs["staged_transcode"] = lambda: staged(asked.video, clips, True)
    spent: dict[str, list[float]] = {name: [] for name in jobs}
    results: dict[str, Any] = {}
    for turn in range(asked.repeats):
        for name in sorted(jobs, reverse=bool(turn % 2)):
            start_s = time.process_time()
            results[name] = jobs[name]()
            spent[name].append(time.process_time() - start_s)
    median = {name: statistics.median(times) for name, times in spent.items()}
    line = {
        "bench": "staged", "stages": "shots, motion, frames, captions", "video": asked.video.name,
        "size": f"{told.width}x{told.height}", "frames": results["ours"][0], "clips": len(clips),
        "cpu_s": {name: round(seconds, 2) for name, seconds in median.items()},
        "over_ours": {name: round(seconds / median["ours"], 2) for name, seconds in median.items() if name != "ours"},
        "levels_apart": {name: round(check(results[name], results["ours"]), 2) for name in jobs if name != "ours"},
    }  # fmt: skip
    print(json.dumps(line))


if __name__ == "__main__":
    main()
