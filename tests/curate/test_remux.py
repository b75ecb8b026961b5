"""A copy has the very frames of its source; where it cannot have them, there is none."""

from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from mutoscope.core import media
from mutoscope.core.frames import decode
from mutoscope.core.video import Audio, Video
from mutoscope.curate.remux import remux
from tests.curate import damage

GROUP, COUNT = 10, 30


def write(path: Path, codec: str = "libx264", fps: Fraction | int = 24, aspect: int = 1, **options: str) -> Path:
    """Encode a moving picture with a key frame every 10 frames."""
    with av.open(str(path), "w") as container:
        options = {"g": str(GROUP), "keyint_min": str(GROUP), "sc_threshold": "0", "bf": "3", **options}
        stream: Any = container.add_stream(codec, rate=fps, options=options)
        stream.height, stream.width = 48, 64
        stream.codec_context.sample_aspect_ratio = aspect
        for pixels in damage.moving(COUNT):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode())
    return path


def frames(path: Path, start: int, end: int) -> np.ndarray:
    found = media.probe(path)
    return np.stack(list(islice(decode(path, found, start), end - start)))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize("fps", [24, Fraction(30_000, 1001)])
@pytest.mark.parametrize(("start", "end"), [(0, 30), (0, 10), (10, 20), (20, 30), (10, 30)])
def test_a_copy_has_the_frames_and_the_rate_of_its_source(
    tmp_path: Path, name: str, fps: Fraction | int, start: int, end: int
) -> None:
    path, out = write(tmp_path / name, fps=fps), tmp_path / "out.mp4"
    found = media.probe(path)
    assert remux(path, found, start, end, out) == ""
    copy = media.probe(out)
    assert (copy.num_frames, copy.fps, copy.variable_frame_rate) == (end - start, fps, False)
    assert float(copy.times[-1]) == pytest.approx((end - start) / float(fps), abs=0.002)
    np.testing.assert_array_equal(frames(out, 0, end - start), frames(path, start, end))


@pytest.mark.parametrize("end", range(11, 21))
def test_where_a_copy_cannot_end_there_is_none(tmp_path: Path, end: int) -> None:
    path, out = write(tmp_path / "a.mp4"), tmp_path / "out.mp4"
    why_not = remux(path, media.probe(path), 10, end, out)
    assert why_not in ("", "its last frames need frames after them") and out.exists() == (why_not == "")
    if not why_not:
        np.testing.assert_array_equal(frames(out, 0, end - 10), frames(path, 10, end))


def test_some_frames_end_with_no_need_of_later_ones_and_others_do(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4")
    told = {remux(path, media.probe(path), 10, end, tmp_path / "out.mp4") for end in range(11, 21)}
    assert told == {"", "its last frames need frames after them"}


@pytest.mark.parametrize(
    ("options", "start", "says"),
    [
        ({}, 5, "does not begin with a key frame"),
        ({"x264-params": "open-gop=1"}, 10, "cannot begin afresh"),
        ({"aspect": 2}, 0, "shown in another way than it is stored"),
    ],
)
def test_what_cannot_be_copied_is_said(tmp_path: Path, options: dict[str, Any], start: int, says: str) -> None:
    path = write(tmp_path / "a.mp4", **options)
    assert says in remux(path, media.probe(path), start, 20, tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()


def test_a_codec_that_mp4_does_not_take_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", "ffv1")
    assert "ffv1, does not go into MP4" in remux(path, media.probe(path), 0, 10, tmp_path / "out.mp4")


def test_sound_keeps_its_place_or_is_left_out(tmp_path: Path) -> None:
    rate, click_s = 48_000, 2.5
    samples = np.zeros((1, 5 * rate), np.float32)
    samples[0, round(click_s * rate) : round(click_s * rate) + 2400] = 0.8 * np.sin(np.arange(2400) * 2 * np.pi / 48)
    Video.from_array(damage.moving(40), 8).with_audio(Audio.from_array(samples, rate)).save(tmp_path / "a.mp4")
    found = media.probe(tmp_path / "a.mp4")
    assert len(found.keyframes) == 1
    for keeps_audio in (True, False):
        assert remux(tmp_path / "a.mp4", found, 0, 40, tmp_path / "out.mp4", keeps_audio=keeps_audio) == ""
        sound = Video.open(tmp_path / "out.mp4").audio
        assert (sound is not None) == keeps_audio
        if sound is not None:
            onset = float(np.argmax(np.abs(sound.array()[0]) > 0.2)) / sound.rate
            assert onset == pytest.approx(click_s, abs=0.01)


def test_the_same_copy_has_the_same_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv")
    for name in ("b.mp4", "c.mp4"):
        assert remux(path, media.probe(path), 10, 20, tmp_path / name) == ""
    assert (tmp_path / "b.mp4").read_bytes() == (tmp_path / "c.mp4").read_bytes()
