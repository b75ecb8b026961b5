import pytest
import torch
from torch import Tensor, nn

from mutoscope.core import weights
from mutoscope.core.errors import RequestError
from mutoscope.core.weights import Key
from mutoscope.placement.quantize import (
    E4M3,
    LARGEST,
    Float8Linear,
    dequantize,
    quantize,
    quantize_linears,
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
