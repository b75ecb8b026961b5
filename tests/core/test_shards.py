import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mutoscope.core.checkpoint import open_checkpoint
from mutoscope.core.errors import WeightsError

ONE, TWO = {"a": torch.ones(1)}, {"b": torch.ones(2)}
STEM = "diffusion_pytorch_model"
NAMES = {  # of the shards, and of the index
    "plain": (f"{STEM}-0000{{}}-of-00002.safetensors", f"{STEM}.safetensors.index.json"),
    "variant": (f"{STEM}.fp16-0000{{}}-of-00002.safetensors", f"{STEM}.safetensors.index.fp16.json"),
    "old variant": (f"{STEM}-0000{{}}-of-00002.fp16.safetensors", f"{STEM}.safetensors.index.fp16.json"),
}


def write(folder: Path, kind: str, *, index: bool = True, factor: float = 1) -> None:
    folder.mkdir(exist_ok=True)
    shards, name = NAMES[kind]
    for number, part in enumerate((ONE, TWO), 1):
        save_file({key: factor * value for key, value in part.items()}, folder / shards.format(number))
    if index:
        places = {key: shards.format(number) for number, part in enumerate((ONE, TWO), 1) for key in part}
        (folder / name).write_text(json.dumps({"weight_map": places}))


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("kind", list(NAMES))
def test_shards_are_found_however_their_variant_is_spelled(tmp_path: Path, kind: str, index: bool) -> None:
    write(tmp_path, kind, index=index)
    assert open_checkpoint(tmp_path).headers.keys() == {"a", "b"}
    (tmp_path / NAMES[kind][0].format(2)).unlink()
    with pytest.raises(WeightsError, match="lacks 1 of 2 shards"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("index", [True, False])
def test_weights_without_a_mark_come_before_their_variant_which_is_taken_by_its_index(
    tmp_path: Path, index: bool
) -> None:
    write(tmp_path, "plain", index=index)
    write(tmp_path, "variant", index=index, factor=2)
    assert open_checkpoint(tmp_path).read("a") == 1
    if index:
        assert open_checkpoint(tmp_path / NAMES["variant"][1]).read("a") == 2


@pytest.mark.parametrize("other", ["w_fp8.pt", "w.fp16.pt", "w-bf16.pt", "w_fp8_e4m3fn.pt"])
def test_file_of_full_precision_comes_first(tmp_path: Path, other: str) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "w.pt")
    torch.save({"a": torch.zeros(1)}, tmp_path / other)
    torch.save({}, tmp_path / "w_fp8_map.pt")
    assert open_checkpoint(tmp_path).read("a") == 1


def test_index_decides_which_file_of_two_holds_a_tensor(tmp_path: Path) -> None:
    write(tmp_path, "plain")
    save_file({**TWO, "a": torch.zeros(1)}, tmp_path / NAMES["plain"][0].format(2))
    assert open_checkpoint(tmp_path).read("a") == 1
    (tmp_path / NAMES["plain"][1]).unlink()
    with pytest.raises(WeightsError, match="repeats a of another file"):
        open_checkpoint(tmp_path)


def test_letters_of_shards_may_differ_in_case_from_the_index(tmp_path: Path) -> None:
    write(tmp_path, "plain")
    path = tmp_path / NAMES["plain"][0].format(1)
    path.rename(path.with_name(path.name.upper().replace("SAFETENSORS", "safetensors")))
    assert open_checkpoint(tmp_path).headers.keys() == {"a", "b"}


def test_checkpoint_of_torch_distributed_is_called_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "__0_0.distcp").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"of torch\.distributed, which is not read.* dcp_to_torch FOLDER"):
        open_checkpoint(tmp_path)


def test_two_ways_to_cut_without_an_index_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "plain", index=False)
    save_file(ONE, tmp_path / f"{STEM}-00001-of-00003.safetensors")
    with pytest.raises(WeightsError, match="several sets of weights"):
        open_checkpoint(tmp_path)
