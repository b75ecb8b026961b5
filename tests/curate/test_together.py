"""Stages over the whole set see all clips, keep what they learnt, and account for every clip that they drop."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="needs the extra curate")
pytest.importorskip("cv2", reason="needs the extra curate")
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mutoscope.core import config
from mutoscope.core.errors import RecipeError
from mutoscope.curate.balance import Balance, BalanceSettings
from mutoscope.curate.describe import Captions
from mutoscope.curate.duplicates import Duplicates, DuplicateSettings
from mutoscope.curate.filter import Threshold
from mutoscope.curate.keyframes import Keyframes
from mutoscope.curate.learned import Learned, LearnedTogether
from mutoscope.curate.nested import Level, Nested
from mutoscope.curate.runner import Curation, Signals, Split, Summary, run, run_stages
from mutoscope.curate.stage import CLIPS, EMBEDDING, SetStage, SetView, embeddings
from mutoscope.curate.text import TextArea
from mutoscope.curate.write import Write
from mutoscope.data.tars import Tars
from mutoscope.scorers.clip import Embedding
from tests.curate import damage
from tests.curate.stages import Levels, Pieces, Ranks, Vectors

RECIPE = Curation("test", (), write=Write(quality="small"))


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos of 8 frames."""
    folder = tmp_path_factory.mktemp("raw")
    for name in "ab":
        damage.write_video(folder / f"{name}.mp4", 8, seed=ord(name))
    return folder


def curate(raw: Path, out: Path, *together: SetStage, embed: bool = False) -> Summary:
    stages = (Levels(str(out.parent / "log")), Pieces(), *([Vectors()] if embed else []))
    return run_stages(RECIPE, stages, [str(raw)], out, together=together, workers=0)


def rows_of(out: Path) -> list[dict]:
    return pq.read_table(out / "clips.parquet").to_pylist()


def test_a_stage_over_the_set_drops_with_a_reason_and_its_captions_are_those_of_the_records(
    tmp_path: Path, raw: Path
) -> None:
    out = tmp_path / "set"
    assert curate(raw, out, Ranks()).kept == 3
    rows = rows_of(out)
    assert sorted(row["rank"] for row in rows) == [0, 1, 2, 3]
    assert [row["reason"] for row in rows if row["dropped_by"] == "ranks"] == ["it is the darkest"]
    read = Tars(out)
    told = {row.id: read.sample(index).clip.captions[0].text for index, row in enumerate(read.rows)}
    assert told == {row["id"]: f"number {row['rank']}" for row in rows if not row["dropped_by"]}


def test_stages_run_in_order_and_what_one_drops_the_next_leaves_alone(tmp_path: Path, raw: Path) -> None:
    out = tmp_path / "set"
    assert curate(raw, out, Ranks(), Ranks(2, name="more")).kept == 1
    dropped = [row["dropped_by"] for row in rows_of(out)]
    assert sorted(dropped) == ["", "more", "more", "ranks"]


def test_what_a_stage_has_learnt_is_there_in_the_next_run(tmp_path: Path, raw: Path) -> None:
    out = tmp_path / "set"
    curate(raw, out, Ranks())
    for known in (out / "work/ranks").iterdir():
        known.write_text("0.0")
    curate(raw, out, Ranks(0))
    rows = rows_of(out)
    assert [row["rank"] for row in rows] == [0, 1, 2, 3], "all as dark, so by name: the levels were not measured again"


@dataclass(frozen=True)
class Loses:
    """Takes a row away, which no stage may."""

    name: str = "loses"
    version: int = field(default=1, init=False)

    def run(self, clips: pa.Table, view: SetView) -> pa.Table:
        return clips.slice(1)


def test_a_stage_that_loses_a_clip_is_stopped(tmp_path: Path, raw: Path) -> None:
    with pytest.raises(RuntimeError, match="loses took clips away"):
        curate(raw, tmp_path / "set", Loses())
    assert not (tmp_path / "set/shards").exists()


def test_what_could_not_run_is_refused_before_any_work() -> None:
    with pytest.raises(RecipeError, match="Two stages are named duplicates"):
        Curation("x", (Signals(),), together=(Duplicates(), Duplicates()))
    with pytest.raises(RecipeError, match="objects, which is taken"):
        Curation("x", (Signals(),), together=(Duplicates(DuplicateSettings(name="objects")),))
    with pytest.raises(RecipeError, match="no name of a folder"):
        Curation("x", (Signals(),), together=(Duplicates(DuplicateSettings(name="../x")),))
    with pytest.raises(RecipeError, match=r"Put Signals\(\) first"):
        Curation("x", (), together=(Duplicates(),))
    with pytest.raises(RecipeError, match=r"Put Learned\(\(Embedding"):
        Curation("x", (Signals(),), together=(Balance(),))
    Curation("x", (Learned((Embedding("clip"),)),), together=(Balance(),))
    Curation("x", (), together=(LearnedTogether(Learned((Embedding("clip"),))), Balance()))
    nested = Nested((Level("256p", 256), Level("720p", 720)))
    Curation("x", (), together=(nested,), write=Write(short_side_px=720))
    with pytest.raises(RecipeError, match=r"level 720p of nested trains at 720\. Raise write\.short_side_px"):
        Curation("x", (), together=(nested,), write=Write(short_side_px=480))


