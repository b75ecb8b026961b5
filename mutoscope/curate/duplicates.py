"""Duplicates: find clips that show the same, exactly, to the eye or in meaning, and keep the best of each group.

    tables of frames ── keys ──> candidates ── aligned ──┐
    same frames, bit for bit ────────────────────────────┼──> pairs ── components ──> groups ── best ──> one is kept
    embeddings ── cosines, block by block ───────────────┘

*Exact*: size and signals of all frames are equal, as of two files with the same video in them. *Perceptual*: encoded
again, at another size, with its ends cut off, begun at another moment, at another frame rate or somewhat faster or
slower. *Semantic*: embeddings, of whatever model, that point in nearly the same direction.

Perceptual copies are found in two steps. Hashes of a few frames a second, each cut into four parts of which any two
must be equal, name the candidates: that is sorting, not comparing all with all. Then the two clips are laid along each
other in time, at the shift and speed at which their `cells` agree best, and must agree in look and in how they move:
two moments before one fixed camera look alike and are no duplicates. Frames of hardly any structure, such as black
ones, have neither hashes nor a vote, so a clip of only such frames is like nothing.

What was cropped, bordered, mirrored or graded anew is not found: its cells differ. Of a group, clips need not be alike
pairwise: A may share its end with B and B its end with C.

Cost: for candidates six sorts, one after another, of the `keys_a_second` hashes of each second of video, or fewer where
they repeat, at about 100 bytes a hash; measured, 5 s and 0.2 GB for 100,000 clips of 24 hashes, on one core. A
candidate pair costs 1 to 2 ms, and a key that many clips share adds only `crowd` pairs a clip. Each table of frames is
read once for its hashes, and again for candidates.
"""

import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Float32, Float64, Int64, UInt8, UInt64

from mutoscope.core.errors import RecipeError
from mutoscope.curate.balance import kmeans, squared_distances, unit
from mutoscope.curate.pixels import CELLS, NUM_CELLS
from mutoscope.curate.signals import facts
from mutoscope.curate.stage import CLIPS, SetView, embeddings, replace_columns

COLUMNS = ("time_s", "phash", "cells", "sharpness", "detail")  # of tables of frames; the facts in their metadata too
LUMA_CELLS = CELLS**2
# luma and colour weigh the same in all, so that distances are in levels
WEIGHTS = np.sqrt(
    np.repeat([0.5 / LUMA_CELLS, 0.5 / (NUM_CELLS - LUMA_CELLS)], [LUMA_CELLS, NUM_CELLS - LUMA_CELLS])
).astype(np.float32)
PARTS = 4  # of a hash, of 16 bits
PHASES = 4  # moments between two samples that are tried
SPEEDS = (1.0, 24 / 25, 25 / 24, 4 / 5, 5 / 4, 2 / 3, 3 / 2, 1 / 2, 2.0)
# how detail grows with the pixels of a frame: copies that were made smaller have less of it, and so have enlarged ones
DETAIL_GROWS = 0.35
SAME_DETAIL = 0.7  # of the best detail of a group, from which length and sound count for more
SAME_LENGTH = 0.95  # of the longest of those, from which a clip is as long
CELLS_FROM = 20_000  # embeddings from which they are clustered first
KINDS = ("exact", "perceptual", "semantic")

Places = Float32[np.ndarray, "n cells"]
Pairs = Int64[np.ndarray, "p 2"]
SignalsOf = Callable[[str], pa.Table]


@dataclass(frozen=True)
class DuplicateSettings:
    """What counts as a duplicate.

    Args:
        share: of the shorter clip that must be in the other.
        look_levels: distance up to which two frames look alike, in 8-bit levels, root mean square over cells.
        look_share: the same, in shares of the structure of the frame, which binds for dark and flat ones.
        flat_levels: structure below which a frame says nothing: deviation of its cells, in levels.
        still_levels: change over a clip that noise alone makes, in levels.
        overlap_share: of the frames in which the clips overlap that must look alike.
        motion_share: of how the clips move that may differ; less where all that moves is one light.
        cell_levels: by which a cell of a still picture may differ from its copy, in 8-bit levels.
        keys_a_second: frames a second whose hashes are looked up.
        crowd: clips with one key with which each is compared, the next ones in order of their hashes.
        cosine: of embeddings, from which clips are semantic duplicates; which is right depends on the model.
        block: embeddings that are compared at once.
        name: how the clips that are dropped are marked.
    """

    share: float = 0.5
    look_levels: float = 3.5
    look_share: float = 0.25
    flat_levels: float = 1.5
    still_levels: float = 0.4
    overlap_share: float = 0.8
    motion_share: float = 0.6
    cell_levels: float = 4.0
    keys_a_second: float = 8.0
    crowd: int = 64
    cosine: float = 0.97
    block: int = 2048
    name: str = "duplicates"
    version: int = field(default=3, init=False)

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or not 0 < self.cosine <= 1 or self.keys_a_second <= 0 or self.crowd < 1:
            raise RecipeError(
                f"share={self.share:g}, cosine={self.cosine:g}, keys_a_second={self.keys_a_second:g}, "
                f"crowd={self.crowd} do not work. Give shares above 0 and up to 1, and numbers above 0."
            )


