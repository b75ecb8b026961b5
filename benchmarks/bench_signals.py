"""Measure the pass of signals against a bare decode, nine naive passes, and its key frame tier: CPU seconds, medians.

Usage: python benchmarks/bench_signals.py [video] [--seconds 60] [--repeats 3] [--naive 1] [--memory] [--times 10]

Without a video, footage is drawn and encoded with x264, preset medium, 1280x720 at 30 frames a second. All passes run
in this process on one thread each; their order is turned from round to round. The nine naive passes are what separate
filters do that each decode for themselves and convert every frame to RGB: brightness, histogram, content, edges,
sharpness, perceptual hash through Pillow, Farneback flow at 2 frames a second, borders, pictures. `--memory` adds the
peak memory of `save` in a process of its own, as it is in a worker, for the video and for the video looped.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import cv2
import numpy as np
from PIL import Image

from mutoscope.curate import signals
from mutoscope.worlds import footage

cv2.setNumThreads(1)


def frames(path: Path) -> Iterator[av.VideoFrame]:
    """Decode on one thread."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        yield from container.decode(stream)


def bare(path: Path) -> int:
    return sum(1 for _ in frames(path))


def naive(path: Path) -> None:
    """Run nine filters one after the other, each of which decodes all and looks at RGB."""

    def rgb() -> Iterator[np.ndarray]:
        return (frame.to_ndarray(format="rgb24") for frame in frames(path))

    def pairs(change: Callable[[np.ndarray], np.ndarray]) -> None:
        before = None
        for pixels in rgb():
            now = change(pixels)
            if before is not None:
                cv2.mean(cv2.absdiff(now, before))
            before = now

    for pixels in rgb():  # brightness
        pixels.mean(axis=(0, 1))
    for pixels in rgb():  # histogram
        [cv2.calcHist([pixels], [channel], None, [256], [0, 256]) for channel in range(3)]
    pairs(lambda pixels: cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV))  # content
    pairs(lambda pixels: cv2.Canny(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), 50, 150))  # edges
    for pixels in rgb():  # sharpness
        cv2.Laplacian(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var()
    for pixels in rgb():  # perceptual hash
        small = np.asarray(Image.fromarray(pixels).convert("L").resize((32, 32), Image.Resampling.LANCZOS), np.float32)
        cv2.dct(small)
    before = None
    for index, pixels in enumerate(rgb()):  # flow
        if index % 15 == 0:
            small = cv2.resize(pixels, (320, 180), interpolation=cv2.INTER_AREA)
            grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
            if before is not None:
                guess = np.zeros((180, 320, 2), np.float32)
                cv2.calcOpticalFlowFarneback(before, grey, guess, 0.5, 3, 15, 3, 5, 1.2, 0)
            before = grey
    for pixels in rgb():  # borders
        grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        [(grey.max(axis=axis) > 16).argmax() for axis in (0, 1)]
    for index, pixels in enumerate(rgb()):  # pictures
        if index % 30 == 0:
            Image.fromarray(pixels).resize((455, 256)).save(os.devnull, "JPEG")


def cpu_s(job: Callable[[Path], object], path: Path) -> float:
    start = time.process_time()
    job(path)
    return time.process_time() - start


def draw(path: Path, seconds: int) -> None:
    """Encode footage, drawn at a quarter of the size with grain that no codec likes laid over it."""
    grain = np.random.default_rng(0).normal(0, 3, (8, 720, 1280, 1)).astype(np.float32)
    count, seed = 0, 0
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "medium"})
        stream.width, stream.height, stream.pix_fmt, stream.thread_count = 1280, 720, "yuv420p", 1
        while count < 30 * seconds:
            for small in footage.sample(seed, size=(180, 320), fps=30).frames():
                large = cv2.resize(small, (1280, 720), interpolation=cv2.INTER_CUBIC) + grain[count % 8]
                frame = av.VideoFrame.from_ndarray(np.clip(large, 0, 255).astype(np.uint8), "rgb24")
                container.mux(stream.encode(frame))
                count += 1
                if count >= 30 * seconds:
                    break
            seed += 1
        container.mux(stream.encode())


def looped(path: Path, out: Path, times: int) -> Path:
    """Join a video to itself without decoding."""
    with av.open(str(out), "w") as target:
        with av.open(str(path)) as source:
            stream = target.add_stream_from_template(source.streams.video[0])
        offset = 0
        for _ in range(times):
            with av.open(str(path)) as source:
                packets = [packet for packet in source.demux(source.streams.video[0]) if packet.dts is not None]
            starts = [packet.dts or 0 for packet in packets]
            length = starts[-1] + (packets[-1].duration or 0) - starts[0]
            for packet, start in zip(packets, starts, strict=True):
                packet.pts, packet.dts, packet.stream = (packet.pts or 0) + offset, start + offset, stream
                target.mux(packet)
            offset += length
    return out


WORKER = """
import resource, sys
from pathlib import Path
from mutoscope.curate import runner, signals
if len(sys.argv) > 2:
    signals.save(sys.argv[1], Path(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_mb(*given: str) -> int:
    """Return the peak memory of a process with what a worker of `curate` imports, that measures a video if given."""
    command = [sys.executable, "-c", WORKER, *given]
    return round(int(subprocess.run(command, check=True, capture_output=True).stdout) / 1024)  # Linux counts in KiB


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("video", nargs="?", type=Path)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--naive", type=int, default=1, help="how often the naive passes run; they take long")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--times", type=int, default=10, help="how often the video is looped for the peak of memory")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = asked.video or Path(folder) / "footage.mp4"
        if asked.video is None:
            draw(path, asked.seconds)
        jobs = {"bare": bare, "signals": signals.measure, "keyframes": signals.keyframes}
        spent: dict[str, list[float]] = {name: [] for name in [*jobs, "naive"]}
        for turn in range(asked.repeats):
            for name in sorted(jobs, reverse=bool(turn % 2)):
                spent[name].append(cpu_s(jobs[name], path))
        spent["naive"] = [cpu_s(naive, path) for _ in range(asked.naive)]
        table = signals.measure(path)
        told = signals.facts(table)
        median = {name: statistics.median(times) for name, times in spent.items() if times}
        line = {
            "bench": "signals",
            "video": asked.video.name if asked.video else f"footage, {asked.seconds} s",
            "size": f"{told.width}x{told.height}",
            "codec": told.codec,
            "frames": told.num_frames,
            "cpu_s": {name: round(seconds, 3) for name, seconds in median.items()},
            "bare_over_signals": round(median["bare"] / median["signals"], 3),
            "bare_over_keyframes": round(median["bare"] / median["keyframes"], 1),
            "bytes_a_frame": round(table.drop_columns(["picture"]).nbytes / told.num_frames),
        }
        if "naive" in median:
            line["naive_over_signals"] = round(median["naive"] / median["signals"], 1)
        if asked.memory:
            table = str(Path(folder) / "table.parquet")
            long = looped(path, Path(folder) / "long.mp4", asked.times)
            line["peak_mb_of_imports"] = peak_mb()
            line["peak_mb"] = peak_mb(str(path), table)
            line["long_s"], line["peak_mb_long"] = asked.times * told.duration_s, peak_mb(str(long), table)
    print(json.dumps(line))


if __name__ == "__main__":
    main()
