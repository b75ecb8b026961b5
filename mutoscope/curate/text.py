"""Text in the picture, read: the share of it that lines of text cover, wherever they stand and whatever they look like.

    stored pictures of a clip ── a few, evenly spread ── RapidOCR: find lines, read them ──> those that can be read
                                                             └─ what they cover together, the greatest ──> text_area

Nothing is decoded: the small pictures in the table of frames are enough for lines from about 3.5 % of the height on,
and smaller ones cover little (see docs/concepts/scores.md). A detector of text alone takes a cup or a face for a page;
that a line can be read is what tells. Stable Video Diffusion drops clips in which text covers more than 7 %.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import cv2
import numpy as np
import pyarrow as pa
from jaxtyping import Float, UInt8

from mutoscope.core.errors import MediaError, MissingExtra, RecipeError
from mutoscope.curate import signals
from mutoscope.curate.score import Score
from mutoscope.curate.stage import Reads, Work, noted, save, with_columns
from mutoscope.curate.view import spread

SIDE_PX = 384  # to which the shorter side is grown; at 256 a fifth of the lines of 3.5 % of the height are lost
TALL = 0.25  # of the shorter side: a line this high must have twice the letters, for round things are taken for 0 or 08
WHAT = "The text area"
SCORE = Score("text_area", "of the picture", "lower", "what lines of text cover that can be read")


@runtime_checkable
class Read(Protocol):
    """What the reader found in a picture: quadrilaterals, texts and how sure it is; all None where there is no text."""

    boxes: Float[np.ndarray, "n 4 2"] | None
    txts: Sequence[str] | None
    scores: Sequence[float] | None


@runtime_checkable
class Reader(Protocol):
    """What is used of `rapidocr.RapidOCR`."""

    def __call__(self, picture: UInt8[np.ndarray, "h w 3"]) -> Read:
        """Read a picture; blue, green, red."""
        ...


@dataclass(frozen=True)
class TextArea:
    """The stage that adds the column ``text_area`` to the table of clips; clips that were dropped before get null.

    Args:
        pictures: of a clip that are read, of those in the table of frames, which has one a second.
        least_score: how sure the reader must be of a line, 0 to 1.
        least_letters: and how many letters or digits it must have.
    """

    pictures: int = 3
    least_score: float = 0.6
    least_letters: int = 2
    name: str = field(default="text", init=False)
    version: int = field(default=1, init=False)
    reads: tuple[Reads, ...] = field(default=("signals", "clips"), init=False)
    makes: Literal["signals", "clips"] = field(default="clips", init=False)

    def __post_init__(self) -> None:
        if self.pictures < 1 or not 0 <= self.least_score <= 1:
            raise RecipeError(
                f"pictures={self.pictures}, least_score={self.least_score:g} do not work. Give 1 picture or more, and "
                "a score from 0 to 1."
            )

    def check(self) -> None:
        """Find out, before anything slow, whether the reader is installed.

        Raises:
            MissingExtra: it is not.
        """
        _import()

    def run(self, work: Work, out: Path) -> None:
        """Read the clips of one source."""
        rows = work.clips.to_pylist()
        kept = [row for row in rows if not row["dropped_by"]]
        if work.signals_path is not None and kept:
            self._read(work, work.signals_path, kept)
        save(pa.Table.from_pylist(rows, with_columns(work.clips.schema, {SCORE.name: SCORE.kind})), out)

    def _read(self, work: Work, path: Path, rows: Sequence[dict[str, Any]]) -> None:
        sampled = np.flatnonzero(work.signals(["border_top"])["border_top"].is_valid().to_numpy())
        wanted: dict[int, list[dict[str, Any]]] = {}
        for row in rows:
            inside = sampled[(sampled >= row["start"]) & (sampled < row["end"])]
            for number in spread(self.pictures, len(inside)):
                wanted.setdefault(int(inside[number]), []).append(row)
            row[SCORE.name] = 0.0 if len(inside) else None
            if not len(inside):
                row["notes"] = noted(row["notes"], f"{SCORE.name}: no frame of the clip was sampled")
        for index, data in signals.pictures(path, wanted):
            area = self.area(_reader(self.least_score), data)
            for row in wanted[index]:
                row[SCORE.name] = max(row[SCORE.name], area)

    def area(self, reader: Reader, data: bytes) -> float:
        """Return the share of a picture that text covers.

        Args:
            reader: reads it.
            data: a JPEG.

        Raises:
            MediaError: it is none.
        """
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if picture is None:
            raise MediaError("The table of frames holds a picture that cannot be read. Measure the video again.")
        found = reader(picture)
        if found.boxes is None or found.txts is None or found.scores is None:
            return 0.0
        covered = np.zeros(picture.shape[:2], np.uint8)
        for box, text, score in zip(found.boxes, found.txts, found.scores, strict=True):
            corners = np.round(np.asarray(box)).astype(np.int32)
            is_tall = min(cv2.minAreaRect(corners)[1]) > TALL * min(covered.shape)
            letters = sum(map(str.isalnum, text)) / (2 if is_tall else 1)
            if score >= self.least_score and letters >= self.least_letters:
                cv2.fillPoly(covered, [corners], 1)
        return float(covered.mean())


def _import() -> Any:
    try:
        import onnxruntime  # noqa: F401
        import rapidocr
    except ImportError as error:
        raise MissingExtra("curate-learned", "rapidocr", WHAT) from error
    return rapidocr


@cache
def _reader(least_score: float) -> Reader:
    """Return RapidOCR; once in the life of a process."""
    return _import().RapidOCR(params=settings(least_score))


def settings(least_score: float, side_px: int = SIDE_PX) -> dict[str, Any]:
    """Return settings of RapidOCR: the models that lie in its wheel, on one thread, for each core has a process.

    Args:
        least_score: how sure it must be of a line.
        side_px: to which the shorter side of a picture is grown; larger pictures stay as they are.
    """
    return {
        "Global.log_level": "critical",
        "Global.text_score": least_score,
        "Global.use_cls": False,  # which would turn lines that stand on their head
        "Det.limit_side_len": side_px,
        "Det.limit_type": "min",
        "EngineConfig.onnxruntime.intra_op_num_threads": 1,
        "EngineConfig.onnxruntime.inter_op_num_threads": 1,
    }
