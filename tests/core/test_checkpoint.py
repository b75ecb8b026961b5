import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mutoscope.core import folders
from mutoscope.core.checkpoint import open_checkpoint
from mutoscope.core.errors import MissingExtra, WeightsError
from mutoscope.core.tensors import Header, as_bytes
from tests.core.hub import stand_in

TENSORS = {
    "a.weight": torch.randn(3, 5),
    "a.bias": torch.randn(3).bfloat16(),
    "count": torch.tensor(7),
    "flags": torch.tensor([True, False, True]),
    "empty": torch.zeros(0, 4),
}


def assert_holds(source: Path | str, tensors: dict[str, torch.Tensor], **options: Any) -> None:
    checkpoint = open_checkpoint(source, **options)
    assert checkpoint.headers == {name: Header(tuple(t.shape), t.dtype) for name, t in tensors.items()}
    for name, tensor in tensors.items():
        read = checkpoint.read(name)
        assert read.dtype == tensor.dtype
        assert torch.equal(read, tensor)


def write_shards(folder: Path, index: bool = True) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    parts = [{"a.weight": TENSORS["a.weight"], "flags": TENSORS["flags"]}, {"a.bias": TENSORS["a.bias"]}]
    parts.append({"count": TENSORS["count"], "empty": TENSORS["empty"]})
    for name, part in zip(names, parts, strict=True):
        save_file(part, folder / name)
    if index:
        weight_map = {tensor: name for name, part in zip(names, parts, strict=True) for tensor in part}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return [folder / name for name in names]


def test_safetensors_file_gives_back_every_bit(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "w.safetensors", {"format": "pt"})
    assert_holds(tmp_path / "w.safetensors", TENSORS)
    assert open_checkpoint(tmp_path / "w.safetensors").metadata == {"format": "pt"}


@pytest.mark.parametrize("index", [True, False])
def test_shards_are_one_checkpoint_with_or_without_an_index(tmp_path: Path, index: bool) -> None:
    write_shards(tmp_path, index)
    assert_holds(tmp_path, TENSORS)


def test_weights_are_found_one_folder_down_where_the_caller_says(tmp_path: Path) -> None:
    write_shards(tmp_path / "transformer")
    save_file({"z": torch.ones(2)}, _made(tmp_path / "vae") / "diffusion_pytorch_model.safetensors")
    assert_holds(tmp_path, TENSORS, within=("transformer", "transformers"))
    assert_holds(tmp_path, {"z": torch.ones(2)}, within=("vae",))
    with pytest.raises(WeightsError, match="There are some in transformer, vae: name one of them"):
        open_checkpoint(tmp_path)


def test_config_beside_the_weights_is_read(tmp_path: Path) -> None:
    write_shards(tmp_path / "transformer")
    (tmp_path / "transformer" / "config.json").write_text('{"num_layers": 2}')
    assert open_checkpoint(tmp_path, within=("transformer",)).config == {"num_layers": 2}


NESTED = [None, "module", "ema", "state_dict", "model_state_dict", "ema_state_dict", "params_ema", "weights.of_net"]


