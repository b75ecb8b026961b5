"""Files of `torch.save`: mapped into memory, not copied, and nothing in them is run.

A file holds tensors by name, or a training's state with such a set in one of its entries, at any depth. Of several
sets the one that comes first in `ENTRIES` is taken, unless an entry is named; the state of optimizers is none.
"""

import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from mutoscope.core.errors import WeightsError
from mutoscope.core.folders import refuse_stand_in

ENTRIES = (  # where a file may hold its tensors, in this order
    "module",
    "ema",
    "ema_state_dict",
    "params_ema",
    "state_dict",
    "model_state_dict",
    "model",
    "params",
)
DEPTH = 3  # entries within entries that are looked into
REMAPPED_AFTER = 512 * 2**20  # bytes read of a mapped file
OPTIMIZER = re.compile(r"optim|scheduler|scaler", re.IGNORECASE)


class TorchFile:
    """A state dict in a file of `torch.save`. Pages that were read are let go of by mapping the file anew.

    Args:
        path: the file.
        entry: the set of weights to take, such as "ema"; entries within entries are joined by dots.

    Raises:
        WeightsError: it is damaged, holds more than tensors, or it is not clear which of its tensors are meant.
    """

    def __init__(self, path: Path, entry: str | None) -> None:
        self.path, self.entry, self.seen_bytes = path, entry, 0
        self.took_entry = False  # else it may be what the names begin with
        self.tensors = self._map()

    def read(self, name: str) -> Tensor:
        """Return a tensor, which may be a view of the file."""
        if self.seen_bytes > REMAPPED_AFTER and zipfile.is_zipfile(self.path):
            self.tensors, self.seen_bytes = self._map(), 0
        self.seen_bytes += self.tensors[name].nbytes
        return self.tensors[name]

    def _map(self) -> dict[str, Tensor]:
        sets = dict(_sets(load_torch(self.path), ""))
        self.took_entry = self.entry in sets
        if self.entry is not None and self.took_entry:
            return sets[self.entry]
        if "" in sets:
            return sets[""]
        if self.entry is not None:
            raise WeightsError(f"{self.path} has no entry {self.entry!r}. It has: {', '.join(sets) or 'none'}.")
        if len(sets) == 1:
            return next(iter(sets.values()))
        for entry in ENTRIES:
            for name in sets:
                if name.split(".")[0] == entry:
                    return sets[name]
        if not sets:
            raise WeightsError(f"{self.path} is no state dict: it holds no tensors by name. Name another file.")
        raise WeightsError(
            f"{self.path} holds {len(sets)} sets of tensors: {', '.join(sets)}. Name one of them (--entry)."
        )


def load_torch(path: Path) -> Mapping[Any, Any]:
    """Read a file of `torch.save` that holds a mapping.

    Raises:
        WeightsError: it is damaged, or holds something else.
    """
    refuse_stand_in(path)
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


def _sets(state: Mapping[Any, Any], path: str, depth: int = DEPTH) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield all sets of tensors in a state, by entry. Beside tensors there may be plain values, such as a step."""
    nested = [
        found
        for name, value in state.items()
        if isinstance(value, Mapping) and isinstance(name, str) and depth and not OPTIMIZER.search(name)
        for found in _sets(value, f"{path}.{name}".lstrip("."), depth - 1)
    ]
    if nested:
        yield from nested
        return
    tensors = {name: value for name, value in state.items() if isinstance(name, str) and isinstance(value, Tensor)}
    plain = (str, bytes, int, float, bool, Mapping)
    if tensors and all(value is None or isinstance(value, (Tensor, *plain)) for value in state.values()):
        yield path, tensors
