"""Run a recipe: phase after phase, and onward from wherever it was stopped.

    out/recipe.json                    the resolved recipe
    out/<phase>/checkpoints/           the last two; each goes on to the same losses, to the last bit
    out/<phase>/log.jsonl              one line every ``log_every`` steps (and TensorBoard beside it, if installed)
    out/<phase>/samples/step-NNNNNN.gif
    out/<phase>/weights.safetensors    when the phase is done: the averaged weights, as published

The same call resumes. A stop (Ctrl-C) finishes the step and saves; a kill loses the steps since the last checkpoint,
and they are taken again exactly. "Exactly" holds on one kind of machine with the same number of threads.
"""

import json
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from mutoscope.core import config, rng, weights
from mutoscope.core.device import multiplies_bfloat16
from mutoscope.core.dist import print0, world_size
from mutoscope.core.errors import MutoscopeError, RecipeError, WeightsError
from mutoscope.core.log import RunLog, progress
from mutoscope.data import loader
from mutoscope.train import precompute
from mutoscope.train.optim import learning_rate
from mutoscope.train.recipe import PREVIOUS, Phase, Recipe
from mutoscope.train.state import TrainState, averaged_weights, checkpoints
from mutoscope.train.step import Batch, Objective, train_step

RECIPE = "recipe.json"
WEIGHTS = "weights.safetensors"
MAY_GROW = ("steps",)
MAY_CHANGE = ("save_every", "log_every", "sample_every")

OnStep = Callable[[str, int, Mapping[str, float]], None]


class Interrupted(MutoscopeError):
    """The user asked to stop, and everything is saved."""


def run(
    recipe: Recipe,
    out: str | Path,
    *,
    device: str | torch.device = "cpu",
    prefetch: int = 2,
    workers: int = 0,
    on_step: OnStep | None = None,
) -> Path:
    """Run a recipe, or go on with it.

    Args:
        recipe: what to do.
        out: folder of the run; the same folder and recipe go on where it stopped.
        device: where the module is trained.
        prefetch: batches made ahead.
        workers: processes that make them; 0 takes a thread.
        on_step: called after each step with the phase's name, the step and its numbers.

    Returns:
        The published weights of the last phase, or ``out`` when the recipe trains nothing.

    Raises:
        RecipeError: if the folder was begun with another recipe, or this is one of several processes.
        Interrupted: after Ctrl-C, when all is saved.
    """
    if world_size() > 1:
        raise RecipeError(f"Training runs in one process, this is one of {world_size()}. Start it without torchrun.")
    out = Path(out)
    _refuse_another(recipe, out)
    done = out
    before: Path | None = None
    batches = partial(loader.prefetch, ahead=prefetch, workers=workers)
    with _stop_signal() as stop:
        for phase in recipe.phases:
            if isinstance(phase, Phase):
                _train(recipe, phase, out, before, torch.device(device), batches, stop, on_step)
                before, done = out / phase.name, out / phase.name / WEIGHTS
            else:
                precompute.encode(phase, device=device, stop=stop)
                _keep(recipe, out)
            if stop.is_set():
                raise Interrupted(f"Stopped in phase {phase.name}; all is saved. The same command goes on.")
    return done


