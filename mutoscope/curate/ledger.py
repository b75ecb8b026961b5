"""A file that remembers results that were dear to get, and the work that fills it.

views ── work, several at once ──> a line per clip, appended: its result, or the reason why there is none
"""

import errno
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from mutoscope.core.chat import in_parallel
from mutoscope.core.errors import ChatError, MediaError, MutoscopeError
from mutoscope.curate.ask import BadAnswer


@runtime_checkable
class Clip(Protocol):
    """Anything with an id."""

    @property
    def id(self) -> str:
        """Name of the clip, unique in the ledger."""
        ...


V = TypeVar("V", bound=Clip)

PATIENCE = 8  # clips in a row that the server leaves unanswered before the run stops


class Ledger:
    """Results that were dear to get, one JSON line each, keyed by clip and by settings; none is asked for again.

    A line is written at once or, where a kill cut it short, taken off when the file is next opened. Only one process
    can have it open.

        {"settings": "9f...", "means": {...}}                                   what the settings were, once
        {"clip": "...", "settings": "9f...", "result": {...}, "reason": ""}     a result
        {"clip": "...", "settings": "9f...", "result": null, "reason": "..."}   a drop

    Raises:
        MutoscopeError: the file cannot be written, is another process's, or is damaged in the middle.
    """

    def __init__(self, path: str | Path) -> None:
        import fcntl  # Windows has none; the rest of this module is of use there

        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise MutoscopeError(f"cannot write {path}: {error.strerror}. Name another file.") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise MutoscopeError(f"{path} is being written by another process. Wait for it.") from error
        try:
            whole = _end_of_last_line(self.path)
            if whole < os.fstat(self._file).st_size:
                os.ftruncate(self._file, whole)
            self._done = {(row.get("clip"), row["settings"]) for row in read_ledger(self.path)}
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def holds(self, clip: str, settings: str) -> bool:
        """Say whether there is a result, or a drop, of a clip with these settings."""
        return (clip, settings) in self._done

    def note(self, settings: str, means: Mapping[str, Any]) -> None:
        """Write down what settings mean, once."""
        if (None, settings) not in self._done:
            self._append({"settings": settings, "means": means})
            self._done.add((None, settings))

    def write(self, clip: str, settings: str, result: Mapping[str, Any] | None, reason: str = "") -> None:
        """Append a result, or a drop with its reason.

        Raises:
            MutoscopeError: there is no space.
        """
        self._append({"clip": clip, "settings": settings, "result": result, "reason": reason})
        self._done.add((clip, settings))

    def _append(self, row: Mapping[str, Any]) -> None:
        line = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode(errors="replace") + b"\n"
        before = os.fstat(self._file).st_size
        try:
            if os.write(self._file, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            os.ftruncate(self._file, before)
            raise MutoscopeError(f"cannot write {self.path}: {error.strerror}. Free some space and resume.") from error


def _end_of_last_line(path: Path) -> int:
    """Return where the last whole line ends."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - 2**16)
            file.seek(start)
            at = file.read(end - start).rfind(b"\n")
            if at >= 0:
                return start + at + 1
            end = start
    return 0


def read_ledger(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a ledger; a last one that was cut short is left out.

    Raises:
        MutoscopeError: a line is damaged.
    """
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                row = json.loads(line)
                row["settings"]
            except (ValueError, LookupError, TypeError) as error:
                raise MutoscopeError(f"line {number} of {path} is damaged. Remove it, and resume.") from error
            yield row


def read_results(path: str | Path, settings: str | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield clip and result of a ledger, drops left out; `settings` where it holds results of several."""
    for row in read_ledger(path):
        if row.get("result") is not None and settings in (None, row["settings"]):
            yield row["clip"], row["result"]


@dataclass(frozen=True)
class Tally:
    """What became of the clips: results and drops of this run, clips done before, and clips left unanswered."""

    settings: str
    results: int
    drops: int
    earlier: int
    unanswered: int


def work_through(
    clips: Iterable[V],
    work: Callable[[V], Mapping[str, Any]],
    ledger: Ledger,
    means: Mapping[str, Any],
    at_once: int,
    tries: Mapping[str, Any] | None = None,
) -> Tally:
    """Do some work on each clip that the ledger does not hold, several at once, and write down what comes out.

    A clip whose answers or frames cannot be used is a drop. A clip that the server left unanswered, or whose frames
    could not be had now, is not written down: it is done by the next run. When too many are left in a row, it stops.

    Args:
        clips: fetched as they are needed.
        work: what to do.
        ledger: where results go.
        means: all that results depend on, ready for JSON; its hash is the settings' key.
        at_once: clips under way.
        tries: what only drops depend on, such as the number of attempts: with another one drops are tried again, and
            results stay.

    Raises:
        ChatError: the server is gone, or no request can succeed.
        OSError: frames of too many clips in a row could not be had.
    """
    settings, of_drops = fingerprint(means), fingerprint({**means, **(tries or {})})
    ledger.note(settings, means)
    counts, seen = Counter[str](), set[str]()

    def remaining() -> Iterator[V]:
        for clip in clips:
            if clip.id in seen or ledger.holds(clip.id, settings) or ledger.holds(clip.id, of_drops):
                counts["earlier"] += 1
            else:
                seen.add(clip.id)
                yield clip

    def attempt(clip: V) -> Mapping[str, Any] | MutoscopeError | OSError:
        try:
            return work(clip)
        except (BadAnswer, MediaError, ChatError, OSError) as error:
            return error

    in_a_row = 0
    for clip, outcome in in_parallel(attempt, remaining(), at_once):
        if isinstance(outcome, OSError) or (isinstance(outcome, ChatError) and outcome.blame != "request"):
            in_a_row += 1
            counts["unanswered"] += 1
            if in_a_row >= PATIENCE or (isinstance(outcome, ChatError) and outcome.blame == "setup"):
                raise outcome
        elif isinstance(outcome, MutoscopeError):
            in_a_row = 0
            counts["drops"] += 1
            ledger.write(clip.id, of_drops, None, str(outcome))
        else:
            in_a_row = 0
            counts["results"] += 1
            ledger.write(clip.id, settings, outcome)
    return Tally(settings, *(counts[name] for name in ("results", "drops", "earlier", "unanswered")))


def fingerprint(means: Mapping[str, Any]) -> str:
    """Return 16 hex digits that tell settings apart."""
    return hashlib.sha256(json.dumps(means, sort_keys=True).encode()).hexdigest()[:16]
