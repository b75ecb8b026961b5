"""Tensors on disk: what is known of them before they are read, and how one is read.

Checkpoint.headers    names -> shape and type, from the heads of files alone
Checkpoint.read(name) -> one tensor, on the CPU, in the type that its header names
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

TYPES: Mapping[str, torch.dtype] = MappingProxyType(  # as safetensors files spell them
    {
        "F64": torch.float64,
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "F8_E4M3": torch.float8_e4m3fn,
        "F8_E5M2": torch.float8_e5m2,
        "I64": torch.int64,
        "I32": torch.int32,
        "I16": torch.int16,
        "I8": torch.int8,
        "U8": torch.uint8,
        "BOOL": torch.bool,
    }
)
WIDE = torch.bfloat16  # the working type, as which numbers of fewer bits are read


class Header(NamedTuple):
    """What is known of a tensor before it is read."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def size_bytes(self) -> int:
        """Memory of the tensor."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


@dataclass(frozen=True)
class Checkpoint:
    """Tensors on disk.

    Args:
        source: what the user called them, for messages.
        headers: shape and type of each, by name.
        read: reads one.
        metadata: text that came with them.
        config: the config.json beside them, if there is one.
        flattens: axes may have been joined, so that only the number of elements counts: GGUF files know four axes.
    """

    source: str
    headers: Mapping[str, Header]
    read: Callable[[str], Tensor]
    metadata: Mapping[str, str]
    config: Mapping[str, Any] | None = None
    flattens: bool = False

    def renamed(self, names: Mapping[str, str]) -> "Checkpoint":
        """Return some of the tensors under other names.

        Args:
            names: new name -> name here.
        """
        headers = {new: self.headers[old] for new, old in names.items()}
        return replace(self, headers=headers, read=lambda name: self.read(names[name]))

    def under(self, prefix: str) -> "Checkpoint":
        """Return the tensors whose names begin with a prefix, named without it."""
        return self.renamed({name.removeprefix(prefix): name for name in self.headers if name.startswith(prefix)})

    def shaped(self, shapes: Mapping[str, tuple[int, ...]]) -> "Checkpoint":
        """Return the same tensors, some in other shapes of as many elements."""
        headers = {name: Header(shapes.get(name, old.shape), old.dtype) for name, old in self.headers.items()}
        return replace(self, headers=headers, read=lambda name: self.read(name).reshape(headers[name].shape))


def as_bytes(tensor: Tensor) -> memoryview:
    """Return the memory of a contiguous tensor on the CPU, of any type and shape, without a copy."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data
