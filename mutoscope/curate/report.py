"""The data card: what a data set holds, and what was dropped and why, as one HTML page that needs no other file."""

import base64
import html
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Float64, Int64

from mutoscope.core.files import replacing
from mutoscope.curate.filter import FACTS, Threshold
from mutoscope.curate.nested import LEVELS, funnel, table
from mutoscope.curate.score import Score
from mutoscope.curate.stage import CAPTIONS, EMBEDDING, is_score
from mutoscope.data import tars

Row = dict[str, Any]
BINS = 32
SHEET = 24  # pictures of what was kept
SHEET_OF_REASON = 8  # pictures of what was dropped for one reason
EXAMPLES = 5  # names of files with one problem
NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d.,x:e+-]*(?![\w])")
VALUE = re.compile(r"^(\S+) \S+( .+)? is (below|above) (\S+)$")
DUPLICATE = re.compile(r"^(\w+) duplicate of (\S+), which is (.+)$")

STYLE = """
:root { --ground: #fff; --ink: #1c1d20; --soft: #5d626b; --line: #dcdfe4; --kept: #2563a8; --dropped: #b9bec7;
  --limit: #c2410c; --tile: #f4f5f7; color-scheme: light dark }
@media (prefers-color-scheme: dark) { :root { --ground: #16181c; --ink: #e8e9ec; --soft: #a2a8b3; --line: #33373e;
  --kept: #6ea8e8; --dropped: #565c67; --limit: #f5925b; --tile: #1f2228 } }
* { box-sizing: border-box }
body { margin: 2rem auto; max-width: 68rem; padding: 0 1.25rem; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif }
h1 { font-size: 1.7rem; margin: 0 0 .25rem } h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem }
h3 { font-size: .95rem; margin: 1.25rem 0 .4rem; font-weight: 600 } p { margin: .25rem 0 .75rem }
.soft { color: var(--soft) }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .75rem; margin: 1.25rem 0 }
.tile { background: var(--tile); border-radius: .5rem; padding: .7rem .9rem }
.tile b { display: block; font-size: 1.45rem; line-height: 1.25; font-weight: 600 }
.tile span { color: var(--soft); font-size: .85rem }
.bar { display: flex; height: 1.6rem; border-radius: .3rem; overflow: hidden; background: var(--tile) }
.bar i { display: block; min-width: 1px; border-right: 1px solid var(--ground) }
.wide { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-size: .92rem }
th { text-align: left; color: var(--soft); font-weight: 500 }
th, td { padding: .35rem .75rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: 1rem 1.5rem }
.chart svg { width: 100%; height: auto; display: block }
.chart text { font: 10px system-ui, sans-serif; fill: var(--soft) }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .5rem }
.sheet figure { margin: 0 } .pairs { grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)) }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: .2rem }
.sheet img, .blank { width: 100%; aspect-ratio: 16/10; object-fit: contain; border-radius: .3rem;
  background: var(--tile); display: block }
.sheet figcaption { font-size: .75rem; color: var(--soft); overflow-wrap: anywhere; line-height: 1.3;
  margin-top: .15rem }
.key { display: inline-block; width: .75em; height: .75em; border-radius: .15em; margin: 0 .3em 0 .8em }
pre { overflow: auto; background: var(--tile); padding: 1rem; border-radius: .5rem; font-size: .8rem }
"""


@dataclass(frozen=True)
class Card:
    """All that the page tells of.

    Args:
        folder: of the data set.
        name: of it.
        sources: rows of sources.parquet.
        clips: rows of clips.parquet.
        rows: of the index.
        scores: numbers that were measured of clips, in the order of the recipe.
        limits: of the recipe, by the name of the number.
        recipe: JSON.
        about: scores that explain themselves, by the name of the number.
        funnels: of each stage that nests levels, the lines of `nested.table`.
    """

    folder: Path
    name: str
    sources: Sequence[Row]
    clips: Sequence[Row]
    rows: Sequence[tars.Row]
    scores: Sequence[str]
    limits: dict[str, Threshold]
    recipe: str
    about: dict[str, Score] = field(default_factory=dict)
    funnels: Sequence[Sequence[Sequence[str]]] = ()

    @property
    def kept(self) -> list[Row]:
        """Return the clips that are in the shards."""
        return [clip for clip in self.clips if not clip["dropped_by"]]

    @property
    def dropped(self) -> list[Row]:
        """Return the clips that are not."""
        return [clip for clip in self.clips if clip["dropped_by"]]


