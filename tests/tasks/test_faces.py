"""Faces found by a file in YuNet's layout: where they are, which one counts, and what is refused."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mutoscope.core.errors import MissingExtra, RequestError, WeightsError
from mutoscope.tasks.avatar import Box
from mutoscope.tasks.faces import bring, largest_face
from tests.tasks.yunet import write_yunet

pytest.importorskip("onnx", reason="needs the package onnx")
pytest.importorskip("onnxruntime", reason="needs the extra curate-learned")


def picture(height: int, width: int, *faces: tuple[int, int, int, int]) -> np.ndarray:
    """A red picture with blue faces."""
    made = np.zeros((height, width, 3), np.uint8)
    made[..., 0] = 255
    for left, top, right, bottom in faces:
        made[top:bottom, left:right] = 0, 0, 255
    return made


def write_nothing(path: Path) -> Path:
    """Write a network that says what it is told, in four numbers."""
    import onnx
    from onnx import TensorProto, helper

    told, said = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("told", "said"))
    graph = helper.make_graph([helper.make_node("Identity", ["told"], ["said"])], "nothing", [told], [said])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


@pytest.mark.parametrize(
    ("size", "face"),
    [
        ((64, 64), (32, 0, 64, 32)),
        ((64, 64), (16, 32, 32, 48)),
        ((128, 256), (128, 0, 256, 128)),  # seen at a quarter of its size
        ((32, 32), (0, 16, 16, 32)),  # at twice
    ],
)
def test_a_face_is_found_where_it_is_in_a_picture_of_any_size(
    tmp_path: Path, size: tuple[int, int], face: tuple[int, int, int, int]
) -> None:
    assert largest_face(picture(*size, face), write_yunet(tmp_path / "tiny.onnx")) == Box(*face)


def test_the_largest_of_several_faces_counts(tmp_path: Path) -> None:
    faces = (0, 0, 16, 16), (32, 32, 64, 64), (48, 0, 56, 8)
    assert largest_face(picture(64, 64, *faces), write_yunet(tmp_path / "tiny.onnx")) == Box(32, 32, 64, 64)


def test_a_face_too_large_for_the_network_is_seen_at_half_size(tmp_path: Path) -> None:
    face = 0, 0, 128, 128  # of 64 pixels when it fills what is looked at, where the largest cell has 32
    assert largest_face(picture(128, 128, face), write_yunet(tmp_path / "tiny.onnx")) == Box(*face)


def test_where_the_file_leaves_its_size_open_a_picture_is_scaled_to_640(tmp_path: Path) -> None:
    made = picture(1280, 960, (320, 640, 384, 704))  # 32 pixels at half its size
    assert largest_face(made, write_yunet(tmp_path / "free.onnx", ("h", "w"))) == Box(320, 640, 384, 704)


def test_a_box_ends_at_the_edge_of_the_picture(tmp_path: Path) -> None:
    wider = write_yunet(tmp_path / "wider.onnx", code=(0.5, 0.5, np.log(1.2), np.log(1.2)))
    assert largest_face(picture(64, 64, (32, 32, 64, 64)), wider) == Box(28, 28, 64, 64)  # 48 - 1.2 x 16 = 28.8


@pytest.mark.parametrize("code", [(0.5, 0.5, 0.0, 0.0), (0.2, 0.7, 0.3, -0.2)])
def test_boxes_are_those_that_opencv_decodes(tmp_path: Path, code: Sequence[float]) -> None:
    cv2 = pytest.importorskip("cv2", reason="needs the extra curate")
    file, made = write_yunet(tmp_path / "tiny.onnx", code=code), picture(64, 64, (32, 0, 64, 32))
    _, found = cv2.FaceDetectorYN.create(str(file), "", (64, 64), 0.8, 0.3).detect(made[..., ::-1].copy())
    left, top, width, height = max(found[:, :4].tolist(), key=lambda face: face[2] * face[3])
    edges = np.clip([left, top, left + width, top + height], 0, 64)
    assert np.abs(edges - largest_face(made, file)).max() < 1  # ours are whole pixels around it


def test_a_picture_without_a_face_is_refused_and_the_way_out_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"finds no face in the picture of 64x48\..*--face-box LEFT,TOP"):
        largest_face(picture(48, 64), write_yunet(tmp_path / "tiny.onnx"))


def test_a_file_that_is_no_such_detector_is_refused_in_one_line(tmp_path: Path) -> None:
    made = picture(64, 64)
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    for file, message in (
        (tmp_path / "bad.onnx", "is no ONNX model that can be run"),
        (write_yunet(tmp_path / "lacks.onnx", lacks="obj_16"), "is no YuNet of 2023 or later: it says"),
        (write_nothing(tmp_path / "other.onnx"), r"is no YuNet of 2023 or later: it takes .*\[1, 4\]"),
    ):
        with pytest.raises(WeightsError, match=message) as caught:
            largest_face(made, file)
        assert "\n" not in str(caught.value)


def test_a_file_is_looked_for_and_what_runs_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_yunet(tmp_path / "tiny.onnx")
    assert bring(file) == file
    with pytest.raises(WeightsError, match=r"is no face detector, whose name ends in \.onnx"):
        bring(tmp_path / "detface.pt")
    with pytest.raises(WeightsError, match="there are no weights at"):
        bring(tmp_path / "gone.onnx")
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(MissingExtra, match="curate-learned"):
        bring(file)
