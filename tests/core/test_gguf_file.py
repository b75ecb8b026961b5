from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mutoscope.core.checkpoint import open_checkpoint
from mutoscope.core.errors import MissingExtra, WeightsError
from mutoscope.core.tensors import WIDE, Header
from tests.core.gguf_writer import write_gguf

gguf = pytest.importorskip("gguf")
TENSORS = {"fc.weight": torch.randn(6, 64), "fc.bias": torch.randn(6), "scalar": torch.tensor(3.0)}


def read(path: Path) -> Mapping[str, Tensor]:
    checkpoint = open_checkpoint(path)
    tensors = {name: checkpoint.read(name) for name in checkpoint.headers}
    assert checkpoint.headers == {name: Header(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    return tensors


@pytest.mark.parametrize(("kind", "dtype"), [("F32", torch.float32), ("F16", torch.float16), ("BF16", torch.bfloat16)])
def test_plain_types_are_exact(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    write_gguf(tmp_path / "w.gguf", TENSORS, kind)
    found = read(tmp_path / "w.gguf")
    assert torch.equal(found["fc.weight"], TENSORS["fc.weight"].to(dtype))
    assert torch.equal(found["fc.bias"], TENSORS["fc.bias"]) and found["scalar"] == 3


@pytest.mark.parametrize(("kind", "levels"), [("Q8_0", 127), ("Q5_1", 31), ("Q4_0", 8)])
def test_quantised_numbers_are_within_a_step_of_their_block(tmp_path: Path, kind: str, levels: int) -> None:
    write_gguf(tmp_path / "w.gguf", TENSORS, kind)
    found, blocks = read(tmp_path / "w.gguf")["fc.weight"], TENSORS["fc.weight"].unflatten(1, (-1, 32))
    assert found.dtype == WIDE
    step = 2 * blocks.abs().amax(-1, keepdim=True) / levels
    assert ((found.float().unflatten(1, (-1, 32)) - blocks).abs() <= step).all()


def test_shape_of_five_axes_is_taken_from_the_file_where_it_says_so(tmp_path: Path) -> None:
    kernel = torch.randn(4, 3, 1, 2, 2)
    write_gguf(tmp_path / "w.gguf", {"patch.weight": kernel}, "F32", says_shape=True)
    assert torch.equal(read(tmp_path / "w.gguf")["patch.weight"], kernel)
    write_gguf(tmp_path / "w.gguf", {"patch.weight": kernel}, "F32", says_shape=False)
    assert open_checkpoint(tmp_path / "w.gguf").flattens
    assert read(tmp_path / "w.gguf")["patch.weight"].shape == (4, 12)


@pytest.mark.parametrize("size", [0, 3, 40, -40, -400])
def test_damaged_file_is_one_line(tmp_path: Path, size: int) -> None:
    path = tmp_path / "w.gguf"
    write_gguf(path, TENSORS, "F32")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(WeightsError, match="is not a whole GGUF file") as error:
        open_checkpoint(path)
    assert "\n" not in str(error.value)


def test_without_its_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gguf(tmp_path / "w.gguf", TENSORS, "F32")
    modules: Any = __import__("sys").modules
    monkeypatch.setitem(modules, "gguf", None)
    with pytest.raises(MissingExtra, match=r"needs gguf, .* pip install 'mutoscope\[hub\]'"):
        open_checkpoint(tmp_path / "w.gguf")
