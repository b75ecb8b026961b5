"""What is done to frames between the decoder and the pixels: interlaced, HDR and transparent ones."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from mutoscope.core.frames import Mending
from mutoscope.core.media import probe
from mutoscope.core.video import Video
from tests.core import numbered

BOTH = Mending(deinterlaces=True, tone_maps=True)


def moving_fields(count: int = 12) -> np.ndarray:
    """Draw a bar that moves by 4 columns from field to field, odd lines later than even ones."""
    frames = np.full((count, 64, 96), 60, np.uint8)
    for number in range(count):
        for field in (0, 1):
            left = 4 + 4 * (2 * number + field) % 80
            frames[number, field::2, left : left + 8] = 220
    return frames


def comb(frames: np.ndarray) -> float:
    """Return how much neighbouring lines differ, where every second line does not."""
    luma = frames[..., 0].astype(float)
    one, two = np.abs(np.diff(luma, axis=1)).mean(), np.abs(luma[:, 2:] - luma[:, :-2]).mean()
    return one - two


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [("a.mp4", "libx264", {"x264-params": "tff=1"}), ("a.ts", "mpeg2video", {"flags": "+ildct+ilme", "g": "6"})],
)
def test_interlaced_frames_are_said_and_mended_when_asked(
    tmp_path: Path, name: str, codec: str, options: dict[str, str]
) -> None:
    with av.open(str(tmp_path / name), "w") as out:
        stream: Any = out.add_stream(codec, rate=25, options={**options, "qmin": "1", "qmax": "4"})
        stream.height, stream.width, stream.pix_fmt, stream.thread_count = 64, 96, "yuv420p", 1
        for pixels in moving_fields():
            frame = av.VideoFrame.from_ndarray(np.repeat(pixels[..., None], 3, axis=2), "rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    plain, mended = Video.open(tmp_path / name), Video.open(tmp_path / name, BOTH)
    assert "interlaced: the lines of a frame are of two moments" in plain.notices
    assert "deinterlaced, one frame of each" in mended.notices
    whole = mended.array()
    assert len(whole) == mended.num_frames == plain.num_frames
    assert comb(plain.array()) > 8 and comb(whole) < 2
    for start in (1, 5, 11):
        np.testing.assert_array_equal(next(mended.read(start)), whole[start])


def test_progressive_frames_are_left_as_they_are(tmp_path: Path) -> None:
    path = numbered.write(tmp_path / "a.mp4", "libx264", 6)
    assert not probe(path).is_interlaced and not BOTH.changes(probe(path))
    np.testing.assert_array_equal(Video.open(path, BOTH).array(), Video.open(path).array())


def pq(nits: np.ndarray) -> np.ndarray:
    """Return the code of a brightness, 0 to 1 (SMPTE ST 2084, equation 5.2)."""
    level = (nits / 10_000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * level) / (1 + 18.6875 * level)) ** 78.84375


def write_hdr(path: Path, transfer: int, code: np.ndarray) -> Path:
    """Encode grey columns of ten bits, which say that they are BT.2020."""
    with av.open(str(path), "w") as out:
        params = "log-level=none:pools=none:crf=4"
        stream: Any = out.add_stream("libx265", rate=25, options={"x265-params": params})
        stream.height, stream.width, stream.pix_fmt = 64, 16 * len(code), "yuv420p10le"
        tags = stream.codec_context
        tags.color_primaries, tags.color_trc, tags.colorspace, tags.color_range = 9, transfer, 9, 1
        luma = np.repeat(np.round(64 + 876 * code), 16).astype("<u2")
        for number in range(3):
            frame = av.VideoFrame(stream.width, 64, "yuv420p10le")
            for plane, row in zip(frame.planes, (luma, *[np.full(stream.width // 2, 512, "<u2")] * 2), strict=True):
                lines = np.zeros((plane.height, plane.line_size // 2), "<u2")
                lines[:, : len(row)] = row
                plane.update(lines.tobytes())
            frame.color_primaries, frame.color_trc, frame.colorspace, frame.color_range = 9, transfer, 9, 1
            frame.pts, frame.time_base = number, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def test_hdr_is_said_and_shown_as_it_is_stored(tmp_path: Path) -> None:
    code = pq(np.array([0, 1, 10, 50, 100, 203, 1000, 4000]))
    plain = Video.open(write_hdr(tmp_path / "a.mp4", 16, code))
    assert "HDR (PQ BT.2020), whose brightness or colours are not those of BT.709" in plain.notices
    assert np.abs(plain.array()[1, 32, 8::16, 0] - np.round(255 * code)).max() <= 2


@pytest.mark.slow  # swscale takes some ten seconds to work out its table
def test_hdr_is_mapped_to_the_brightness_of_other_video_when_asked(tmp_path: Path) -> None:
    nits = np.array([0, 1, 10, 50, 100, 203, 1000, 4000])
    path = write_hdr(tmp_path / "a.mp4", 16, pq(nits))
    mapped = Video.open(path, BOTH)
    assert "tone-mapped to BT.709" in mapped.notices
    grey = mapped.array()[1, 32, 8::16].astype(int)
    assert np.abs(grey - grey[:, :1]).max() <= 1  # grey stays grey
    levels = grey[:, 0]
    assert (np.diff(levels) > 0).all() and levels[0] <= 1 and levels[-1] < 255
    assert 40 < levels[2] < 90  # 10 nits of a screen of 100 are 0.1, which BT.1886 codes as about 90
    np.testing.assert_array_equal(next(mapped.read(2)), mapped.array()[2])


def test_hlg_is_hdr_and_wide_colours_alone_are(tmp_path: Path) -> None:
    code = np.linspace(0, 1, 4)
    assert probe(write_hdr(tmp_path / "a.mp4", 18, code)).hdr == "HLG BT.2020"
    assert probe(write_hdr(tmp_path / "b.mp4", 14, code)).hdr == "BT.2020"
    assert probe(numbered.write(tmp_path / "c.mp4", "libx264", 2)).hdr == ""


def test_what_is_transparent_is_shown_on_white(tmp_path: Path) -> None:
    shapes = []
    for number in range(4):
        pixels = np.zeros((48, 64, 4), np.uint8)
        pixels[8:40, 8 + 4 * number : 24 + 4 * number] = (200, 30, 60, 255)
        pixels[0:4] = (0, 100, 0, 102)  # 40 %
        shapes.append(Image.fromarray(pixels))
    shapes[0].save(tmp_path / "a.apng", format="PNG", save_all=True, append_images=shapes[1:], duration=100)
    video = Video.open(tmp_path / "a.apng")
    assert "what is transparent is shown on white" in video.notices
    for number, frame in enumerate(video.array()):
        np.testing.assert_array_equal(frame[20, 8 + 4 * number + 3], [200, 30, 60])
        np.testing.assert_array_equal(frame[44, 60], [255, 255, 255])
        np.testing.assert_array_equal(frame[1, 1], [153, 193, 153])
