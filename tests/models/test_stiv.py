"""The laws of STIV that its own file promises, beyond the contract of every family."""

import math
from dataclasses import replace

import pytest
import torch
from einops import repeat
from torch import Tensor, nn

from mutoscope.core import weights
from mutoscope.core.errors import RecipeError, WeightsError
from mutoscope.encoders.base import TextTokens
from mutoscope.models.family import Facts
from mutoscope.models.stiv import FREQUENCIES, PRESETS, STIV, Condition, Config, condition, inflate, join, weigh
from mutoscope.nn.embed import sinusoid

VIDEO = replace(PRESETS["tiny"], weighed=False)
IMAGE = replace(VIDEO, patch_size=(1, 2, 2), temporal=False)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def cond(count: int, length: int = 5) -> Condition:
    tokens = TextTokens(
        draw(count, length, VIDEO.text_dim, seed=1),
        torch.ones(count, length, dtype=torch.bool),
        draw(count, VIDEO.text_dim, seed=2),
    )
    return condition(tokens, [Facts(height=64, width=64, num_frames=4)] * count)


def build(config: Config, seed: int = 0) -> STIV:
    """Build a network with no weight at its initial value."""
    network = STIV(config)
    for index, parameter in enumerate(network.parameters()):
        parameter.data += draw(*parameter.shape, seed=1000 * seed + index) * 0.5 / math.sqrt(parameter.shape[-1])
    return network


def load(config: Config, state: dict[str, Tensor]) -> STIV:
    network = STIV(config)
    weights.load_into(network, state, source="test")
    return network


X = draw(2, VIDEO.latent_channels, 4, 8, 4)
T = torch.tensor([0.3, 0.9])


def test_every_block_is_the_identity_at_first_and_the_answer_zero() -> None:
    network, seen = STIV(VIDEO), []
    for block in network.blocks:
        block.register_forward_hook(lambda _, inputs, output: seen.append(torch.equal(inputs[0], output)))
    assert not network(X, T, cond(2)).any()
    assert seen == [True] * VIDEO.depth


def test_what_starts_at_zero_moves_as_soon_as_the_head_does() -> None:
    network = STIV(VIDEO)
    nn.init.normal_(network.head.out.weight)
    zeros = ("table", "temporal.out.weight", "cross.out.weight", "modulation.out.weight")
    moving = {name: p for name, p in network.named_parameters() if name.endswith(zeros)}
    assert len(moving) == 3 * VIDEO.depth + 2
    gradients = torch.autograd.grad((network(X, T, cond(2)) - X).square().mean(), list(moving.values()))
    assert [name for name, gradient in zip(moving, gradients, strict=True) if not gradient.any()] == []


def test_time_and_velocity_are_converted_from_the_clock_of_the_paper() -> None:
    network, seen = build(VIDEO), []
    network.singletons.time.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    nn.init.zeros_(network.head.out.weight)
    nn.init.constant_(network.head.out.bias, 0.25)  # the network's own answer: data - noise is 0.25 everywhere
    velocity = network(X, T, cond(2))
    assert torch.equal(velocity, torch.full_like(X, -0.25))
    assert torch.equal(seen[0], sinusoid(1000 * (1 - T), FREQUENCIES))  # 0 at noise, 1 at data


def test_weighed_input_and_answer_have_unit_variance_at_every_time() -> None:
    latents, noise = (draw(4, 2, 50, 40, 40, seed=seed) for seed in (1, 2))
    t = torch.tensor([0.02, 0.3, 0.7, 0.98])
    weights = weigh(t, torch.float32)
    x = torch.lerp(latents, noise, t[:, None, None, None, None])
    answer = (noise - latents - weights.skip * x) / weights.answer
    for weighed in (weights.input * x, answer):
        torch.testing.assert_close(weighed.var(dim=(1, 2, 3, 4)), torch.ones(4), atol=0.02, rtol=0)
    rest = (answer * x).mean(dim=(1, 2, 3, 4))  # the multiple of x is the best: nothing of x is left in the answer
    torch.testing.assert_close(rest, torch.zeros(4), atol=0.02, rtol=0)


def test_a_weighed_network_begins_with_the_best_multiple_of_its_input() -> None:
    expected = weigh(T, torch.float32).skip * X
    torch.testing.assert_close(STIV(replace(VIDEO, weighed=True))(X, T, cond(2)), expected)


def test_a_mask_that_keeps_all_tokens_is_no_mask() -> None:
    network, c = build(VIDEO), cond(2)
    every = torch.arange(8).expand(2, 8)
    torch.testing.assert_close(network(X, T, c, keep=every), network(X, T, c), atol=1e-5, rtol=1e-5)


def test_the_order_of_kept_tokens_does_not_matter() -> None:
    network, c = build(VIDEO), cond(2)
    keep = torch.tensor([[0, 3, 5], [7, 1, 2]])
    torch.testing.assert_close(network(X, T, c, keep=keep.flip(1)), network(X, T, c, keep=keep), atol=1e-5, rtol=1e-5)


def test_main_blocks_never_see_what_the_mask_leaves_out_and_full_blocks_do() -> None:
    keep = torch.tensor([[0, 2, 3, 6]] * 2)
    changed = X.clone()
    changed[:, :, :, 0:2, 2:4] += 1  # the second token of the first row
    for full_blocks, is_blind in [(0, True), (1, False)]:
        network = build(replace(VIDEO, full_blocks=full_blocks))
        before, after = (network(x, T, cond(2), keep=keep)[:, :, :, 0:2, 0:2] for x in (X, changed))
        assert torch.equal(before, after) == is_blind


