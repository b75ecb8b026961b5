"""Spoil pictures in known ways, each with a record that says exactly which frames and which region.

    a shot's frames ── held ── blurred ──> mixed in transitions ── flashed ── bordered ── logo ── caption ──> file

A record is all that is needed to do it again, and what a detector is judged by. Frames [start, end) are those of the
file; a `Box` is in its pixels. Outside its frames and its box a defect changes nothing. A strength runs from 0 (none)
to 1 (plain to see); what it comes to in pixels, frames or opacity is in the record.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate, count
from typing import Any, Literal, TypeVar

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from mutoscope.core.errors import RequestError

Frame = UInt8[np.ndarray, "H W 3"]
Mask = Float32[np.ndarray, "h w 1"]
Ink = tuple[int, int, int]
Corner = Literal["top left", "top right", "bottom left", "bottom right", "centre"]
CORNERS: tuple[Corner, ...] = ("top left", "top right", "bottom left", "bottom right")

SEED = 20261127
TICKS = 90_000  # a second, the clock of a file with variable frame rate
CAPTION_S = (1.0, 3.5)  # seconds that a caption stays
CAPTION_GAP_S = (0.3, 2.0)  # seconds between two captions
FREEZE_S = (0.4, 1.6)  # seconds, at strength 1
FLASHES = ((1.0,), (1.0, 0.45), (0.6, 1.0, 0.4))  # how the brightness of a flash goes, frame by frame
EDGE = 3  # frames of a shot at its ends that are kept free of flashes and freezes
MARGIN = 0.035  # of the shorter side, between a logo or a caption and the edge of the picture

SUBJECTS = ("the captain", "a stranger", "my sister", "nobody", "the old clock", "every letter", "the night train")
VERBS = ("waits for", "forgets", "follows", "remembers", "leaves behind", "is looking for", "believes in")
OBJECTS = ("the harbour", "a cup of tea", "the last bus", "an open door", "the other side", "seven lanterns", "home")
MARKS = ("SAMPLE", "STOCK", "PREVIEW", "CHANNEL 5", "MY VLOG", "DEMO COPY")
LETTERS = ("M", "TV", "7", "AB", "N24")
WHITE, BLACK, YELLOW = (255, 255, 255), (0, 0, 0), (255, 226, 64)
INKS = ((214, 40, 57), (22, 104, 190), (20, 140, 90), (236, 160, 20), (120, 50, 150))


@dataclass(frozen=True)
class Box:
    """A region in pixels: rows [top, bottom), columns [left, right)."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def area(self) -> tuple[slice, slice]:
        """The index of the region in a frame."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def scaled(self, high: Fraction, wide: Fraction) -> "Box":
        """Return the region in a frame of another size, rounded outwards."""
        top, left = math.floor(self.top * high), math.floor(self.left * wide)
        return Box(top, left, math.ceil(self.bottom * high), math.ceil(self.right * wide))


@dataclass(frozen=True)
class Caption:
    """Text burnt into `box`, the smallest that holds it."""

    start: int
    end: int
    box: Box
    text: str
    font_px: int
    style: Literal["outline", "yellow", "plate"]
    opacity: float
    kind: Literal["caption"] = "caption"


@dataclass(frozen=True)
class Logo:
    """A mark that stands still in `box`: an emblem, or words one can see through."""

    start: int
    end: int
    box: Box
    style: Literal["emblem", "words"]
    corner: Corner
    text: str
    font_px: int
    ink: Ink
    opacity: float
    kind: Literal["logo"] = "logo"


@dataclass(frozen=True)
class Border:
    """Bars of one grey `level` (of 255) around `box`, the picture that remains."""

    start: int
    end: int
    box: Box
    style: Literal["letterbox", "pillarbox", "windowbox"]
    level: int
    kind: Literal["border"] = "border"


@dataclass(frozen=True)
class Blur:
    """A shot out of focus, Gaussian; in transitions beside it (from `seen_start`, to `seen_end`) its part is, too."""

    start: int
    end: int
    seen_start: int
    seen_end: int
    sigma_px: float
    kind: Literal["blur"] = "blur"


@dataclass(frozen=True)
class Freeze:
    """Frames [start, end) all show the picture of frame `start`; after them the shot goes on where it stopped."""

    start: int
    end: int
    kind: Literal["freeze"] = "freeze"


@dataclass(frozen=True)
class Flash:
    """A few frames are mixed with white, by `amounts`, one for each; what is seen before and after is one shot."""

    start: int
    end: int
    amounts: tuple[float, ...]
    kind: Literal["flash"] = "flash"


@dataclass(frozen=True)
class VariableRate:
    """Frames of unequal duration: each by chance, up to `spread` longer or shorter, or stretches at half the rate."""

    start: int
    end: int
    style: Literal["jitter", "stretches"]
    spread: float
    kind: Literal["rate"] = "rate"


Defect = Caption | Logo | Border | Blur | Freeze | Flash | VariableRate
One = TypeVar("One", Caption, Logo, Border, Blur, Freeze, Flash, VariableRate)


@dataclass(frozen=True)
class Strengths:
    """How strong each defect is, 0 (none) to 1 (plain to see), and in what share of the files each occurs."""

    caption: float = 0.0
    logo: float = 0.0
    border: float = 0.0
    blur: float = 0.0
    freeze: float = 0.0
    flash: float = 0.0
    rate: float = 0.0
    share: float = 0.5

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value <= 1:
                raise RequestError(f"{field.name}={value:g} was given. Give 0 (none) to 1 (plain to see).")

    @classmethod
    def parse(cls, text: str, share: float = 0.5) -> "Strengths":
        """Read what a person types: "all", "none", or a list such as "caption,blur=0.3".

        Args:
            text: names, with a strength after = where it is not 1; "all=0.3" sets all of them.
            share: of the files, for each defect.

        Raises:
            RequestError: a name or a number that is none.
        """
        names = [field.name for field in fields(cls) if field.name != "share"]
        given: dict[str, float] = {}
        for part in text.replace(" ", "").split(","):
            name, _, number = part.partition("=")
            try:
                strength = float(number or 1)
            except ValueError:
                strength = math.nan
            if name not in (*names, "all", "none") or math.isnan(strength):
                known = ", ".join(names)
                raise RequestError(f"defects={text!r} was given. Use all, none, or a list of {known}, as in blur=0.3.")
            given |= {"all": dict.fromkeys(names, strength), "none": {}}.get(name, {name: strength})
        return cls(**given, share=share)


CLEAN = Strengths()


# ---- frame by frame --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Layer:
    """What is laid over a region: a pixel there becomes `keep` times itself plus `add`."""

    box: Box
    keep: Mask
    add: Float32[np.ndarray, "h w 3"]


def overlaid(frame: Frame, layer: Layer) -> Frame:
    """Return the frame with a layer over its region; the rest stays as it is."""
    result = frame.copy()
    result[layer.box.area] = np.rint(layer.keep * frame[layer.box.area] + layer.add).astype(np.uint8)
    return result


def bordered(frame: Frame, border: Border) -> Frame:
    """Return the frame with all but the border's box painted over."""
    result = np.full_like(frame, border.level)
    result[border.box.area] = frame[border.box.area]
    return result


