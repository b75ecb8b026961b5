from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from mutoscope.core.errors import RequestError
from mutoscope.worlds import spoil
from mutoscope.worlds.spoil import Border, Box, Caption, Flash, Freeze, Logo, Strengths

HEIGHT, WIDTH = 120, 160
ALL = Strengths.parse("all", 1.0)
SHOTS = ((0, 50, 0, 50), (50, 100, 50, 110), (110, 170, 100, 170), (170, 240, 170, 240))
CANVAS = spoil.Canvas(
    HEIGHT,
    WIDTH,
    Fraction(24),
    tuple(spoil.Stretch(*frames, is_still=index == 1, is_bright=index == 3) for index, frames in enumerate(SHOTS)),
    (50, 170),
)
KINDS = {
    "caption": Caption,
    "logo": Logo,
    "border": Border,
    "blur": spoil.Blur,
    "freeze": Freeze,
    "flash": Flash,
    "rate": spoil.VariableRate,
}
SEEDS = range(12)


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def outside(box: Box) -> np.ndarray:
    mask = np.ones((HEIGHT, WIDTH), bool)
    mask[box.area] = False
    return mask


def overlays(seed: int) -> list[Caption | Logo]:
    drawn = spoil.draw(seed, ALL, CANVAS)
    return [*spoil.of(drawn, Caption), *spoil.of(drawn, Logo)]


def test_every_record_lies_within_the_file_and_the_frame():
    for seed in SEEDS:
        for record in spoil.draw(seed, ALL, CANVAS):
            assert 0 <= record.start < record.end <= CANVAS.num_frames
            if isinstance(record, Caption | Logo | Border):
                box = record.box
                assert 0 <= box.top < box.bottom <= HEIGHT and 0 <= box.left < box.right <= WIDTH


def test_each_kind_occurs_and_those_of_a_kind_do_not_overlap():
    drawn = [spoil.draw(seed, ALL, CANVAS) for seed in SEEDS]
    for kind in KINDS.values():
        found = [spoil.of(defects, kind) for defects in drawn]
        assert any(found)
        assert all(a.end <= b.start for records in found for a, b in pairwise(records))


def test_strength_zero_is_a_clean_file_and_a_kind_alone_is_alone():
    assert spoil.draw(3, spoil.CLEAN, CANVAS) == ()
    for name, kind in KINDS.items():
        drawn = [record for seed in SEEDS for record in spoil.draw(seed, Strengths.parse(name, 1.0), CANVAS)]
        assert drawn and all(isinstance(record, kind) for record in drawn)


def test_leaving_one_kind_out_leaves_the_others_as_they_were():
    for left_out in ("caption", "logo", "blur", "freeze", "flash", "rate"):
        fewer = spoil.draw(5, replace(ALL, **{left_out: 0.0}), CANVAS)
        assert fewer == tuple(record for record in spoil.draw(5, ALL, CANVAS) if record.kind != left_out)


def test_a_share_of_the_files_has_each_defect():
    half = [spoil.draw(seed, Strengths.parse("logo", 0.5), CANVAS) for seed in range(60)]
    assert 15 < sum(map(bool, half)) < 45
    assert not any(spoil.draw(seed, Strengths.parse("all", 0.0), CANVAS) for seed in SEEDS)


def test_freezes_and_flashes_lie_inside_a_shot_and_apart_and_nothing_begins_or_ends_within_a_freeze():
    for seed in SEEDS:
        drawn = spoil.draw(seed, ALL, CANVAS)
        freezes, flashes = spoil.of(drawn, Freeze), spoil.of(drawn, Flash)
        for record in (*freezes, *flashes):
            (shot,) = (shot for shot in CANVAS.shots if shot.start < record.start < shot.end)
            assert record.end < shot.end
            assert not shot.is_still or isinstance(record, Flash)
            assert not shot.is_bright or isinstance(record, Freeze)
        for stop in freezes:
            assert all(flash.end < stop.start or stop.end < flash.start for flash in flashes)
            edges = {edge for over in (*overlays(seed), *spoil.of(drawn, Border)) for edge in (over.start, over.end)}
            assert not edges & set(range(stop.start + 1, stop.end))


def test_borders_come_and_go_only_at_cuts():
    borders = [border for seed in range(30) for border in spoil.of(spoil.draw(seed, ALL, CANVAS), Border)]
    assert {edge for border in borders for edge in (border.start, border.end)} == {0, *CANVAS.cuts, 240}


def test_a_border_is_one_grey_and_the_picture_in_it_is_untouched():
    for seed in SEEDS:
        (border,) = spoil.of(spoil.draw(seed, ALL, CANVAS), Border)
        frame = spoil.bordered(noise(seed), border)
        assert (frame[outside(border.box)] == border.level).all()
        assert np.array_equal(frame[border.box.area], noise(seed)[border.box.area])


def test_overlays_keep_inside_a_border_and_a_logo_in_a_corner_clear_of_captions():
    for seed in range(40):
        (border,) = spoil.of(spoil.draw(seed, ALL, CANVAS), Border)
        covered = np.zeros((HEIGHT, WIDTH), bool)
        for record in overlays(seed):
            assert not outside(border.box)[record.box.area].any()
        logos = [record for record in overlays(seed) if isinstance(record, Logo) and record.corner != "centre"]
        for record in logos:
            covered[record.box.area] = True
        assert not any(covered[record.box.area].any() for record in overlays(seed) if isinstance(record, Caption))


