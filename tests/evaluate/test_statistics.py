import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mutoscope.core.errors import RequestError
from mutoscope.evaluate.statistics import bootstrap, psnr, wilson


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [  # Newcombe 1998, Statistics in Medicine 17, table I, method 3 (score, no continuity correction)
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_equals_the_table_of_newcombe(right, total, low, high):
    interval = wilson(right, total)
    assert interval.value == right / total
    assert interval.low == pytest.approx(low, abs=5e-5)
    assert interval.high == pytest.approx(high, abs=5e-5)


@given(st.integers(1, 500).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_wilson_bounds_are_where_the_score_test_just_rejects(shares):
    right, total = shares
    share, low, high = wilson(right, total)
    assert 0 <= low <= share <= high <= 1
    for bound in (low, high):
        if 0 < bound < 1:
            assert abs(share - bound) / math.sqrt(bound * (1 - bound) / total) == pytest.approx(1.959964, abs=1e-5)


def test_wilson_mirrors_when_right_and_wrong_change_places():
    one, other = wilson(3, 17), wilson(14, 17)
    assert one.low == pytest.approx(1 - other.high) and one.high == pytest.approx(1 - other.low)


def test_bootstrap_is_as_wide_as_the_standard_error_says():
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    mean, low, high = bootstrap(values.tolist())
    assert mean == pytest.approx(values.mean())
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.06)


def test_bootstrap_repeats_itself_and_of_one_value_is_a_point():
    assert bootstrap([1.0, 4.0, 2.0], seed=3) == bootstrap([1.0, 4.0, 2.0], seed=3)
    assert bootstrap([2.5]) == (2.5, 2.5, 2.5)


def test_psnr_of_an_error_of_one_level_is_48_13_db():
    frames = np.full((2, 4, 4, 3), 100, np.uint8)
    assert psnr(frames, frames + np.uint8(1)) == pytest.approx(48.1308, abs=1e-4)
    assert psnr(frames + np.uint8(1), frames) == pytest.approx(48.1308, abs=1e-4)  # unsigned bytes must not wrap


def test_psnr_of_the_same_frames_is_infinite_and_of_black_against_white_zero():
    black = np.zeros((1, 2, 2, 3), np.uint8)
    assert psnr(black, black) == math.inf
    assert psnr(black, black + np.uint8(255)) == 0


def test_no_samples_are_refused():
    with pytest.raises(RequestError, match="at least one"):
        bootstrap([])
    with pytest.raises(RequestError, match="no share"):
        wilson(0, 0)