@dataclass(frozen=True)
class Duplicates:
    """The stage over the set that drops all but the best of each group of duplicates.

    It works from the tables of frames; where an earlier stage has embedded the clips, from what they mean too.

    Args:
        settings: what counts as a duplicate.
    """

    settings: DuplicateSettings = DuplicateSettings()

    @property
    def name(self) -> str:
        """How the clips that are dropped are marked."""
        return self.settings.name

    @property
    def version(self) -> int:
        """Of the settings, which are all that the result depends on."""
        return self.settings.version

    def run(self, clips: pa.Table, view: SetView) -> pa.Table:
        """Mark the duplicates."""
        few = clips.select(CLIPS.names)
        names = clips["id"].to_pylist()
        with_sound = {name for name in names if view.source(name).has_audio}
        found = drop_duplicates(
            few, lambda source: view.source_signals(source, COLUMNS), self.settings, embeddings(clips), with_sound
        )
        return replace_columns(clips, {name: found[name] for name in ("dropped_by", "reason")})


def drop_duplicates(
    clips: pa.Table,
    signals_of: SignalsOf,
    settings: DuplicateSettings = DuplicateSettings(),
    embeddings: Mapping[str, Float[np.ndarray, " d"]] | None = None,
    with_sound: Collection[str] = (),
) -> pa.Table:
    """Mark all but the best of each group of duplicates among the clips that are still kept.

    Kept is the longest of those with much the same detail, one with sound if any has it; then the one with the most
    detail, which copies lose that were made smaller or larger or encoded again; then the first by name.

    Args:
        clips: of all sources; any order gives the same result.
        signals_of: returns the table of frames of a source by its name; `COLUMNS` of it are needed.
        settings: what counts as a duplicate.
        embeddings: of clips, by their names; without them none is a semantic duplicate.
        with_sound: names of the clips that have sound.

    Returns:
        The same rows, in the same order.
    """
    rows = clips.to_pylist()
    places = [place for place, row in enumerate(rows) if not row["dropped_by"]]
    places.sort(key=lambda place: rows[place]["id"])
    kept = [rows[place] for place in places]
    shelf = _Shelf(kept, signals_of)
    first = [_first_look(shelf, number, settings, row["id"] in with_sound) for number, row in enumerate(kept)]
    forest = _Forest(len(kept))
    labels = []
    forest.join(_equal([row["id"].encode() for row in kept]))
    forest.join(_equal([one.digest for one in first]))
    labels.append(forest.labels())
    for pair in candidates([one.hashes for one in first], settings.crowd):
        if forest.are_apart(*pair) and aligned(shelf.look(pair[0]), shelf.look(pair[1]), settings) is not None:
            forest.join([pair])
    labels.append(forest.labels())
    if embeddings:
        have = [number for number, row in enumerate(kept) if row["id"] in embeddings]
        if have:
            points = np.stack([np.asarray(embeddings[kept[number]["id"]], np.float32) for number in have])
            for pairs in semantic_pairs(points, settings.cosine, settings.block):
                forest.join(np.array(have)[pairs].tolist())
    labels.append(forest.labels())
    for number, best, kind in _worse(labels, [one.merits for one in first]):
        row, merit = rows[places[number]], _merit(first[best].merits, first[number].merits)
        row["dropped_by"] = settings.name
        row["reason"] = f"{kind} duplicate of {kept[best]['id']}, which is {merit}"
    return pa.Table.from_pylist(rows, clips.schema)


# ---- groups ----------------------------------------------------------------------------------------------------------


