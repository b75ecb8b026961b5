import pytest
import torch

from mutoscope.core.errors import RequestError
from mutoscope.diffusion.guidance import BOTH, IMAGE, NULL, Given, Guidance, guide, renormalise
from mutoscope.diffusion.samplers import adams_bashforth, euler, heun
from mutoscope.diffusion.schedule import grid

from .gaussians import gaussian

T = torch.tensor([0.9, 0.3], dtype=torch.float64)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stack(*fields):
    """One field of a stacked batch out of one field for each branch, as a network does with stacked conditions."""

    def stacked(x, t):
        parts = zip(fields, x.chunk(len(fields)), t.chunk(len(fields)), strict=True)
        return torch.cat([field(x, t) for field, x, t in parts])

    return stacked


def given_first(clean, *rows):
    frames = torch.zeros(clean.shape[0], clean.shape[2], dtype=torch.bool)
    frames[list(rows), 0] = True
    return Given(clean, frames)


# Three different velocities, each nonlinear in x so that a wrong view shows.
TEXT_AND_IMAGE, IMAGE_ONLY, NOTHING = (lambda x, t, k=k: torch.sin(k * x + t.view(-1, 1, 1, 1, 1)) for k in (1, 2, 3))


def test_scale_one_is_the_conditional_field_itself_in_one_call():
    x, guidance = draw(2, 3, 4, 2, 2), Guidance()
    assert guidance.weights(has_image=True) == guidance.weights(has_image=False) == {BOTH: 1.0}
    assert torch.equal(guide(TEXT_AND_IMAGE, guidance)(x, T), TEXT_AND_IMAGE(x, T))


@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0, 7.5])
def test_cfg_is_the_null_velocity_plus_the_scaled_difference(scale):
    x = draw(2, 3, 4, 2, 2)
    guided = guide(stack(TEXT_AND_IMAGE, NOTHING), Guidance(scale))(x, T)
    null, conditional = NOTHING(x, T), TEXT_AND_IMAGE(x, T)
    torch.testing.assert_close(guided, null + scale * (conditional - null))


def test_cfg_between_gaussians_of_one_width_is_the_gaussian_of_the_extrapolated_mean():
    """The velocity of N(m, s^2) is linear in m, so guidance samples N(m0 + scale * (m1 - m0), s^2) exactly."""
    null_mean, mean, std, scale = -0.2, 0.4, 0.6, 3.0
    wanted = null_mean + scale * (mean - null_mean)
    field = guide(stack(gaussian(mean, std), gaussian(null_mean, std)), Guidance(scale))
    x, noise = draw(2, 3, 4, 2, 2), draw(2, 3, 4, 2, 2, seed=1)
    torch.testing.assert_close(field(x, T), gaussian(wanted, std)(x, T))
    arrival = adams_bashforth(field, noise, grid(200).double())
    torch.testing.assert_close(arrival, wanted + std * noise, rtol=0, atol=1e-3)


def test_branch_weights_sum_to_one_so_agreeing_branches_are_left_alone():
    for guidance in (Guidance(7.5), Guidance(7.5, image_scale=1.5), Guidance(0.0, image_scale=2.0)):
        assert sum(guidance.weights(has_image=True).values()) == pytest.approx(1)
        assert sum(guidance.weights(has_image=False).values()) == pytest.approx(1)


def test_without_image_every_form_is_cfg():
    assert Guidance(7.5, image_scale=1.5).weights(has_image=False) == Guidance(7.5).weights(has_image=False)
    assert Guidance(7.5).weights(has_image=False) == {BOTH: 7.5, NULL: -6.5}


def test_jit_guides_text_and_image_together_in_two_calls():
    x, clean = draw(2, 3, 4, 2, 2), draw(2, 3, 4, 2, 2, seed=1)
    given = given_first(clean, 0, 1)
    guided = guide(stack(TEXT_AND_IMAGE, NOTHING), Guidance(7.5), given)(x, T)
    shown = torch.cat([clean[:, :, :1], x[:, :, 1:]], dim=2)
    null, both = NOTHING(x, T), TEXT_AND_IMAGE(shown, T)
    torch.testing.assert_close(guided[:, :, 1:], (null + 7.5 * (both - null))[:, :, 1:])


