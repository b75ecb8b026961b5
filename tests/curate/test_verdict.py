"""People whose preference is known lead to the limit that they want, and people without one to none."""

import math
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="needs the extra curate")

from mutoscope.curate.filter import Threshold
from mutoscope.curate.verdict import Outcomes, Verdict, bradley_terry, elo, share_won
from mutoscope.curate.vote import Ballots, Candidates, Draw, Vote, Winner, bins_of

VALUES = {f"c{i:03d}": i / 100 for i in range(100)}
Prefers = Callable[[float, float, random.Random], Winner]


class Memory(Ballots):
    """Votes that are not written down."""

    def __init__(self) -> None:
        self._votes = {}

    def add(self, vote: Vote) -> None:
        self._votes[vote.key] = vote


def good(is_good: Callable[[float], bool], certainty: float = 0.85) -> Prefers:
    """Prefer what is good to what is not, nearly always; have no opinion on two of a kind."""

    def prefer(left: float, right: float, chance: random.Random) -> Winner:
        if is_good(left) == is_good(right):
            return chance.choice(["left", "right", "equal"])
        return "left" if is_good(left) == (chance.random() < certainty) else "right"

    return prefer


def at_random(left: float, right: float, chance: random.Random) -> Winner:
    return chance.choice(["left", "right", "equal"])


def polled(
    prefers: Prefers, votes: int, seed: int = 0, bins: int = 5, limit: dict | None = None, column: str = "sharp"
) -> Verdict:
    """Let three people vote on pairs of two bins."""
    candidates = Candidates(column, VALUES, dict.fromkeys(VALUES, ("s", 0, 10)), limit)
    parts, ballots, chance = bins_of(VALUES, bins), Memory(), random.Random(seed)
    while len(ballots.votes) < votes:
        one, other = chance.sample(parts, 2)
        left, right = chance.choice(one.clips), chance.choice(other.clips)
        ballots.add(Vote(f"voter {chance.randrange(3)}", left, right, prefers(VALUES[left], VALUES[right], chance)))
    return Verdict.of(candidates, parts, ballots)


@pytest.mark.parametrize(
    ("is_good", "at_least", "at_most"),
    [
        (lambda value: value >= 0.2, 0.2, None),
        (lambda value: value >= 0.4, 0.4, None),
        (lambda value: value < 0.6, None, 0.59),
        (lambda value: 0.2 <= value < 0.8, 0.2, 0.795),  # the number with the fewest digits from 0.79 to below 0.8
    ],
)
def test_people_who_know_what_they_want_get_that_limit(is_good, at_least: float | None, at_most: float | None) -> None:
    verdict = polled(good(is_good), 200)
    assert (verdict.at_least, verdict.at_most) == (at_least, at_most)
    limit = Threshold("sharp", at_least=verdict.at_least, at_most=verdict.at_most)
    assert all(is_good(value) != bool(limit.refusal(value)) for value in VALUES.values())


def test_from_the_first_pair_to_the_limit(tmp_path: Path) -> None:
    parts, ballots, chance = bins_of(VALUES, 5), Ballots(tmp_path / "votes.jsonl", "sharp"), random.Random(7)
    draw, prefers = Draw(parts, ballots, chance), good(lambda value: value >= 0.4)
    for _ in range(150):
        pair = draw.pair("Ann")
        assert pair is not None
        ballots.add(Vote("Ann", *pair, prefers(VALUES[pair[0]], VALUES[pair[1]], chance)))
    verdict = Verdict.of(Candidates("sharp", VALUES, {}), parts, Ballots(ballots.path, "sharp"))
    assert (verdict.at_least, verdict.at_most) == (0.4, None)


def test_people_without_a_preference_seldom_get_a_limit() -> None:
    wrong = [polled(at_random, 100, seed).cuts != (0, 0) for seed in range(40)]
    assert sum(wrong) <= 5  # 5 % of 40 are 2 at most in the mean; more than 5 come by chance once in 100 times
    verdict = polled(at_random, 100)
    assert verdict.line() == "" and "No limit" in "\n".join(verdict.lines())


def test_a_few_votes_make_no_limit_even_where_all_agree() -> None:
    assert polled(good(lambda value: value >= 0.2, certainty=1), 10).cuts == (0, 0)
    assert polled(good(lambda value: value >= 0.2, certainty=1), 0).lines()[-1] == "There is nothing to report yet."


def test_no_more_than_half_of_the_clips_are_left_out() -> None:
    steady = polled(lambda left, right, chance: "left" if left > right else "right", 300)
    assert steady.cuts == (2, 0)  # each bin loses to those above it; two of five are 40 %
    assert polled(lambda left, right, chance: "left" if left > right else "right", 100, bins=2).cuts == (1, 0)


