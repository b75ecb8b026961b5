from pathlib import Path

import pytest
import torch
from torch import nn

from mutoscope.core import weights
from mutoscope.core.errors import MutoscopeError, WeightsError
from mutoscope.core.weights import Key


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_read_gives_back_the_bits_and_the_metadata_that_were_saved(tmp_path: Path) -> None:
    tensors = {
        "a": torch.randn(3, 5).bfloat16(),
        "transposed": torch.randn(3, 5).T,
        "parameter": nn.Parameter(torch.randn(2)),
        "count": torch.tensor(7),
        "empty": torch.zeros(0, 3),
    }
    path = tmp_path / "w.safetensors"
    weights.save(path, tensors, {"config": '{"dim": 3}'})
    read, metadata = weights.read(path)
    assert metadata == {"config": '{"dim": 3}'}
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)


def test_tied_tensors_and_views_are_saved_whole(tmp_path: Path) -> None:
    stack = torch.randn(2, 3)
    weights.save(tmp_path / "w.safetensors", {"a": stack, "b": stack, "row": stack[1]}, {})
    read, _ = weights.read(tmp_path / "w.safetensors")
    assert torch.equal(read["a"], stack)
    assert torch.equal(read["b"], stack)
    assert torch.equal(read["row"], stack[1])


def test_interrupted_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.safetensors"
    weights.save(path, {"a": torch.ones(3)}, {})

    def write_half(tensors: dict[str, torch.Tensor], temporary: Path, metadata: dict[str, str]) -> None:
        temporary.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights, "save_file", write_half)
    with pytest.raises(MutoscopeError, match=r"cannot write .*w\.safetensors: No space left on device"):
        weights.save(path, {"a": torch.zeros(3)}, {})
    assert torch.equal(weights.read(path)[0]["a"], torch.ones(3))
    assert list(tmp_path.iterdir()) == [path]


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no weights at .*nowhere\.safetensors"):
        weights.read(tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize("size", [0, 4, 40, -1])
def test_truncated_file_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "w.safetensors"
    weights.save(path, {"a": torch.ones(30)}, {})
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(WeightsError, match="not a whole safetensors file") as error:
        weights.read(path)
    assert "\n" not in str(error.value)


def test_loaded_network_computes_the_same(tmp_path: Path) -> None:
    one, other = network().eval(), network().eval()
    weights.save(tmp_path / "w.safetensors", one.state_dict(), {})
    weights.load_into(other, weights.read(tmp_path / "w.safetensors")[0], source="w")
    x = torch.randn(5, 3)
    assert torch.equal(one(x), other(x))


def test_weights_are_cast_to_the_types_of_the_network() -> None:
    module = network()
    weights.load_into(module, network().bfloat16().state_dict(), source="w")
    assert {p.dtype for p in module.parameters()} == {torch.float32}


def test_error_lists_missing_unknown_and_misshapen_names_and_changes_nothing() -> None:
    module = network()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    tensors = network().state_dict()
    tensors["0.gain"] = tensors.pop("0.bias")
    tensors["2.weight"] = torch.zeros(2, 5)
    tensors["1.num_batches_tracked"] = torch.tensor(0.0)
    with pytest.raises(WeightsError) as error:
        weights.load_into(module, tensors, source="old.safetensors")
    assert str(error.value) == (
        "old.safetensors does not fit Sequential: 1 missing: 0.bias; 1 unknown: 0.gain; 2 of another shape or kind: "
        "1.num_batches_tracked (given float scalar, needs int64 scalar), 2.weight (given float 2x5, needs float 2x4). "
        "Choose the model that they were made for."
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_long_list_of_names_is_cut_short() -> None:
    with pytest.raises(WeightsError, match=r"9 missing: 0\.weight, 0\.bias, 1\.weight, \.\.\."):
        weights.load_into(network(), {}, source="w")


KEYS = [
    Key("qkv.weight", ("to_q.weight", "to_k.weight"), rows=(2, 4)),
    Key("head.bias", ("norm_out.bias",), swap=True),
    Key("scale", ("gamma",)),
]


def test_names_of_others_become_ours_and_theirs_again() -> None:
    ours = {"qkv.weight": torch.randn(6, 3), "head.bias": torch.arange(4.0), "scale": torch.tensor(2.0)}
    theirs = weights.to_theirs(ours, KEYS)
    assert {name: tuple(tensor.shape) for name, tensor in theirs.items()} == {
        "to_q.weight": (2, 3),
        "to_k.weight": (4, 3),
        "norm_out.bias": (4,),
        "gamma": (),
    }
    assert theirs["norm_out.bias"].tolist() == [2, 3, 0, 1]
    again = weights.to_ours(theirs, KEYS, source="w")
    assert all(torch.equal(again[name], ours[name]) for name in ours)


def test_names_of_another_layout_are_listed() -> None:
    with pytest.raises(WeightsError) as error:
        weights.to_ours({"gamma": torch.ones(()), "beta": torch.ones(())}, KEYS, source="w")
    assert str(error.value) == (
        "w is not of this layout: 3 missing: to_q.weight, to_k.weight, norm_out.bias; 1 unknown: beta. Choose the "
        "model and layout that it was made for."
    )
