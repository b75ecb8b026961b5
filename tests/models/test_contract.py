"""What every family must keep, checked on its preset `tiny`. Families are found, not listed."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mutoscope.core import config as configs
from mutoscope.core import weights
from mutoscope.encoders.base import TextTokens
from mutoscope.models.family import Facts, Family, families, find, load

SIZES = [(4, 8, 12), (8, 8, 8)]  # latent frames, rows, columns
FACTS = Facts(height=64, width=96, num_frames=8, crop_left=16, stride=3)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.parametrize("family", [load(name) for name in families()], ids=families())


@dataclass
class Inputs:
    x: Tensor
    t: Tensor
    text: TextTokens


def draw(config: Any, count: int, size: tuple[int, int, int] = SIZES[0], text_length: int = 5) -> Inputs:
    rng = torch.Generator().manual_seed(0)
    return Inputs(
        x=torch.randn(count, config.latent_channels, *size, generator=rng),
        t=torch.rand(count, generator=rng),
        text=TextTokens(
            torch.randn(count, text_length, config.text_dim, generator=rng),
            torch.ones(count, text_length, dtype=torch.bool),
            torch.randn(count, config.pooled_dim, generator=rng),
        ),
    )


def build(family: Family, seed: int = 0) -> nn.Module:
    """Build the tiny network with no weight at its initial value, where zeros would hide what is wrong."""
    rng = torch.Generator().manual_seed(seed)
    network = family.network(family.presets["tiny"])
    for parameter in network.parameters():
        parameter.data += torch.randn(parameter.shape, generator=rng) * 0.5 / math.sqrt(max(parameter.shape[-1], 1))
    return network


def condition(family: Family, inputs: Inputs) -> Any:
    facts = [FACTS] * len(inputs.t)
    if family.example is None:
        return family.condition(inputs.text, facts)
    return family.example(family.presets["tiny"], inputs.text, facts, inputs.x.shape[2:])


def run(family: Family, network: nn.Module, inputs: Inputs) -> Tensor:
    return network(inputs.x, inputs.t, condition(family, inputs))


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize("size", SIZES)
def test_velocity_has_the_shape_and_type_of_the_latents(family: Family, size: tuple[int, int, int]) -> None:
    inputs = draw(family.presets["tiny"], 2, size)
    velocity = run(family, build(family), inputs)
    assert velocity.shape == inputs.x.shape
    assert velocity.dtype == inputs.x.dtype
    assert velocity.isfinite().all()


def test_gradient_reaches_every_parameter_that_is_of_use(family: Family) -> None:
    network = build(family)
    run(family, network, draw(family.presets["tiny"], 2)).square().sum().backward()
    unreached = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert unreached == list(family.unused(family.presets["tiny"]))


def test_padded_prompt_tokens_change_nothing(family: Family) -> None:
    if not family.masks_text:
        pytest.skip(f"{family.name} was published so that it reads its padding")
    network, inputs = build(family), draw(family.presets["tiny"], 2)
    alone = run(family, network, inputs)
    padding = torch.full_like(inputs.text.tokens[:, :2], 100.0)
    inputs.text = TextTokens(
        torch.cat([inputs.text.tokens, padding], dim=1),
        torch.cat([inputs.text.mask, torch.zeros(2, 2, dtype=torch.bool)], dim=1),
        inputs.text.pooled,
    )
    torch.testing.assert_close(run(family, network, inputs), alone, atol=1e-5, rtol=1e-5)


def test_everything_it_is_told_matters(family: Family) -> None:
    network, inputs = build(family), draw(family.presets["tiny"], 1)
    velocity = run(family, network, inputs)
    for change in (
        Inputs(inputs.x + 0.1, inputs.t, inputs.text),
        Inputs(inputs.x, inputs.t / 2, inputs.text),
        Inputs(inputs.x, inputs.t, TextTokens(inputs.text.tokens + 0.1, inputs.text.mask, inputs.text.pooled + 0.1)),
    ):
        assert (run(family, network, change) - velocity).abs().max() > 1e-4


def test_a_batch_of_two_is_two_batches_of_one(family: Family) -> None:
    config, network = family.presets["tiny"], build(family)
    short, long = draw(config, 1, text_length=3 if family.masks_text else 5), draw(config, 2, text_length=5)
    conditions = [condition(family, short), condition(family, long)[1:]]
    x, t = torch.cat([short.x, long.x[1:]]), torch.cat([short.t, long.t[1:]])
    together = network(x, t, type(conditions[0]).cat(conditions))
    alone = [network(x[i : i + 1], t[i : i + 1], conditions[i]) for i in range(2)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)


def test_saved_and_loaded_it_gives_the_same_bits(family: Family, tmp_path: Path) -> None:
    network, other = build(family, seed=0), build(family, seed=1)
    weights.save(tmp_path / "tiny.safetensors", network.state_dict(), {})
    tensors, _ = weights.read(tmp_path / "tiny.safetensors")
    weights.load_into(other, tensors, source="tiny")
    inputs = draw(family.presets["tiny"], 1)
    assert torch.equal(run(family, other, inputs), run(family, network, inputs))


def test_published_names_map_one_to_one(family: Family) -> None:
    network = build(family)
    for layout, keys in family.keys(family.presets["tiny"]).items():
        assert sorted(key.ours for key in keys) == sorted(network.state_dict()), layout
        theirs = weights.to_theirs(network.state_dict(), keys)
        assert len(theirs) == sum(len(key.theirs) for key in keys), layout
        assert_same(weights.to_ours(theirs, keys, source=layout), network.state_dict())


def test_counts_are_the_stated_ones(family: Family) -> None:
    assert family.parameters.keys() == family.presets.keys()
    for preset, config in family.presets.items():
        with torch.device("meta"):
            network = family.network(config)
        assert sum(p.numel() for p in network.parameters()) == family.parameters[preset], preset


def test_every_preset_is_found_by_name_and_survives_json(family: Family) -> None:
    assert find(family.name) == (family, family.presets[family.default])
    for preset, config in family.presets.items():
        assert find(f"{family.name}/{preset}") == (family, config)
        assert configs.from_json(type(config), configs.to_json(config)) == config
