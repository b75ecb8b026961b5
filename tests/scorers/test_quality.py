"""Models of whole clips: what they are shown, and that a file of either kind says the same."""

from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from mutoscope.core.errors import RecipeError, WeightsError
from mutoscope.scorers.judge import Place, Seen
from mutoscope.scorers.quality import Quality, fragments, resized


def test_fragments_are_an_even_grid_of_patches_as_they_are_in_the_frame() -> None:
    rows, columns = np.mgrid[:60, :90].astype(np.uint8)
    frames = np.stack([rows, columns, rows], axis=-1)[None]
    cut = fragments(frames, 3, 4)
    assert cut.shape == (1, 12, 12, 3)
    # thirds of 60 are centred on 10, 30, 50, those of 90 on 15, 45, 75
    assert cut[0, :, 0, 0].tolist() == [8, 9, 10, 11, 28, 29, 30, 31, 48, 49, 50, 51]
    assert cut[0, 0, :, 1].tolist() == [13, 14, 15, 16, 43, 44, 45, 46, 73, 74, 75, 76]
    assert fragments(frames, 12, 5).shape == (1, 60, 60, 3)  # just as large as the frame
    assert fragments(frames, 8, 10).shape == (1, 80, 80, 3)  # larger: the frame is grown
    assert (fragments(np.full((2, 7, 9, 3), 90, np.uint8), 4, 8) == 90).all()


def test_a_short_clip_shows_frames_twice_and_a_long_one_shows_some() -> None:
    judge = Quality("x.onnx", frames=4, view="resized", size=2, mean=(0, 0, 0), std=(1, 1, 1))
    levels = np.arange(8, dtype=np.uint8)[:, None, None, None] * np.ones((1, 5, 6, 3), np.uint8)
    assert judge.clip(levels[:2])[0, 0, :, 0, 0].tolist() == [0, 0, 1, 1]
    assert judge.clip(levels)[0, 0, :, 0, 0].tolist() == [1, 3, 5, 7]
    assert resized(levels[:1], 3, 2).shape == (1, 3, 2, 3)


def test_a_file_of_onnx_and_one_of_torch_say_the_same(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="needs the package onnx")
    pytest.importorskip("onnxruntime", reason="needs the extra curate-learned")
    from onnx import TensorProto, helper

    shape = [1, 3, 4, 8, 8]
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["clip"], ["mark"], axes=[1, 2, 3, 4], keepdims=0)],
        "mean",
        [helper.make_tensor_value_info("clip", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("mark", TensorProto.FLOAT, [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, tmp_path / "mean.onnx")

    class Mean(nn.Module):
        def forward(self, clip: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
            return clip.mean(dim=(1, 2, 3, 4))

    torch.export.save(torch.export.export(Mean(), (torch.zeros(shape),)), tmp_path / "mean.pt2")
    frames = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)
    wanted = ((frames / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).mean()
    for name in ("mean.onnx", "mean.pt2"):
        judge = Quality(str(tmp_path / name), frames=4, size=8, patch=4)
        judge.check()
        one, other = judge.open(Place())([Seen(frames), Seen(frames[::-1])])
        assert one["quality"] == pytest.approx(wanted, abs=1e-4) == other["quality"]


def test_what_cannot_be_opened_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.pt2").write_bytes(b"no model")
    with pytest.raises(WeightsError, match=r"is no file of torch\.export\.save") as caught:
        Quality(str(tmp_path / "bad.pt2")).open(Place())
    assert "\n" not in str(caught.value)
    with pytest.raises(WeightsError, match=r"whose name ends in \.onnx or \.pt2"):
        Quality("weights.pth").check()
    with pytest.raises(RecipeError, match="is no multiple of"):
        Quality("x.onnx", size=100, patch=32)
