import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mutoscope.core import layouts, weights
from mutoscope.core.checkpoint import open_checkpoint
from mutoscope.core.errors import MutoscopeError, WeightsError
from mutoscope.core.layouts import Layout, Match, convert, fill, headers_of, recognise
from mutoscope.core.weights import Key
from tests.core.gguf_writer import write_gguf
from tests.core.hub import stand_in

DIM = 4


class Net(nn.Module):
    """A network with what published ones have: a fused projection, swapped halves, plain names, a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(DIM, 3 * DIM)
        self.head = nn.Linear(DIM, 2 * DIM)
        self.norm = nn.BatchNorm1d(DIM)


KEYS: Mapping[str, Sequence[Key]] = {
    "official": [
        *(Key(f"qkv.{kind}", (f"attn.qkv.{kind}",)) for kind in ("weight", "bias")),
        *(Key(f"head.{kind}", (f"final.ada.{kind}",)) for kind in ("weight", "bias")),
        *(Key(f"norm.{name}", (f"norm.{name}",)) for name in nn.BatchNorm1d(1).state_dict()),
    ],
    "diffusers": [
        *(Key(f"qkv.{k}", tuple(f"to_{part}.{k}" for part in "qkv"), rows=(DIM,) * 3) for k in ("weight", "bias")),
        *(Key(f"head.{kind}", (f"norm_out.{kind}",), swap=True) for kind in ("weight", "bias")),
        *(Key(f"norm.{name}", (f"norm1.{name}",)) for name in nn.BatchNorm1d(1).state_dict()),
    ],
}


@pytest.fixture
def net() -> Net:
    net = Net()
    for tensor in net.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape)) if tensor.is_floating_point() else tensor.fill_(3)
    return net


def theirs(net: Net, layout: Layout) -> dict[str, Tensor]:
    return net.state_dict() if layout == "mutoscope" else weights.to_theirs(net.state_dict(), KEYS[layout])


def keys_of(net: Net, layout: Layout) -> Sequence[Key]:
    return [Key(name, (name,)) for name in net.state_dict()] if layout == "mutoscope" else KEYS[layout]


def recognised(source: Path | str) -> Match:
    return recognise(open_checkpoint(source), headers_of(Net()), KEYS, what="net/tiny")


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("layout", layouts.LAYOUTS)
@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "module.module.",
        "transformer.",
        "diffusion_model.",
        "model.diffusion_model.",
        "net.",
        "ema_model.",
        "model.model.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "_fsdp_wrapped_module._checkpoint_wrapped_module.",
        "pipe.some_name.",
    ],
)
def test_layout_is_told_by_names_and_fills_the_same_network(
    net: Net, tmp_path: Path, layout: Layout, prefix: str
) -> None:
    tensors = {prefix + name: tensor.contiguous() for name, tensor in theirs(net, layout).items()}
    others = {"first_stage_model.x": torch.ones(1)} if prefix and prefix[0] != "_" else {}
    save_file(tensors | others, tmp_path / "w.safetensors")
    match = recognised(tmp_path / "w.safetensors")
    assert match.layout == layout
    filled = Net()
    fill(filled, match)
    assert same(filled.state_dict(), net.state_dict())


def test_wrappers_within_names_are_left_out(net: Net, tmp_path: Path) -> None:
    tensors = {
        f"model.{name.replace('.', '._checkpoint_wrapped_module.', 1)}": t for name, t in net.state_dict().items()
    }
    save_file(tensors, tmp_path / "w.safetensors")
    filled = Net()
    fill(filled, recognised(tmp_path / "w.safetensors"))
    assert same(filled.state_dict(), net.state_dict())


def test_of_two_networks_in_a_file_the_average_is_left_and_others_are_not_guessed(net: Net, tmp_path: Path) -> None:
    other = {name: torch.zeros_like(tensor) for name, tensor in net.state_dict().items()}

    def write(first: str, second: str) -> Path:
        tensors = {f"{first}.{k}": v for k, v in net.state_dict().items()} | {
            f"{second}.{k}": v for k, v in other.items()
        }
        save_file(tensors, tmp_path / "w.safetensors")
        return tmp_path / "w.safetensors"

    filled = Net()
    fill(filled, recognised(write("model", "ema_model")))
    assert same(filled.state_dict(), net.state_dict())
    averaged = recognise(
        open_checkpoint(write("m", "ema_model"), entry="ema_model"), headers_of(Net()), KEYS, what="net"
    )
    fill(filled, averaged)
    assert same(filled.state_dict(), other)
    with pytest.raises(WeightsError, match=r"2 networks of the same names, under student\., teacher\.\. Name one"):
        recognised(write("student", "teacher"))


@pytest.mark.parametrize(
    "names",
    [
        ("attn.qkv.lora_A.weight", "attn.qkv.lora_B.weight"),
        ("diffusion_model.attn.qkv.lora_down.weight", "diffusion_model.attn.qkv.lora_up.weight"),
        ("lora_unet_attn_qkv.lora_up.weight", "lora_unet_attn_qkv.lora_down.weight", "lora_unet_attn_qkv.alpha"),
        ("attn.qkv.hada_w1_a", "attn.qkv.hada_w2_a"),
    ],
)
def test_lora_is_called_by_its_name(names: Sequence[str], tmp_path: Path) -> None:
    save_file({name: torch.ones(2, 2) for name in names}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"is a LoRA \(.*Merge it into the full weights first"):
        recognised(tmp_path / "w.safetensors")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(net: Net, tmp_path: Path, number: float) -> None:
    net.head.bias.data[1] = number
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"not finite, in head\.bias"):
        fill(Net(), recognised(tmp_path / "w.safetensors"))


@pytest.mark.parametrize("says_shape", [True, False])
def test_axes_that_a_gguf_file_lost_come_back(tmp_path: Path, says_shape: bool) -> None:
    pytest.importorskip("gguf")
    conv, filled = nn.Conv3d(3, 4, 2), nn.Conv3d(3, 4, 2)
    write_gguf(tmp_path / "w.gguf", conv.state_dict(), "F32", says_shape=says_shape)
    fill(filled, recognise(open_checkpoint(tmp_path / "w.gguf"), headers_of(conv), {}, what="conv"))
    assert same(filled.state_dict(), conv.state_dict())


def test_module_on_the_meta_device_is_made_in_its_own_types(net: Net, tmp_path: Path) -> None:
    save_file(theirs(net, "official"), tmp_path / "w.safetensors")
    with torch.device("meta"):
        filled = Net().to(torch.bfloat16)
    filled.requires_grad_(False)
    fill(filled, recognised(tmp_path / "w.safetensors"), "cpu")
    wanted = {name: t.bfloat16() if t.is_floating_point() else t for name, t in net.state_dict().items()}
    assert same(filled.state_dict(), wanted)
    assert not any(parameter.requires_grad for parameter in filled.parameters())


def test_what_lies_outside_the_state_is_no_secret(net: Net, tmp_path: Path) -> None:
    save_file(theirs(net, "official"), tmp_path / "w.safetensors")
    with torch.device("meta"):
        filled = Net()
        filled.register_buffer("table", torch.zeros(3), persistent=False)
    with pytest.raises(RuntimeError, match=r"keeps \['table'\] outside its state"):
        fill(filled, recognised(tmp_path / "w.safetensors"))


def test_names_that_differ_are_listed_with_the_layout_they_seem_to_have(net: Net, tmp_path: Path) -> None:
    tensors = theirs(net, "diffusers")
    tensors["to_w.bias"] = tensors.pop("to_q.bias")
    tensors["norm_out.weight"] = torch.zeros(3, DIM)
    tensors["norm1.num_batches_tracked"] = torch.tensor(1.0)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError) as error:
        recognised(tmp_path / "w.safetensors")
    assert str(error.value) == (
        f"{tmp_path}/w.safetensors does not fit net/tiny: it looks like the diffusers layout, but of its tensors 1 "
        "missing: to_q.bias; 1 unknown: to_w.bias; 2 of another shape or kind: norm_out.weight (given float 3x4, needs "
        "float 8x4), norm1.num_batches_tracked (given float scalar, needs int64 scalar). Choose the model that it was "
        "made for."
    )


def test_weights_of_something_else_are_told_from_damaged_ones(tmp_path: Path) -> None:
    save_file({"lm_head.weight": torch.ones(2)}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"none of the names of net/tiny, in any layout \(official, diffusers, muto"):
        recognised(tmp_path / "w.safetensors")


def test_misfit_on_the_hub_is_found_before_a_download(
    net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads: list[str] = []
    monkeypatch.setitem(sys.modules, "huggingface_hub", stand_in(tmp_path, downloads.append))
    (tmp_path / "maker" / "film").mkdir(parents=True)
    save_file({"attn.qkv.weight": torch.ones(2, 2)}, tmp_path / "maker" / "film" / "model.safetensors")
    with pytest.raises(WeightsError, match="looks like the official layout"):
        recognised("hub:maker/film")
    assert downloads == []


@pytest.mark.parametrize("target", layouts.LAYOUTS)
@pytest.mark.parametrize("source", layouts.LAYOUTS)
@pytest.mark.parametrize("shard_bytes", [1 << 30, 200, 1])
def test_every_layout_becomes_every_other_and_back(
    net: Net, tmp_path: Path, source: Layout, target: Layout, shard_bytes: int
) -> None:
    torch.save({"module": theirs(net, source)}, tmp_path / "w.pt")
    written: list[bool] = []
    files = convert(
        recognised(tmp_path / "w.pt"),
        keys_of(net, target),
        target,
        tmp_path / "out",
        metadata={"model": "net/tiny"},
        shard_bytes=shard_bytes,
        on_tensor=lambda: written.append(True),
    )
    assert len(written) == len(theirs(net, target))
    shards = {path.name: load_file(path) for path in files if path.suffix == ".safetensors"}
    assert same({name: tensor for shard in shards.values() for name, tensor in shard.items()}, theirs(net, target))
    sizes = [[tensor.nbytes for tensor in shard.values()] for shard in shards.values()]
    assert all(sum(size) <= shard_bytes or len(size) == 1 for size in sizes)
    assert len(shards) == (1 if shard_bytes == 1 << 30 else len(shards))
    again = Net()
    fill(again, recognised(tmp_path / "out"))
    assert same(again.state_dict(), net.state_dict())


def test_index_says_where_every_tensor_is(net: Net, tmp_path: Path) -> None:
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    match = recognised(tmp_path / "w.safetensors")
    convert(match, KEYS["diffusers"], "diffusers", tmp_path / "out", metadata={}, shard_bytes=200)
    index = json.loads((tmp_path / "out" / "diffusion_pytorch_model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in net.state_dict().values())
    assert all(name in load_file(tmp_path / "out" / file) for name, file in index["weight_map"].items())
    assert index["weight_map"].keys() == theirs(net, "diffusers").keys()


def test_one_file_is_written_where_one_is_named(net: Net, tmp_path: Path) -> None:
    save_file(theirs(net, "official"), tmp_path / "w.safetensors")
    match = recognised(tmp_path / "w.safetensors")
    out = tmp_path / "ours.safetensors"
    convert(match, keys_of(net, "mutoscope"), "mutoscope", out, metadata={"model": "net/tiny"}, shard_bytes=1)
    tensors, metadata = weights.read(out)
    assert same(tensors, net.state_dict())
    assert metadata == {"format": "pt", "model": "net/tiny"}


def test_types_are_kept_and_mixed_ones_stay_aligned(net: Net, tmp_path: Path) -> None:
    net.qkv.bfloat16()
    net.head.double()
    torch.save(theirs(net, "official"), tmp_path / "w.pt")
    convert(
        recognised(tmp_path / "w.pt"), KEYS["diffusers"], "diffusers", tmp_path / "o", metadata={}, shard_bytes=1 << 30
    )
    read = load_file(tmp_path / "o" / "diffusion_pytorch_model.safetensors")
    assert {name: tensor.dtype for name, tensor in read.items()} == {
        name: tensor.dtype for name, tensor in theirs(net, "diffusers").items()
    }
    assert same(read, theirs(net, "diffusers"))


def test_stopped_conversion_leaves_nothing_under_the_final_name(
    net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(theirs(net, "official"), tmp_path / "w.pt")
    match = recognised(tmp_path / "w.pt")
    reads = iter(range(3))
    read = Match.read
    monkeypatch.setattr(Match, "read", lambda self, key: read(self, key) if next(reads) < 2 else stop())

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(match, KEYS["diffusers"], "diffusers", tmp_path / "out", metadata={}, shard_bytes=200)
    assert [path.name for path in tmp_path.iterdir()] == ["w.pt"]


def test_full_disk_and_full_folder_are_found_before_writing(
    net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(theirs(net, "official"), tmp_path / "w.pt")
    match = recognised(tmp_path / "w.pt")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    with pytest.raises(MutoscopeError, match=r"is there already\. Remove it, or name another folder"):
        convert(match, KEYS["diffusers"], "diffusers", tmp_path / "out", metadata={}, shard_bytes=200)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100})())
    with pytest.raises(WeightsError, match=r"needs 0\.0 GB, there are 0\.0 free"):
        convert(match, KEYS["diffusers"], "diffusers", tmp_path / "new", metadata={}, shard_bytes=200)


@pytest.mark.slow
def test_conversion_of_two_gigabytes_takes_one_of_memory() -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, str(root / "benchmarks" / "bench_convert.py"), "2"]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    line = json.loads(result.stdout)
    assert line["anonymous_mb"] < 500
    assert line["resident_mb"] < 1200  # with the pages of the file that the system keeps for a while
