"""Run a golden case: the published code's weights and inputs through ours, against the published code's outputs.

    case folder: case.json, weights.safetensors, io.safetensors  --component.run-->  our `out.*`  --compare-->  Verdict

A component is a function in one of the modules beside this one, listed in its ``COMPONENTS`` under the system and the
component that a case names. It builds our network from the published class's own arguments, so it serves any size.
"""

import importlib
import json
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

import tests.parity


@dataclass(frozen=True)
class Case:
    """One golden case on disk."""

    folder: Path

    @cached_property
    def facts(self) -> dict[str, Any]:
        return json.loads((self.folder / "case.json").read_text(encoding="utf-8"))

    @property
    def config(self) -> dict[str, Any]:
        return self.facts["config"]

    @property
    def call(self) -> dict[str, Any]:
        return self.facts["call"]

    @cached_property
    def io(self) -> dict[str, Tensor]:
        return load_file(self.folder / "io.safetensors")

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """The weights under their official names; none where the case has no network."""
        path = self.folder / "weights.safetensors"
        return load_file(path) if path.exists() else {}

    @property
    def diffusers_weights(self) -> dict[str, Tensor] | None:
        path = self.folder / "weights_diffusers.safetensors"
        return load_file(path) if path.exists() else None

    def input(self, name: str) -> Tensor:
        return self.io[f"in.{name}"]

    def weights_of(self, prefix: str) -> dict[str, Tensor]:
        """Return the weights whose names begin with a prefix, without it."""
        return {name.removeprefix(prefix): value for name, value in self.weights.items() if name.startswith(prefix)}


Run = Callable[[Case], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Verdict:
    """How far one output is from the published one."""

    name: str
    error: float
    """Largest absolute difference."""
    allowed: float
    """Of the place where the difference uses up most of its tolerance."""
    is_within: bool


def components() -> dict[tuple[str, str], Run]:
    """Return every component, by the system and component names of the cases it serves."""
    found: dict[tuple[str, str], Run] = {}
    for module in pkgutil.iter_modules(tests.parity.__path__):
        found |= getattr(importlib.import_module(f"{tests.parity.__name__}.{module.name}"), "COMPONENTS", {})
    return found


def judge(case: Case, run: Run) -> list[Verdict]:
    """Run a case and compare every output for which it states a tolerance."""
    with torch.no_grad():
        ours = run(case)
    verdicts = []
    for name, tolerance in case.facts["tolerance"]["per_output"].items():
        wanted = case.io[name]
        if name not in ours or ours[name].shape != wanted.shape:
            verdicts.append(Verdict(name, float("inf"), 0.0, is_within=False))
            continue
        error = (ours[name].double() - wanted.double()).abs()
        allowed = tolerance.get("atol", 0.0) + tolerance.get("rtol", 0.0) * wanted.double().abs()  # none: exact
        if not wanted.numel():
            verdicts.append(Verdict(name, 0.0, 0.0, is_within=True))
            continue
        worst = int((error / allowed.clamp(min=1e-30)).nan_to_num(nan=float("inf")).argmax())
        is_within = bool((error <= allowed).all()) and float(error.square().mean().sqrt()) <= tolerance.get("rms", 1e30)
        verdicts.append(Verdict(name, float(error.max()), float(allowed.flatten()[worst]), is_within))
    return verdicts
