"""The layout of YOLOX: what goes in, what comes out, and what boxes cover, with known answers."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mutoscope.core.errors import RecipeError, RequestError, WeightsError
from mutoscope.scorers.detect import GREY, Detector, cover, decode, letterbox, overlaps, suppress, unletterbox
from mutoscope.scorers.judge import Place, Seen

SIDE = 64  # 64 + 16 + 4 cells
CELLS = 84


def raw(cell: int = 0, values: tuple[float, ...] = (0, 0, 0, 0, 0, 0)) -> np.ndarray:
    """What a network says that finds one thing at most."""
    said = np.zeros((CELLS, len(values)), np.float32)
    said[cell] = values
    return said


@settings(max_examples=25)
@given(height=st.integers(1, 300), width=st.integers(1, 300), seed=st.integers(0, 99))
def test_boxes_come_back_from_the_letterbox_as_they_went_in(height: int, width: int, seed: int) -> None:
    frame = np.zeros((height, width, 3), np.uint8)
    canvas, scale = letterbox(frame, 96, 64)
    assert canvas.shape == (3, 96, 64) and scale == min(96 / height, 64 / width)
    draw = np.random.default_rng(seed).random((5, 2, 2))
    corners = np.sort(draw, axis=1) * [width, height]
    boxes = corners.reshape(5, 4).astype(np.float32)
    assert np.allclose(unletterbox(boxes * np.float32(scale), scale, height, width), boxes, atol=1e-3)
    beyond = np.array([[-9, -9, 9e3, 9e3]], np.float32)
    assert unletterbox(beyond, scale, height, width).tolist() == [[0, 0, width, height]]


def test_a_frame_stands_in_the_upper_left_blue_first_and_the_rest_is_grey() -> None:
    frame = np.zeros((20, 40, 3), np.uint8)
    frame[..., 0], frame[..., 2] = 200, 7  # red, blue
    canvas, scale = letterbox(frame, SIDE, SIDE)
    assert scale == 1.6
    assert (canvas[:, 32:] == GREY).all()
    assert (canvas[0, :32] == 7).all() and (canvas[1, :32] == 0).all() and (canvas[2, :32] == 200).all()


def test_a_cell_says_where_its_box_lies_in_steps_of_its_stride() -> None:
    boxes, scores = decode(raw(), SIDE, SIDE)
    assert boxes[0].tolist() == [-4, -4, 4, 4]  # the first cell of stride 8: centre 0, size exp(0) times 8
    assert boxes[9].tolist() == [4, 4, 12, 12]  # the second of the second row of 8
    assert boxes[64 + 5].tolist() == [8, 8, 24, 24]  # stride 16: 4 in a row
    assert boxes[64 + 16 + 3].tolist() == [16, 16, 48, 48]  # stride 32: 2 in a row
    assert not scores.any()
    boxes, scores = decode(raw(9, (0.5, 0.25, np.log(2), 0, 0.5, 0.8, 0.2)), SIDE, SIDE)
    assert boxes[9].tolist() == [4, 6, 20, 14] and scores[9].tolist() == pytest.approx([0.4, 0.1])


def test_numbers_of_other_cells_are_refused() -> None:
    with pytest.raises(WeightsError, match="6 numbers of 83 cells; YOLOX would say 5 and the classes of 84"):
        decode(raw()[1:], SIDE, SIDE)


def test_a_box_that_overlaps_a_better_one_is_dropped() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 4], [20, 0, 30, 10]], np.float32)
    assert overlaps(boxes[0], boxes).tolist() == pytest.approx([1, 0.5, 0.4, 0])
    assert suppress(boxes, np.array([0.9, 0.8, 0.7, 0.95], np.float32), 0.45) == [3, 0, 2]
    assert suppress(boxes, np.array([0.1, 0.8, 0.7, 0.95], np.float32), 0.45) == [3, 1]  # 0.8 of each other, 0.5 of 0
    assert suppress(boxes[:0], np.zeros(0, np.float32), 0.45) == []


def test_what_boxes_cover_counts_once() -> None:
    boxes = np.array([[0, 0, 5, 10], [0, 0, 10, 5], [0, 0, 1, 1]], np.float32)
    assert cover(boxes, 10, 10) == 0.75
    assert cover(boxes[:0], 10, 10) == 0


# ---- a model in a file -----------------------------------------------------------------------------------------------


def write_model(path: Path, side: int = SIDE) -> Path:
    """Write a network that finds, in the cell 64 + 5, a logo as surely as the picture is blue, and no watermark."""
    onnx = pytest.importorskip("onnx", reason="needs the package onnx")
    from onnx import TensorProto, helper, numpy_helper

    at = raw(69, (0, 0, 0, 0, 1, 0, 0))[None]
    logo = raw(69, (0, 0, 0, 0, 0, 0, 1))[None]
    constants = {"first": np.array([0]), "second": np.array([1]), "axis": np.array([1]), "levels": np.float32(255)}
    constants |= {"at": at, "logo": logo}
    nodes = [
        helper.make_node("Slice", ["images", "first", "second", "axis"], ["blue"]),
        helper.make_node("ReduceMax", ["blue"], ["most"], keepdims=0),
        helper.make_node("Div", ["most", "levels"], ["share"]),
        helper.make_node("Mul", ["logo", "share"], ["sure"]),
        helper.make_node("Add", ["at", "sure"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, side, side])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, CELLS, 7])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def test_a_detector_in_a_file_tells_the_best_score_and_the_most_that_is_covered(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra curate-learned")
    model = write_model(tmp_path / "tiny.onnx")
    judge = Detector(str(model), ("watermark", "logo"), SIDE, SIDE)
    judge.check()
    frames = np.zeros((3, 32, 32, 3), np.uint8)
    frames[1, ..., 2], frames[2, ..., 2] = 255, 51
    few, all_three = judge.open(Place())([Seen(frames[[0, 2]]), Seen(frames)])
    assert few == pytest.approx({"watermark": 0, "watermark_share": 0, "logo": 0.2, "logo_share": 0})
    # the box [8, 24) of 64 pixels is [4, 12) of 32
    assert all_three == pytest.approx({"watermark": 0, "watermark_share": 0, "logo": 1, "logo_share": 1 / 16})
    with pytest.raises(WeightsError, match="knows 2 classes, and 1 labels are given"):
        Detector(str(model), ("logo",), SIDE, SIDE).open(Place())([Seen(frames)])
    with pytest.raises(WeightsError, match=r"\[1, 3, 96, 64\] is needed"):
        Detector(str(model), ("logo",), 96, SIDE).open(Place())([Seen(frames)])


def test_what_cannot_be_opened_is_refused_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra curate-learned")
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(WeightsError, match="is no ONNX model that can be run") as caught:
        Detector(str(tmp_path / "bad.onnx"), ("logo",)).open(Place())
    assert "\n" not in str(caught.value)
    with pytest.raises(RequestError, match="onnxruntime has nothing for device='tpu'"):
        Detector(str(tmp_path / "bad.onnx"), ("logo",)).open(Place("tpu"))
    with pytest.raises(WeightsError, match=r"whose name ends in \.onnx"):
        Detector("weights.pth", ("logo",)).check()
    with pytest.raises(RecipeError, match="multiples of 32"):
        Detector("x.onnx", ("logo",), 100, 64)
