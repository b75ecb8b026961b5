"""A measured result: its figures with their intervals, as JSON, as tables, and side by side with others."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from mutoscope.core.errors import MutoscopeError, RequestError
from mutoscope.core.files import replacing
from mutoscope.evaluate.statistics import Interval, bootstrap, wilson

SHARE = "%"  # of clips for which a measure is right, kept as 0 to 1
UNITS = {  # of the measures that are numbers: unit, digits, factor from what is kept to what is printed
    "given_psnr": ("dB", 1, 1.0),
    "missing_psnr": ("dB", 1, 1.0),
    "psnr": ("dB", 1, 1.0),
    "jump": ("levels", 2, 1.0),
    "path_error": ("% of width", 1, 100.0),
}
COLUMNS = {"model": "model", "autoencoder": "autoencoder", "truth": "oracle"}  # whose clips were judged: its heading
LEGEND = "95 % intervals. autoencoder: true clips, encoded and decoded. oracle: true clips, as drawn."

Row = Mapping[str, Any]  # one judged clip: "right" and "values" by measure; see suite.py


@dataclass(frozen=True)
class Figure:
    """A share of clips (0 to 1) or a mean, with its 95 % interval and the number of clips behind it."""

    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class SetResult:
    """The figures of one set: by measure, for the model and for the two ceilings; and the model's by kind of scene.

    `groups` holds the share of clips that are all right for each value of each attribute, such as motion, orbit.
    """

    title: str
    prompts: int
    model: Mapping[str, Figure]
    autoencoder: Mapping[str, Figure]
    truth: Mapping[str, Figure]
    groups: Mapping[str, Mapping[str, Figure]] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What a run of a suite found.

    Args:
        run: what was measured and how: model, weights, sampling settings, hashes of prompts and judge.
        sets: by name.
        languages: Chinese minus English on the same scenes, all right, by the name of the English set.
    """

    run: Mapping[str, Any]
    sets: Mapping[str, SetResult]
    languages: Mapping[str, Figure]


def figures(rows: Sequence[Row]) -> dict[str, Figure]:
    """Sum up judged clips: Wilson intervals for what is right or wrong, bootstrap intervals for numbers."""
    found: dict[str, Figure] = {}
    for name in dict.fromkeys(name for row in rows for name in row["right"]):
        answers = [row["right"][name] for row in rows if name in row["right"]]
        found[name] = _figure(wilson(sum(answers), len(answers)), len(answers))
    for name in dict.fromkeys(name for row in rows for name in row["values"]):
        values = [row["values"][name] for row in rows if name in row["values"]]
        found[name] = _figure(bootstrap(values), len(values))
    return found


def difference(rows: Sequence[Row], others: Sequence[Row], measure: str) -> Figure:
    """Return the mean of `rows` minus that of `others`, clip by clip, with its bootstrap interval."""
    pairs = zip(rows, others, strict=True)
    values = [float(_measured(one, measure)) - float(_measured(other, measure)) for one, other in pairs]
    return _figure(bootstrap(values), len(values))


def _measured(row: Row, measure: str) -> float:
    return row["right"][measure] if measure in row["right"] else row["values"][measure]


def _figure(interval: Interval, count: int) -> Figure:
    return Figure(*interval, count)


def save(result: Result, folder: Path) -> None:
    """Write `result.json` and the same as Markdown tables, `result.md`, whole or not at all."""
    with replacing(folder / "result.json") as temporary:
        temporary.write_text(json.dumps(asdict(result), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    with replacing(folder / "result.md") as temporary, temporary.open("w", encoding="utf-8") as file:
        console = Console(file=file, width=200)
        for table in tables(result):
            title, table.title, table.box = table.title, None, box.MARKDOWN
            console.print(f"**{title}**\n")
            console.print(table)
        console.print(LEGEND)


def load(folder: Path) -> Result:
    """Read the result of a finished run.

    Raises:
        RequestError: there is none in this folder.
        MutoscopeError: it is damaged.
    """
    path = folder / "result.json"
    if not path.is_file():
        raise RequestError(f"{folder} holds no result.json. Type: mutoscope evaluate MODEL --out {folder}")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        sets = {
            name: SetResult(
                title=part["title"],
                prompts=part["prompts"],
                model=_read(part["model"]),
                autoencoder=_read(part["autoencoder"]),
                truth=_read(part["truth"]),
                groups={attribute: _read(values) for attribute, values in part["groups"].items()},
            )
            for name, part in data["sets"].items()
        }
        return Result(data["run"], sets, _read(data["languages"]))
    except (ValueError, KeyError, TypeError) as error:
        raise MutoscopeError(f"{path} is damaged ({error!r}). Delete it and run the same evaluation again.") from error


def _read(data: Mapping[str, Any]) -> dict[str, Figure]:
    return {name: Figure(**figure) for name, figure in data.items()}


def show(result: Result) -> None:
    """Print the tables."""
    console = Console()
    for table in tables(result):
        console.print(table)
    console.print(LEGEND)


def tables(result: Result) -> list[Table]:
    """Lay out one table for each set, and one that compares the languages if both were measured."""
    laid_out = []
    for name, part in result.sets.items():
        done = next(iter(part.model.values())).count
        of = f"{done} clips" if done == part.prompts else f"{done} of {part.prompts} clips"
        table = Table(title=f"{name}: {part.title}, {of}", box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("measure", no_wrap=True)
        for heading in COLUMNS.values():
            table.add_column(heading, justify="right", no_wrap=True)
        for measure in dict.fromkeys(["all", *part.model, *part.autoencoder]):
            cells = [getattr(part, by).get(measure) for by in COLUMNS]
            table.add_row(_label(measure), *(spell(figure, measure) if figure else "" for figure in cells))
        laid_out.append(table)
    if result.languages:
        table = Table(title="Chinese minus English, all right, on the same scenes", box=box.SIMPLE_HEAD)
        table.add_column("set")
        table.add_column("points", justify="right")
        for name, figure in result.languages.items():
            table.add_row(name, spell(figure, "all", signed=True))
        laid_out.append(table)
    return laid_out


def _label(measure: str) -> str:
    unit = UNITS[measure][0] if measure in UNITS else SHARE
    return f"{measure.replace('_', ' ')}, {unit}"


def spell(figure: Figure, measure: str, *, signed: bool = False) -> str:
    """Write a figure with its interval, in the measure's unit, such as ``93.4 (89.6–95.8)``."""
    _, digits, factor = UNITS.get(measure, (SHARE, 1, 100.0))
    sign = "+" if signed else ""
    value, low, high = (f"{number * factor:{sign}.{digits}f}" for number in (figure.value, figure.low, figure.high))
    return f"{value} ({low} to {high})" if signed else f"{value} ({low}–{high})"


def compare(runs: Mapping[str, Mapping[str, Sequence[Row]]], headlines: Sequence[tuple[str, str]]) -> Table:
    """Lay several runs side by side: the first as it is, each other as its difference from the first, clip by clip.

    Args:
        runs: name of a column -> set -> judged clips in the order of the prompts, the same prompts in every run.
        headlines: which set and measure each row shows.
    """
    names = list(runs)
    table = Table(title=f"differences from {names[0]}, 95 % interval", box=box.SIMPLE_HEAD)
    table.add_column("measure")
    for name in names:
        table.add_column(name, justify="right")
    for part, measure in headlines:
        base = runs[names[0]][part]
        cells = [spell(figures(base)[measure], measure)]
        cells += [spell(difference(runs[name][part], base, measure), measure, signed=True) for name in names[1:]]
        table.add_row(f"{part}: {_label(measure)}", *cells)
    return table
