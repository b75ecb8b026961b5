"""Write the scored prompts of the suite `world`, mutoscope/evaluate/world_prompts.jsonl: the same file every time.

Run once, before the first full training run, and never to please a model: figures are comparable only over the same
file, whose hash stands in every result. What the sets are is told in mutoscope/evaluate/world.py.
"""

import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from mutoscope.evaluate.world import FILE, SETS, Prompt, is_seen_from_the_start
from mutoscope.worlds.language import Caption, Language, Length, describe
from mutoscope.worlds.scene import Scene, sample, unscored

# Where each set begins to look for scenes, far from the seeds on which the oracle was tried; both languages alike.
FIRST_SEED = {
    "one": 1_000_000,
    "two": 2_000_000,
    "three": 3_000_000,
    "image": 4_000_000,
    "first_last": 5_000_000,
    "first_four": 6_000_000,
    "every_second": 7_000_000,
}
NUMBER, NUMBER_GIVEN = 256, 128
DENSE_EVERY = 4
FROM_PICTURES = {(0, "colour"), (0, "size"), (None, "background"), (None, "tone")}  # what is left to the given frames


def prompts_of(name: str) -> Iterator[Prompt]:
    """Draw the prompts of a set, in order."""
    if name in ("image", "first_last", "first_four", "every_second"):
        for number, scene in enumerate(itertools.islice(_scenes(name), NUMBER_GIVEN)):
            phrasing, caption = _brief(scene)
            yield _prompt(name, number, "en", "brief", scene, phrasing, caption)
        return
    language: Language = "zh" if name.endswith("_zh") else "en"
    for number, scene in enumerate(itertools.islice(_scenes(name.removesuffix("_zh")), NUMBER)):
        length: Length = "dense" if number % DENSE_EVERY == DENSE_EVERY - 1 else "short"
        yield _prompt(name, number, language, length, scene, 0, describe(scene, 0, language, length))


def _scenes(name: str) -> Iterator[Scene]:
    for seed in itertools.count(FIRST_SEED[name]):
        scene = sample(seed, split="held_out", count=SETS[name].depth)
        if not unscored(scene) and _suits(name, scene):
            yield scene


def _suits(name: str, scene: Scene) -> bool:
    if name in ("one", "two", "three"):
        return True
    orbits = any(thing.motion == "orbit" for thing in scene.things)  # no text tells which way round
    return is_seen_from_the_start(scene) and not (name == "first_last" and orbits)


def _brief(scene: Scene) -> tuple[int, Caption]:
    """Find a brief text that tells how the thing and the camera move, and leaves the rest to the given frames."""
    needed = {(0, "motion"), (None, "camera")} | ({(0, "speed")} if scene.things[0].speed else set())
    for phrasing in itertools.count():
        caption = describe(scene, phrasing, "en", "brief")
        if needed <= caption.told and not FROM_PICTURES & caption.told:
            return phrasing, caption
    raise AssertionError("unreachable: the count has no end")


def _prompt(
    name: str, number: int, language: Language, length: Length, scene: Scene, phrasing: int, caption: Caption
) -> Prompt:
    things = [
        {
            facet: getattr(thing, facet)
            for facet in ("shape", "colour", "size", "texture", "motion", "speed")
            if (index, facet) in caption.told
        }
        for index, thing in enumerate(scene.things)
    ]
    rest = {fact: getattr(scene, fact) for fact in ("background", "tone", "camera") if (None, fact) in caption.told}
    return Prompt(
        id=f"{name}-{number:03d}",
        set=name,
        language=language,
        length=length,
        text=caption.text,
        scene_seed=scene.seed,
        phrasing=phrasing,
        told={"things": things, **rest},
    )


def main() -> None:
    """Write the file."""
    path = Path(__file__).parents[1] / "mutoscope" / "evaluate" / FILE
    lines = [
        json.dumps(asdict(prompt), ensure_ascii=False, separators=(",", ":"))
        for name in SETS
        for prompt in prompts_of(name)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    print(f"{path}: {len(lines)} prompts", file=sys.stderr)


if __name__ == "__main__":
    main()
