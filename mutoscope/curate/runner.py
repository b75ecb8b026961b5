"""Curation: from sources to a data set, by a recipe whose stages run in order, each once for each source.

    sources ─ listing ─> inputs ─┬─ one process each: examine ─ signals ─ split ─ thresholds ─ ... ─┐
                                 └─ ...                                                             │
                                     all clips: duplicates ─ balance ─ ... <─ gather <──────────────┘
    shards, index <─ write <─ clips.parquet: every clip with the stage that dropped it, and why <─┘

    out
      recipe.json       the resolved recipe
      sources.parquet   one row per input, with its problem where it has one
      clips.parquet     one row per clip, kept or dropped
      shards/           the clips that were kept, and their index; see data/tars.py
      card.html         all of this for people; see curate/report.py
      work/             what is done; see curate/manifest.py. Removing it costs only time

A run that was killed goes on where it was; a changed recipe does again only what the change touches.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mutoscope.core import config
from mutoscope.core.errors import MutoscopeError, RecipeError, RequestError
from mutoscope.core.files import replacing
from mutoscope.core.log import progress
from mutoscope.curate import pool, report, text
from mutoscope.curate import write as writing
from mutoscope.curate.balance import Balance
from mutoscope.curate.chain import HERE, Chain, Outcome, Signals, Split, Tries
from mutoscope.curate.describe import Captions
from mutoscope.curate.duplicates import Duplicates
from mutoscope.curate.filter import FACTS, Thresholds
from mutoscope.curate.ingest import Ingest, Shelf, Source
from mutoscope.curate.keyframes import Keyframes
from mutoscope.curate.learned import Learned, LearnedTogether
from mutoscope.curate.listing import Input, joined, listing
from mutoscope.curate.manifest import FOLDERS, Manifest, Pruned
from mutoscope.curate.nested import Nested
from mutoscope.curate.pool import Engine, Lost
from mutoscope.curate.score import SCORES, Scores
from mutoscope.curate.stage import (
    CAPTIONS,
    CLIPS,
    EMBEDDING,
    SetStage,
    SetView,
    Stage,
    is_score,
    replace_columns,
    whole,
)
from mutoscope.curate.tags import Tags
from mutoscope.curate.text import TextArea
from mutoscope.curate.write import Kept, Shards, Write
from mutoscope.data.schema import Part

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
        *((name, pa.string()) for name in ("notices", "licence", "provenance", "caption")),
        ("captions", CAPTIONS.type),
        *((name, pa.string()) for name in ("problem", "stage", "signals")),
    ]
)


# What a recipe can be made of, by its Python or its JSON: a new stage is added to one of these two.
SourceStages = Keyframes | Signals | Split | Scores | TextArea | Learned | Thresholds
SetStages = Duplicates | Balance | Nested | Captions | Tags | LearnedTogether


@dataclass(frozen=True)
class Curation:
    """How sources become a data set.

    Args:
        name: what the data set is called.
        stages: that each source goes through, in order. Without `Split`, each source is one clip.
        together: stages over the clips of all sources, in order, after those.
        ingest: how sources are taken in.
        write: how clips are written.
        split: which part of a larger whole the clips are, as in `Clip`.
    """

    name: str
    stages: tuple[SourceStages, ...]
    together: tuple[SetStages, ...] = ()
    ingest: Ingest = Ingest()
    write: Write = Write()
    split: Part = "train"

    def __post_init__(self) -> None:
        check_order(self.stages, self.together)
        for stage in self.together:
            if isinstance(stage, Nested) and 0 < self.write.short_side_px < stage.levels[-1].short_side_px:
                raise RecipeError(
                    f"Clips are written with a short side of {self.write.short_side_px}, but level "
                    f"{stage.levels[-1].name} of {stage.name} trains at {stage.levels[-1].short_side_px}. "
                    "Raise write.short_side_px, or set it to 0 to leave clips as large as they are."
                )


def check_order(stages: Sequence[Stage], together: Sequence[SetStage] = ()) -> None:
    """Refuse stages that could not run.

    Raises:
        RecipeError: two have one name, a name is no name of a folder, or one reads what none before it makes.
    """
    names = [stage.name for stage in (*stages, *together)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RecipeError(f"Two stages are named {twice[0]}. Give one of them another name.")
    for name in names:
        if not name or name.startswith(".") or "/" in name or "\\" in name:
            raise RecipeError(f"A stage is named {name!r}, which is no name of a folder. Give it another one.")
    for stage in together:
        if stage.name in FOLDERS:
            raise RecipeError(f"A stage over the set is named {stage.name}, which is taken. Give it another name.")
    made = set()
    for stage in stages:
        scores = isinstance(stage, Thresholds) and all(limit.column in FACTS for limit in stage.limits)
        if "signals" in stage.reads and "signals" not in made and not scores:
            raise RecipeError(f"Stage {stage.name} reads signals, which none before it makes. Put Signals() before it.")
        made.add(stage.makes)
    for stage in together:
        if isinstance(stage, Duplicates) and "signals" not in made:
            raise RecipeError(f"Stage {stage.name} reads signals, which no stage makes. Put Signals() first in stages.")
        if isinstance(stage, Balance) and not any(_embeds(one) for one in (*stages, *together)):
            raise RecipeError(
                f"Stage {stage.name} needs the column {EMBEDDING}, which no stage makes. "
                "Put Learned((Embedding(...),)) into stages; see docs/concepts/scores.md."
            )


def _embeds(stage: Stage | SetStage) -> bool:
    """Say whether a stage embeds clips; one of a person's own may, which cannot be known before."""
    if isinstance(stage, Learned | LearnedTogether):
        return any(score.name == EMBEDDING for score in _judges(stage).scores)
    return not isinstance(stage, SourceStages | SetStages)


