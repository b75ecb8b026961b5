"""Weights as others publish them: opened at once, read a tensor at a time.

    source --open_checkpoint--> Checkpoint: names, shapes and types, from the heads of files alone
                                Checkpoint.read(name) -> one tensor, on the CPU, in the type it was stored in

A source is a safetensors file, a folder of them with or without an index, or a file that `torch.save` wrote, on this
machine or on the hub (`core.folders`). Files of `torch.save` are mapped into memory, not copied, and nothing in them
is run. What stands as float8 beside a file of scales is read as bfloat16.
"""

import json
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from pickle import UnpicklingError
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mutoscope.core import folders
from mutoscope.core.errors import WeightsError
from mutoscope.core.folders import ENDINGS, Folder, Head
from mutoscope.core.weights import few

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
FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
WIDE = torch.bfloat16  # what float8 with scales is read as
ENTRIES = ("module", "ema", "state_dict", "model")  # where a file of torch.save may hold its tensors, in this order
REMAPPED_AFTER = 512 * 2**20  # bytes read of a mapped file
SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)(\.\w+)")


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
    """

    source: str
    headers: Mapping[str, Header]
    read: Callable[[str], Tensor]
    metadata: Mapping[str, str]
    config: Mapping[str, Any] | None = None

    def under(self, prefix: str) -> "Checkpoint":
        """Return the tensors whose names begin with a prefix, named without it."""
        headers = {
            name.removeprefix(prefix): header for name, header in self.headers.items() if name.startswith(prefix)
        }
        return replace(self, headers=headers, read=lambda name: self.read(prefix + name))


def open_checkpoint(source: str | Path, *, within: Sequence[str] = (), entry: str | None = None) -> Checkpoint:
    """Open weights and read their names, shapes and types; the tensors stay where they are.

    Args:
        source: a file or folder, here or on the hub; see `core.folders`.
        within: folders to look into where `source` is one and holds no weights itself, such as "vae".
        entry: for files of `torch.save` with several sets of weights, the one to take, such as "ema".

    Raises:
        WeightsError: there are no weights, they are damaged, a part is missing, or it is not clear which are meant.
        MissingExtra: they are on the hub, and huggingface_hub is not installed.
    """
    folder, file = folders.find(source)
    names = [file] if file else _choose(folder, within)
    parts = []
    for name in names:
        if name.endswith(".safetensors"):
            parts.append(_open_safetensors(folder, name))
        elif name.endswith(ENDINGS):
            parts.append(_open_torch(folder, name, entry))
        else:
            raise WeightsError(f"{source} is no file of weights, which end in {', '.join(ENDINGS)}. Name one.")
    if entry is not None and names[0].endswith(".safetensors"):
        raise WeightsError(f"{source} has no entry {entry!r}: safetensors files hold one set of weights. Leave it out.")
    headers: dict[str, Header] = {}
    readers: dict[str, Callable[[str], Tensor]] = {}
    for name, part in zip(names, parts, strict=True):
        if again := [tensor for tensor in part.headers if tensor in headers]:
            raise WeightsError(
                f"{source}: {name} repeats {again[0]} of another file. Remove the file that is too many."
            )
        headers |= part.headers
        readers |= dict.fromkeys(part.headers, part.read)
    return Checkpoint(
        str(source), headers, lambda name: readers[name](name), parts[0].metadata, _config(folder, names[0])
    )


def as_bytes(tensor: Tensor) -> memoryview:
    """Return the memory of a contiguous tensor on the CPU, of any type and shape, without a copy."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _open_safetensors(folder: Folder, name: str) -> Checkpoint:
    """Open one file. It is read by plain reads, so that no more memory is touched than a tensor itself has."""
    head = folder.head(name)
    known = [tensor for tensor, entry in head.tensors.items() if entry["dtype"] in TYPES]
    if strange := sorted(head.tensors.keys() - set(known)):
        kind = head.tensors[strange[0]]["dtype"]
        raise WeightsError(
            f"{folder.source}: {name} holds {strange[0]} as {kind}, which cannot be read. Use bf16 weights."
        )
    headers = {
        tensor: Header(tuple(head.tensors[tensor]["shape"]), TYPES[head.tensors[tensor]["dtype"]]) for tensor in known
    }
    _refuse_float8(f"{folder.source}: {name}", headers)

    @cache
    def fetched() -> tuple[Path, Head]:
        path = folder.fetch(name)
        return path, folders.read_head(path)

    def read(tensor: str) -> Tensor:
        path, head = fetched()
        result = torch.empty(headers[tensor].shape, dtype=headers[tensor].dtype)
        with path.open("rb") as file:
            file.seek(head.begin + head.tensors[tensor]["data_offsets"][0])
            wanted = as_bytes(result)
            if file.readinto(wanted) != len(wanted):
                raise WeightsError(f"{path} became shorter while it was read. Download or make it again.")
        return result

    return Checkpoint(name, headers, read, head.metadata)