def write(
    out: Path, name: str, limits: Iterable[Threshold], scores: Iterable[Score] = (), nested: Iterable[str] = ()
) -> Path:
    """Write `card.html` from the tables of a data set.

    Args:
        out: folder of the data set.
        name: of the data set.
        limits: that were put on its clips.
        scores: what numbers mean; those in pixels are rows and columns, which say nothing as a chart.
        nested: names of the stages that nest levels.
    """
    about = {score.name: score for score in scores}
    schema = pq.read_schema(out / "clips.parquet")
    clips = pq.read_table(out / "clips.parquet", columns=[name for name in schema.names if name != EMBEDDING])
    told = {*FACTS, LEVELS.name, *(score.name for score in about.values() if score.unit == "pixels")}
    card = Card(
        folder=out,
        name=name,
        sources=pq.read_table(out / "sources.parquet").to_pylist(),
        clips=clips.to_pylist(),
        rows=tars.Tars(out).rows,
        scores=[field.name for field in clips.schema if is_score(field) and field.name not in told],
        limits={limit.score: limit for limit in limits},
        recipe=(out / "recipe.json").read_text(encoding="utf-8"),
        about=about,
        funnels=[table(funnel(clips, out / "work" / stage)) for stage in nested],
    )
    path = out / "card.html"
    with replacing(path) as temporary:
        temporary.write_text(page(card), encoding="utf-8")
    return path


def page(card: Card) -> str:
    """Return the page; the same card gives the same text."""
    title = html.escape(card.name)
    parts = [
        f"<h1>{title}</h1>",
        f'<p class="soft">{_summary(card)}</p>',
        _tiles(card),
        _flow(card),
        *map(_funnel, card.funnels),
        _problems(card),
        _notices(card),
        _licences(card),
        _charts(card),
        _sheets(card),
        f"<h2>Recipe</h2><details><summary>as it was run</summary><pre>{html.escape(card.recipe)}</pre></details>",
    ]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>'
        f"<style>{STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


# ---- numbers ---------------------------------------------------------------------------------------------------------


def _summary(card: Card) -> str:
    unusable = sum(bool(source["problem"]) for source in card.sources)
    was = "was" if unusable == 1 else "were"
    files, clips = _plural(len(card.sources), "file"), _plural(len(card.clips), "clip")
    return (
        f"{files} went in, {unusable} of them {was} not usable. {clips} came of the others: {len(card.kept)} kept, "
        f"{len(card.dropped)} dropped, each with a reason below."
    )


def _tiles(card: Card) -> str:
    kinds = {source["id"]: source["kind"] for source in card.sources}
    pictures = sum(kinds.get(clip["source"]) == "image" for clip in card.kept)
    shards = _plural(len({row.shard for row in card.rows}), "shard")
    tiles = [
        (_time(sum(source["duration_s"] for source in card.sources)), "of video went in"),
        (_time(_seconds(card.kept)), "of video kept"),
        (str(len(card.kept) - pictures), "video clips"),
        (str(pictures), "pictures"),
        (str(sum(row.num_frames for row in card.rows)), "frames"),
        (_bytes(sum(row.size_bytes for row in card.rows)), f"in {shards}"),
    ]
    cells = "".join(f'<div class="tile"><b>{value}</b><span>{label}</span></div>' for value, label in tiles)
    return f'<div class="tiles">{cells}</div>'


def _flow(card: Card) -> str:
    """Show where the time went: kept, dropped by each stage, or between clips."""
    total_s = sum(source["duration_s"] for source in card.sources)
    by_stage: dict[str, list[Row]] = defaultdict(list)
    for clip in card.dropped:
        by_stage[clip["dropped_by"]].append(clip)
    unusable_s = sum(source["duration_s"] for source in card.sources if source["stage"] == "ingest")
    between_s = max(0.0, total_s - unusable_s - _seconds(card.clips))
    parts = [("kept", len(card.kept), _seconds(card.kept)), ("not usable", 0, unusable_s)]
    ranked_stages = sorted(by_stage.items(), key=lambda item: (-_seconds(item[1]), item[0]))
    parts += [(f"dropped by {stage}", len(clips), _seconds(clips)) for stage, clips in ranked_stages]
    parts.append(("between clips: transitions, trimmed ends", 0, between_s))
    parts = [part for part in parts if part[1] or part[2] > 0.005]
    shades = [
        "var(--kept)" if label == "kept" else f"hsl(215 8% {max(35, 87 - 9 * place)}%)"
        for place, (label, _, _) in enumerate(parts)
    ]
    bar = "".join(
        f'<i style="width:{100 * seconds / total_s:.2f}%;background:{shade}" title="{html.escape(label)}"></i>'
        for (label, _, seconds), shade in zip(parts, shades, strict=True)
        if total_s
    )
    rows = [
        [
            f'<span class="key" style="background:{shade};margin-left:0"></span>{html.escape(label)}',
            str(count) if count else "",
            _time(seconds),
            _share(seconds, total_s),
        ]
        for (label, count, seconds), shade in zip(parts, shades, strict=True)
    ]
    reasons: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for clip in card.dropped:
        reasons[clip["dropped_by"], grouped(clip["reason"])].append(clip)
    ranked = sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0]))
    why = [
        [html.escape(stage), _explained(reason, card), str(len(clips)), _time(_seconds(clips))]
        for (stage, reason), clips in ranked
    ]
    text = f'<h2>Where the time went</h2><div class="bar">{bar}</div>'
    text += _table(["", "clips", "time", "share"], rows, numbers=(1, 2, 3))
    if why:
        text += "<h3>Why clips were dropped</h3>" + _table(["stage", "reason", "clips", "time"], why, numbers=(2, 3))
    return text