def _judges(stage: Learned | LearnedTogether) -> Learned:
    return stage.learned if isinstance(stage, LearnedTogether) else stage


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
        pruned: what was removed of results that this run did not use, None if that was not asked for or not done.
        unread: tables, sidecars and members that could not be read, each with the reason.
    """

    inputs: int
    unusable: int
    clips: int
    kept: int
    decoded: int
    again: tuple[str, ...] = ()
    pruned: Pruned | None = None
    unread: tuple[str, ...] = ()


def run(
    recipe: Curation,
    sources: Sequence[str],
    out: Path,
    *,
    workers: int | None = None,
    engine: Engine = "local",
    prune: bool = False,
) -> Summary:
    """Make a data set, or bring one up to date.

    Args:
        recipe: what to do.
        sources: files, folders, globs, URLs, lists and tables; see `listing`.
        out: folder of the data set.
        workers: processes; one per core, or as many as the cluster has, if not given. 0 works in this one.
        engine: ``local`` or ``ray``.
        prune: at the end remove stored results that this run did not use: of sources that were not given, and of
            settings that are no longer those of the recipe. What stages over the set keep stays. Nothing is removed
            where something is to be tried again.

    Raises:
        RequestError: a source does not exist, or another run is at work in `out`.
        RecipeError: a stage asks for what there is not.
        MutoscopeError: `out` cannot be written.
    """
    return run_stages(
        recipe, recipe.stages, sources, out, together=recipe.together, workers=workers, engine=engine, prune=prune
    )


def run_stages(
    recipe: Curation,
    stages: Sequence[Stage],
    sources: Sequence[str],
    out: Path,
    *,
    together: Sequence[SetStage] = (),
    workers: int | None = None,
    engine: Engine = "local",
    prune: bool = False,
) -> Summary:
    """Do what `run` does with other stages than those of the recipe, which a JSON recipe could not name."""
    pool.refuse_missing(engine)
    check_order(stages, together)
    for stage in (*stages, *together):
        if isinstance(stage, TextArea | Learned | LearnedTogether):
            stage.check()  # that what it needs is here
    if workers is None:
        workers = 0 if engine == "ray" else _cores()
    inputs = listing(sources, out)
    with _alone(out):
        for half in (path for name in WRITTEN for path in out.glob(f".{name}.*")):
            half.unlink()  # a killed run left it
        config.save_resolved(recipe, out / "recipe.json")
        manifest = Manifest(out / "work")
        manifest.sweep()
        crew = Crew(workers, engine, recipe.ingest)
        chain = Chain(tuple(stages), recipe.ingest, out / "work")
        outcomes = _examine_all(chain, inputs, crew)
        clips, later = _consider(together, _gather(outcomes), outcomes, out, recipe.ingest)
        clips, count = _write(recipe, outcomes, clips, out, crew)
        _save(pa.Table.from_pylist([_row_of(outcome, out) for outcome in outcomes], SOURCES), out / "sources.parquet")
        _save(clips, out / "clips.parquet")
        limited = [stage for stage in (*stages, *together) if isinstance(stage, Thresholds | Captions)]
        limits = [limit for stage in limited for limit in stage.limits]
        judges = [_judges(stage) for stage in (*stages, *together) if isinstance(stage, Learned | LearnedTogether)]
        learned = [score for stage in judges for score in stage.scores]
        nested = [stage.name for stage in together if isinstance(stage, Nested)]
        report.write(out, recipe.name, limits, [*SCORES, text.SCORE, *learned], nested)
        again = [f"{o.source.path}: {o.problem}" for o in outcomes if o.stage and o.problem.startswith(HERE)] + later
        may_prune = prune and not again  # what failed now might have used more
        pruned = manifest.prune({key for outcome in outcomes for key in outcome.used}) if may_prune else None
        if pruned is not None:
            pruned = replace(pruned, size_bytes=pruned.size_bytes + writing.forget_earlier(out))
    decoding = {stage.name for stage in stages if "pixels" in stage.reads}
    return Summary(
        inputs=len(outcomes),
        unusable=sum(bool(outcome.problem) for outcome in outcomes),
        clips=clips.num_rows,
        kept=count,
        decoded=sum(bool(decoding & set(outcome.done)) for outcome in outcomes),
        again=tuple(again),
        unread=tuple(f"{given.path}: {given.problem}" for given in inputs if given.problem),
        pruned=pruned,
    )


# ---- all sources -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Crew:
    """Who does the work: so many processes, of this machine or of a cluster."""

    workers: int
    engine: Engine
    ingest: Ingest


def _examine_all(chain: Chain, inputs: Sequence[Input], crew: Crew) -> list[Outcome]:
    """Return the outcome of each input, in the order given; of equal files only the first is used."""
    tries = Tries(Manifest(chain.folder))
    found = {index: given_up for index, given in enumerate(inputs) if (given_up := tries.outcome(given)) is not None}
    left = [index for index in range(len(inputs)) if index not in found]
    with progress(len(inputs), "sources", done=len(found)) as bar:
        work = pool.run(chain, [inputs[index] for index in left], crew.ingest.allowed_s, crew.workers, crew.engine)
        for number, result in work:
            index = left[number]
            if isinstance(result, Lost):
                result = tries.lost(inputs[index], result.reason)
            found[index] = result
            bar.advance()
    outcomes, first = list[Outcome](), dict[str, int]()
    for index in range(len(inputs)):
        outcome = found[index]
        same = first.setdefault(outcome.source.sha256, index) if outcome.source.sha256 else index
        if same != index and outcome.stage != "ingest":  # one that cannot be read keeps its own reason
            kept = outcomes[same].source
            outcomes[same] = replace(outcomes[same], source=_told_more(kept, outcome.source))
            outcome = replace(outcome, clips="", stage="ingest", problem=f"has the same bytes as {kept.path}")
        outcomes.append(outcome)
    return outcomes


def _told_more(kept: Source, dropped: Source) -> Source:
    """Keep what is said about an equal file that is dropped: its captions too, and what is not said of the other."""
    return replace(
        kept,
        captions=joined(kept.captions, dropped.captions),
        licence=kept.licence or dropped.licence,
        provenance=kept.provenance or dropped.provenance,
    )


def _gather(outcomes: Sequence[Outcome]) -> pa.Table:
    """Return the clips of all sources, sorted by name; those of a source with a problem are dropped for it."""
    tables = [CLIPS.empty_table()]
    for outcome in outcomes:
        if outcome.has_clips:
            table = pq.read_table(outcome.clips) if outcome.clips else whole(outcome.source)
            tables.append(_dropped(table, outcome) if outcome.problem else table)
    return pa.concat_tables(tables, promote_options="default").sort_by("id")


def _dropped(table: pa.Table, outcome: Outcome) -> pa.Table:
    rows = table.to_pylist()
    for row in rows:
        if not row["dropped_by"]:
            row["dropped_by"], row["reason"] = outcome.stage, outcome.problem
    return pa.Table.from_pylist(rows, table.schema)


def _consider(
    stages: Sequence[SetStage], clips: pa.Table, outcomes: Sequence[Outcome], out: Path, ingest: Ingest
) -> tuple[pa.Table, list[str]]:
    """Take the clips of all sources through the stages over the set; return them, and what is to be tried again."""
    usable = [outcome for outcome in outcomes if outcome.has_clips]
    sources = {outcome.source.id: outcome.source for outcome in usable}
    columns = (clips[name].to_pylist() for name in ("source", "start", "end"))
    places = dict(zip(clips["id"].to_pylist(), zip(*columns, strict=True), strict=True))
    frames = {outcome.source.id: Path(outcome.signals) for outcome in usable if outcome.signals}
    shelf, fetched, again, one_at_a_time = Shelf(out / "work" / "fetched"), set[str](), list[str](), threading.Lock()

    def fetch(source: Source) -> Path:
        with one_at_a_time:  # two threads may want one file
            fetched.add(source.path)
            return shelf.local(source.path)

    try:
        for stage in stages:
            folder = out / "work" / stage.name
            folder.mkdir(parents=True, exist_ok=True)
            made = stage.run(clips, SetView(folder, sources, places, frames, fetch, again))
            if not made["id"].equals(clips["id"]):
                raise RuntimeError(f"stage {stage.name} took clips away, added some or put them in another order")
            clips = made
    finally:
        for path in () if ingest.keep_fetched else fetched:
            shelf.forget(path)
    return clips, again


def _write(
    recipe: Curation, outcomes: Sequence[Outcome], clips: pa.Table, out: Path, crew: Crew
) -> tuple[pa.Table, int]:
    """Write the shards; return the clips, with those dropped that could not be written, and how many were."""
    sources = {outcome.source.id: outcome.source for outcome in outcomes if not outcome.problem}
    scores = [column.name for column in clips.schema if is_score(column)]
    kept: list[Kept] = []
    captions = [name for name in clips.column_names if name == CAPTIONS.name]
    rows = clips.select([*CLIPS.names, *scores, *captions]).to_pylist()
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
    told = {name: pa.array([row[name] for row in rows], pa.string()) for name in ("dropped_by", "reason")}
    return replace_columns(clips, told), len(kept) - len(failed)


def _write_shards(shards: Shards, tasks: Sequence[writing.ShardTask], crew: Crew) -> None:
    shards.building.mkdir(parents=True, exist_ok=True)
    left = {task.number: shards.left(task) for task in tasks}
    pieces = [piece for task in tasks for piece in left[task.number]]
    waiting = {task.number: len(left[task.number]) for task in tasks}
    if pieces:
        limit_s = crew.ingest.limit_s
        with progress(sum(len(piece.clips) for piece in pieces), "clips written") as bar:
            for index, result in pool.run(
                shards, pieces, lambda piece: writing.limit_s(piece, limit_s), crew.workers, crew.engine
            ):
                piece = pieces[index]
                if isinstance(result, Lost):
                    what = f"Shard {piece.shard}, clips {piece.clips[0].clip.id} to {piece.clips[-1].clip.id}"
                    raise MutoscopeError(f"{what}: not written: {result.reason}. Run the same command again.")
                bar.advance(len(piece.clips))
                waiting[piece.shard] -= 1
                if not waiting[piece.shard]:
                    shards.join(tasks[piece.shard], left[piece.shard])
    shards.finish(tasks)


def _row_of(outcome: Outcome, out: Path) -> dict[str, Any]:
    source, frames = asdict(outcome.source), outcome.signals
    frames = Path(frames).relative_to(out).as_posix() if frames else ""  # so that the data set can be moved
    source |= {"caption": outcome.source.caption}
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


def _short(value: writing.Score) -> writing.Score:
    """Round what was measured to what is worth keeping; names, such as those of camera moves and tags, stay."""
    return round(value, 6) if isinstance(value, float) else value