def _open_torch(folder: Folder, name: str, entry: str | None) -> Checkpoint:
    """Open one file of `torch.save`, its tensors mapped into memory where the file allows that."""
    path = folder.fetch(name)
    file = _TorchFile(path, entry)
    headers = {name: Header(tuple(tensor.shape), tensor.dtype) for name, tensor in file.tensors.items()}
    small = [name for name, header in headers.items() if header.dtype in FLOAT8]
    beside = f"_map{path.suffix}".join(name.rsplit(path.suffix, 1))
    if not small or beside not in folder.names():
        _refuse_float8(str(path), headers, f"Put {beside} beside it, or use bf16 weights.")
        return Checkpoint(str(path), headers, file.read, {})
    scales = _load_torch(folder.fetch(beside))
    scales = {f"{name}.weight": torch.as_tensor(scale) for name, scale in scales.get("module", scales).items()}
    if lost := [name for name in small if name not in scales]:
        raise WeightsError(f"{folder.source}: {beside} has no scale for {lost[0]}. Download both files again.")

    def read(name: str) -> Tensor:
        return dequantise(file.read(name), scales[name]) if name in small else file.read(name)

    return Checkpoint(str(path), headers | {name: Header(headers[name].shape, WIDE) for name in small}, read, {})


class _TorchFile:
    """A state dict in a file of `torch.save`. Pages that were read are let go of by mapping the file anew."""

    def __init__(self, path: Path, entry: str | None) -> None:
        self.path, self.entry, self.seen_bytes = path, entry, 0
        self.tensors = self._map()

    def read(self, name: str) -> Tensor:
        """Return a tensor, which may be a view of the file."""
        if self.seen_bytes > REMAPPED_AFTER and zipfile.is_zipfile(self.path):
            self.tensors, self.seen_bytes = self._map(), 0
        self.seen_bytes += self.tensors[name].nbytes
        return self.tensors[name]

    def _map(self) -> dict[str, Tensor]:
        state = _load_torch(self.path)
        found = [name for name in ENTRIES if isinstance(state.get(name), Mapping)]
        if self.entry is not None and self.entry not in found:
            raise WeightsError(
                f"{self.path} has no entry {self.entry!r}. It has: {', '.join(found) or 'tensors alone'}."
            )
        if found:
            state = state[self.entry or found[0]]
        others = [str(name) for name, value in state.items() if not isinstance(value, Tensor)]
        if others or not state:
            raise WeightsError(f"{self.path} is no state dict: it holds {few(others) or 'nothing'}. Name another file.")
        return {str(name): tensor for name, tensor in state.items()}


def dequantise(weight: Tensor, scale: Tensor, dtype: torch.dtype = WIDE) -> Tensor:
    """Return what float8 numbers stand for; both factors are rounded to `dtype` first, as published."""
    return weight.to(dtype) * scale.to(dtype)