def test_sit_guides_text_and_image_apart_in_three_calls():
    x, clean = draw(2, 3, 4, 2, 2), draw(2, 3, 4, 2, 2, seed=1)
    guidance = Guidance(7.5, image_scale=1.5)
    assert list(guidance.weights(has_image=True)) == [BOTH, IMAGE, NULL]
    guided = guide(stack(TEXT_AND_IMAGE, IMAGE_ONLY, NOTHING), guidance, given_first(clean, 0, 1))(x, T)
    shown = torch.cat([clean[:, :, :1], x[:, :, 1:]], dim=2)
    null, image, both = NOTHING(x, T), IMAGE_ONLY(shown, T), TEXT_AND_IMAGE(shown, T)
    torch.testing.assert_close(guided[:, :, 1:], (null + 1.5 * (image - null) + 7.5 * (both - image))[:, :, 1:])


def test_sit_with_equal_scales_is_jit():
    assert Guidance(7.5, image_scale=7.5).weights(has_image=True) == Guidance(7.5).weights(has_image=True)


def test_sit_with_image_scale_one_is_cfg_on_text_with_the_image_in_both_branches():
    assert Guidance(7.5, image_scale=1.0).weights(has_image=True) == {BOTH: 7.5, IMAGE: -6.5}


def test_a_sample_without_given_frames_is_guided_by_cfg_in_any_batch():
    """Without an image the two textless branches of SIT are one and the same."""
    x, clean = draw(2, 3, 4, 2, 2), draw(2, 3, 4, 2, 2, seed=1)
    field = guide(stack(TEXT_AND_IMAGE, NOTHING, NOTHING), Guidance(7.5, image_scale=1.5), given_first(clean, 0))
    alone = guide(stack(TEXT_AND_IMAGE, NOTHING), Guidance(7.5))
    torch.testing.assert_close(field(x, T)[1:], alone(x[1:], T[1:]))


@pytest.mark.parametrize("sampler", [euler, heun, adams_bashforth])
def test_branches_with_image_see_clean_frames_and_the_null_branch_sees_their_noising_path(sampler):
    noise, clean, calls = draw(2, 3, 4, 2, 2), draw(2, 3, 4, 2, 2, seed=1), []

    def stacked(x, t):
        calls.append((x, t))
        return torch.sin(3 * x)

    sampler(guide(stacked, Guidance(4.0, image_scale=2.0), given_first(clean, 0, 1)), noise, grid(6, 3.0).double())
    for x, t in calls:
        both, image, null = x.chunk(3)
        path = (1 - t[0]) * clean + t[0] * noise
        assert torch.equal(both[:, :, 0], clean[:, :, 0])
        assert torch.equal(image, both)
        torch.testing.assert_close(null[:, :, 0], path[:, :, 0])
        assert torch.equal(null[:, :, 1:], both[:, :, 1:])


@pytest.mark.parametrize("guidance", [Guidance(), Guidance(5.0), Guidance(5.0, 2.0), Guidance(5.0, 2.0, "sample")])
@pytest.mark.parametrize("sampler", [euler, heun, adams_bashforth])
def test_given_frames_arrive_clean(sampler, guidance):
    noise, clean = draw(2, 3, 4, 2, 2), draw(2, 3, 4, 2, 2, seed=1)
    given = Given(clean, torch.tensor([[True, False, False, True], [False, True, True, False]]))
    arrival = sampler(guide(lambda x, t: torch.sin(3 * x), guidance, given), noise, grid(5, 3.0).double())
    wanted = given.frames[:, None, :, None, None].expand_as(clean)
    torch.testing.assert_close(arrival[wanted], clean[wanted])


def test_sampling_with_a_given_frame_draws_from_the_exact_conditional_of_a_correlated_gaussian():
    """Two frames, N(0, 1) with correlation r: given the first, the second is N(r * first, 1 - r^2)."""
    r = 0.8
    noise, clean = draw(64, 1, 2, 2, 2), draw(64, 1, 2, 2, 2, seed=1)

    def field(x, t):
        second = gaussian(r * x[:, :, :1], (1 - r**2) ** 0.5)(x[:, :, 1:], t)
        return torch.cat([torch.full_like(second, torch.nan), second], dim=2)  # says nothing of the given frame

    given = given_first(clean, *range(64))
    arrival = adams_bashforth(guide(field, Guidance(), given), noise, grid(200).double())
    wanted = r * clean[:, :, 0] + (1 - r**2) ** 0.5 * noise[:, :, 1]
    torch.testing.assert_close(arrival[:, :, 1], wanted, rtol=0, atol=1e-3)


