"""A small run for the tests: a network with a convolution, fitted to noise; also started as a program."""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from mutoscope.core import rng, weights
from mutoscope.core.video import Video
from mutoscope.train import loop
from mutoscope.train.optim import Adafactor
from mutoscope.train.recipe import Phase, Recipe
from mutoscope.train.step import Objective


@dataclass(frozen=True)
class FittingObjective:
    """Fit y = mean of x; every number is drawn from (seed, sample id, step)."""

    sample_count: int | None = 10
    poison_step: int = 0

    def build(self, seed: int) -> "Fitting":
        return Fitting(self, seed)


class Fitting(Objective):
    def __init__(self, settings: FittingObjective, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self.sample_count = settings.sample_count
        self.module = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.SiLU(), nn.Linear(12, 1))
        self.module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def batch(self, sample_ids: Sequence[int], step: int) -> tuple[Tensor, Tensor]:
        x = torch.stack([rng.noise((1, 4, 4), self.seed, sample_id, step) for sample_id in sample_ids])
        y = x.mean((1, 2, 3))
        return x, y * float("nan") if step == self.settings.poison_step else y

    def loss(self, module: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Mapping[str, float]]:
        x, y = batch
        error = module(x)[:, 0] - y
        return error.square(), {"bias": float(error.detach().mean())}

    def export(self, ema: nn.Module, path: Path) -> None:
        weights.save(path, ema.state_dict(), {"config": "{}"})

    def preview(self, ema: nn.Module, step: int) -> Video | None:
        return None


@dataclass(frozen=True)
class FittingPhase(Phase):
    objective: FittingObjective  # pyright: ignore[reportIncompatibleVariableOverride]


def phase(name: str = "fit", **changes: object) -> Phase:
    usual = FittingPhase(
        name=name,
        objective=FittingObjective(),
        steps=24,
        batch_size=4,
        lr=1e-2,
        warmup_steps=5,
        schedule="cosine",
        ema_decay=0.9,
        save_every=4,
        log_every=1,
    )
    return replace(usual, **changes)  # pyright: ignore[reportArgumentType]


def recipe(**changes: object) -> Recipe:
    second = phase("second", optimizer=Adafactor(), start_from="previous", log_every=3, micro_batches=2)
    return replace(Recipe("toy", (phase(), second), seed=7), **changes)  # pyright: ignore[reportArgumentType]


if __name__ == "__main__":  # OUT KILLED_PHASE KILLED_STEP: run the recipe, and die there as by kill -9
    out, killed_phase, killed_step = sys.argv[1:]

    def die(name: str, step: int, metrics: Mapping[str, float]) -> None:
        if (name, step) == (killed_phase, int(killed_step)):
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    loop.run(recipe(), Path(out), on_step=die)