def _funnel(lines: Sequence[Sequence[str]]) -> str:
    """Show how many clips come up to each level, and what stops the others."""
    heads = ["level", "limit", "came", "stopped", "clips", "seconds"]
    cells = [[html.escape(cell) for cell in line] for line in lines]
    return "<h2>Levels, each within the one before it</h2>" + _table(heads, cells, numbers=(2, 3, 4, 5))


def _explained(reason: str, card: Card) -> str:
    """Return a reason, and below it what the number that it speaks of says."""
    about = card.about.get(reason.partition(" is ")[0])
    return html.escape(reason) + (f'<br><span class="soft">{html.escape(about.meaning)}</span>' if about else "")


def _problems(card: Card) -> str:
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for source in card.sources:
        if source["problem"]:
            groups[source["stage"], grouped(source["problem"])].append(source["path"])
    return _files("Files that could not be used", ["stage", "problem"], groups)


def _notices(card: Card) -> str:
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for source in card.sources:
        for notice in filter(None, (source.get("notices") or "").split("; ")):
            groups[(grouped(notice),)].append(source["path"])
    return _files("Files to know about", ["what"], groups)


def _files(title: str, heads: Sequence[str], groups: Mapping[tuple[str, ...], Sequence[str]]) -> str:
    """Show how many files there are of each group, with the names of some."""
    if not groups:
        return ""
    rows = []
    for cells, paths in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        more = f" and {len(paths) - EXAMPLES} more" if len(paths) > EXAMPLES else ""
        names = ", ".join(html.escape(Path(path).name) for path in paths[:EXAMPLES])
        rows.append([*map(html.escape, cells), str(len(paths)), f'<span class="soft">{names}{more}</span>'])
    return f"<h2>{title}</h2>" + _table([*heads, "files", "which"], rows, numbers=(len(heads),))


def _licences(card: Card) -> str:
    licence_of = {source["id"]: source["licence"] or "not stated" for source in card.sources}
    files, clips, seconds = Counter(licence_of.values()), Counter(), Counter()
    for clip in card.kept:
        clips[licence_of[clip["source"]]] += 1
        seconds[licence_of[clip["source"]]] += clip["end_s"] - clip["start_s"]
    rows = [
        [html.escape(licence), str(count), str(clips[licence]), _time(seconds[licence])]
        for licence, count in sorted(files.items(), key=lambda item: (-item[1], item[0]))
    ]
    return "<h2>Licences</h2>" + _table(["licence", "files", "clips kept", "time kept"], rows, numbers=(1, 2, 3))


def grouped(reason: str) -> str:
    """Return a reason without the numbers and names of the one case, so that equal ones can be counted."""
    of_another = DUPLICATE.match(reason)
    if of_another:
        return f"{of_another[1]} duplicate of a clip that is {of_another[3]}"
    of_limit = VALUE.match(reason)
    if of_limit:
        name, unit, side, limit = of_limit.groups()
        return f"{name} is {side} {limit}{unit or ''}"
    if reason.startswith("has the same bytes as"):
        return "has the same bytes as another file"
    return NUMBER.sub("…", reason)


# ---- charts ----------------------------------------------------------------------------------------------------------