def blurred(frame: Frame, sigma_px: float) -> Frame:
    """Return the frame out of focus."""
    return np.array(Image.fromarray(frame).filter(ImageFilter.GaussianBlur(sigma_px)))


def flashed(frame: Frame, amount: float) -> Frame:
    """Return the frame mixed with white: 0 leaves it, 1 is white."""
    return np.rint(frame + np.float32(amount) * (np.float32(255) - frame)).astype(np.uint8)


def held(frames: Iterator[Frame], freezes: Sequence[Freeze], first: int) -> Iterator[Frame]:
    """Repeat frames as the freezes say; the stream pauses meanwhile.

    Args:
        frames: of a shot; fewer are taken than come out.
        freezes: in frames of the file, all within the shot.
        first: the file's frame that the stream begins with.
    """
    picture = None
    for index in count(first):
        if picture is None or not any(freeze.start < index < freeze.end for freeze in freezes):
            picture = next(frames, None)
        if picture is None:
            return
        yield picture


def spoiled(frames: Iterable[Frame], defects: Sequence[Defect]) -> Iterator[Frame]:
    """Put the defects of whole frames on a stream: flashes, then borders, logos, captions. The others belong to shots.

    Args:
        frames: the file's frames from the first.
        defects: records, in any order.
    """
    flashes, borders = of(defects, Flash), of(defects, Border)
    layers = [(record, layer(record)) for record in (*of(defects, Logo), *of(defects, Caption))]
    for index, frame in enumerate(frames):
        for flash in _now(flashes, index):
            frame = flashed(frame, flash.amounts[index - flash.start])
        for border in _now(borders, index):
            frame = bordered(frame, border)
        for record, over in layers:
            if record.start <= index < record.end:
                frame = overlaid(frame, over)
        yield frame


