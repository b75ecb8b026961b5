import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mutoscope.core.checkpoint import open_checkpoint
from mutoscope.core.errors import WeightsError
from mutoscope.core.tensors import WIDE, Header

E4M3 = torch.float8_e4m3fn
WEIGHT = torch.randn(256, 130)
BIAS = torch.randn(256).bfloat16()


def opened(tmp_path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Write and read: names are those of weights alone, and eight bits are bfloat16."""
    save_file(tensors, tmp_path / "w.safetensors")
    checkpoint = open_checkpoint(tmp_path / "w.safetensors")
    read = {name: checkpoint.read(name) for name in checkpoint.headers}
    assert checkpoint.headers == {name: Header(tuple(tensor.shape), tensor.dtype) for name, tensor in read.items()}
    return read


@pytest.mark.parametrize("dtype", [E4M3, torch.float8_e5m2])
def test_plain_eight_bits_are_exact(tmp_path: Path, dtype: torch.dtype) -> None:
    small = WEIGHT.to(dtype)
    read = opened(tmp_path, {"b.fc.weight": small, "b.fc.bias": BIAS})
    assert torch.equal(read["b.fc.weight"], small.to(WIDE)) and torch.equal(read["b.fc.weight"].to(dtype), small)
    assert torch.equal(read["b.fc.bias"], BIAS)


@pytest.mark.parametrize(
    ("spelled", "beside"),
    [
        ("scale_weight", {"scaled_fp8": torch.zeros(2).to(E4M3), "b.fc.scale_input": torch.ones(1)}),
        ("scale_weight", {"model.scaled_fp8": torch.zeros(0).to(E4M3)}),
        ("weight_scale", {"b.fc.input_scale": torch.ones(())}),
        ("weight_scale", {"b.fc.comfy_quant": torch.tensor(list(b'{"format": "float8_e4m3fn"}'), dtype=torch.uint8)}),
        ("weight_scale_inv", {}),
    ],
)
@pytest.mark.parametrize("kind", ["one", "list of one", "rows", "column"])
def test_scaled_eight_bits_are_weight_times_scale_rounded_once(
    tmp_path: Path, spelled: str, beside: dict[str, Tensor], kind: str
) -> None:
    peaks = WEIGHT.abs().amax(1, keepdim=True) if kind in ("rows", "column") else WEIGHT.abs().amax()
    scale = peaks / 448
    small = (WEIGHT / scale).to(E4M3)
    stored = {"one": scale, "list of one": scale.reshape(-1), "rows": scale.reshape(-1), "column": scale}[kind]
    read = opened(tmp_path, {"b.fc.weight": small, f"b.fc.{spelled}": stored.contiguous(), "b.fc.bias": BIAS, **beside})
    assert read.keys() == {"b.fc.weight", "b.fc.bias"}
    assert torch.equal(read["b.fc.weight"], (small.float() * scale).to(WIDE))
    assert ((read["b.fc.weight"] - WEIGHT).abs() <= WEIGHT.abs() / 15 + 2.0**-9 * scale).all()


def test_scale_of_each_block_is_laid_out_over_it(tmp_path: Path) -> None:
    scale = torch.rand(2, 2) + 0.5
    small = (0.1 * WEIGHT).to(E4M3)
    read = opened(tmp_path, {"fc.weight": small, "fc.weight_scale_inv": scale})["fc.weight"]
    assert torch.equal(read[130, 128], (small[130, 128].float() * scale[1, 1]).to(WIDE))
    assert torch.equal(read[127, 128], (small[127, 128].float() * scale[0, 1]).to(WIDE))


def test_scale_beside_a_wide_weight_counts_as_comfyui_counts_it(tmp_path: Path) -> None:
    read = opened(tmp_path, {"fc.weight": torch.ones(2, 2), "fc.scale_weight": torch.tensor(3.0)})
    assert read.keys() == {"fc.weight"} and torch.equal(read["fc.weight"], torch.full((2, 2), 3.0))


def test_names_that_only_look_like_scales_stay(tmp_path: Path) -> None:
    tensors = {"norm.scale": torch.ones(2), "a.weight": torch.ones(2, 2), "a.scale": torch.ones(2)}
    assert opened(tmp_path, tensors).keys() == tensors.keys()


def test_eight_bits_whose_scale_was_lost_are_refused(tmp_path: Path) -> None:
    small = (WEIGHT / WEIGHT.abs().max() * 448).to(E4M3)
    with pytest.raises(WeightsError, match="float8 that fills its range, up to 448, so it was scaled; but its"):
        opened(tmp_path, {"fc.weight": small})


@pytest.mark.parametrize(
    ("beside", "says"),
    [
        ({"fc.weight_scale": torch.ones(3, 5)}, "a scale of float32 3x5 for weights of 256x130: another format"),
        ({"fc.weight_scale": torch.ones(256, 4, dtype=torch.uint8)}, "a scale of uint8 256x4"),
        ({"fc.weight_scale_2": torch.ones(())}, r"quantised by NVFP4 \(fc\.weight_scale_2\), which is not read"),
        ({"fc.weight.absmax": torch.ones(3)}, "quantised by bitsandbytes"),
        ({"fc.qweight": torch.ones(3)}, "quantised by GPTQ, AWQ or Nunchaku"),
    ],
)
def test_other_formats_are_refused_by_name(tmp_path: Path, beside: dict[str, Tensor], says: str) -> None:
    with pytest.raises(WeightsError, match=says) as error:
        opened(tmp_path, {"fc.weight": WEIGHT.to(E4M3), **beside})
    assert "Use its bf16, fp16, fp8 or GGUF weights" in str(error.value)


def test_whole_numbers_with_a_scale_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"quantised to int8 \(fc\.weight with its weight_scale\)"):
        opened(tmp_path, {"fc.weight": torch.ones(4, 4, dtype=torch.int8), "fc.weight_scale": torch.ones(())})


def test_eight_bits_of_several_shards_find_their_scale_in_another(tmp_path: Path) -> None:
    small = (0.1 * WEIGHT).to(E4M3)
    save_file({"fc.weight": small}, tmp_path / "w-00001-of-00002.safetensors")
    save_file({"fc.weight_scale": torch.tensor(2.0)}, tmp_path / "w-00002-of-00002.safetensors")
    places = {"fc.weight": "w-00001-of-00002.safetensors", "fc.weight_scale": "w-00002-of-00002.safetensors"}
    (tmp_path / "w.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert torch.equal(open_checkpoint(tmp_path).read("fc.weight"), (small.float() * 2).to(WIDE))
