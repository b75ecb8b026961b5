"""Batches of clips of many sizes from tar shards, in an order that follows from (seed, step) alone.

    index ── nearest bucket ──> of each clip: frames, height, width, none larger than its own
    step ──> bucket ──> so many of its clips as its budget of tokens allows ──> frames "B T H W 3" of one size

Nothing is carried from step to step: any step can be asked for at once, so a run that was stopped goes on exactly where
it was, and all that there is to save is the step. All ranks find the same bucket, as each works it out for itself.

How: a clip of weight w is due w times an epoch. After e epochs it was drawn floor(e w + phase) times, its phase drawn
once from [0, 1): never one off from what is due, e w on average, and for w = 1 exactly once in each pass through its
bucket. The same rule, with as many batches as its clips fill in an epoch, says how often a bucket is due. So neither
rare shapes nor the clips that do not fill a batch at the end of an epoch are lost or seen too often.
"""

import hashlib
import json
import math
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from mutoscope.core import rng
from mutoscope.core.errors import MediaError, RecipeError
from mutoscope.core.video import Video
from mutoscope.data import buckets, loader
from mutoscope.data.schema import Clip
from mutoscope.data.tars import Row, Sample, Tars

Frames = UInt8[np.ndarray, "T H W 3"]


class Shape(NamedTuple):
    """What all clips of a batch have in common."""

    num_frames: int
    height: int
    width: int


CountTokens = Callable[[Shape], int]


@dataclass(frozen=True)
class BatchSettings:
    """Which sizes clips are brought to, and how many make a batch.

    Args:
        tokens: that a batch of one rank has at most, as the network counts them: 8 clips of 4,000, or one of 32,000.
        bases: sides of squares, in pixels, whose area the frames have at most: 256, or (256, 512) to keep large clips
            large.
        lengths: of clips, in frames. Pictures are clips of length 1, and videos those of the others.
        fps: frames a second to which videos are brought; the nearest frames are taken, none is blended.
        step_px: of which heights and widths are multiples.
        max_ratio: of the long side to the short one.
        most_cropped: share of a frame's area that may be cut off.
        most_clips: of a batch of one rank, however few tokens they have.
        ranks: so many batches are one step. Any number of processes that divides it sees the same steps.
        picture_weight: how often pictures are drawn, relative to videos of the same weight.
        splits: of the clips to draw from, as in `Clip`.
    """

    tokens: int
    bases: tuple[int, ...] = (256,)
    lengths: tuple[int, ...] = (1, 17)
    fps: int = 8
    step_px: int = buckets.STEP
    max_ratio: float = 2.0
    most_cropped: float = 0.25
    most_clips: int = 64
    ranks: int = 1
    picture_weight: float = 1.0
    splits: tuple[str, ...] = ("train", "any")

    def __post_init__(self) -> None:
        numbers = {name: getattr(self, name) for name in ("tokens", "fps", "step_px", "most_clips", "ranks")}
        wrong = [f"{name}={number}" for name, number in numbers.items() if number < 1]
        wrong += [f"{name}=()" for name in ("bases", "lengths", "splits") if not getattr(self, name)]
        wrong += [f"lengths={self.lengths}"] if min(self.lengths, default=1) < 1 else []
        if wrong:
            raise RecipeError(f"{wrong[0]} makes no batches. Give 1 or more.")
        if not (0 <= self.most_cropped < 1 <= self.max_ratio and self.picture_weight >= 0):
            raise RecipeError(
                f"most_cropped={self.most_cropped} must be in [0, 1), max_ratio={self.max_ratio} at least 1, and "
                f"picture_weight={self.picture_weight} at least 0."
            )


class Pick(NamedTuple):
    """One clip of a step.

    `index` is its row, `draw` how often it was drawn before, and `place` its number among all clips of the step: (seed,
    place, step) is a key for its noise, the same on any number of processes.
    """

    index: int
    draw: int
    place: int


@dataclass(frozen=True)
class Batch:
    """Clips of one size, with their records, which speak of them as they are here."""

    step: int
    shape: Shape
    picks: tuple[Pick, ...]
    clips: tuple[Clip, ...]
    frames: UInt8[np.ndarray, "B T H W 3"] = field(repr=False)


