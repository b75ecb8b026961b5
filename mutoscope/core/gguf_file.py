"""GGUF files, as ComfyUI and diffusers use them: mapped into memory, each tensor dequantised when it is read.

Shapes stand in the file from the last axis to the first. The format knows at most four axes, and its tools fold away
more: some write the true shape under `comfy.gguf.orig_shape.NAME`, others nothing (see `Checkpoint.flattens`).
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mutoscope.core.errors import MissingExtra, WeightsError
from mutoscope.core.tensors import WIDE, Checkpoint, Header

ENDING = ".gguf"
TRUE_SHAPE = "comfy.gguf.orig_shape."
EXACT = {  # types that are read as they are
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
}


def open_gguf(path: Path) -> Checkpoint:
    """Open a GGUF file.

    Args:
        path: the file.

    Raises:
        WeightsError: it is damaged, or quantised in a way that the `gguf` package cannot undo.
        MissingExtra: the `gguf` package is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise MissingExtra("hub", "gguf", f"Reading {path}") from error
    try:
        reader = gguf.GGUFReader(path)
        tensors = {tensor.name: tensor for tensor in reader.tensors}
        headers = {name: _header(reader, tensor) for name, tensor in tensors.items()}
    except (ValueError, KeyError, IndexError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise WeightsError(f"{path} is not a whole GGUF file ({reason}). Download or make it again.") from error
    kinds = {tensor.tensor_type for tensor in tensors.values() if tensor.tensor_type.name not in EXACT}
    if strange := sorted(kind.name for kind in kinds if not _is_known(kind)):
        raise WeightsError(f"{path} is quantised as {strange[0]}, which `gguf` cannot undo. Use Q8_0, for one.")

    def read(name: str) -> Tensor:
        tensor, header = tensors[name], headers[name]
        kind = tensor.tensor_type.name
        if kind in EXACT and kind != "BF16":
            numbers = np.array(tensor.data)  # a copy: the file is mapped, and cannot be written
        else:
            numbers = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        return torch.from_numpy(numbers).reshape(header.shape).to(header.dtype)

    architecture = reader.get_field("general.architecture")
    metadata = {} if architecture is None else {"gguf_architecture": str(architecture.contents())}
    return Checkpoint(str(path), headers, read, metadata, flattens=True)


def _header(reader: Any, tensor: Any) -> Header:
    field = reader.get_field(TRUE_SHAPE + tensor.name)
    shape = tensor.shape.tolist()[::-1] if field is None else field.contents()
    if np.prod(shape, dtype=np.int64) != tensor.n_elements:
        raise ValueError(f"{tensor.name} has {tensor.n_elements} elements, which do not make {shape}")
    return Header(tuple(shape), EXACT.get(tensor.tensor_type.name, WIDE))


def _is_known(kind: Any) -> bool:
    """Say whether the `gguf` package can dequantise a type: tried on one block of zeros."""
    import gguf

    _, size = gguf.GGML_QUANT_SIZES[kind]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zeros may divide by zero
            gguf.quants.dequantize(np.zeros((1, size), np.uint8), kind)
    except NotImplementedError:
        return False
    return True
