"""Find out at which noise a model goes wrong: take true clips back to a time, generate from there, and judge.

    python scripts/measure_recovery.py stiv/toy
    python scripts/measure_recovery.py stiv/toy --times 1 --steps 8 --restarts 2    # a way of sampling, whole

A clip at t = 0 has only been through the autoencoder; at t = 1 nothing of it is left and the model generates freely. In
between its latents are mixed with so much noise, and the model, which is told what the clip shows, has to find it
again. Where the table falls from one row to the next, the model does not see what is still there to be seen. The scenes
are those of no other measure, so settings may be chosen on them.
"""

from collections import Counter
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Annotated

import torch
import tyro

from mutoscope import loading, pipeline
from mutoscope.core.video import Video
from mutoscope.evaluate.world import is_seen_from_the_start
from mutoscope.pipeline import Request, System
from mutoscope.worlds import oracle
from mutoscope.worlds.language import caption
from mutoscope.worlds.render import render
from mutoscope.worlds.scene import Scene, sample, unscored

FIRST_SEED = 5_100_000  # of scenes that neither training nor any other measure has
ATTRIBUTES = ("colour", "background", "count", "camera", "size", "motion", "shape")
BATCH = 16


@dataclass(frozen=True)
class Options:
    """What to measure.

    Args:
        model: as for `mutoscope generate`.
        times: at which generation begins, 0 to 1.
        clips: how many, each with one thing all of whose attributes can be told.
        guidance: how strongly to follow the text; the model's own if not given.
        steps: of sampling; the model's own if not given.
        given: frames that are given, under texts that leave out much of what these show.
        image_guidance: how strongly to follow them, if not as the text.
        restarts: how often to go back towards noise, at t = 1 alone: see `diffusion.samplers`.
        threads: that torch may use.
    """

    model: Annotated[str, tyro.conf.Positional] = pipeline.DEFAULT_MODEL
    times: tuple[float, ...] = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0)
    clips: int = 48
    guidance: float | None = None
    given: tuple[int, ...] = ()
    image_guidance: float | None = None
    steps: int | None = None
    restarts: int = 0
    threads: int = 1


@torch.inference_mode()
def main(options: Options) -> None:
    """Measure every time, and print a line of a Markdown table for each."""
    torch.set_num_threads(options.threads)
    system = loading.load(options.model, "cpu")
    drawn = (sample(seed, split="any", count=1) for seed in count(FIRST_SEED))
    scenes = list(
        islice((scene for scene in drawn if not unscored(scene) and is_seen_from_the_start(scene)), options.clips)
    )
    heads = ("t", *ATTRIBUTES, "all", "mean")
    print("| " + " | ".join(heads) + " |\n" + "| --- " * len(heads) + "|")
    for t in options.times:
        right: Counter[str] = Counter()
        for first in range(0, len(scenes), BATCH):
            for verdict in _recover(system, scenes[first : first + BATCH], t, options):
                right.update(name for name, is_right in verdict.items() if is_right)
        shares = [f"{100 * right[name] / len(scenes):.1f}" for name in (*ATTRIBUTES, "all")]
        shares.append(f"{100 * sum(right[name] for name in ATTRIBUTES) / len(ATTRIBUTES) / len(scenes):.1f}")
        print(f"| {t:g} | " + " | ".join(shares) + " |", flush=True)


def _recover(system: System, scenes: list[Scene], t: float, options: Options) -> list[dict[str, bool]]:
    """Mix the true clips of scenes with noise, generate from there, and judge what comes."""
    size = system.size
    truths = [render(scene, size.num_frames, size.height, size.width) for scene in scenes]
    requests = [
        Request(
            caption(scene, scene.seed, "en", "brief" if options.given else "short"),
            given={index: truth[index] for index in options.given},
            guidance=options.guidance,
            image_guidance=options.image_guidance,
            steps=options.steps,
            restarts=options.restarts if t == 1 else 0,
            seed=scene.seed,
        )
        for scene, truth in zip(scenes, truths, strict=True)
    ]
    prepared = system.prepare(requests)
    pixels = torch.cat([Video.from_array(truth, size.fps).tensor() for truth in truths])
    latents = system.autoencoder.encode(pixels)
    if t > 0:
        later = prepared.grid[prepared.grid < t]
        grid = torch.cat([prepared.grid.new_tensor([t]), later])
        start = torch.lerp(latents, prepared.noise, t)
        latents = system.sample(replace(prepared, noise=start, grid=grid))
    frames = torch.cat(list(system.decode(latents)), dim=2)
    clips = [Video.from_tensor(one, size.fps).array() for one in frames]
    return [oracle.verdict(oracle.measure(clip), scene) for clip, scene in zip(clips, scenes, strict=True)]


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
