"""What a run says while it goes: scalars in `log.jsonl` and TensorBoard, and a progress bar on stderr."""

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from mutoscope.core.dist import print0, rank
from mutoscope.core.errors import MissingExtra, MutoscopeError
from mutoscope.core.files import replacing


class RunLog:
    """Scalars of a run, by step, in `folder/log.jsonl` and, where TensorBoard is installed, `folder/tensorboard`.

    A line of `log.jsonl` is an object with "step" and the scalars; nan and inf stand there as text, as JSON has no such
    numbers. Only rank 0 writes.

    Args:
        folder: the run's folder.
        tensorboard: write for TensorBoard too. Without the package, say so and go on.
        resume_at: first step that is to come. Lines at or past it, from a run that went further, are dropped, so that
            every step stands there once; 0 starts a new log.

    Raises:
        MutoscopeError: the log cannot be read or written.
    """

    def __init__(self, folder: Path, tensorboard: bool = True, resume_at: int = 0) -> None:
        self._lines = self._board = None
        if rank() != 0:
            return
        self._path = folder / "log.jsonl"
        earlier = _lines_before(resume_at, self._path)
        with replacing(self._path) as temporary:
            temporary.write_text("".join(earlier), encoding="utf-8")
        self._lines = self._path.open("a", encoding="utf-8")
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter  # optional, and slow to import
            except ImportError:
                print0(str(MissingExtra("train", "tensorboard", "The TensorBoard log")))
            else:
                self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=resume_at, flush_secs=10)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write the scalars of one step at once, so that a killed run loses none.

        Raises:
            MutoscopeError: the log cannot be written.
        """
        if self._lines is not None:
            plain = {name: float(value) if math.isfinite(value) else str(value) for name, value in values.items()}
            try:
                self._lines.write(json.dumps({"step": step, **plain}) + "\n")
                self._lines.flush()
            except OSError as error:
                raise MutoscopeError(
                    f"cannot write {self._path}: {error.strerror}. Free some space and resume."
                ) from error
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Finish the files."""
        if self._lines is not None:
            self._lines.close()
        if self._board is not None:
            self._board.close()


def _lines_before(step: int, path: Path) -> list[str]:
    """Return the lines of a log that come before `step`; a last line that a kill cut short is left out."""
    if not path.exists() or step == 0:
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    try:
        return [line for line in lines if json.loads(line)["step"] < step]
    except (ValueError, KeyError, TypeError) as error:
        raise MutoscopeError(f"{path} is not a log of this package ({error!r}). Move it away and resume.") from error


class Progress:
    """What `progress` hands out: a count of work done, and how to show it."""

    def __init__(self, done: int, show: Callable[[int, str], None]) -> None:
        self.done = done
        self._show = show

    def advance(self, n: int = 1, **fields: float) -> None:
        """Count `n` more as done, and show `fields`, such as loss=0.31, beside the count."""
        self.done += n
        self._show(self.done, ", ".join(f"{name} {value:.4g}" for name, value in fields.items()))


@contextmanager
def progress(total: int, description: str, *, done: int = 0, quiet: bool = False) -> Iterator[Progress]:
    """Show on stderr how far a piece of work has come, with the time left: a bar on a terminal, else ten plain lines.

    Args:
        total: how much there is to do; of 0 nothing is shown.
        description: what is being done, in a word or two.
        done: how much of it was done before, by a run that is now resumed.
        quiet: show nothing. Ranks but 0 never show anything.
    """
    console = Console(stderr=True)
    if quiet or total == 0 or rank() != 0:
        yield Progress(done, lambda done, note: None)
    elif console.is_terminal:
        with RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeRemainingColumn(compact=True),
            console=console,
        ) as bar:
            task = bar.add_task(description, total=total, completed=done, note="")
            yield Progress(done, lambda done, note: bar.update(task, completed=done, note=note))
    else:
        yield Progress(done, _plain_lines(total, description, done))


def _plain_lines(total: int, description: str, done: int) -> Callable[[int, str], None]:
    started, start = time.monotonic(), done
    tenth = 10 * done // total

    def show(done: int, note: str) -> None:
        nonlocal tenth
        if 10 * done // total > tenth:
            tenth = 10 * done // total
            left_s = (time.monotonic() - started) / (done - start) * (total - done)
            parts = [f"{done} of {total}", note, f"{_duration(left_s)} left" if done < total else ""]
            print(f"{description}: {', '.join(part for part in parts if part)}", file=sys.stderr, flush=True)

    return show


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