def of(defects: Iterable[Defect], kind: type[One]) -> list[One]:
    """Return the records of one kind."""
    return [record for record in defects if isinstance(record, kind)]


def _now(records: Iterable[One], index: int) -> Iterator[One]:
    return (record for record in records if record.start <= index < record.end)


def layer(record: Caption | Logo) -> Layer:
    """Draw what a caption or a logo lays over the frames; its box begins where the record's does."""
    text, ground, ink, behind = _emblem(record) if record.style == "emblem" else _writing(record)
    paint = text * np.array(ink, np.float32) + (1 - text) * ground * np.array(behind, np.float32)
    covered = 1 - (1 - text) * (1 - ground)
    rows, columns = (np.flatnonzero(covered[..., 0].any(axis=axis)) for axis in (1, 0))
    drawn = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    height, width = covered[drawn].shape[:2]
    top, left, opacity = record.box.top, record.box.left, np.float32(record.opacity)
    return Layer(Box(top, left, top + height, left + width), 1 - opacity * covered[drawn], opacity * paint[drawn])


def _emblem(record: Caption | Logo) -> tuple[Mask, Mask, Ink, Ink]:
    """Draw letters on a disc: how far each pixel is covered by either, and their colours."""
    side = round(2.4 * record.font_px)
    ground, text = (Image.new("L", (side, side)) for _ in range(2))
    ImageDraw.Draw(ground).ellipse((0, 0, side - 1, side - 1), fill=255)
    ImageDraw.Draw(text).text((side / 2, side / 2), record.text, 255, _font(record.font_px), anchor="mm")
    return _covers(text), _covers(ground), WHITE, record.ink if isinstance(record, Logo) else BLACK


