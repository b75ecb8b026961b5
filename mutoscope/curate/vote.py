"""Choose a limit by votes: people say which of two clips they would rather have, and bins of a score are compared.

    clips ── a score ──> bins ── pairs from two bins ── people ──> votes.jsonl ──> curate/verdict.py

Stable Video Diffusion chose its limits so: it left out 12.5, 25 and 50 % by a score, trained a small model on each rest
and had people compare their videos. Training many models is dear, so here the clips themselves are compared.
"""

import errno
import json
import math
import os
import random
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mutoscope.core.errors import MediaError, MutoscopeError, RequestError
from mutoscope.curate.filter import Threshold
from mutoscope.curate.stage import CLIPS

Winner = Literal["left", "right", "equal"]
WINNERS: tuple[Winner, ...] = ("left", "right", "equal")


# ---- what is voted on ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidates:
    """The clips that are voted on.

    Args:
        column: the score.
        values: of the score, by clip.
        places: of each clip: id of its source, first frame, frame after the last.
        limit: the `Threshold` of the recipe that measured the score, as JSON, None where another stage did.
    """

    column: str
    values: Mapping[str, float]
    places: Mapping[str, tuple[str, int, int]]
    limit: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, folder: Path, column: str) -> "Candidates":
        """Read them from a data set: clips that are kept, and those that only a limit on this score dropped.

        Where there are videos, pictures are left out.

        Raises:
            MediaError: the folder is no data set.
            RequestError: it has no such score, or fewer than two clips have it.
        """
        try:
            table = pq.read_table(folder / "clips.parquet")
            recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise MediaError(f"{folder} is no data set. Make one: mutoscope curate SOURCE --out {folder}") from error
        kinds = {item.name: item.type for item in table.schema if item.name not in CLIPS.names}
        scores = [name for name, kind in kinds.items() if pa.types.is_floating(kind) or pa.types.is_integer(kind)]
        if column not in scores:
            raise RequestError(f"{folder} has no score {column!r}. Choose from {', '.join(scores) or 'none'}.")
        rows = table.select([*CLIPS.names, column]).to_pylist()
        rows = [row for row in rows if row[column] is not None and math.isfinite(row[column])]
        rows = [row for row in rows if not row["dropped_by"] or row["reason"].startswith(f"{column} ")]
        videos = [row for row in rows if row["end"] - row["start"] > 1]
        rows = videos or rows
        if len(rows) < 2:
            raise RequestError(f"{len(rows)} clips of {folder} have the score {column!r}. At least two are needed.")
        places = {row["id"]: (row["source"], row["start"], row["end"]) for row in rows}
        limits = [limit for limit in _limits(recipe) if _score(limit) == column]
        return cls(column, {row["id"]: float(row[column]) for row in rows}, places, limits[0] if limits else None)

    def only(self, clips: Container[str]) -> "Candidates":
        """Return those of the clips that can be shown.

        Raises:
            RequestError: they are fewer than two.
        """
        values = {id: value for id, value in self.values.items() if id in clips}
        if len(values) < 2:
            raise RequestError(
                f"{len(values)} of {len(self.values)} clips can be shown: shards and sources are not where they were."
            )
        return replace(self, values=values, places={id: self.places[id] for id in values})


@dataclass(frozen=True)
class Bin:
    """Clips with neighbouring values.

    Args:
        low: least value.
        high: greatest value.
        clips: their ids.
    """

    low: float
    high: float
    clips: tuple[str, ...]


def bins_of(values: Mapping[str, float], count: int) -> list[Bin]:
    """Sort clips by value and cut them into parts as equal as equal values allow, which stay together.

    Args:
        values: by clip.
        count: how many parts, at least 2. There are fewer where many values are equal.

    Raises:
        RequestError: fewer than 2 are asked for, or nearly all values are equal.
    """
    if count < 2:
        raise RequestError(f"{count} bins were asked for. Give 2 or more.")
    ids = sorted(values, key=lambda id: (values[id], id))
    ordered = np.array([values[id] for id in ids])
    cuts = {0, len(ids)}
    for i in range(1, count):
        at = round(i * len(ids) / count)
        first, last = (
            int(np.searchsorted(ordered, ordered[min(at, len(ids) - 1)], side)) for side in ("left", "right")
        )
        cuts.add(first if at - first <= last - at else last)
    edges = sorted(cuts)
    if len(edges) < 3:
        raise RequestError(
            f"The score is {ordered[len(ids) // 2]:g} for nearly all clips: there is nothing to compare."
        )
    return [
        Bin(float(ordered[start]), float(ordered[end - 1]), tuple(ids[start:end])) for start, end in pairwise(edges)
    ]


