"""From the planes of decoded frames to numbers: what `signals` measures on each frame, in batches of fixed size.

    Y plane ──halve──> ... ──> small, about 160 x 90 ──> tile 32 x 32 ──> cells 8 x 8
    U, V ────halve──> ... ──> tiles 16 x 16 ──> cells 4 x 4

Halving by means of 2 x 2 pixels is the one reduction that OpenCV does at the speed of memory, so sizes fall by halves
and only the last, small step interpolates. Everything past the small frame is done for a whole batch at once.
Levels are those of limited-range video (black 16, white 235, colourless 128); full-range frames are brought to it.
"""

import itertools
import math
from dataclasses import dataclass

import cv2
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from einops import rearrange, reduce
from jaxtyping import Float32, UInt8, UInt16, UInt64

from mutoscope.core.frames import SCALING, opaque

Plane = UInt8[np.ndarray, "_ _"] | UInt16[np.ndarray, "_ _"]  # of any size

SMALL_AREA_PX = 160 * 90
FLOW_AREA_PX = 128 * 72
OBLONG = 16  # how many times longer than high, or higher than long, the small frame may be
# OpenCV chooses the scales of DIS by the width alone once a side is below 32 pixels (patches of 8 at a quarter of the
# size), and writes out of bounds where the height has no room for them: 128 * 72 pixels have such a side beyond 9 : 1
FLOW_OBLONG = 9
TILE, CHROMA_TILE = 32, 16
CELLS, CHROMA_CELLS = 8, 4
NUM_CELLS = CELLS**2 + 2 * CHROMA_CELLS**2
EDGE_LEVELS = 12  # a step between neighbours of the small frame that makes an edge
STILL_LEVELS = 2  # what compression does to pixels that do not change
LEAST_SHIFT = 1.0  # levels by which a point must be expected to change to say whether the camera moves
STOOD_SHARE = 0.1  # of that change: what changes less has not moved
STOOD_POINTS, STOOD_LEAST = 0.5, 4  # share and number of such points from which the camera stands, whatever moves
BORDER_LEVELS = 10  # how far the pixels of a flat border may stray from its colour
BORDER_SHARE = 0.98  # of the pixels of a row, those which must not: specks of compression are allowed
BLACK, WHITE, GREY, LUMA_RANGE, CHROMA_RANGE = 16, 235, 128, 219.0, 224.0

DCT = np.cos(np.pi / TILE * (np.arange(TILE) + 0.5)[None] * np.arange(8)[:, None]).astype(np.float32)
PLANAR = {"yuv420p": 0, "yuv422p": 0, "yuv444p": 0} | {f"yuv{kind}p10le": 2 for kind in (420, 422, 444)}

cv2.setNumThreads(1)  # one process per core decodes faster than threads do


@dataclass(frozen=True)
class Planes:
    """The planes of one frame as stored: luma and two chroma planes, of 8 bits and `shift` more."""

    luma: Plane
    chroma: tuple[Plane, Plane]
    shift: int
    is_full_range: bool

    @property
    def all(self) -> tuple[Plane, Plane, Plane]:
        """Y, U and V."""
        return self.luma, *self.chroma


def planes_of(frame: VideoFrame, convert: VideoReformatter) -> Planes:
    """Look into a frame without a copy; formats that are not planar YUV are converted first."""
    name = frame.format.name
    is_full_range = frame.color_range == 2 or name.startswith("yuvj")
    name = name.replace("yuvj", "yuv")
    if name not in PLANAR:
        frame = convert.reformat(opaque(frame), format="yuv420p", interpolation=SCALING, threads=1)
        name, is_full_range = "yuv420p", frame.color_range == 2
    shift = PLANAR[name]
    kind = np.dtype("<u2" if shift else "u1")
    luma, *chroma = (
        np.frombuffer(memoryview(plane), kind).reshape(plane.height, -1)[:, : plane.width] for plane in frame.planes[:3]
    )
    return Planes(luma, (chroma[0], chroma[1]), shift, is_full_range)


