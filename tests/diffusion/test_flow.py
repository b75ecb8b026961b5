import pytest
import torch

from mutoscope.core.errors import RecipeError
from mutoscope.diffusion.flow import FlowMatching, LogitNormal, Uniform, replace_given, to_denoised, to_velocity

SHARES = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
NORMAL = torch.distributions.Normal(torch.tensor(0.0, dtype=torch.float64), 1.0)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.6, 1.2), (1.0, 0.5)])
def test_share_of_logit_normal_times_below_a_time_is_the_normal_cdf_of_its_log_odds(mean, std):
    t = FlowMatching(LogitNormal(mean, std)).times(SHARES)
    torch.testing.assert_close(NORMAL.cdf((t.logit() - mean) / std), SHARES)


def test_drawn_times_have_the_mean_and_std_of_their_density():
    u = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    log_odds = FlowMatching(LogitNormal(0.5, 1.5)).times(u).logit()
    assert log_odds.mean().item() == pytest.approx(0.5, abs=4 * 1.5 / 20_000**0.5)
    assert log_odds.std().item() == pytest.approx(1.5, abs=4 * 1.5 / 40_000**0.5)
    uniform = FlowMatching(Uniform()).times(u)
    assert uniform.mean().item() == pytest.approx(1 / 2, abs=4 / (12 * 20_000) ** 0.5)


def test_shifted_logit_normal_is_the_logit_normal_whose_mean_is_moved_by_the_logarithm():
    log_shift = torch.tensor(7.0, dtype=torch.float64).log().item()
    shifted = FlowMatching(LogitNormal(0.3, 1.1), shift=7.0).times(SHARES)
    torch.testing.assert_close(shifted, FlowMatching(LogitNormal(0.3 + log_shift, 1.1)).times(SHARES))


@pytest.mark.parametrize("process", [FlowMatching(), FlowMatching(Uniform(), 3.0), FlowMatching(LogitNormal(2.0, 2.0))])
def test_times_rise_with_the_uniform_number_and_stay_on_the_clock(process):
    t = process.times(torch.linspace(0, 1, 101))
    assert t[0] == 0
    assert t[-1] == 1
    assert (t.diff() >= 0).all()


def test_pair_begins_at_the_latents_and_ends_at_the_noise():
    latents, noise = draw(2, 3, 4, 5, 6), draw(2, 3, 4, 5, 6, seed=1)
    x_t, _, _ = FlowMatching().pair(latents, noise, torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert torch.equal(x_t[0], latents[0])
    assert torch.equal(x_t[1], noise[1])


def test_target_is_the_derivative_of_the_path():
    """The path is straight, so any difference quotient is the derivative."""
    latents, noise, t = draw(2, 3, 4, 5, 6), draw(2, 3, 4, 5, 6, seed=1), torch.tensor([0.2, 0.6], dtype=torch.float64)
    before, after = FlowMatching().pair(latents, noise, t), FlowMatching().pair(latents, noise, t + 0.25)
    torch.testing.assert_close((after.x_t - before.x_t) / 0.25, before.target)
    assert torch.equal(before.target, after.target)


def test_noisy_latents_have_the_marginal_of_the_path_and_regress_to_the_gaussian_velocity():
    """Data N(0, 0.5^2): Var x_t = (1-t)^2 / 4 + t^2 and E[target | x_t] = x_t (t - (1-t) / 4) / Var x_t."""
    t, std = 0.3, 0.5
    latents, noise = std * draw(1, 4, 4, 64, 64), draw(1, 4, 4, 64, 64, seed=1)
    x_t, target, _ = FlowMatching().pair(latents, noise, torch.tensor([t], dtype=torch.float64))
    variance = (1 - t) ** 2 * std**2 + t**2
    assert x_t.var().item() == pytest.approx(variance, rel=0.02)
    slope = (x_t * target).mean() / x_t.square().mean()
    assert slope.item() == pytest.approx((t - (1 - t) * std**2) / variance, abs=0.02)


def test_given_frames_are_clean_and_weigh_nothing_and_the_others_do_not_notice():
    latents, noise, t = draw(2, 3, 4, 5, 6), draw(2, 3, 4, 5, 6, seed=1), torch.tensor([0.4, 0.8], dtype=torch.float64)
    given = torch.tensor([[True, False, False, True], [False, False, False, False]])
    free = FlowMatching().pair(latents, noise, t)
    pair = FlowMatching().pair(latents, noise, t, given)
    assert torch.equal(pair.x_t[0, :, [0, 3]], latents[0, :, [0, 3]])
    assert torch.equal(pair.x_t[0, :, 1:3], free.x_t[0, :, 1:3])
    assert torch.equal(pair.x_t[1], free.x_t[1])
    assert torch.equal(pair.target, free.target)
    assert torch.equal(pair.weight.flatten(1), (~given).double())
    assert torch.equal(free.weight, torch.ones(2, 1, 4, 1, 1, dtype=torch.float64))


def test_replaced_frames_are_taken_even_where_the_rest_of_the_clean_clip_is_nonsense():
    x, clean = draw(1, 2, 3, 2, 2), torch.full((1, 2, 3, 2, 2), torch.nan, dtype=torch.float64)
    clean[:, :, 1] = 7.0
    replaced = replace_given(x, clean, torch.tensor([[False, True, False]]))
    assert torch.equal(replaced[:, :, [0, 2]], x[:, :, [0, 2]])
    assert (replaced[:, :, 1] == 7).all()


def test_true_velocity_points_at_the_latents_from_anywhere_on_the_path():
    latents, noise, t = draw(2, 3, 4, 5, 6), draw(2, 3, 4, 5, 6, seed=1), torch.tensor([0.1, 1.0], dtype=torch.float64)
    x_t, target, _ = FlowMatching().pair(latents, noise, t)
    torch.testing.assert_close(to_denoised(x_t, target, t), latents)
    torch.testing.assert_close(to_velocity(x_t, latents, t), target)


def test_velocity_and_denoised_are_inverse_for_one_time_or_one_per_sample():
    x, velocity = draw(3, 7), draw(3, 7, seed=1)
    for t in (0.25, torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64)):
        torch.testing.assert_close(to_velocity(x, to_denoised(x, velocity, t), t), velocity)


def test_a_density_or_shift_that_cannot_be_is_refused_in_one_line():
    for make in (lambda: LogitNormal(0.0, 0.0), lambda: LogitNormal(float("nan")), lambda: FlowMatching(shift=0.0)):
        with pytest.raises(RecipeError, match=r"^.*Give a .*$"):
            make()
