"""A recipe: the phases of a run, one after another, as frozen dataclasses.

    Recipe
      phases: Precompute    render or read clips and keep their latents, once
              Phase         train one objective for so many steps
              Phase         ... another, perhaps from the averaged weights of the one before

A recipe file (``recipes/<family>/<what>.py``) has one function, ``recipe()``, that returns one.
"""

import re
from dataclasses import dataclass
from typing import Literal

from mutoscope.core.errors import RecipeError
from mutoscope.train.autoencoder import AutoencoderObjective
from mutoscope.train.diffusion import CuratedClips, DiffusionObjective
from mutoscope.train.optim import Adafactor, AdamW, Muon, Schedule
from mutoscope.train.precompute import Precompute
from mutoscope.train.words import WordsObjective

PREVIOUS = "previous"


@dataclass(frozen=True)
class Phase:
    """So many steps of one objective.

    Args:
        name: of the folder that it writes, inside that of the run.
        objective: what is trained, on what.
        steps: optimizer steps.
        batch_size: samples of a step; None with `CuratedClips`, whose `BatchSettings.tokens` says how many.
        micro_batches: parts into which a batch is cut to save memory; the step stays the same. 1 with `CuratedClips`,
            of which `BatchSettings.ranks` batches make a step.
        optimizer: AdamW, Adafactor or Muon.
        lr: learning rate when warm.
        warmup_steps: steps over which the learning rate rises from 0.
        schedule: ``constant``, or ``cosine`` down to 0.
        clip: greatest norm of the gradient; 0 for none.
        ema_decay: decay of the running average of the weights, in [0, 1).
        precision: ``fp32``, or ``bf16`` for matrix products in bfloat16.
        compile: compile the module first, which needs a C++ compiler and a minute or more; then its steps are shorter
            (on a CPU by a third). Not with `CuratedClips`, of which each size would be compiled anew.
        start_from: None (fresh weights), ``previous`` (the averaged weights of the phase before) or a weights file.
        save_every: steps between checkpoints.
        log_every: steps whose mean makes a line of the log.
        sample_every: steps between samples on fixed inputs; 0 for none.
    """

    name: str
    objective: DiffusionObjective | AutoencoderObjective | WordsObjective
    steps: int
    batch_size: int | None = None
    micro_batches: int = 1
    optimizer: AdamW | Adafactor | Muon = AdamW()
    lr: float = 2e-4
    warmup_steps: int = 1000
    schedule: Schedule = "constant"
    clip: float = 1.0
    ema_decay: float = 0.9999
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    start_from: str | None = None
    save_every: int = 500
    log_every: int = 20
    sample_every: int = 0

    def __post_init__(self) -> None:
        _check_name(self.name)
        for field in ("steps", "micro_batches", "save_every", "log_every"):
            if getattr(self, field) < 1:
                raise RecipeError(f"Phase {self.name}: {field}={getattr(self, field)}. It must be at least 1.")
        if isinstance(self.objective, DiffusionObjective) and isinstance(self.objective.data, CuratedClips):
            if self.batch_size is not None or self.micro_batches > 1:
                raise RecipeError(
                    f"Phase {self.name}: batch_size={self.batch_size} and micro_batches={self.micro_batches}, but "
                    "CuratedClips come in batches by tokens. Leave both out; BatchSettings has tokens and ranks."
                )
            if self.compile:  # a graph for each size, of which torch by default makes eight at most
                raise RecipeError(
                    f"Phase {self.name}: compile is for latents, which have one size. Set compile to False, or train "
                    "on latents."
                )
        elif self.batch_size is None or self.batch_size < 1:
            raise RecipeError(f"Phase {self.name}: batch_size={self.batch_size}. It must be at least 1.")
        elif self.batch_size % self.micro_batches:
            raise RecipeError(
                f"Phase {self.name}: batch_size={self.batch_size} cannot be cut into {self.micro_batches} equal "
                "micro_batches. Use a divisor."
            )
        if not 0 <= self.ema_decay < 1:
            raise RecipeError(f"Phase {self.name}: ema_decay={self.ema_decay}. It must be in [0, 1).")
        if not (self.lr > 0 and self.clip >= 0 and self.warmup_steps >= 0 and self.sample_every >= 0):
            raise RecipeError(f"Phase {self.name}: lr must be positive; clip, warmup_steps and sample_every 0 or more.")


@dataclass(frozen=True)
class Recipe:
    """A whole run.

    Args:
        name: what the run makes.
        phases: in order.
        seed: of everything random in it.
    """

    name: str
    phases: tuple[Phase | Precompute, ...]
    seed: int = 0

    def __post_init__(self) -> None:
        names = [phase.name for phase in self.phases]
        if not names or len(set(names)) < len(names):
            raise RecipeError(f"Recipe {self.name} has phases named {names}. Give at least one, each its own name.")
        training = [phase for phase in self.phases if isinstance(phase, Phase)]
        if training and training[0].start_from == PREVIOUS:
            raise RecipeError(
                f"Phase {training[0].name} starts from the phase before, but it is the first that trains. "
                "Set start_from to None or to a weights file."
            )


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", name):
        raise RecipeError(
            f"Phase name {name!r} must be lower-case letters, digits, '-', '_' and '.', for it names a folder."
        )
