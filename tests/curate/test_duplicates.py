"""Laws of duplicates: copies are found however they were cut, shown or sped up, other clips and black ones are not."""

import itertools
import json
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pytest

from mutoscope.core.errors import RecipeError
from mutoscope.curate.duplicates import (
    NUM_CELLS,
    DuplicateSettings,
    Look,
    aligned,
    candidates,
    components,
    drop_duplicates,
    landmarks,
    semantic_pairs,
)
from mutoscope.curate.pixels import DCT, hashes
from mutoscope.curate.signals import VERSION, Facts
from mutoscope.curate.stage import CLIPS

FPS = 24.0
SETTINGS = DuplicateSettings()


def _film(seed: int, times: np.ndarray, noise: float = 0.3, pace: float = 1.0, strength: float = 35.0) -> np.ndarray:
    """Return 32 x 32 frames of smooth shapes that change slowly, at moments in seconds, with an encoder's noise."""
    chance = np.random.default_rng([1, seed])
    waves = chance.normal(size=(2, 6, 6)) / (1 + np.hypot(*np.mgrid[:6, :6]))
    waves[:, 0, 0] = 0
    turn = chance.uniform(0.5, 1.5, (6, 6)) * pace
    mixed = np.cos(times[:, None, None] * turn) * waves[0] + np.sin(times[:, None, None] * turn) * waves[1]
    basis = DCT[:6] / np.abs(DCT[:6]).max()
    picture = basis.T @ mixed @ basis
    picture = 126 + strength * picture / np.abs(picture).std()
    noisy = picture + np.random.default_rng([2, seed, len(times)]).normal(0, noise * 4, picture.shape)
    return noisy.clip(16, 235).round().astype(np.uint8)


def _look(frames: np.ndarray, times: np.ndarray) -> Look:
    luma = frames.reshape(len(frames), 8, 4, 8, 4).mean(axis=(2, 4)).reshape(len(frames), 64)
    cells = np.hstack([luma, np.full((len(frames), NUM_CELLS - 64), 128.0)])
    return Look(times - times[0], hashes(frames), cells.round().astype(np.uint8))


def _shown(seed: int, start_s: float, end_s: float, fps: float = FPS, **how: float) -> Look:
    times = np.arange(start_s, end_s, 1 / fps)
    return _look(_film(seed, times, **how), times)


def _table(look: Look, width: int = 320, height: int = 240, sharpness: float = 50.0, detail: float = 50.0) -> pa.Table:
    told = Facts(VERSION, width, height, FPS, "h264", len(look.time_s), look.duration_s, False, {})
    return pa.table(
        {
            "time_s": look.time_s,
            "phash": look.hashes,
            "cells": pa.array(look.cells.tolist(), pa.list_(pa.uint8(), NUM_CELLS)),
            "sharpness": np.full(len(look.time_s), sharpness, np.float32),
            "detail": np.full(len(look.time_s), detail, np.float32),
        }
    ).replace_schema_metadata({b"mutoscope.signals": json.dumps(asdict(told)).encode()})


def _rows(tables: dict[str, pa.Table]) -> pa.Table:
    rows = [
        {
            "id": f"{name}-0000000-{table.num_rows:07d}",
            "source": name,
            "start": 0,
            "end": table.num_rows,
            "start_s": 0.0,
            "end_s": table.num_rows / FPS,
            "dropped_by": "",
            "reason": "",
            "notes": "",
        }
        for name, table in tables.items()
    ]
    return pa.Table.from_pylist(rows, CLIPS)


def _kept(table: pa.Table) -> set[str]:
    return {row["source"] for row in table.to_pylist() if not row["dropped_by"]}


# ---- alignment -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [0, 1, 2, 5, 11, 29])
def test_a_copy_that_begins_some_frames_later_is_found_with_its_shift(frames: int) -> None:
    whole, copy = _shown(1, 0, 4), _shown(1, frames / FPS, 4.5, noise=0.5)
    found = aligned(whole, copy)
    assert found is not None and found.speed == 1
    assert found.shift_s == pytest.approx(-frames / FPS, abs=1 / 16)
    assert candidates([landmarks(whole, SETTINGS), landmarks(copy, SETTINGS)]) == [(0, 1)]


