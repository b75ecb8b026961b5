"""Videos whose frames show their numbers, in whatever container and codec, for tests of what is read from where."""

from io import RawIOBase
from pathlib import Path
from typing import Any, TypeVar

import av
import numpy as np

HEIGHT, WIDTH = 64, 64
TEXTURE = np.kron(np.random.default_rng(0).integers(0, 160, (40, 40), np.uint8), np.ones((8, 8), np.uint8))


def picture(number: int) -> np.ndarray:
    """Draw eight vertical bars, lowest bit at the left, over a moving texture."""
    bars = np.repeat((number >> np.arange(8) & 1) * 95 + 20, WIDTH // 8).astype(np.uint8)
    ground = np.roll(TEXTURE, (number, 2 * number), axis=(0, 1))[:HEIGHT, :WIDTH] // 2
    return np.repeat((bars + ground)[..., None], 3, axis=2)


def number_of(frame: np.ndarray) -> int:
    """Read the number that a frame shows."""
    bars = frame.reshape(HEIGHT, 8, WIDTH // 8, 3).mean(axis=(0, 2, 3))
    return int(((bars > 102) << np.arange(8)).sum())


Out = TypeVar("Out", Path, RawIOBase)


def write(
    path: Out, codec: str, count: int = 48, *, muxer: str | None = None, pixels: str = "yuv420p", group: int = 12,
    first: int = 0, muxing: dict[str, str] | None = None, **options: str,
) -> Out:  # fmt: skip
    """Encode numbered frames at 25 a second, with a key frame every so many.

    Args:
        path: the file to write, or what takes its bytes.
        codec: FFmpeg's name of the encoder.
        count: frames.
        muxer: FFmpeg's name of the container, where the file's ending does not tell.
        pixels: format in which they are encoded.
        group: frames from one key frame to the next.
        first: number of the first frame.
        muxing: options of the container.
        options: of the encoder.
    """
    if codec == "libx264":
        options = {"sc_threshold": "0"} | options
    if codec == "libx265":
        said = options.pop("x265-params", "")
        options["x265-params"] = f"log-level=none:pools=none:keyint={group}:min-keyint={group}:scenecut=0:{said}"
    if codec == "libsvtav1":
        options = {"preset": "12"} | options
    with av.open(str(path) if isinstance(path, Path) else path, "w", format=muxer, options=muxing or {}) as container:
        stream: Any = container.add_stream(codec, rate=25, options={"g": str(group), **options})
        stream.height, stream.width, stream.pix_fmt, stream.thread_count = HEIGHT, WIDTH, pixels, 1
        for number in range(first, first + count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), "rgb24")))
        container.mux(stream.encode(None))
    return path
