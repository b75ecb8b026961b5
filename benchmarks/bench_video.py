"""Measure Video.save from a generator against a writer that first gathers the frames: time and peak memory.

Usage: python benchmarks/bench_video.py [frames]
"""

import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mutoscope.core.video import Video

HEIGHT, WIDTH, FPS = 360, 640, 24


def frames(num_frames: int) -> Iterator[np.ndarray]:
    """Make a pattern that moves by two pixels a frame, each frame when it is asked for."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    still = np.stack([x % 256, y % 256, (x + y) % 256], axis=-1).astype(np.uint8)
    for i in range(num_frames):
        yield np.roll(still, 2 * i, axis=1)


def measure(is_streamed: bool, num_frames: int) -> dict[str, float]:
    """Write one file in this process; its memory before the first frame is not counted."""
    before_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in KiB
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        source = frames(num_frames) if is_streamed else list(frames(num_frames))
        Video.from_frames(source, HEIGHT, WIDTH, FPS).save(Path(folder) / "clip.mp4")
        seconds = time.perf_counter() - start
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": round(seconds, 2), "peak_mb": round(peak_mb - before_mb)}


def main() -> None:
    """Print one JSON line."""
    num_frames = int(sys.argv[1]) if len(sys.argv) > 1 else 480
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:  # one process each, for its own peak
        streamed, short, gathered = pool.starmap(
            measure, [(True, num_frames), (True, num_frames // 4), (False, num_frames)], chunksize=1
        )
    line = {"bench": "video", "size": f"{WIDTH}x{HEIGHT}", "frames": num_frames, "streamed": streamed}
    print(json.dumps({**line, "streamed_quarter": short, "gathered": gathered}))


if __name__ == "__main__":
    main()