def _limits(data: Any) -> Iterator[dict[str, Any]]:
    """Yield every `Threshold` in the JSON of a recipe."""
    if isinstance(data, dict):
        if data.get("type") == "Threshold":
            yield data
        data = list(data.values())
    if isinstance(data, list):
        for item in data:
            yield from _limits(item)


def _score(limit: Mapping[str, Any]) -> str:
    return Threshold(limit["column"], limit["reduce"], name=limit["name"]).score


# ---- votes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Vote:
    """What one person said of two clips.

    Args:
        voter: their name.
        left: id of the clip on the left.
        right: id of the clip on the right.
        winner: which is better.
    """

    voter: str
    left: str
    right: str
    winner: Winner

    @property
    def key(self) -> tuple[str, frozenset[str]]:
        """Return what a person can have one opinion on."""
        return _key(self.voter, self.left, self.right)


def _key(voter: str, left: str, right: str) -> tuple[str, frozenset[str]]:
    return voter, frozenset((left, right))


class Ballots:
    """The votes on one score, in a file of JSON lines that is only ever added to; any number of processes may do so.

    A line is on the disk before `add` returns; one that a kill cut short is taken off by the next one that is added. A
    person who votes on a pair again has changed their mind: the last vote counts. Votes on other scores may stand in
    the same file. Lines may also be removed while it is open: what stands in it counts.

    Args:
        path: of the file; it need not be there.
        column: the score.

    Raises:
        MutoscopeError: the file cannot be read or written, or a line is damaged.
    """

    def __init__(self, path: Path, column: str) -> None:
        self.path, self.column = path, column
        self._votes: dict[tuple[str, frozenset[str]], Vote] = {}
        self._read_to = self._lines = 0
        self.refresh()

    @property
    def votes(self) -> list[Vote]:
        """Return the votes that count, in the order in which they were given."""
        return list(self._votes.values())

    def of(self, voter: str) -> list[Vote]:
        """Return the votes of one person."""
        return [vote for vote in self._votes.values() if vote.voter == voter]

    def add(self, vote: Vote) -> None:
        """Write down a vote."""
        winner = {"left": vote.left, "right": vote.right, "winner": vote.winner}
        self._append({"voter": vote.voter, "column": self.column, **winner})

    def undo(self, voter: str) -> Vote | None:
        """Take back the last vote of a person; return it, None where there is none."""
        self.refresh()
        mine = self.of(voter)
        if not mine:
            return None
        taken = {"left": mine[-1].left, "right": mine[-1].right, "winner": "undone"}
        self._append({"voter": voter, "column": self.column, **taken})
        return mine[-1]

    def refresh(self) -> None:
        """Read what has been added to the file, by whomever."""
        try:
            with self.path.open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._read_to:
                    self._forget()
                file.seek(self._read_to)
                added = file.read()
        except FileNotFoundError:
            self._forget()
            return
        except OSError as error:
            raise MutoscopeError(f"cannot read {self.path}: {error.strerror}. Give another file: --votes.") from error
        whole = added[: added.rfind(b"\n") + 1]
        for line in whole.splitlines(keepends=True):
            self._take(line)  # before it counts as read, so that a damaged one is named until it is removed
            self._lines += 1
            self._read_to += len(line)

    def _forget(self) -> None:
        """Begin anew, where lines were removed."""
        self._votes.clear()
        self._read_to = self._lines = 0

    def _take(self, line: bytes) -> None:
        try:
            row = json.loads(line)
            if row["column"] != self.column:
                return
            voter, left, right, winner = (str(row[name]) for name in ("voter", "left", "right", "winner"))
        except (ValueError, LookupError, TypeError) as error:
            raise MutoscopeError(f"line {self._lines + 1} of {self.path} is no vote. Remove it, and go on.") from error
        self._votes.pop(_key(voter, left, right), None)  # a vote that is changed is the last one that was given
        for known in WINNERS:
            if winner == known:  # else it was taken back
                self._votes[_key(voter, left, right)] = Vote(voter, left, right, known)

    def _append(self, row: Mapping[str, Any]) -> None:
        at = datetime.now(UTC).isoformat(timespec="seconds")
        line = json.dumps({**row, "at": at}, ensure_ascii=False).encode() + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                with _locked(file):
                    self.refresh()
                    os.ftruncate(file, self._read_to)  # takes off a line cut short; with the lock, nobody else writes
                    if os.write(file, line) < len(line):
                        os.ftruncate(file, self._read_to)
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    os.fsync(file)
                self.refresh()
            finally:
                os.close(file)
        except OSError as error:
            raise MutoscopeError(f"cannot write {self.path}: {error.strerror}. Free some space there.") from error