@pytest.mark.parametrize("fps", [8.0, 12.0, 15.0, 25.0, 30.0, 60.0])
def test_a_copy_at_another_frame_rate_is_found(fps: float) -> None:
    found = aligned(_shown(2, 0, 3), _shown(2, 0.2, 3, fps))
    assert found is not None and found.speed == 1


@pytest.mark.parametrize("speed", [24 / 25, 25 / 24, 4 / 5, 1 / 2, 2.0])
def test_a_copy_that_is_faster_or_slower_is_found_with_its_speed(speed: float) -> None:
    times = np.arange(0, 6, 1 / FPS)
    frames = _film(3, times, pace=2.0)
    found = aligned(_look(frames, times), _look(frames, times * speed))
    assert found is not None and found.share > 0.9
    if not 0.9 < speed < 1.1:  # over some seconds, a few percent may pass for none
        assert found.speed == pytest.approx(speed)


def test_what_shares_half_of_the_shorter_is_a_copy_and_what_shares_less_is_none() -> None:
    whole = _shown(4, 0, 4, pace=3.0)
    assert aligned(whole, _shown(4, 1.5, 5.5, pace=3.0)) is not None
    assert aligned(whole, _shown(4, 3.0, 7.0, pace=3.0)) is None


def test_alignment_is_the_same_from_both_sides() -> None:
    one, other = _shown(5, 0, 4), _shown(5, 1, 3.5)
    forth, back = aligned(one, other), aligned(other, one)
    assert forth is not None and back is not None
    assert forth.shift_s == pytest.approx(-back.shift_s, abs=1 / 16)


def test_different_clips_are_not_alike() -> None:
    looks = [_shown(seed, 0, 3) for seed in range(20, 30)]
    assert all(aligned(one, other) is None for one, other in itertools.combinations(looks, 2))


def test_two_moments_before_one_fixed_camera_are_not_alike_though_each_frame_looks_the_same() -> None:
    times = np.arange(0, 8, 1 / FPS)
    backdrop = _film(6, np.zeros(1))[0].astype(np.float64)
    thing = np.zeros((len(times), 32, 32))
    for frame, (row, column) in enumerate(zip(12 + 9 * np.sin(1.9 * times), 12 + 9 * np.cos(2.7 * times), strict=True)):
        thing[frame, int(row) : int(row) + 4, int(column) : int(column) + 4] = 14
    look = _look((backdrop + thing).clip(16, 235).astype(np.uint8), times)
    early, late, same = (
        Look(look.time_s[span] - look.time_s[span][0], look.hashes[span], look.cells[span])
        for span in (slice(0, 72), slice(100, 172), slice(7, 72))
    )
    assert aligned(early, late) is None
    assert aligned(early, same) is not None


def _under_a_light(seed: int, smooth: float) -> Look:
    """Return one still picture in whose middle a light flickers at its own pace."""
    chance = np.random.default_rng([9, seed])
    picture = np.random.default_rng(0).integers(60, 180, NUM_CELLS)
    y, x = np.mgrid[:8, :8] - 3.5
    kernel = np.exp(-(np.arange(-30, 31) ** 2) / (2 * smooth**2))
    light = np.convolve(chance.normal(size=132), kernel, "valid")
    cells = np.tile(picture.astype(float), (72, 1))
    cells[:, :64] += 40 * (light / light.std())[:, None] * np.exp(-(x**2 + y**2) / 3).ravel()
    cells = (cells + chance.normal(0, 0.3, cells.shape)).clip(0, 255).round().astype(np.uint8)
    return Look(np.arange(72) / FPS, np.full(72, 123, np.uint64), cells)


@pytest.mark.parametrize("smooth", [3, 6, 12])
def test_one_still_scene_under_two_lights_is_no_duplicate_and_under_one_light_is(smooth: float) -> None:
    looks = [_under_a_light(seed, smooth) for seed in range(8)]
    assert not [pair for pair in itertools.combinations(looks, 2) if aligned(*pair) is not None]
    later = Look(looks[0].time_s[:60], looks[0].hashes[12:], looks[0].cells[12:])
    assert aligned(looks[0], later) is not None


def test_slides_that_differ_in_a_few_cells_are_no_duplicates() -> None:
    slide = np.random.default_rng(3).integers(60, 180, NUM_CELLS).astype(np.uint8)
    other, copy = slide.copy(), slide.copy()
    other[[27, 28]] += 12
    copy[::3] += 2
    first, second, third = (
        Look(np.arange(48) / FPS, np.full(48, 5, np.uint64), np.tile(cells, (48, 1))) for cells in (slide, other, copy)
    )
    assert aligned(first, second) is None
    assert aligned(first, third) is not None


