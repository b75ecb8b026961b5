"""Curation: from sources to a data set, by a recipe whose stages run in order, each once for each source.

    sources ─ listing ─> inputs ─┬─ one process each: examine ─ signals ─ split ─ thresholds ─ ... ─┐
                                 └─ ...                                                             │
    shards, index <─ write <─ clips.parquet: every clip with the stage that dropped it, and why <───┘

    out/recipe.json       the resolved recipe
    out/sources.parquet   one row per input, with its problem where it has one
    out/clips.parquet     one row per clip, kept or dropped
    out/shards/           the clips that were kept, and their index; see data/tars.py
    out/card.html         all of this for people; see curate/report.py
    out/work/             what is done; see curate/manifest.py. Removing it costs only time

A run that was killed goes on where it was; a changed recipe does again only what the change touches.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from mutoscope.core import config
from mutoscope.core.errors import MediaError, MutoscopeError, RecipeError, RequestError
from mutoscope.core.files import replacing
from mutoscope.core.log import progress
from mutoscope.curate import pool, report, signals, split
from mutoscope.curate import write as writing
from mutoscope.curate.filter import FACTS, Thresholds
from mutoscope.curate.ingest import Ingest, Input, Shelf, Source, examine, listing, short, tells_of_machine
from mutoscope.curate.manifest import Manifest, Task
from mutoscope.curate.pool import Engine, Lost
from mutoscope.curate.score import Scores
from mutoscope.curate.signals import SignalSettings
from mutoscope.curate.split import SplitSettings
from mutoscope.curate.stage import CLIPS, Reads, Stage, Work, clip_id, save, whole
from mutoscope.curate.write import Kept, Shards, Write

WRITTEN = ("recipe", "sources", "clips", "card")  # files in the folder of the data set
SOURCES = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "path", "kind", "sha256")),
        *((name, pa.int64()) for name in ("size_bytes", "width", "height")),
        ("fps", pa.string()),
        ("num_frames", pa.int64()),
        ("duration_s", pa.float64()),
        ("codec", pa.string()),
        ("has_audio", pa.bool_()),
        *((name, pa.string()) for name in ("licence", "provenance", "caption", "problem", "stage", "signals")),
    ]
)


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
class Curation:
    """How sources become a data set.

    Args:
        name: what the data set is called.
        stages: in order. Without `Split`, each source is one clip.
        ingest: how sources are taken in.
        write: how clips are written.
        split: which part of a larger whole the clips are, as in `Clip`.
    """

    name: str
    stages: tuple[Signals | Split | Scores | Thresholds, ...]
    ingest: Ingest = Ingest()
    write: Write = Write()
    split: Literal["train", "held_out", "any"] = "train"

    def __post_init__(self) -> None:
        check_order(self.stages)


def check_order(stages: Sequence[Stage]) -> None:
    """Refuse stages that could not run.

    Raises:
        RecipeError: two have one name, or one reads what none before it makes.
    """
    names = [stage.name for stage in stages]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RecipeError(f"Two stages are named {twice[0]}. Give one of them another name.")
    made = set()
    for stage in stages:
        scores = isinstance(stage, Thresholds) and all(limit.column in FACTS for limit in stage.limits)
        if "signals" in stage.reads and "signals" not in made and not scores:
            raise RecipeError(f"Stage {stage.name} reads signals, which none before it makes. Put Signals() before it.")
        made.add(stage.makes)


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
    """

    source: Source
    clips: str = ""
    signals: str = ""
    stage: str = ""
    problem: str = ""
    done: tuple[str, ...] = ()


@dataclass(frozen=True)
class Summary:
    """What a run did.

    Args:
        inputs: files that were given.
        unusable: those with a problem.
        clips: clips that were looked at.
        kept: clips in the shards.
        decoded: sources whose frames were read now, and not before.
        again: inputs and stages that failed here and are tried again by the same command.
    """

    inputs: int
    unusable: int
    clips: int
    kept: int
    decoded: int
    again: tuple[str, ...] = ()