def _train(
    recipe: Recipe,
    phase: Phase,
    out: Path,
    before: Path | None,
    device: torch.device,
    prefetched: Callable[
        [Callable[[int], tuple[list[Batch], int]], int, int], Generator[tuple[list[Batch], int], None, None]
    ],
    stop: threading.Event,
    on_step: OnStep | None,
) -> None:
    """Bring one phase to its last step."""
    folder = out / phase.name
    saved = checkpoints(folder / "checkpoints")
    if (folder / WEIGHTS).exists() and saved and _step_of(saved[-1]) >= phase.steps:
        print0(f"{phase.name}: done before")
        return
    if phase.precision == "bf16" and not multiplies_bfloat16(device):
        print0(f"{phase.name}: this CPU is slow at bfloat16; it multiplies in float32 instead")
    objective, state = _begin(recipe, phase, folder, before, device)
    data = {"sample_count": json.dumps(objective.sample_count)}
    if objective.plan is not None:
        data["plan"] = objective.plan
    _restore(state, folder, data)
    _keep(recipe, out)  # only now: a recipe whose first phase cannot begin leaves the folder as it was

    def make(step: int) -> tuple[list[Batch], int]:
        parts = objective.sample_ids(recipe.seed, step, phase.batch_size, phase.micro_batches)
        return [objective.batch(ids, step) for ids in parts], sum(map(len, parts))

    log = RunLog(folder, resume_at=state.step + 1)
    batches = prefetched(make, state.step + 1, phase.steps)
    try:
        with progress(phase.steps, phase.name, done=state.step) as bar:
            meter = _Meter(state, phase)
            for step, (batch, samples) in enumerate(batches, start=state.step + 1):
                metrics = train_step(
                    objective,
                    state,
                    batch,
                    samples,
                    lr=learning_rate(
                        step, peak=phase.lr, warmup_steps=phase.warmup_steps, steps=phase.steps, schedule=phase.schedule
                    ),
                    clip=phase.clip,
                    ema_decay=phase.ema_decay,
                    precision=phase.precision,
                )
                bar.advance(1, loss=metrics["loss"])
                if line := meter.add(metrics, samples):
                    log.scalars(step, line)
                if on_step is not None:
                    on_step(phase.name, step, metrics)
                if phase.sample_every and step % phase.sample_every == 0:
                    with meter.paused():
                        _sample(objective, state, folder)
                if step % phase.save_every == 0 or step == phase.steps or stop.is_set():
                    with meter.paused():
                        state.save(folder / "checkpoints", data)
                if stop.is_set() and step < phase.steps:
                    raise Interrupted(
                        f"Stopped in phase {phase.name} after step {step} of {phase.steps}; all is saved. "
                        "The same command goes on."
                    )
    finally:
        batches.close()
        log.close()
    objective.export(state.ema, folder / WEIGHTS)


def _begin(
    recipe: Recipe, phase: Phase, folder: Path, before: Path | None, device: torch.device
) -> tuple[Objective, TrainState]:
    """Build what a phase trains, with the weights that it starts from."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.generator(recipe.seed, "weights", phase.name).initial_seed())
        objective = phase.objective.build(recipe.seed)
        if phase.start_from is not None and not checkpoints(folder / "checkpoints"):
            tensors, source = _starting_weights(phase.start_from, before)
            objective.start(tensors, source=source)
    objective.module.to(device).train()
    state = TrainState.begin(objective.module, phase.optimizer.build(objective.module))
    if phase.compile:
        objective.compile()
    return objective, state


def _starting_weights(start_from: str, before: Path | None) -> tuple[dict[str, Tensor], str]:
    if start_from == PREVIOUS and before is not None:
        path = checkpoints(before / "checkpoints")[-1]
        return averaged_weights(path), str(path)
    return weights.read(Path(start_from))[0], start_from


def _restore(state: TrainState, folder: Path, data: Mapping[str, str]) -> None:
    """Take up the newest checkpoint that can be read, if there is any."""
    for path in reversed(checkpoints(folder / "checkpoints")):
        try:
            metadata = state.restore(path)
        except WeightsError as error:
            print0(f"{path.name} cannot be used ({error}); trying the one before")
            continue
        if metadata["sample_count"] != data["sample_count"]:
            raise RecipeError(
                f"{folder} was trained on {metadata['sample_count']} samples, now there are {data['sample_count']}. "
                "Bring the data back as it was, or give another --out."
            )
        if metadata.get("plan") != data.get("plan"):
            raise RecipeError(
                f"{folder} was trained on other clips, or with other weights of theirs: they have been curated anew "
                "since. Bring the data back as it was, or give another --out."
            )
        print0(f"{folder.name}: going on after step {state.step}")
        return
    if checkpoints(folder / "checkpoints"):
        raise WeightsError(f"No checkpoint in {folder} can be read. Delete that folder to begin the phase again.")


def _sample(objective: Objective, state: TrainState, folder: Path) -> None:
    video = objective.preview(state.ema, state.step)
    if video is not None:
        (folder / "samples").mkdir(exist_ok=True)
        ending = "png" if video.num_frames == 1 else "gif"
        video.save(folder / "samples" / f"step-{state.step:06d}.{ending}")


class _Meter:
    """Means over the steps since the last line of the log, kept in the state so that a stop does not change them."""

    def __init__(self, state: TrainState, phase: Phase) -> None:
        self.state, self.phase = state, phase
        self.samples_timed, self.began = 0, time.perf_counter()

    def add(self, metrics: Mapping[str, float], samples: int) -> dict[str, float] | None:
        """Take in a step of so many samples; return the line to log when it is due."""
        pending = self.state.pending
        for name, value in {**metrics, "steps": 1.0}.items():
            pending[name] = pending.get(name, 0.0) + value
        self.samples_timed += samples
        if self.state.step % self.phase.log_every and self.state.step != self.phase.steps:
            return None
        line = {name: value / pending["steps"] for name, value in pending.items() if name != "steps"}
        line["lr"] = self.state.optimizer.param_groups[0]["lr"]
        line["samples_per_second"] = self.samples_timed / (time.perf_counter() - self.began)
        pending.clear()
        self.samples_timed, self.began = 0, time.perf_counter()
        return line

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave what is done inside out of the time."""
        paused = time.perf_counter()
        yield
        self.began += time.perf_counter() - paused


