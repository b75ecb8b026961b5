"""A limit drops what lies beyond it, says by how much, and does not judge what has no number."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mutoscope.core.errors import RecipeError
from mutoscope.curate.filter import COLUMN_MEANS, Threshold, Thresholds
from mutoscope.curate.ingest import Source
from mutoscope.curate.signals import SCHEMA
from mutoscope.curate.stage import CLIPS, Work, clip_id, save

SOURCE = Source("0" * 16, "a.mp4", num_frames=20, width=64, height=48, fps="10", duration_s=2.0)
LIGHT = np.array([10.0] * 5 + [20.0] * 5 + [0.0, 100.0] * 5, np.float32)


def judged(tmp_path: Path, *limits: Threshold, source: Source = SOURCE, dropped: tuple[int, ...] = ()) -> list[dict]:
    """Judge four clips of five frames each."""
    rows = [
        {
            "id": clip_id(source, start, start + 5),
            "source": source.id,
            "start": start,
            "end": start + 5,
            "start_s": start / 10,
            "end_s": start / 10 + 0.5,
            "dropped_by": "before" if start in dropped else "",
            "reason": "not good" if start in dropped else "",
            "notes": "",
        }
        for start in range(0, 20, 5)
    ]
    rare = pa.array([7.0 if i == 12 else None for i in range(20)], pa.float32())
    save(pa.table({"light": LIGHT, "rare": rare}), tmp_path / "signals.parquet")
    work = Work(source, pa.Table.from_pylist(rows, CLIPS), tmp_path / "signals.parquet", lambda: tmp_path / "never")
    Thresholds(limits, name="limits").run(work, tmp_path / "out.parquet")
    return pq.read_table(tmp_path / "out.parquet").to_pylist()


@pytest.mark.parametrize(
    ("reduce", "values"),
    [
        ("mean", (10, 20, 40, 60)),
        ("median", (10, 20, 0, 100)),
        ("min", (10, 20, 0, 0)),
        ("max", (10, 20, 100, 100)),
        ("std", (0, 0, 2400**0.5, 2400**0.5)),
        ("p05", (10, 20, 0, 0)),
        ("share_nonzero", (1, 1, 0.4, 0.6)),
    ],
)
def test_the_frames_of_a_clip_become_the_number_that_is_asked_for(tmp_path: Path, reduce, values) -> None:
    rows = judged(tmp_path, Threshold("light", reduce))
    assert np.allclose([row[f"light_{reduce}"] for row in rows], values)
    assert not any(row["dropped_by"] for row in rows)


def test_what_lies_beyond_a_limit_is_dropped_with_the_number_and_the_limit(tmp_path: Path) -> None:
    rows = judged(tmp_path, Threshold("light", at_least=15, at_most=50, unit="levels"))
    assert [row["dropped_by"] for row in rows] == ["limits", "", "", "limits"]
    assert rows[0]["reason"] == "light_mean 10 levels is below 15"
    assert rows[3]["reason"] == "light_mean 60 levels is above 50"


def test_a_number_on_the_limit_is_kept(tmp_path: Path) -> None:
    rows = judged(tmp_path, Threshold("light", at_least=10, at_most=60))
    assert not any(row["dropped_by"] for row in rows)


def test_the_first_limit_that_refuses_gives_the_reason_and_all_numbers_are_noted(tmp_path: Path) -> None:
    rows = judged(tmp_path, Threshold("light", "max", at_most=50), Threshold("light", "min", at_least=5))
    assert "light_max" in rows[2]["reason"] and rows[2]["light_min"] == 0


def test_what_was_dropped_before_keeps_its_reason_and_is_not_judged(tmp_path: Path) -> None:
    rows = judged(tmp_path, Threshold("light", at_least=1000), dropped=(5,))
    assert (rows[1]["dropped_by"], rows[1]["reason"], rows[1]["light_mean"]) == ("before", "not good", None)


def test_a_clip_without_a_number_is_kept_with_a_note(tmp_path: Path) -> None:
    rows = judged(tmp_path, Threshold("rare", at_least=8))
    assert [row["dropped_by"] for row in rows] == ["", "", "limits", ""]
    assert rows[0]["notes"] == "rare_mean: no frame of the clip has a value"


def test_facts_of_a_clip_have_limits_too(tmp_path: Path) -> None:
    limits = [Threshold(name) for name in ("duration_s", "num_frames", "short_side_px", "aspect", "fps")]
    row = judged(tmp_path, *limits)[1]
    assert np.allclose([row[limit.score] for limit in limits], [0.5, 5, 48, 64 / 48, 10])
    assert Thresholds(tuple(limits)).reads == ("clips",) and "signals" in Thresholds((Threshold("light"),)).reads


def test_a_score_of_an_earlier_stage_has_limits_too(tmp_path: Path) -> None:
    judged(tmp_path, Threshold("light"))
    clips = pq.read_table(tmp_path / "out.parquet")
    work = Work(SOURCE, clips, tmp_path / "signals.parquet", lambda: tmp_path / "never")
    Thresholds((Threshold("light_mean", at_least=30, name="again"),), name="more").run(work, tmp_path / "two.parquet")
    rows = pq.read_table(tmp_path / "two.parquet").to_pylist()
    assert [row["dropped_by"] for row in rows] == ["more", "more", "", ""]


def test_a_misspelt_column_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"'lihgt'.*light"):
        judged(tmp_path, Threshold("lihgt"))
    with pytest.raises(RecipeError, match="light_mean"):
        Thresholds((Threshold("light"), Threshold("light", at_least=1)))


def test_a_number_of_the_frames_is_told_in_words() -> None:
    assert Threshold("still").meaning == (
        "share of the picture that does not change from the frame before: mean over the frames"
    )
    assert Threshold("duration_s").meaning == ""
    assert set(COLUMN_MEANS) <= set(SCHEMA.names)
