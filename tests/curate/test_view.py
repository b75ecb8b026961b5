import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mutoscope.core.errors import MediaError, RequestError
from mutoscope.core.video import Video
from mutoscope.curate.view import introduce, spread, view


def test_frames_are_spread_evenly_and_one_is_the_middle() -> None:
    assert spread(1, 9) == [4] and spread(3, 9) == [1, 4, 7] and spread(8, 3) == [0, 1, 2]
    for length in range(1, 40):
        for count in range(1, length + 1):
            picks = spread(count, length)
            assert (
                [length - 1 - pick for pick in reversed(picks)] == picks or length % count or (length // count) % 2 == 0
            )
            assert len(set(picks)) == count and set(np.diff(picks)) <= {length // count, -(-length // count)}
    with pytest.raises(RequestError, match="0 frames were asked for"):
        spread(0, 3)


def test_a_view_shows_the_frames_of_its_span_and_the_middle_one_alone(tmp_path: Path) -> None:
    levels = np.arange(24, dtype=np.uint8) * 10
    frames = np.broadcast_to(levels[:, None, None, None], (24, 32, 48, 3)).copy()
    Video.from_array(frames, 12).save(tmp_path / "ramp.mp4")
    shown = view(tmp_path / "ramp.mp4", 10, 10, longest_px=24)
    opened = [np.asarray(Image.open(io.BytesIO(file))) for file in (*shown.pictures(2), *shown.pictures(1))]
    assert {picture.shape for picture in opened} == {(16, 24, 3)}
    assert [round(picture.mean() / 10) for picture in opened] == [12, 17, 15]
    assert shown.id == "ramp-10-20" and shown.duration_s == pytest.approx(10 / 12)
    with pytest.raises(RequestError, match="20 frames from frame 10"):
        view(tmp_path / "ramp.mp4", 10, 20)


def test_a_photo_is_one_picture_and_lasts_no_time(tmp_path: Path) -> None:
    Image.new("RGB", (40, 20), "red").save(tmp_path / "p.png")
    shown = view(tmp_path / "p.png")
    assert shown.duration_s == 0 and len(shown.pictures(8)) == 1
    assert introduce(shown, 8)[0] == "This is one picture."
    (tmp_path / "q.png").write_bytes(b"no picture")
    with pytest.raises(MediaError):
        view(tmp_path / "q.png")
