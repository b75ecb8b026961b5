"""Measure how fast world clips are drawn on one core, over the full distribution, sampling included.

    python benchmarks/bench_worlds.py
    python benchmarks/bench_worlds.py --height 128 --width 128 --num-frames 32

Prints one JSON line.
"""

import json
import platform
import time
from dataclasses import asdict, dataclass

import numpy as np
import tyro

from mutoscope.worlds.render import render
from mutoscope.worlds.scene import sample


@dataclass(frozen=True)
class Options:
    """What to draw."""

    clips: int = 1000
    num_frames: int = 16
    height: int = 64
    width: int = 64


def main(options: Options) -> None:
    sampling_s, drawing_s = 0.0, 0.0
    for seed in range(options.clips):
        begin = time.process_time()
        scene = sample(seed)
        middle = time.process_time()
        render(scene, options.num_frames, options.height, options.width)
        sampling_s, drawing_s = sampling_s + middle - begin, drawing_s + time.process_time() - middle
    result = {
        "benchmark": "worlds",
        **asdict(options),
        "clips_per_s": round(options.clips / (sampling_s + drawing_s), 1),
        "sampling_ms": round(1000 * sampling_s / options.clips, 3),
        "drawing_ms": round(1000 * drawing_s / options.clips, 3),
        "machine": f"{platform.machine()}, one core, numpy {np.__version__}",
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(tyro.cli(Options))
