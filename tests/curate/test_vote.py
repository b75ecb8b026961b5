"""Votes are kept whatever happens, pairs are drawn evenly, and a set is read as it was written."""

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow", reason="needs the extra curate")
import pyarrow as pa
import pyarrow.parquet as pq

from mutoscope.core.errors import MediaError, MutoscopeError, RequestError
from mutoscope.curate.stage import CLIPS
from mutoscope.curate.vote import Ballots, Candidates, Draw, Vote, bins_of

ADDS = """
import sys
from pathlib import Path
from mutoscope.curate.vote import Ballots, Vote
ballots = Ballots(Path(sys.argv[1]), "sharp")
for number in range(10_000):
    ballots.add(Vote(sys.argv[2], f"a{number}", f"b{number}", "left"))
    print(number, flush=True)
"""


def write_set(folder: Path, rows: list[dict[str, Any]], recipe: dict[str, Any] | None = None) -> Path:
    """Write the tables of a data set; each row has a score, and what it differs by from a kept video of one second."""
    plain = dict.fromkeys(CLIPS.names, "") | {"source": "s", "start": 0, "end": 10, "start_s": 0.0, "end_s": 1.0}
    schema = CLIPS.append(pa.field("sharp", pa.float64())).append(pa.field("camera", pa.string()))
    rows = [plain | {"id": f"c{i:03d}", "sharp": None, "camera": "static"} | row for i, row in enumerate(rows)]
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "clips.parquet")
    (folder / "recipe.json").write_text(json.dumps(recipe or {}))
    return folder


# ---- what is voted on ------------------------------------------------------------------------------------------------


def test_clips_are_those_that_are_kept_and_those_that_only_a_limit_on_the_score_dropped(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"sharp": 1.0},
        {"sharp": 2.0, "dropped_by": "quality", "reason": "sharp 2 levels is below 3"},
        {"sharp": 3.0, "dropped_by": "quality", "reason": "sharpness 1 is below 3"},
        {"sharp": None},
        {"sharp": float("nan")},
        {"sharp": 4.0, "end": 1},  # a picture
    ]
    found = Candidates.of(write_set(tmp_path / "set", rows), "sharp")
    assert found.values == {"c000": 1.0, "c001": 2.0} and found.places["c001"] == ("s", 0, 10)
    assert found.limit is None and found.only({"c000", "c001"}) == found
    with pytest.raises(RequestError, match="1 of 2 clips can be shown"):
        found.only({"c001"})
    pictures = write_set(tmp_path / "pictures", [{"sharp": 1.0, "end": 1}, {"sharp": 2.0, "end": 1}])
    assert Candidates.of(pictures, "sharp").values == {"c000": 1.0, "c001": 2.0}


def test_the_limit_that_measured_the_score_is_found_in_the_recipe(tmp_path: Path) -> None:
    limit = {"type": "Threshold", "column": "focus", "reduce": "p95", "name": "sharp", "at_least": 3.0}
    other = {"type": "Threshold", "column": "sharp", "reduce": "mean", "name": ""}
    recipe = {"stages": [{"type": "Signals"}, {"limits": [other, limit]}]}
    assert Candidates.of(write_set(tmp_path, [{"sharp": 1.0}, {"sharp": 2.0}], recipe), "sharp").limit == limit


def test_what_is_no_set_or_no_score_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=f"mutoscope curate SOURCE --out {tmp_path}"):
        Candidates.of(tmp_path, "sharp")
    folder = write_set(tmp_path / "set", [{"sharp": 1.0}, {}])
    with pytest.raises(RequestError, match=r"no score 'camera'. Choose from sharp"):
        Candidates.of(folder, "camera")
    with pytest.raises(RequestError, match="1 clips"):
        Candidates.of(folder, "sharp")


