"""One source through the stages of a recipe, each done once: what a process of a curation does.

    input ── examine ──> source ── signals ── split ── thresholds ── ... ──> Outcome: its clips, or what is wrong

It is apart from the runner because a process that measures needs neither torch nor anything of the stages over the set.
"""

import hashlib
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from mutoscope.core import config
from mutoscope.core.errors import MediaError, MutoscopeError, RecipeError
from mutoscope.core.files import spelled
from mutoscope.curate import signals, split
from mutoscope.curate.ingest import Ingest, Shelf, Source, examine, short, tells_of_machine
from mutoscope.curate.listing import Input
from mutoscope.curate.manifest import Manifest, Task
from mutoscope.curate.signals import SignalSettings
from mutoscope.curate.split import SplitSettings
from mutoscope.curate.stage import CLIPS, Reads, Stage, Work, clip_id, save, whole

MOST_TRIES = 3  # of an input that ends the process that works on it
HERE = "failed here: "  # begins a problem that says nothing about the source


@dataclass(frozen=True)
class Signals:
    """The stage that decodes: one row of numbers per frame.

    Args:
        settings: what is sampled, and how often.
    """

    settings: SignalSettings = SignalSettings()
    name: str = field(default="signals", init=False)
    version: int = field(default=signals.VERSION, init=False)
    reads: tuple[Reads, ...] = field(default=("pixels",), init=False)
    makes: Literal["signals", "clips"] = field(default="signals", init=False)

    def run(self, work: Work, out: Path) -> None:
        """Measure every frame."""
        signals.save(work.fetch(), out, self.settings)


@dataclass(frozen=True)
class Split:
    """The stage that finds the shots of a video; a picture is one clip.

    Args:
        settings: what makes a transition, and how long clips are.
    """

    settings: SplitSettings = SplitSettings()
    name: str = field(default="split", init=False)
    version: int = field(default=split.VERSION, init=False)
    reads: tuple[Reads, ...] = field(default=("signals",), init=False)
    makes: Literal["signals", "clips"] = field(default="clips", init=False)

    def run(self, work: Work, out: Path) -> None:
        """Write a row for each span between transitions, also for those that are dropped."""
        if work.source.kind == "image":
            save(whole(work.source), out)
            return
        table = work.signals()
        times = [*table.column("time_s").to_pylist(), work.source.duration_s]
        rows = [
            {
                "id": clip_id(work.source, span.start, span.end),
                "source": work.source.id,
                "start": span.start,
                "end": span.end,
                "start_s": times[span.start],
                "end_s": times[span.end],
                "dropped_by": self.name if span.reason_for_drop else "",
                "reason": span.reason_for_drop,
                "notes": "",
            }
            for span in split.spans(table, self.settings)
        ]
        save(pa.Table.from_pylist(rows, CLIPS), out)


@dataclass(frozen=True)
class Outcome:
    """What became of one input.

    Args:
        source: what it is.
        clips: its table of clips, "" where it came to none.
        signals: its table of frames, "" where it has none.
        stage: that found a problem, "" if none did.
        problem: what is wrong, "" if nothing is.
        done: stages that were run now, not found done.
        used: keys of the entries of the manifest that this rests on.
    """

    source: Source
    clips: str = ""
    signals: str = ""
    stage: str = ""
    problem: str = ""
    done: tuple[str, ...] = ()
    used: tuple[str, ...] = ()

    @property
    def has_clips(self) -> bool:
        """Say whether it has rows in the table of clips: it could be read, whatever a later stage found wrong."""
        return self.stage != "ingest"


@dataclass(frozen=True)
class Chain:
    """Takes one input through all stages; what the manifest has is not done again.

    Args:
        stages: in order.
        ingest: how sources are taken in.
        folder: of the manifest.
    """

    stages: tuple[Stage, ...]
    ingest: Ingest
    folder: Path

    def __call__(self, given: Input) -> Outcome:
        """Return what became of an input; whatever is wrong with it is a problem in there.

        Raises:
            RecipeError: a stage asks for what there is not.
        """
        manifest, shelf = Manifest(self.folder), Shelf(self.folder / "fetched")
        try:
            source = examine(given, self.ingest, manifest, shelf)
        except Exception as error:  # the network, the disk, memory
            return Outcome(unknown(given), stage="ingest", problem=HERE + _told(error))
        if source.problem:
            return Outcome(source, stage="ingest", problem=source.problem, used=tuple(manifest.used))
        state = _State(source, manifest, shelf)
        try:
            for stage in self.stages:
                problem = state.advance(stage)
                if problem:
                    return state.outcome(stage.name, problem)
        finally:
            if not self.ingest.keep_fetched:
                shelf.forget(source.path)
        return state.outcome()


