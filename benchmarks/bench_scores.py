"""Judge the scores of clips by footage whose defects are known: precision and recall of each defect, over clips.

Usage: python benchmarks/bench_scores.py [--seed 7000] [--count 12] [--clips FOLDER] [--folder KEPT] [--missed]

Footage is drawn with every defect at full strength in half of the files, encoded, measured, split and scored, and the
usual limits are laid on it (`score.thresholds`). A clip has a defect that is seen in half of it or more; of a freeze or
a caption, 0.4 s are enough. It has none where nothing of it is seen. Clips in between are counted as unclear and not
judged, and so are those that a score says it cannot tell, which are counted too. Camera labels are judged on shots of
the world whose camera can be told. With `--folder` the files and their tables are kept there and used again.
Thresholds were chosen on seeds 100 to 109 and, with real clips, 200 to 211; use others to judge.
"""

import argparse
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mutoscope.curate import ingest, signals
from mutoscope.curate.chain import Split
from mutoscope.curate.score import Scores, thresholds
from mutoscope.curate.stage import Work, whole
from mutoscope.worlds.footage import write_footage
from mutoscope.worlds.spoil import Strengths

KINDS = ("freeze", "border", "logo", "caption", "blur")
COLUMN = {
    "freeze": "freeze_longest_s", "border": "bars_share", "logo": "logo", "caption": "caption_share", "blur": "softness"
}  # fmt: skip
SHORT_S = 0.4
LABELS = ("static", "pan left", "pan right", "tilt up", "tilt down", "zoom in", "zoom out")


def drawn(folder: Path, seed: int, clips: Path | None) -> Path | None:
    """Draw a file and its table of frames, where they are not there yet; None where the clips make none."""
    at = folder / str(seed)
    if not (at / "sig.parquet").exists():
        try:
            path = write_footage(at, 1, seed, strengths=Strengths.parse("all", 0.5), clips=clips)[0]
        except ValueError as error:  # of a clip that cannot be shown at this size
            print(f"seed {seed}: {error}")
            return None
        signals.save(path, at / "sig.parquet")
    return at


def scored(at: Path) -> list[dict[str, Any]]:
    """Split and score a file."""
    path, sig, clips = next(at.glob("footage-*.mp4")), at / "sig.parquet", at / "clips.parquet"
    table = signals.load(sig, ["time_s"])
    facts, times = signals.facts(table), table["time_s"].to_pylist()
    size = {"width": facts.width, "height": facts.height, "fps": str(facts.fps)}
    source = ingest.Source("0" * 16, str(path), num_frames=len(times), duration_s=facts.duration_s, **size)
    times.append(facts.duration_s)
    Split().run(Work(source, whole(source), sig, lambda: path), clips)
    Scores().run(Work(source, pq.read_table(clips), sig, lambda: path), at / "s.parquet")
    found = [row for row in pq.read_table(at / "s.parquet").to_pylist() if not row["dropped_by"]]
    return [row | {"times": times[row["start"] : row["end"] + 1]} for row in found]


def seconds(row: dict[str, Any], start: int, end: int) -> float:
    """Return how long frames [start, end) are seen in a clip."""
    first, last = max(start, row["start"]) - row["start"], min(end, row["end"]) - row["start"]
    return row["times"][last] - row["times"][first] if last > first else 0.0


def has(truth: dict[str, Any], row: dict[str, Any], kind: str) -> bool | None:
    """Say whether a clip has a defect; None where that is not clear."""
    if kind == "freeze":  # what stands, for whatever reason; a picture stands from one frame before its repeats
        shown = max((seconds(row, start - 1, end) for start, end in truth["repeats"]), default=0.0)
        return True if shown >= SHORT_S else None if shown > SHORT_S / 2 else False
    shown = [seconds(row, each["start"], each["end"]) for each in truth["defects"] if each["kind"] == kind]
    if kind == "caption":
        return True if max(shown, default=0) >= SHORT_S else None if any(shown) else False
    share = sum(shown) / (row["end_s"] - row["start_s"])
    return True if share >= 0.5 else None if share else False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=7000)
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--clips", type=Path)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--missed", action="store_true")
    asked = parser.parse_args()
    limits = {limit.column: limit for limit in thresholds().limits}
    counts, camera, wrong = {kind: Counter() for kind in KINDS}, Counter(), []
    with tempfile.TemporaryDirectory() as temporary:
        for seed in range(asked.seed, asked.seed + asked.count):
            at = drawn(asked.folder or Path(temporary), seed, asked.clips)
            if at is None:
                continue
            truth = json.loads(next(at.glob("footage-*.json")).read_text())
            for row in scored(at):
                for kind in KINDS:
                    value, is_there = row[COLUMN[kind]], has(truth, row, kind)
                    said = None if value is None else bool(limits[COLUMN[kind]].refusal(value))
                    counts[kind][(is_there, said)] += 1
                    if is_there is not None and said is not is_there:
                        wrong.append((seed, row["start"], row["end"], kind, is_there, value))
                shot = max(truth["shots"], key=lambda shot: seconds(row, shot["start"], shot["end"]))
                if "camera" not in shot.get("unscored", ["camera"]):
                    was = shot["attributes"]["camera"]
                    camera[(was if was in LABELS else "unknown", row["camera"])] += 1
    for kind, count in counts.items():
        right, false, missed = count[(True, True)], count[(False, True)], count[(True, False)]
        untold = count[(True, None)] + count[(False, None)]
        result = {
            "defect": kind, "clips": sum(count.values()), "with": right + missed + count[(True, None)],
            "precision": round(right / max(1, right + false), 4), "recall": round(right / max(1, right + missed), 4),
            "recall_of_all": round(right / max(1, right + missed + count[(True, None)]), 4),
            "not_told": untold, "unclear": sum(number for (truth, _), number in count.items() if truth is None),
        }  # fmt: skip
        print(json.dumps(result))
    told = sum(number for (_, said), number in camera.items() if said != "unknown")
    right = sum(number for (was, said), number in camera.items() if was == said != "unknown")
    all_told = sum(number for (was, _), number in camera.items() if was != "unknown")
    print(json.dumps({"camera": right / max(1, told), "told": told, "right": right, "tellable": all_told}))
    if asked.missed:
        print(*wrong, *sorted((*key, number) for key, number in camera.items() if key[0] != key[1]), sep="\n")


if __name__ == "__main__":
    main()