def test_jit_on_a_correlated_gaussian_is_its_closed_form():
    """The null branch answers for the pair of frames together: E[data | x] = a S (a^2 S + t^2)^-1 x, a = 1 - t."""
    r, t, scale = 0.8, 0.4, 3.0
    covariance = torch.tensor([[1, r], [r, 1]], dtype=torch.float64)
    gain = (1 - t) * covariance @ torch.linalg.inv((1 - t) ** 2 * covariance + t**2 * torch.eye(2))

    def null(x, _):
        return (x - torch.einsum("ij,bcjhw->bcihw", gain, x)) / t

    def both(x, times):
        second = gaussian(r * x[:, :, :1], (1 - r**2) ** 0.5)(x[:, :, 1:], times)
        return torch.cat([torch.zeros_like(second), second], dim=2)

    clean, noise = draw(4, 1, 2, 2, 2), draw(4, 1, 2, 2, 2, seed=1)
    x = (1 - t) * clean + t * noise
    times = torch.full((4,), t, dtype=torch.float64)
    guided = guide(stack(both, null), Guidance(scale), given_first(clean, 0, 1, 2, 3))(x, times)

    seen = torch.stack([clean[:, :, 0], x[:, :, 1]])
    variance = (1 - t) ** 2 * (1 - r**2) + t**2
    conditional = (t - (1 - t) * (1 - r**2)) / variance * (seen[1] - (1 - t) * r * seen[0]) - r * seen[0]
    unconditional = (x[:, :, 1] - gain[1, 0] * x[:, :, 0] - gain[1, 1] * x[:, :, 1]) / t
    torch.testing.assert_close(guided[:, :, 1], unconditional + scale * (conditional - unconditional))
    torch.testing.assert_close(guided[:, :, 0], noise[:, :, 0] - clean[:, :, 0])


@pytest.mark.parametrize(("axes", "dims"), [("sample", (1, 2, 3, 4)), ("frame", (1, 3, 4)), ("token", (1,))])
def test_renormalising_keeps_the_direction_and_restores_the_length(axes, dims):
    guided, conditional = 9 * draw(2, 3, 4, 5, 6), draw(2, 3, 4, 5, 6, seed=1)
    result = renormalise(guided, conditional, axes)
    length, wanted, before = (torch.linalg.vector_norm(v, dim=dims) for v in (result, conditional, guided))
    torch.testing.assert_close(length, wanted)
    torch.testing.assert_close((result * guided).sum(dims), length * before)  # cosine 1


@pytest.mark.parametrize("axes", ["sample", "frame", "token"])
def test_renormalising_a_multiple_of_the_conditional_gives_the_conditional_and_nothing_stays_nothing(axes):
    conditional = draw(2, 3, 4, 5, 6)
    torch.testing.assert_close(renormalise(7.5 * conditional, conditional, axes), conditional)
    nothing = torch.zeros_like(conditional)
    assert torch.equal(renormalise(nothing, conditional, axes), nothing)


def test_renormalised_guidance_ignores_what_is_said_of_given_frames():
    x, clean = draw(2, 3, 4, 2, 2), draw(2, 3, 4, 2, 2, seed=1)
    given = given_first(clean, 0, 1)

    def shouting(x, t):
        return torch.cat([1e6 * torch.cos(x[:, :, :1]), TEXT_AND_IMAGE(x, t)[:, :, 1:]], dim=2)

    loud = guide(stack(shouting, NOTHING), Guidance(7.5, None, "sample"), given)(x, T)
    torch.testing.assert_close(loud, guide(stack(TEXT_AND_IMAGE, NOTHING), Guidance(7.5, None, "sample"), given)(x, T))
    shown = torch.cat([clean[:, :, :1], x[:, :, 1:]], dim=2)
    free = loud[:, :, 1:].flatten(1).norm(dim=1)
    torch.testing.assert_close(free, TEXT_AND_IMAGE(shown, T)[:, :, 1:].flatten(1).norm(dim=1))


def test_guided_velocity_has_the_precision_of_the_state():
    x = draw(2, 3, 4, 2, 2).float()
    field = guide(lambda x, t: torch.sin(x).bfloat16(), Guidance(7.5))
    assert field(x, T.float()).dtype == torch.float32


@pytest.mark.parametrize("scales", [(-1.0,), (float("nan"),), (float("inf"),), (7.5, -0.5)])
def test_a_scale_that_cannot_be_is_refused_in_one_line(scales):
    with pytest.raises(RequestError, match=r"^guidance=.*Give .*$"):
        Guidance(*scales)
