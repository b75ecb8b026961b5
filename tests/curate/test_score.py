"""Scores say what was put into tables and pictures, and on footage of seeds never tuned on, what is wrong with it."""

from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cv2", reason="needs the extra curate")
pytest.importorskip("pyarrow", reason="needs the extra curate")

import cv2
import pyarrow as pa
import pyarrow.parquet as pq

from mutoscope.core.video import Video
from mutoscope.curate import looks, signals
from mutoscope.curate.filter import Thresholds
from mutoscope.curate.ingest import Source
from mutoscope.curate.looks import Overlay
from mutoscope.curate.score import SCORES, Scores, freezes, repeats, thresholds
from mutoscope.curate.stage import CLIPS, Stage, Work, clip_id
from mutoscope.worlds import footage, spoil
from mutoscope.worlds.spoil import Box

HEIGHT, WIDTH, FPS = 120, 160, 24
NAMES = [score.name for score in SCORES]


def texture(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Sharp patches of grey, "height width 3", none dark."""
    draw = np.random.default_rng(seed)
    patches = draw.integers(90, 230, (height // 10 + 2, width // 10 + 2)).astype(np.uint8)
    x, y = draw.integers(10, size=2)
    grown = np.kron(patches, np.ones((10, 10), np.uint8))[y : y + height, x : x + width]
    return np.repeat(grown[..., None], 3, axis=-1)


def pan(seed: int, num_frames: int, step: int = 2) -> np.ndarray:
    """Frames in which the picture moves to the left: the camera pans right."""
    wide = texture(seed, width=WIDTH + num_frames * step)
    return np.stack([wide[:, i * step : i * step + WIDTH] for i in range(num_frames)])


def scored(folder: Path, frames: np.ndarray, cuts: tuple[int, ...] = (), **row: Any) -> list[dict[str, Any]]:
    """Encode, measure and score frames; clips lie between the cuts."""
    Video.from_array(frames, Fraction(FPS)).save(folder / "clip.mp4", quality="best")
    signals.save(folder / "clip.mp4", folder / "signals.parquet")
    return stage(folder, Scores(), clips(len(frames), cuts, **row), len(frames))


def clips(num_frames: int, cuts: tuple[int, ...], **row: Any) -> pa.Table:
    edges = [0, *cuts, num_frames]
    base = {"source": "0" * 16, "dropped_by": "", "reason": "", "notes": ""} | row
    return pa.Table.from_pylist(
        [
            {"id": clip_id(source(), a, b), "start": a, "end": b, "start_s": a / FPS, "end_s": b / FPS} | base
            for a, b in pairwise(edges)
        ],
        CLIPS,
    )


def source(num_frames: int = 0, kind: Any = "video") -> Source:
    return Source("0" * 16, "clip.mp4", kind, width=WIDTH, height=HEIGHT, num_frames=num_frames)


def stage(folder: Path, step: Stage, table: pa.Table, num_frames: int, kind: str = "video") -> list[dict[str, Any]]:
    work = Work(source(num_frames, kind), table, folder / "signals.parquet", lambda: folder / "never")
    step.run(work, folder / "out.parquet")
    return pq.read_table(folder / "out.parquet").to_pylist()


# ---- numbers ---------------------------------------------------------------------------------------------------------


def test_a_run_of_repeats_is_a_freeze_that_began_one_frame_before() -> None:
    repeated = np.array([1, 0, 0, 1, 1, 1, 0, 1], bool)
    assert freezes(repeated, np.arange(9) / 10) == [(2, 6, pytest.approx(0.4)), (6, 8, pytest.approx(0.2))]
    assert freezes(np.zeros(4, bool), np.arange(5.0)) == []


def test_a_freeze_that_is_coded_anew_goes_on_and_a_slow_scene_is_none() -> None:
    still = np.array([1, 0.9, 1, 1, 0.98, 1, 0.9995, 1, 0.9, 0.9995])
    content = np.array([0, 0.1, 0, 0, 0.002, 0, 0.002, 0, 0.1, 0.002])
    is_key = np.arange(10) == 4
    assert repeats(still, content, is_key).tolist() == [False, False, True, True, True, True, True, True, False, False]


def test_every_score_is_a_column_with_a_meaning_and_no_two_share_a_name() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert all(score.meaning and score.better in ("higher", "lower", "neither") for score in SCORES)


def test_every_limit_is_on_a_score_and_takes_its_unit_and_direction() -> None:
    known = {score.name: score for score in SCORES}
    for limit in thresholds().limits:
        assert (limit.unit, limit.better) == (known[limit.column].unit, known[limit.column].better)
        assert limit.images is not known[limit.column].moves
    assert "bars_share" not in [limit.column for limit in thresholds("bars_share").limits]


# ---- pictures --------------------------------------------------------------------------------------------------------


def test_bars_are_dark_and_the_image_begins_at_their_edge() -> None:
    framed = texture(0)[..., 0].copy()
    framed[:24] = framed[-24:] = 4
    depths, seen = looks.bars(framed, (0.2, 0.2, 0.0, 0.0))
    assert depths == (0.2, 0.2, 0.0, 0.0) and min(seen[:2]) > 0.95
    lone = np.full((HEIGHT, WIDTH), 4, np.uint8)  # something bright on black is no frame
    cv2.circle(lone, (80, 60), 30, 200, -1)
    assert looks.certain(*looks.bars(lone, (0.25, 0.25, 50 / 160, 50 / 160))) == (0, 0, 0, 0)
    assert looks.bars(255 - framed, (0.2, 0.2, 0.0, 0.0))[0] == (0, 0, 0, 0)  # bright sides are no bars


def test_softness_is_the_deviation_of_a_blur_whatever_the_contrast() -> None:
    sharp = texture(3, 240, 320)[..., 0]
    nothing = np.zeros(sharp.shape, bool)
    widths = []
    for sigma in (1.0, 2.0, 3.0):
        blurred = cv2.GaussianBlur(sharp, (0, 0), sigma)
        widths.append(looks.softness(blurred, nothing) * 240)
        faint = (100 + (blurred.astype(np.float32) - 160) / 3).astype(np.uint8)
        assert looks.softness(faint, nothing) * 240 == pytest.approx(widths[-1], rel=0.35)
    assert looks.softness(sharp, nothing) * 240 < 0.75 < widths[0] < widths[1] < widths[2]
    assert np.isnan(looks.softness(np.full((240, 320), 90, np.uint8), nothing))


def test_a_caption_is_found_where_it_stands_and_texture_is_none() -> None:
    ground = texture(4, 240, 320)
    assert looks.captions(ground[..., 0]) == []
    record = spoil.Caption(0, 1, Box(205, 70, 0, 0), "The night train waits", 17, "outline", 1.0)
    over = spoil.layer(record)
    found = looks.captions(np.ascontiguousarray(spoil.overlaid(ground, over)[..., 0]))
    top, left, bottom, right = np.mean(found, axis=0) * (240, 320, 240, 320)
    wanted = over.box
    np.testing.assert_allclose(
        (top, left, bottom, right), (wanted.top, wanted.left, wanted.bottom, wanted.right), atol=9
    )


def test_what_stays_while_pictures_change_is_a_mark_and_few_pictures_tell_nothing() -> None:
    overlay, nothing = Overlay(), np.zeros((HEIGHT, WIDTH), bool)
    for seed in range(16):
        picture = texture(seed)[..., 0].copy()
        picture[10:30, 10:30] = 20
        picture[14:26, 18:22] = 250
        overlay.add(picture, looks.directions(picture, nothing))
        if seed == 0:
            assert overlay.marks() is None
    marks = overlay.marks()
    assert marks is not None and len(marks) == 1
    np.testing.assert_allclose(np.array(marks[0].box) * (HEIGHT, WIDTH, HEIGHT, WIDTH), (10, 10, 30, 30), atol=2)
    assert marks[0].presence(looks.directions(picture, nothing)) > 0.8
    assert abs(marks[0].presence(looks.directions(texture(99)[..., 0], nothing))) < 0.4


def test_one_picture_shown_again_and_again_tells_nothing_of_marks() -> None:
    overlay, nothing = Overlay(), np.zeros((HEIGHT, WIDTH), bool)
    draw = np.random.default_rng(5)
    for _ in range(20):  # noise is no other picture
        noisy = np.clip(texture(1)[..., 0] + draw.normal(0, 12, (HEIGHT, WIDTH)), 0, 255).astype(np.uint8)
        overlay.add(noisy, looks.directions(noisy, nothing))
    assert overlay.marks() is None


# ---- a stage ---------------------------------------------------------------------------------------------------------


def test_a_pan_has_its_label_and_speed_and_a_freeze_its_length(tmp_path: Path) -> None:
    frames = np.concatenate([pan(0, 48), np.repeat(pan(1, 2)[:1], 24, axis=0), pan(2, 24)])
    first, second = scored(tmp_path, frames, (48,))
    assert first["camera"] == "pan right" and first["camera_speed"] == pytest.approx(2 / WIDTH * FPS, rel=0.1)
    assert first["motion_speed"] < first["camera_speed"] / 4 and first["freeze_longest_s"] == 0
    assert second["freeze_longest_s"] == pytest.approx(1.0, abs=0.05)
    assert second["freeze_share"] == pytest.approx(0.5, abs=0.03)
    assert second["duplicate_share"] == pytest.approx(23 / 48, abs=0.03)
    kept = stage(tmp_path, thresholds("logo"), pq.read_table(tmp_path / "out.parquet"), len(frames))
    assert kept[0]["reason"] == "" and kept[1]["reason"].startswith("freeze_longest_s")


def test_half_the_rate_is_duplicates_and_no_freeze(tmp_path: Path) -> None:
    (row,) = scored(tmp_path, np.repeat(pan(0, 24), 2, axis=0))
    assert row["duplicate_share"] == pytest.approx(0.5, abs=0.05) and row["freeze_share"] == 0


def test_a_flash_is_flicker(tmp_path: Path) -> None:
    frames = pan(0, 48)
    frames[24] = 255
    calm, lit = scored(tmp_path, np.concatenate([pan(0, 48), frames]), (48,))
    assert lit["flicker"] > 4 * calm["flicker"] and lit["flicker"] > 0.01


def test_the_crop_is_the_frame_without_its_bars(tmp_path: Path) -> None:
    frames = pan(0, 48)
    frames[:, :16] = frames[:, -16:] = 0
    frames[:, :, :20] = 8
    (row,) = scored(tmp_path, frames)
    found = [row[f"crop_{side}"] for side in ("top", "left", "bottom", "right")]
    np.testing.assert_allclose(found, (16, 20, 104, 160), atol=1)
    assert row["bars_share"] == pytest.approx(1 - 88 * 140 / (HEIGHT * WIDTH), abs=0.02)


def test_a_clip_that_was_dropped_before_is_left_as_it_was(tmp_path: Path) -> None:
    (row,) = scored(tmp_path, pan(0, 24), dropped_by="split", reason="short")
    assert (row["dropped_by"], row["reason"], row["notes"]) == ("split", "short", "")
    assert all(row[name] is None for name in NAMES)


def test_a_picture_is_scored_without_motion_and_says_so(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "photo.png"), texture(0))
    signals.save(tmp_path / "photo.png", tmp_path / "signals.parquet")
    (row,) = stage(tmp_path, Scores(), clips(1, ()), 1, "image")
    assert row["camera"] is None and row["freeze_share"] is None and "not scored in a picture" in row["notes"]
    assert row["softness"] < 0.006 and row["bars_share"] == 0 and row["brightness"] > 0.3
    (row,) = stage(tmp_path, thresholds(), pq.read_table(tmp_path / "out.parquet"), 1, "image")
    assert row["dropped_by"] == ""


def test_scoring_twice_gives_the_same_columns_once(tmp_path: Path) -> None:
    before = scored(tmp_path, pan(0, 30))
    after = stage(tmp_path, Scores(), pq.read_table(tmp_path / "out.parquet"), 30)
    assert [{**row, "notes": ""} for row in before] == [{**row, "notes": ""} for row in after]


def test_scores_are_a_stage_and_thresholds_too() -> None:
    assert isinstance(Scores(), Stage) and isinstance(thresholds(), Thresholds)


# ---- judged ----------------------------------------------------------------------------------------------------------


def test_footage_of_a_seed_never_tuned_on_is_judged_right(tmp_path: Path) -> None:
    strengths = spoil.Strengths(logo=1, border=1, freeze=1, blur=1, share=1)
    raw = footage.sample(9101, size=(240, 320), fps=12, shots=5, strengths=strengths)
    raw.video().save(tmp_path / "clip.mp4")
    signals.save(tmp_path / "clip.mp4", tmp_path / "signals.parquet")
    times = [*signals.load(tmp_path / "signals.parquet", ["time_s"])["time_s"].to_pylist(), raw.num_frames / 12]
    rows = [
        {"id": "", "source": "", "start": shot.start + 1, "end": shot.end - 1, "start_s": times[shot.start + 1],
         "end_s": times[shot.end - 1], "dropped_by": "", "reason": "", "notes": ""}
        for shot in raw.shots
    ]  # fmt: skip
    found = stage(tmp_path, Scores(), pa.Table.from_pylist(rows, CLIPS), raw.num_frames)
    limits = {limit.column: limit for limit in thresholds().limits}

    def told(column: str) -> list[bool]:
        return [bool(limits[column].refusal(row[column])) for row in found]

    def true(kind: Any) -> list[bool]:
        spans = [(each.start, each.end) for each in spoil.of(raw.defects, kind)]
        return [any(min(row["end"], b) - max(row["start"], a) >= 4 for a, b in spans) for row in rows]

    assert told("bars_share") == true(spoil.Border) and told("logo") == true(spoil.Logo)
    assert told("softness") == true(spoil.Blur)
    still = [shot.is_still for shot in raw.shots]
    frozen = [a or b for a, b in zip(true(spoil.Freeze), still, strict=True)]
    # other shots may stand for a while of themselves
    assert all(said for said, is_true in zip(told("freeze_longest_s"), frozen, strict=True) if is_true)
