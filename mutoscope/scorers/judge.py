"""What a learned judge is: settings that name weights; opened, they turn clips into numbers.

    Judge ── check ──> weights are here, packages are installed, before anything slow
      └─ open(place) ──> Seer: clips of frames "N H W 3" uint8 ──> for each clip, a value for each column

A judge is a frozen dataclass and can stand in a recipe. Its numbers depend on a clip's frames and text alone: not on
the clips beside it, nor on how many are looked at together, but for the last bits of floating point.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from mutoscope.core import folders
from mutoscope.core.errors import RequestError, WeightsError

Frames = UInt8[np.ndarray, "N H W 3"]
Value = float | str | Float32[np.ndarray, " D"]
Row = Mapping[str, Value]  # what there is to say of one clip; a column that it lacks could not be told
T = TypeVar("T")


@dataclass(frozen=True)
class Column:
    """One thing that a judge says of a clip.

    Args:
        name: of the column.
        unit: of the number, for people.
        better: which direction is better, where there is one.
        meaning: what it says, in a line.
        kind: a number, a name, or a vector of fixed length.
    """

    name: str
    unit: str
    better: Literal["higher", "lower", "neither"]
    meaning: str
    kind: Literal["number", "name", "vector"] = "number"


@dataclass(frozen=True)
class Place:
    """Where and how judges compute.

    Args:
        device: of torch, such as ``cpu`` or ``cuda``; an ONNX model takes the one of onnxruntime that fits.
        dtype: of the networks of torch; numbers come out as float32.
        batch: frames, or whole clips where a judge looks at a clip at once, that go through a network together.
    """

    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batch: int = 16

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise RequestError(f"batch={self.batch} is no number of frames. Give 1 or more.")

    @property
    def torch_dtype(self) -> torch.dtype:
        """The type as torch has it."""
        return getattr(torch, self.dtype)

    def check(self) -> None:
        """Refuse a device that is not here.

        Raises:
            RequestError: torch does not know it, or does not find it.
        """
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise RequestError(f"device={self.device!r} cannot be used: {reason} Give device='cpu'.") from error


@dataclass(frozen=True)
class Seen:
    """A clip as a judge sees it.

    Args:
        frames: a few of its frames, in order of time; one of a picture.
        text: what is said to be seen in it, "" where nothing is.
    """

    frames: Frames
    text: str = ""


Seer = Callable[[Sequence[Seen]], list[Row]]


@runtime_checkable
class Judge(Protocol):
    """Settings of a judge."""

    @property
    def frames(self) -> int:
        """How many frames of a clip it looks at, evenly spread; it is given fewer where the clip has no more."""
        ...

    @property
    def columns(self) -> tuple[Column, ...]:
        """What it says of a clip."""
        ...

    def check(self) -> None:
        """Find out whether it can be opened, and bring weights of the hub onto this machine.

        Raises:
            MissingExtra: a package is not installed.
            WeightsError: there are no such weights.
        """
        ...

    def open(self, place: Place) -> Seer:
        """Load the weights.

        Raises:
            MissingExtra: a package is not installed.
            WeightsError: the weights are missing, damaged, or of another network.
        """
        ...


def batches(items: Sequence[T], count: int) -> Iterator[Sequence[T]]:
    """Cut a sequence into pieces of `count`; the last may be shorter."""
    return (items[at : at + count] for at in range(0, len(items), count))


def per_clip(seen: Sequence[Seen], values: np.ndarray) -> list[np.ndarray]:
    """Give each clip the values of its frames, which stand one after another."""
    ends = np.cumsum([len(one.frames) for one in seen])
    return np.split(values, ends[:-1])


def pictures(seen: Sequence[Seen]) -> list[UInt8[np.ndarray, "H W 3"]]:
    """Return the frames of all clips, one after another."""
    return [frame for one in seen for frame in one.frames]


def bring(source: str | Path, what: str) -> Path:
    """Bring a folder in the layout of `transformers` onto this machine, but weights that safetensors hold already.

    Args:
        source: a folder, or ``hub:OWNER/NAME``; see `core.folders`.
        what: it is, for the error.

    Raises:
        WeightsError: there is no such folder, or no model in it.
        MissingExtra: it is on the hub, and huggingface_hub is not installed.
    """
    folder, file = folders.find(source)
    names = [name for name in folder.names() if "/" not in name]
    if file is not None or "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
        raise WeightsError(
            f"there is no {what} at {source}: a folder with config.json and safetensors is needed. Give its path, or "
            "hub:OWNER/NAME to download it."
        )
    wanted = [name for name in names if name.endswith((".json", ".safetensors", ".txt", ".model"))]
    return {name: folder.fetch(name) for name in wanted}["config.json"].parent


def bring_file(source: str | Path, endings: Sequence[str], what: str) -> Path:
    """Bring one file onto this machine.

    Args:
        source: its path, or ``hub:OWNER/NAME/FILE``.
        endings: one of which its name must have.
        what: it is, for the error.

    Raises:
        WeightsError: there is no such file.
        MissingExtra: it is on the hub, and huggingface_hub is not installed.
    """
    if not str(source).endswith(tuple(endings)):
        raise WeightsError(f"{source} is no {what}, whose name ends in {' or '.join(endings)}. Name such a file.")
    folder, file = folders.find(source)
    if file is None:
        raise WeightsError(f"{source} is a folder; the file of the {what} is needed. Name it.")
    return folder.fetch(file)


def json_of(path: Path) -> dict[str, Any]:
    """Read a file of JSON beside weights.

    Raises:
        WeightsError: it is not there, or holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read as JSON. Download the folder again.") from error
    if not isinstance(found, dict):
        raise WeightsError(f"{path} holds no settings. Download the folder again.")
    return found
