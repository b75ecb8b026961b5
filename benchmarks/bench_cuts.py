"""Compare our transitions with PySceneDetect's detectors at their defaults, on the same files: F1 and CPU seconds.

Usage: python benchmarks/bench_cuts.py FOLDER [--count 12] [--only ours]

The folder holds footage (`mutoscope world footage --out FOLDER`) or clips with a MANIFEST.csv whose columns `cuts` and
`transitions` tell where shots change. PySceneDetect gives one frame for each change of shot and no kind, so ours are
judged by no more: the middle of each transition. A hard cut is found if a change lies within 2 frames of it, a slow
transition if one lies within its frames or 2 beside them; more changes within one slow transition count once. All other
changes are false, and count against both F1. Fades at the very beginning or end of a file part no shots and are not
judged. Every detector decodes for itself, through its own default reader, in this process; ours makes the whole table.
"""

import argparse
import csv
import json
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scenedetect import (
    AdaptiveDetector,
    ContentDetector,
    HashDetector,
    HistogramDetector,
    SceneDetector,
    ThresholdDetector,
    detect,
)

from mutoscope.curate import signals, split

WITHIN = 2.5  # frames; a half for the rounding of times
DETECTORS: dict[str, type[SceneDetector]] = {
    "ContentDetector": ContentDetector,
    "AdaptiveDetector": AdaptiveDetector,
    "ThresholdDetector": ThresholdDetector,
    "HistogramDetector": HistogramDetector,
    "HashDetector": HashDetector,
}


@dataclass(frozen=True)
class Truth:
    """A file and what it holds: hard cuts, and frames [start, end) of slow transitions and flashes."""

    path: Path
    cuts: list[int]
    slow: list[tuple[int, int]]
    flashes: list[tuple[int, int]] = field(default_factory=list)
    not_judged: list[tuple[int, int]] = field(default_factory=list)


def footage(path: Path) -> Truth:
    told = json.loads(path.with_suffix(".json").read_text())
    spans = [(each["start"], each["end"]) for each in told["transitions"]]
    flashes = [(each["start"], each["end"]) for each in told["defects"] if each["kind"] == "flash"]
    return Truth(path, [a for a, b in spans if a == b], [(a, b) for a, b in spans if a < b], flashes)


def listed(path: Path, row: dict[str, str]) -> Truth:
    ranges = sorted((int(a), int(b) + 1) for a, b in re.findall(r"\b(\d+)-(\d+)\b", row["transitions"]))
    slow: list[tuple[int, int]] = []
    for start, end in ranges:  # the two halves of a fade are one
        slow = [*slow[:-1], (slow[-1][0], end)] if slow and slow[-1][1] == start else [*slow, (start, end)]
    cuts = [int(cut) for cut in re.findall(r"\d+", row["cuts"])]
    cuts = [cut for cut in cuts if not any(start <= cut <= end for start, end in slow)]
    ends = [span for span in slow if span[0] == 0 or span[1] >= int(row["frames"])]
    return Truth(path, cuts, [span for span in slow if span not in ends], not_judged=ends)


def truths(folder: Path) -> list[Truth]:
    table = folder / "MANIFEST.csv"
    if not table.exists():
        return [footage(path) for path in sorted(folder.rglob("footage-*.mp4"))]
    with table.open(encoding="utf-8", newline="") as file:
        return [listed(folder / row["file"], row) for row in csv.DictReader(file) if row["kind"] == "video"]


def ours(path: Path) -> list[float]:
    """Return the moments, in seconds, in the middle of our transitions."""
    table = signals.measure(path)
    time_s, last = table["time_s"].to_numpy(), table.num_rows - 1
    return [float(time_s[min((each.start + each.end) // 2, last)]) for each in split.transitions(table)]


def theirs(kind: type[SceneDetector]) -> Callable[[Path], list[float]]:
    return lambda path: [scene[0].seconds for scene in detect(str(path), kind(), start_in_scene=True)[1:]]


def judge(found: list[float], truth: Truth, time_s: np.ndarray, count: Counter[str]) -> None:
    """Count what was found, missed and made up in one file."""
    near_s = WITHIN * float(np.median(np.diff(time_s)))
    stamps = np.append(time_s, time_s[-1])

    def within(moment: float, spans: list[tuple[int, int]]) -> bool:
        return any(stamps[start] - near_s <= moment <= stamps[end] + near_s for start, end in spans)

    left = list(found)
    for cut in truth.cuts:
        pair = min(left, key=lambda moment: abs(moment - stamps[cut]), default=None)
        if pair is not None and within(pair, [(cut, cut)]):
            left.remove(pair)
            count["cuts right"] += 1
    count["slow right"] += sum(any(within(moment, [span]) for moment in left) for span in truth.slow)
    false = [moment for moment in left if not within(moment, [*truth.slow, *truth.not_judged])]
    count["false"] += len(false)
    count["false at flashes"] += sum(within(moment, truth.flashes) for moment in false)


def f1(right: int, wanted: int, false: int) -> float:
    return round(2 * right / max(1, right + wanted + false), 3)


def main() -> None:
    """Print one JSON line for each detector."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=1000, help="of files, the first ones")
    parser.add_argument("--only", default="", choices=["", "ours", *DETECTORS], help="one of them")
    asked = parser.parse_args()
    detectors: dict[str, Callable[[Path], list[float]]] = {"ours": ours}
    detectors |= {name: theirs(kind) for name, kind in DETECTORS.items()}
    detectors = {name: detector for name, detector in detectors.items() if asked.only in ("", name)}
    files = truths(asked.folder)[: asked.count]
    times = {each.path: signals.measure(each.path)["time_s"].to_numpy() for each in files}
    wanted = {"cuts": sum(len(each.cuts) for each in files), "slow": sum(len(each.slow) for each in files)}
    for name, detector in detectors.items():
        count, spent_s = Counter[str](), 0.0
        for each in files:
            start = time.process_time()
            found = detector(each.path)
            spent_s += time.process_time() - start
            judge(found, each, times[each.path], count)
        line = {
            "bench": "cuts", "detector": name, "files": len(files), **wanted, "cuts_right": count["cuts right"],
            "slow_right": count["slow right"], "false": count["false"], "false_at_flashes": count["false at flashes"],
            "f1_cuts": f1(count["cuts right"], wanted["cuts"], count["false"]),
            "f1_slow": f1(count["slow right"], wanted["slow"], count["false"]), "cpu_s": round(spent_s, 2),
        }  # fmt: skip
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
