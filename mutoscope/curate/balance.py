"""Balance: find what a data set shows by clustering embeddings, and weigh its clips so that rare things are seen too.

    embeddings ── unit length ── kmeans ──> clusters: concepts ── weights ──> how often each clip is to be drawn

A cluster of n clips is drawn in proportion to n ^ (1 - temperature): 0 leaves the data as it is, 1 makes all clusters
equal. HunyuanVideo balances with about 10,000 clusters, Step-Video-T2V with over 120,000, both of embeddings by an
unpublished model; any model of clips or of their middle frames serves here.

Cost: a round of k-means multiplies n x d by d x k, and memory beyond the embeddings is `block` x k. Seeding looks at
few clips per cluster, and takes time with k squared. All choices follow from the seed and from the order of the rows,
which `balance` takes by name, so that the same clips have the same clusters in any order.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Float32, Float64, Int32, Int64

from mutoscope.core.errors import RecipeError
from mutoscope.curate.stage import EMBEDDING, SetView, embeddings, replace_columns

CENTRES_OF = 40  # clips to a cluster, where no number of clusters is given
SEEDED_FROM = 8  # clips to a cluster that seeding looks at
SEEDED_FROM_LEAST = 16384
COLUMNS = ("cluster", "cluster_size", "cluster_distance", "weight")


@dataclass(frozen=True)
class BalanceSettings:
    """How concepts are found and balanced.

    Args:
        clusters: how many; 0 chooses one for each 40 clips. Never more than there are clips.
        temperature: 0 leaves the data as it is, 1 makes clusters equal, between them in between.
        seed: of the first centres.
        rounds: of k-means at most.
        block: clips that are compared with all centres at once.
    """

    clusters: int = 0
    temperature: float = 0.5
    seed: int = 0
    rounds: int = 25
    block: int = 4096

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 1:
            raise RecipeError(f"temperature={self.temperature:g} is not from 0 (as it is) to 1 (equal). Give 0.5.")
        if self.clusters < 0 or self.rounds < 1 or self.block < 1:
            raise RecipeError(
                f"clusters={self.clusters}, rounds={self.rounds}, block={self.block} do not work. "
                "Give 0 or more clusters, and at least 1 round and a block of at least 1."
            )


@dataclass(frozen=True)
class Clusters:
    """What k-means found.

    Args:
        centres: of the clusters, the most populous first.
        labels: cluster of each point.
        distances: of each point from its centre.
        rounds: that it took.
    """

    centres: Float32[np.ndarray, "k d"]
    labels: Int32[np.ndarray, " n"]
    distances: Float32[np.ndarray, " n"]
    rounds: int

    @property
    def sizes(self) -> Int64[np.ndarray, " k"]:
        """Points of each cluster."""
        return np.bincount(self.labels, minlength=len(self.centres))


@dataclass(frozen=True)
class Balance:
    """The stage over the set that finds concepts and adds the columns `COLUMNS`; it drops nothing.

    A clip's weight goes into the index of the shards, where training draws by it.

    Args:
        settings: how concepts are found and balanced.
        name: of the stage.
    """

    settings: BalanceSettings = BalanceSettings()
    name: str = "balance"
    version: int = field(default=1, init=False)

    def run(self, clips: pa.Table, view: SetView) -> pa.Table:
        """Weigh the clips.

        Raises:
            RecipeError: no clip has an embedding.
        """
        vectors = embeddings(clips)
        if not vectors and not all(clips["dropped_by"].to_pylist()):
            raise RecipeError(
                f"Stage {self.name} needs the column {EMBEDDING}, which no clip has. Put a stage that embeds clips "
                "among the stages, such as Learned((Embedding(...),)); see docs/concepts/scores.md."
            )
        return balance(clips, vectors, self.settings)


def balance(
    clips: pa.Table, embeddings: Mapping[str, Float[np.ndarray, " d"]], settings: BalanceSettings = BalanceSettings()
) -> pa.Table:
    """Weigh the clips that were kept.

    Args:
        clips: the table of clips.
        embeddings: of clips, by their names. A clip that has none is left as it is: its weight is 1.
        settings: see `BalanceSettings`.

    Returns:
        The same rows with the columns ``cluster``, ``cluster_size``, ``cluster_distance`` (from the centre, 0 to 2;
        what lies far out is unlike all else) and ``weight``, whose mean over kept clips is 1. They are null in rows
        that were dropped, and the first three also where there is no embedding.
    """
    ids, dropped = clips["id"].to_pylist(), clips["dropped_by"].to_pylist()
    judged = sorted(name for name, by in zip(ids, dropped, strict=True) if not by and name in embeddings)
    told: dict[str, tuple[int | None, int | None, float | None, float | None]] = {}
    if judged:
        points = unit(np.stack([np.asarray(embeddings[name], np.float32) for name in judged]))
        count = settings.clusters or math.ceil(len(judged) / CENTRES_OF)
        found = kmeans(points, min(count, len(judged)), settings.seed, settings.rounds, settings.block)
        columns = (
            found.labels.tolist(),
            found.sizes[found.labels].tolist(),
            found.distances.tolist(),
            sampling_weights(found.labels, settings.temperature).tolist(),
        )
        told = dict(zip(judged, zip(*columns, strict=True), strict=True))
    rows = [told.get(name, (None, None, None, None if by else 1.0)) for name, by in zip(ids, dropped, strict=True)]
    kinds = (pa.int32(), pa.int64(), pa.float32(), pa.float64())
    columns = enumerate(zip(COLUMNS, kinds, strict=True))
    return replace_columns(
        clips, {name: pa.array([row[place] for row in rows], kind) for place, (name, kind) in columns}
    )


def sampling_weights(labels: Int32[np.ndarray, " n"], temperature: float) -> Float64[np.ndarray, " n"]:
    """Return how often each clip is to be drawn, relative to drawing all alike; the weights sum to their number.

    Args:
        labels: cluster of each clip.
        temperature: a cluster of n clips weighs n ^ (1 - temperature) in all.
    """
    sizes = np.bincount(labels)[labels].astype(np.float64)
    weight = sizes**-temperature
    return weight * (len(labels) / weight.sum())


def unit(points: Float[np.ndarray, "n d"]) -> Float32[np.ndarray, "n d"]:
    """Scale vectors to length 1; a vector of zeros stays as it is."""
    length = np.linalg.norm(points, axis=1, keepdims=True)
    return (points / np.where(length > 0, length, 1)).astype(np.float32)


def kmeans(
    points: Float32[np.ndarray, "n d"], count: int, seed: int = 0, rounds: int = 25, block: int = 4096
) -> Clusters:
    """Cluster points by Euclidean distance (Lloyd 1982), seeded by k-means++ (Arthur & Vassilvitskii 2007).

    Args:
        points: one row each.
        count: clusters, no more than points. Fewer are found where fewer points differ.
        seed: of the first centres.
        rounds: at most; it stops as soon as no point changes its cluster.
        block: points that are compared with all centres at once.
    """
    if not 1 <= count <= len(points):
        raise RecipeError(f"{count} clusters were asked for of {len(points)} clips. Give a number from 1 to that.")
    points = np.ascontiguousarray(points, np.float32)
    centres = _first_centres(points, count, np.random.default_rng([20070107, seed]))
    labels, squares = nearest(points, centres, block)
    done, before = 0, None
    while done < rounds and (before is None or not np.array_equal(labels, before)):
        centres = _means(points, labels, squares, centres, block)
        done, before = done + 1, labels
        labels, squares = nearest(points, centres, block)
    sizes = np.bincount(labels, minlength=len(centres))
    order = np.argsort(-sizes, kind="stable")
    order = order[sizes[order] > 0]
    new = np.zeros(len(centres), np.int32)
    new[order] = np.arange(len(order))
    return Clusters(centres[order], new[labels], np.sqrt(squares), done)


def nearest(
    points: Float32[np.ndarray, "n d"], centres: Float32[np.ndarray, "k d"], block: int = 4096
) -> tuple[Int32[np.ndarray, " n"], Float32[np.ndarray, " n"]]:
    """Return the centre nearest to each point, and the square of its distance."""
    labels, squares = np.empty(len(points), np.int32), np.empty(len(points), np.float32)
    for at in range(0, len(points), block):
        some = squared_distances(points[at : at + block], centres)
        labels[at : at + block] = some.argmin(axis=1)
        squares[at : at + block] = some.min(axis=1)
    return labels, squares


def squared_distances(one: Float32[np.ndarray, "n d"], other: Float32[np.ndarray, "m d"]) -> Float32[np.ndarray, "n m"]:
    """Return the squares of all distances between two sets of points."""
    found = np.square(one).sum(axis=1)[:, None] + np.square(other).sum(axis=1) - 2 * (one @ other.T)
    return np.maximum(found, 0)


def _first_centres(
    points: Float32[np.ndarray, "n d"], count: int, chance: np.random.Generator
) -> Float32[np.ndarray, "k d"]:
    """Choose points far from each other: each in proportion to its squared distance from those chosen before.

    Of a few drawn so, the one is taken that leaves the least distance, which seldom misses a cluster.
    """
    most = max(SEEDED_FROM * count, SEEDED_FROM_LEAST)
    if len(points) > most:
        points = points[np.sort(chance.choice(len(points), most, replace=False))]
    tries = 2 + int(math.log(count))
    chosen = [int(chance.integers(len(points)))]
    left = squared_distances(points[chosen], points)[0]
    left[chosen[0]] = 0
    while len(chosen) < count:
        sums = np.cumsum(left, dtype=np.float64)
        if sums[-1] <= 1e-12 * len(points):  # all that is left are copies of points that were chosen
            break
        drawn = np.searchsorted(sums, chance.random(tries) * sums[-1], side="right").clip(max=len(points) - 1)
        after = np.minimum(left, squared_distances(points[drawn], points))
        after[np.arange(tries), drawn] = 0
        best = int(after.sum(axis=1, dtype=np.float64).argmin())
        chosen.append(int(drawn[best]))
        left = after[best]
    return points[chosen]


def _means(
    points: Float32[np.ndarray, "n d"],
    labels: Int32[np.ndarray, " n"],
    squares: Float32[np.ndarray, " n"],
    centres: Float32[np.ndarray, "k d"],
    block: int,
) -> Float32[np.ndarray, "k d"]:
    """Return the mean of each cluster; one without points begins anew at a point that lies far from its centre."""
    sums, sizes = np.zeros(centres.shape), np.bincount(labels, minlength=len(centres))
    for at in range(0, len(points), block):
        some = labels[at : at + block]
        order = np.argsort(some, kind="stable")
        starts = np.flatnonzero(np.diff(some[order], prepend=-1))
        sums[some[order[starts]]] += np.add.reduceat(points[at : at + block][order], starts, axis=0, dtype=np.float64)
    means = (sums / np.maximum(sizes, 1)[:, None]).astype(np.float32)
    empty = np.flatnonzero(sizes == 0)
    if len(empty):
        farthest = np.argsort(-squares, kind="stable")[: len(empty)]
        means[empty] = points[farthest]
    return means