@pytest.mark.parametrize("nested", NESTED)
@pytest.mark.parametrize("is_zip", [True, False])
def test_file_of_torch_save_gives_back_every_bit(tmp_path: Path, nested: str | None, is_zip: bool) -> None:
    state: dict[str, Any] = dict(TENSORS)
    for entry in reversed(nested.split(".") if nested else []):
        state = {entry: state, "epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}}
    torch.save(state, tmp_path / "w.pt", _use_new_zipfile_serialization=is_zip)
    assert_holds(tmp_path / "w.pt", TENSORS)


def test_entry_chooses_among_several_sets_of_weights(tmp_path: Path) -> None:
    torch.save({"ema": {"a": torch.ones(2)}, "module": {"a": torch.zeros(2)}}, tmp_path / "w.pt")
    assert_holds(tmp_path / "w.pt", {"a": torch.zeros(2)})
    assert_holds(tmp_path / "w.pt", {"a": torch.ones(2)}, entry="ema")
    with pytest.raises(WeightsError, match=r"has no entry 'best'. It has: ema, module"):
        open_checkpoint(tmp_path / "w.pt", entry="best")
    torch.save({"student": {"a": torch.ones(2)}, "teacher": {"a": torch.zeros(2)}}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"2 sets of tensors: student, teacher\. Name one of them \(--entry\)"):
        open_checkpoint(tmp_path / "w.pt")


def test_entry_may_be_what_the_names_begin_with(tmp_path: Path) -> None:
    tensors = {"ema.a": torch.ones(2), "net.a": torch.zeros(2)}
    save_file(tensors, tmp_path / "w.safetensors")
    torch.save(tensors, tmp_path / "w.pt")
    for path in tmp_path.iterdir():
        assert_holds(path, {"a": torch.ones(2)}, entry="ema")
        with pytest.raises(WeightsError, match="no entry 'best'"):
            open_checkpoint(path, entry="best")


def test_file_that_could_run_code_is_refused_in_one_line(tmp_path: Path) -> None:
    torch.save({"module": {"a": torch.ones(2)}, "args": Namespace(lr=1)}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"holds more than tensors \(argparse\.Namespace\)") as error:
        open_checkpoint(tmp_path / "w.pt")
    assert "\n" not in str(error.value)


def test_float8_is_read_as_the_numbers_it_stands_for(tmp_path: Path) -> None:
    weight, scale = torch.randn(4, 4).to(torch.float8_e4m3fn), torch.tensor([0.37])
    bias = torch.randn(4)
    torch.save({"module": {"b.fc.weight": weight, "b.fc.bias": bias}}, tmp_path / "w_fp8.pt")
    torch.save({"b.fc": scale}, tmp_path / "w_fp8_map.pt")
    assert_holds(tmp_path / "w_fp8.pt", {"b.fc.weight": weight.bfloat16() * scale.bfloat16(), "b.fc.bias": bias})


def test_float8_without_its_scales_is_refused(tmp_path: Path) -> None:
    small = {"fc.weight": torch.randn(4, 4).to(torch.float8_e4m3fn)}
    torch.save(small, tmp_path / "w_fp8.pt")
    with pytest.raises(WeightsError, match=r"without scales\. Put w_fp8_map\.pt beside it"):
        open_checkpoint(tmp_path / "w_fp8.pt")


@pytest.mark.parametrize("size", [0, 4, 40, -1])
@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_truncated_file_is_found_before_anything_is_read(tmp_path: Path, name: str, size: int) -> None:
    path = tmp_path / name
    (save_file if name.endswith("s") else torch.save)({"a": torch.ones(300)}, path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(WeightsError, match="is not a whole") as error:
        open_checkpoint(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.bin", "w.gguf"])
def test_what_stands_in_the_place_of_a_file_is_called_by_its_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 25600000000\n")
    with pytest.raises(WeightsError, match=r"Git LFS pointer: \d+ bytes .* of 25,600,000,000 bytes.* git lfs pull"):
        open_checkpoint(path)
    path.write_text("\n<!DOCTYPE html><html>log in</html>")
    with pytest.raises(WeightsError, match="is a web page, saved under the name of the file"):
        open_checkpoint(path)


@pytest.mark.parametrize("index", [True, False])
def test_missing_shard_is_named(tmp_path: Path, index: bool) -> None:
    write_shards(tmp_path, index)[1].unlink()
    with pytest.raises(WeightsError, match=r"lacks 1 of 3 shards, model-00002-of-00003.safetensors first"):
        open_checkpoint(tmp_path)


def test_truncated_shard_is_named(tmp_path: Path) -> None:
    path = write_shards(tmp_path)[1]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(WeightsError, match=r"model-00002-of-00003\.safetensors is not a whole safetensors file"):
        open_checkpoint(tmp_path)


def test_several_sets_of_weights_are_not_guessed_between(tmp_path: Path) -> None:
    for name in ("model.fp16.safetensors", "model.ema.safetensors"):
        save_file({"a": torch.ones(1)}, tmp_path / name)
    with pytest.raises(WeightsError, match=r"several sets of weights: model\.ema\.safetensors, model\.fp16"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("source", "says"),
    [("nowhere.safetensors", "there are no weights at nowhere"), ("hub:one", "does not name a repository")],
)
def test_nothing_there_is_one_line(source: str, says: str) -> None:
    with pytest.raises(WeightsError, match=says):
        open_checkpoint(source)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(WeightsError, match=r"no file of weights, which end in \.safetensors"):
        open_checkpoint(tmp_path / "notes.txt")
    with pytest.raises(WeightsError, match="there are no weights in"):
        open_checkpoint(tmp_path)


def test_hub_repository_is_opened_by_its_heads_and_downloaded_shard_by_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads: list[str] = []
    monkeypatch.setitem(sys.modules, "huggingface_hub", stand_in(tmp_path, downloads.append))
    write_shards(tmp_path / "maker" / "Film-1.5B" / "transformer")
    checkpoint = open_checkpoint("hub:maker/Film-1.5B", within=("transformer",))
    assert checkpoint.headers.keys() == TENSORS.keys()
    assert downloads == ["transformer/model.safetensors.index.json"]
    assert torch.equal(checkpoint.read("a.bias"), TENSORS["a.bias"])
    assert downloads[1:] == ["transformer/model-00002-of-00003.safetensors"]
    assert_holds("maker/Film-1.5B/transformer", TENSORS)
    assert_holds("hub:maker/Film-1.5B/transformer/model-00002-of-00003.safetensors", {"a.bias": TENSORS["a.bias"]})


def test_hub_errors_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", stand_in(tmp_path))
    with pytest.raises(WeightsError, match="there is no maker/nothing on this machine, and the hub") as error:
        open_checkpoint("maker/nothing")
    assert "\n" not in str(error.value)
    write_shards(tmp_path / "maker" / "film" / "transformer")
    with pytest.raises(WeightsError, match=r"maker/film has transformer. Name one of them"):
        open_checkpoint("hub:maker/film/vae")


def test_hub_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtra, match=r"pip install 'mutoscope\[hub\]'"):
        open_checkpoint("hub:maker/film")


def test_bytes_are_those_of_memory() -> None:
    assert as_bytes(torch.tensor(258, dtype=torch.int16)).tolist() == [2, 1]
    assert as_bytes(torch.tensor([1.0]).bfloat16()).tolist() == [0x80, 0x3F]


def test_paths_are_preferred_to_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_file({"a": torch.ones(1)}, _made(tmp_path / "maker" / "film") / "model.safetensors")
    assert isinstance(folders.find("maker/film")[0], folders.LocalFolder)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder
