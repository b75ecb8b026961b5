"""The door to onnxruntime: models in ONNX files, imported only when one is opened."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mutoscope.core.errors import MissingExtra, RequestError, WeightsError
from mutoscope.scorers.judge import Place

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


@runtime_checkable
class Session(Protocol):
    """What is used of `onnxruntime.InferenceSession`."""

    def get_inputs(self) -> Sequence[Any]:
        """Return what goes in; each has a name, a shape (numbers, or names of what is free) and a type."""
        ...

    def run(self, output_names: Sequence[str] | None, input_feed: Mapping[str, np.ndarray]) -> Sequence[Any]:
        """Return what comes out; None means all of it."""
        ...


def check(what_for: str) -> None:
    """Find out whether onnxruntime is installed.

    Raises:
        MissingExtra: it is not.
    """
    try:
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise MissingExtra("curate-learned", "onnxruntime", what_for) from error


def session(path: Path, place: Place, what_for: str) -> Session:
    """Open a model, for one thread of the processor: there is a process for each core.

    Raises:
        MissingExtra: onnxruntime is not installed.
        RequestError: it has nothing for the device.
        WeightsError: the file is no model.
    """
    check(what_for)
    import onnxruntime

    kind = place.device.partition(":")[0]
    if PROVIDERS.get(kind) not in onnxruntime.get_available_providers():
        raise RequestError(
            f"onnxruntime has nothing for device={place.device!r}. Give device='cpu', or for a GPU of NVIDIA type: "
            "pip install onnxruntime-gpu"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    number = place.device.partition(":")[2] or "0"
    provider = (PROVIDERS[kind], {"device_id": number} if kind == "cuda" else {})
    try:
        return onnxruntime.InferenceSession(path, options, [provider])
    except Exception as error:  # it has a kind of its own for every trouble
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"{path} is no ONNX model that can be run ({reason}). Export or download it again."
        ) from error
