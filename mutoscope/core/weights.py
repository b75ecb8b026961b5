"""Our own weights on disk: safetensors only, written and read whole, loaded strictly; and the names others give them.

Published weights are opened by `core.checkpoint` and loaded or renamed, tensor by tensor, by `core.layouts`.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mutoscope.core.errors import WeightsError
from mutoscope.core.files import replacing

NAMES_SHOWN = 3  # of each kind of mismatch, to keep an error on one line


class Key(NamedTuple):
    """What one tensor of ours is called in a published layout."""

    ours: str
    theirs: tuple[str, ...]
    """The tensors that are joined along the first axis to make ours; mostly one."""
    rows: tuple[int, ...] = ()
    """How many rows each of them has, where there are several."""
    swap: bool = False
    """Whether the two halves of the first axis stand in the other order there."""


def to_ours(tensors: Mapping[str, Tensor], keys: Iterable[Key], *, source: str) -> dict[str, Tensor]:
    """Turn published weights into ours.

    Args:
        tensors: exactly the tensors that `keys` names.
        keys: names of one layout.
        source: where the tensors came from, for the error.

    Raises:
        WeightsError: a name is missing or not known.
    """
    keys = tuple(keys)
    wanted = [name for key in keys for name in key.theirs]
    problems = {
        "missing": [name for name in wanted if name not in tensors],
        "unknown": sorted(tensors.keys() - set(wanted)),
    }
    if any(problems.values()):
        raise WeightsError(
            f"{source} is not of this layout: {summary(problems)}. Choose the model and layout that it was made for."
        )
    return {key.ours: joined([tensors[name] for name in key.theirs], key) for key in keys}


def to_theirs(tensors: Mapping[str, Tensor], keys: Iterable[Key]) -> dict[str, Tensor]:
    """Turn our weights into published ones; the way back of `to_ours`."""
    theirs: dict[str, Tensor] = {}
    for key in keys:
        theirs |= dict(zip(key.theirs, parted(tensors[key.ours], key), strict=True))
    return theirs


def joined(parts: Sequence[Tensor], key: Key) -> Tensor:
    """Make one tensor of ours of the published ones that `key` names."""
    whole = parts[0] if len(parts) == 1 else torch.cat(list(parts))
    return _swap(whole) if key.swap else whole


def parted(tensor: Tensor, key: Key) -> list[Tensor]:
    """Make the published tensors that `key` names of one of ours."""
    whole = _swap(tensor) if key.swap else tensor
    return list(whole.split(key.rows)) if key.rows else [whole]


def save(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write `tensors` to a safetensors file that appears whole or not at all.

    Args:
        path: final name, ending in ``.safetensors``.
        tensors: tensors by name, on any device; tied ones are written once for each name.
        metadata: text by name, such as the JSON of a config under "config".

    Raises:
        MutoscopeError: the file cannot be written.
    """
    with replacing(path) as temporary:
        try:
            save_file(_separate(tensors), temporary, dict(metadata))
        except SafetensorError as error:
            raise WeightsError(
                f"cannot write {path}: {error}. Free some space there, or name another folder."
            ) from error


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file.

    Returns:
        Tensors by name, on the CPU in the type they were stored in, and the metadata.

    Raises:
        WeightsError: there is no such file, or it is not a whole safetensors file.
    """
    if not path.is_file():
        raise WeightsError(f"there are no weights at {path}. Check the name, or make them again.")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"{path} is not a whole safetensors file ({error}). Download it or make it again."
        ) from error


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Fill every parameter and buffer of `module`, in the module's own types and on its own device.

    Args:
        module: network to fill.
        tensors: exactly its state, by name.
        source: where the tensors came from, for the error.

    Raises:
        WeightsError: a name is missing, not known, or has another shape or kind. Nothing is changed then.
    """
    own = module.state_dict()
    shared = [name for name in own if name in tensors]
    problems = {
        "missing": [name for name in own if name not in tensors],
        "unknown": [name for name in tensors if name not in own],
        "of another shape or kind": [
            f"{name} (given {_kind(tensors[name])}, needs {_kind(own[name])})"
            for name in shared
            if _kind(tensors[name]) != _kind(own[name])
        ],
    }
    if any(problems.values()):
        raise WeightsError(
            f"{source} does not fit {type(module).__name__}: {summary(problems)}. Choose the model that they were made "
            "for."
        )
    module.load_state_dict(dict(tensors))


def _swap(tensor: Tensor) -> Tensor:
    return torch.cat(tensor.chunk(2)[::-1])


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give every tensor memory of its own, which safetensors asks for; copy only those that share some."""
    seen: set[int] = set()
    separate = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().to("cpu").contiguous()
        storage = tensor.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != tensor.nbytes:
            tensor = tensor.clone()
        seen.add(storage.data_ptr())
        separate[name] = tensor
    return separate


def _kind(tensor: Tensor) -> str:
    return describe(tensor.shape, tensor.dtype)


def describe(shape: Sequence[int], dtype: torch.dtype) -> str:
    """Say what a tensor must be like to fill another: its shape, and its type unless it is floating."""
    kind = "float" if dtype.is_floating_point else str(dtype).removeprefix("torch.")
    return f"{kind} {'x'.join(map(str, shape)) or 'scalar'}"


def summary(problems: Mapping[str, Sequence[str]]) -> str:
    """Spell out names by what is wrong with them, the first few of each kind, so that an error stays on one line."""
    return "; ".join(f"{len(names)} {problem}: {few(names)}" for problem, names in problems.items() if names)


def few(names: Sequence[str]) -> str:
    """Spell out the first of some names."""
    return ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")
