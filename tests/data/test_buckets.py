import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mutoscope.core.errors import RequestError
from mutoscope.data.buckets import Bucket, buckets, choose, cropped, fit, nearest, plan

BASES = (480, 720, 960)
SIDES = st.integers(16, 4000)


@pytest.mark.parametrize(("base", "count", "square"), [(480, 43, 480), (720, 67, 704), (960, 91, 960)])
def test_the_published_resolutions_have_so_many_buckets_and_one_square(base: int, count: int, square: int) -> None:
    found = buckets(base)
    assert len(found) == count == len(set(found))
    assert [bucket for bucket in found if bucket.height == bucket.width] == [Bucket(square, square)]


@given(st.integers(64, 1200), st.sampled_from([16, 32]), st.floats(1, 8))
def test_buckets_keep_to_area_step_and_shape(base: int, step: int, max_ratio: float) -> None:
    for bucket in buckets(base, step, max_ratio):
        assert bucket.height % step == bucket.width % step == 0
        assert bucket.height * bucket.width <= base * base + step * step / 2  # rounded to whole squares of the step
        assert max(bucket) <= max_ratio * min(bucket)


@given(st.sampled_from(BASES), SIDES, SIDES)
def test_no_bucket_between_the_picture_and_the_one_chosen_and_none_more_extreme(
    base: int, height: int, width: int
) -> None:
    among, shape = buckets(base), height / width
    ratios = [round(bucket.height / bucket.width, 5) for bucket in among]
    chosen = choose(among, height, width)
    ratio = round(chosen.height / chosen.width, 5)
    if shape >= 1:
        assert ratio == max(other for other in ratios if other <= shape)
    else:
        assert ratio == min(other for other in ratios if other > shape)


@given(st.sampled_from(BASES), SIDES, SIDES)
def test_a_resized_picture_covers_its_bucket_and_keeps_its_shape(base: int, height: int, width: int) -> None:
    bucket = choose(buckets(base), height, width)
    resized_height, resized_width, top, left = plan(height, width, bucket)
    assert resized_height >= bucket.height + top and resized_width >= bucket.width + left and min(top, left) >= 0
    assert min(resized_height, resized_width) == min(bucket)
    long, short = max(height, width), min(height, width)
    assert abs(max(resized_height, resized_width) - min(bucket) * long / short) <= 1
    assert abs(2 * top + bucket.height - resized_height) <= 1 and abs(2 * left + bucket.width - resized_width) <= 1


def test_the_middle_of_the_picture_is_kept() -> None:
    picture = np.zeros((60, 300, 3), np.uint8)
    picture[:, 150:] = 200
    fitted = fit(picture, Bucket(64, 128))
    assert fitted.shape == (64, 128, 3)
    assert fitted[:, :60].max() == 0 and fitted[:, 68:].min() == 200


def test_a_picture_of_the_buckets_size_stays_as_it_is() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    assert np.array_equal(fit(picture, Bucket(96, 128)), picture)


def test_a_base_without_room_for_one_step_is_refused() -> None:
    with pytest.raises(RequestError, match="Use at least 32"):
        buckets(20)


@given(st.sampled_from(BASES), SIDES, SIDES, st.floats(0, 0.9))
def test_the_nearest_bucket_enlarges_nothing_and_no_fitting_one_is_nearer(
    base: int, height: int, width: int, most: float
) -> None:
    fitting = [one for one in buckets(base) if one.height <= height and one.width <= width]
    found = nearest(buckets(base), height, width, most)
    least = min((cropped(one, height, width) for one in fitting), default=1.0)
    if found is None:
        assert not fitting or least > most - 1e-9
    else:
        assert found in fitting and abs(cropped(found, height, width) - least) < 1e-9 and least <= most + 1e-9


def test_what_is_cut_off_is_measured_in_shares_of_the_area() -> None:
    assert cropped(Bucket(64, 128), 32, 64) == 0
    assert cropped(Bucket(64, 64), 90, 120) == pytest.approx(0.25) and cropped(Bucket(64, 64), 120, 90) == 0.25
