import copy
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from mutoscope.core import layouts, weights
from mutoscope.core.errors import RequestError
from mutoscope.core.layouts import Match
from mutoscope.core.tensors import Checkpoint, Header
from mutoscope.core.weights import Key
from mutoscope.placement.quantize import (
    E4M3,
    LARGEST,
    Float8Linear,
    dequantize,
    num_parameters,
    quantize,
    quantize_linears,
    quantized,
    quantized_keys,
    round_to_e4m3,
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6)) for _ in range(2))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


def test_every_number_of_four_and_three_bits_is_itself() -> None:
    bits = torch.arange(256, dtype=torch.uint8)
    values = bits.view(E4M3).float()
    is_number = values.isfinite()
    assert torch.equal(round_to_e4m3(values[is_number]), bits[is_number])


def test_what_is_out_of_range_becomes_the_largest_number() -> None:
    rounded = round_to_e4m3(torch.tensor([1e4, -1e4, float("inf")])).view(E4M3).float()
    assert rounded.tolist() == [LARGEST, -LARGEST, LARGEST]


def test_ties_go_to_the_even_neighbour() -> None:
    assert round_to_e4m3(torch.tensor([17.0, 19.0, 21.0])).view(E4M3).float().tolist() == [16.0, 20.0, 20.0]


def test_the_largest_weight_is_exact_and_the_others_are_within_a_sixteenth() -> None:
    weight = draw(64, 64)
    bits, scale = quantize(weight)
    back = dequantize(bits, scale, torch.float32)
    assert float(bits.view(E4M3).float().abs().max()) == LARGEST
    steps = 2.0**-9 * scale  # of the numbers nearest to zero
    assert ((back - weight).abs() <= (weight.abs() / 16).clamp_min(steps / 2) * (1 + 1e-6)).all()


def test_zero_stays_zero() -> None:
    bits, scale = quantize(torch.zeros(3, 3))
    assert not dequantize(bits, scale, torch.float32).any()


def test_a_layer_computes_with_the_weight_that_its_bits_mean() -> None:
    linear, x = nn.Linear(6, 4), draw(5, 6)
    layer = Float8Linear(linear)
    with torch.no_grad():
        linear.weight.copy_(dequantize(layer.bits, layer.scale, torch.float32))
        assert torch.equal(layer(x), linear(x))


def test_only_the_layers_named_are_replaced_and_the_answer_is_nearly_the_same() -> None:
    network, x = Net(), draw(4, 6)
    before = network(x)
    assert quantize_linears(network, ["blocks."]) == ["blocks.0.0", "blocks.0.2", "blocks.1.0", "blocks.1.2"]
    assert type(network.head) is nn.Linear
    assert 0 < (network(x) - before).abs().max() < 0.05
    with pytest.raises(RequestError, match=r"begins with layers\. or tail"):
        quantize_linears(network, ["layers.", "tail"])


def test_another_type_for_the_network_leaves_the_bits_alone() -> None:
    network = Net()
    quantize_linears(network, [""])
    head = network.get_submodule("head")
    assert isinstance(head, Float8Linear) and head.bias is not None
    bits = head.bits.clone()
    network.to(torch.bfloat16)
    assert torch.equal(head.bits, bits)
    assert head.bias.dtype == torch.bfloat16
    assert network(draw(4, 6).bfloat16()).dtype == torch.bfloat16


def test_published_bits_and_scales_fill_a_network_that_was_never_whole() -> None:
    names = [Key(name, (f"their.{name}",)) for name in Net().state_dict()]
    original = Net()
    replaced = quantize_linears(original, ["blocks."])
    published = weights.to_theirs(original.state_dict(), quantized_keys(names, replaced))
    assert "their.blocks.0.0.weight" in published and "their.blocks.0.0" in published  # bits, scale

    with torch.device("meta"):
        empty = Net()
    quantize_linears(empty, ["blocks."])
    filled = empty.to_empty(device="cpu")
    weights.load_into(filled, weights.to_ours(published, quantized_keys(names, replaced), source="test"), source="test")
    x = draw(4, 6)
    assert torch.equal(filled(x), original(x))


def published(network: nn.Module, keys: Sequence[Key]) -> tuple[Match, dict[str, Tensor]]:
    """Weights of a network as others hold them, in one file under the names of one layout."""
    theirs = weights.to_theirs({name: tensor.bfloat16() for name, tensor in network.state_dict().items()}, keys)
    headers = {name: Header(tuple(tensor.shape), tensor.dtype) for name, tensor in theirs.items()}
    return Match(Checkpoint("maker", headers, theirs.__getitem__, {}), "official", keys), theirs


def loaded(match: Match) -> Net:
    """Fill a network that was never whole."""
    with torch.device("meta"):
        network = Net().to(torch.bfloat16)
    layouts.fill(network, quantized(match, quantize_linears(network, ["blocks."])))
    return network


def test_weights_are_quantised_as_they_are_read_whatever_their_names_and_parts() -> None:
    original = Net()
    plain = [Key(name, (f"their.{name}",)) for name in original.state_dict()]
    parted = [
        Key(key.ours, tuple(f"{key.ours}.{half}" for half in "ab"), (4, 4)) if key.ours.endswith("0.weight") else key
        for key in plain
    ]
    networks = [loaded(published(original, keys)[0]) for keys in (plain, parted)]
    reference = copy.deepcopy(original).to(torch.bfloat16)
    quantize_linears(reference, ["blocks."])
    x = draw(4, 6).bfloat16()
    for network in networks:
        assert network.state_dict().keys() == reference.state_dict().keys()
        assert all(torch.equal(own, reference.state_dict()[name]) for name, own in network.state_dict().items())
        assert torch.equal(network(x), reference(x))


def test_no_weight_is_read_twice_and_none_is_kept() -> None:
    match, theirs = published(Net(), [Key(name, (name,)) for name in Net().state_dict()])
    reads: list[str] = []
    watched = replace(match.checkpoint, read=lambda name: reads.append(name) or theirs[name])
    loaded(replace(match, checkpoint=watched))
    assert sorted(reads) == sorted(theirs)


def test_what_was_published_in_eight_bits_gets_its_bits_back() -> None:
    original = Net()
    names = quantize_linears(original, ["blocks."])
    layers = {name: original.get_submodule(name) for name in names}
    bits = {name: layer.bits for name, layer in layers.items() if isinstance(layer, Float8Linear)}
    scales = {name: layer.scale for name, layer in layers.items() if isinstance(layer, Float8Linear)}
    wide = Net()
    wide.load_state_dict(
        {
            name: dequantize(bits[layer], scales[layer], torch.bfloat16)
            if (layer := name.removesuffix(".weight")) in bits
            else original.state_dict()[name]
            for name in wide.state_dict()
        }
    )
    again = loaded(published(wide, [Key(name, (name,)) for name in wide.state_dict()])[0])
    for name in names:
        layer = again.get_submodule(name)
        assert isinstance(layer, Float8Linear)
        assert torch.equal(layer.bits, bits[name])
        torch.testing.assert_close(layer.scale, scales[name], rtol=2**-7, atol=0)


def test_quantised_network_has_as_many_parameters_as_before_in_about_a_half_of_the_bytes() -> None:
    network = Net().to(torch.bfloat16)
    before = num_parameters(network)
    names = quantize_linears(network, [""])
    assert num_parameters(network) == before == sum(parameter.numel() for parameter in Net().parameters())
    kept = sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))
    biases = 2 * (8 + 6) + 3
    assert kept == (before - biases) + 2 * biases + 4 * len(names)
