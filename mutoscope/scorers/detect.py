"""A judge on a detector of the YOLOX kind, as an ONNX file: watermarks, logos and the like, and what they cover.

    frame ── letterbox: shrunk or grown into the corner, the rest grey 114 ──> "1 3 h w" float32, BGR, 0 to 255
          ── model ──> "1 cells (4 + 1 + classes)"     cells of strides 8, 16, 32, row by row
          ── decode: (x, y) = (cell + out) stride, (width, height) = exp(out) stride; score = object x class
          ── un-letterbox ── suppress overlaps ──> boxes in the frame

That is the layout in which YOLOX's own export script writes models without ``--decode_in_inference`` (Ge et al. 2021;
Megvii-BaseDetection/YOLOX, Apache-2.0, 0.1.1 and later: no mean or deviation). HunyuanVideo names such a detector for
watermarks, borders and logos; its weights are not published.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from einops import rearrange
from jaxtyping import Bool, Float32, Int
from PIL import Image

from mutoscope.core.errors import RecipeError, WeightsError
from mutoscope.scorers import onnx
from mutoscope.scorers.judge import Column, Place, Row, Seen, Seer, bring_file, per_clip, pictures
from mutoscope.scorers.pixels import Frame

GREY = 114
STRIDES = (8, 16, 32)
Boxes = Float32[np.ndarray, "n 4"]  # left, top, right, bottom


class Found(NamedTuple):
    """What was found in a frame; boxes in its pixels."""

    boxes: Boxes
    scores: Float32[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]


def letterbox(frame: Frame, height: int, width: int) -> tuple[Float32[np.ndarray, "3 height width"], float]:
    """Fit a frame into the upper left corner of a grey one.

    Returns:
        Blue, green and red, 0 to 255, and by how much the frame was scaled.
    """
    scale = min(height / frame.shape[0], width / frame.shape[1])
    high, wide = max(1, int(frame.shape[0] * scale)), max(1, int(frame.shape[1] * scale))
    canvas = np.full((height, width, 3), GREY, np.uint8)
    canvas[:high, :wide] = np.asarray(Image.fromarray(frame).resize((wide, high), Image.Resampling.BILINEAR))
    return np.ascontiguousarray(rearrange(canvas[..., ::-1], "h w c -> c h w")).astype(np.float32), scale


def unletterbox(boxes: Boxes, scale: float, height: int, width: int) -> Boxes:
    """Return boxes in the pixels of the frame that was fitted, cut off at its edges."""
    return (boxes / np.float32(scale)).clip(0, np.array([width, height, width, height], np.float32))


def decode(
    raw: Float32[np.ndarray, "cells values"], height: int, width: int, strides: Sequence[int] = STRIDES
) -> tuple[Boxes, Float32[np.ndarray, "cells classes"]]:
    """Turn what the network says of each cell into boxes and scores.

    Args:
        raw: x, y, width, height, object, classes; the last ones from 0 to 1.
        height: of the letterbox, in pixels.
        width: the same.
        strides: pixels of the cells of each level.

    Raises:
        WeightsError: that is not how many cells there are.
    """
    corners, steps = [], []
    for stride in strides:
        y, x = np.mgrid[: height // stride, : width // stride]
        corners.append(np.stack([x.ravel(), y.ravel()], axis=1))
        steps.append(np.full((x.size, 1), stride))
    corner, step = np.concatenate(corners), np.concatenate(steps)
    if len(raw) != len(corner) or raw.shape[1] < 6:
        raise WeightsError(
            f"the detector says {raw.shape[1]} numbers of {len(raw)} cells; YOLOX would say 5 and the classes of "
            f"{len(corner)}. Export it without --decode_in_inference, with strides {', '.join(map(str, strides))}."
        )
    centre, half = (raw[:, :2] + corner) * step, np.exp(raw[:, 2:4].clip(max=20)) * step / 2
    boxes = np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)
    return boxes, raw[:, 4:5] * raw[:, 5:]


def overlaps(box: Float32[np.ndarray, " 4"], boxes: Boxes) -> Float32[np.ndarray, " n"]:
    """Return intersection over union of one box with others."""
    least, most = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    both = (most - least).clip(0).prod(axis=1)
    total = (box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) - both
    return both / np.maximum(total, 1e-9)


def suppress(boxes: Boxes, scores: Float32[np.ndarray, " n"], most: float) -> list[int]:
    """Return the boxes to keep, best first: those that overlap no better one by more than `most`."""
    order, kept = np.argsort(-scores, kind="stable"), []
    while len(order):
        kept.append(int(order[0]))
        order = order[1:][overlaps(boxes[order[0]], boxes[order[1:]]) <= most]
    return kept


def cover(boxes: Boxes, height: int, width: int) -> float:
    """Return the share of a frame that boxes cover together."""
    covered: Bool[np.ndarray, "h w"] = np.zeros((height, width), np.bool_)
    for left, top, right, bottom in np.round(boxes).astype(int):
        covered[top:bottom, left:right] = True
    return float(covered.mean())


@dataclass(frozen=True)
class Detector:
    """Whether things are seen in a clip by a detector of the YOLOX kind, and how much of the picture they cover.

    For each label there are two columns: ``LABEL``, the best score in any frame, and ``LABEL_share``, what its boxes
    cover in the frame in which they cover most.

    Args:
        model: ONNX file, or ``hub:OWNER/NAME/FILE``; see the drawing above for what it must take and give.
        labels: of its classes, in their order.
        height: of its letterbox, in pixels; where the file has one of its own, it must be the same.
        width: the same.
        least_score: from which a box counts as covering the picture.
        most_overlap: intersection over union by which a box may overlap a better one of its class.
        frames: of a clip that are looked at.
    """

    model: str
    labels: tuple[str, ...]
    height: int = 640
    width: int = 640
    least_score: float = 0.25
    most_overlap: float = 0.45
    frames: int = 3

    def __post_init__(self) -> None:
        if not self.labels or self.height % STRIDES[-1] or self.width % STRIDES[-1]:
            raise RecipeError(
                f"a detector of {len(self.labels)} labels on {self.height}x{self.width} pixels does not work. Name its "
                f"classes, and give height and width as multiples of {STRIDES[-1]}."
            )

    @property
    def columns(self) -> tuple[Column, ...]:
        return tuple(
            column
            for label in self.labels
            for column in (
                Column(label, "of 1", "lower", f"how sure a detector is of a {label}"),
                Column(f"{label}_share", "of the picture", "lower", f"what boxes of a {label} cover"),
            )
        )

    def check(self) -> None:
        onnx.check("A detector")
        bring_file(self.model, (".onnx",), "detector")

    def open(self, place: Place) -> Seer:
        session = onnx.session(bring_file(self.model, (".onnx",), "detector"), place, "A detector")

        def see(seen: Sequence[Seen]) -> list[Row]:
            rows = []
            for frame in pictures(seen):
                found, size = self.find(session, frame), frame.shape[:2]
                row = []
                for number in range(len(self.labels)):
                    mine = found.labels == number
                    sure = mine & (found.scores >= self.least_score)
                    row += [float(found.scores[mine].max(initial=0)), cover(found.boxes[sure], *size)]
                rows.append(row)
            names = [column.name for column in self.columns]
            return [dict(zip(names, some.max(axis=0).tolist(), strict=True)) for some in per_clip(seen, np.array(rows))]

        return see

    def find(self, session: onnx.Session, frame: Frame) -> Found:
        """Detect in one frame.

        Raises:
            WeightsError: the model is not of the layout drawn above, or has other classes.
        """
        given = session.get_inputs()
        shape = list(given[0].shape)
        wanted = [1, 3, self.height, self.width]
        fits = len(given) == 1 and len(shape) == 4
        if not fits or any(isinstance(has, int) and has != needs for has, needs in zip(shape, wanted, strict=True)):
            raise WeightsError(
                f"{self.model} takes {[item.shape for item in given]}; {wanted} is needed. Give height= and width= as "
                "it was exported."
            )
        pixels, scale = letterbox(frame, self.height, self.width)
        (raw, *_) = session.run(None, {given[0].name: pixels[None]})
        boxes, scores = decode(np.asarray(raw, np.float32)[0], self.height, self.width)
        if scores.shape[1] != len(self.labels):
            raise WeightsError(
                f"{self.model} knows {scores.shape[1]} classes, and {len(self.labels)} labels are given. Name each."
            )
        boxes = unletterbox(boxes, scale, *frame.shape[:2])
        parts = []
        for number in range(len(self.labels)):
            may = np.flatnonzero(scores[:, number] > 0.01)  # below, a box says nothing, and there are thousands
            kept = may[suppress(boxes[may], scores[may, number], self.most_overlap)]
            parts.append((boxes[kept], scores[kept, number], np.full(len(kept), number)))
        return Found(*(np.concatenate(part) for part in zip(*parts, strict=True)))