def test_every_token_left_out_still_knows_its_noise() -> None:
    keep = torch.tensor([[0, 2, 3, 6]] * 2)
    changed = X.clone()
    changed[:, :, 0, 0, 2] += 1  # in the second token, which is left out
    network = build(VIDEO)
    before, after = (network(x, T, cond(2), keep=keep)[:, :, :2, 0:2, 2:4] for x in (X, changed))
    assert (before - after).abs().max() > 1e-3


def test_the_image_network_sees_frames_one_by_one() -> None:
    network, c = build(IMAGE), cond(2)
    frames = [network(X[:, :, k : k + 1], T, c) for k in range(4)]
    torch.testing.assert_close(network(X, T, c), torch.cat(frames, dim=2), atol=1e-5, rtol=1e-5)


def test_inflated_network_answers_each_slot_as_the_image_network_answers_the_mean_of_its_frames() -> None:
    image, c = build(IMAGE), cond(2)
    video = load(VIDEO, inflate(image.state_dict(), VIDEO))
    means = (X[:, :, 0::2] + X[:, :, 1::2]) / 2
    answer = repeat(image(means, T, c), "B C t H W -> B C (t two) H W", two=2)
    torch.testing.assert_close(video(X, T, c), answer, atol=1e-5, rtol=1e-5)
    still = repeat(means, "B C t H W -> B C (t two) H W", two=2)
    torch.testing.assert_close(video(still, T, c), answer, atol=1e-5, rtol=1e-5)


def test_joined_network_has_temporal_weights_of_the_video_and_all_else_of_the_image() -> None:
    image, video = build(IMAGE, seed=1), build(VIDEO, seed=2)
    joined = join(image.state_dict(), video.state_dict(), VIDEO)
    load(VIDEO, joined)
    inflated = inflate(image.state_dict(), VIDEO)
    for name, tensor in joined.items():
        source = video.state_dict() if ".temporal." in name else inflated
        assert torch.equal(tensor, source[name]), name


@pytest.mark.parametrize("other", [VIDEO, replace(IMAGE, depth=4), replace(IMAGE, dim=16), replace(IMAGE, text_dim=8)])
def test_weights_that_are_not_of_its_image_model_are_refused(other: Config) -> None:
    with pytest.raises(WeightsError, match=r"not the weights of an image model.* tensors differ, .* among them"):
        inflate(STIV(other).state_dict(), VIDEO)
    with pytest.raises(WeightsError, match="not the weights of a video model"):
        join(STIV(IMAGE).state_dict(), STIV(IMAGE).state_dict(), VIDEO)


def test_positions_within_the_trained_range_stay_as_they_were() -> None:
    network, c = build(VIDEO), cond(2)
    for grid in [(2, 4, 2), (4, 8, 8)]:
        same = load(replace(VIDEO, rope_grid=grid), network.state_dict())
        assert torch.equal(same(X, T, c), network(X, T, c))
    shorter = load(replace(VIDEO, rope_grid=(1, 4, 2)), network.state_dict())
    assert not torch.equal(shorter(X, T, c), network(X, T, c))


def test_scaling_queries_or_keys_changes_nothing_because_they_are_normalised() -> None:
    network, c = build(VIDEO), cond(2)
    before = network(X, T, c)
    for name, parameter in network.named_parameters():
        if ".qkv." in name:
            parameter.data[: 2 * VIDEO.dim] *= 4
        if ".kv." in name:
            parameter.data[: VIDEO.dim] *= 4
        if ".q." in name:
            parameter.data *= 4
    torch.testing.assert_close(network(X, T, c), before, atol=1e-4, rtol=1e-4)


def test_half_precision_stays_close() -> None:
    network, c = build(VIDEO), cond(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = network(X, T, c)
    high = network(X, T, c)
    assert low.dtype == torch.float32
    assert (low - high).norm() < 0.05 * high.norm()


def test_condition_carries_the_facts_in_order_and_moves_in_one_piece() -> None:
    tokens = TextTokens(draw(1, 3, 12), torch.ones(1, 3, dtype=torch.bool), draw(1, 12))
    made = condition(tokens, [Facts(height=1, width=2, num_frames=6, crop_top=3, crop_left=4, stride=5)])
    assert made.micro.tolist() == [[1, 2, 3, 4, 5, 6]]
    assert {part.device.type for part in vars(made.to("meta")).values()} == {"meta"}


def test_joined_conditions_come_apart_as_they_were() -> None:
    short, long = cond(1, length=2), cond(2, length=4)
    both = Condition.cat([short, long])
    assert both.mask.tolist() == [[True, True, False, False], [True] * 4, [True] * 4]
    for part, whole in [(short, both[:1]), (long, both[1:])]:
        length = part.mask.shape[1]
        assert torch.equal(whole.tokens[:, :length], part.tokens)
        assert not whole.tokens[:, length:].any()
        assert torch.equal(whole.pooled, part.pooled)
        assert torch.equal(whole.micro, part.micro)


@pytest.mark.parametrize(
    ("preset", "printed", "temporal"), [("XL", 0.6e9, False), ("XXL", 1.5e9, False), ("M", 8.7e9, True)]
)
def test_counts_are_within_four_percent_of_the_printed_ones(preset: str, printed: float, temporal: bool) -> None:
    with torch.device("meta"):
        network = STIV(replace(PRESETS[preset], temporal=temporal))
    assert abs(sum(p.numel() for p in network.parameters()) / printed - 1) < 0.04


@pytest.mark.parametrize("wrong", [{"head_dim": 12}, {"head_dim": 2}, {"full_blocks": 4}])
def test_a_shape_that_cannot_be_built_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(RecipeError, match="Use "):
        replace(VIDEO, **wrong)
