"""What votes on pairs of clips say of a score: ratings of its bins, and the limit that people want.

    votes ──> wins between bins ──> Elo, Bradley-Terry, shares won ──> Threshold(...), or none

Elo is computed as Stable Video Diffusion did: K = 1, from 1000, over 1000 resamples of the votes. Beside it stands the
model of Bradley & Terry (1952), fitted by maximum likelihood, which does not depend on the order of the votes.

A limit is recommended where it is certain: beginning at an end of the score, bin by bin, as long as people prefer what
lies further in to the bin (exact sign test, at 2.5 % for each end). As each bin is tested only after those outside it
passed, a limit is recommended wrongly, where there is no preference, in at most 5 % of all cases.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from mutoscope.curate.filter import FACTS
from mutoscope.curate.vote import Ballots, Bin, Candidates, Vote, bin_of

WORTH = {"left": 1.0, "equal": 0.5, "right": 0.0}  # to the clip on the left
ELO_K, ELO_START, RESAMPLES = 1.0, 1000.0, 1000  # as Stable Video Diffusion did
POINTS = 400 / math.log(10)  # of Elo to one of the natural logarithm of the odds
LEVEL = 0.025  # of the test at each end of the score
MOST = 0.5  # of the clips that a limit may leave out at an end; Stable Video Diffusion tried no more
FEW = 10  # clips of a bin, below which their votes say more of these clips than of the score


@dataclass(frozen=True)
class Outcomes:
    """Votes as numbers: the bin on the left, the bin on the right, and what the left one got, 0, 0.5 or 1."""

    left: Int64[np.ndarray, " n"]
    right: Int64[np.ndarray, " n"]
    worth: Float64[np.ndarray, " n"]

    @classmethod
    def of(cls, votes: Sequence[Vote], bins: Sequence[Bin]) -> "Outcomes":
        """Take the votes between clips of two bins."""
        number = bin_of(bins)
        inside = [vote for vote in votes if vote.left in number and vote.right in number]
        rows = [(number[vote.left], number[vote.right], WORTH[vote.winner]) for vote in inside]
        rows = [row for row in rows if row[0] != row[1]]
        left, right, worth = zip(*rows, strict=True) if rows else ((), (), ())
        return cls(np.array(left, np.int64), np.array(right, np.int64), np.array(worth, np.float64))

    def __len__(self) -> int:
        return len(self.worth)

    def wins(self, count: int) -> Float64[np.ndarray, "bins bins"]:
        """Return how often the bin of the row was preferred to that of the column; a vote for neither is half a one."""
        table = np.zeros((count, count))
        np.add.at(table, (self.left, self.right), self.worth)
        np.add.at(table, (self.right, self.left), 1 - self.worth)
        return table


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


def elo(outcomes: Outcomes, count: int, seed: int = 0) -> list[Estimate]:
    """Rate bins by Elo, over resamples of the votes, which also are orders of them.

    Args:
        outcomes: the votes.
        count: bins.
        seed: of the resamples.

    Returns:
        The median of each bin, and between what 95 % of the resamples lie.

    Source: the constants are those of Stable Video Diffusion (Blattmann et al. 2023, appendix E).
    """
    chance, every = np.random.default_rng([1978, seed]), np.arange(RESAMPLES)
    ratings = np.full((RESAMPLES, count), ELO_START)
    for _ in range(len(outcomes)):
        drawn = chance.integers(len(outcomes), size=RESAMPLES)
        left, right = outcomes.left[drawn], outcomes.right[drawn]
        expected = 1 / (1 + 10 ** ((ratings[every, right] - ratings[every, left]) / 400))
        change = ELO_K * (outcomes.worth[drawn] - expected)
        ratings[every, left] += change
        ratings[every, right] -= change
    return _estimates(ratings, np.median(ratings, axis=0))


def bradley_terry(outcomes: Outcomes, count: int, seed: int = 0) -> list[Estimate]:
    """Fit strengths to votes: the odds that bin i is preferred to bin j are exp(s_i - s_j).

    One vote for neither between all two bins is added, so that also a bin that always loses has a strength.

    Args:
        outcomes: the votes.
        count: bins.
        seed: of the resamples.

    Returns:
        Strengths in points of Elo, with mean 1000, and 95 % intervals over resamples of the votes.

    Source: Bradley & Terry 1952; ties as half a win each.
    """
    chance = np.random.default_rng([1952, seed])
    tables = np.empty((RESAMPLES + 1, count, count))
    tables[0] = outcomes.wins(count)
    for number in range(1, RESAMPLES + 1):
        drawn = chance.integers(len(outcomes), size=len(outcomes)) if len(outcomes) else np.empty(0, np.int64)
        tables[number] = Outcomes(outcomes.left[drawn], outcomes.right[drawn], outcomes.worth[drawn]).wins(count)
    points = ELO_START + POINTS * _strengths(tables)
    return _estimates(points[1:], points[0])


def _strengths(wins: Float64[np.ndarray, "r bins bins"]) -> Float64[np.ndarray, "r bins"]:
    """Find where the likelihood is greatest, by Newton's method, for many tables of wins at once."""
    count = wins.shape[1]
    wins = wins + 0.5 * (1 - np.eye(count))
    games = wins + wins.transpose(0, 2, 1)
    strengths = np.zeros(wins.shape[:2])
    for _ in range(50):
        chance = 1 / (1 + np.exp(strengths[:, None, :] - strengths[:, :, None]))
        slope = (wins - games * chance).sum(axis=2)
        curve = games * chance * (1 - chance)
        # Only differences count, so the sum of all strengths is held at nought by adding one to each entry.
        matrix = np.eye(count) * curve.sum(axis=2)[:, :, None] - curve + 1.0
        step = np.linalg.solve(matrix, slope[:, :, None])[:, :, 0].clip(-2, 2)
        strengths += step
        if np.abs(step).max() < 1e-9:
            break
    return strengths