def _charts(card: Card) -> str:
    of = {source["id"]: source for source in card.sources}

    def size(clip: Row) -> tuple[int, int]:
        return of[clip["source"]]["width"], of[clip["source"]]["height"]

    facts: list[tuple[str, str, Callable[[Row], float | None]]] = [
        ("duration_s", "seconds", lambda clip: (clip["end_s"] - clip["start_s"]) or None),
        ("short_side_px", "pixels", lambda clip: min(size(clip))),
        (
            "aspect",
            "width over height",
            lambda clip: of[clip["source"]]["width"] / max(1, of[clip["source"]]["height"]),
        ),
        ("fps", "frames a second", lambda clip: float(Fraction(of[clip["source"]]["fps"] or 0)) or None),
    ]
    charts = [_chart(card, name, unit, value) for name, unit, value in facts]
    for name in card.scores:
        if any(isinstance(clip[name], str | list) for clip in card.clips):
            charts.append(_names(card, name))
            continue
        one = card.limits.get(name) or card.about.get(name)
        charts.append(_chart(card, name, one.unit if one else "", lambda clip, name=name: clip[name]))
    legend = (
        '<p class="soft"><span class="key" style="background:var(--kept);margin-left:0"></span>kept'
        '<span class="key" style="background:var(--dropped)"></span>dropped'
        '<span class="key" style="background:var(--limit)"></span>limit</p>'
    )
    return f'<h2>How the clips are distributed</h2>{legend}<div class="charts">{"".join(charts)}</div>'


def _names(card: Card, score: str) -> str:
    """Count the clips of each name, such as those of camera moves, or of each tag."""
    kept, dropped = (Counter(_named(clip[score] for clip in clips)) for clips in (card.kept, card.dropped))
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{kept[name]}</td><td>{dropped[name]}</td></tr>"
        for name in sorted(kept | dropped, key=lambda name: (-kept[name] - dropped[name], name))
    )
    head = "<tr><th></th><th>kept</th><th>dropped</th></tr>"
    return f'<div class="chart"><h3>{html.escape(score)}</h3><table>{head}{rows}</table></div>'


def _chart(card: Card, name: str, unit: str, value: Callable[[Row], float | None]) -> str:
    kept = _values(card.kept, value)
    dropped = _values(card.dropped, value)
    both = np.concatenate([kept, dropped])
    if not len(both):
        return ""
    low, high = float(both.min()), float(both.max())
    if high <= low:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, BINS + 1)
    limit = card.limits.get(name)
    limits = [at for at in (limit.at_least, limit.at_most) if at is not None] if limit else []
    svg = _bars(np.histogram(kept, edges)[0], np.histogram(dropped, edges)[0], (low, high), limits)
    shown = f"{html.escape(name)}{f', {html.escape(unit)}' if unit else ''}"
    about = limit or card.about.get(name)
    meaning = f'<p class="soft">{html.escape(about.meaning)}</p>' if about and about.meaning else ""
    return f'<div class="chart"><h3>{shown}</h3>{meaning}{svg}</div>'


def _named(values: Iterable[str | list[str] | None]) -> Iterator[str]:
    for value in values:
        yield from filter(None, value if isinstance(value, list) else [value])


def _values(clips: Iterable[Row], value: Callable[[Row], float | None]) -> Float64[np.ndarray, " n"]:
    found = [value(clip) for clip in clips]
    return np.array([number for number in found if number is not None and np.isfinite(number)], np.float64)


def _bars(
    kept: Int64[np.ndarray, " bins"],
    dropped: Int64[np.ndarray, " bins"],
    ends: tuple[float, float],
    limits: Sequence[float],
) -> str:
    wide, top, high, most = 320.0, 14.0, 104.0, max(1, int((kept + dropped).max()))
    step = wide / len(kept)
    shapes = []
    for i, (below, above) in enumerate(zip(kept.tolist(), dropped.tolist(), strict=True)):
        base = high
        for count, colour in ((below, "--kept"), (above, "--dropped")):
            if count:
                tall = (high - top) * count / most
                base -= tall
                place = f'x="{i * step:.1f}" y="{base:.1f}" width="{step - 1:.1f}" height="{tall:.1f}"'
                shapes.append(f'<rect {place} fill="var({colour})"/>')
    for limit in limits:
        if ends[0] <= limit <= ends[1]:
            x = wide * (limit - ends[0]) / (ends[1] - ends[0])
            shapes.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{high}" stroke="var(--limit)" stroke-width="1.5"/>'
            )
    shapes.append(f'<line x1="0" x2="{wide}" y1="{high}" y2="{high}" stroke="var(--line)"/>')
    shapes.append(f'<text x="0" y="{high + 13}">{ends[0]:.4g}</text>')
    shapes.append(f'<text x="{wide}" y="{high + 13}" text-anchor="end">{ends[1]:.4g}</text>')
    shapes.append(f'<text x="{wide}" y="9" text-anchor="end">up to {most}</text>')
    return f'<svg viewBox="0 0 {wide:.0f} {high + 18:.0f}" role="img">{"".join(shapes)}</svg>'