@contextmanager
def _locked(file: int) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows has none; there, one process at a time
        yield
        return
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


# ---- pairs -----------------------------------------------------------------------------------------------------------


class Draw:
    """Says which two clips a person is asked about next: of the two bins, and of their clips, least asked about so far.

    Args:
        bins: of the score.
        ballots: what was voted so far.
        chance: decides where nothing else does, and which clip is on the left.
    """

    TRIES = 50

    def __init__(self, bins: Sequence[Bin], ballots: Ballots, chance: random.Random) -> None:
        self._bins, self._ballots, self._chance = bins, ballots, chance
        self._bin_of = bin_of(bins)
        self._unusable: set[str] = set()

    def leave_out(self, clip: str) -> None:
        """Ask about a clip no more."""
        self._unusable.add(clip)

    def pair(self, voter: str, besides: frozenset[str] = frozenset()) -> tuple[str, str] | None:
        """Return the clips to show on the left and on the right; None where the person has seen all pairs.

        Args:
            voter: the person.
            besides: a pair that is under way and has no vote yet.
        """
        votes = self._ballots.votes
        seen = {vote.key[1] for vote in votes if vote.voter == voter} | {besides}
        shown = Counter(id for vote in votes for id in (vote.left, vote.right))
        asked = Counter(self._bins_between(vote.left, vote.right) for vote in votes)
        asked[self._bins_between(*besides) if len(besides) == 2 else frozenset()] += 1
        pairs = list(combinations(range(len(self._bins)), 2))
        self._chance.shuffle(pairs)
        for one, other in sorted(pairs, key=lambda pair: asked[frozenset(pair)]):
            found = self._between(self._usable(one), self._usable(other), shown, seen)
            if found:
                return found if self._chance.random() < 0.5 else (found[1], found[0])
        return None

    def _usable(self, number: int) -> list[str]:
        return [id for id in self._bins[number].clips if id not in self._unusable]

    def _bins_between(self, *clips: str) -> frozenset[int]:
        return frozenset(self._bin_of[clip] for clip in clips if clip in self._bin_of)

    def _between(
        self, some: Sequence[str], others: Sequence[str], shown: Counter[str], seen: set[frozenset[str]]
    ) -> tuple[str, str] | None:
        """Choose a pair from two bins; look at all of them only where a few tries find none."""
        if not some or not others:
            return None
        for _ in range(self.TRIES):
            pair = self._fresh(some, shown), self._fresh(others, shown)
            if frozenset(pair) not in seen:
                return pair
        left = [(one, other) for one in some for other in others if frozenset((one, other)) not in seen]
        return self._chance.choice(left) if left else None

    def _fresh(self, clips: Sequence[str], shown: Counter[str]) -> str:
        few = self._chance.choices(clips, k=8)
        return min(few, key=lambda id: shown[id])


def bin_of(bins: Sequence[Bin]) -> dict[str, int]:
    """Return the number of the bin of each clip."""
    return {clip: number for number, one in enumerate(bins) for clip in one.clips}