def _writing(record: Caption | Logo) -> tuple[Mask, Mask, Ink, Ink]:
    """Draw lines of text on an outline or a plate, which keeps them legible on any ground."""
    font, pad = _font(record.font_px), max(1, record.font_px // 12)
    _, _, right, bottom = ImageDraw.Draw(Image.new("L", (1, 1))).multiline_textbbox((0, 0), record.text, font)
    text, ground = (Image.new("L", (int(right) + 6 * pad, int(bottom) + 6 * pad)) for _ in range(2))
    ImageDraw.Draw(text).multiline_text((3 * pad, 3 * pad), record.text, 255, font, align="center")
    if record.style == "plate":
        left, top, right, bottom = text.getbbox() or (0, 0, 1, 1)
        ImageDraw.Draw(ground).rectangle((left - 2 * pad, top - 2 * pad, right + pad, bottom + pad), fill=166)
    else:
        outline = 110 if record.style == "words" else 255
        ImageDraw.Draw(ground).multiline_text(
            (3 * pad, 3 * pad), record.text, outline, font, align="center", stroke_width=pad
        )
    return _covers(text), _covers(ground), YELLOW if record.style == "yellow" else WHITE, BLACK


def _covers(mask: Image.Image) -> Mask:
    return np.asarray(mask, np.float32)[..., None] / 255


@lru_cache(maxsize=32)
def _font(size_px: int) -> Any:
    return ImageFont.load_default(size_px)  # Pillow's own, so that it is there on every machine


# ---- which, where and when -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stretch:
    """A shot as far as defects are concerned; see `footage.Shot`. Where `is_bright`, a flash would hardly show."""

    start: int
    end: int
    seen_start: int
    seen_end: int
    is_still: bool
    is_bright: bool


@dataclass(frozen=True)
class Canvas:
    """What is to be spoiled: its size, frames a second, shots, and the frames at which a hard cut begins a shot."""

    height: int
    width: int
    fps: Fraction
    shots: tuple[Stretch, ...]
    cuts: tuple[int, ...]

    @property
    def num_frames(self) -> int:
        """Frames in all."""
        return self.shots[-1].end


def draw(seed: int, strengths: Strengths, canvas: Canvas) -> tuple[Defect, ...]:
    """Draw the defects of one file.

    Each kind has its own stream of chance, so that leaving one out changes no other, save that logos and captions lie
    within a border where there is one.

    Args:
        seed: at least 0.
        strengths: of each kind, and the share of files that have it.
        canvas: what is to be spoiled.

    Returns:
        The records, those of a kind in the order of time.
    """
    chance = {field.name: np.random.default_rng([SEED, seed, i]) for i, field in enumerate(fields(Strengths))}
    strong = {
        name: getattr(strengths, name) if draw.random() < strengths.share else 0.0
        for name, draw in chance.items()
        if name != "share"
    }
    # Drawn whether or not they are wanted, so that the others, which keep clear of them, lie where they would.
    border = _border(chance["border"], strong["border"] or 1.0, canvas)
    freezes = _freezes(chance["freeze"], strong["freeze"] or 1.0, canvas)
    found: list[Defect] = []
    found += [border] if strong["border"] else []
    found += freezes if strong["freeze"] else []
    picture = border.box if strong["border"] else Box(0, 0, canvas.height, canvas.width)
    if strong["blur"]:
        found += _blurs(chance["blur"], strong["blur"], canvas)
    if strong["flash"]:
        found += _flashes(chance["flash"], strong["flash"], canvas, freezes)
    if strong["logo"]:
        found += _logos(chance["logo"], strong["logo"], canvas, picture, freezes)
    if strong["caption"]:
        found += _captions(chance["caption"], strong["caption"], canvas, picture, freezes)
    if strong["rate"]:
        style = ("jitter", "stretches")[int(chance["rate"].integers(2))]
        found.append(VariableRate(0, canvas.num_frames, style, 0.5 * strong["rate"]))
    return tuple(found)


def _border(draw: np.random.Generator, strength: float, canvas: Canvas) -> Border:
    """Draw bars, of the whole file or of shots between two hard cuts, at which they may come and go."""
    style = ("letterbox", "pillarbox", "windowbox")[int(draw.choice(3, p=(0.45, 0.4, 0.15)))]
    share = 0.02 + draw.uniform(0.06, 0.14) * strength  # of a side, at each of its ends
    high, wide = (max(1, round(side * share)) for side in (canvas.height, canvas.width))
    high, wide = (0 if style == "pillarbox" else high), (0 if style == "letterbox" else wide)
    start, end = 0, canvas.num_frames
    if canvas.cuts and draw.random() < 0.3:
        at = [0, *canvas.cuts, canvas.num_frames]
        run = int(draw.integers(len(at) - 1))
        start, end = at[run], at[run + 1]
    level = int(draw.choice((0, 0, 0, 8, 16)))
    return Border(start, end, Box(high, wide, canvas.height - high, canvas.width - wide), style, level)


def _freezes(draw: np.random.Generator, strength: float, canvas: Canvas) -> list[Freeze]:
    """Stop one or two shots that move; a shot that stands still shows nothing of it."""
    moving = [shot for shot in canvas.shots if not shot.is_still]
    chosen = draw.permutation(len(moving))[: int(draw.integers(1, 3))]
    freezes = []
    for shot in (moving[index] for index in sorted(chosen)):
        length = max(4, round(strength * draw.uniform(*FREEZE_S) * canvas.fps))
        length = min(length, (shot.end - shot.start) // 2)
        latest = shot.end - EDGE - length
        if length >= 4 and latest > shot.start + EDGE:
            start = int(draw.integers(shot.start + EDGE, latest))
            freezes.append(Freeze(start, start + length))
    return freezes


def _blurs(draw: np.random.Generator, strength: float, canvas: Canvas) -> list[Blur]:
    """Put one or two shots out of focus."""
    chosen = draw.permutation(len(canvas.shots))[: int(draw.integers(1, 3))]
    blurs = []
    for shot in (canvas.shots[index] for index in sorted(chosen)):
        sigma = canvas.height * (0.004 + draw.uniform(0.010, 0.018) * strength)
        blurs.append(Blur(shot.start, shot.end, shot.seen_start, shot.seen_end, round(float(sigma), 3)))
    return blurs


def _flashes(draw: np.random.Generator, strength: float, canvas: Canvas, freezes: Sequence[Freeze]) -> list[Flash]:
    """Put one to three flashes into shots that are not white already, away from their ends and from what is frozen."""
    chosen = draw.permutation(len(canvas.shots))[: int(draw.integers(1, 4))]
    flashes = []
    for shot in (canvas.shots[index] for index in sorted(chosen) if not canvas.shots[index].is_bright):
        shape = FLASHES[int(draw.integers(len(FLASHES)))]
        peak = strength * draw.uniform(0.6, 0.95)
        free = [
            start
            for start in range(shot.start + EDGE, shot.end - EDGE - len(shape))
            if all(start + len(shape) + EDGE <= stop.start or stop.end + EDGE <= start for stop in freezes)
        ]
        if free:
            start = int(draw.choice(free))
            amounts = tuple(round(float(peak) * part, 3) for part in shape)
            flashes.append(Flash(start, start + len(shape), amounts))
    return flashes


def _logos(
    draw: np.random.Generator, strength: float, canvas: Canvas, picture: Box, freezes: Sequence[Freeze]
) -> list[Logo]:
    """Put a mark into a corner, or pale words into the middle, of the whole file or more than half of it."""
    style = ("emblem", "words")[int(draw.integers(2))]
    is_centred = style == "words" and draw.random() < 0.3
    places = CORNERS[:2] if style == "words" else CORNERS  # below, words would run into captions
    corner: Corner = "centre" if is_centred else places[int(draw.integers(len(places)))]
    side = min(canvas.height, canvas.width)
    start, end = 0, canvas.num_frames
    if draw.random() < 0.25:
        start, end = sorted((0, int(draw.uniform(0.55, 0.9) * end))) if draw.random() < 0.5 else (int(0.3 * end), end)
    if style == "emblem":
        font_px, opacity = round(side * draw.uniform(0.035, 0.055)), 0.25 + 0.7 * strength
    else:
        font_px, opacity = round(side * draw.uniform(0.04, 0.06) * (2 if is_centred else 1)), 0.15 + 0.4 * strength
    text = str(draw.choice(LETTERS if style == "emblem" else MARKS))
    ink = INKS[int(draw.integers(len(INKS)))] if style == "emblem" else WHITE
    nowhere = Box(0, 0, 0, 0)
    start, end = (_clear(edge, freezes) for edge in (start, end))
    logo = Logo(start, end, nowhere, style, corner, text, max(6, font_px), ink, round(opacity, 3))
    return [_placed(logo, canvas, picture)]


def _captions(
    draw: np.random.Generator, strength: float, canvas: Canvas, picture: Box, freezes: Sequence[Freeze]
) -> list[Caption]:
    """Put lines of text at the lower edge, one after another, whatever the shots do."""
    font_px = max(8, round(canvas.height * (0.035 + 0.035 * strength)))
    style = ("outline", "yellow", "plate")[int(draw.integers(3))]
    opacity = round(0.5 + 0.5 * strength, 3)
    captions, at = [], round(float(draw.uniform(0, 3) * canvas.fps))
    for _ in range(int(draw.integers(2, 6))):
        words = " ".join(str(draw.choice(part)) for part in (SUBJECTS, VERBS, OBJECTS)).capitalize()
        start, end = at, at + round(float(draw.uniform(*CAPTION_S) * canvas.fps))
        at = end + max(1, round(float(draw.uniform(*CAPTION_GAP_S) * canvas.fps)))
        start, end = (_clear(min(edge, canvas.num_frames), freezes) for edge in (start, end))
        if end - start >= canvas.fps / 2:
            text = _wrapped(words, font_px, 0.6 * (picture.right - picture.left))
            caption = Caption(start, end, Box(0, 0, 0, 0), text, font_px, style, opacity)
            captions.append(_placed(caption, canvas, picture))
    return captions


def _clear(edge: int, freezes: Sequence[Freeze]) -> int:
    """Move the beginning or end of something seen out of a freeze, whose frames must stay alike."""
    return next((stop.start for stop in freezes if stop.start < edge < stop.end), edge)


def _wrapped(text: str, font_px: int, width_px: float) -> str:
    """Break a line where it would become too wide."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and _font(font_px).getlength(longer) > width_px:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)


Laid = TypeVar("Laid", Caption, Logo)


def _placed(record: Laid, canvas: Canvas, picture: Box) -> Laid:
    """Find the box: captions in the middle of the lower edge, logos in their corner, within the picture.

    Raises:
        RequestError: the picture is too small for it.
    """
    size = layer(record).box
    margin = max(2, round(MARGIN * min(canvas.height, canvas.width)))
    spare_x, spare_y = picture.right - picture.left - size.right, picture.bottom - picture.top - size.bottom
    if min(spare_x, spare_y) < 2 * margin:
        given = f"{canvas.width}x{canvas.height} has no room for a {record.kind}"
        raise RequestError(f"{given}. Use 320x240 or more, or leave {record.kind} out of the defects.")
    place = record.corner if isinstance(record, Logo) else "bottom"
    x = margin if "left" in place else spare_x - margin if "right" in place else spare_x // 2
    y = margin if "top" in place else spare_y - margin if "bottom" in place else spare_y // 2
    top, left = picture.top + y, picture.left + x
    return replace(record, box=Box(top, left, top + size.bottom, left + size.right))


def edges(seed: int, record: VariableRate, fps: Fraction) -> tuple[int, ...]:
    """Return when each frame begins and, at last, when the last one ends, in `TICKS` a second.

    Args:
        seed: of the file.
        record: how the durations vary.
        fps: the rate that they vary around, or that the fast stretches have.
    """
    draw, tick = np.random.default_rng([SEED, seed, 100]), TICKS / float(fps)
    number = record.end - record.start
    if record.style == "jitter":
        durations = tick * (1 + record.spread * draw.uniform(-1, 1, number))
    else:
        durations = np.full(number, tick)
        at = 0
        while at < number:
            fast, slow = (max(2, round(float(fps) * draw.uniform(0.3, 1.5))) for _ in range(2))
            durations[at + fast : at + fast + slow] *= 1 + 2 * record.spread
            at += fast + slow
    return tuple(accumulate((max(1, round(float(ticks))) for ticks in durations), initial=0))


# ---- copies ----------------------------------------------------------------------------------------------------------


def moved(record: Defect, offset: int, num_frames: int, high: Fraction, wide: Fraction) -> Defect | None:
    """Say where a defect lies in a copy of the file that lacks frames at its ends and has another size.

    Args:
        record: of the original.
        offset: frames left out at the beginning.
        num_frames: of the copy.
        high: its height over the original's.
        wide: its width over the original's.

    Returns:
        The record in the copy's frames and pixels, boxes rounded outwards; None where nothing of it is left.
    """
    start, end = (min(max(edge - offset, 0), num_frames) for edge in (record.start, record.end))
    if start >= end:
        return None
    lost = max(0, offset - record.start)
    record = replace(record, start=start, end=end)
    if isinstance(record, Caption | Logo):
        return replace(record, box=record.box.scaled(high, wide), font_px=round(record.font_px * high))
    if isinstance(record, Border):
        return replace(record, box=record.box.scaled(high, wide))
    if isinstance(record, Blur):
        seen_start, seen_end = (min(max(edge - offset, 0), num_frames) for edge in (record.seen_start, record.seen_end))
        return replace(record, seen_start=seen_start, seen_end=seen_end, sigma_px=record.sigma_px * float(high))
    if isinstance(record, Flash):
        return replace(record, amounts=record.amounts[lost : lost + end - start])
    return record