def test_an_overlay_changes_its_box_to_the_last_row_and_nothing_else():
    for seed in SEEDS:
        for record in overlays(seed):
            layer = spoil.layer(record)
            assert layer.box == record.box
            touched = np.zeros((HEIGHT, WIDTH), bool)
            touched[record.box.area] = (layer.keep < 1)[..., 0]
            rows, columns = np.flatnonzero(touched.any(axis=1)), np.flatnonzero(touched.any(axis=0))
            assert Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1) == record.box
            frame = spoil.overlaid(noise(seed), layer)
            assert np.array_equal(frame[outside(record.box)], noise(seed)[outside(record.box)])


def test_a_logo_is_static_what_it_adds_does_not_depend_on_the_picture():
    for record in overlays(2):
        layer = spoil.layer(record)
        added = [
            spoil.overlaid(noise(seed), layer)[record.box.area] - layer.keep * noise(seed)[record.box.area]
            for seed in (0, 1)
        ]
        assert np.abs(added[0] - added[1]).max() <= 1.001  # each was rounded


def test_opacity_is_how_much_of_the_picture_an_overlay_hides_at_most():
    for record in overlays(4):
        hidden = 1 - spoil.layer(record).keep.min()
        assert hidden == pytest.approx(record.opacity, abs=0.01)


def test_blur_takes_detail_with_its_strength_and_leaves_the_mean():
    frame = noise()
    spread = [float(spoil.blurred(frame, sigma).std()) for sigma in (0.5, 1.0, 2.0, 4.0)]
    assert all(more > less for more, less in pairwise([float(frame.std()), *spread]))
    assert abs(spoil.blurred(frame, 3.0).mean() - frame.mean()) < 1
    flat = np.full_like(frame, 77)
    assert np.array_equal(spoil.blurred(flat, 3.0), flat)


def test_a_flash_brightens_towards_white_and_leaves_the_frames_around_it():
    frame = noise()
    assert np.array_equal(spoil.flashed(frame, 0.0), frame) and (spoil.flashed(frame, 1.0) == 255).all()
    assert (spoil.flashed(frame, 0.4) >= frame).all()
    seen = list(spoil.spoiled([frame] * 5, [Flash(2, 4, (0.8, 0.3))]))
    assert [bool((picture != frame).any()) for picture in seen] == [False, False, True, True, False]
    assert seen[2].mean() > seen[3].mean() > frame.mean()


def test_a_frozen_stream_repeats_one_frame_and_goes_on_where_it_stopped():
    frames = [np.full((2, 2, 3), value, np.uint8) for value in range(8)]
    out = list(spoil.held(iter(frames), [Freeze(12, 15), Freeze(17, 19)], 10))
    assert [int(frame[0, 0, 0]) for frame in out] == [0, 1, 2, 2, 2, 3, 4, 5, 5, 6, 7]


def test_a_variable_rate_has_rising_times_that_stay_within_its_spread():
    jitter = np.diff(spoil.edges(1, spoil.VariableRate(0, 200, "jitter", 0.5), Fraction(24)))
    assert jitter.min() >= 0.5 * 3750 - 1 and jitter.max() <= 1.5 * 3750 + 1 and len(set(jitter)) > 50
    stretches = np.diff(spoil.edges(1, spoil.VariableRate(0, 200, "stretches", 0.5), Fraction(24)))
    assert set(stretches) == {3750, 7500}
    assert spoil.edges(1, spoil.VariableRate(0, 9, "jitter", 0.5), Fraction(24))[0] == 0


def test_a_record_moves_with_a_copy_and_vanishes_with_its_frames():
    flash = Flash(10, 13, (0.2, 0.9, 0.4))
    assert spoil.moved(flash, 11, 100, Fraction(1), Fraction(1)) == Flash(0, 2, (0.9, 0.4))
    assert spoil.moved(flash, 4, 8, Fraction(1), Fraction(1)) == Flash(6, 8, (0.2, 0.9))
    assert spoil.moved(flash, 13, 100, Fraction(1), Fraction(1)) is None
    border = Border(0, 50, Box(15, 0, 105, 160), "letterbox", 0)
    half = spoil.moved(border, 5, 40, Fraction(1, 2), Fraction(1, 2))
    assert half == replace(border, end=40, box=Box(7, 0, 53, 80))


def test_strengths_are_read_from_text():
    assert Strengths.parse("none") == spoil.CLEAN
    assert Strengths.parse("caption, blur=0.3", 1.0) == Strengths(caption=1.0, blur=0.3, share=1.0)
    assert Strengths.parse("all=0.5,logo=0") == replace(Strengths(*[0.5] * 7), logo=0.0)


@pytest.mark.parametrize("text", ["captions", "blur=x", "blur=2", "blur=nan", "", "share=1"])
def test_strengths_that_cannot_be_read_are_refused_with_what_can_be_typed(text):
    with pytest.raises(RequestError, match=r"Use all, none|Give 0"):
        Strengths.parse(text)


def test_a_picture_too_small_for_its_caption_is_refused():
    with pytest.raises(RequestError, match="no room for a caption"):
        spoil.draw(1, Strengths.parse("caption", 1.0), replace(CANVAS, height=24, width=32))