def test_a_picture_is_like_its_copy_but_not_like_the_video_in_which_it_is_a_frame() -> None:
    photo = _look(_film(7, np.zeros(1)), np.zeros(1))
    again = _look(_film(7, np.zeros(1), noise=0.5), np.zeros(1))
    held = _look(_film(7, np.zeros(48)), np.arange(48) / FPS)
    assert aligned(photo, again) is not None
    assert aligned(photo, held) is not None
    assert aligned(photo, _shown(7, 0, 3, pace=2.0)) is None


def test_black_and_blank_clips_are_like_nothing_not_even_each_other() -> None:
    times = np.arange(48) / FPS
    flat = [_look(np.full((48, 32, 32), level, np.uint8), times) for level in (16, 16, 235)]
    noisy = _look(np.random.default_rng(0).integers(16, 19, (48, 32, 32)).astype(np.uint8), times)
    looks = [*flat, noisy, _shown(8, 0, 2)]
    assert [len(landmarks(look, SETTINGS)) for look in looks[:4]] == [0, 0, 0, 0]
    assert candidates([landmarks(look, SETTINGS) for look in looks]) == []
    assert all(aligned(one, other) is None for one, other in itertools.combinations(looks, 2))


def test_dark_clips_are_told_apart() -> None:
    looks = [_shown(seed, 0, 3, strength=6.0, noise=0.05) for seed in (60, 61, 62)]
    assert all(aligned(one, other) is None for one, other in itertools.combinations(looks, 2))
    assert aligned(looks[0], _shown(60, 0.3, 3, strength=6.0, noise=0.06)) is not None


# ---- candidates and groups -------------------------------------------------------------------------------------------


def test_all_hashes_within_two_bits_are_candidates() -> None:
    value = np.random.default_rng(1).integers(0, 2**63, dtype=np.uint64)
    bits = [np.uint64(1 << bit) for bit in range(64)]
    near = [np.array([value ^ one ^ other]) for one, other in itertools.combinations(bits, 2)]
    found = candidates([np.array([value]), *near], crowd=10**6)
    assert {other for one, other in found if one == 0} == set(range(1, len(near) + 1))


def test_hashes_without_a_common_key_are_no_candidates() -> None:
    value = np.uint64(0x0123456789ABCDEF)
    changed = value ^ np.uint64(0x0001_0001_0001_0000)
    assert candidates([np.array([value]), np.array([changed]), np.empty(0, np.uint64)]) == []
    assert candidates([]) == []


def test_a_crowd_of_copies_is_one_group_by_few_pairs() -> None:
    crowd = [np.array([np.uint64(0xDEADBEEF)])] * 400
    pairs = candidates(crowd, crowd=5)
    assert len(pairs) <= 5 * 400
    assert set(components(400, pairs)) == {0}


def test_components_are_what_pairs_connect() -> None:
    pairs = [(4, 2), (7, 8), (2, 6), (8, 9)]
    expected = [0, 1, 2, 3, 2, 5, 2, 7, 7, 7]
    for order in itertools.permutations(pairs):
        assert components(10, order) == expected


# ---- the stage -------------------------------------------------------------------------------------------------------


def _library() -> dict[str, pa.Table]:
    return {
        "a-small": _table(_shown(70, 0, 3, noise=0.4), 160, 120),
        "b-large": _table(_shown(70, 0.1, 3), 640, 480),
        "c-large-but-soft": _table(_shown(70, 0.2, 3), 640, 480, sharpness=20),
        "d-alone": _table(_shown(71, 0, 3)),
        "e-twin": _table(_shown(72, 0, 2)),
        "f-twin": _table(_shown(72, 0, 2)),
        "g-black": _table(_look(np.full((48, 32, 32), 16, np.uint8), np.arange(48) / FPS)),
        "h-black": _table(_look(np.full((48, 32, 32), 16, np.uint8), np.arange(48) / FPS)),
    }


