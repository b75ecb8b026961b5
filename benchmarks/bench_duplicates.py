"""Judge duplicates on footage of known truth: precision and recall over pairs of clips, and CPU seconds; one JSON line.

Usage: python benchmarks/bench_duplicates.py [FOLDER ...]

Each FOLDER is one that `mutoscope world footage --out FOLDER --duplicates N` made; without one, 6 files and 5 copies
are made, of seed 9100 and with all defects. Files are split as curation does.
Two clips show the same if at least half of the frames of one are in the other. A still picture beside the moving clip
that it is a frame of is left out. Pairs from one file and its copies are told apart from those of two files that show
one real clip, perhaps each with other defects.
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

from mutoscope.curate import signals, split
from mutoscope.curate.duplicates import DuplicateSettings, Look, aligned, candidates, landmarks
from mutoscope.worlds import footage
from mutoscope.worlds.spoil import Strengths

SPLIT = split.SplitSettings(min_shot_s=1.0, max_shot_s=10.0)
Shown = list[tuple[object, ...]]


def shown(folder: Path, stem: str, start: int, end: int) -> tuple[str, Shown]:
    """Return which original a clip is of, and what each of its frames shows."""
    truth = json.loads((folder / f"{stem}.json").read_text(encoding="utf-8"))
    if "copy_of" in truth:
        first = truth["first_frame"]
        return shown(folder, Path(truth["copy_of"]).stem, start + first, end + first)
    return f"{folder}/{stem}", [_frame(truth, stem, frame) for frame in range(start, end)]


def _frame(truth: dict[str, Any], stem: str, frame: int) -> tuple[object, ...]:
    for shot in truth["shots"]:
        if not shot["start"] <= frame < shot["end"]:
            continue
        what = shot["clip"] or shot["seed"]
        if shot["is_still"]:
            return "still", what, shot["clip_start"]
        number = frame - shot["seen_start"]
        for stop in truth["defects"]:
            if stop["kind"] == "freeze" and shot["start"] <= stop["start"] < shot["end"] and frame >= stop["start"]:
                number -= min(frame, stop["end"] - 1) - stop["start"]
        return "moving", what, shot["clip_start"] + number
    return "transition", stem, frame


def share(one: Shown, other: Shown) -> float:
    """Return the larger share of frames of one that are in the other."""
    return max(sum(frame in set(b) for frame in a) / len(a) for a, b in ((one, other), (other, one)))


def is_unclear(one: Shown, other: Shown) -> bool:
    """Say whether the one is a still picture out of the other."""
    return any(
        still[0] == "still" and ("moving", *still[1:]) in b for a, b in ((one, other), (other, one)) for still in set(a)
    )


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    folders = parser.parse_args().folders
    if folders:
        report(folders)
        return
    with tempfile.TemporaryDirectory() as folder:
        footage.write_footage(Path(folder) / "raw", 6, 9100, strengths=Strengths.parse("all"), duplicates=5)
        report([Path(folder) / "raw"])


def report(folders: list[Path]) -> None:
    """Judge the files of some folders, and print what came of it."""
    settings = DuplicateSettings()
    looks: list[Look] = []
    clips: list[tuple[str, Shown]] = []
    for path in sorted(path for folder in folders for path in folder.glob("*-*.json")):
        table = signals.measure(next(p for p in path.parent.glob(f"{path.stem}.*") if p.suffix in (".mp4", ".webm")))
        for span in split.spans(table, SPLIT):
            if not span.reason_for_drop:
                looks.append(Look.of(table.slice(span.start, span.end - span.start)))
                clips.append(shown(path.parent, path.stem, span.start, span.end))
    began_s = time.process_time()
    near = candidates([landmarks(look, settings) for look in looks], settings.crowd)
    found = {pair for pair in near if aligned(looks[pair[0]], looks[pair[1]], settings) is not None}
    cpu_s = time.process_time() - began_s
    count: Counter[str] = Counter()
    for pair in combinations(range(len(clips)), 2):
        (file, one), (other_file, other) = (clips[number] for number in pair)
        if is_unclear(one, other):
            count["unclear"] += 1
        elif share(one, other) >= 0.5:
            kind = "copies" if file == other_file else "shared"
            count[f"{kind}_{'found' if pair in found else 'missed'}"] += 1
        else:
            count["wrong" if pair in found else "apart"] += 1
    right = count["copies_found"] + count["shared_found"]
    told = {
        "bench": "duplicates",
        "clips": len(clips),
        "candidates": len(near),
        "precision": right / max(1, right + count["wrong"]),
        "recall_copies": count["copies_found"] / max(1, count["copies_found"] + count["copies_missed"]),
        **count,
        "cpu_s": round(cpu_s, 3),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
