"""Frames as an image tower takes them: resized, cut, scaled, as the file beside its weights says.

    frame "H W 3" uint8 ── resize ── cut out the middle ── to [0, 1] ── (x - mean) / deviation ──> "3 h w"

The processors of `transformers` do the same; their faster ones need torchvision, and this needs Pillow alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from PIL import Image
from torch import Tensor

from mutoscope.core.errors import WeightsError
from mutoscope.scorers.judge import json_of

Frame = UInt8[np.ndarray, "H W 3"]
OTHERS = "Choose other weights."
FILES = ("preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True)
class Layout:
    """How frames are prepared.

    Args:
        size: height and width to resize to; one number for the shorter edge, the longer follows.
        crop: height and width of the middle that is cut out; None for all.
        resample: Pillow's number of the filter: 2 bilinear, 3 bicubic.
        scale: factor of levels.
        mean: of red, green and blue, after scaling.
        std: the same.
    """

    size: tuple[int, ...]
    crop: tuple[int, int] | None
    resample: int
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def of(cls, folder: Path) -> "Layout":
        """Read the file in a folder of weights.

        Raises:
            WeightsError: there is none, or it asks for something else than the steps above.
        """
        path = next((folder / name for name in FILES if (folder / name).is_file()), None)
        if path is None:
            raise WeightsError(
                f"{folder} does not say how pictures are prepared: {FILES[0]} is missing. Download the folder again."
            )
        told = json_of(path)
        told = told.get("image_processor", told)
        crops = told.get("do_center_crop", False)
        if not told.get("do_resize") or not told.get("do_rescale", True):
            raise WeightsError(f"{path} does not resize or scale pictures, which is not known here. {OTHERS}")
        normalises = told.get("do_normalize", False)
        return cls(
            _edges(told.get("size"), crops, path),
            _whole(_edges(told.get("crop_size"), False, path)) if crops else None,
            int(told.get("resample", Image.Resampling.BILINEAR)),
            float(told.get("rescale_factor", 1 / 255)),
            _colours(told.get("image_mean"), path) if normalises else (0.0, 0.0, 0.0),
            _colours(told.get("image_std"), path) if normalises else (1.0, 1.0, 1.0),
        )

    def picture(self, frame: Frame) -> Float32[np.ndarray, "3 h w"]:
        """Prepare one frame."""
        height, width = frame.shape[:2]
        high, wide = self.size[0], self.size[-1]
        if len(self.size) == 1:
            short = self.size[0]
            high, wide = (
                (int(short * height / width), short) if width <= height else (short, int(short * width / height))
            )
        resized = Image.fromarray(frame).resize((wide, high), Image.Resampling(self.resample))
        crop = self.crop or (high, wide)
        top, left = (high - crop[0]) // 2, (wide - crop[1]) // 2
        levels = np.asarray(resized)[top : top + crop[0], left : left + crop[1]].astype(np.float32)
        pixels = levels * np.float32(self.scale)
        pixels = (pixels - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def __call__(self, frames: Iterable[Frame]) -> Float[Tensor, "N 3 h w"]:
        """Prepare frames, which may differ in size, as a batch."""
        return torch.from_numpy(np.stack([self.picture(frame) for frame in frames]))


def _edges(size: Any, crops: bool, path: Path) -> tuple[int, ...]:
    """Return height and width or, where only it is told, the shorter edge."""
    if isinstance(size, int):  # as older files have it: the shorter edge where a square is cut out, else a square
        return (size,) if crops else (size, size)
    if isinstance(size, Mapping) and size.keys() == {"shortest_edge"} and crops:
        return (int(size["shortest_edge"]),)
    if isinstance(size, Mapping) and {"height", "width"} <= size.keys():
        return (int(size["height"]), int(size["width"]))
    raise WeightsError(f"{path} asks for pictures of size {size}, which is not known here. {OTHERS}")


def _whole(edges: tuple[int, ...]) -> tuple[int, int]:
    return edges[0], edges[-1]


def _colours(values: Any, path: Path) -> tuple[float, float, float]:
    if not isinstance(values, Sequence) or len(values) != 3:
        raise WeightsError(f"{path} has no mean and deviation of three colours. {OTHERS}")
    return float(values[0]), float(values[1]), float(values[2])