def test_bins_are_equal_parts_in_order_and_never_part_equal_values() -> None:
    values = {f"c{i}": float(i) for i in range(10)}
    bins = bins_of(values, 5)
    assert [(one.low, one.high, len(one.clips)) for one in bins] == [(2 * i, 2 * i + 1, 2) for i in range(5)]
    tied = {f"c{i}": float(value) for i, value in enumerate([0] * 7 + [1, 2, 3])}
    assert [one.clips for one in bins_of(tied, 5)] == [tuple(f"c{i}" for i in range(7)), ("c7",), ("c8", "c9")]
    with pytest.raises(RequestError, match="nothing to compare"):
        bins_of(dict.fromkeys("abc", 1.0), 5)
    with pytest.raises(RequestError, match="2 or more"):
        bins_of(values, 1)


# ---- votes -----------------------------------------------------------------------------------------------------------


def test_votes_are_read_back_by_another_and_the_last_of_a_person_on_a_pair_counts(tmp_path: Path) -> None:
    one, two = (Ballots(tmp_path / "sub/votes.jsonl", "sharp") for _ in range(2))
    first, second = Vote("Ann", "a", "b", "left"), Vote("Ann", "c", "d", "equal")
    one.add(first)
    two.add(second)
    two.add(Vote("Bo", "a", "b", "right"))
    one.add(Vote("Ann", "b", "a", "left"))  # she saw them again the other way round, and now prefers b
    two.refresh()
    assert one.votes == two.votes == [second, Vote("Bo", "a", "b", "right"), Vote("Ann", "b", "a", "left")]
    assert one.of("Bo") == [Vote("Bo", "a", "b", "right")]
    assert Ballots(one.path, "other").votes == []


def test_what_is_taken_back_is_the_last_vote_of_that_person(tmp_path: Path) -> None:
    ballots = Ballots(tmp_path / "votes.jsonl", "sharp")
    assert ballots.undo("Ann") is None
    votes = [Vote("Ann", "a", "b", "left"), Vote("Ann", "c", "d", "left"), Vote("Bo", "e", "f", "left")]
    for vote in votes:
        ballots.add(vote)
    assert ballots.undo("Ann") == votes[1] and ballots.undo("Ann") == votes[0] and ballots.undo("Ann") is None
    assert ballots.votes == Ballots(ballots.path, "sharp").votes == [votes[2]]


def test_a_line_that_was_cut_short_is_no_vote_and_the_next_one_is(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    Ballots(path, "sharp").add(Vote("Ann", "a", "b", "left"))
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole + whole[:length])
        ballots = Ballots(path, "sharp")
        assert len(ballots.votes) == 1
        ballots.add(Vote("Ann", "c", "d", "right"))
        assert [vote.winner for vote in Ballots(path, "sharp").votes] == ["left", "right"]


@pytest.mark.parametrize("line", [b"nonsense", b"[]", b'{"column": "sharp"}', b'{"column":'])
def test_a_damaged_line_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "votes.jsonl"
    Ballots(path, "sharp").add(Vote("Ann", "a", "b", "left"))
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(MutoscopeError, match=r"line 2 of .*votes.jsonl"):
        Ballots(path, "sharp")


def test_a_damaged_line_hides_no_later_vote_and_is_named_until_it_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    ballots, other = Ballots(path, "sharp"), Ballots(path, "sharp")
    for pair in (("a", "b"), ("c", "d")):
        other.add(Vote("Ann", *pair, "left"))
    first, last = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + b"nonsense\n" + last)
    for _ in range(2):
        with pytest.raises(MutoscopeError, match="line 2 of"):
            ballots.refresh()
    path.write_bytes(first + last)
    ballots.refresh()
    assert ballots.votes == other.votes and len(ballots.votes) == 2


@pytest.mark.parametrize("left", [0, 1, None])
def test_votes_that_were_removed_from_the_file_count_no_more_and_the_next_one_is_whole(
    tmp_path: Path, left: int | None
) -> None:
    path = tmp_path / "votes.jsonl"
    ballots = Ballots(path, "sharp")
    for pair in (("a", "b"), ("c", "d")):
        ballots.add(Vote("Ann", *pair, "left"))
    if left is None:
        path.unlink()
    else:
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:left]))
    ballots.add(Vote("Ann", "e", "f", "left"))
    wanted = ["a", "e"] if left else ["e"]
    assert [vote.left for vote in ballots.votes] == wanted
    assert [vote.left for vote in Ballots(path, "sharp").votes] == wanted