def test_a_recipe_with_stages_over_the_set_is_the_same_after_json(tmp_path: Path) -> None:
    together = (Duplicates(DuplicateSettings(share=0.7)), Balance(BalanceSettings(clusters=3)), Captions())
    stages = (Keyframes(), Signals(), Split(), TextArea(), Learned((Embedding("clip"),)))
    recipe = Curation("x", stages, together=together)
    config.save_resolved(recipe, tmp_path / "recipe.json")
    assert config.load_recipe(tmp_path / "recipe.json", Curation) == recipe
    changed = config.override(recipe, ["together.0.settings.share=0.9"])
    assert changed.together[0] == Duplicates(DuplicateSettings(share=0.9))


def test_a_recipe_from_before_there_were_stages_over_the_set_is_read() -> None:
    told = config.to_json(RECIPE)
    del told["together"]
    assert config.from_json(Curation, told) == RECIPE


def test_duplicates_are_found_across_sources_and_the_larger_is_kept(tmp_path: Path) -> None:
    large = _film(96, 128)
    _write(tmp_path / "raw/large.mp4", large)
    _write(tmp_path / "raw/small.mp4", large[:, ::2, ::2])
    _write(tmp_path / "raw/other.mp4", _film(96, 128, seed=5))
    recipe = replace(RECIPE, stages=(Signals(), Split()), together=(Duplicates(),))
    run(recipe, [str(tmp_path / "raw")], tmp_path / "set", workers=0)
    sources = {row["id"]: Path(row["path"]).stem for row in pq.read_table(tmp_path / "set/sources.parquet").to_pylist()}
    rows = {sources[row["source"]]: row for row in rows_of(tmp_path / "set")}
    assert [name for name, row in rows.items() if row["dropped_by"]] == ["small"]
    assert rows["small"]["reason"] == f"perceptual duplicate of {rows['large']['id']}, which is larger"
    assert "perceptual duplicate of a clip that is larger" in (tmp_path / "set/card.html").read_text()


def test_balance_without_embeddings_is_refused_and_says_what_makes_them(tmp_path: Path, raw: Path) -> None:
    with pytest.raises(RecipeError, match="Embedding"):
        curate(raw, tmp_path / "set", Balance())


def test_weights_are_in_the_index_and_in_no_other_way_change_the_shards(tmp_path: Path, raw: Path) -> None:
    plain, balanced = tmp_path / "plain/set", tmp_path / "balanced/set"
    curate(raw, plain, embed=True)
    curate(raw, balanced, Balance(BalanceSettings(clusters=2, temperature=1.0)), embed=True)
    table = {row["id"]: row for row in rows_of(balanced)}
    assert {row.id: row.weight for row in Tars(balanced).rows} == {
        id: pytest.approx(row["weight"], abs=1e-6) for id, row in table.items()
    }
    assert sum(row.weight for row in Tars(balanced).rows) == pytest.approx(4, abs=1e-5)
    assert [row.weight for row in Tars(plain).rows] == [1.0] * 4
    assert [row.sha256 for row in Tars(plain).rows] == [row.sha256 for row in Tars(balanced).rows]
    assert EMBEDDING not in Tars(plain).sample(0).about["scores"], "a vector is no score"
    assert pq.read_schema(balanced / "clips.parquet").field(EMBEDDING).type == pa.list_(pa.float32(), 2)


def test_the_card_of_nested_levels_shows_what_came_to_each(tmp_path: Path, raw: Path) -> None:
    out = tmp_path / "set"
    longest = Threshold("num_frames", at_least=5)
    curate(raw, out, Nested((Level("all", 0), Level("long", 0, (longest,)))))
    rows = rows_of(out)
    long = sum(row["end"] - row["start"] >= 5 for row in rows)
    assert len(rows) > 0
    card = (out / "card.html").read_text(encoding="utf-8")
    assert f"<td>num_frames, at least 5</td><td class=n>{len(rows)}</td><td class=n>{len(rows) - long}</td>" in card


def test_embeddings_of_dropped_clips_and_of_none_are_left_out() -> None:
    vectors = pa.array([[1.0, 0.0], None, [0.0, 1.0]], pa.list_(pa.float32(), 2))
    fields = {name: pa.nulls(3, CLIPS.field(name).type) for name in CLIPS.names}
    clips = pa.table({**fields, "id": ["a", "b", "c"], "dropped_by": ["", "", "light"], EMBEDDING: vectors})
    found = embeddings(clips)
    assert list(found) == ["a"] and np.array_equal(found["a"], np.array([1, 0], np.float32))
    assert embeddings(clips.drop_columns([EMBEDDING])) == {}


def _film(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Draw a texture that slides, 24 frames."""
    draw = np.random.default_rng(seed)
    field = draw.integers(0, 256, (height // 16 + 1, width // 16 + 1, 3)).repeat(16, 0).repeat(16, 1)
    frames = [np.roll(field, 2 * index, axis=1)[:height, :width] for index in range(24)]
    return np.stack(frames).astype(np.uint8)


def _write(path: Path, frames: np.ndarray) -> None:
    from mutoscope.core.video import Video

    path.parent.mkdir(parents=True, exist_ok=True)
    Video.from_array(frames, 12).save(path)
