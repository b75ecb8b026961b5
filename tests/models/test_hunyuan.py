"""The laws of HunyuanVideo that its own file promises, beyond the contract of every family."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mutoscope.core import weights
from mutoscope.core.errors import RecipeError, RequestError
from mutoscope.encoders import llm
from mutoscope.encoders.base import TextTokens
from mutoscope.models import hunyuan
from mutoscope.models.hunyuan import (
    FREQUENCIES,
    NEGATIVE,
    PRESETS,
    Condition,
    Config,
    Hunyuan,
    condition,
    keys,
    reader,
    tell,
)
from mutoscope.nn.embed import sinusoid

FULL_SIZE = Path(__file__).parents[3] / "shared" / "golden" / "fullsize_keys"
TINY = PRESETS["tiny"]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def text(lengths: Sequence[int], seed: int = 1) -> TextTokens:
    """Make prompts of these lengths, padded with what must not be read."""
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    tokens = draw(*mask.shape, TINY.text_dim, seed=seed).masked_fill(~mask[..., None], 1e4)
    return TextTokens(tokens, mask, draw(len(lengths), TINY.pooled_dim, seed=seed + 1))


def cond(lengths: Sequence[int] = (5, 5), guidance: float = 6.0) -> Condition:
    return condition(text(lengths), [], guidance=guidance)


def build(config: Config = TINY) -> Hunyuan:
    """Build a network with no weight at its initial value."""
    network = Hunyuan(config)
    for index, parameter in enumerate(network.parameters()):
        parameter.data += draw(*parameter.shape, seed=index) * 0.5 / math.sqrt(parameter.shape[-1])
    return network


X = draw(2, TINY.latent_channels, 3, 4, 6)
T = torch.tensor([0.3, 0.9])


def test_every_block_is_the_identity_at_first_and_the_answer_zero() -> None:
    network, moved = Hunyuan(TINY), []
    for block in [*network.doubles, *network.singles, *network.refiner.blocks]:
        block.register_forward_hook(lambda _, inputs, output: moved.append(not same(inputs, output)))
    assert not network(X, T, cond()).any()
    assert moved == [False] * (TINY.depth + TINY.single_depth + hunyuan.REFINER_BLOCKS)


def same(inputs: tuple[Tensor, ...], outputs: Tensor | tuple[Tensor, ...]) -> bool:
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return all(torch.equal(a, b) for a, b in zip(inputs[: len(outputs)], outputs, strict=True))  # then come vec, layout


def test_time_and_guidance_are_told_in_thousandths() -> None:
    network, seen = build(), []
    for embed in filter(None, (network.time, network.refiner.time, network.guidance)):
        embed.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(X, T, cond(guidance=6.0))
    time, guidance = sinusoid(1000 * T, FREQUENCIES), sinusoid(torch.tensor([6000.0, 6000.0]), FREQUENCIES)
    assert sorted(torch.equal(s, time) for s in seen) == [False, True, True]
    assert any(torch.equal(s, guidance) for s in seen)


def test_prompts_of_any_length_in_one_batch_are_as_alone() -> None:
    lengths = (5, 2, 5, 3)
    x, t = draw(4, TINY.latent_channels, 2, 4, 4), torch.tensor([0.1, 0.4, 0.7, 1.0])
    network, batch = build(), cond(lengths)
    together = network(x, t, batch)
    alone = [network(x[i : i + 1], t[i : i + 1], batch[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("lengths", "groups"), [((5, 5), 1), ((5, 2), 2), ((5, 2, 5, 2), 2)])
def test_attention_is_called_once_for_each_length_of_prompt(
    lengths: tuple[int, ...], groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, ...]] = []

    def count(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        calls.append(q.shape)
        return v

    monkeypatch.setattr(hunyuan, "attend", count)
    Hunyuan(TINY)(draw(len(lengths), TINY.latent_channels, 1, 4, 4), torch.ones(len(lengths)), cond(lengths))
    assert len(calls) == groups * (hunyuan.REFINER_BLOCKS + TINY.depth + TINY.single_depth)
    assert {shape[2] for shape in calls} == {*lengths, *(4 + length for length in lengths)}


def test_a_token_is_real_wherever_it_stands() -> None:
    network, whole = build(), text([4])
    holes = torch.tensor([[True, False, True, True]])
    kept = TextTokens(whole.tokens[:, [0, 2, 3]], torch.ones(1, 3, dtype=torch.bool), whole.pooled)
    made = condition(TextTokens(whole.tokens, holes, whole.pooled), [])
    assert made.lengths == (3,)
    assert torch.equal(network(X[:1], T[:1], made), network(X[:1], T[:1], condition(kept, [])))


def test_a_prompt_without_any_token_is_refused() -> None:
    with pytest.raises(RequestError, match="A prompt has no token"):
        condition(TextTokens(draw(1, 2, 12), torch.zeros(1, 2, dtype=torch.bool), draw(1, 8)), [])


def test_a_condition_is_told_the_scale_that_a_request_asks_for() -> None:
    told = tell(TINY, cond(guidance=6.0), 3.5, None)
    assert told.guidance.tolist() == [3.5, 3.5]
    assert torch.equal(told.tokens, cond().tokens)


def test_the_negative_prompt_is_the_published_one() -> None:
    digest = hashlib.sha256(NEGATIVE.encode()).hexdigest()
    assert len(NEGATIVE) == 138 and digest.startswith("3ffecf48") and digest.endswith("e887b")


def test_a_template_for_pictures_does_not_serve_for_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, known = tmp_path / "template.txt", llm.PUBLISHED["video"]
    path.write_text("say {}", encoding="utf-8")
    digest = hashlib.sha256(b"say {}").hexdigest()
    monkeypatch.setattr(llm, "PUBLISHED", {"video_i2v": known._replace(sha256=digest)})
    with pytest.raises(RequestError, match="is the template video_i2v; this model needs video or image"):
        reader(TINY, path)
    monkeypatch.setattr(llm, "PUBLISHED", {"video": known._replace(sha256=digest)})
    assert reader(TINY, path).settings == ("say {}",)


def test_first_frame_and_rest_are_modulated_apart() -> None:
    x, first = draw(2, 5, 8), 2
    shift, scale = draw(2, 2, 8, seed=1), draw(2, 2, 8, seed=2)
    both = hunyuan.modulate(x, shift, scale, first)
    rows = [hunyuan.modulate(x, shift[:, row : row + 1], scale[:, row : row + 1], 0) for row in range(2)]
    assert torch.equal(both, torch.cat([rows[0][:, :first], rows[1][:, first:]], dim=1))
    gated = hunyuan.add_gated(x, shift, both, first)
    rows = [hunyuan.add_gated(x, shift[:, row : row + 1], both, 0) for row in range(2)]
    assert torch.equal(gated, torch.cat([rows[0][:, :first], rows[1][:, first:]], dim=1))


def test_a_clip_too_long_for_the_positions_has_its_slow_pair_slowed_down() -> None:
    network = Hunyuan(replace(TINY, dim=64, num_heads=1, rope_dims=(16, 24, 24), riflex=True))
    plain, slowed = (network._speeds(frames, torch.device("cpu"))[0] for frames in (48, 60))
    changed = plain != slowed
    assert changed.nonzero().flatten().tolist() == [3]  # k - 1 with k = 2 + 240 // 100 = 4
    assert float(slowed[3]) == pytest.approx(0.9 * 2 * math.pi / 60)


def test_the_tip_alone_follows_the_trunk_of_another_time() -> None:
    network, c = build(), cond()
    layout = network.layout(X.shape[2:], c)
    trunk = network.trunk(X, T, c, network.vec(T, c), layout)
    assert torch.equal(network.tip(trunk, network.vec(T, c), layout), network(X, T, c))
    later = network.tip(trunk, network.vec(T / 2, c), layout)
    assert (later - network(X, T, c)).abs().max() > 1e-3
    assert (later - network(X, T / 2, c)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 3}, "num_heads=3"),
        ({"rope_dims": (4, 6, 8)}, "sum to 18, but a head is 16 wide"),
        ({"rope_dims": (3, 6, 7)}, "even numbers"),
        ({"single_depth": 0}, "Use at least 1"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(change: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        replace(TINY, **change)


@pytest.mark.skipif(not FULL_SIZE.exists(), reason="the published names, ../shared/golden/fullsize_keys, are not here")
@pytest.mark.parametrize(
    ("preset", "layout", "file"),
    [
        ("t2v", "official", "hunyuan_dit_t2v"),
        ("t2v", "diffusers", "hunyuan_dit_t2v_diffusers"),
    ],
)
def test_full_size_weights_have_the_published_names_and_shapes(preset: str, layout: str, file: str) -> None:
    with torch.device("meta"):
        state = Hunyuan(PRESETS[preset]).state_dict()
    theirs = weights.to_theirs(state, keys(PRESETS[preset])[layout])
    published = json.loads((FULL_SIZE / f"{file}.json").read_text(encoding="utf-8"))["keys"]
    assert {name: list(tensor.shape) for name, tensor in theirs.items()} == published


@pytest.mark.slow  # importing diffusers takes seconds
@pytest.mark.filterwarnings("ignore")
def test_diffusers_with_the_same_weights_gives_the_same_velocity() -> None:
    diffusers, config = pytest.importorskip("diffusers"), TINY
    theirs = diffusers.HunyuanVideoTransformer3DModel(
        in_channels=config.latent_channels,
        out_channels=config.latent_channels,
        num_attention_heads=config.num_heads,
        attention_head_dim=config.head_dim,
        num_layers=config.depth,
        num_single_layers=config.single_depth,
        num_refiner_layers=hunyuan.REFINER_BLOCKS,
        text_embed_dim=config.text_dim,
        pooled_projection_dim=config.pooled_dim,
        rope_axes_dim=config.rope_dims,
    )
    network, names = build(config), keys(config)["diffusers"]
    theirs.load_state_dict(weights.to_theirs(network.state_dict(), names))
    back = weights.to_ours(dict(theirs.state_dict()), names, source="diffusers")
    assert [name for name, tensor in network.state_dict().items() if not torch.equal(back[name], tensor)] == []

    prompts = text((5, 3))
    made = condition(prompts, [])
    with torch.no_grad():
        (velocity,) = theirs(
            hidden_states=X,
            timestep=1000 * T,
            encoder_hidden_states=prompts.tokens.masked_fill(~prompts.mask[..., None], 0.0),
            encoder_attention_mask=prompts.mask.long(),
            pooled_projections=prompts.pooled,
            guidance=1000 * made.guidance,
            return_dict=False,
        )
        torch.testing.assert_close(network(X, T, made), velocity, atol=2e-5, rtol=2e-5)
