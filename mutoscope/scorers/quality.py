"""A judge on any model of whole clips in a file, such as one of technical quality in the manner of DOVER.

    frames ── T of them ── view ── (x - mean) / std ──> "1 3 T H W" float32 ── model ──> numbers, whose mean counts

A view is all of each frame, resized, or fragments: an even grid of little patches at the source's own resolution,
the same places in all frames (Wu et al. 2022, FAST-VQA, section 3.1), which keeps noise, blur and blocks as they are.
DOVER (Wu et al. 2023) sees 32 frames of 7 x 7 fragments of 32 pixels in its technical branch, and 32 of 224 x 224
pixels in its aesthetic one; mean and deviation are those of ImageNet on levels 0 to 255.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float32, UInt8
from PIL import Image

from mutoscope.core.errors import RecipeError, WeightsError
from mutoscope.scorers import onnx
from mutoscope.scorers.judge import Column, Frames, Place, Row, Seen, Seer, bring_file

ENDINGS = (".onnx", ".pt2")


def fragments(frames: Frames, grid: int, patch: int) -> UInt8[np.ndarray, "N side side 3"]:
    """Cut an even grid of patches out of each frame, and put them side by side.

    The published code places each patch at random within its part of the grid; here it stands in the middle, so that a
    clip has one score. Frames that are too small are grown first.

    Args:
        frames: of one size.
        grid: patches along each side.
        patch: side of a patch, in pixels.
    """
    side = grid * patch
    height, width = frames.shape[1:3]
    if min(height, width) < side:
        grow = side / min(height, width)
        height, width = max(side, round(height * grow)), max(side, round(width * grow))
        frames = resized(frames, height, width)
    rows, columns = (
        np.concatenate([np.arange(patch) + (2 * i + 1) * length // (2 * grid) - patch // 2 for i in range(grid)])
        for length in (height, width)
    )
    return frames[:, rows][:, :, columns]


def resized(frames: Frames, height: int, width: int) -> UInt8[np.ndarray, "N height width 3"]:
    """Resize frames, whatever their shape was."""
    return np.stack(
        [np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC)) for frame in frames]
    )


@dataclass(frozen=True)
class Quality:
    """A number for a clip, by any model of clips.

    Args:
        model: an ONNX file, or one of `torch.export.save` (.pt2), or ``hub:OWNER/NAME/FILE``. It takes one input,
            "1 3 T H W" float32, red, green and blue; the mean of its first output is the score. Take files of
            `torch.export` only from whom you trust.
        frames: T. A clip with fewer shows some of them twice.
        view: how a frame comes to `size` x `size` pixels.
        size: side of what the model sees.
        patch: side of a fragment; `size` must be a multiple.
        mean: of red, green and blue, of levels 0 to 255.
        std: the same.
        name: of the column.
        unit: of the number.
        better: which direction is better.
    """

    model: str
    frames: int = 32
    view: Literal["resized", "fragments"] = "fragments"
    size: int = 224
    patch: int = 32
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    name: str = "quality"
    unit: str = ""
    better: Literal["higher", "lower", "neither"] = "higher"

    def __post_init__(self) -> None:
        if self.size < 1 or self.patch < 1 or (self.view == "fragments" and self.size % self.patch):
            raise RecipeError(f"size={self.size} is no multiple of patch={self.patch}. Give 224 and 32.")

    @property
    def columns(self) -> tuple[Column, ...]:
        return (Column(self.name, self.unit, self.better, f"quality by {Path(self.model).name}"),)

    def check(self) -> None:
        if self.model.endswith(".onnx"):
            onnx.check("A model of quality")
        bring_file(self.model, ENDINGS, "model of clips")

    def open(self, place: Place) -> Seer:
        run = self._loaded(place)

        def see(seen: Sequence[Seen]) -> list[Row]:
            return [{self.name: float(np.asarray(run(self.clip(one.frames)), np.float64).mean())} for one in seen]

        return see

    def clip(self, frames: Frames) -> Float32[np.ndarray, "1 3 T h w"]:
        """Return frames as the model takes them."""
        frames = frames[(2 * np.arange(self.frames) + 1) * len(frames) // (2 * self.frames)]
        view = (
            resized(frames, self.size, self.size)
            if self.view == "resized"
            else fragments(frames, self.size // self.patch, self.patch)
        )
        levels = (view.astype(np.float32) - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(rearrange(levels, "t h w c -> 1 c t h w"))

    def _loaded(self, place: Place) -> Callable[[Float32[np.ndarray, "1 3 T H W"]], np.ndarray]:
        path = bring_file(self.model, ENDINGS, "model of clips")
        if path.suffix == ".onnx":
            session = onnx.session(path, place, "A model of quality")
            (given, *more) = session.get_inputs()
            if more or len(given.shape) != 5:
                raise WeightsError(f"{self.model} does not take one clip 1 3 T H W. Export it so that it does.")
            return lambda clip: session.run(None, {given.name: clip})[0]
        try:
            network = torch.export.load(path).module().to(place.device)  # in the type that it was exported in
        except Exception as error:  # whatever a foreign file can be
            reason = " ".join(str(error).split())[:200]
            raise WeightsError(f"{path} is no file of torch.export.save ({reason}). Export it again.") from error

        @torch.inference_mode()
        def run(clip: Float32[np.ndarray, "1 3 T H W"]) -> np.ndarray:
            found = network(torch.from_numpy(clip).to(place.device))
            first = found[0] if isinstance(found, tuple | list) else found
            return first.float().cpu().numpy()

        return run
