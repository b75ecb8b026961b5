"""Compare ways of training the bundled model, each from the same start for the same CPU time, over several seeds.

    python scripts/compare_training.py given        # how often the first frame is given among the noisy ones
    python scripts/compare_training.py masking      # half of the tokens left out of the main blocks, or none
    python scripts/compare_training.py start        # fresh weights, an image model inflated, joined with a video model
    python scripts/compare_training.py rope         # a longer or larger grid squeezed into the trained one, or not

Prints a table: mean squared error of the velocity on held-out clips, mean and range over the seeds. Lower is better.
Every result is kept in `--out`, so a run that was stopped goes on. Clips of the usual size are those of
`mutoscope train recipes/toy/stiv.py`; what is not there is made.
"""

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from torch import Tensor, nn

from mutoscope.core import weights
from mutoscope.data import loader
from mutoscope.diffusion.flow import FlowMatching, LogitNormal
from mutoscope.train.diffusion import Denoising, DiffusionObjective, GivenMix, Latents, LengthMix
from mutoscope.train.optim import Muon
from mutoscope.train.precompute import Precompute, WorldClips, encode
from mutoscope.train.state import TrainState
from mutoscope.train.step import train_step

BUNDLED = Path(__file__).parent.parent / "mutoscope" / "bundled"
AUTOENCODER, ENCODER = str(BUNDLED / "autoencoder_toy.safetensors"), str(BUNDLED / "words.safetensors")
VIDEO = BUNDLED / "stiv_toy.safetensors"
TIMES = (0.2, 0.4, 0.6, 0.8, 0.95)
SHOWN = (0.2, 0.6, 0.95)  # of them, in the table
HELD_OUT = 5_000_000  # seed of the first scene that no training run has seen
TASKS = {"text": GivenMix(), "first frame given": GivenMix(none=0, first=1)}
LR, WARMUP, FLAT = 4e-3, 50, 0.5  # the rate falls to zero over the rest of the time


@dataclass(frozen=True)
class Clips:
    """Latents of world clips: how many to train on, of which size."""

    folder: str
    count: int
    num_frames: int = 16
    side: int = 64


USUAL = Clips("runs/toy-latents", 40_000)
COARSE = Clips("runs/compare/latents-32px", 16_000, side=32)
LONGER = Clips("runs/compare/latents-32-frames", 2_000, num_frames=32)
LARGER = Clips("runs/compare/latents-128px", 1_000, side=128)


@dataclass(frozen=True)
class Arm:
    """One way of training.

    Args:
        objective: changes to `usual`.
        clips: to train on; those to measure on are of the same size.
        batch_size: samples of a step.
        start: weights file; or the names of the arms that give it, trained first; fresh weights if None.
        shown: whether it is a row of the table, or only the start of others.
    """

    objective: Mapping[str, object] = field(default_factory=dict)
    clips: Clips = USUAL
    batch_size: int = 32
    start: Path | tuple[str, ...] | None = None
    shown: bool = True


IMAGE_MODEL = {"window": 1, "overrides": ("patch_size=[1,1,1]", "temporal=false"), "given": GivenMix()}
WHOLE = {"window": None, "process": FlowMatching(LogitNormal(std=1.25), shift=3.0)}
SQUEEZED = WHOLE | {"overrides": ("rope_grid=[4,8,8]",)}  # tokens of what the bundled model was trained on

STUDIES: Mapping[str, Mapping[str, Arm]] = {
    "given": {
        "never": Arm(WHOLE | {"given": GivenMix()}, COARSE),
        "92 %, as published (image dropout 8 %)": Arm(WHOLE | {"given": GivenMix(none=0.08, first=0.92)}, COARSE),
        "always (no image dropout)": Arm(WHOLE | {"given": GivenMix(none=0, first=1)}, COARSE),
    },
    "masking": {
        "no token left out": Arm(WHOLE, COARSE),
        "half left out, as published": Arm(WHOLE | {"mask_ratio": 0.5}, COARSE),
    },
    "start": {
        "image model": Arm(IMAGE_MODEL, batch_size=128, shown=False),
        "coarse video model": Arm(clips=COARSE, shown=False),
        "fresh weights": Arm(),
        "inflated image model": Arm({"inflate": True}, start=("image model",)),
        "joined, as published": Arm({"inflate": True}, start=("image model", "coarse video model")),
    },
    "rope": {
        "32 frames, positions go on": Arm(WHOLE, LONGER, 8, VIDEO),
        "32 frames, squeezed, as published": Arm(SQUEEZED, LONGER, 8, VIDEO),
        "128x128, positions go on": Arm(WHOLE, LARGER, 4, VIDEO),
        "128x128, squeezed, as published": Arm(SQUEEZED, LARGER, 4, VIDEO),
    },
}


@dataclass(frozen=True)
class Options:
    """What to compare.

    Args:
        study: which question.
        minutes: of CPU time for each arm and seed; 0 measures the start.
        seeds: how many.
        threads: that torch may use.
        out: folder of the results.
    """

    study: Annotated[Literal["given", "masking", "start", "rope"], tyro.conf.Positional]
    minutes: float = 2.0
    seeds: int = 3
    threads: int = 1
    out: Path = Path("runs/compare")


