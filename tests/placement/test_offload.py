import pytest
import torch
from torch import nn

from mutoscope.placement.offload import resident


def network() -> nn.Module:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    return net.eval().requires_grad_(False)


def test_weights_are_there_inside_and_back_after() -> None:
    net = network()
    before = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in net.state_dict().items()}
    with resident(net, "meta"):
        assert {tensor.device.type for tensor in net.state_dict().values()} == {"meta"}
        assert net(torch.empty(5, 3, device="meta")).shape == (5, 4)
    for name, tensor in net.state_dict().items():
        assert tensor.data_ptr() == before[name][0]
        assert torch.equal(tensor, before[name][1])


def test_error_inside_brings_them_back_too() -> None:
    net = network()
    with pytest.raises(KeyboardInterrupt), resident(net, "meta"):
        raise KeyboardInterrupt
    assert {tensor.device.type for tensor in net.state_dict().values()} == {"cpu"}


def test_nothing_moves_that_is_there_already() -> None:
    net = network()
    before = {name: tensor.data_ptr() for name, tensor in net.state_dict().items()}
    with resident(net, "cpu"):
        assert {name: tensor.data_ptr() for name, tensor in net.state_dict().items()} == before


def test_tied_weights_are_copied_once() -> None:
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    net[1].weight = net[0].weight
    with resident(net, "meta"):
        assert net[1].weight is net[0].weight
        assert net[0].weight.is_meta
    assert net[1].weight is net[0].weight
