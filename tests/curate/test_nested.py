"""Levels are nested, a share keeps the best of what has come so far, and what stops a clip is told."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("pyarrow", reason="needs the extra curate")
pytest.importorskip("cv2", reason="needs the extra curate")
import pyarrow as pa

from mutoscope.core import config
from mutoscope.core.errors import MediaError, RecipeError
from mutoscope.curate.filter import Threshold
from mutoscope.curate.ingest import Source
from mutoscope.curate.nested import TOLD, Best, Level, Nested, funnel
from mutoscope.curate.nested import table as table_of
from mutoscope.curate.runner import Curation
from mutoscope.curate.stage import CLIPS, SetView, clip_id

NAN = float("nan")


def clips_of(
    scores: dict[str, list[float | None]], *, sides: list[int] | None = None, pictures: tuple[int, ...] = ()
) -> tuple[pa.Table, dict[str, Source]]:
    """Make one clip of ten frames and one second for each value, of a source of its own."""
    rows, sources = [], {}
    for i in range(len(next(iter(scores.values())))):
        side = sides[i] if sides else 720
        source = Source(f"{i:016x}", f"{i}.mp4", num_frames=10, width=2 * side, height=side, fps="10", duration_s=1.0)
        if i in pictures:
            source = replace(source, kind="image", num_frames=1, fps="", duration_s=0.0)
        sources[source.id] = source
        end = source.num_frames
        row = dict.fromkeys(CLIPS.names, "") | {"id": clip_id(source, 0, end), "source": source.id, "start": 0}
        rows.append(row | {"end": end, "start_s": 0.0, "end_s": source.duration_s})
    table = pa.Table.from_pylist(rows, CLIPS)
    for name, values in scores.items():
        table = table.append_column(name, pa.array(values, pa.float64()))
    return table, sources


def climbed(
    folder: Path,
    *levels: Level,
    scores: dict[str, list[float | None]],
    dropped: tuple[int, ...] = (),
    sides: list[int] | None = None,
    pictures: tuple[int, ...] = (),
) -> pa.Table:
    table, sources = clips_of(scores, sides=sides, pictures=pictures)
    rows = table.to_pylist()
    for i in dropped:
        rows[i] |= {"dropped_by": "before", "reason": "not good"}
    places = {row["id"]: (row["source"], row["start"], row["end"]) for row in rows}
    view = SetView(folder, sources, places, {}, lambda source: Path("never"))
    return Nested(levels).run(pa.Table.from_pylist(rows, table.schema), view)


def reached(table: pa.Table) -> list[str | None]:
    return table["level"].to_pylist()


def told(folder: Path) -> list[dict]:
    return json.loads((folder / TOLD).read_text())["levels"]


LADDER = (
    Level("256p", 256, (Threshold("sharp", at_least=1.0, name="sharp"),)),
    Level("540p", 540, (Best("sharp", 0.5, better="higher"),)),
    Level("best", 540, (Best("sharp", 0.5, better="higher"), Threshold("still", at_most=0.5, name="still"))),
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.integers(0, 6).map(float), st.just(NAN)),
            st.one_of(st.none(), st.floats(0, 1)),
            st.sampled_from([240, 360, 720]),
        ),
        min_size=1,
        max_size=30,
    ),
    st.randoms(use_true_random=False),
)
def test_each_level_lies_within_the_one_before_and_the_order_of_the_clips_does_not_matter(
    tmp_path_factory, given, draw
):
    folder = tmp_path_factory.mktemp("nested")
    sharp, still, sides = (list(column) for column in zip(*given, strict=True))
    table = climbed(folder, *LADDER, scores={"sharp": sharp, "still": still}, sides=sides)
    names = [level.name for level in LADDER]
    for row in table.to_pylist():
        levels = row["levels"] or []
        assert levels == names[: len(levels)] and row["level"] == (levels[-1] if levels else None)
        assert bool(row["dropped_by"]) == bool(row["reason"]) == (not levels)
        assert ("not in" in row["notes"]) == (0 < len(levels) < 3)
    order = list(range(len(given)))
    draw.shuffle(order)
    mixed = climbed(
        folder,
        *LADDER,
        scores={"sharp": [sharp[i] for i in order], "still": [still[i] for i in order]},
        sides=[sides[i] for i in order],
    )
    assert reached(mixed) == [reached(table)[i] for i in order]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9).map(float), min_size=1, max_size=40), st.floats(0.01, 1), st.booleans())
def test_a_share_keeps_at_least_that_many_and_none_more_but_for_ties(values: list[float], share: float, higher: bool):
    limit = Best("x", share, better="higher" if higher else "lower").found(values)
    passed = sorted(value for value in values if not limit.refusal(value))
    worst = passed[0] if higher else passed[-1]
    better = [value for value in passed if value != worst]
    assert len(passed) >= share * len(values) - 1e-6 and len(better) < share * len(values) + 1e-6
    stopped = [value for value in values if limit.refusal(value)]
    assert all(value < worst if higher else value > worst for value in stopped)


def test_known_values_give_known_thresholds_that_are_written_down(tmp_path: Path) -> None:
    table = climbed(
        tmp_path,
        Level("low", 256, (Best("sharp", 0.8, better="higher", unit="levels"),)),
        Level("high", 256, (Best("sharp", 0.5, better="higher"), Best("still", 0.5, better="lower"))),
        scores={"sharp": [float(i) for i in range(10)], "still": [0.1 * (i % 4) for i in range(10)]},
    )
    # of 0 ... 9 the best eight begin at 2; of 2 ... 9 the best four at 6; of 6, 7, 8, 9 the stillest two are 8 and 9
    assert reached(table) == [None] * 2 + ["low"] * 6 + ["high"] * 2
    low, high = told(tmp_path)
    assert [limit["at_least"] for limit in low["limits"]] == [256, 2.0]
    assert [(limit["number"], limit["at_least"], limit["at_most"]) for limit in high["limits"]] == [
        ("sharp", 6.0, None),
        ("still", None, 0.1),
    ]
    assert table["reason"].to_pylist()[0] == "sharp 0 levels is below 2"
    assert table["notes"].to_pylist()[5] == "not in high: sharp 5 is below 6"
    assert table["notes"].to_pylist()[7] == "not in high: still 0.3 is above 0.1"


def test_a_share_is_of_those_that_have_come_so_far(tmp_path: Path) -> None:
    sides = [240] * 6 + [720] * 4
    scores = {"sharp": [9.0, 9, 9, 9, 9, 9, 1, 2, 3, 4]}
    table = climbed(tmp_path, Level("720p", 720, (Best("sharp", 0.5, better="higher"),)), scores=scores, sides=sides)
    assert reached(table) == [None] * 8 + ["720p"] * 2  # half of the four that are large enough


def test_clips_that_are_alike_pass_or_stop_together(tmp_path: Path) -> None:
    half = Level("half", 0, (Best("still", 0.5, better="lower"),))
    assert reached(climbed(tmp_path, half, scores={"still": [1.0] * 4})) == ["half"] * 4
    table = climbed(tmp_path, half, scores={"still": [0.0, 1.0, 1.0, 1.0, 2.0]})
    assert reached(table) == ["half"] * 4 + [None]  # three of five are asked for, and the third has equals


def test_a_clip_without_the_number_goes_no_higher_and_does_not_count(tmp_path: Path) -> None:
    best = Level("best", 0, (Best("sharp", 0.5, better="higher"),))
    plain = Level("plain", 0, (Threshold("sharp", at_least=0.0, name="sharp"),))
    for level in (best, plain):
        table = climbed(tmp_path, Level("all"), level, scores={"sharp": [None, 5.0, NAN, 5.0]})
        assert reached(table) == ["all", level.name, "all", level.name]
        assert table["notes"].to_pylist()[0] == f"not in {level.name}: sharp is not known"
        assert told(tmp_path)[1]["limits"][0]["unknown"] == 2


def test_of_no_number_at_all_there_is_no_limit_and_nothing_passes(tmp_path: Path) -> None:
    table = climbed(tmp_path, Level("best", 0, (Best("sharp", 0.5, better="higher"),)), scores={"sharp": [None, None]})
    assert reached(table) == [None, None] and told(tmp_path)[0]["limits"][0]["at_least"] is None


def test_pictures_pass_limits_that_do_not_speak_of_them_and_do_not_count_for_shares(tmp_path: Path) -> None:
    limits = (Best("motion", 0.5, better="higher", images=False), Threshold("dark", at_most=0.5, name="dark"))
    table = climbed(
        tmp_path,
        Level("all", 256),
        Level("best", 256, limits),
        scores={"motion": [None, 1.0, 2.0, None], "dark": [0.1, 0.1, 0.1, 0.9]},
        pictures=(0, 3),
    )
    assert reached(table) == ["best", "all", "best", "all"]
    assert table["notes"].to_pylist()[0] == "motion: not judged in a picture"
    assert table["notes"].to_pylist()[3].endswith("not in best: dark 0.9 is above 0.5")
    assert told(tmp_path)[1]["limits"][0]["at_least"] == 2.0


def test_what_was_dropped_before_stays_as_it_is_and_does_not_count(tmp_path: Path) -> None:
    level = Level("best", 0, (Best("sharp", 0.5, better="higher"),))
    table = climbed(tmp_path, level, scores={"sharp": [9.0, 1.0, 2.0]}, dropped=(0,))
    assert reached(table) == [None, None, "best"]
    assert table["dropped_by"].to_pylist() == ["before", "nested", ""] and table["levels"].to_pylist()[0] is None


def test_a_threshold_looks_at_the_column_that_it_makes_in_thresholds(tmp_path: Path) -> None:
    level = Level("moving", 0, (Threshold("still", "p95", at_most=0.5), Threshold("duration_s", at_least=0.5)))
    assert reached(climbed(tmp_path, level, scores={"still_p95": [0.1, 0.9]})) == ["moving", None]


def test_the_funnel_tells_of_each_limit_and_of_what_is_left_now(tmp_path: Path) -> None:
    table = climbed(
        tmp_path,
        Level("low", 360),
        Level("high", 360, (Best("sharp", 0.5, better="higher", unit="levels"), Threshold("dark", at_most=0.5))),
        scores={"sharp": [1.0, 2, 3, 4, None], "dark": [0.0, 0, 0, 0.9, 0]},
        sides=[720, 720, 720, 720, 240],
    )
    low, high = funnel(table, tmp_path)
    assert (low.clips, low.duration_s, high.clips, high.duration_s) == (4, 4.0, 1, 1.0)
    assert [(s.limit, s.came, s.stopped, s.unknown) for s in (*low.steps, *high.steps)] == [
        ("short_side_px, at least 360 pixels", 5, 1, 0),
        ("best 50 % by sharp, at least 3 levels", 4, 2, 0),
        ("dark, at most 0.5", 2, 1, 0),
    ]
    assert table_of([low, high]) == [
        ["low", "short_side_px, at least 360 pixels", "5", "1", "4", "4.0"],
        ["high", "best 50 % by sharp, at least 3 levels", "4", "2", "1", "1.0"],
        ["", "dark, at most 0.5", "2", "1", "", ""],
    ]
    by = ["" if by else "duplicates" for by in table["dropped_by"].to_pylist()]  # by a stage that comes later
    later = table.set_column(table.column_names.index("dropped_by"), "dropped_by", pa.array(by, pa.string()))
    assert [rung.clips for rung in funnel(later, tmp_path)] == [0, 0]
    with pytest.raises(MediaError, match="Run the same mutoscope curate again"):
        funnel(table, tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("levels", "says"),
    [
        ((), "at least one"),
        ((Level("a"), Level("a")), "a name of its own"),
        ((Level(" "),), "a name of its own"),
        ((Level("a", 540), Level("b", 360)), "the smallest first"),
    ],
)
def test_levels_that_are_no_ladder_are_refused(levels: tuple[Level, ...], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        Nested(levels)


@pytest.mark.parametrize("share", [0.0, -1.0, 1.01, NAN])
def test_a_share_is_a_part_of_one(share: float) -> None:
    with pytest.raises(RecipeError, match="part of 1"):
        Best("sharp", share, better="higher")


def test_a_number_that_there_is_not_is_named_with_those_that_there_are(tmp_path: Path) -> None:
    for limit in (Best("shrap", 0.5, better="higher"), Threshold("shrap")):
        with pytest.raises(RecipeError, match=r"'shrap.*such as Thresholds.*sharp"):
            climbed(tmp_path, Level("best", 0, (limit,)), scores={"sharp": [1.0]})
    table, sources = clips_of({"sharp": [1.0]})
    table = table.append_column("level", pa.array(["low"]))
    with pytest.raises(RecipeError, match="levels already"):
        Nested((Level("low"),)).run(table, SetView(tmp_path, sources, {}, {}, lambda source: Path("never")))


def test_the_recipe_of_the_package_can_be_read_and_saved(tmp_path: Path) -> None:
    recipe = config.load_recipe(Path(__file__).parents[2] / "recipes/curate/nested.py", Curation)
    config.save_resolved(recipe, tmp_path / "recipe.json")
    assert config.load_recipe(tmp_path / "recipe.json", Curation) == recipe
    (nested,) = recipe.together
    assert isinstance(nested, Nested) and nested.levels[-1].short_side_px == recipe.write.short_side_px


def test_a_stage_is_saved_with_a_recipe_and_read_back() -> None:
    stage = Nested(LADDER)
    assert config.from_json(Nested, json.loads(json.dumps(config.to_json(stage)))) == stage
    changed = config.override(stage, ["levels.1.limits.0.share=0.25"])
    assert changed.levels[1].limits[0] == Best("sharp", 0.25, better="higher")
