"""Files as nobody wants them, made from good ones."""

import struct
import zlib
from pathlib import Path

import av
import numpy as np
from PIL import Image

from mutoscope.core.video import Audio, Video


def moving(num_frames: int = 12, height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """Return frames in which a bright square crosses a noisy ground."""
    draw = np.random.default_rng(seed)
    frames = np.repeat(draw.integers(40, 120, (1, height, width, 3), np.uint8), num_frames, axis=0)
    for t in range(num_frames):
        left = 2 + 3 * t % (width - 16)
        frames[t, 10:26, left : left + 14] = 230
    return frames


def write_video(path: Path, num_frames: int = 12, seed: int = 0, size: tuple[int, int] = (48, 64)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Video.from_array(moving(num_frames, *size, seed), 8).save(path)
    return path


def write_photo(path: Path, seed: int = 0, size: tuple[int, int] = (48, 64)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    small = draw.integers(0, 255, (6, 8, 3), np.uint8)
    Image.fromarray(small).resize((size[1], size[0]), Image.Resampling.BICUBIC).save(path)
    return path


def truncated(data: bytes, share: float) -> bytes:
    return data[: int(len(data) * share)]


def flipped(data: bytes, share: float, seed: int) -> bytes:
    """Flip one bit in so many of the bytes."""
    draw = np.random.default_rng(seed)
    array = np.frombuffer(data, np.uint8).copy()
    places = draw.choice(len(array), max(1, int(share * len(array))), replace=False)
    array[places] ^= np.uint8(1) << draw.integers(0, 8, len(places)).astype(np.uint8)
    return array.tobytes()


def zeroed(data: bytes, start: float, end: float) -> bytes:
    a, b = int(len(data) * start), int(len(data) * end)
    return data[:a] + bytes(b - a) + data[b:]


def huge_png(side: int = 60_000) -> bytes:
    """Return a PNG whose header, with a right checksum, announces more pixels than memory holds."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def huge_gif(data: bytes) -> bytes:
    """Return a GIF with a screen, and first picture, of 65535 x 65535."""
    whole = bytearray(data)
    whole[6:10] = struct.pack("<HH", 65535, 65535)
    at = whole.index(b"\x2c", 13)
    whole[at + 5 : at + 9] = struct.pack("<HH", 65535, 65535)
    return bytes(whole)


def huge_mp4(data: bytes) -> bytes:
    """Return an MP4 whose sample description says 65535 x 65535."""
    at = data.index(b"avc1", data.index(b"stsd")) + 28
    return data[:at] + struct.pack(">HH", 65535, 65535) + data[at + 4 :]


def write_sound(path: Path) -> Path:
    """Write a WAV file."""
    samples = (np.sin(np.arange(8000) / 20) * 8000).astype("<i2").tobytes()
    fields = struct.pack("<4sIHHIIHH4sI", b"fmt ", 16, 1, 1, 8000, 16000, 2, 16, b"data", len(samples))
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(fields) + len(samples)) + b"WAVE" + fields + samples)
    assert Audio.open(path).rate == 8000
    return path


def damaged(folder: Path) -> dict[str, str]:
    """Write one file of each kind of damage; return what the reason of each must say, "" for what it may say."""
    folder.mkdir(parents=True, exist_ok=True)
    video = write_video(folder / ".good.mp4", 24).read_bytes()
    photo = write_photo(folder / ".good.jpg").read_bytes()
    drawing = write_photo(folder / ".good.png").read_bytes()
    Video.from_array(moving(4), 8).save(folder / ".good.gif")
    animation = (folder / ".good.gif").read_bytes()
    made = {
        "empty.mp4": (b"", "0 bytes"),
        "zeros.mp4": (bytes(5000), ""),
        "zeros.jpg": (bytes(5000), ""),
        "noise.mkv": (np.random.default_rng(0).integers(0, 256, 5000, np.uint8).tobytes(), ""),
        "text.mp4": (b"This is no video at all.\n" * 50, ""),
        "page.jpg": (b"<!doctype html><title>404</title>", ""),
        "cut-early.mp4": (truncated(video, 0.02), ""),
        "cut-half.mp4": (truncated(video, 0.5), "cut short"),
        "cut-late.mp4": (truncated(video, 0.97), "cut short"),
        "cut.jpg": (truncated(photo, 0.6), "truncated"),
        "cut.png": (truncated(drawing, 0.6), ""),
        "cut.gif": (truncated(animation, 0.6), "cut short"),
        "header-lost.mp4": (zeroed(video, 0.0, 0.2), ""),
        "huge.png": (huge_png(), "more pixels"),
        "huge.gif": (huge_gif(animation), ""),
    }
    for name, (data, _) in made.items():
        (folder / name).write_bytes(data)
    write_sound(folder / "sound.wav")
    write_sound(folder / "sound.mp4")
    return {name: says for name, (_, says) in made.items()} | {"sound.wav": "no video", "sound.mp4": "no video"}


def damaged_at_random(folder: Path, seed: int) -> Path:
    """Write a file of a random kind with random damage."""
    draw = np.random.default_rng([20261121, seed])
    ending = draw.choice([".mp4", ".webm", ".gif", ".jpg", ".png", ".mkv", ".avi"])
    good = folder / f".good{ending}"
    if not good.exists():
        if ending in (".jpg", ".png"):
            write_photo(good, size=(120, 160))
        elif ending in (".mkv", ".avi"):
            _encode(moving(24, 96, 128), good)
        else:
            Video.from_array(moving(24, 96, 128), 8).save(good)
    data = good.read_bytes()
    kind = draw.integers(5)
    if kind == 0:
        data = truncated(data, draw.uniform(0, 0.98))
    elif kind == 1:
        data = flipped(data, 10 ** draw.uniform(-3.5, -1), seed)
    elif kind == 2:
        start = draw.uniform(0, 0.9)
        data = zeroed(data, start, draw.uniform(start, 1))
    elif kind == 3:  # only the header, where sizes and counts are
        data = flipped(data[:600], 0.03, seed) + data[600:]
    else:
        at = int(draw.integers(len(data)))
        data = data[at:] + data[:at]
    path = folder / f"damaged-{seed:04d}{ending}"
    path.write_bytes(data)
    return path


def _encode(frames: np.ndarray, out: Path) -> None:
    """Write MPEG-4 part 2, in a container that the package does not write."""
    with av.open(str(out), "w") as made:
        stream = made.add_stream("mpeg4", rate=8)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            made.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        made.mux(stream.encode(None))
