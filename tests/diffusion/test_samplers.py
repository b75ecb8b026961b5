import itertools
import math
import statistics

import pytest
import torch

from mutoscope.core.errors import RequestError
from mutoscope.diffusion.flow import noisier, to_denoised
from mutoscope.diffusion.samplers import Restarts, adams_bashforth, euler, heun, restarting, stretches
from mutoscope.diffusion.schedule import grid

from .gaussians import gaussian, mixture

SAMPLERS = [euler, heun, adams_bashforth]
ORDERS = [(euler, 1), (heun, 2), (adams_bashforth, 2)]


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def counted(field):
    def calling(x, t):
        calling.count += 1
        return field(x, t)

    calling.count = 0
    return calling


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize(("sampler", "order"), ORDERS)
def test_error_falls_with_the_order_of_the_method(sampler, order, shift):
    """On N(0.7, 1.5^2) the exact arrival is 0.7 + 1.5 * noise."""
    noise = draw(32, 4)
    errors = [
        (sampler(gaussian(0.7, 1.5), noise, grid(steps, shift).double()) - (0.7 + 1.5 * noise)).abs().max().item()
        for steps in (64, 128, 256)
    ]
    for coarse, fine in itertools.pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize(("sampler", "order"), ORDERS)
def test_error_falls_with_the_order_where_paths_bend_and_part(sampler, order):
    """In one dimension the exact flow keeps quantiles: CDF_data(arrival) = CDF_normal(noise)."""
    means, std = torch.tensor([[-1.0], [0.5]], dtype=torch.float64), 0.4
    noise = torch.linspace(-2.5, 2.5, 64, dtype=torch.float64)[:, None]

    def error(steps):
        arrival = sampler(mixture(means, std), noise, grid(steps).double())
        share = torch.special.ndtr((arrival - means.T) / std).mean(1, keepdim=True)
        return (share - torch.special.ndtr(noise)).abs().mean().item()

    assert math.log2(error(128) / error(256)) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_straight_paths_are_exact_in_any_number_of_steps(sampler, steps):
    """All data at one point: every path is straight, whatever the shift."""
    noise = draw(3, 2, 4, 3, 3)
    arrival = sampler(gaussian(0.3, 0.0), noise, grid(steps, 5.0).double())
    torch.testing.assert_close(arrival, torch.full_like(noise, 0.3), rtol=0, atol=1e-12)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_noise_is_carried_to_the_mean_and_std_of_the_data(sampler):
    data = sampler(gaussian(-1.5, 0.8), draw(4096, 4), grid(50, 3.0))
    assert data.mean().item() == pytest.approx(-1.5, abs=0.03)
    assert data.std().item() == pytest.approx(0.8, abs=0.03)


def test_adams_bashforth_beats_euler_by_a_third_on_few_steps_and_never_loses_a_tenth():
    """Guided mixtures in 16 dimensions: curved, and stiff near the data. The figures of its docstring."""
    means, noise = 0.9 * draw(12, 16, seed=1), draw(64, 16)
    null, conditional = mixture(means, 0.2), mixture(means[:4], 0.2)
    ratios = []
    for scale in (1.0, 3.0, 7.5):

        def field(x, t, scale=scale):
            return (1 - scale) * null(x, t) + scale * conditional(x, t)

        exact = heun(field, noise, grid(300, 3.0).double())
        for shift, steps in itertools.product((1.0, 3.0, 7.0, 17.0), (4, 8, 16, 30)):
            times = grid(steps, shift).double()
            ours, theirs = (
                (sampler(field, noise, times) - exact).abs().mean().item() for sampler in (adams_bashforth, euler)
            )
            ratios.append(ours / theirs)
    assert statistics.geometric_mean(ratios) < 2 / 3
    assert max(ratios) < 1.1


@pytest.mark.parametrize(("sampler", "calls"), [(euler, 10), (heun, 19), (adams_bashforth, 10)])
def test_calls_of_the_field_are_those_promised(sampler, calls):
    field = counted(gaussian(0.0, 1.0))
    sampler(field, draw(2, 3), grid(10))
    assert field.count == calls


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_field_is_never_called_at_zero_and_gets_one_time_per_sample(sampler):
    def field(x, t):
        assert t.shape == (5,)
        assert (t > 0).all()
        return x

    sampler(field, draw(5, 2), grid(6, 3.0))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_step_is_reported_before_it_is_taken(sampler):
    noise, times, seen = draw(2, 3), grid(8, 3.0), []
    field = gaussian(0.4, 0.6)
    sampler(field, noise, times, seen.append)
    assert [step.index for step in seen] == list(range(8))
    assert [step.t for step in seen] == times[:-1].tolist()
    assert torch.equal(seen[0].x, noise)
    for step in seen:
        assert torch.equal(step.velocity, field(step.x, torch.full((2,), step.t)))