def test_the_most_detailed_is_kept_then_the_longest_then_the_longest_then_the_sharpest_then_the_first() -> None:
    library = _library()
    table = drop_duplicates(_rows(library), library.__getitem__)
    rows = {row["source"]: row for row in table.to_pylist()}
    assert _kept(table) == {"b-large", "d-alone", "e-twin", "g-black", "h-black"}
    best = rows["b-large"]["id"]
    assert rows["a-small"]["dropped_by"] == "duplicates"
    assert rows["a-small"]["reason"] == f"perceptual duplicate of {best}, which is larger"
    assert rows["c-large-but-soft"]["reason"] == f"perceptual duplicate of {best}, which is sharper"
    twin = rows["e-twin"]["id"]
    assert rows["f-twin"]["reason"] == f"exact duplicate of {twin}, which is as good and comes first"
    longer = {"short": _table(_shown(73, 0.5, 3)), "long": _table(_shown(73, 0, 3))}
    reasons = drop_duplicates(_rows(longer), longer.__getitem__)["reason"].to_pylist()
    assert [reason[-6:] for reason in reasons] == ["longer", ""]


def test_an_enlarged_a_shorter_or_a_silent_copy_is_not_the_best() -> None:
    first = _table(_shown(80, 0, 4), 320, 240, detail=400)
    library = {
        "enlarged": _table(_shown(80, 0, 4), 480, 360, detail=400 / 1.5**4),
        "excerpt": _table(_shown(80, 1, 4), 320, 240, sharpness=60, detail=440),
        "original": first,
        "small": _table(_shown(80, 0, 4), 160, 120, detail=700),
    }
    table = drop_duplicates(_rows(library), library.__getitem__)
    assert _kept(table) == {"original"}
    twins = {"silent": first, "sounding": first}
    rows = _rows(twins)
    heard = [row["id"] for row in rows.to_pylist() if row["source"] == "sounding"]
    assert _kept(drop_duplicates(rows, twins.__getitem__, with_sound=heard)) == {"sounding"}


def test_the_order_of_rows_changes_nothing() -> None:
    library = _library()
    table = drop_duplicates(_rows(library), library.__getitem__)
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(len(library))
        again = drop_duplicates(_rows(library).take(order), library.__getitem__)
        assert again.equals(table.take(order))


def test_dropped_clips_are_left_alone_and_are_no_rivals() -> None:
    library = _library()
    rows = _rows(library).to_pylist()
    rows[1]["dropped_by"], rows[1]["reason"] = "light", "dark"
    table = drop_duplicates(pa.Table.from_pylist(rows, CLIPS), library.__getitem__)
    assert table.to_pylist()[1] == rows[1]
    assert "c-large-but-soft" in _kept(table) and "a-small" not in _kept(table)
    assert drop_duplicates(table, library.__getitem__).equals(table)  # a second time finds no more
    assert drop_duplicates(CLIPS.empty_table(), library.__getitem__).num_rows == 0


def test_clips_of_one_meaning_are_dropped_where_embeddings_are_given() -> None:
    library = {name: _table(_shown(80 + number, 0, 1)) for number, name in enumerate("abc")}
    clips = _rows(library)
    near = dict(zip(clips["id"].to_pylist(), np.array([[1, 0, 0], [0.99, 0.1, 0], [0, 1, 0]]), strict=True))
    table = drop_duplicates(clips, library.__getitem__, embeddings=near)
    assert len(_kept(table)) == 2 and "c" in _kept(table)
    assert sum(reason.startswith("semantic duplicate of") for reason in table["reason"].to_pylist()) == 1


@pytest.mark.parametrize("cells", [1, 4, 25])
@pytest.mark.parametrize("cosine", [0.8, 0.95])
def test_semantic_pairs_are_all_pairs_above_the_cosine_whatever_the_cells(cells: int, cosine: float) -> None:
    chance = np.random.default_rng(3)
    centres = chance.normal(size=(40, 8))
    points = (np.repeat(centres, 8, axis=0) + 0.25 * chance.normal(size=(320, 8))).astype(np.float32)
    points[5] = 0
    length = np.linalg.norm(points, axis=1, keepdims=True)
    angles = (points @ points.T) / np.maximum(length * length.T, 1e-9)
    expected = {(i, j) for i, j in itertools.combinations(range(320), 2) if angles[i, j] >= cosine}
    found = np.concatenate([*semantic_pairs(points, cosine, block=100, cells=cells), np.empty((0, 2), np.int64)])
    assert {(min(pair), max(pair)) for pair in found.tolist()} == expected
    assert len(expected) > 50


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(RecipeError, match="share=0"):
        DuplicateSettings(share=0)