class _Forest:
    """Sets of numbers that are joined pair by pair; a set is known by its least member."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def root(self, number: int) -> int:
        parent = self._parent
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    def are_apart(self, one: int, other: int) -> bool:
        return self.root(one) != self.root(other)

    def join(self, pairs: Iterable[Sequence[int]]) -> None:
        for one, other in pairs:
            low, high = sorted((self.root(one), self.root(other)))
            self._parent[high] = low

    def labels(self) -> list[int]:
        return [self.root(number) for number in range(len(self._parent))]


def components(count: int, pairs: Iterable[Sequence[int]]) -> list[int]:
    """Return for each of `count` things the least of its group, where pairs name things of one group."""
    forest = _Forest(count)
    forest.join(pairs)
    return forest.labels()


def _equal(digests: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    first: dict[bytes, int] = {}
    for number, digest in enumerate(digests):
        if digest and first.setdefault(digest, number) != number:
            yield first[digest], number


@dataclass(frozen=True)
class Merits:
    """What tells which of several copies is the best.

    Args:
        detail: deviation of the Laplacian at the frame's own size times a power of its pixels, which is less in a copy
            that was made smaller, and in one that was made larger.
        duration_s: of the clip.
        has_sound: its source has.
        pixels: of a frame.
        sharpness: of the small frame.
        name: of the clip.
    """

    detail: float
    duration_s: float
    has_sound: bool
    pixels: int
    sharpness: float
    name: str


def _best(group: Sequence[Merits]) -> Merits:
    """Choose the copy that holds most.

    Of all that have much the same detail, the longest count; of them sound decides, then detail, then the name.
    """
    most = max(one.detail for one in group)
    rich = [one for one in group if one.detail >= SAME_DETAIL * most]
    longest = max(one.duration_s for one in rich)
    whole = [one for one in rich if one.duration_s >= SAME_LENGTH * longest]
    return min(whole, key=lambda one: (not one.has_sound, -one.detail, -one.sharpness, -one.duration_s, one.name))


def _worse(levels: Sequence[Sequence[int]], merits: Sequence[Merits]) -> Iterator[tuple[int, int, str]]:
    """Yield what is not the best of its group, what is, and by which kind of likeness they came together."""
    groups: dict[int, list[int]] = {}
    for number, label in enumerate(levels[-1]):
        groups.setdefault(label, []).append(number)
    for numbers in groups.values():
        chosen = _best([merits[number] for number in numbers])
        best = next(number for number in numbers if merits[number] is chosen)
        for number in numbers:
            if number != best:
                kind = next(kind for kind, level in zip(KINDS, levels, strict=True) if level[number] == level[best])
                yield number, best, kind


def _merit(better: Merits, worse: Merits) -> str:
    """Say in what the better one is better."""
    if worse.detail >= SAME_DETAIL * better.detail:
        if worse.duration_s < SAME_LENGTH * better.duration_s:
            return "longer"
        if better.has_sound and not worse.has_sound:
            return "with sound"
    if better.detail > worse.detail:
        if better.pixels < worse.pixels:
            return "as detailed in a smaller frame"
        return "larger" if better.pixels > worse.pixels else "more detailed"
    if better.sharpness > worse.sharpness:
        return "sharper"
    return "longer" if better.duration_s > worse.duration_s else "as good and comes first"


# ---- what is known of a clip -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """The frames of a clip, as far as they matter here.

    Args:
        time_s: of each frame, from the first.
        hashes: perceptual.
        cells: levels.
    """

    time_s: Float64[np.ndarray, " n"]
    hashes: UInt64[np.ndarray, " n"]
    cells: UInt8[np.ndarray, "n cells"]

    @classmethod
    def of(cls, table: pa.Table) -> "Look":
        """Take what matters out of the rows of a table of signals."""
        time = table["time_s"].to_numpy()
        cells = table["cells"].combine_chunks().flatten().to_numpy().reshape(-1, NUM_CELLS)
        return cls(time - time[0], table["phash"].to_numpy(), cells)

    @property
    def duration_s(self) -> float:
        """Return the seconds from the first frame to the last."""
        return float(self.time_s[-1])

    def at(self, seconds: Float64[np.ndarray, " m"]) -> Int64[np.ndarray, " m"]:
        """Return the frames that are nearest to moments."""
        after = np.searchsorted(self.time_s, seconds).clip(1, len(self.time_s) - 1) if len(self.time_s) > 1 else 0
        if isinstance(after, int):
            return np.zeros(len(seconds), np.int64)
        is_before = seconds - self.time_s[after - 1] <= self.time_s[after] - seconds
        return np.where(is_before, after - 1, after)

    def places(self, frames: Int64[np.ndarray, " m"]) -> Places:
        """Return the cells of frames so that distances between them are in levels."""
        return self.cells[frames] * WEIGHTS


@dataclass(frozen=True)
class _First:
    """What is remembered of every clip: the hashes to look it up by, its merits, all its frames."""

    hashes: UInt64[np.ndarray, " k"]
    merits: Merits
    digest: bytes


@dataclass
class _Shelf:
    """Reads looks of clips; the tables of the sources that were asked for last stay in memory."""

    clips: Sequence[dict[str, Any]]
    signals_of: SignalsOf
    most: int = 32
    _tables: dict[str, pa.Table] = field(default_factory=dict)
    _looks: dict[int, Look] = field(default_factory=dict)

    def table(self, number: int) -> pa.Table:
        source = self.clips[number]["source"]
        table = self._tables.pop(source, None)
        table = self.signals_of(source).select(COLUMNS) if table is None else table
        self._tables[source] = table  # the last one now
        if len(self._tables) > self.most:
            del self._tables[next(iter(self._tables))]
        start, end = self.clips[number]["start"], self.clips[number]["end"]
        return table.slice(start, end - start)

    def look(self, number: int) -> Look:
        look = self._looks.pop(number, None) or Look.of(self.table(number))
        self._looks[number] = look
        if len(self._looks) > 16 * self.most:
            del self._looks[next(iter(self._looks))]
        return look


def _first_look(shelf: _Shelf, number: int, settings: DuplicateSettings, has_sound: bool) -> _First:
    clip, table = shelf.clips[number], shelf.table(number)
    if not table.num_rows:
        return _First(np.empty(0, np.uint64), Merits(0.0, 0.0, has_sound, 0, 0.0, clip["id"]), b"")
    look, about = Look.of(table), facts(table)
    sharpness = float(np.mean(table["sharpness"].to_numpy(), dtype=np.float64))
    detail = table["detail"].drop_null().to_numpy()
    pixels, length_s = about.width * about.height, clip["end_s"] - clip["start_s"]
    deviation = math.sqrt(float(np.median(detail)) if len(detail) else sharpness)  # a short clip may have no sample
    merits = Merits(pixels**DETAIL_GROWS * deviation, length_s, has_sound, pixels, round(sharpness, 3), clip["id"])
    digest = b""
    if not is_flat(look.places(np.arange(len(look.time_s))), settings).all():
        frames = [look.hashes, look.cells, table["sharpness"].to_numpy(), np.array([about.width, about.height])]
        digest = hashlib.sha256(b"".join(each.tobytes() for each in frames)).digest()
    return _First(landmarks(look, settings), merits, digest)


def is_flat(places: Places, settings: DuplicateSettings) -> Bool[np.ndarray, " n"]:
    """Say of which frames the cells have hardly any structure: they are black, white or blank."""
    return structure(places) < settings.flat_levels


def structure(places: Places) -> Float32[np.ndarray, " n"]:
    """Return how much the cells of frames differ among themselves, in levels of luma."""
    luma = places[:, :LUMA_CELLS] / WEIGHTS[0]
    return luma.std(axis=1)


def landmarks(look: Look, settings: DuplicateSettings) -> UInt64[np.ndarray, " k"]:
    """Return the hashes by which a clip is looked up: those of a few frames a second, each once, flat ones left out."""
    frames = np.unique(look.at(np.arange(0, look.duration_s + 1e-9, 1 / settings.keys_a_second)))
    return np.unique(look.hashes[frames][~is_flat(look.places(frames), settings)])


# ---- candidates ------------------------------------------------------------------------------------------------------


def candidates(hashes: Sequence[UInt64[np.ndarray, " _"]], crowd: int = 64) -> list[tuple[int, int]]:
    """Find the pairs of clips that have a frame each whose hashes agree in two of their four parts.

    So do all hashes that differ in two bits or less, most in three, and few others. Cost: six sorts.

    Args:
        hashes: of each clip.
        crowd: of the clips that share a key, each is paired with so many that follow it in the order of hashes; a pair
            that this leaves out is found through others, where the crowd is all alike.

    Returns:
        Pairs in order, the lesser number first.
    """
    if not hashes:
        return []
    whose = np.repeat(np.arange(len(hashes), dtype=np.int64), [len(each) for each in hashes])
    flat = np.concatenate(hashes)
    if not len(flat):  # clips of nothing but flat frames
        return []
    found: list[Pairs] = []
    for parts in combinations(range(PARTS), 2):
        mask = np.uint64(sum(0xFFFF << (16 * part) for part in parts))
        keys = flat & mask
        order = np.lexsort((whose, flat, keys))
        keys, clips = keys[order], whose[order]
        is_new = np.r_[True, (keys[1:] != keys[:-1]) | (clips[1:] != clips[:-1])]
        keys, clips = keys[is_new], clips[is_new]
        for step in range(1, min(crowd, len(keys) - 1) + 1):
            same = np.flatnonzero(keys[step:] == keys[:-step])
            if not len(same):
                break
            found.append(np.sort(np.stack([clips[same], clips[same + step]], axis=1), axis=1))
    if not found:
        return []
    pairs = np.unique(np.concatenate(found), axis=0)
    return [(one, other) for one, other in pairs.tolist() if one != other]


# ---- alignment -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Alignment:
    """How two clips lie along each other: moment t of the one is moment ``speed * t + shift_s`` of the other.

    `share` is how much of the shorter one is alike.
    """

    shift_s: float
    speed: float
    share: float


@dataclass(frozen=True)
class _Samples:
    """Frames of a clip at equal steps of time, with the distance up to which others look alike."""

    places: Places
    limits: Float32[np.ndarray, " n"]
    says_much: Bool[np.ndarray, " n"]

    @classmethod
    def of(cls, look: Look, start_s: float, step_s: float, settings: DuplicateSettings) -> "_Samples":
        frames = look.at(np.arange(start_s, look.duration_s + 1e-9, step_s))
        places = look.places(frames)
        levels = structure(places)
        limits = np.minimum(settings.look_levels, settings.look_share * levels)
        return cls(places, limits, levels >= settings.flat_levels)

    def part(self, start: int, end: int) -> "_Samples":
        span = slice(start, end)
        return _Samples(self.places[span], self.limits[span], self.says_much[span])

    @property
    def change(self) -> float:
        """Return how far frames lie from their mean, in levels, root mean square."""
        return float(np.sqrt(np.square(self.places - self.places.mean(axis=0)).sum(axis=1).mean()))


def aligned(one: Look, other: Look, settings: DuplicateSettings = DuplicateSettings()) -> Alignment | None:
    """Find how two clips lie along each other, if one is a copy of the other or of a part of it."""
    step, still = 1 / settings.keys_a_second, settings.still_levels
    first = _Samples.of(one, 0, step, settings)
    low, high = sorted((first.change, _Samples.of(other, 0, step, settings).change))
    if low < still and high > 3 * still:  # a picture is no copy of a video in which it is a frame
        return None
    speeds = SPEEDS[:1] if low < 3 * still else SPEEDS  # what hardly moves has no speed
    found = (_along(first, other, speed, settings) for speed in speeds)
    return next((each for each in found if each is not None), None)


def _along(first: _Samples, other: Look, speed: float, settings: DuplicateSettings) -> Alignment | None:
    """Try one speed: find the shift at which most frames are alike, and see whether they also move alike."""
    step_s = speed / settings.keys_a_second
    best, best_score = None, 0.0
    for start_s in np.arange(PHASES) / PHASES * step_s:
        if start_s > other.duration_s:
            break
        second = _Samples.of(other, start_s, step_s, settings)
        offset, score = _best_offset(first, second)
        if score > best_score * (1 + 1e-9):
            best, best_score = (start_s, second, offset), score
    if best is None:
        return None
    start_s, second, offset = best
    low, high = max(0, -offset), min(len(first.places), len(second.places) - offset)
    a, b = first.part(low, high), second.part(low + offset, high + offset)
    is_alike = a.says_much & (np.sqrt(np.square(a.places - b.places).sum(axis=1)) <= a.limits)
    is_judged = a.says_much | b.says_much
    shorter = max(1, min(int(first.says_much.sum()), int(second.says_much.sum())))
    share = min(1.0, float(is_alike.sum()) / shorter)
    # at some other speed a part of almost anything that moves steadily fits
    needed = settings.share if speed == 1 else (1 + settings.share) / 2
    is_copy = share >= needed and is_alike.sum() >= settings.overlap_share * is_judged.sum()
    if not is_copy or not _moves_alike(a.places[is_judged], b.places[is_judged], settings):
        return None
    return Alignment(float(start_s + offset * step_s), speed, share)


def _best_offset(first: _Samples, second: _Samples) -> tuple[int, float]:
    """Return how many samples later frames of the second look like those of the first, and how much they do."""
    distances = np.sqrt(squared_distances(first.places, second.places))
    likeness = (1 - distances / np.maximum(first.limits, 1e-6)[:, None]).clip(0)
    likeness[~first.says_much] = 0
    rows, columns = (np.arange(length) for length in likeness.shape)
    diagonals = columns - rows[:, None] + len(first.places) - 1
    scores = np.bincount(diagonals.ravel(), likeness.ravel())
    best = int(scores.argmax())
    return best - len(first.places) + 1, float(scores[best])


def _moves_alike(one: Places, other: Places, settings: DuplicateSettings) -> bool:
    """Say whether what changes in two aligned clips is the same; of what hardly changes nothing can be said."""
    apart = one.mean(axis=0) - other.mean(axis=0)
    one, other = one - one.mean(axis=0), other - other.mean(axis=0)
    change = max(float(np.square(each).sum(axis=1).mean()) for each in (one, other))
    # an encoder's loss is spread over a still picture, other words on the same slide are in a few cells
    if math.sqrt(change) <= settings.still_levels and np.abs(apart / WEIGHTS)[:LUMA_CELLS].max() > settings.cell_levels:
        return False
    left = float(np.square(one - other).sum(axis=1).mean())
    share = settings.motion_share * min(1.0, (_freedom(np.concatenate([one, other])) + 0.5) / 4)
    return math.sqrt(left) <= max(settings.still_levels, share * math.sqrt(change))


def _freedom(moves: Places) -> float:
    """Return in how many independent ways cells move, at least 1: one light that flickers fits any other by chance."""
    products = moves @ moves.T if len(moves) < moves.shape[1] else moves.T @ moves
    return float(np.trace(products)) ** 2 / max(float(np.square(products).sum()), 1e-9)


# ---- meaning ---------------------------------------------------------------------------------------------------------


def semantic_pairs(
    embeddings: Float32[np.ndarray, "n d"], cosine: float, block: int = 2048, cells: int | None = None
) -> Iterator[Pairs]:
    """Yield all pairs of embeddings whose cosine is at least a limit, block by block.

    Large sets are clustered first. A pair is compared in the cell of its one point, to which all points belong that
    could have a partner there: those no farther from its centre than from their own plus twice the greatest distance
    of a pair. So no pair is missed, and the more the embeddings cluster and the higher the limit is, the less is
    compared; at worst, all with all.

    Args:
        embeddings: of any length but 0; a vector of zeros has no partner.
        cosine: the limit, above 0.
        block: points that are compared at once.
        cells: how many clusters; chosen by the number of points if not given, 1 compares all with all.
    """
    points = unit(embeddings)
    numbers = np.flatnonzero(np.square(points).sum(axis=1) > 0.5)
    points = points[numbers]
    if cells is None:
        cells = 1 if len(points) < CELLS_FROM else int(np.sqrt(len(points)))
    if len(points) < 2:
        return
    if cells <= 1:
        everyone = np.arange(len(points))
        yield from (numbers[pairs] for pairs in _close(points, everyone, everyone, cosine, block))
        return
    found = kmeans(points, min(cells, len(points)), rounds=10)
    reach = 2 * np.sqrt(2 - 2 * cosine) + 1e-3
    for cell, centre in enumerate(found.centres):
        own = np.flatnonzero(found.labels == cell)
        distance = np.sqrt(squared_distances(points, centre[None])[:, 0])
        near = np.flatnonzero(distance <= found.distances + reach)
        yield from (numbers[pairs] for pairs in _close(points, own, near, cosine, block))


def _close(
    points: Float32[np.ndarray, "n d"],
    some: Int64[np.ndarray, " s"],
    others: Int64[np.ndarray, " t"],
    cosine: float,
    block: int,
) -> Iterator[Pairs]:
    for at in range(0, len(some), block):
        for beside in range(0, len(others), block):
            rows, columns = some[at : at + block], others[beside : beside + block]
            one, other = np.nonzero(points[rows] @ points[columns].T >= cosine - 1e-6)
            pairs = np.stack([rows[one], columns[other]], axis=1)
            pairs = pairs[pairs[:, 0] < pairs[:, 1]]
            if len(pairs):
                yield pairs
