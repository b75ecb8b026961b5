"""What a phase must remember between steps, and how it is kept on disk so that a stop at any moment loses nothing.

A checkpoint is one safetensors file: the module, its running average, the optimizer and the step. No random state, for
all randomness comes from (seed, sample id, step). It is written under another name and then renamed, so a file that
carries a checkpoint's name is whole; the last two are kept.
"""

import copy
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from mutoscope.core import weights
from mutoscope.core.errors import WeightsError

KEPT = 2
NAME = re.compile(r"step-(\d{8})\.safetensors")


@dataclass
class TrainState:
    """The module, its average, the optimizer, the steps taken, and the sums of the log line under way."""

    module: nn.Module
    ema: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    pending: dict[str, float] = field(default_factory=dict)

    @classmethod
    def begin(cls, module: nn.Module, optimizer: torch.optim.Optimizer) -> "TrainState":
        """Return the state at step 0; the average begins at the module's own weights."""
        return cls(module, copy.deepcopy(module).eval().requires_grad_(False), optimizer)

    @torch.no_grad()
    def average(self, decay: float) -> None:
        """Move the average towards the module: ema = d ema + (1 - d) weights, d = min(decay, (1 + step) / (10 + step)).

        The ramp keeps the start of a run out of the average (Our reading: STIV states 0.9999 and no ramp). Buffers are
        copied.
        """
        decay = min(decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.module.parameters()), 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        for ours, theirs in zip(self.ema.buffers(), self.module.buffers(), strict=True):
            ours.copy_(theirs)

    def save(self, folder: Path, metadata: Mapping[str, str]) -> Path:
        """Write a checkpoint into the folder and drop all but the last two."""
        tensors = {f"module.{name}": value for name, value in self.module.state_dict().items()}
        tensors |= {f"ema.{name}": value for name, value in self.ema.state_dict().items()}
        for index, entry in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in entry.items()}
        path = folder / f"step-{self.step:08d}.safetensors"
        weights.save(path, tensors, {**metadata, "step": str(self.step), "pending": json.dumps(self.pending)})
        for old in checkpoints(folder)[:-KEPT]:
            old.unlink()
        return path

    def restore(self, path: Path) -> dict[str, str]:
        """Take up the state of a checkpoint, to the last bit, and return its metadata.

        Raises:
            WeightsError: if the file is damaged or of another network.
        """
        tensors, metadata = weights.read(path)
        weights.load_into(self.module, _under(tensors, "module."), source=str(path))
        weights.load_into(self.ema, _under(tensors, "ema."), source=str(path))
        current = self.optimizer.state_dict()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        entries: dict[int, dict[str, Tensor]] = {}
        for key, value in _under(tensors, "optimizer.").items():
            index, name = key.split(".", 1)
            like = parameters[int(index)]
            # An optimizer may walk a parameter and its state side by side in memory, so their layouts must agree.
            entry = torch.empty_like(like, dtype=value.dtype) if value.shape == like.shape else torch.empty_like(value)
            entries.setdefault(int(index), {})[name] = entry.copy_(value)
        self.optimizer.load_state_dict({"state": entries, "param_groups": current["param_groups"]})
        self.step = int(metadata["step"])
        self.pending = json.loads(metadata["pending"])
        return metadata


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, oldest first."""
    return sorted(path for path in folder.glob("step-*.safetensors") if NAME.fullmatch(path.name))


def averaged_weights(path: Path) -> dict[str, Tensor]:
    """Return the running average of the weights that a checkpoint holds."""
    tensors, _ = weights.read(path)
    average = _under(tensors, "ema.")
    if not average:
        raise WeightsError(f"{path} holds no averaged weights. Give a checkpoint that `mutoscope train` wrote.")
    return average


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
