import pytest
import torch

from mutoscope.core.errors import RequestError
from mutoscope.diffusion.schedule import grid, resolution_shift, shift_time

TIMES = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)


@pytest.mark.parametrize("shift", [0.1, 1.0, 3.0, 7.0, 13.0, 17.0])
@pytest.mark.parametrize("steps", [1, 2, 50, 1000])
def test_grid_falls_from_exactly_one_to_exactly_zero(steps, shift):
    times = grid(steps, shift)
    assert len(times) == steps + 1
    assert times[0] == 1
    assert times[-1] == 0
    assert (times.diff() < 0).all()


def test_grid_is_even_without_shift():
    torch.testing.assert_close(grid(8), torch.tensor([8, 7, 6, 5, 4, 3, 2, 1, 0]) / 8, rtol=0, atol=0)


def test_grid_is_the_published_one_of_step_video():
    """50 steps at shift 13; the published clock runs the other way."""
    published = 1 - grid(50, 13.0)
    torch.testing.assert_close(published[:4], torch.tensor([0, 0.001567, 0.003195, 0.004886]), rtol=0, atol=1e-6)
    torch.testing.assert_close(published[[20, 49]], torch.tensor([0.0488, 0.7903]), rtol=0, atol=5e-5)


def test_shifting_by_a_and_then_by_b_is_shifting_by_a_times_b():
    torch.testing.assert_close(shift_time(shift_time(TIMES, 3.0), 2.5), shift_time(TIMES, 7.5))
    torch.testing.assert_close(shift_time(shift_time(TIMES, 7.0), 1 / 7.0), TIMES)


def test_shift_adds_its_logarithm_to_the_log_odds():
    log_shift = torch.tensor(5.0, dtype=torch.float64).log()
    torch.testing.assert_close(shift_time(TIMES, 5.0).logit(), TIMES.logit() + log_shift)


def test_resolution_shift_keeps_the_uncertainty_about_the_mean():
    """A constant picture seen through noise in n tokens is known up to t / ((1 - t) sqrt(n)) (Esser et al. 2024)."""
    small, large = 256, 4096
    t_large = shift_time(TIMES, resolution_shift(large, small))
    torch.testing.assert_close(t_large / (1 - t_large) / large**0.5, TIMES / (1 - TIMES) / small**0.5)


def test_resolution_shift_multiplies_the_base():
    assert resolution_shift(4096, 1024, base_shift=3.0) == 6.0


@pytest.mark.parametrize(("steps", "shift"), [(0, 1.0), (-1, 1.0), (4, 0.0), (4, -2.0), (4, float("nan"))])
def test_a_grid_that_cannot_be_is_refused_in_one_line(steps, shift):
    with pytest.raises(RequestError, match=r"^(steps|shift)=.*Give .*$"):
        grid(steps, shift)
