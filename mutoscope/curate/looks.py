"""What the small pictures in a table of frames show: bars, blur, burnt-in captions, and what is laid over all of them.

    picture ─┬─ bars: how much of each side of the frame is a dark bar that the image meets along a straight line
             ├─ captions: lines of bright strokes on dark, low and in the middle
             ├─ softness: how wide the sharper edges are, which is blur
             └─ Overlay: what keeps its edges while the picture changes, which is a logo or a watermark

A picture has a short side of about 256 pixels, so it is far less work than a frame, and there is one a second.
"""

from dataclasses import dataclass, field

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from mutoscope.core.errors import MediaError

Picture = UInt8[np.ndarray, "h w"]
Mask = Bool[np.ndarray, "h w"]
Sides = tuple[float, float, float, float]  # top, bottom, left, right, in shares of height and width
Box = tuple[float, float, float, float]  # top, left, bottom, right, in the same

DARK = 48  # of 255: the brightest that a bar is
BLANK = 0.8  # a share of one side from which the frame is flat, not barred
SEEN = 0.75  # of the edge of a bar, along which the image must be seen to begin
BLUR_WIDTH = 1.5  # pixels by which a picture is blurred once more to see how soft it was
EDGE = 2.0  # levels a pixel: the faintest edge that tells how soft the picture is
CELL = 16  # pixels, the side of the cells that edges are gathered in
SATURATED = 4.0  # levels a pixel at which an edge counts by half
STAYS = 0.4  # of the pictures in which an edge must lie to be laid over them
ENOUGH = 3.5  # pictures unlike each other, fewer do not tell what is laid over them
QUIET, LOUD = 3.0, 12.0  # mean levels by which a picture differs from the last: none of another, wholly another
SMALLEST = 0.0006  # of the picture, that a mark covers
LARGEST = 0.08


def opened(data: bytes) -> Picture:
    """Decode a picture to grey, black 0 and white 255."""
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    if picture is None:
        raise MediaError("The table of frames holds a picture that cannot be read. Measure the video again.")
    return picture


def covered(shape: tuple[int, ...], boxes: list[Box], margin: float = 0.02) -> Mask:
    """Return where boxes lie in a picture, grown by a share of its height on all sides."""
    height, width = shape
    mask, grow = np.zeros((height, width), np.bool_), margin * height
    for top, left, bottom, right in boxes:
        rows = slice(max(0, int(top * height - grow)), int(np.ceil(bottom * height + grow)))
        mask[rows, max(0, int(left * width - grow)) : int(np.ceil(right * width + grow))] = True
    return mask


# ---- bars ------------------------------------------------------------------------------------------------------------


def bars(picture: Picture, flat: Sides) -> tuple[Sides, Sides]:
    """Say how far dark bars reach into a frame, and along what share of each bar's edge the image is seen to begin.

    Args:
        picture: the frame, small.
        flat: the share of the frame that is of one colour, from each side; found at the frame's own size.

    Returns:
        The shares of dark bars, 0 where the side is bright; and the shares of the edges at which the image differs.
    """
    depths, seen = [0.0] * 4, [0.0] * 4
    sides = (picture, picture[::-1], picture.T, picture.T[::-1])
    across = flat
    for _ in range(2):  # the second time, sides that turned out to have no bar are a part of the image
        for side, turned in enumerate(sides):
            line = flat[side] * len(turned)
            level = float(np.median(turned[: max(1, round(line) - 1)]))
            if not 0 < flat[side] < BLANK or level > DARK:
                continue
            before, after = across[2:] if side < 2 else across[:2]
            low, high = round(before * turned.shape[1]), round((1 - after) * turned.shape[1])
            inside = turned[round(line) + 1 : round(line) + 5, low:high]
            depths[side] = flat[side]
            if inside.size:
                seen[side] = float((np.abs(inside.astype(np.int16) - level).max(axis=0) > 16).mean())
        across = certain((depths[0], depths[1], depths[2], depths[3]), (seen[0], seen[1], seen[2], seen[3]))
    return (depths[0], depths[1], depths[2], depths[3]), (seen[0], seen[1], seen[2], seen[3])


def certain(depths: Sides, seen: Sides) -> Sides:
    """Return the bars at whose edge the image is seen to begin, 0 for the other sides."""
    top, bottom, left, right = (depth if edge >= SEEN else 0.0 for depth, edge in zip(depths, seen, strict=True))
    return top, bottom, left, right