def _estimates(draws: Float64[np.ndarray, "r bins"], values: Float64[np.ndarray, " bins"]) -> list[Estimate]:
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    return [Estimate(*numbers) for numbers in zip(values.tolist(), low.tolist(), high.tolist(), strict=True)]


def share_won(wins: float, votes: float) -> Estimate:
    """Return a share with its 95 % interval (Clopper & Pearson 1934).

    Args:
        wins: of the votes. A half, from a vote for neither, widens the interval to both sides.
        votes: in all; of none nothing is known.
    """
    total = round(votes)
    if not total:
        return Estimate(0.5, 0.0, 1.0)
    least, most = math.floor(wins), math.ceil(wins)
    low = _where(lambda p: 1 - _at_most(least - 1, total, p) > LEVEL) if least > 0 else 0.0
    high = _where(lambda p: _at_most(most, total, p) < LEVEL) if most < total else 1.0
    return Estimate(wins / total, low, high)


def _at_most(wins: int, votes: int, p: float) -> float:
    """Return the chance of so many wins or fewer, each with chance p."""
    k = np.arange(wins + 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, votes + 1)))])
    ways = logs[votes] - logs[k] - logs[votes - k]
    return float(np.exp(ways + k * math.log(p) + (votes - k) * math.log1p(-p)).sum())


