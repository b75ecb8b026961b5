"""Laws of balancing: planted clusters are found, weights sum as stated, and the order of rows changes nothing."""

import itertools

import numpy as np
import pyarrow as pa
import pytest

from mutoscope.core.errors import RecipeError
from mutoscope.curate.balance import BalanceSettings, balance, kmeans, nearest, sampling_weights, unit
from mutoscope.curate.stage import CLIPS


def _planted(sizes: list[int], dim: int = 16, spread: float = 0.03, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return points around centres that lie far from each other, shuffled, and to which centre each belongs."""
    chance = np.random.default_rng(seed)
    centres = unit(chance.normal(size=(len(sizes), dim)))
    labels = chance.permutation(np.repeat(np.arange(len(sizes)), sizes))
    points = centres[labels] + spread / np.sqrt(dim) * chance.normal(size=(len(labels), dim))
    return points.astype(np.float32), labels


def _clips(names: list[str], dropped: set[str] = frozenset()) -> pa.Table:  # pyright: ignore[reportArgumentType]
    rows = [
        {
            "id": name,
            "source": "s",
            "start": 0,
            "end": 9,
            "start_s": 0.0,
            "end_s": 1.0,
            "dropped_by": "light" if name in dropped else "",
            "reason": "dark" if name in dropped else "",
            "notes": "",
        }
        for name in names
    ]
    return pa.Table.from_pylist(rows, CLIPS)


@pytest.mark.parametrize("seed", range(5))
def test_kmeans_finds_planted_clusters_of_unequal_sizes(seed: int) -> None:
    points, truth = _planted([300, 150, 80, 40, 20, 10, 5], seed=seed)
    found = kmeans(points, 7, seed=seed)
    pairs = {(int(one), int(other)) for one, other in zip(truth, found.labels, strict=True)}
    assert len(pairs) == 7  # one to one
    assert found.sizes.tolist() == [300, 150, 80, 40, 20, 10, 5]


def test_each_centre_is_the_mean_of_its_points_and_nearest_to_them() -> None:
    points = np.random.default_rng(1).normal(size=(500, 6)).astype(np.float32)
    found = kmeans(points, 9, rounds=200)
    assert found.rounds < 200
    for label, centre in enumerate(found.centres):
        np.testing.assert_allclose(points[found.labels == label].mean(axis=0), centre, atol=1e-5)
    distances = np.linalg.norm(points[:, None] - found.centres, axis=2)
    np.testing.assert_array_equal(distances.argmin(axis=1), found.labels)
    np.testing.assert_allclose(distances.min(axis=1), found.distances, atol=1e-3)


def test_more_rounds_never_make_it_worse() -> None:
    points = np.random.default_rng(2).normal(size=(400, 5)).astype(np.float32)
    left = [float(np.square(kmeans(points, 12, rounds=rounds).distances).sum()) for rounds in (1, 2, 4, 8, 16)]
    assert all(after <= before * (1 + 1e-5) for before, after in itertools.pairwise(left))


def test_blocks_change_nothing() -> None:
    points, _ = _planted([50, 40, 30], spread=0.8)
    one, other = kmeans(points, 6, block=7), kmeans(points, 6, block=1000)
    np.testing.assert_array_equal(one.labels, other.labels)
    np.testing.assert_allclose(one.centres, other.centres, atol=1e-6)


def test_equal_points_make_no_more_clusters_than_there_are_different_ones() -> None:
    points = np.repeat(np.eye(3, dtype=np.float32), 10, axis=0)
    found = kmeans(points, 8)
    assert found.sizes.tolist() == [10, 10, 10]
    assert np.all(found.distances < 1e-3)


def test_as_many_clusters_as_points_leave_each_alone() -> None:
    points = np.random.default_rng(3).normal(size=(20, 4)).astype(np.float32)
    assert sorted(kmeans(points, 20).labels.tolist()) == list(range(20))


def test_more_clusters_than_points_are_refused() -> None:
    with pytest.raises(RecipeError, match="3 clusters were asked for of 2 clips"):
        kmeans(np.eye(2, dtype=np.float32), 3)


def test_nearest_in_blocks_is_nearest_of_all() -> None:
    points, _ = _planted([30, 30])
    labels, squares = nearest(points, points[:5], block=11)
    exact = np.square(points[:, None] - points[:5]).sum(axis=2)
    np.testing.assert_array_equal(labels, exact.argmin(axis=1))
    np.testing.assert_allclose(squares, exact.min(axis=1), atol=1e-5)


@pytest.mark.parametrize("temperature", [0.0, 0.25, 0.5, 1.0])
def test_clusters_weigh_their_size_to_the_power_of_one_minus_the_temperature(temperature: float) -> None:
    labels = np.repeat(np.arange(3), [100, 10, 1]).astype(np.int32)
    weights = sampling_weights(labels, temperature)
    assert weights.sum() == pytest.approx(len(labels))
    mass = np.bincount(labels, weights)
    np.testing.assert_allclose(mass / mass[2], np.array([100, 10, 1]) ** (1 - temperature))


def test_temperature_0_leaves_all_alike_and_1_makes_clusters_equal() -> None:
    labels = np.repeat(np.arange(3), [7, 2, 1]).astype(np.int32)
    assert sampling_weights(labels, 0.0).tolist() == [1.0] * 10
    np.testing.assert_allclose(np.bincount(labels, sampling_weights(labels, 1.0)), 10 / 3)


def test_the_order_of_rows_changes_no_weight() -> None:
    points, _ = _planted([60, 30, 10], spread=0.9)
    names = [f"clip-{number:03d}" for number in range(len(points))]
    embeddings = dict(zip(names, points, strict=True))
    settings = BalanceSettings(clusters=5, temperature=1.0)
    table = balance(_clips(names), embeddings, settings)
    shuffled = [names[i] for i in np.random.default_rng(5).permutation(len(names))]
    again = balance(_clips(shuffled), dict(reversed(embeddings.items())), settings)
    assert again.sort_by("id").equals(table)


def test_dropped_clips_have_no_weight_and_those_without_an_embedding_weigh_1() -> None:
    points, _ = _planted([12, 6])
    names = [f"{number:02d}" for number in range(20)]
    embeddings = dict(zip(names[2:], points, strict=True))
    table = balance(_clips(names, {"05"}), embeddings, BalanceSettings(clusters=2, temperature=1.0))
    rows = {row["id"]: row for row in table.to_pylist()}
    assert rows["05"]["weight"] is None and rows["05"]["cluster"] is None
    assert rows["00"]["weight"] == 1 and rows["00"]["cluster"] is None
    kept = [row["weight"] for row in rows.values() if row["weight"] is not None]
    assert sum(kept) == pytest.approx(19)
    assert {row["cluster_size"] for row in rows.values()} <= {None, 12, 11, 6, 5}


def test_balancing_twice_replaces_the_columns() -> None:
    points, _ = _planted([12, 6])
    names = [f"{number:02d}" for number in range(18)]
    embeddings = dict(zip(names, points, strict=True))
    once = balance(_clips(names), embeddings)
    assert balance(once, embeddings).equals(once)
    assert balance(_clips([]), {}).num_rows == 0


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"temperature=1\.5"):
        BalanceSettings(temperature=1.5)
    with pytest.raises(RecipeError, match="clusters=-1"):
        BalanceSettings(clusters=-1)