def _refuse_another(recipe: Recipe, out: Path) -> None:
    """Refuse a folder that was begun with another recipe."""
    path = out / RECIPE
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RecipeError(f"{path} is damaged. Delete it to go on with the recipe given.") from error
        _fill_in(found, recipe)
        _refuse_changes(found, config.to_json(recipe), recipe, out)


def _keep(recipe: Recipe, out: Path) -> None:
    """Keep the resolved recipe beside the run."""
    out.mkdir(parents=True, exist_ok=True)
    config.save_resolved(recipe, out / RECIPE)


def _fill_in(found: Any, recipe: Any) -> None:
    """Add to an older resolved recipe the settings that did not exist yet and have their default now."""
    if is_dataclass(recipe) and isinstance(found, dict):
        for field in fields(recipe):
            value = getattr(recipe, field.name)
            if field.name in found:
                _fill_in(found[field.name], value)
            elif value == field.default:
                found[field.name] = config.to_json(recipe)[field.name]
    elif isinstance(recipe, tuple) and isinstance(found, list):
        for old, new in zip(found, recipe, strict=False):  # phases may have been added since
            _fill_in(old, new)


def _refuse_changes(found: dict, wanted: dict, recipe: Recipe, out: Path) -> None:
    """Compare two resolved recipes; only more steps, more phases, or another cadence may differ."""
    for where, old, new in _differences(found, wanted):
        parts = where.split(".")
        if parts[0] == "phases" and len(parts) == 3 and parts[2] in MAY_CHANGE:
            continue
        grew = isinstance(old, int) and isinstance(new, int) and new > old
        if parts[0] == "phases" and len(parts) == 3 and parts[2] in MAY_GROW and grew:
            later = [phase.name for phase in recipe.phases[int(parts[1]) + 1 :]]
            begun = [name for name in later if checkpoints(out / name / "checkpoints")]
            if not begun:
                continue
            raise RecipeError(
                f"{where} grew from {old} to {new}, but phase {begun[0]} has begun from it. Give another --out."
            )
        if parts[0] == "phases" and len(parts) == 2 and old is None:
            continue
        raise RecipeError(f"{out} was begun with {where}={old}, now it is {new}. Put it back, or give another --out.")


def _differences(old: object, new: object, where: str = "") -> Iterator[tuple[str, object, object]]:
    """Yield dotted name, old and new value of each leaf in which two JSON values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old | new:
            yield from _differences(old.get(key), new.get(key), f"{where}.{key}" if where else key)
    elif isinstance(old, list) and isinstance(new, list):
        for index in range(max(len(old), len(new))):
            before, after = (values[index] if index < len(values) else None for values in (old, new))
            yield from _differences(before, after, f"{where}.{index}")
    elif old != new:
        yield where, old, new


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.stem.removeprefix("step-"))


@contextmanager
def _stop_signal() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C (or a polite kill) into a flag; the second one stops at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        print0("stopping after this step; once more to stop at once")

    kept = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
