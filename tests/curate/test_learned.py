"""The stage of learned judges: the right frames, columns for what is kept, and limits on them."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cv2", reason="needs the extra curate")
pytest.importorskip("pyarrow", reason="needs the extra curate")
pytest.importorskip("transformers", reason="needs the extra hub")

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mutoscope.core import config, media
from mutoscope.core.errors import MediaError, RecipeError, WeightsError
from mutoscope.core.frames import decode
from mutoscope.core.video import Video
from mutoscope.curate import learned
from mutoscope.curate.filter import Threshold, Thresholds
from mutoscope.curate.ingest import Source
from mutoscope.curate.learned import Learned, LearnedTogether, glimpses
from mutoscope.curate.stage import CAPTIONS, CLIPS, SetStage, SetView, Stage, Work, clip_id
from mutoscope.data.schema import Caption
from mutoscope.scorers.clip import Concepts, Embedding, Similarity
from mutoscope.scorers.detect import Detector
from mutoscope.scorers.judge import Place, Seen
from mutoscope.scorers.quality import Quality
from tests.scorers.towers import write_clip

FPS, LENGTH = 10, 30
SPANS = ((0, 10), (10, 14), (14, 30))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("towers")
    write_clip(folder)
    return str(folder)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video whose frames differ; its second key frame lies behind more than half of them."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    ramp = np.linspace(0, 90, 32 * 48).reshape(1, 32, 48, 1)
    frames = (ramp + np.arange(LENGTH)[:, None, None, None] * 5).astype(np.uint8).repeat(3, axis=-1)
    Video.from_array(frames, Fraction(FPS)).save(path, quality="best")
    return path


def source(kind: Any = "video", caption: str = "") -> Source:
    told = (Caption(caption),) if caption else ()
    return Source("0" * 16, "film.mp4", kind, width=48, height=32, num_frames=LENGTH, captions=told)


def table(spans: tuple[tuple[int, int], ...] = SPANS, dropped: tuple[int, ...] = ()) -> pa.Table:
    rows = [
        {
            "id": clip_id(source(), start, end), "source": "0" * 16, "start": start, "end": end,
            "start_s": start / FPS, "end_s": end / FPS, "dropped_by": "light" if index in dropped else "",
            "reason": "too dark" if index in dropped else "", "notes": "",
        }
        for index, (start, end) in enumerate(spans)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, CLIPS)


def run(stage: Stage, film: Path, clips: pa.Table, out: Path, of: Source | None = None) -> pa.Table:
    stage.run(Work(of or source(), clips, None, lambda: film), out)
    return pq.read_table(out)


# ---- frames ----------------------------------------------------------------------------------------------------------


def test_glimpses_are_the_frames_that_were_asked_for_in_any_order(film: Path) -> None:
    frames = Video.open(film).array()
    for numbers in ([0], [29], [3, 4, 11, 12, 13, 29], [20, 2, 2, 15], []):
        found = list(glimpses(film, numbers))
        assert len(found) == len(numbers)
        assert all((one == frames[number]).all() for one, number in zip(found, numbers, strict=True))
    with pytest.raises(MediaError, match="has no frame 30, only 30"):
        next(glimpses(film, [30]))


def test_a_file_is_read_on_where_no_key_frame_lies_between(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = media.probe(film)
    first, second = (round(key * found.time_base * FPS) for key in found.keyframes)
    assert (first, second) == (0, 22)
    begun: list[int] = []
    monkeypatch.setattr(learned, "decode", lambda path, found, start: begun.append(start) or decode(path, found, start))
    list(glimpses(film, [1, 3, 5, second + 1, second + 2]))
    assert begun == [1, second + 1]


def test_a_picture_is_a_clip_of_one_frame(tmp_path: Path, weights: str) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 30, 3)).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "picture.png")
    rows = run(Learned((Embedding(weights, frames=3),)), tmp_path / "picture.png", table(((0, 1),)), tmp_path / "out")
    (wanted,) = Embedding(weights).open(Place())([Seen(picture[None])])
    assert np.allclose(rows["embedding"][0].as_py(), wanted["embedding"], atol=1e-6)


# ---- columns ---------------------------------------------------------------------------------------------------------


def test_kept_clips_get_what_the_judges_say_of_their_own_frames_and_others_get_null(
    film: Path, weights: str, tmp_path: Path
) -> None:
    judges = (Embedding(weights), Similarity(weights, frames=2), Concepts(weights, ("red kite", "sea"), frames=2))
    told = run(Learned(judges), film, table(dropped=(1,)), tmp_path / "out", source(caption="a red kite"))
    frames = Video.open(film).array()
    for row, middle, pair in ((0, 5, [2, 7]), (2, 22, [18, 26])):
        (embedding,) = judges[0].open(Place())([Seen(frames[[middle]])])
        (similarity,) = judges[1].open(Place())([Seen(frames[pair], "a red kite")])
        (concept,) = judges[2].open(Place())([Seen(frames[pair])])
        found = told.slice(row, 1).to_pylist()[0]
        assert np.allclose(found["embedding"], embedding["embedding"], atol=1e-6)
        assert found["text_similarity"] == pytest.approx(similarity["text_similarity"], abs=1e-6)
        assert found["concept"] == concept["concept"]
    assert told["embedding"].type == pa.list_(pa.float32(), 10) and told["concept"].type == pa.string()
    scored = [score.name for score in Learned(judges).scores]
    assert scored == ["embedding", "text_similarity", "concept", "concept_share"]
    dropped = told.slice(1, 1).to_pylist()[0]
    assert all(dropped[name] is None for name in scored) and dropped["reason"] == "too dark"


def test_neither_room_nor_batch_changes_the_table(
    film: Path, weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def embedded(**place: Any) -> list[list[float]]:
        stage = Learned((Embedding(weights, frames=3),), Place(**place))
        return run(stage, film, table(), tmp_path / "out")["embedding"].to_pylist()

    whole = embedded(batch=64)
    assert np.allclose(embedded(batch=1), whole, atol=1e-6)
    monkeypatch.setattr(learned, "HELD_BYTES", 1)
    assert np.allclose(embedded(batch=64), whole, atol=1e-6)


def test_a_clip_without_text_says_so_and_its_own_caption_comes_before_that_of_the_source(
    film: Path, weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Learned((Similarity(weights),))
    (row, *_) = run(stage, film, table(), tmp_path / "out").to_pylist()
    assert row["text_similarity"] is None and row["notes"] == "text_similarity: there is no text to compare with"
    own = [[{"text": "the sea", "language": "en", "length": "short"}], None, None]
    clips = table().append_column(CAPTIONS, pa.array(own, CAPTIONS.type))
    texts: list[str] = []

    def listen(seen: Sequence[Seen]) -> list[dict]:
        texts.extend(one.text for one in seen)
        return [{} for _ in seen]

    monkeypatch.setattr(learned, "_open", lambda judge, place: listen)
    run(stage, film, clips, tmp_path / "out", source(caption="a kite"))
    assert texts == ["the sea", "a kite", "a kite"]


def test_limits_on_what_was_judged_drop_clips(film: Path, weights: str, tmp_path: Path) -> None:
    told = run(Learned((Similarity(weights),)), film, table(), tmp_path / "out", source(caption="a red kite"))
    values = told["text_similarity"].to_pylist()
    limit = Threshold("text_similarity", at_least=max(values), unit="cosine", name="text_similarity")
    kept = run(Thresholds((limit,)), film, told, tmp_path / "kept").to_pylist()
    assert [not row["dropped_by"] for row in kept] == [value == max(values) for value in values]
    assert all("cosine is below" in row["reason"] for row in kept if row["dropped_by"])


def test_nothing_is_read_where_no_clip_is_kept(weights: str, tmp_path: Path) -> None:
    told = run(
        Learned((Similarity(weights), Embedding(weights))), Path("never"), table(dropped=(0, 1, 2)), tmp_path / "out"
    )
    assert told["text_similarity"].null_count == 3 and "embedding" not in told.column_names


# ---- recipes ---------------------------------------------------------------------------------------------------------


def test_a_stage_comes_back_from_json_as_it_was(weights: str) -> None:
    judges = (Embedding(weights), Detector("logos.onnx", ("logo",), 64, 64), Quality("dover.onnx"))
    stage = Learned(judges, Place("cuda", "bfloat16", 64), name="looks")
    assert config.from_json(Learned, config.to_json(stage)) == stage
    assert isinstance(stage, Stage)


def test_what_is_missing_is_told_before_anything_is_decoded(weights: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="there are no weights at"):
        Learned((Embedding(weights), Quality(str(tmp_path / "none.pt2")))).check()
    Learned((Embedding(weights),)).check()


def test_columns_must_differ(weights: str) -> None:
    with pytest.raises(RecipeError, match="a column 'embedding' that is there already"):
        Learned((Embedding(weights), Embedding(weights, frames=2)))
    with pytest.raises(RecipeError, match="no judges"):
        Learned(())
    with pytest.raises(RecipeError, match="looks at no frame"):
        Learned((Embedding(weights, frames=0),))


# ---- over the set ----------------------------------------------------------------------------------------------------


def captioned(*texts: str) -> pa.Table:
    told = [[{"text": text, "language": "en", "length": "short"}] for text in texts]
    return table(dropped=(1,)).append_column(CAPTIONS, pa.array(told, CAPTIONS.type))


def over_the_set(film: Path, folder: Path, readings: list[str]) -> SetView:
    def fetch(of: Source) -> Path:
        readings.append(of.path)
        return film

    return SetView(folder, {"0" * 16: replace(source(), sha256="f" * 64)}, {}, {}, fetch)


def test_over_the_set_clips_are_compared_with_their_own_captions_and_judged_once(
    film: Path, weights: str, tmp_path: Path
) -> None:
    stage = LearnedTogether(Learned((Similarity(weights, frames=1), Embedding(weights))))
    readings: list[str] = []
    view = over_the_set(film, tmp_path, readings)
    given = captioned("a red kite", "", "the sea")
    told = stage.run(given, view)
    frames = Video.open(film).array()
    wanted = Similarity(weights).open(Place())([Seen(frames[[5]], "a red kite"), Seen(frames[[22]], "the sea")])
    first, dropped, last = told.to_pylist()
    assert (first["text_similarity"], last["text_similarity"]) == pytest.approx(
        [row["text_similarity"] for row in wanted], abs=1e-6
    )
    assert dropped["text_similarity"] is None and dropped["reason"] == "too dark"
    assert told["embedding"].type == pa.list_(pa.float32(), 10) and told.column_names[: len(CLIPS)] == CLIPS.names
    assert stage.run(given, view).equals(told) and readings == ["film.mp4"]
    assert stage.run(told, view).equals(told) and readings == ["film.mp4"]  # its own columns are replaced
    stage.run(captioned("a red kite", "", "dawn"), view)
    assert readings == ["film.mp4"] * 2 and isinstance(stage, SetStage)


def test_over_the_set_a_source_that_cannot_be_read_takes_its_clips_along(weights: str, tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"no video")
    view = over_the_set(tmp_path / "film.mp4", tmp_path, [])
    told = LearnedTogether(Learned((Embedding(weights),), name="looks")).run(table(dropped=(1,)), view).to_pylist()
    assert [row["dropped_by"] for row in told] == ["looks", "light", "looks"]
    assert "cannot be read as a video" in told[0]["reason"]
    assert list(tmp_path.glob("*.parquet")) == []