def around(sides: Sides) -> list[Box]:
    """Return the boxes that bars cover."""
    top, bottom, left, right = sides
    boxes = [(0, 0, top, 1), (1 - bottom, 0, 1, 1), (0, 0, 1, left), (0, 1 - right, 1, 1)]
    return [box for box, depth in zip(boxes, sides, strict=True) if depth > 0]


# ---- captions --------------------------------------------------------------------------------------------------------


def captions(picture: Picture) -> list[Box]:
    """Find lines of burnt-in text where captions stand: low, in the middle, bright strokes on something dark.

    Text of other kinds, or in other places, is for a reader of text to find.
    """
    height, width = picture.shape
    top = round(0.54 * height)
    part = picture[top:]
    strokes = cv2.morphologyEx(part, cv2.MORPH_TOPHAT, np.ones((9, 9), np.uint8))
    bright = ((strokes > 70) & (part > 150)).astype(np.uint8)
    lines = cv2.morphologyEx(bright, cv2.MORPH_CLOSE, np.ones((1, 13), np.uint8))
    lines = cv2.morphologyEx(lines, cv2.MORPH_OPEN, np.ones((3, 9), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(lines)
    found: list[Box] = []
    for number in range(1, count):
        x, y, wide, high = (int(value) for value in stats[number][:4])
        inside = bright[y : y + high, x : x + wide] & (labels[y : y + high, x : x + wide] == number)
        if _is_line(inside, height, width, x):
            left, right = (x - 3) / width, (x + wide + 3) / width
            found.append(((top + y - 2) / height, left, (top + y + high + 2) / height, right))
    return found


def _is_line(strokes: UInt8[np.ndarray, "_ _"], height: int, width: int, left: int) -> bool:
    high, wide = strokes.shape
    is_of_size = 0.02 * height <= high <= 0.12 * height and max(3 * high, 0.12 * width) <= wide <= 0.95 * width
    is_centred = abs(left + wide / 2 - width / 2) <= 0.06 * width
    if not (is_of_size and is_centred):
        return False
    turns = np.abs(np.diff(strokes.astype(np.int8), axis=1)).sum(axis=1).max()
    return bool(0.12 <= strokes.mean() <= 0.65 and turns >= 1.2 * wide / high)


# ---- blur ------------------------------------------------------------------------------------------------------------


def softness(picture: Picture, left_out: Mask) -> float:
    """Return the width of the sharper edges, as the deviation of a Gaussian blur, as a share of the height.

    An edge that is blurred once more loses the more of its slope the sharper it was (Zhuo & Sim 2011, equation 5).

    Args:
        picture: the frame, small.
        left_out: where edges are not to be looked at, as at bars and text.

    Returns:
        The share; nan where there are too few edges to tell.
    """
    grey = cv2.GaussianBlur(picture, (0, 0), 0.7).astype(np.float32)  # against the blocks of JPEG
    slope = np.hypot(*_gradient(grey))
    softer = np.hypot(*_gradient(cv2.GaussianBlur(grey, (0, 0), BLUR_WIDTH)))
    strong = max(EDGE, 0.2 * float(np.quantile(slope[~left_out], 0.995))) if not left_out.all() else EDGE
    is_edge = (slope >= strong) & (slope >= cv2.dilate(slope, np.ones((3, 3), np.uint8)) - 1e-3) & ~left_out
    rows, columns = np.nonzero(is_edge)
    ratio = slope[rows, columns] / np.maximum(softer[rows, columns], 1e-3)
    width = np.sqrt(np.maximum(BLUR_WIDTH**2 / np.maximum(ratio**2 - 1, 1e-3) - 0.7**2, 0.01))
    cells = rows // CELL * (picture.shape[1] // CELL + 1) + columns // CELL
    names, counts = np.unique(cells, return_counts=True)
    found = [np.median(width[cells == name]) for name in names[counts >= 3]]
    return float(np.quantile(found, 0.25)) / picture.shape[0] if len(found) >= 3 else float("nan")


def _gradient(grey: Float32[np.ndarray, "h w"]) -> tuple[Float32[np.ndarray, "h w"], Float32[np.ndarray, "h w"]]:
    """Return half the differences of neighbours, along x and y, in levels a pixel."""
    along_x, along_y = np.zeros_like(grey), np.zeros_like(grey)
    along_x[:, 1:-1] = (grey[:, 2:] - grey[:, :-2]) / 2
    along_y[1:-1] = (grey[2:] - grey[:-2]) / 2
    return along_x, along_y


def directions(picture: Picture, left_out: Mask) -> Float32[np.ndarray, "2 h w"]:
    """Return the direction of edges along x and y, of length 1 where they are strong and 0 where there are none."""
    edges = np.stack(_gradient(cv2.GaussianBlur(picture, (0, 0), 0.7).astype(np.float32)))
    edges /= np.hypot(*edges) + SATURATED
    edges[:, left_out] = 0
    return edges


# ---- what is laid over -----------------------------------------------------------------------------------------------


@dataclass
class Overlay:
    """Edges that stay while pictures change: a sum over the pictures of a source, each by how unlike the last it is.

    A picture is unlike another where both its edges and its light are: noise changes the edges alone, a fade the light.
    """

    weight: float = 0.0
    _sum: Float32[np.ndarray, "2 h w"] | None = field(default=None, repr=False)
    _last: tuple[Float32[np.ndarray, "2 h w"], Float32[np.ndarray, "_ _"]] | None = field(default=None, repr=False)

    def add(self, picture: Picture, edges: Float32[np.ndarray, "2 h w"]) -> None:
        """Take in a picture and its `directions`."""
        light = cv2.resize(picture, (16, 16), interpolation=cv2.INTER_AREA).astype(np.float32)
        if self._sum is None or self._last is None:
            self._sum, self._last, self.weight = edges.copy(), (edges, light), 1.0
            return
        before, light_before = self._last
        total = float((np.abs(edges) + np.abs(before)).sum())
        change = float(np.abs(edges - before).sum()) / max(1e-6, total)
        levels = float(np.abs(light - light_before).mean())
        weight = change * min(1.0, max(0.0, levels - QUIET) / (LOUD - QUIET))
        self._sum += np.float32(weight) * edges
        self._last, self.weight = (edges, light), self.weight + weight

    def marks(self) -> list["Mark"] | None:
        """Return what is laid over the pictures, None where they change too little to tell."""
        if self._sum is None or self.weight < ENOUGH:
            return None
        mean = self._sum / np.float32(self.weight)
        stays = np.hypot(*mean)
        strong = (stays >= max(STAYS, 1.4 / self.weight)).astype(np.uint8)
        grown = cv2.dilate(strong, np.ones((9, 15), np.uint8))
        count, labels, stats, _ = cv2.connectedComponentsWithStats(grown)
        found = []
        for number in range(1, count):
            here = (labels == number) & (strong > 0)
            if here.sum() < 30 or stats[number][4] < SMALLEST * strong.size:
                continue
            mark = Mark.of(here, mean)
            # what runs out of the picture is a part of what a camera on a stand looks at
            if min(mark.box[0], mark.box[1], 1 - mark.box[2], 1 - mark.box[3]) > 0.01:
                found.append(mark)
        total = sum(mark.share for mark in found)
        return [] if total > LARGEST else found


@dataclass(frozen=True)
class Mark:
    """A logo or watermark: its box, the pixels of its edges, and their directions."""

    box: Box
    share: float
    strength: float
    _where: tuple[np.ndarray, np.ndarray] = field(repr=False)
    _mean: Float32[np.ndarray, "2 pixels"] = field(repr=False)

    @classmethod
    def of(cls, here: Mask, mean: Float32[np.ndarray, "2 h w"]) -> "Mark":
        """Describe the edges that stay in one place."""
        height, width = here.shape
        rows, columns = np.nonzero(here)
        top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
        box = (float(top / height), float(left / width), float(bottom / height), float(right / width))
        share = (box[2] - box[0]) * (box[3] - box[1])
        edges = mean[:, rows, columns]
        return cls(box, share, float(np.hypot(*edges).mean()), (rows, columns), edges)

    def presence(self, edges: Float32[np.ndarray, "2 h w"]) -> float:
        """Return how much of the mark is seen in the `directions` of a picture: 1 all, 0 nothing."""
        seen = edges[:, self._where[0], self._where[1]]
        return float((seen * self._mean).sum() / max(1e-6, float((self._mean**2).sum())))