@dataclass(frozen=True)
class Bucket:
    """The clips of one size.

    Args:
        shape: that they are brought to.
        tokens: of each.
        clips_per_batch: on each rank.
        draws: of all of them in an epoch, on average.
        indices: their rows.
        shares: how often each is due in a pass; 1 on average.
        phases: of their draws, from [0, 1).
    """

    shape: Shape
    tokens: int
    clips_per_batch: int
    draws: float
    indices: Int64[np.ndarray, " n"] = field(repr=False)
    shares: Float64[np.ndarray, " n"] = field(repr=False)
    phases: Float64[np.ndarray, " n"] = field(repr=False)

    def due(self, passes: int) -> Int64[np.ndarray, " n"]:
        """Return how often each clip was drawn in so many passes."""
        return np.floor(passes * self.shares + self.phases).astype(np.int64)


class Batches:
    """What is trained on at each step.

    Args:
        data: shards and their index; its weights say how often each clip is due.
        settings: see `BatchSettings`.
        count_tokens: of one clip of a shape; raises where the network cannot take it. Shapes of which one clip is more
            than a batch are not used.
        seed: of the order.
        only: ids of the clips to draw from, such as those of a nested level; all if not given.

    Attributes:
        buckets: those that have clips.
        left_out: for each reason, how many clips are in no bucket.
        plan: tells apart orders; see `resume`.

    Raises:
        RecipeError: not even the smallest clip of one of the lengths is within the budget, no clip has a bucket, or a
            weight is no number of draws.
    """

    def __init__(
        self,
        data: Tars,
        settings: BatchSettings,
        count_tokens: CountTokens,
        seed: int = 0,
        only: Collection[str] | None = None,
    ) -> None:
        self.data, self.settings, self.seed = data, settings, seed
        tokens, self._over_budget = _tokens_of_shapes(settings, count_tokens)
        members, self.left_out = _members(data.rows, settings, tokens, only)
        phases = _uniforms(len(data.rows), seed, "phases of clips")
        self.buckets: list[Bucket] = []
        for shape in sorted(members):
            indices = np.array([index for index, _ in members[shape]], np.int64)
            weights = [weight for _, weight in members[shape]]
            draws = math.fsum(weights)  # rounded alike on every machine, unlike NumPy's
            fitting = min(settings.tokens // tokens[shape], settings.most_clips)
            # a batch that is larger than its bucket would hold clips twice
            count = max(1, min(fitting, len(indices) // settings.ranks))
            shares = np.array(weights) / (draws / len(weights))
            self.buckets.append(Bucket(shape, tokens[shape], count, draws, indices, shares, phases[indices]))
        if not self.buckets:
            told = "; ".join(f"{count} {reason}" for reason, count in self.left_out.items()) or "there are none"
            raise RecipeError(
                f"No clip of {data.folder} has a bucket: {told}. Lower bases or lengths, or raise tokens."
            )
        self._batches_per_epoch = np.array(
            [bucket.draws / (bucket.clips_per_batch * settings.ranks) for bucket in self.buckets]
        )
        self._bucket_phases = _uniforms(len(self.buckets), seed, "phases of buckets")
        self.plan = self._digest()
        self._pass = lru_cache(maxsize=2 * len(self.buckets))(self._make_pass)  # a batch may span two
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)
        self._drawn = lru_cache(maxsize=1 << 12)(lambda number, passes: int(self.buckets[number].due(passes).sum()))

    def lines(self) -> list[str]:
        """Say what there is, for people: a line for each bucket, and one for each reason why clips are in none."""
        made = []
        for bucket, due in zip(self.buckets, self._batches_per_epoch, strict=True):
            size = " x ".join(map(str, bucket.shape))
            of = f"{len(bucket.indices)} clips of {bucket.tokens} tokens, {bucket.clips_per_batch} in a batch"
            made.append(f"{size}: {of}, {due:.4g} steps an epoch")
        made += [f"in no bucket: {count}, {reason}" for reason, count in self.left_out.items()]
        found = {bucket.shape.num_frames for bucket in self.buckets}
        empty = [length for length in sorted(self.settings.lengths) if length not in found]
        made += [f"length {length}: no clip" for length in empty]
        if self._over_budget:
            made.append(f"not used: {self._over_budget} sizes of more than {self.settings.tokens} tokens")
        return made

    # ---- which clips -------------------------------------------------------------------------------------------------

    def picks(self, step: int) -> tuple[Shape, tuple[Pick, ...]]:
        """Return the clips of a step over all ranks, and their size.

        Args:
            step: from 1.
        """
        number, batch = self._locate(step)
        bucket = self.buckets[number]
        count = bucket.clips_per_batch * self.settings.ranks
        drawn = self._entries(number, batch * count, count)
        return bucket.shape, tuple(Pick(int(i), int(draw), place) for place, (i, draw) in enumerate(drawn))

    def micro_batches(self, step: int, rank: int = 0, world: int = 1) -> tuple[Shape, list[tuple[Pick, ...]]]:
        """Return the batches of one process at a step, `settings.ranks / world` of them, each of the bucket's size.

        Raises:
            RecipeError: `settings.ranks` cannot be dealt out to so many processes.
        """
        if self.settings.ranks % world or not 0 <= rank < world:
            raise RecipeError(
                f"ranks={self.settings.ranks} cannot be dealt out to {world} processes (this is number {rank}). "
                "Set ranks to a multiple of their number."
            )
        shape, picks = self.picks(step)
        each, share = len(picks) // self.settings.ranks, self.settings.ranks // world
        mine = range(rank * share, (rank + 1) * share)
        return shape, [picks[number * each : (number + 1) * each] for number in mine]

    def steps_before(self, epoch: int) -> int:
        """Return how many steps so many epochs take."""
        return int(self._due(epoch).sum())

    def _due(self, epochs: int) -> Int64[np.ndarray, " buckets"]:
        return np.floor(epochs * self._batches_per_epoch + self._bucket_phases).astype(np.int64)

    def _locate(self, step: int) -> tuple[int, int]:
        """Return the bucket of a step, and how many batches it gave before."""
        if step < 1:
            raise RecipeError(f"step={step} was asked for. The first one is 1.")
        longest = int((step + len(self.buckets)) / self._batches_per_epoch.sum()) + 2
        epoch = bisect_right(range(longest), step - 1, key=self.steps_before) - 1
        order, place = self._epoch(epoch), step - 1 - self.steps_before(epoch)
        number = int(order[place])
        return number, int(self._due(epoch)[number] + np.count_nonzero(order[:place] == number))

    def _make_epoch(self, epoch: int) -> Int64[np.ndarray, " steps"]:
        counts = self._due(epoch + 1) - self._due(epoch)
        order = np.repeat(np.arange(len(counts)), counts)
        return order[_shuffle(len(order), self.seed, "epoch", epoch)]

    def _entries(self, number: int, first: int, count: int) -> Int64[np.ndarray, "count 2"]:
        """Return row and draw of some of the endless sequence of a bucket's clips."""
        passes, found = first // len(self.buckets[number].indices), []
        near = range(max(0, passes - 2), passes + 4)  # a pass draws as many as there are, give or take as many
        at = near[bisect_right(near, first, key=lambda passes: self._drawn(number, passes)) - 1]
        skip = first - self._drawn(number, at)
        while count > 0:
            few = self._pass(number, at)[skip : skip + count]
            found.append(few)
            count, at, skip = count - len(few), at + 1, 0
        return np.concatenate(found)

    def _make_pass(self, number: int, passed: int) -> Int64[np.ndarray, "n 2"]:
        """Return what a pass through a bucket draws, shuffled: row and draw."""
        bucket = self.buckets[number]
        before, counts = bucket.due(passed), bucket.due(passed + 1) - bucket.due(passed)
        starts = np.cumsum(counts) - counts
        drawn = np.repeat(bucket.indices, counts)[_shuffle(counts.sum(), self.seed, "pass", *bucket.shape, passed)]
        draws = np.empty_like(drawn)
        draws[np.argsort(drawn, kind="stable")] = np.repeat(before - starts, counts) + np.arange(len(drawn))
        return np.stack([drawn, draws], axis=1)

    # ---- their frames ------------------------------------------------------------------------------------------------

    def load(self, step: int, rank: int = 0, world: int = 1) -> list[Batch]:
        """Read and decode the batches of one process at a step.

        Raises:
            MediaError: a clip is damaged.
        """
        shape, batches = self.micro_batches(step, rank, world)
        return [self.load_picks(step, shape, picks) for picks in batches]

    def stream(
        self, first: int, last: int, rank: int = 0, world: int = 1, *, ahead: int = 2, workers: int = 0
    ) -> Generator[list[Batch], None, None]:
        """Yield `load` of some steps, both ends included, each made while those before are in use.

        Args:
            first: step; that after the last one that was trained on.
            last: step.
            rank: of this process.
            world: how many processes there are.
            ahead: how many steps may wait, of each worker if there are any.
            workers: processes that decode; 0 takes a thread.
        """
        return loader.prefetch(lambda step: self.load(step, rank, world), first, last, ahead=ahead, workers=workers)

    def load_picks(self, step: int, shape: Shape, picks: Sequence[Pick]) -> Batch:
        """Read and decode some clips of a step."""
        frames, clips = zip(*(self._cut(pick, shape) for pick in picks), strict=True)
        return Batch(step, shape, tuple(picks), clips, np.stack(frames))

    def _cut(self, pick: Pick, shape: Shape) -> tuple[Frames, Clip]:
        """Read a clip from a place in it that is drawn anew each time."""
        with opened(self.data.sample(pick.index)) as (original, clip):
            video = at_rate(original, self.settings.fps)
            spare = (video.num_frames or 0) - shape.num_frames
            if spare < 0:
                raise MediaError(
                    f"Clip {clip.id} has {video.num_frames} frames at {self.settings.fps} a second, and its index says "
                    f"{shape.num_frames} or more. Curate {self.data.folder} again."
                )
            first = int(rng.uniform(self.seed, pick.index, pick.draw, "first frame") * (spare + 1))
            whole = video.resized(shape.height, shape.width, crop=True)
            return whole.take(first, shape.num_frames).array(), _record(clip, video, shape)

    # ---- stopping and going on ---------------------------------------------------------------------------------------

    def state(self, step: int) -> dict[str, str | int]:
        """Return what to save after a step."""
        return {"seed": self.seed, "step": step, "plan": self.plan}

    def resume(self, state: Mapping[str, str | int]) -> int:
        """Return the step to begin with after a stop.

        Raises:
            RecipeError: clips, weights or settings are others than before, and so would be the order.
        """
        if (state["seed"], state["plan"]) != (self.seed, self.plan):
            raise RecipeError(
                "The clips, their weights, the seed or the settings of batches have changed, so the run cannot go on "
                "exactly. Bring them back as they were, or begin anew."
            )
        return int(state["step"]) + 1

    def _digest(self) -> str:
        parts: list[object] = [self.seed, asdict(self.settings)]
        for bucket in self.buckets:
            ids = [(self.data.rows[i].id, self.data.rows[i].sha256) for i in bucket.indices]
            parts.append([*bucket.shape, bucket.tokens, bucket.draws, bucket.shares.tolist(), ids])
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@contextmanager
def opened(sample: Sample) -> Iterator[tuple[Video, Clip]]:
    """Open the file of a sample; it is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"clip{sample.suffix}"
        path.write_bytes(sample.payload)
        yield Video.open(path), sample.clip


def at_rate(video: Video, fps: int) -> Video:
    """Bring a video to so many frames a second; a picture stays one frame."""
    return video if video.num_frames == 1 else video.at_fps(fps)


def available_frames(row: Row, fps: int) -> int:
    """Return how many frames a clip surely has at a rate."""
    return 1 if row.num_frames == 1 else round(row.duration_s * fps - 1e-3)


def _tokens_of_shapes(settings: BatchSettings, count_tokens: CountTokens) -> tuple[dict[Shape, int], int]:
    """Return the shapes of which at least one clip makes a batch, with the tokens of one; and how many do not."""
    sizes = [size for base in settings.bases for size in buckets.buckets(base, settings.step_px, settings.max_ratio)]
    counted = {
        Shape(length, *size): count_tokens(Shape(length, *size)) for length, size in product(settings.lengths, sizes)
    }
    for length in settings.lengths:
        least = min(tokens for shape, tokens in counted.items() if shape.num_frames == length)
        if least > settings.tokens:
            raise RecipeError(
                f"tokens={settings.tokens} is less than one clip of {length} frames: the smallest has {least}. "
                f"Raise tokens, lower bases, or take {length} out of lengths."
            )
    within = {shape: tokens for shape, tokens in counted.items() if tokens <= settings.tokens}
    return within, len(counted) - len(within)


def _members(
    rows: Sequence[Row], settings: BatchSettings, tokens: Mapping[Shape, int], only: Collection[str] | None
) -> tuple[dict[Shape, list[tuple[int, float]]], dict[str, int]]:
    """Return row and weight of the clips of each shape, and how many clips have none, by reason."""
    by_base = [
        (length, [buckets.Bucket(*shape[1:]) for shape in tokens if shape.num_frames == length and shape[1:] in sizes])
        for length in sorted(settings.lengths, reverse=True)
        for base in sorted(settings.bases, reverse=True)
        for sizes in [set(buckets.buckets(base, settings.step_px, settings.max_ratio))]
    ]

    @lru_cache(maxsize=1 << 16)
    def shape_of(is_picture: bool, available: int, height: int, width: int) -> Shape | None:
        for length, sizes in by_base:
            if length <= available and is_picture == (length == 1):
                found = buckets.nearest(sizes, height, width, settings.most_cropped)
                if found is not None:
                    return Shape(length, *found)
        return None

    members: dict[Shape, list[tuple[int, float]]] = {}
    left_out: dict[str, int] = {}
    allowed = None if only is None else set(only)
    for index, row in enumerate(rows):
        is_picture = row.num_frames == 1
        weight = row.weight * (settings.picture_weight if is_picture else 1.0)
        if not 0 <= weight < float("inf"):
            raise RecipeError(f"Clip {row.id} has weight {row.weight}. A weight is a number of draws, 0 or more.")
        shape = shape_of(is_picture, available_frames(row, settings.fps), row.height, row.width)
        reason = ""
        if row.split not in settings.splits or (allowed is not None and row.id not in allowed):
            reason = "not asked for"
        elif weight == 0:
            reason = "of weight 0"
        elif shape is None:
            reason = "too short, too small or too far from all shapes"
        if reason or shape is None:
            left_out[reason] = left_out.get(reason, 0) + 1
        else:
            members.setdefault(shape, []).append((index, weight))
    return members, left_out


def _record(clip: Clip, video: Video, shape: Shape) -> Clip:
    """Describe a clip as it is trained on; `video` is it at its rate, not yet resized."""
    scale = max(shape.height / video.height, shape.width / video.width)
    return replace(
        clip,
        num_frames=shape.num_frames,
        height=shape.height,
        width=shape.width,
        fps=str(video.fps) if shape.num_frames > 1 else clip.fps,
        crop_top=max(0, round((video.height * scale - shape.height) / 2)),
        crop_left=max(0, round((video.width * scale - shape.width) / 2)),
        stride=max(1, round(clip.frames_a_second / video.fps)) if shape.num_frames > 1 else 1,
    )


def _shuffle(count: int | np.integer, *key: int | str) -> Int64[np.ndarray, " count"]:
    """Return the numbers below `count` in an order that follows from the key."""
    return np.argsort(_raw(count, *key), kind="stable")


def _uniforms(count: int, *key: int | str) -> Float64[np.ndarray, " count"]:
    """Draw numbers from [0, 1)."""
    return (_raw(count, *key) >> np.uint64(11)) / 2**53


def _raw(count: int | np.integer, *key: int | str) -> np.ndarray:
    """Draw 64 bits each; NumPy promises that this stream never changes."""
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    return np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(count)
