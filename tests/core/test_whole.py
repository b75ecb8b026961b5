"""A file is whole when all its media is there, whatever follows it; otherwise it is refused."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest

from mutoscope.core.errors import MediaError
from mutoscope.core.video import Video
from mutoscope.core.whole import refuse_truncated
from tests.core import numbered

ID3V1 = b"TAG" + b"A day at the sea".ljust(125, b"\0")
TRAILERS = {
    "id3v1": ID3V1,
    "tagged": b"TAGmdat and more".ljust(128, b"\0"),
    "camera": bytes(40) + struct.pack("<II", 3, 200) + b"Camera model 12" * 9 + b"SEFT",
    "zeros": bytes(500),
    "noise": np.random.default_rng(1).integers(0, 256, 999, np.uint8).tobytes(),
    "newline": b"\n",
}


class Pipe(io.RawIOBase):
    """Takes bytes and cannot go back."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.data += bytes(data)
        return len(data)


@pytest.mark.parametrize("trailer", TRAILERS)
@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.avi", "a.gif"])
def test_bytes_after_the_end_are_no_damage(tmp_path: Path, name: str, trailer: str) -> None:
    codec, pixels = ("gif", "bgr8") if name == "a.gif" else ("libx264", "yuv420p")
    path = numbered.write(tmp_path / name, codec, 12, pixels=pixels)
    truth = Video.open(path).array()
    path.write_bytes(path.read_bytes() + TRAILERS[trailer])
    np.testing.assert_array_equal(Video.open(path).array(), truth)


@pytest.mark.parametrize("share", [0.4, 0.8, 0.97])
@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.avi", "a.mkv"])
def test_a_file_that_was_cut_is_refused_though_bytes_follow(tmp_path: Path, name: str, share: float) -> None:
    path = numbered.write(tmp_path / name, "libx264", 24)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)] + ID3V1)
    with pytest.raises(MediaError, match=r"cut short|cannot be read"):
        Video.open(path).array()


@pytest.mark.parametrize(
    ("muxer", "codec"),
    [("avi", "libx264"), ("avi", "mpeg4"), ("matroska", "libx264"), ("webm", "libvpx"), ("flv", "flv")],
)
def test_what_was_written_into_a_pipe_is_read_whole(tmp_path: Path, muxer: str, codec: str) -> None:
    pipe = Pipe()
    numbered.write(pipe, codec, muxer=muxer)
    (tmp_path / "a").write_bytes(pipe.data)
    video = Video.open(tmp_path / "a")
    assert [numbered.number_of(frame) for frame in video.frames()] == list(range(48))
    assert [numbered.number_of(frame) for frame in video.take(40, 8).frames()] == list(range(40, 48))


def test_a_pipe_that_broke_in_a_frame_is_refused(tmp_path: Path) -> None:
    pipe = Pipe()
    numbered.write(pipe, "libx264", muxer="avi")
    (tmp_path / "a.avi").write_bytes(pipe.data[: len(pipe.data) * 2 // 3])
    with pytest.raises(MediaError, match="breaks off in frame"):
        Video.open(tmp_path / "a.avi")


@pytest.mark.parametrize("length", [0, 0xFFFFFFFF])
def test_lengths_that_were_never_filled_in_say_nothing(tmp_path: Path, length: int) -> None:
    path = numbered.write(tmp_path / "a.avi", "mpeg4", 12)
    truth, data = Video.open(path).array(), bytearray(path.read_bytes())
    for at in (4, data.index(b"movi") - 4):
        data[at : at + 4] = struct.pack("<I", length)
    path.write_bytes(data)
    np.testing.assert_array_equal(Video.open(path).array(), truth)


def test_a_riff_that_counts_its_own_header_is_whole_and_one_without_its_index_is_not(tmp_path: Path) -> None:
    path = numbered.write(tmp_path / "a.avi", "mpeg4", 12)
    data = bytearray(path.read_bytes())
    data[4:8] = struct.pack("<I", len(data))
    path.write_bytes(data)
    refuse_truncated(path)
    path.write_bytes(data[: data.index(b"idx1")])
    with pytest.raises(MediaError, match="cut short"):
        refuse_truncated(path)


def test_a_matroska_header_of_any_length_is_read(tmp_path: Path) -> None:
    path = numbered.write(tmp_path / "a.mkv", "libx264", 12)
    truth, data = Video.open(path).array(), path.read_bytes()
    size = 9 - data[4].bit_length()
    header = int.from_bytes(data[4 : 4 + size], "big") & ((1 << 7 * size) - 1)
    body = data[4 + size : 4 + size + header] + b"\xec\x40\x50" + bytes(80)  # a void element (RFC 8794, 11.3.2)
    rest = data[4 + size + header :]
    path.write_bytes(data[:4] + (len(body) | 1 << 56).to_bytes(8, "big") + body + rest)
    np.testing.assert_array_equal(Video.open(path).array(), truth)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(MediaError, match="cut short"):
        Video.open(path)
