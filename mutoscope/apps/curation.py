"""The job behind `mutoscope curate`: check what is installed, read the recipe, run it, and say what came of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from mutoscope.core.errors import MissingExtra, RequestError

NEEDED = {  # module: distribution
    "pyarrow": "pyarrow",
    "cv2": "opencv-python-headless",
    "fsspec": "fsspec",
    "json_repair": "json-repair",
}


@dataclass(frozen=True)
class CurateJob:
    """What a person asks of a curation; see `apps.cli.curate` for the meaning of each."""

    sources: tuple[str, ...]
    out: Path
    recipe: Path | None = None
    override: tuple[str, ...] = ()
    workers: int | None = None
    engine: Literal["local", "ray"] = "local"
    prune: bool = False


def curate(job: CurateJob) -> list[str]:
    """Make a data set, or bring one up to date.

    Returns:
        Lines that say what came of it.

    Raises:
        MissingExtra: a package is not installed.
        MutoscopeError: the recipe, a source or the folder is wrong.
    """
    for module, package in NEEDED.items():
        if find_spec(module) is None:
            raise MissingExtra("curate", package, "mutoscope curate")
    if job.workers is not None and job.workers < 0:
        raise RequestError(f"workers={job.workers} was given. Give 1 or more, or 0 to work in this process.")
    from mutoscope.core import config
    from mutoscope.curate.recipe import default
    from mutoscope.curate.runner import Curation, run

    recipe = default() if job.recipe is None else config.load_recipe(job.recipe, Curation)
    recipe = config.override(recipe, job.override)
    done = run(recipe, job.sources, job.out, workers=job.workers, engine=job.engine, prune=job.prune)
    lines = [f"{done.kept} of {done.clips} clips from {done.inputs - done.unusable} of {done.inputs} files are kept"]
    lines += [f"to be tried again by the same command: {told}" for told in _few(done.again)]
    lines += [f"not read: {told}" for told in _few(done.unread)]
    if done.pruned is not None:
        lines.append(f"{done.pruned.results} results that this run did not use removed, {done.pruned.size_bytes} bytes")
    elif job.prune:
        lines.append("nothing is removed, as the next run may need it: something is still to be tried again")
    return [*lines, f"{job.out / 'card.html'} shows what was dropped, and why"]


def _few(told: Sequence[str], most: int = 5) -> list[str]:
    return [*told[:most], *([f"and {len(told) - most} more, see sources.parquet"] if len(told) > most else [])]