def test_the_line_for_the_recipe_is_the_limit_that_measured_the_score_with_the_number_found() -> None:
    prefers = good(lambda value: value >= 0.4)
    assert polled(prefers, 200).line() == 'Threshold("sharp", at_least=0.4, name="sharp")'
    made = {"type": "Threshold", "column": "focus", "reduce": "p95", "at_least": 0.1, "at_most": None, "unit": "px"}
    made |= {"better": "higher", "images": False, "name": ""}
    line = polled(prefers, 200, limit=made, column="focus_p95").line()
    assert line == 'Threshold("focus", "p95", at_least=0.4, unit="px", better="higher", images=False)'
    assert eval(line, {"Threshold": Threshold}) == Threshold(
        "focus", "p95", at_least=0.4, unit="px", better="higher", images=False
    )
    fact = made | {"column": "duration_s", "reduce": "mean"}
    assert polled(prefers, 200, limit=fact, column="duration_s").line().startswith('Threshold("duration_s", at_least=')


def test_the_report_names_bins_ratings_and_the_line(tmp_path: Path) -> None:
    verdict = polled(good(lambda value: value >= 0.4), 200)
    lines = verdict.lines()
    assert lines[0] == "sharp: 200 votes by 3 people, 100 clips in 5 bins" and lines[-1].strip() == verdict.line()
    table = lines[2:8]
    assert all(word in table[0] for word in ("sharp", "preferred", "Elo", "Bradley-Terry"))
    assert [line.strip().startswith("-") for line in table[1:]] == [True, True, False, False, False]
    assert len({line.index("[") for line in table[1:]}) == 1


def test_elo_of_one_vote_is_what_its_definition_gives() -> None:
    one = Outcomes(np.array([0]), np.array([1]), np.array([1.0]))
    first, second = elo(one, 2)
    assert (first.value, second.value, first.low, first.high) == (1000.5, 999.5, 1000.5, 1000.5)
    rated = elo(Outcomes(np.array([0] * 9), np.array([1] * 9), np.array([1.0] * 9)), 2)
    expected = [1000.0, 1000.0]
    for _ in range(9):
        gain = 1 - 1 / (1 + 10 ** ((expected[1] - expected[0]) / 400))
        expected = [expected[0] + gain, expected[1] - gain]
    assert np.allclose([one.value for one in rated], expected)


def test_strengths_are_those_that_the_votes_were_drawn_from() -> None:
    chance, truth = np.random.default_rng(1), np.array([-1.0, -0.2, 0.3, 0.9])
    left, right = chance.integers(4, size=6000), chance.integers(4, size=6000)
    apart = left != right
    left, right = left[apart], right[apart]
    worth = (chance.random(len(left)) < 1 / (1 + np.exp(truth[right] - truth[left]))).astype(float)
    found = bradley_terry(Outcomes(left, right, worth), 4)
    points = 1000 + 400 / math.log(10) * truth
    assert all(abs(one.value - point) < 20 for one, point in zip(found, points, strict=True))
    assert all(one.low - 5 < point < one.high + 5 for one, point in zip(found, points, strict=True))
    assert abs(sum(one.value for one in found) - 4000) < 1e-6


def test_strengths_of_a_bin_that_never_wins_are_finite() -> None:
    found = bradley_terry(Outcomes(np.zeros(50, int), np.ones(50, int), np.zeros(50)), 2)
    assert found[0].value < 700 and math.isfinite(found[0].low)
    none = Outcomes(np.empty(0, int), np.empty(0, int), np.empty(0))
    assert [one.value for one in bradley_terry(none, 3)] == [1000.0] * 3


def test_the_interval_of_a_share_is_that_of_clopper_and_pearson() -> None:
    share = share_won(0, 5)
    assert (share.value, share.low) == (0, 0) and math.isclose(share.high, 1 - 0.025 ** (1 / 5), abs_tol=1e-9)
    share = share_won(20, 20)
    assert share.high == 1 and math.isclose(share.low, 0.025 ** (1 / 20), abs_tol=1e-9)
    share = share_won(8, 10)  # published tables: 0.4439 to 0.9748
    assert math.isclose(share.low, 0.4439, abs_tol=5e-5) and math.isclose(share.high, 0.9748, abs_tol=5e-5)
    assert (share_won(0, 0).low, share_won(0, 0).high) == (0, 1)
    half, more = share_won(7.5, 10), share_won(8, 10)
    assert half.high == more.high and half.low == share_won(7, 10).low
    large = share_won(2500, 5000)
    assert 0.485 < large.low < 0.5 < large.high < 0.515


def test_votes_between_clips_of_one_bin_or_on_clips_that_are_gone_do_not_count() -> None:
    candidates = Candidates("sharp", VALUES, {})
    parts, ballots = bins_of(VALUES, 5), Memory()
    for left, right in (("c000", "c001"), ("gone", "c001"), ("c000", "c099")):
        ballots.add(Vote("Ann", left, right, "left"))
    verdict = Verdict.of(candidates, parts, ballots)
    assert (len(verdict.outcomes), verdict.lost, verdict.voters) == (1, 1, 1)
    assert "1 vote on clips that are no longer in the set are left out" in verdict.lines()