def _load_torch(path: Path) -> Mapping[Any, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except UnpicklingError as error:
        strange = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise WeightsError(
            f"{path} holds more than tensors ({strange[1] if strange else 'Python objects'}), and reading that could "
            "run code. Use a file of tensors alone: safetensors, or the diffusers layout."
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        raise WeightsError(f"{path} is not a whole file of torch.save. Download or make it again.") from error
    if not isinstance(state, Mapping):
        raise WeightsError(f"{path} holds a {type(state).__name__}, not tensors by name. Name another file.")
    return state


def _refuse_float8(source: str, headers: Mapping[str, Header], remedy: str = "Use bf16 weights.") -> None:
    small = [name for name, header in headers.items() if header.dtype in FLOAT8]
    if small:
        raise WeightsError(
            f"{source} stores {len(small)} tensors as float8, {small[0]} first, without scales. {remedy}"
        )


def _choose(folder: Folder, within: Sequence[str]) -> list[str]:
    """Return the files that hold a folder's weights."""
    names = folder.names()
    for place in ("", *(f"{name}/" for name in within)):
        here = [name for name in names if name.startswith(place) and "/" not in name.removeprefix(place)]
        indexes = [name for name in here if name.endswith(".index.json")]
        if len(indexes) == 1:
            return _shards_of_index(folder, indexes[0], names)
        for endings in ((".safetensors",), ENDINGS[1:]):
            files = [name for name in here if name.endswith(endings) and not name.endswith("_map.pt")]
            shards = [SHARD.fullmatch(name) for name in files]
            if len(files) == 1 and not any(shards):
                return files
            if files and all(shards) and len({(shard[1], shard[3]) for shard in shards if shard}) == 1:
                return _all_shards(folder, files)
            if files:
                raise WeightsError(
                    f"{folder.source} holds several sets of weights: {', '.join(files)}. Name one of them."
                )
    folders_here = sorted({name.split("/")[0] for name in names if name.endswith(ENDINGS) and "/" in name})
    hint = f"There are some in {', '.join(folders_here)}: name one of them." if folders_here else "Name another folder."
    raise WeightsError(f"there are no weights in {folder.source}. {hint}")


def _shards_of_index(folder: Folder, index: str, names: Sequence[str]) -> list[str]:
    try:
        weight_map = json.loads(folder.fetch(index).read_text(encoding="utf-8"))["weight_map"]
        place = index[: index.rfind("/") + 1]
        shards = sorted({place + shard for shard in weight_map.values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{folder.source}: {index} is no index of weights. Download it again.") from error
    _refuse_missing(folder, [shard for shard in shards if shard not in names], len(shards))
    return shards


def _all_shards(folder: Folder, files: Sequence[str]) -> list[str]:
    """Return the shards of a series without an index, which says in their names how many there are."""
    match = SHARD.fullmatch(files[0])
    assert match is not None
    stem, digits, count, ending = match[1], len(match[2]), int(match[3]), match[4]
    wanted = [f"{stem}-{number:0{digits}}-of-{match[3]}{ending}" for number in range(1, count + 1)]
    _refuse_missing(folder, [name for name in wanted if name not in files], count)
    return wanted


def _refuse_missing(folder: Folder, missing: Sequence[str], count: int) -> None:
    if missing:
        raise WeightsError(
            f"{folder.source} lacks {len(missing)} of {count} shards, {missing[0]} first. Download them again."
        )


def _config(folder: Folder, name: str) -> Mapping[str, Any] | None:
    """Read the config.json beside a file, if there is one."""
    config = name[: name.rfind("/") + 1] + "config.json"
    if config not in folder.names():
        return None
    try:
        found = json.loads(folder.fetch(config).read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(f"{folder.source}: {config} is not JSON ({error}). Download it again.") from error
    return found if isinstance(found, dict) else None
