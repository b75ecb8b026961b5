"""Measure how well the transitions of footage are found: F1 of hard cuts and of slow transitions, ends within 2 frames.

Usage: python benchmarks/bench_split.py FIRST_SEED COUNT [--clips ../shared/media/public] [--hard]

Seeds 0 to 25 and 5000 to 5026 served for tuning. Of every four seeds, two are drawn with real clips and two with
defects (flashes, captions, borders, freezes, logos); the other two have flashes alone, in some of the files.

With --hard, the footage is that of `worlds/action`: fast cutting, flashes, whip pans, darkness, steps of the exposure
and moving text. A table then compares hard cuts and false alarms with every detector of PySceneDetect at its defaults,
on this footage and on the clips. Seeds 0 to 9 and 200 to 219 served for tuning. `bench_cuts` tells how cuts are paired.
"""

import argparse
import json
import tempfile
from collections import Counter
from pathlib import Path

import bench_cuts

from mutoscope.curate import signals, split
from mutoscope.worlds import action, footage
from mutoscope.worlds.spoil import Strengths
from mutoscope.worlds.takes import Clips

WITHIN = 2  # frames
SPOILED = Strengths(flash=1, caption=1, border=0.6, freeze=1, logo=1, share=0.6)
FLASHED = Strengths(flash=1, share=0.3)


def f1(hits: int, found: int, wanted: int) -> float | None:
    return round(2 * hits / (found + wanted), 4) if found + wanted else None


def overlap(a: split.Transition, b: footage.Transition) -> float:
    both = min(a.end, b.end) - max(a.start, b.start)
    return max(both, 0) / (max(a.end, b.end) - min(a.start, b.start))


def judge(found: list[split.Transition], wanted: list[footage.Transition], count: Counter[str]) -> None:
    """Pair what was found with what there is, and count both and the pairs that agree."""
    cuts, slow = [each for each in found if each.kind == "cut"], [each for each in found if each.kind != "cut"]
    count["cut found"] += len(cuts)
    count["slow found"] += len(slow)
    for each in wanted:
        count[f"{each.kind} wanted"] += 1
        if each.kind == "cut":
            near = (one for one in cuts if one.start - WITHIN <= each.start <= one.end + WITHIN)
            pair = next(near, None)
            cuts = [one for one in cuts if one is not pair]
            count["cut right"] += pair is not None
            continue
        count["slow wanted"] += 1
        pair = max(slow, key=lambda one: overlap(one, each), default=None)
        if pair is None or not overlap(pair, each):
            continue
        slow = [one for one in slow if one is not pair]
        is_right = max(abs(pair.start - each.start), abs(pair.end - each.end)) <= WITHIN
        count[f"{each.kind} right"] += is_right
        count["slow right"] += is_right
        count["slow paired"] += 1
        count["slow of the right kind"] += pair.kind == each.kind


def compare(first: int, number: int, clips: Clips | None, folder: Path) -> None:
    """Print a table of all detectors, on hard footage and on real clips."""
    hard: list[bench_cuts.Truth] = []
    for seed in range(first, first + number):
        raw = action.sample(seed, clips=clips if seed % 2 else None)
        raw.video().save(folder / f"action-{seed:06d}.mp4")
        hard.append(bench_cuts.Truth(folder / f"action-{seed:06d}.mp4", list(raw.cuts), []))
    sets = {"hard footage": hard} | ({"real clips": bench_cuts.truths(clips.folder)} if clips else {})
    detectors = {"ours": bench_cuts.ours} | {
        name: bench_cuts.theirs(kind) for name, kind in bench_cuts.DETECTORS.items()
    }
    print("| files | detector | cuts | found | recall | false | F1 |\n| --- | --- | --- | --- | --- | --- | --- |")
    for label, files in sets.items():
        times = {each.path: signals.measure(each.path)["time_s"].to_numpy() for each in files}
        wanted = sum(len(each.cuts) for each in files)
        for name, detector in detectors.items():
            count = Counter[str]()
            for each in files:
                bench_cuts.judge(detector(each.path), each, times[each.path], count)
            right, false = count["cuts right"], count["false"]
            recall, score = right / max(1, wanted), bench_cuts.f1(right, wanted, false)
            cells = [f"{len(files)} {label}", name, wanted, right, f"{recall:.3f}", false, f"{score:.3f}"]
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def main() -> None:
    """Print one JSON line, or the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("first", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("--clips", type=Path)
    parser.add_argument("--hard", action="store_true", help="compare with PySceneDetect on hard footage")
    asked = parser.parse_args()
    if asked.hard:
        with tempfile.TemporaryDirectory() as folder:
            compare(asked.first, asked.count, Clips.open(asked.clips) if asked.clips else None, Path(folder))
        return
    clips, count = Clips.open(asked.clips) if asked.clips else None, Counter[str]()
    for seed in range(asked.first, asked.first + asked.count):
        strengths = SPOILED if seed % 4 in (2, 3) else FLASHED
        chosen = clips if seed % 4 in (1, 2) else None
        raw = footage.sample(seed, size=(180, 240), strengths=strengths, clips=chosen)
        with tempfile.TemporaryDirectory() as folder:
            raw.video().save(Path(folder) / "raw.mp4")
            judge(split.transitions(signals.measure(Path(folder) / "raw.mp4")), list(raw.transitions), count)
    scores = {
        name: f1(count[f"{name} right"], count[f"{name} found"], count[f"{name} wanted"]) for name in ("cut", "slow")
    }
    print(json.dumps({"bench": "split", "first": asked.first, "files": asked.count, "f1": scores, **count}))


if __name__ == "__main__":
    main()