def main(options: Options) -> None:
    """Train every arm with every seed, keep each result, print the table."""
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{options.study}-{options.minutes:g}-minutes.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    arms = STUDIES[options.study]
    for seed in range(options.seeds):
        made: dict[str, dict[str, Tensor]] = {}
        needed = {name for one in arms.values() if isinstance(one.start, tuple) for name in one.start}
        for name, arm in arms.items():
            if name not in needed and any((row["arm"], row["seed"]) == (name, seed) for row in rows):
                continue
            state, steps = _train(arm, made, seed, options.minutes)
            made[name] = state.ema.state_dict()
            row = {"arm": name, "seed": seed, "steps": steps, "samples": steps * arm.batch_size}
            if arm.shown:
                row |= _measure(arm, state.ema, seed)
                rows.append(row)
                with path.open("a") as lines:
                    lines.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
    _print_table([name for name, arm in arms.items() if arm.shown], rows)


def _objective(arm: Arm, *, held_out: bool = False, **changes: object) -> DiffusionObjective:
    """Return what an arm trains, or what it is measured by, making the latents that are not there."""
    clips = arm.clips
    if held_out:
        clips = replace(clips, folder=f"runs/compare/held-out-{clips.num_frames}-frames-{clips.side}px", count=64)
    seed = HELD_OUT if held_out else 0
    source = WorldClips(clips.count, seed, num_frames=clips.num_frames, height=clips.side, width=clips.side)
    encode(Precompute("latents", source, AUTOENCODER, clips.folder))
    usual = DiffusionObjective(
        data=(Latents(clips.folder),),
        autoencoder=AUTOENCODER,
        encoder=ENCODER,
        process=FlowMatching(LogitNormal(std=1.25), shift=2.0),
        given=GivenMix(none=0.7, first=0.3),
        lengths=LengthMix(brief=0.3, short=0.7, dense=0.0),
        window=8,
    )
    return replace(usual, **{**arm.objective, **changes})


def _train(arm: Arm, made: Mapping[str, Mapping[str, Tensor]], seed: int, minutes: float) -> tuple[TrainState, int]:
    """Train for so much CPU time; return the state and the steps taken."""
    torch.manual_seed(seed)
    objective = _objective(arm).build(seed)
    _start(objective, arm, made)
    objective.module.train()
    state = TrainState.begin(objective.module, Muon().build(objective.module))
    count, began = objective.sample_count, time.process_time()
    while (share := (time.process_time() - began) / (60 * max(minutes, 1e-9))) < 1 and minutes > 0:
        step = state.step + 1
        lr = LR * min(1.0, step / WARMUP, (1 - share) / (1 - FLAT))
        batch = objective.batch(loader.sample_ids(seed, step, arm.batch_size, count), step)
        train_step(objective, state, [batch], arm.batch_size, lr=lr, clip=1.0, ema_decay=0.99, precision="bf16")
    return state, state.step


def _start(objective: Denoising, arm: Arm, made: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Give the network the weights that it begins with."""
    if isinstance(arm.start, Path):
        objective.start(weights.read(arm.start)[0], source=str(arm.start))
    elif arm.start is not None:
        image, *video = arm.start
        objective.motion = dict(made[video[0]]) if video else None
        objective.start(made[image], source=image)


@torch.no_grad()
def _measure(arm: Arm, network: nn.Module, seed: int) -> dict[str, float]:
    """Return the error of each task at each time, over held-out clips, all with the same noise for every arm."""
    found: dict[str, float] = {}
    for task, given in TASKS.items():
        changes = {"given": given, "text_dropout": 0.0, "mask_ratio": 0.0, "inflate": False}
        objective = _objective(arm, held_out=True, **changes).build(seed)
        batch = objective.batch(range(64 if arm.clips in (USUAL, COARSE) else 32), 0)
        for t in TIMES:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                losses, _ = objective.loss(network, replace(batch, t=torch.full_like(batch.t, t)))
            found[f"{task} {t}"] = losses.mean().item()
    return found


def _print_table(arms: Sequence[str], rows: Sequence[Mapping[str, float]]) -> None:
    """Print a Markdown table, one line for each arm: of each task the mean over the times, and some of them."""
    heads = [f"{task}, {what}" for task in TASKS for what in ("mean", *SHOWN)]
    print("| | samples | " + " | ".join(heads) + " |")
    print("| --- " * (len(heads) + 2) + "|")
    for arm in arms:
        mine = [row for row in rows if row["arm"] == arm]
        cells = [f"{statistics.mean(row['samples'] for row in mine):,.0f}"]
        for task in TASKS:
            means = [statistics.mean(row[f"{task} {t}"] for t in TIMES) for row in mine]
            cells.append(f"{statistics.mean(means):.3f} ({min(means):.3f} to {max(means):.3f})")
            cells += [f"{statistics.mean(row[f'{task} {t}'] for row in mine):.3f}" for t in SHOWN]
        print(f"| {arm} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
