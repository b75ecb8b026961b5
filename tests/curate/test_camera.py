"""A motion of the picture has the label of what the camera does, and where it cannot be told there is none."""

import numpy as np
import pytest

from mutoscope.curate.camera import LABELS, TOLD, Label, Motion, label

Flow = float | np.ndarray
FRAMES, SECONDS = 48, 2.0
STEP = 0.1 * SECONDS / FRAMES  # a tenth of the width in a second


def motion(
    *, x: Flow = 0.0, y: Flow = 0.0, zoom: Flow = 0.0, roll: Flow = 0.0, residual: Flow = 0.0, seconds: float = SECONDS
) -> Motion:
    """Series of numbers, or of one number."""
    flows = {"x": x, "y": y, "zoom": zoom, "roll": roll, "residual": residual}
    full = {name: np.broadcast_to(np.asarray(flow, np.float32), FRAMES).copy() for name, flow in flows.items()}
    return Motion.of(**full, duration_s=seconds)


@pytest.mark.parametrize(
    ("flow", "name"),
    [
        ({}, "static"),
        ({"x": STEP}, "pan left"),  # the picture goes right
        ({"x": -STEP}, "pan right"),
        ({"y": STEP}, "tilt up"),  # the picture goes down
        ({"y": -STEP}, "tilt down"),
        ({"zoom": STEP}, "zoom in"),
        ({"zoom": -STEP}, "zoom out"),
    ],
)
def test_a_steady_flow_is_the_camera_motion_of_the_other_direction(flow: dict[str, float], name: Label) -> None:
    assert label(motion(**flow)) == name


def test_a_little_shake_leaves_a_pan_a_pan() -> None:
    shake = np.random.default_rng(0).normal(0, STEP / 2, (2, FRAMES))
    assert label(motion(x=STEP + shake[0], y=shake[1])) == "pan left"


def test_shaking_without_getting_ahead_is_handheld() -> None:
    shake = np.random.default_rng(1).normal(0, STEP, (2, FRAMES))
    assert label(motion(x=shake[0] - shake[0].mean(), y=shake[1] - shake[1].mean())) == "handheld"


def test_a_slow_pan_there_and_back_is_neither_pan_nor_handheld() -> None:
    there_and_back = np.repeat([STEP, -STEP], FRAMES // 2)
    assert label(motion(x=there_and_back)) == "unknown"


def test_what_has_no_label_or_mixes_two_is_unknown() -> None:
    assert label(motion(roll=STEP * 4)) == "unknown"
    assert label(motion(x=STEP, y=STEP)) == "unknown"


def test_a_pan_that_leaves_as_much_unexplained_is_unknown() -> None:
    assert label(motion(x=STEP, residual=STEP)) == "unknown"
    assert label(motion(x=STEP, residual=STEP / 4)) == "pan left"


def test_things_that_move_before_a_still_camera_leave_it_static() -> None:
    assert label(motion(residual=STEP)) == "static"


def test_speeds_are_widths_a_second_whatever_the_frame_rate() -> None:
    for seconds in (1.0, 4.0):
        each = motion(x=0.1 * seconds / FRAMES, residual=0.05 * seconds / FRAMES, seconds=seconds)
        np.testing.assert_allclose([each.camera_speed, each.own_speed], [0.1, 0.05], rtol=1e-5)


def test_steps_without_a_value_count_as_none() -> None:
    x = np.full(FRAMES, STEP)
    x[::8] = np.nan
    assert label(motion(x=x)) == "pan left"


def test_there_are_fourteen_labels_and_those_that_are_told_are_among_them() -> None:
    assert len(set(LABELS)) == 14 and set(TOLD) < set(LABELS)