def test_several_may_add_at_once(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"

    def add(name: str) -> None:
        ballots = Ballots(path, "sharp")
        for number in range(20):
            ballots.add(Vote(name, f"a{number}", f"b{number}", "left"))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, ["Ann", "Bo", "Cy", "Di"]))
    assert Counter(vote.voter for vote in Ballots(path, "sharp").votes) == dict.fromkeys(["Ann", "Bo", "Cy", "Di"], 20)


def test_no_vote_that_was_acknowledged_is_lost_by_a_kill(tmp_path: Path) -> None:
    path, sure = tmp_path / "votes.jsonl", 0
    for name, until in (("Ann", 3), ("Bo", 40)):
        with subprocess.Popen([sys.executable, "-c", ADDS, str(path), name], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if int(line) == until:
                    os.kill(process.pid, signal.SIGKILL)
                    break
        sure += until + 1
        ballots = Ballots(path, "sharp")
        assert len(ballots.votes) >= sure and len(ballots.of(name)) >= until + 1


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ballots = Ballots(tmp_path / "folder/votes.jsonl", "sharp")
    (tmp_path / "folder").symlink_to(tmp_path / "file")
    with pytest.raises(MutoscopeError, match=r"cannot write .*folder/votes.jsonl"):
        ballots.add(Vote("Ann", "a", "b", "left"))


# ---- pairs -----------------------------------------------------------------------------------------------------------


def drawn(tmp_path: Path, count: int, clips: int = 50, voters: tuple[str, ...] = ("Ann",)) -> list[tuple[str, str]]:
    bins = bins_of({f"c{i:03d}": float(i) for i in range(clips)}, 5)
    ballots = Ballots(tmp_path / "votes.jsonl", "sharp")
    draw, pairs = Draw(bins, ballots, random.Random(5)), []
    for number in range(count):
        voter = voters[number % len(voters)]
        pair = draw.pair(voter)
        if pair is not None:
            pairs.append(pair)
            ballots.add(Vote(voter, *pair, "equal"))
    return pairs


def test_bins_meet_equally_often_and_clips_and_sides_are_mixed(tmp_path: Path) -> None:
    pairs = drawn(tmp_path, 100)
    met = Counter(frozenset(int(clip[1:]) // 10 for clip in pair) for pair in pairs)
    assert set(met.values()) == {10} and len(met) == 10 and all(len(bins) == 2 for bins in met)
    shown = Counter(clip for pair in pairs for clip in pair)
    assert len(shown) == 50 and max(shown.values()) <= 8
    assert 30 < sum(left < right for left, right in pairs) < 70


def test_nobody_sees_a_pair_twice_and_all_pairs_are_seen_in_the_end(tmp_path: Path) -> None:
    pairs = drawn(tmp_path, 30, clips=5)
    assert len({frozenset(pair) for pair in pairs}) == len(pairs) == 10
    both = drawn(tmp_path / "two", 40, clips=5, voters=("Ann", "Bo"))
    assert len(both) == 20  # each of them sees all ten


def test_a_pair_under_way_and_a_clip_that_cannot_be_shown_are_not_drawn(tmp_path: Path) -> None:
    bins = bins_of({f"c{i}": float(i) for i in range(4)}, 2)
    draw = Draw(bins, Ballots(tmp_path / "votes.jsonl", "sharp"), random.Random(0))
    draw.leave_out("c0")
    assert {frozenset(draw.pair("Ann") or ()) for _ in range(30)} == {frozenset(["c1", "c2"]), frozenset(["c1", "c3"])}
    assert {frozenset(draw.pair("Ann", frozenset(["c1", "c2"])) or ()) for _ in range(9)} == {frozenset(["c1", "c3"])}
    draw.leave_out("c1")
    assert draw.pair("Ann") is None
