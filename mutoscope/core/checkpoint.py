"""Weights as others publish them: opened at once, read a tensor at a time.

    source --open_checkpoint--> Checkpoint: names, shapes and types, from the heads of files alone
                                Checkpoint.read(name) -> one tensor, on the CPU, in the type that its header names

A source is a safetensors file, a GGUF file, a file that `torch.save` wrote, or a folder with one or with shards, on
this machine or on the hub (`core.folders`, `core.shards`). Nothing in a file is run. What stands in eight bits or fewer
is read as bfloat16 (`core.float8`, `core.gguf_file`).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mutoscope.core import folders, shards
from mutoscope.core.errors import WeightsError
from mutoscope.core.float8 import FLOAT8, dequantise, widened
from mutoscope.core.folders import ENDINGS, Folder, Head
from mutoscope.core.gguf_file import ENDING as GGUF
from mutoscope.core.gguf_file import open_gguf
from mutoscope.core.shards import INDEX
from mutoscope.core.tensors import TYPES, WIDE, Checkpoint, Header, as_bytes
from mutoscope.core.torch_file import TorchFile, load_torch


def open_checkpoint(source: str | Path, *, within: Sequence[str] = (), entry: str | None = None) -> Checkpoint:
    """Open weights and read their names, shapes and types; the tensors stay where they are.

    Args:
        source: a file or folder, here or on the hub; see `core.folders`. The index of shards stands for all of them.
        within: folders to look into where `source` is one and holds no weights itself, such as "vae".
        entry: of several sets of weights in a file, the one to take: an entry of a file of `torch.save`, such as "ema",
            or what the names of the set begin with.

    Raises:
        WeightsError: there are no weights, they are damaged, a part is missing, or it is not clear which are meant.
        MissingExtra: they are on the hub or in a GGUF file, and the package that reads those is not installed.
    """
    folder, files = _find(source, within)
    parts, took_entry = zip(*(_open(folder, name, entry, source) for name in files.names), strict=True)
    checkpoint = _joined(str(source), files, parts)
    if entry is not None and not all(took_entry):
        checkpoint = checkpoint.under(f"{entry}.")
        if not checkpoint.headers:
            raise WeightsError(f"{source} has no entry {entry!r}, and no tensor's name begins with it. Leave it out.")
    return widened(replace(checkpoint, config=_config(folder, files.names[0])))


def files_of(source: str | Path, within: Sequence[str] = ()) -> list[Path]:
    """Return the files of weights, on this machine; arguments and errors as for `open_checkpoint`."""
    folder, files = _find(source, within)
    names = folder.names()
    scales = [beside for name in files.names if (beside := _scales_beside(name)) in names and beside != name]
    return [folder.fetch(name) for name in (*files.names, *scales)]


def _find(source: str | Path, within: Sequence[str]) -> tuple[Folder, shards.Files]:
    folder, file = folders.find(source)
    if file is None:
        return folder, shards.choose(folder, within)
    if INDEX.fullmatch(file):
        return folder, shards.of_index(folder, file, folder.names())
    return folder, shards.Files([file], {})


def _scales_beside(name: str) -> str:
    """Return what HunyuanVideo calls the file of scales that belongs to another."""
    return shards.SCALES.join(name.rsplit(".pt", 1))


def _open(folder: Folder, name: str, entry: str | None, source: str | Path) -> tuple[Checkpoint, bool]:
    """Open one file; say whether it has entries, of which the one that was named was taken."""
    if name.endswith(".safetensors"):
        return _open_safetensors(folder, name), False
    if name.endswith(GGUF):
        path = folder.fetch(name)
        folders.refuse_stand_in(path)
        return open_gguf(path), False
    if name.endswith(ENDINGS):
        return _open_torch(folder, name, entry)
    raise WeightsError(f"{source} is no file of weights, which end in {', '.join(ENDINGS)}. Name one.")


def _joined(source: str, files: shards.Files, parts: Sequence[Checkpoint]) -> Checkpoint:
    """Join the files of one set of weights."""
    if len(parts) == 1:
        return replace(parts[0], source=source)
    headers: dict[str, Header] = {}
    readers: dict[str, Callable[[str], Tensor]] = {}
    for name, part in zip(files.names, parts, strict=True):
        for tensor, header in part.headers.items():
            if tensor in headers and tensor not in files.places:
                raise WeightsError(f"{source}: {name} repeats {tensor} of another file. Remove one of them.")
            if tensor not in headers or files.places[tensor] == name:
                headers[tensor], readers[tensor] = header, part.read
    flattens = any(part.flattens for part in parts)
    return Checkpoint(source, headers, lambda name: readers[name](name), parts[0].metadata, flattens=flattens)


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


def _open_torch(folder: Folder, name: str, entry: str | None) -> tuple[Checkpoint, bool]:
    """Open one file of `torch.save`; of HunyuanVideo's in eight bits, with the file of scales beside it."""
    path = folder.fetch(name)
    file = TorchFile(path, entry)
    headers = {name: Header(tuple(tensor.shape), tensor.dtype) for name, tensor in file.tensors.items()}
    small = [name for name, header in headers.items() if header.dtype in FLOAT8]
    beside = _scales_beside(name)
    if not small or beside == name:
        return Checkpoint(str(path), headers, file.read, {}), file.took_entry
    if beside not in folder.names():
        if path.stem.endswith("_fp8"):
            raise WeightsError(
                f"{path} stores {len(small)} tensors as float8, {small[0]} first, without scales. Put "
                f"{beside.rpartition('/')[2]} beside it, or use bf16 weights."
            )
        return Checkpoint(str(path), headers, file.read, {}), file.took_entry
    scales = load_torch(folder.fetch(beside))
    scales = {f"{name}.weight": torch.as_tensor(scale) for name, scale in scales.get("module", scales).items()}
    if lost := [name for name in small if name not in scales]:
        raise WeightsError(f"{folder.source}: {beside} has no scale for {lost[0]}. Download both files again.")

    def read(name: str) -> Tensor:
        return dequantise(file.read(name), scales[name]) if name in small else file.read(name)

    headers |= {name: Header(headers[name].shape, WIDE) for name in small}
    return Checkpoint(str(path), headers, read, {}), file.took_entry


def _config(folder: Folder, name: str) -> Mapping[str, Any] | None:
    """Read the config.json beside a file, if there is one."""
    config = name[: name.rfind("/") + 1] + "config.json"
    if config not in folder.names():
        return None
    try:
        found = json.loads(folders.read_text(folder, config))
    except ValueError as error:
        raise WeightsError(f"{folder.source}: {config} is not JSON ({error}). Download it again.") from error
    return found if isinstance(found, dict) else None