class Tries:
    """Counts how often an input took down, or held for ever, the process that worked on it, over all runs.

    A machine may be short of memory, or busy; a file that ends a process each time is at fault itself.

    Args:
        manifest: keeps count.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest

    def outcome(self, given: Input) -> Outcome | None:
        """Return what became of an input that is not tried again, None for any other."""
        entry = self._manifest.find(_try_of(given, MOST_TRIES))
        if entry is None:
            return None
        used = tuple(_try_of(given, number).key for number in range(1, MOST_TRIES + 1))
        problem = f"it was given up after {MOST_TRIES} tries: {entry.problem}. Remove work/entries/lost to try again."
        return Outcome(unknown(given), stage="ingest", problem=problem, used=used)

    def lost(self, given: Input, reason: str) -> Outcome:
        """Count one more try, and return its outcome."""
        number = next(n for n in range(1, MOST_TRIES + 1) if self._manifest.find(_try_of(given, n)) is None)
        self._manifest.commit_problem(_try_of(given, number), reason)
        return self.outcome(given) or Outcome(unknown(given), stage="ingest", problem=HERE + reason)


def _try_of(given: Input, number: int) -> Task:
    """Name a try; a file that became longer or shorter is another one."""
    name = hashlib.sha256(given.path.encode(errors="surrogateescape")).hexdigest()
    return Task(name, "lost", 1, {"size_bytes": given.size_bytes, "try": number})


@dataclass
class _State:
    """How far a source has come."""

    source: Source
    manifest: Manifest
    shelf: Shelf
    paths: dict[str, Path] = field(default_factory=dict)  # of the two tables
    digests: dict[str, str] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)

    def advance(self, stage: Stage) -> str:
        """Do a stage unless it is done; return what is wrong, "" if nothing is."""
        read = {kind: self.digests.get(kind, "") for kind in stage.reads if kind != "pixels"}
        settings = config.to_json(stage)
        task = Task(self.source.sha256, stage.name, stage.version, {"settings": settings, "read": read})
        entry = self.manifest.find(task)
        if entry is None:
            clips = pq.read_table(self.paths["clips"]) if "clips" in self.paths else whole(self.source)
            work = Work(self.source, clips, self.paths.get("signals"), self._fetch)
            self.done.append(stage.name)
            try:
                entry = self.manifest.commit(task, lambda path: stage.run(work, path))
            except RecipeError:
                raise
            except Exception as error:  # a stage that is at a loss must not take the other sources with it
                if not isinstance(error, MediaError) or tells_of_machine(error):
                    return HERE + _told(error)
                entry = self.manifest.commit_problem(task, short(error, str(self._name())))
        if entry.problem:
            return entry.problem
        self.paths[stage.makes], self.digests[stage.makes] = self.manifest.path(entry), entry.digest
        return ""

    def outcome(self, stage: str = "", problem: str = "") -> Outcome:
        paths = {kind: str(path) for kind, path in self.paths.items()}
        clips, frames = paths.get("clips", ""), paths.get("signals", "")
        return Outcome(self.source, clips, frames, stage, problem, tuple(self.done), tuple(self.manifest.used))

    def _fetch(self) -> Path:
        return self.shelf.local(self.source.path)

    def _name(self) -> Path | str:
        with suppress(MediaError, OSError):
            return self._fetch()
        return self.source.path


def _told(error: Exception) -> str:
    text = spelled(" ".join(str(error).split()))
    return text if isinstance(error, MutoscopeError) else f"{type(error).__name__}: {text}".rstrip(": ")


def unknown(given: Input) -> Source:
    """Return what is known of an input that could not be examined."""
    return Source("", given.path, licence=given.licence, provenance=given.provenance, captions=given.captions)
