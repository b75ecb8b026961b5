"""Judge the reader of text: captions burnt into footage, and lines of known height written into real frames.

Usage: python benchmarks/bench_text.py [--seed 9011] [--count 6] [--clips FOLDER]

Footage has captions at full strength in every file; with `--clips`, every second file is made of those clips. All its
stored pictures are read, and it is counted in how many captions are found, in how many there is a false one, and what
share of the caption's box is told as covered. With `--clips`, lines are also written into the middle frames of those
clips, and read in pictures of several sizes. Prints one line of JSON. The rule for high lines was made after looking at
one false caption of seed 9005.
"""

import argparse
import json
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rapidocr import RapidOCR

from mutoscope.core.errors import MediaError
from mutoscope.core.video import Video
from mutoscope.curate import signals, text
from mutoscope.worlds.footage import write_footage
from mutoscope.worlds.spoil import Strengths

LINE = "the night train waits"
HEIGHTS = (0.035, 0.06)
SIZES = ((256, 256), (256, 384), (736, 736))  # shorter side of the picture, and to which the reader grows it
WITH_TEXT = ("testsrc", "subtitled", "signing", "balloons_landscape", "cars", "traffic")  # in their own picture


def footage(folder: Path, seed: int, clips: Path | None) -> dict[str, Any]:
    """Read all pictures of one file."""
    path = write_footage(folder, 1, seed, strengths=Strengths.parse("caption", 1.0), clips=clips)[0]
    truth = json.loads(path.with_suffix(".json").read_text())
    signals.save(path, folder / "signals.parquet")
    stage, reader = text.TextArea(), text._reader(text.TextArea().least_score)
    found: dict[str, Any] = {"captioned": 0, "found": 0, "clean": 0, "false": 0, "share": [], "seconds": []}
    for index, data in signals.pictures(folder / "signals.parquet"):
        begun = time.process_time()
        area = stage.area(reader, data)
        found["seconds"].append(time.process_time() - begun)
        boxes = [
            one["box"] for one in truth["defects"] if one["kind"] == "caption" and one["start"] <= index < one["end"]
        ]
        found["captioned" if boxes else "clean"] += 1
        found["found" if boxes else "false"] += area > 0
        if boxes and area:
            size = (boxes[0]["bottom"] - boxes[0]["top"]) * (boxes[0]["right"] - boxes[0]["left"])
            found["share"].append(area * truth["height"] * truth["width"] / size)
    return found


def written(frame: np.ndarray, height: float) -> np.ndarray:
    """Write a line low in the middle of a frame."""
    image = Image.fromarray(frame)
    font = ImageFont.load_default(max(5, round(height * image.height)))
    stroke = max(1, round(height * image.height / 14))
    place = (image.width / 2, 0.85 * image.height)
    ImageDraw.Draw(image).text(place, LINE, "white", font, "mt", stroke_width=stroke, stroke_fill="black")
    return np.asarray(image)


def jpeg(frame: np.ndarray, short_px: int) -> bytes:
    """Shrink a frame as the table of frames has it; one that is smaller stays as it is."""
    scale = min(1.0, short_px / min(frame.shape[:2]))
    size = (round(frame.shape[1] * scale), round(frame.shape[0] * scale))
    small = cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()


def lines(clips: Path) -> list[dict[str, Any]]:
    """Count the lines that are read in pictures of several sizes."""
    frames = []
    for path in sorted(path for path in clips.iterdir() if not any(name in path.name for name in WITH_TEXT)):
        try:
            video = Video.open(path)
            frames.append(np.array(next(islice(video.frames(), (video.num_frames or 1) // 2, None))))
        except MediaError:  # a list, or sound alone
            continue
    stage, results = text.TextArea(), []
    for short_px, side_px in SIZES:
        reader: Any = RapidOCR(params=text.settings(stage.least_score, side_px))
        areas = [[stage.area(reader, jpeg(written(frame, height), short_px)) for frame in frames] for height in HEIGHTS]
        clean = [stage.area(reader, jpeg(frame, short_px)) for frame in frames]
        results.append(
            {
                "picture_px": short_px, "read_px": side_px, "frames": len(frames), "false": sum(map(bool, clean)),
                "found": {str(height): sum(map(bool, some)) for height, some in zip(HEIGHTS, areas, strict=True)},
            }
        )  # fmt: skip
    return results


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=9011)
    parser.add_argument("--count", type=int, default=6)
    parser.add_argument("--clips", type=Path)
    given = parser.parse_args()
    results = []
    for number in range(given.count):
        with tempfile.TemporaryDirectory() as folder:
            results.append(footage(Path(folder), given.seed + number, given.clips if number % 2 else None))
    total: dict[str, Any] = {
        name: sum(one[name] for one in results) for name in ("captioned", "found", "clean", "false")
    }
    shares = np.concatenate([one["share"] for one in results])
    total["share_of_box"] = [round(float(np.quantile(shares, at)), 3) for at in (0.05, 0.5, 0.95)]
    total["cpu_s_a_picture"] = round(float(np.mean(np.concatenate([one["seconds"] for one in results]))), 3)
    print(
        json.dumps({"bench": "text", "seed": given.seed, **total, "lines": lines(given.clips) if given.clips else []})
    )


if __name__ == "__main__":
    main()
