"""Draw a contact sheet of clips that `mutoscope evaluate` judged: random ones, so that nobody has chosen them.

mutoscope evaluate stiv/toy --sets one
python scripts/make_contact_sheet.py outputs/evaluate/stiv-toy docs/sheet.png
"""

import json
import random
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from PIL import Image, ImageDraw, ImageFont

from mutoscope.core.errors import RequestError
from mutoscope.core.video import Video
from mutoscope.evaluate import world

COLUMNS, SCALE, GAP = 4, 1.5, 10
TEXT_PX, LINES, LETTERS = 11, 4, 45  # a dense caption goes on after its fourth line: the sheet shows its start
GROUND, INK, SOFT = "white", "#1c1d20", "#5d626b"


@dataclass(frozen=True)
class Options:
    """What to draw.

    Args:
        run: folder of the measurement.
        out: picture to write.
        set: part of the suite.
        count: how many clips.
        seed: of the choice among all that were judged.
    """

    run: Annotated[Path, tyro.conf.Positional]
    out: Annotated[Path, tyro.conf.Positional]
    set: str = "one"
    count: int = 24
    seed: int = 0


def main(options: Options) -> None:
    """Draw it: of each clip the first, the middle and the last frame, its prompt, and what the oracle says of it."""
    lines = (options.run / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    rows = {row["id"]: row for row in map(json.loads, lines) if row["by"] == "model"}
    prompts = [prompt for prompt in world.load((options.set,)) if prompt.id in rows]
    if len(prompts) < options.count:
        raise RequestError(
            f"{options.run} has {len(prompts)} clips of {options.set}, not {options.count}. "
            "Evaluate more, or give a smaller --count."
        )
    chosen = sorted(random.Random(options.seed).sample(prompts, options.count), key=lambda prompt: prompt.id)
    cells = [_cell(options.run, prompt, rows[prompt.id]["right"]) for prompt in chosen]
    width, height = cells[0].size
    rows_down = -(-len(cells) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (width + GAP) + GAP, rows_down * (height + GAP) + GAP), GROUND)
    for place, cell in enumerate(cells):
        row, column = divmod(place, COLUMNS)
        sheet.paste(cell, (GAP + column * (width + GAP), GAP + row * (height + GAP)))
    sheet.save(options.out, optimize=True)


def _cell(run: Path, prompt: world.Prompt, right: dict[str, bool | None]) -> Image.Image:
    frames = Video.open(run / "clips" / f"{prompt.id}.mp4").array()
    picture = Image.fromarray(np.concatenate([frames[0], frames[len(frames) // 2], frames[-1]], axis=1))
    picture = picture.resize((round(picture.width * SCALE), round(picture.height * SCALE)), Image.Resampling.BICUBIC)
    font = ImageFont.load_default(TEXT_PX)
    line_px = TEXT_PX + 4
    cell = Image.new("RGB", (picture.width, picture.height + (LINES + 1) * line_px + 6), GROUND)
    cell.paste(picture, (0, 0))
    draw = ImageDraw.Draw(cell)
    text = textwrap.wrap(prompt.text, LETTERS, max_lines=LINES, placeholder=" ...")
    wrong = [name for name, is_right in right.items() if is_right is False and name != "all"]
    told = "all right" if not wrong else f"wrong: {', '.join(wrong)}"
    for number, line in enumerate([*text, *[""] * (LINES - len(text)), told]):
        draw.text((0, picture.height + 4 + number * line_px), line, SOFT if number == LINES else INK, font)
    return cell


if __name__ == "__main__":
    main(tyro.cli(Options))