def run(
    recipe: Curation, sources: Sequence[str], out: Path, *, workers: int | None = None, engine: Engine = "local"
) -> Summary:
    """Make a data set, or bring one up to date.

    Args:
        recipe: what to do.
        sources: files, folders, globs, URLs, lists and tables; see `ingest.listing`.
        out: folder of the data set.
        workers: processes; one per core, or as many as the cluster has, if not given. 0 works in this one.
        engine: ``local`` or ``ray``.

    Raises:
        RequestError: a source does not exist, or another run is at work in `out`.
        MutoscopeError: `out` cannot be written.
    """
    return run_stages(recipe, recipe.stages, sources, out, workers=workers, engine=engine)


def run_stages(
    recipe: Curation,
    stages: Sequence[Stage],
    sources: Sequence[str],
    out: Path,
    *,
    workers: int | None = None,
    engine: Engine = "local",
) -> Summary:
    """Do what `run` does with other stages than those of the recipe, which a JSON recipe could not name."""
    pool.refuse_missing(engine)
    check_order(stages)
    if workers is None:
        workers = 0 if engine == "ray" else _cores()
    inputs = listing(sources, out)
    with _alone(out):
        for half in (path for name in WRITTEN for path in out.glob(f".{name}.*")):
            half.unlink()  # a killed run left it
        config.save_resolved(recipe, out / "recipe.json")
        Manifest(out / "work").sweep()
        crew = Crew(workers, engine, recipe.ingest)
        chain = Chain(tuple(stages), recipe.ingest, out / "work")
        outcomes = _examine_all(chain, inputs, crew)
        clips = _gather(outcomes)
        clips, count = _write(recipe, outcomes, clips, out, crew)
        _save(pa.Table.from_pylist([_row_of(outcome, out) for outcome in outcomes], SOURCES), out / "sources.parquet")
        _save(clips, out / "clips.parquet")
        report.write(out, recipe.name, [limit for one in stages if isinstance(one, Thresholds) for limit in one.limits])
        again = tuple(f"{o.source.path}: {o.problem}" for o in outcomes if o.stage and o.problem.startswith(HERE))
    decoding = {stage.name for stage in stages if "pixels" in stage.reads}
    return Summary(
        len(outcomes),
        sum(bool(outcome.problem) for outcome in outcomes),
        clips.num_rows,
        count,
        sum(bool(decoding & set(outcome.done)) for outcome in outcomes),
        again,
    )


# ---- one source ------------------------------------------------------------------------------------------------------

HERE = "failed here: "  # begins a problem that says nothing about the source


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
            return Outcome(_unknown(given), stage="ingest", problem=HERE + _told(error))
        if source.problem:
            return Outcome(source, stage="ingest", problem=source.problem)
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
        return Outcome(self.source, paths.get("clips", ""), paths.get("signals", ""), stage, problem, tuple(self.done))

    def _fetch(self) -> Path:
        return self.shelf.local(self.source.path)

    def _name(self) -> Path | str:
        with suppress(MediaError, OSError):
            return self._fetch()
        return self.source.path


def _told(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, MutoscopeError) else f"{type(error).__name__}: {text}".rstrip(": ")


def _unknown(given: Input) -> Source:
    return Source("", given.path, licence=given.licence, provenance=given.provenance, caption=given.caption)


# ---- all sources -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Crew:
    """Who does the work: so many processes, of this machine or of a cluster."""

    workers: int
    engine: Engine
    ingest: Ingest


def _examine_all(chain: Chain, inputs: Sequence[Input], crew: Crew) -> list[Outcome]:
    """Return the outcome of each input, in the order given; of equal files only the first is used."""
    found: dict[int, Outcome] = {}
    with progress(len(inputs), "sources") as bar:
        for index, result in pool.run(chain, inputs, crew.ingest.allowed_s, crew.workers, crew.engine):
            if isinstance(result, Lost):
                result = Outcome(_unknown(inputs[index]), stage="ingest", problem=HERE + result.reason)
            found[index] = result
            bar.advance()
    outcomes, first = [], {}
    for index in range(len(inputs)):
        outcome = found[index]
        same = first.setdefault(outcome.source.sha256, outcome.source.path) if outcome.source.sha256 else None
        if same is not None and same != outcome.source.path:
            outcome = replace(outcome, clips="", stage="ingest", problem=f"has the same bytes as {same}")
        outcomes.append(outcome)
    return outcomes


