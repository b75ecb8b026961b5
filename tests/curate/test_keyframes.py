"""What key frames show to be of no use is refused without decoding more; all else comes to the same set as without."""

from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

pytest.importorskip("cv2", reason="needs the extra curate")
pytest.importorskip("pyarrow", reason="needs the extra curate")

from mutoscope.core.errors import MediaError
from mutoscope.curate import signals
from mutoscope.curate.ingest import Ingest, Shelf, examine
from mutoscope.curate.keyframes import Keyframes
from mutoscope.curate.listing import Input
from mutoscope.curate.manifest import Manifest
from mutoscope.curate.runner import Curation, Signals, Split, run_stages
from mutoscope.curate.split import SplitSettings
from mutoscope.curate.stage import Work, whole
from mutoscope.curate.write import Write
from tests.curate import damage

GROUP = 12  # frames from one key frame to the next
BLACK = np.zeros((4 * GROUP, 96, 128, 3), np.uint8)
SCENE = np.kron(np.random.default_rng(0).integers(0, 256, (6, 8, 3)), np.ones((16, 16, 1))).astype(np.uint8)


def moved(period: int) -> np.ndarray:
    """The scene, rolled to the right by 4 pixels a frame, back again after so many frames."""
    return np.stack([np.roll(SCENE, 4 * (i % period), axis=1) for i in range(len(BLACK))])


def write(path: Path, frames: np.ndarray) -> Path:
    with av.open(str(path), "w") as container:
        options = {"g": str(GROUP), "keyint_min": str(GROUP), "sc_threshold": "0", "crf": "10"}
        stream = container.add_stream("libx264", rate=24, options=options)
        stream.height, stream.width = frames.shape[1:3]
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode())
    return path


def refusal(path: Path, folder: Path, stage: Keyframes = Keyframes()) -> str:
    """Return why a file is refused, "" if it is let through."""
    source = examine(Input(str(path)), Ingest(), Manifest(folder / "work"), Shelf(folder))
    assert not source.problem
    clips = whole(source)
    try:
        stage.run(Work(source, clips, None, lambda: path), folder / "out.parquet")
    except MediaError as error:
        return str(error)
    assert pq.read_table(folder / "out.parquet").equals(clips)
    return ""


@pytest.mark.parametrize(
    ("frames", "says"),
    [
        (BLACK, "black in all of its 4 key frames"),
        (BLACK + np.uint8(120), "of one colour in each of its 4 key frames"),
        (BLACK + SCENE, "frozen: all of its 4 key frames show one picture"),
        (BLACK[:, :40], "small: 128x40, below 64"),
    ],
)
def test_what_never_shows_anything_is_refused(tmp_path: Path, frames: np.ndarray, says: str) -> None:
    path = write(tmp_path / "a.mp4", frames)
    assert refusal(path, tmp_path) == f"it is {says}"
    assert refusal(path, tmp_path, Keyframes(0, 0.0, 0, frozen=False)) == ""


def test_key_frames_are_not_believed_where_something_happens_between_them(tmp_path: Path) -> None:
    flashed = BLACK.copy()
    flashed[GROUP // 2 :: GROUP] = SCENE
    for frames in (moved(GROUP), flashed):
        path = write(tmp_path / "a.mp4", frames)
        assert signals.keyframes(path)["still"].to_numpy().min() >= 0.97, "the key frames are alike"
        assert refusal(path, tmp_path) == ""


def test_what_moves_begins_black_or_is_short_is_let_through(tmp_path: Path) -> None:
    begins_black = BLACK.copy()
    begins_black[-1:] = SCENE
    for frames in (moved(1000), begins_black, BLACK[: 2 * GROUP]):
        assert refusal(write(tmp_path / "a.mp4", frames), tmp_path) == ""


def test_a_picture_is_judged_by_its_size_alone(tmp_path: Path) -> None:
    damage.write_photo(tmp_path / "small.png")
    damage.write_photo(tmp_path / "large.png", size=(64, 80))
    assert refusal(tmp_path / "small.png", tmp_path) == "it is small: 64x48, below 64"
    assert refusal(tmp_path / "large.png", tmp_path) == ""


def test_what_is_damaged_is_left_to_the_stage_that_decodes_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", moved(1000))
    source = examine(Input(str(path)), Ingest(), Manifest(tmp_path / "work"), Shelf(tmp_path))
    path.write_bytes(path.read_bytes()[:4000])
    Keyframes().run(Work(source, whole(source), None, lambda: path), tmp_path / "out.parquet")
    with pytest.raises(MediaError):
        signals.save(path, tmp_path / "signals.parquet")


def test_what_is_let_through_comes_to_the_same_set_and_what_is_not_is_not_decoded(tmp_path: Path, monkeypatch) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    write(raw / "moves.mp4", moved(1000))
    damage.write_photo(raw / "photo.png", size=(96, 128))
    decoded, save = [], signals.save
    monkeypatch.setattr(signals, "save", lambda path, *rest: (decoded.append(Path(path).name), save(path, *rest)))
    recipe = Curation("test", (), write=Write(quality="small"))
    stages = (Signals(), Split(SplitSettings(min_shot_s=0.5)))
    run_stages(recipe, stages, [str(raw)], tmp_path / "without", workers=0)
    write(raw / "black.mp4", BLACK)
    run_stages(recipe, (Keyframes(), *stages), [str(raw)], tmp_path / "with", workers=0)
    assert sorted(decoded) == ["moves.mp4", "moves.mp4", "photo.png", "photo.png"]
    one, other = (pq.read_table(tmp_path / name / "clips.parquet").to_pylist() for name in ("without", "with"))
    refused = [row for row in other if row["dropped_by"] == "keyframes"]
    assert [row for row in other if row not in refused] == one and len(one) == 2
    assert [row["reason"] for row in refused] == ["it is black in all of its 4 key frames"]
    assert (tmp_path / "with/shards/00000.tar").read_bytes() == (tmp_path / "without/shards/00000.tar").read_bytes()
