"""Measure the pass of signals against a bare decode, nine naive passes, and its key frame tier: CPU seconds, medians.

Usage: python benchmarks/bench_signals.py [video] [--seconds 60] [--repeats 3] [--naive 1] [--memory]

Without a video, footage is drawn and encoded with x264, preset medium, 1280x720 at 30 frames a second. All passes run
in this process on one thread each; their order is turned from round to round. The nine naive passes are what separate
filters do that each decode for themselves and convert every frame to RGB: brightness, histogram, content, edges,
sharpness, perceptual hash through Pillow, Farneback flow at 2 frames a second, borders, pictures. `--memory` adds the
peak memory of `save` in a process of its own for the video and for the video looped ten times.
"""

import argparse
import json
import multiprocessing
import os
import resource
import statistics
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
                video = source.streams.video[0]
                for packet in source.demux(video):
                    if packet.dts is not None and packet.pts is not None:
                        packet.pts, packet.dts, packet.stream = packet.pts + offset, packet.dts + offset, stream
                        target.mux(packet)
                offset += video.duration or 0
    return out


def peak_mb(path: Path) -> int:
    with tempfile.TemporaryDirectory() as folder:
        signals.save(path, Path(folder) / "table.parquet")
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)  # Linux counts in KiB


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("video", nargs="?", type=Path)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--naive", type=int, default=1, help="how often the naive passes run; they take long")
    parser.add_argument("--memory", action="store_true")
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
            long = looped(path, Path(folder) / "long.mp4", 10)
            context = multiprocessing.get_context("spawn")
            with context.Pool(1, maxtasksperchild=1) as pool:  # one process each, for its own peak
                line["peak_mb"], line["peak_mb_ten_times"] = pool.map(peak_mb, [path, long], chunksize=1)
    print(json.dumps(line))


if __name__ == "__main__":
    main()