@dataclass(frozen=True)
class Levels:
    """One frame at falling sizes, upright: `large` and `chroma` for pictures, `small`, and the tiles."""

    large: UInt8[np.ndarray, "H W"]
    chroma: tuple[UInt8[np.ndarray, "_ _"], UInt8[np.ndarray, "_ _"]]
    small: UInt8[np.ndarray, "h w"]
    tile: UInt8[np.ndarray, "32 32"]
    chroma_tiles: UInt8[np.ndarray, "2 16 16"]


def small_size(width: int, height: int, area_px: int = SMALL_AREA_PX, oblong: float = OBLONG) -> tuple[int, int]:
    """Return width and height of about `area_px` pixels in the same proportion, in steps of four and two.

    Args:
        width: of the frame.
        height: of the frame.
        area_px: pixels wanted.
        oblong: the greatest proportion of the two sides; a frame beyond it is squeezed.
    """
    aspect = min(max(width / height, 1 / oblong), oblong)
    wide = max(4, 4 * round(math.sqrt(area_px * aspect) / 4))
    return wide, max(4, 2 * round(area_px / wide / 2))


def levels_of(planes: Planes, size: tuple[int, int], picture_px: int, turn: int) -> Levels:
    """Reduce a frame.

    Args:
        planes: the frame.
        size: width and height of the small frame.
        picture_px: the short side down to which the large level may fall.
        turn: how the frame is to be turned to be upright, clockwise, in quarter turns.
    """
    sides = (picture_px, picture_px // 2, picture_px // 2)
    stored = [_halved(plane, CHROMA_TILE**2, side) for plane, side in zip(planes.all, sides, strict=True)]
    if planes.shift or planes.is_full_range:
        stored = [_standard(plane, planes, is_luma=index == 0) for index, plane in enumerate(stored)]
    if turn:
        stored = [np.ascontiguousarray(np.rot90(plane, -turn)) for plane in stored]
    large, *chroma = stored
    small = _resized(_halved(large, size[0] * size[1]), size)
    tile = _resized(_halved(small, TILE**2 * 2), (TILE, TILE))
    tiles = [_resized(_halved(plane, CHROMA_TILE**2 * 2), (CHROMA_TILE, CHROMA_TILE)) for plane in chroma]
    return Levels(large, (chroma[0], chroma[1]), small, tile, np.stack(tiles))


def _halved(plane: Plane, area_px: int, short_side_px: int = 1) -> Plane:
    """Halve while no fewer than `area_px` pixels are left, and no shorter side."""
    height, width = plane.shape
    while (width // 2) * (height // 2) >= area_px and min(width, height) // 2 >= short_side_px:
        height, width = height // 2, width // 2
        plane = cv2.resize(plane[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)
    return plane


def _resized(plane: Plane, size: tuple[int, int]) -> Plane:
    if plane.shape == size[::-1]:
        return plane
    return cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR)


def _standard(plane: Plane, planes: Planes, is_luma: bool) -> UInt8[np.ndarray, "_ _"]:
    """Bring levels to 8 bits and limited range."""
    zero, span = (BLACK, LUMA_RANGE) if is_luma else (GREY, CHROMA_RANGE)
    full_zero = 0 if is_luma else GREY
    gain = span / 255 if planes.is_full_range else 1.0
    gain /= 1 << planes.shift
    offset = zero - gain * (full_zero << planes.shift) if planes.is_full_range else 0.0
    return cv2.convertScaleAbs(plane, alpha=gain, beta=offset)


# ---- one sampled frame -----------------------------------------------------------------------------------------------


def picture(levels: Levels, size: tuple[int, int], is_bt709: bool, quality: int) -> bytes:
    """Return a frame as a small JPEG.

    Args:
        levels: the frame.
        size: width and height.
        is_bt709: whether colours are coded as HD video has them (ITU-R BT.709), else as SD video (BT.601).
        quality: of the JPEG, 1 to 100.
    """
    stacked = cv2.merge([_resized(plane, size) for plane in (levels.large, *levels.chroma)])
    red, blue = (0.2126, 0.0722) if is_bt709 else (0.299, 0.114)
    green = 1 - red - blue
    luma, chroma = 255 / LUMA_RANGE, 255 / CHROMA_RANGE
    from_u, from_v = 2 * (1 - blue) * chroma, 2 * (1 - red) * chroma
    matrix = np.array(
        [
            [luma, from_u, 0],
            [luma, -from_u * blue / green, -from_v * red / green],
            [luma, 0, from_v],
        ]
    )
    offset = -matrix @ np.array([BLACK, GREY, GREY])
    pixels = cv2.transform(stacked, np.hstack([matrix, offset[:, None]]).astype(np.float32))
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def detail(luma: Plane, shift: int) -> float:
    """Return the variance of the Laplacian of the middle half of the frame at its own size, in 8-bit levels squared."""
    height, width = luma.shape
    middle = np.ascontiguousarray(luma[height // 4 : height - height // 4, width // 4 : width - width // 4])
    response = cv2.Laplacian(middle, cv2.CV_32F if shift else cv2.CV_16S)
    return float(cv2.meanStdDev(response)[1][0, 0] ** 2) / 4**shift


def borders(luma: Plane, shift: int) -> tuple[float, float, float, float]:
    """Return the shares of height and width that flat borders take: top, bottom, left, right, as stored.

    A border has one colour, that of the outermost line; on a frame of one colour, each takes all.
    """
    unit = 1 << shift
    shares = []
    for lines in (luma, luma[::-1], luma.T, luma.T[::-1]):
        colour = float(np.median(lines[0]))
        low, high = colour - BORDER_LEVELS * unit, colour + BORDER_LEVELS * unit
        depth = 0
        for step in range(0, len(lines), 32):  # most frames have none, and are done after the first few lines
            block = np.ascontiguousarray(lines[step : step + 32])
            flat = cv2.inRange(block, low, high).mean(axis=1) >= 255 * BORDER_SHARE
            depth += len(flat) if flat.all() else int(flat.argmin())
            if not flat.all():
                break
        shares.append(depth / len(lines))
    return shares[0], shares[1], shares[2], shares[3]


# ---- a batch of frames -----------------------------------------------------------------------------------------------


def histograms(small: UInt8[np.ndarray, "n h w"]) -> Float32[np.ndarray, "n 256"]:
    """Return the share of pixels at each level."""
    counts = [cv2.calcHist([frame], [0], None, [256], [0, 256]).ravel() for frame in small]
    return np.stack(counts) / np.float32(small[0].size)


def luma_statistics(shares: Float32[np.ndarray, "n 256"]) -> dict[str, Float32[np.ndarray, " n"]]:
    """Return mean, deviation, and the 5th and 95th percentile, where black is 0 and white is 1."""
    level = (np.arange(256, dtype=np.float32) - BLACK) / np.float32(LUMA_RANGE)
    mean = shares @ level
    spread = np.sqrt(np.maximum(shares @ (level * level) - mean * mean, 0))
    sums = np.cumsum(shares, axis=1)
    low, high = ((sums < share).sum(axis=1).clip(max=255) for share in (0.05, 0.95))
    return {"luma_mean": mean, "luma_std": spread, "luma_low": level[low], "luma_high": level[high]}


def coarse_histograms(shares: Float32[np.ndarray, "n 256"]) -> UInt8[np.ndarray, "n 32"]:
    """Return 32 bins as roots of their shares, 255 for all pixels; the root keeps small shares apart from none."""
    return np.rint(255 * np.sqrt(np.clip(reduce(shares, "n (bins k) -> n bins", "sum", k=8), 0, 1))).astype(np.uint8)


def hashes(tiles: UInt8[np.ndarray, "n 32 32"]) -> UInt64[np.ndarray, " n"]:
    """Return perceptual hashes: which of the 8 x 8 lowest frequencies lie above their median (Zauner 2010, 3.2.1)."""
    low = DCT @ tiles.astype(np.float32) @ DCT.T
    flat = rearrange(low, "n h w -> n (h w)")
    # the mean level is left out of the median, as it says nothing of structure
    above = flat > np.median(flat[:, 1:], axis=1, keepdims=True)
    return np.packbits(above, axis=1).view(">u8")[:, 0].astype(np.uint64)


def cells_of(
    tiles: UInt8[np.ndarray, "n 32 32"], chroma: UInt8[np.ndarray, "n 2 16 16"]
) -> UInt8[np.ndarray, "n cells"]:
    """Return the means of 8 x 8 cells of luma and 4 x 4 cells of U and of V."""
    parts = [
        reduce(tiles.astype(np.float32), "n (h a) (w b) -> n (h w)", "mean", a=TILE // CELLS, b=TILE // CELLS),
        reduce(chroma.astype(np.float32), "n c (h a) (w b) -> n (c h w)", "mean", a=4, b=4),
    ]
    return np.rint(np.concatenate(parts, axis=1)).astype(np.uint8)


def sharpness(small: UInt8[np.ndarray, "n h w"]) -> Float32[np.ndarray, " n"]:
    """Return the variance of the Laplacian of each frame, in levels squared."""
    found = []
    for frame in small:
        response = cv2.Laplacian(frame, cv2.CV_16S)
        mean = cv2.mean(response)[0]
        found.append(cv2.norm(response, cv2.NORM_L2SQR) / response.size - mean * mean)
    return np.array(found, np.float32)


def changes(small: UInt8[np.ndarray, "n h w"]) -> tuple[Float32[np.ndarray, " m"], Float32[np.ndarray, " m"]]:
    """Return from each frame to the next the mean change, where 1 is black to white, and the share of still pixels."""
    found = []
    for before, after in itertools.pairwise(small):
        change = cv2.absdiff(after, before)
        moved = cv2.countNonZero(cv2.threshold(change, STILL_LEVELS, 1, cv2.THRESH_BINARY)[1])
        found.append((cv2.mean(change)[0] / LUMA_RANGE, 1 - moved / change.size))
    change, still = np.array(found, np.float32).T
    return change, still


def edge_changes(small: UInt8[np.ndarray, "n h w"]) -> Float32[np.ndarray, " m"]:
    """Return at each frame the larger of the shares of edges that come and that go (Zabih et al. 1995).

    An edge that moves by up to two pixels neither comes nor goes.
    """
    enough = 0.002 * small[0].size  # of a handful of edges, shares say nothing
    around = np.ones((5, 5), np.uint8)
    steps = np.zeros_like(small[0])
    shares, before = [], None
    for frame in small:  # one by one, as what is at hand stays in the cache
        cv2.absdiff(frame[:, 1:], frame[:, :-1], dst=steps[:, 1:])
        steps[:, 0] = 0
        cv2.max(steps[1:], cv2.absdiff(frame[1:], frame[:-1]), dst=steps[1:])
        steps[0] = 0
        edge = cv2.threshold(steps, EDGE_LEVELS, 1, cv2.THRESH_BINARY)[1]
        after = edge, cv2.dilate(edge, around), cv2.countNonZero(edge)
        if before is not None:
            kept, stayed = (cv2.countNonZero(one[0] & other[1]) for one, other in ((after, before), (before, after)))
            shares.append(max((after[2] - kept) / max(after[2], enough), (before[2] - stayed) / max(before[2], enough)))
        before = after
    return np.array(shares, np.float32)


@dataclass(frozen=True)
class Flow:
    """Optical flow between small frames (DIS, Kroeger et al. 2016), and the camera's part in it."""

    size: tuple[int, int]
    aspect: float
    engine: cv2.DISOpticalFlow

    @classmethod
    def of(cls, width: int, height: int) -> "Flow":
        """Choose the size at which frames of such a shape are compared."""
        engine = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        return cls(small_size(width, height, FLOW_AREA_PX, FLOW_OBLONG), width / height, engine)

    def between(
        self, small: UInt8[np.ndarray, "m h w"]
    ) -> tuple[Float32[np.ndarray, "n points 2"], Float32[np.ndarray, "n points 3"]]:
        """Return from each frame to the next the motion at a grid of points, in frame widths, and what is seen there.

        Seen are, in levels, the mean steps to the pixel beside and below, and the mean change, of 8 x 8 pixels.
        """
        grid = np.s_[12:-8:8, 12:-8:8]
        width, height = self.size
        high, wide = len(range(12, height - 8, 8)), len(range(12, width - 8, 8))
        inner = np.s_[8 : 8 + 8 * high, 8 : 8 + 8 * wide]
        eight = np.full((1, 8), 1 / 8, np.float32)  # means of 8 x 8 pixels as two products of matrices
        down, across = np.kron(np.eye(high, dtype=np.float32), eight), np.kron(np.eye(wide, dtype=np.float32), eight.T)
        motions, seen = [], []
        for before, after in itertools.pairwise([_resized(frame, self.size) for frame in small]):
            # None: an array here would be the first guess; the stubs do not know
            field = self.engine.calc(before, after, None)  # pyright: ignore[reportCallIssue, reportArgumentType]
            motions.append(field[grid])
            changes = ((before[:, 1:], before[:, :-1]), (before[1:], before[:-1]), (after, before))
            seen.append([down @ cv2.absdiff(*pair)[inner].astype(np.float32) @ across for pair in changes])
        moved = np.stack(motions) / np.float32(self.size[0])
        moved[..., 1] *= self._stretch
        return rearrange(moved, "n h w xy -> n (h w) xy"), rearrange(np.array(seen), "n step h w -> n (h w) step")

    def camera(
        self, motions: Float32[np.ndarray, "n points 2"], seen: Float32[np.ndarray, "n points 3"]
    ) -> Float32[np.ndarray, "n 5"]:
        """Explain motion by a pan, zoom and roll of the camera, least squares made robust by reweighting.

        Where a ground is empty, flow spreads over it from the things that move, or follows noise, and looks like a
        camera. So its motion counts only if the points that it would change did change.

        Args:
            motions: of the points, from `between`.
            seen: at the points, from `between`.

        Returns:
            x, y in frame widths, log of the zoom, roll in radians, and the mean motion that is left, in frame widths.
        """
        x, y = self._points
        zero, one = np.zeros_like(x), np.ones_like(x)
        design = np.stack([np.stack([one, zero, x, -y], -1), np.stack([zero, one, y, x], -1)], axis=1)  # points 2 4
        rows = rearrange(design, "points xy way -> (points xy) way")
        wanted = rearrange(motions, "n points xy -> n (points xy) 1")
        weight = np.ones(motions.shape[:2], np.float32)
        ridge = 1e-6 * np.eye(4, dtype=np.float32)
        for _ in range(4):
            weighted = rows * np.repeat(weight, 2, axis=1)[..., None]
            normal = rows.T @ weighted + ridge
            motion = np.linalg.solve(normal, rearrange(weighted, "n row way -> n way row") @ wanted)[..., 0]
            explained = rearrange(motion @ rows.T, "n (points xy) -> n points xy", xy=2)
            left = np.linalg.norm(motions - explained, axis=-1)
            scale = np.median(left, axis=1, keepdims=True) + np.float32(1e-4)
            weight = (1 / (1 + np.square(left / scale))).astype(np.float32)
        shift = np.abs(explained) * np.float32(self.size[0])  # in pixels
        shift[..., 1] /= self._stretch
        # further than a few pixels, where another edge comes, more motion makes no more change
        expected = (seen[..., :2] * np.minimum(shift, 4)).sum(axis=-1)
        tells = expected >= LEAST_SHIFT
        stood = (tells & (seen[..., 2] < STOOD_SHARE * expected)).sum(axis=1)
        stands = (tells.sum(axis=1) >= STOOD_LEAST) & (stood >= STOOD_POINTS * tells.sum(axis=1))
        motion[stands] = 0
        rest = np.where(stands[:, None], np.linalg.norm(motions, axis=-1), left).mean(axis=1)
        return np.column_stack([motion, rest]).astype(np.float32)

    @property
    def _stretch(self) -> float:
        """How much higher a pixel of the compared size is than wide."""
        return self.size[0] / self.size[1] / self.aspect

    @property
    def _points(self) -> tuple[Float32[np.ndarray, " points"], Float32[np.ndarray, " points"]]:
        width, height = self.size
        y, x = np.mgrid[12 : height - 8 : 8, 12 : width - 8 : 8].astype(np.float32)
        x, y = (x + 0.5) / width - 0.5, ((y + 0.5) / height - 0.5) / self.aspect
        return x.ravel(), y.ravel()
