"""What text covers: from a reader with known answers, and from the real one on a line written into a picture."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cv2", reason="needs the extra curate")
pytest.importorskip("pyarrow", reason="needs the extra curate")

import cv2
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

from mutoscope.core import config
from mutoscope.core.errors import MediaError, MissingExtra, RecipeError
from mutoscope.curate import text
from mutoscope.curate.ingest import Source
from mutoscope.curate.stage import CLIPS, Stage, Work, clip_id, save
from mutoscope.curate.text import TextArea

HEIGHT, WIDTH = 100, 200


@dataclass
class Read:
    boxes: Any = None
    txts: Any = None
    scores: Any = None


def box(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def jpeg(picture: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", picture)[1].tobytes()


GREY = jpeg(np.full((HEIGHT, WIDTH, 3), 90, np.uint8))


def area(read: Read, **settings: Any) -> float:
    return TextArea(**settings).area(lambda picture: read, GREY)


def test_what_lines_cover_counts_once() -> None:
    lines = Read(
        np.array([box(0, 0, 99, 49), box(0, 0, 99, 49), box(50, 0, 149, 49)]), ("first", "first", "second"), (1, 1, 1)
    )
    assert area(lines) == pytest.approx(150 * 50 / (HEIGHT * WIDTH))
    assert area(Read()) == 0


def test_a_slanted_line_covers_what_lies_within_it() -> None:
    slanted = Read(np.array([[[50, 0], [99, 49], [50, 98], [1, 49]]]), ("slanted",), (0.9,))
    assert area(slanted) == pytest.approx(98 * 98 / 2 / (HEIGHT * WIDTH), rel=0.05)


def test_what_cannot_be_read_is_no_text() -> None:
    line = np.array([box(0, 0, WIDTH - 1, 19)])
    assert area(Read(line, ("it",), (0.9,))) == 0.2
    assert area(Read(line, ("it",), (0.59,))) == 0
    assert area(Read(line, ("8 -",), (0.9,))) == 0  # one digit
    assert area(Read(line, ("8 -",), (0.9,)), least_letters=1) == 0.2
    assert area(Read(line, ("it",), (0.5,)), least_score=0.4) == 0.2


def test_something_large_must_have_more_letters() -> None:
    whole = np.array([box(0, 0, WIDTH - 1, HEIGHT - 1)])
    assert area(Read(whole, ("08",), (0.9,))) == 0
    assert area(Read(whole, ("The End",), (0.9,))) == 1


# ---- the stage -------------------------------------------------------------------------------------------------------


def work(folder: Path, levels: list[int | None], spans: list[tuple[int, int]], dropped: tuple[int, ...] = ()) -> Work:
    """Frames, some with a picture of one level; clips."""
    pictures = [None if level is None else jpeg(np.full((HEIGHT, WIDTH, 3), level, np.uint8)) for level in levels]
    sampled = pa.array([None if level is None else 0.0 for level in levels], pa.float32())
    save(pa.table({"border_top": sampled, "picture": pa.array(pictures, pa.binary())}), folder / "signals")
    source = Source("0" * 16, "film.mp4")
    rows = [
        {
            "id": clip_id(source, start, end), "source": source.id, "start": start, "end": end, "start_s": 0.0,
            "end_s": 1.0, "dropped_by": "light" if index in dropped else "", "reason": "", "notes": "",
        }
        for index, (start, end) in enumerate(spans)
    ]  # fmt: skip
    return Work(source, pa.Table.from_pylist(rows, CLIPS), folder / "signals", lambda: folder / "never")


def test_the_greatest_of_a_few_pictures_of_each_clip_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def reader(picture: np.ndarray) -> Read:
        level = int(picture.mean())
        seen.append(level)
        return Read(np.array([box(0, 0, 2 * level - 1, HEIGHT - 1)]), ("text in it",), (0.9,))

    monkeypatch.setattr(text, "_reader", lambda least_score: reader)
    levels = [10, None, 20, None, 90, None, 40, None, None, None, 60, 70]
    given = work(tmp_path, levels, [(0, 7), (7, 10), (10, 11), (11, 12)], dropped=(3,))
    TextArea(pictures=2).run(given, tmp_path / "out")
    rows = pq.read_table(tmp_path / "out").to_pylist()
    assert [row["text_area"] for row in rows] == [pytest.approx(0.4), None, pytest.approx(0.6), None]
    assert seen == [20, 40, 60]  # of 10, 20, 90, 40 those in the middle of each half
    assert [row["notes"] for row in rows] == ["", "text_area: no frame of the clip was sampled", "", ""]


def test_a_stage_comes_back_from_json_as_it_was_and_reads_no_video() -> None:
    stage = TextArea(pictures=5, least_score=0.7)
    assert config.from_json(TextArea, config.to_json(stage)) == stage
    assert isinstance(stage, Stage) and "pixels" not in stage.reads


def test_what_is_missing_or_wrong_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match="Give 1 picture or more"):
        TextArea(pictures=0)
    with pytest.raises(MediaError, match="Measure the video again"):
        TextArea().area(lambda picture: Read(), b"no picture")
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    with pytest.raises(MissingExtra, match=r"pip install 'mutoscope\[curate-learned\]'"):
        TextArea().check()


def test_the_real_reader_finds_lines_of_captions_and_nothing_in_patches() -> None:
    pytest.importorskip("rapidocr", reason="needs the extra curate-learned")
    TextArea().check()
    draw = np.random.default_rng(3)
    patches = np.kron(draw.integers(40, 200, (8, 12, 3)), np.ones((32, 32, 1))).astype(np.uint8)
    image = Image.fromarray(cv2.GaussianBlur(patches, (0, 0), 6))
    reader = text._reader(0.6)
    assert TextArea().area(reader, jpeg(np.asarray(image))) == 0
    canvas = ImageDraw.Draw(image)
    font = ImageFont.load_default(14)  # 5.5 % of the height
    canvas.text((40, 220), "the night train waits for nobody", "white", font, stroke_width=1, stroke_fill="black")
    left, top, right, bottom = canvas.textbbox((40, 220), "the night train waits for nobody", font, stroke_width=1)
    share = (right - left) * (bottom - top) / (image.width * image.height)
    assert TextArea().area(reader, jpeg(np.asarray(image))) == pytest.approx(share, rel=0.6)