@pytest.mark.parametrize("sampler", [euler, heun])
def test_last_preview_is_the_arrival(sampler):
    seen = []
    arrival = sampler(gaussian(0.4, 0.6), draw(2, 3), grid(8, 3.0), seen.append)
    torch.testing.assert_close(to_denoised(seen[-1].x, seen[-1].velocity, seen[-1].t), arrival)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_the_callback_raises_stops_the_sampler_at_once(sampler):
    field = counted(gaussian(0.0, 1.0))

    def stop_at_third(step):
        if step.index == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sampler(field, draw(2, 3), grid(10), stop_at_third)
    assert field.count == (5 if sampler is heun else 3)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_gradient_of_the_arrival_is_the_scale_of_the_transport(sampler):
    """On N(m, s^2) the arrival is m + s * noise, so its derivative is s."""
    noise = draw(4, 3).requires_grad_()
    sampler(gaussian(0.2, 0.7), noise, grid(200).double()).sum().backward()
    torch.testing.assert_close(noise.grad, torch.full_like(noise, 0.7), rtol=0, atol=5e-3)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_field_of_low_precision_leaves_the_state_in_float32(sampler):
    field = gaussian(0.0, 1.0)
    assert sampler(lambda x, t: field(x, t).bfloat16(), draw(2, 3).float(), grid(4)).dtype == torch.float32


class TestRestarts:
    """Back towards noise and down again."""

    RESTARTS = Restarts(3, 0.8, 0.3)

    def test_the_stretches_meet_at_times_of_the_grid(self):
        times = grid(8, 3.0)
        first, *again, rest = stretches(times, self.RESTARTS)
        assert torch.cat([first, rest[1:]]).equal(times)
        assert len(again) == 3
        for stretch in again:
            assert stretch[-1] == first[-1] == rest[0]
            assert (stretch[0].item(), stretch[-1].item()) == pytest.approx((0.8, 0.3), abs=0.04)
            assert set(stretch.tolist()) <= set(times.tolist())

    def test_without_restarts_the_grid_stays_whole(self):
        times = grid(8, 3.0)
        assert [stretch.tolist() for stretch in stretches(times, None)] == [times.tolist()]

    def test_noise_added_at_a_time_gives_the_state_of_a_later_one(self):
        """If the data are a point, the state at t is (1 - t) times it, plus noise of deviation t."""
        x = 0.7 * 2.0 + 0.3 * draw(200_000, 1)
        later = noisier(x, 0.3, 0.8, draw(200_000, 1, seed=1))
        assert later.mean().item() == pytest.approx(0.2 * 2.0, abs=0.01)
        assert later.std().item() == pytest.approx(0.8, abs=0.01)
        assert noisier(x, 0.3, 0.3, x).equal(x)

    @pytest.mark.parametrize("sampler", SAMPLERS)
    def test_the_law_of_what_arrives_is_that_of_the_data(self, sampler):
        walk = restarting(sampler, self.RESTARTS, lambda number: draw(4096, 4, seed=number))
        data = walk(gaussian(-1.5, 0.8), draw(4096, 4), grid(50, 3.0))
        assert data.mean().item() == pytest.approx(-1.5, abs=0.03)
        assert data.std().item() == pytest.approx(0.8, abs=0.03)

    def test_what_was_wrong_before_is_forgotten(self):
        """A field that errs above t = 0.8 alone leaves less of its error after restarts."""
        right = gaussian(1.0, 0.2)

        def erring(x, t):
            return right(x, t) + (t > 0.8).view(-1, 1) * 2.0

        noise, times = draw(4096, 4), grid(32, 3.0)
        walk = restarting(euler, self.RESTARTS, lambda number: draw(4096, 4, seed=number))
        once, again = (abs(one(erring, noise, times).mean().item() - 1) for one in (euler, walk))
        assert again < once / 10

    def test_every_step_is_told_once_numbered_through(self):
        seen, field = [], counted(gaussian(0.0, 1.0))
        walk = restarting(adams_bashforth, self.RESTARTS, lambda number: draw(2, 4, seed=number))
        walk(field, draw(2, 4), grid(8, 3.0).double(), seen.append)
        walked = sum(len(stretch) - 1 for stretch in stretches(grid(8, 3.0), self.RESTARTS))
        assert [step.index for step in seen] == list(range(walked))
        assert field.count == walked > 8

    def test_each_restart_has_noise_of_its_own(self):
        asked = []

        def fresh(number):
            asked.append(number)
            return draw(2, 4, seed=number)

        restarting(euler, self.RESTARTS, fresh)(gaussian(0.0, 1.0), draw(2, 4), grid(8, 3.0).double())
        assert asked == [1, 2, 3]

    def test_too_few_steps_are_refused(self):
        with pytest.raises(RequestError, match=r"2 steps are too few to go back from t = 0\.3 to 0\.8"):
            stretches(grid(2), self.RESTARTS)

    @pytest.mark.parametrize("wrong", [(0, 0.8, 0.3), (2, 0.3, 0.8), (2, 1.0, 0.3), (2, 0.8, 0.0)])
    def test_times_that_cannot_be_walked_are_refused(self, wrong):
        with pytest.raises(RequestError, match="cannot be walked"):
            Restarts(*wrong)
