from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mutoscope.core.errors import MediaError
from mutoscope.core.video import Video
from mutoscope.worlds.takes import Clips, Take

HEAD = "file,caption,licence,cuts,transitions,notes\n"


def clip(path: Path, num_frames: int) -> None:
    grey = np.arange(num_frames, dtype=np.uint8)[:, None, None, None] * 2
    Video.from_array(np.broadcast_to(grey, (num_frames, 16, 24, 3)).copy(), 24).save(path)


@pytest.fixture
def folder(tmp_path):
    clip(tmp_path / "a.mp4", 100)
    clip(tmp_path / "b.mp4", 40)
    Image.new("RGB", (40, 30), "red").save(tmp_path / "photo.png")
    (tmp_path / "words.txt").write_text("not a clip")
    return tmp_path


def test_without_a_table_each_clip_is_one_shot_and_other_files_are_left_alone(folder):
    takes = Clips.open(folder).takes
    assert takes == (Take("a.mp4", 0, 100), Take("b.mp4", 0, 40), Take("photo.png", 0, 1, True))


def test_no_stretch_holds_a_cut_or_a_frame_of_a_range_that_the_table_names(folder):
    row = 'a.mp4,"Grey, rising",CC0-1.0,20;60,"dissolve: frames 30-35 (pure from 36)",titles about 80-90\n'
    (folder / "MANIFEST.csv").write_text(HEAD + row + "b.mp4,,,none,,DERIVED from a.mp4\n")
    takes = [take for take in Clips.open(folder).takes if not take.is_photo]
    assert [(take.start, take.end) for take in takes] == [(0, 20), (36, 60), (60, 80)]  # 20-30, 91-100 are too short
    assert {(take.file, take.caption, take.licence) for take in takes} == {("a.mp4", "Grey, rising", "CC0-1.0")}


def test_frames_come_from_where_they_were_asked_for_at_the_size_asked_for(folder):
    frames = list(Clips.open(folder).frames("a.mp4", 70, 5, (32, 32)))
    assert [frame.shape for frame in frames] == [(32, 32, 3)] * 5
    assert [round(float(frame.mean())) for frame in frames] == pytest.approx([140, 142, 144, 146, 148], abs=2)


def test_a_folder_without_clips_is_refused(tmp_path):
    for missing in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(MediaError, match="clips"):
            Clips.open(missing)
