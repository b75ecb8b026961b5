"""The laws of ContentV that its own file promises, beyond the contract of every family."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mutoscope.autoencoders import wan
from mutoscope.autoencoders.wan import WanAutoencoder
from mutoscope.core import weights
from mutoscope.core.errors import RecipeError, RequestError
from mutoscope.encoders.base import TextTokens
from mutoscope.models.contentv import FAMILY, PRESETS, Condition, Config, ContentV, Grid, condition, keys, positions
from mutoscope.pipeline import Request, Size, System

FULL_SIZE = Path(__file__).parents[3] / "shared" / "golden" / "fullsize_keys" / "contentv_dit.json"
TINY = PRESETS["tiny"]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def cond(count: int = 2, length: int = 5) -> Condition:
    tokens, pooled = draw(count, length, TINY.text_dim, seed=1), draw(count, TINY.pooled_dim, seed=2)
    return condition(TextTokens(tokens, torch.ones(count, length, dtype=torch.bool), pooled), [])


def build(config: Config = TINY) -> ContentV:
    """Build a network with no weight at its initial value."""
    network = ContentV(config)
    for index, parameter in enumerate(network.parameters()):
        parameter.data += draw(*parameter.shape, seed=index) * 0.5 / math.sqrt(parameter.shape[-1])
    return network


X = draw(2, TINY.latent_channels, 3, 4, 6)
T = torch.tensor([0.3, 0.9])


def test_every_block_is_the_identity_at_first_and_the_answer_zero() -> None:
    network, moved = ContentV(replace(TINY, depth=3)), []
    for block in network.blocks:
        block.register_forward_hook(lambda _, given, made: moved.append(not all(map(torch.equal, given, made))))
    network.last.register_forward_hook(lambda _, given, made: moved.append(not torch.equal(given[0], made)))
    assert not network(X, T, cond()).any()
    assert moved == [False] * 3


def place_of(t: int, y: int, x: int, dim: int) -> list[float]:
    """Write a token's place out, channel by channel: when, then column, then row."""
    channels = []
    for position, width in ((t, dim // 4), (2 * x, dim * 3 // 8), (2 * y, dim * 3 // 8)):
        speeds = [10_000 ** (-k / (width // 2)) for k in range(width // 2)]
        channels += [math.sin(position * speed) for speed in speeds] + [math.cos(position * speed) for speed in speeds]
    return channels


def test_positions_are_those_of_every_token_written_out() -> None:
    grid, dim = Grid(3, 4, 5), 48
    table = positions(grid, torch.zeros(1, dtype=torch.float64).expand(1, 3, 20, dim))
    wanted = [[place_of(t, y, x, dim) for y in range(4) for x in range(5)] for t in range(3)]
    torch.testing.assert_close(table, torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=1e-12)


def test_positions_are_rounded_once_and_take_the_type_of_the_tokens() -> None:
    grid, like = Grid(2, 30, 50), torch.zeros(1, 2, 1500, 32)
    exact = positions(grid, like.double())
    assert torch.equal(positions(grid, like), exact.float())
    assert torch.equal(positions(grid, like.bfloat16()), exact.bfloat16())


def test_latents_that_change_places_change_the_answer() -> None:
    network = build()
    for axis in (2, 3, 4):
        moved = network(X.flip(axis), T, cond()).flip(axis)
        assert (moved - network(X, T, cond())).abs().max() > 1e-3


def test_order_of_text_tokens_does_not_matter_because_they_have_no_positions() -> None:
    network, text = build(), cond()
    shuffled = Condition(text.tokens.flip(1), text.pooled)
    torch.testing.assert_close(network(X, T, shuffled), network(X, T, text), rtol=1e-5, atol=1e-5)


def test_it_runs_in_the_type_of_its_weights_and_answers_in_that_of_the_latents() -> None:
    network = build()
    wide = network(X, T, cond())
    narrow = network.bfloat16()(X, T, cond())
    assert narrow.dtype == X.dtype
    assert 0 < (narrow - wide).abs().max() < 0.1 * wide.abs().max()


def test_the_file_has_shift_before_scale_where_the_folder_has_scale_before_shift() -> None:
    state = build().state_dict()
    folder = weights.to_theirs(state, keys(TINY)["diffusers"])
    file = weights.to_theirs(state, keys(TINY)["official"])
    for one, other in (
        ("norm_out.linear", "final_layer.adaLN_modulation.1"),
        ("transformer_blocks.1.norm1_context.linear", "joint_blocks.1.context_block.adaLN_modulation.1"),
    ):
        scale, shift = folder[f"{one}.weight"].chunk(2)
        assert torch.equal(file[f"{other}.weight"], torch.cat([shift, scale]))
    joined = torch.cat([folder[f"transformer_blocks.0.attn.add_{kind}_proj.bias"] for kind in "qkv"])
    assert torch.equal(file["joint_blocks.0.context_block.attn.qkv.bias"], joined)


class Prompts:
    """Stands for the published encoders, which are always as long."""

    def encode(self, texts: Sequence[str]) -> TextTokens:
        tokens = torch.stack([draw(5, TINY.text_dim, seed=len(text)) for text in texts])
        return TextTokens(tokens, torch.ones(len(texts), 5, dtype=torch.bool), tokens[:, 0, : TINY.pooled_dim])

    def null(self, count: int) -> TextTokens:
        return self.encode([""] * count)

    def unknown(self, text: str) -> list[tuple[str, list[str]]]:
        return []


def test_a_prompt_becomes_a_clip_of_the_size_asked_for_and_no_other_size_is_taken() -> None:
    torch.manual_seed(0)
    size = Size(num_frames=5, height=32, width=48, fps=Fraction(24))
    autoencoder = WanAutoencoder(wan.PRESETS["tiny"]).eval()
    system = System(FAMILY, build().eval(), autoencoder, Prompts(), "contentv/tiny", size)
    request = Request("a red kite", steps=2)
    one, two = system.generate([request, replace(request, prompt="a kite", seed=1)])
    assert one.array().shape == two.array().shape == (5, 32, 48, 3)
    assert (one.array() != two.array()).any()
    for wrong, message in (({"num_frames": 6}, "Use num_frames=5 "), ({"height": 40}, "Use .*height=48")):
        with pytest.raises(RequestError, match=message):
            system.generate([replace(request, **wrong)])


@pytest.mark.skipif(not FULL_SIZE.exists(), reason="the published names, ../shared/golden/fullsize_keys, are not here")
def test_full_size_weights_have_the_published_names_and_shapes() -> None:
    with torch.device("meta"):
        state = ContentV(PRESETS["8B"]).state_dict()
    theirs = weights.to_theirs(state, keys(PRESETS["8B"])["diffusers"])
    published = json.loads(FULL_SIZE.read_text(encoding="utf-8"))["keys"]
    assert {name: list(tensor.shape) for name, tensor in theirs.items()} == published


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head_dim": 12}, "a multiple of 16"),
        ({"depth": 0}, "Use at least 1"),
        ({"patch_size": (2, 2, 2)}, r"Use \[1, 2, 2\]"),
        ({"patch_size": (1, 2, 4)}, r"Use \[1, 2, 2\]"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(change: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        replace(TINY, **change)