def _where(becomes_true: Callable[[float], bool]) -> float:
    """Return from where on in (0, 1) something is true."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if becomes_true(middle) else (middle, high)
    return high


@dataclass(frozen=True)
class Verdict:
    """What the votes say of a score.

    Args:
        candidates: the clips.
        bins: of the score, lowest first.
        outcomes: the votes.
        voters: how many people gave them.
        lost: votes on clips that are no longer in the set.
    """

    candidates: Candidates
    bins: Sequence[Bin]
    outcomes: Outcomes
    voters: int
    lost: int

    @classmethod
    def of(cls, candidates: Candidates, bins: Sequence[Bin], ballots: Ballots) -> "Verdict":
        """Count the votes."""
        votes = ballots.votes
        lost = sum(vote.left not in candidates.values or vote.right not in candidates.values for vote in votes)
        return cls(candidates, bins, Outcomes.of(votes, bins), len({vote.voter for vote in votes}), lost)

    @cached_property
    def wins(self) -> Float64[np.ndarray, "bins bins"]:
        """Return how often the bin of the row was preferred to that of the column."""
        return self.outcomes.wins(len(self.bins))

    def against(self, one: int, others: Sequence[int]) -> Estimate:
        """Return the share of the votes that a bin won against some others."""
        won, lost = self.wins[one, others].sum(), self.wins[others, one].sum()
        return share_won(float(won), float(won + lost))

    @cached_property
    def cuts(self) -> tuple[int, int]:
        """Return how many bins to leave out at the low end, and at the high end."""
        numbers = list(range(len(self.bins)))
        low = self._cut(numbers)
        high = self._cut(numbers[low:][::-1])
        return low, high

    def _cut(self, numbers: Sequence[int]) -> int:
        """Return how many of these bins to leave out, from the first on."""
        may_go = MOST * len(self.candidates.values)
        for cut, number in enumerate(numbers):
            may_go -= len(self.bins[number].clips)
            rest = numbers[cut + 1 :]
            if may_go < 0 or not rest or self.against(number, rest).high >= 0.5:
                return cut
        return len(numbers)

    @property
    def at_least(self) -> float | None:
        """Return the limit at the low end, None where there is to be none."""
        cut = self.cuts[0]
        if not cut:
            return None
        low, high = self.bins[cut - 1].high, self.bins[cut].low
        return _between(low, high, high)

    @property
    def at_most(self) -> float | None:
        """Return the limit at the high end, None where there is to be none."""
        cut = len(self.bins) - self.cuts[1]
        if not self.cuts[1]:
            return None
        low, high = self.bins[cut - 1].high, self.bins[cut].low
        return _between(low, high, low)

    def line(self) -> str:
        """Return the limit as it stands in a recipe, "" where none is to be set."""
        found = {"at_least": self.at_least, "at_most": self.at_most}
        found = {side: value for side, value in found.items() if value is not None}
        if not found:
            return ""
        name = self.candidates.column
        limit = {**(self.candidates.limit or {"column": name, "name": name}), **found}
        if "reduce" in limit and limit["column"] in FACTS:
            del limit["reduce"]
        order = ["at_least", "at_most", "unit", "better", "images", "name"]
        usual = {"at_least": None, "at_most": None, "unit": "", "better": "neither", "images": True, "name": ""}
        parts = [json.dumps(limit[key]) for key in ("column", "reduce") if key in limit]
        parts += [f"{key}={_spelt(limit[key])}" for key in order if limit.get(key, usual[key]) != usual[key]]
        return f"Threshold({', '.join(parts)})"

    def lines(self) -> list[str]:
        """Return the report."""
        clips, count = len(self.candidates.values), len(self.outcomes)
        head = f"{self.candidates.column}: {_many(count, 'vote')} by {_many(self.voters, 'person', 'people')}, "
        lines = [head + f"{_many(clips, 'clip')} in {_many(len(self.bins), 'bin')}"]
        if self.lost:
            lines.append(f"{_many(self.lost, 'vote')} on clips that are no longer in the set are left out")
        if not count:
            return [*lines, "There is nothing to report yet."]
        lines += ["", *self._table(), ""]
        line = self.line()
        if line:
            low, high = self.cuts
            gone = [*self.bins[:low], *self.bins[len(self.bins) - high :]]
            share = sum(len(one.clips) for one in gone) / clips
            which = f"{_many(len(gone), 'bin')} (marked -), {100 * share:.0f} % of all"
            lines += [f"People prefer the other clips to those of {which}."]
            lines += ["For the recipe:", "", f"    {line}"]
        else:
            lines += ["No limit: at neither end do people prefer the other clips with certainty. More votes may tell."]
        few = min(len(one.clips) for one in self.bins)
        if few < FEW:
            lines += ["", f"A bin has only {_many(few, 'clip')}: its votes tell of these more than of the score."]
        return lines

    def _table(self) -> list[str]:
        number = len(self.bins)
        rows = [("", self.candidates.column, "clips", "votes", "preferred to others", "Elo", "Bradley-Terry")]
        ratings, strengths = elo(self.outcomes, number), bradley_terry(self.outcomes, number)
        out = {*range(self.cuts[0]), *range(number - self.cuts[1], number)}
        for i, one in enumerate(self.bins):
            others = [j for j in range(number) if j != i]
            share = self.against(i, others)
            votes = self.wins[i].sum() + self.wins[:, i].sum()
            rows.append(
                (
                    "-" if i in out else "",
                    f"{one.low:.4g} to {one.high:.4g}",
                    str(len(one.clips)),
                    f"{votes:.0f}",
                    f"{100 * share.value:.0f} % [{100 * share.low:.0f}, {100 * share.high:.0f}]",
                    f"{ratings[i].value:.0f} [{ratings[i].low:.0f}, {ratings[i].high:.0f}]",
                    f"{strengths[i].value:.0f} [{strengths[i].low:.0f}, {strengths[i].high:.0f}]",
                )
            )
        wide = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        return ["  ".join(cell.rjust(width) for cell, width in zip(row, wide, strict=True)).rstrip() for row in rows]


def _between(low: float, high: float, otherwise: float) -> float:
    """Return the number with the fewest digits between two; `otherwise`, which is one of them, parts them as well."""
    for digits in range(1, 18):
        middle = float(f"{(low + high) / 2:.{digits}g}")
        if low < middle < high or middle == otherwise:
            return middle
    return otherwise


def _spelt(value: Any) -> str:
    return json.dumps(value) if isinstance(value, str) else str(value)


def _many(count: int, noun: str, nouns: str = "") -> str:
    return f"{count} {noun if count == 1 else nouns or noun + 's'}"