def _gather(outcomes: Sequence[Outcome]) -> pa.Table:
    """Return the clips of all sources, sorted by name; those of a source with a problem are dropped for it."""
    tables = [CLIPS.empty_table()]
    for outcome in outcomes:
        usable = not outcome.problem or outcome.stage != "ingest"
        if not usable:
            continue
        table = pq.read_table(outcome.clips) if outcome.clips else whole(outcome.source)
        tables.append(_dropped(table, outcome) if outcome.problem else table)
    return pa.concat_tables(tables, promote_options="default").sort_by("id")


def _dropped(table: pa.Table, outcome: Outcome) -> pa.Table:
    rows = table.to_pylist()
    for row in rows:
        if not row["dropped_by"]:
            row["dropped_by"], row["reason"] = outcome.stage, outcome.problem
    return pa.Table.from_pylist(rows, table.schema)


def _write(
    recipe: Curation, outcomes: Sequence[Outcome], clips: pa.Table, out: Path, crew: Crew
) -> tuple[pa.Table, int]:
    """Write the shards; return the clips, with those dropped that could not be written, and how many were."""
    sources = {outcome.source.id: outcome.source for outcome in outcomes if not outcome.problem}
    scores = [name for name in clips.column_names if name not in CLIPS.names]
    kept: list[Kept] = []
    rows = clips.to_pylist()
    for row in rows:
        if not row["dropped_by"]:
            measured = {name: _short(row[name]) for name in scores if row[name] is not None}
            kept.append(writing.keep(sources[row["source"]], row, recipe.write, measured, recipe.split))
    tasks = writing.plan(kept, recipe.write)
    fetched = out / "work" / "fetched"
    shards = Shards(out, writing.plan_digest(tasks, recipe.write), recipe.write, fetched, recipe.ingest.keep_fetched)
    if not shards.are_there():
        shards.clear()
        _write_shards(shards, tasks, crew)
    failed = {one.id: one.reason for one in shards.failed()}
    for row in rows:
        if row["id"] in failed:
            row["dropped_by"], row["reason"] = "write", failed[row["id"]]
    return pa.Table.from_pylist(rows, clips.schema), len(kept) - len(failed)


def _write_shards(shards: Shards, tasks: Sequence[writing.ShardTask], crew: Crew) -> None:
    shards.building.mkdir(parents=True, exist_ok=True)
    if tasks:
        limit_s = crew.ingest.limit_s
        with progress(len(tasks), "shards") as bar:
            for index, result in pool.run(
                shards, tasks, lambda task: writing.limit_s(task, limit_s), crew.workers, crew.engine
            ):
                if isinstance(result, Lost):
                    raise MutoscopeError(f"Shard {index} was not written: {result.reason}. Run the same command again.")
                bar.advance()
    shards.finish(tasks)


def _row_of(outcome: Outcome, out: Path) -> dict[str, Any]:
    source, frames = asdict(outcome.source), outcome.signals
    frames = Path(frames).relative_to(out).as_posix() if frames else ""  # so that the data set can be moved
    return {**source, "problem": outcome.problem, "stage": outcome.stage, "signals": frames}


def _save(table: pa.Table, path: Path) -> None:
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the folder for one run at a time; the system lets go of it when this process ends, however it ends."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = (out / ".lock").open("w")
    except OSError as error:
        raise MutoscopeError(f"cannot write to {out}: {error.strerror}. Name another folder with --out.") from error
    with file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # Windows has none
            pass
        except BlockingIOError as error:
            raise RequestError(f"Another run is at work in {out}. Wait for it, or name another folder.") from error
        yield


def _cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _short(value: float | str) -> float | str:
    """Round what was measured to what is worth keeping; names, such as those of camera moves, stay."""
    return value if isinstance(value, str) else round(value, 6)
