"""Measure random access: spans of 49 frames out of long groups, against PyAV used plainly and torchcodec.

Usage: python benchmarks/bench_spans.py [video ...] [--spans 24] [--repeats 3] [--seconds 60] [--threads 1]

Without videos, footage is drawn and encoded with x264 (a key frame every 250 frames), VP9 and AV1, 640x360 at 30 frames
a second. All readers are asked for the same spans in the same run, their order turned from round to round, and must
give the same frames: as many, and each nearest to its like. The plain reader seeks, decodes until the first frame is
there, and converts with PyAV's default. torchcodec is left out where it is not installed; it needs an FFmpeg of the
system, such as apt-get install ffmpeg brings. Opening a file is not counted: readers stay open, where they can.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.video.stream import VideoStream

from mutoscope.core.video import Video
from mutoscope.worlds import footage

LENGTH = 49
SIZE = (360, 640)
ENCODERS = {
    "h264": ("libx264", {"g": "250"}),
    "vp9": ("libvpx-vp9", {"g": "250", "cpu-used": "6", "deadline": "good", "crf": "30"}),
    "av1": ("libsvtav1", {"preset": "10", "svtav1-params": "keyint=250"}),
}
Spans = Callable[[int], np.ndarray]


def draw(path: Path, seconds: int, codec: str) -> Path:
    """Encode footage with grain, as cameras have it."""
    encoder, options = ENCODERS[codec]
    grain = np.random.default_rng(0).normal(0, 3, (8, *SIZE, 1)).astype(np.float32)
    count = seed = 0
    with av.open(str(path), "w") as container:
        stream = cast(VideoStream, container.add_stream(encoder, rate=30, options=options))
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        while count < 30 * seconds:
            for frame in footage.sample(seed, size=SIZE, fps=30).frames():
                pixels = np.clip(frame + grain[count % 8], 0, 255).astype(np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
                count += 1
                if count == 30 * seconds:
                    break
            seed += 1
        container.mux(stream.encode(None))
    return path


def ours(path: Path) -> Spans:
    video = Video.open(path)
    return lambda start: video.take(start, LENGTH).array()


def plain(path: Path, threads: int) -> Spans:
    """Read with PyAV as its documentation does, and trust the seek."""
    container = av.open(str(path))
    stream = container.streams.video[0]
    stream.thread_type, stream.codec_context.thread_count = "AUTO", threads
    with av.open(str(path)) as counted:
        stamps = sorted(packet.pts for packet in counted.demux(video=0) if packet.size and packet.pts is not None)

    def read(start: int) -> np.ndarray:
        container.seek(stamps[start], stream=stream)
        frames = []
        for frame in container.decode(stream):
            if frame.pts is not None and frame.pts >= stamps[start]:
                frames.append(frame.to_ndarray(format="rgb24"))
            if len(frames) == LENGTH:
                break
        return np.stack(frames)

    return read


def torchcodec(path: Path, threads: int) -> Spans | None:
    try:
        from torchcodec.decoders import VideoDecoder  # pyright: ignore[reportMissingImports]
    except (ImportError, RuntimeError):  # RuntimeError: no FFmpeg that it can load
        return None
    decoder = VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=threads, seek_mode="exact")
    return lambda start: decoder.get_frames_in_range(start, start + LENGTH).data.numpy()


def differences(one: np.ndarray, other: np.ndarray) -> float:
    """Return the mean difference in levels, or fail where frames are not each other's like."""
    assert one.shape == other.shape, (one.shape, other.shape)
    small = [frames[:, ::8, ::8].astype(np.float32) for frames in (one, other)]
    for index in range(1, LENGTH - 1):
        far = [np.abs(small[0][index] - small[1][near]).mean() for near in (index - 1, index, index + 1)]
        assert far[1] <= min(far) + 0.05, (index, far)
    return float(np.abs(small[0] - small[1]).mean())


def main() -> None:
    """Print one JSON line for each video."""
    parser = argparse.ArgumentParser()
    parser.add_argument("videos", nargs="*", type=Path)
    parser.add_argument("--spans", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1, help="of the decoders; 0 is as many as there are cores")
    asked = parser.parse_args()
    if asked.threads and hasattr(os, "sched_setaffinity"):  # ours takes as many threads as it may use cores
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-asked.threads :])
    with tempfile.TemporaryDirectory() as folder:
        files = asked.videos or [draw(Path(folder) / f"{codec}.mp4", asked.seconds, codec) for codec in ENCODERS]
        for path in files:
            found = {
                "ours": ours(path),
                "plain": plain(path, asked.threads),
                "torchcodec": torchcodec(path, asked.threads),
            }
            readers = {name: reader for name, reader in found.items() if reader is not None}
            count = Video.open(path).num_frames or 0
            starts = np.random.default_rng(0).integers(0, count - LENGTH, asked.spans).tolist()
            spent: dict[str, list[float]] = {name: [] for name in readers}
            for turn in range(asked.repeats):
                for name in sorted(readers, reverse=bool(turn % 2)):
                    begun = time.process_time()
                    for start in starts:
                        readers[name](start)
                    spent[name].append(time.process_time() - begun)
            told = {name: readers[name](starts[0]) for name in readers}
            median = {name: statistics.median(times) for name, times in spent.items()}
            line = {
                "bench": "spans",
                "video": path.name,
                "frames": count,
                "spans": asked.spans,
                "threads": asked.threads,
                "cpu_s": {name: round(seconds, 3) for name, seconds in median.items()},
                "times_faster_than": {
                    name: round(median[name] / median["ours"], 2) for name in median if name != "ours"
                },
                "levels_apart": {
                    name: round(differences(told["ours"], told[name]), 3) for name in told if name != "ours"
                },
            }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