# ---- pictures --------------------------------------------------------------------------------------------------------


def _sheets(card: Card) -> str:
    album = _Album(card)
    parts = [f"<h2>What was kept</h2>{album.sheet(_spread(card.kept, SHEET), is_kept=True)}"] if card.kept else []
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for clip in card.dropped:
        groups[clip["dropped_by"], grouped(clip["reason"])].append(clip)
    if groups:
        parts.append("<h2>What was dropped</h2>")
    for (stage, reason), clips in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        sheet = album.sheet(_spread(clips, SHEET_OF_REASON), is_kept=False)
        parts.append(f"<h3>{html.escape(stage)}: {html.escape(reason)} ({len(clips)})</h3>{sheet}")
    return "".join(parts)


class _Album:
    """Finds a picture of a clip among the small ones that were stored when its source was measured."""

    def __init__(self, card: Card) -> None:
        self._folder = card.folder
        self._sources = {source["id"]: source for source in card.sources if source["stage"] != "ingest"}
        self._clips = {clip["id"]: clip for clip in card.clips}
        self._pictures: dict[str, list[tuple[int, bytes]]] = {}

    def sheet(self, clips: Sequence[Row], *, is_kept: bool) -> str:
        """Lay out clips, each with its file and what is most worth knowing of it, a duplicate beside what was kept."""
        figures, are_pairs = [], False
        for clip in clips:
            source = self._sources[clip["source"]]
            told = _caption(clip) or source["caption"] if is_kept else clip["reason"]
            seen, text = self._picture(clip), self._place(clip)
            of_another = None if is_kept else DUPLICATE.match(told)
            other = self._clips.get(of_another[2]) if of_another else None
            if of_another and other:
                are_pairs = True
                seen = f'<div class="pair">{seen}{self._picture(other)}</div>'
                text, told = f"{text} | {self._place(other)}", f"the second is {of_another[3]}"
            text = html.escape(text) + (f"<br>{html.escape(told[:120])}" if told else "")
            figures.append(f"<figure>{seen}<figcaption>{text}</figcaption></figure>")
        return f'<div class="sheet{" pairs" if are_pairs else ""}">{"".join(figures)}</div>'

    def _place(self, clip: Row) -> str:
        source = self._sources[clip["source"]]
        place = "" if source["kind"] == "image" else f", {clip['start_s']:.1f} to {clip['end_s']:.1f} s"
        return f"{Path(source['path']).name}{place}"

    def _picture(self, clip: Row) -> str:
        data = self._of(clip)
        if not data:
            return '<div class="blank"></div>'  # a short clip may lie between two stored pictures
        return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(data).decode()}">'

    def _of(self, clip: Row) -> bytes | None:
        pictures = self._pictures.get(clip["source"])
        if pictures is None:
            pictures = self._pictures[clip["source"]] = self._read(clip["source"])
        middle = (clip["start"] + clip["end"]) / 2
        inside = [(abs(index - middle), data) for index, data in pictures if clip["start"] <= index < clip["end"]]
        return min(inside)[1] if inside else None

    def _read(self, source: str) -> list[tuple[int, bytes]]:
        path = self._folder / (self._sources[source]["signals"] or "missing")
        if not path.is_file() or "picture" not in pq.read_schema(path).names:
            return []
        table = pq.read_table(path, columns=["index", "picture"])
        pairs = zip(table["index"].to_pylist(), table["picture"].to_pylist(), strict=True)
        return [(index, data) for index, data in pairs if data is not None]


def _caption(clip: Row) -> str:
    captions = clip.get(CAPTIONS.name)
    return captions[0]["text"] if captions else ""


def _spread(clips: Sequence[Row], most: int) -> list[Row]:
    """Return some clips from all over a list."""
    if len(clips) <= most:
        return list(clips)
    return [clips[i * len(clips) // most] for i in range(most)]


# ---- words -----------------------------------------------------------------------------------------------------------


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int]) -> str:
    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(f"<{tag}{' class=n' if i in numbers else ''}>{cell}</{tag}>" for i, cell in enumerate(row))

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{cells("th", heads)}</tr>{body}</table></div>'


def _seconds(clips: Iterable[Row]) -> float:
    return sum(clip["end_s"] - clip["start_s"] for clip in clips)


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def _share(part: float, total: float) -> str:
    return f"{100 * part / total:.1f} %" if total else ""


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
