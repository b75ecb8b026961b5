"""Where a face is in a picture, by a detector whose ONNX file is named: so that nobody need measure it.

    picture ── letterbox, whole and at half size, blue, green, red, 0 to 255 ──> "1 3 h w"
            ── YuNet ──> of each cell: "1 cells 4" box, "1 cells 1" class, "1 cells 1" object, "1 cells 10" landmarks
            ── sqrt(class x object) at least 0.8 ── suppress overlaps ──> boxes, the largest first

YuNet (Wu et al. 2023, *YuNet: A Tiny Millisecond-level Face Detector*) is published under the MIT licence in
``models/face_detection_yunet`` of github.com/opencv/opencv_zoo, from 2023 on in this layout. Its boxes are coded as
those of YOLOX, so `scorers.detect` reads them. It was trained on faces of up to about 300 pixels; at half size a
picture that is little but a face has hardly a larger one. OpenCV's own reader of such files is not used: from OpenCV 5
on it may refuse pictures of any size but the one that the file names (opencv/opencv issue 28769).
"""

import math
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from mutoscope.core.errors import RequestError, WeightsError
from mutoscope.scorers import onnx
from mutoscope.scorers.detect import GREY, STRIDES, Boxes, decode, letterbox, suppress, unletterbox
from mutoscope.scorers.judge import Place, bring_file
from mutoscope.tasks.avatar import Box

WHAT = "A face detector"
SIDE = 640  # pixels of the square that is looked at, if the file leaves that open
LEAST_SCORE = 0.8
MOST_OVERLAP = 0.3  # intersection over union, as OpenCV has it for YuNet


def largest_face(picture: UInt8[np.ndarray, "H W 3"], detector: Path) -> Box:
    """Return the box of the largest face in a picture, in whole pixels.

    Args:
        picture: of any size.
        detector: ONNX file of YuNet, see `bring`.

    Raises:
        MissingExtra: onnxruntime is not installed.
        RequestError: there is no face.
        WeightsError: the file is no such detector.
    """
    session = onnx.session(detector, Place(), WHAT)
    height, width = _canvas(session, detector)
    seen = [_look(picture, session, detector, (height // shrunk, width // shrunk)) for shrunk in (1, 2)]
    boxes, scores = (np.concatenate(part) for part in zip(*seen, strict=True))
    # Both views see most faces: of two boxes of one face the surer counts, and not the larger.
    boxes = boxes[suppress(boxes, scores, MOST_OVERLAP)]
    if not len(boxes):
        raise RequestError(
            f"{detector} finds no face in the picture of {picture.shape[1]}x{picture.shape[0]}. Say where it is with "
            "--face-box LEFT,TOP,RIGHT,BOTTOM, or leave both out, for all of it to follow the voice."
        )
    left, top, right, bottom = max(boxes.tolist(), key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))
    return Box(math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom))


def bring(source: str | Path) -> Path:
    """Bring the file of a detector onto this machine, and find out whether it could be run.

    Args:
        source: its path, or ``hub:OWNER/NAME/FILE``.

    Raises:
        WeightsError: there is no such file.
        MissingExtra: onnxruntime is not installed; or it is on the hub, and huggingface_hub is not.
    """
    onnx.check(WHAT)
    return bring_file(source, (".onnx",), "face detector")


def _canvas(session: onnx.Session, detector: Path) -> tuple[int, int]:
    """Return the height and width of what the network looks at."""
    given = session.get_inputs()
    shape = list(given[0].shape)
    if len(given) != 1 or given[0].type != "tensor(float)" or len(shape) != 4 or shape[1] != 3:
        raise _no_yunet(detector, f"takes {[(item.type, item.shape) for item in given]}")
    height, width = (side if isinstance(side, int) else SIDE for side in shape[2:])
    return height, width


def _look(
    picture: UInt8[np.ndarray, "H W 3"], session: onnx.Session, detector: Path, fitted: tuple[int, int]
) -> tuple[Boxes, Float32[np.ndarray, " n"]]:
    """Find faces in a picture that is scaled to a size and laid into a corner of what the network looks at."""
    height, width = _canvas(session, detector)
    pixels = np.full((1, 3, height, width), GREY, np.float32)
    pixels[0, :, : fitted[0], : fitted[1]], scale = letterbox(picture, *fitted)
    said = [np.asarray(part, np.float32) for part in session.run(None, {session.get_inputs()[0].name: pixels})]
    levels = []
    for stride in STRIDES:
        cells = (height // stride) * (width // stride)
        boxes = [part[0] for part in said if part.shape == (1, cells, 4)]
        shares = [part[0] for part in said if part.shape == (1, cells, 1)]
        if len(boxes) != 1 or len(shares) != 2:
            raise _no_yunet(detector, f"says {[part.shape for part in said]} of {height}x{width} pixels")
        levels.append(np.concatenate([*boxes, *(share.clip(0, 1) for share in shares)], axis=1))
    # Of class and object only the product is used, so it does not matter which is which.
    boxes, products = decode(np.concatenate(levels), height, width)
    scores = np.sqrt(products[:, 0])
    sure = scores >= LEAST_SCORE
    boxes = unletterbox(boxes[sure], scale, *picture.shape[:2])
    is_inside = (boxes[:, :2] < boxes[:, 2:]).all(axis=1)  # and not in the grey beside the picture
    return boxes[is_inside], scores[sure][is_inside]


def _no_yunet(detector: Path, does: str) -> WeightsError:
    return WeightsError(
        f"{detector} is no YuNet of 2023 or later: it {does}. Give face_detection_yunet_2023mar.onnx of "
        "github.com/opencv/opencv_zoo, or a later one."
    )
