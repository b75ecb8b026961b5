"""Find the vivid pieces of every frame and compare their outlines with the world's shapes.

A background's chroma is one vector, so the distance from it grows in proportion to how much of a pixel a thing covers.
Pieces of vivid colour become blobs: place, area, colour, sharpness, and a soft mask that is matched with templates of
every shape at every angle, drawn as soft as the picture is. Part of the oracle; docs/concepts/oracle.md explains its
limits.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from mutoscope.worlds.render import distance
from mutoscope.worlds.scene import SHAPES

# Chroma is what is left of a colour without its grey, in levels of 255.
MUTED_SPREAD = 58  # backgrounds reach 46, things on dark stripes begin at 83
MUTED_SHARE = 0.25  # of all pixels that must be muted before there is a background to speak of
THING_CHROMA = 26.0  # away from the background's: half of a thing's darkest corner, five times the tolerated noise
FAINT = 44.0  # below this level a thing that fades in is not yet seen: its dark stripes would still be missing
CLEAN_CHROMA = 13.0  # below this a pixel shows background only
SPECK_AREA = 0.009  # square units (9 pixels of 64 x 64): half of the smallest thing, small, shrunk and zoomed out
SOFT_LEVEL = 0.70  # of a thing's chroma counts as full cover, since stripes, dots and shading darken to about this
EDGE_BAND = (0.1, 0.5)  # of the level: outlines, but no dark stripe in a dark corner, which has 0.58
LEVEL_RANK = 0.85  # of a thing's pixels by chroma: its brightest stripes, without the brightest noise
GAP = 2  # pixels around a thing that belong neither to its core nor to the background

PATCH = 32  # grid points a side, over 1.75 radii each way
PATCH_REACH = 1.75
TURN_STEP = math.radians(5)
PERIOD = {"circle": 0, "ring": 0, "square": 90, "cross": 90, "star": 72, "triangle": 120, "heart": 360}  # degrees
TEMPLATE_RADII = tuple(2.2 * 1.3**power for power in range(15))  # pixels
TEMPLATE_SIGMAS = (0.4, 0.75)  # pixels: as drawn (and read between pixels), and as a good autoencoder leaves it


@dataclass(frozen=True)
class Blob:
    """One connected piece of vivid colour in one frame."""

    frame: int
    x: float  # units
    y: float
    radius: float  # equal-area, units
    level: float  # chroma where fully covered
    rgb: np.ndarray
    slope: float  # of the cover across the outline, per pixel
    pixels: np.ndarray  # flat indices into H W
    cover: np.ndarray  # 0 to 1 at those pixels


def chroma_of(rgb: Float[np.ndarray, "T H W 3"]) -> Float[np.ndarray, "T H W"] | None:
    """Return how far each pixel's chroma is from the background's: proportional to the cover of a thing."""
    # Where a thing covers a share a of a pixel, chroma is (1 - a) background + a thing, and one tone has one chroma.
    muted = rgb.max(axis=-1) - rgb.min(axis=-1) < MUTED_SPREAD
    if muted.mean() < MUTED_SHARE:
        return None
    plain = rgb[:, ::2, ::2][muted[:, ::2, ::2]]
    own = np.median(plain - plain.mean(axis=-1, keepdims=True), axis=0)
    offset = rgb - rgb.mean(axis=-1, keepdims=True) - own
    return np.sqrt(np.einsum("tyxc,tyxc->tyx", offset, offset))


def grown(mask: Bool[np.ndarray, "T H W"], by: int) -> Bool[np.ndarray, "T H W"]:
    """Add to a mask all pixels within `by` of it."""
    return functional.max_pool2d(torch.from_numpy(mask).float()[:, None], 2 * by + 1, 1, by)[:, 0].numpy() > 0


def _pieces(mask: Bool[np.ndarray, "T H W"]) -> Int[np.ndarray, "T H W"]:
    """Give each 8-connected piece of every frame a number from 1, 0 elsewhere, by hooking and pointer jumping."""
    number = np.full(mask.shape, -1)
    number[mask] = np.arange(mask.sum())
    links = []
    for one, other in (
        (number[:, :, :-1], number[:, :, 1:]),
        (number[:, :-1], number[:, 1:]),
        (number[:, :-1, :-1], number[:, 1:, 1:]),
        (number[:, :-1, 1:], number[:, 1:, :-1]),
    ):
        both = (one >= 0) & (other >= 0)
        links.append(np.stack([one[both], other[both]]))
    a, b = np.concatenate(links, axis=1)
    root = np.arange(mask.sum())
    while True:
        low = np.minimum(root[a], root[b])
        fresh = root.copy()
        np.minimum.at(fresh, root[a], low)
        np.minimum.at(fresh, root[b], low)
        while not np.array_equal(fresh, fresh[fresh]):
            fresh = fresh[fresh]
        if np.array_equal(fresh, root):
            break
        root = fresh
    pieces = np.zeros(mask.shape, np.int64)
    pieces[mask] = np.unique(root, return_inverse=True)[1] + 1
    return pieces


def find_blobs(
    rgb: Float[np.ndarray, "T H W 3"], chroma: Float[np.ndarray, "T H W"], vivid: Bool[np.ndarray, "T H W"]
) -> list[Blob]:
    """Measure every piece of vivid colour that is no speck."""
    _, height, width = vivid.shape
    unit = height / 2
    pieces = _pieces(vivid)
    halo = functional.max_pool2d(torch.from_numpy(pieces).float()[:, None], 2 * GAP + 1, 1, GAP)[:, 0].numpy()
    halo = np.where(vivid, pieces, halo.astype(np.int64)).reshape(-1)
    steep = np.hypot(np.gradient(chroma, axis=1), np.gradient(chroma, axis=2)).reshape(-1)
    flat_chroma, flat_rgb, core = chroma.reshape(-1), rgb.reshape(-1, 3), vivid.reshape(-1)
    where = np.flatnonzero(halo)
    where = where[np.argsort(halo[where], kind="stable")]
    starts = np.flatnonzero(np.diff(halo[where])) + 1
    blobs = []
    for pixels in np.split(where, starts) if len(where) else ():
        values = flat_chroma[pixels]
        inside = values[core[pixels]]
        if len(inside) < SPECK_AREA * unit**2:
            continue
        level = float(np.quantile(inside, LEVEL_RANK))
        if level < FAINT:
            continue
        cover = np.clip(values / (SOFT_LEVEL * level), 0, 1)
        rows, columns = np.divmod(pixels % (height * width), width)
        area = float(cover.sum())
        edge = (values > EDGE_BAND[0] * level) & (values < EDGE_BAND[1] * level)
        blobs.append(
            Blob(
                frame=int(pixels[0] // (height * width)),
                x=float((cover @ columns) / area + 0.5 - width / 2) / unit,
                y=float((cover @ rows) / area + 0.5 - height / 2) / unit,
                radius=math.sqrt(area / math.pi) / unit,
                level=level,
                rgb=flat_rgb[pixels[values >= 0.85 * level]].mean(axis=0),
                slope=float(steep[pixels[edge]].mean() / level) if edge.any() else 1.0,  # an edge on the grid
                pixels=pixels % (height * width),
                cover=cover,
            )
        )
    return blobs


@dataclass(frozen=True)
class Templates:
    """All shapes at all angles as `find_blobs` would measure them at one radius and softness."""

    covers: Float[Tensor, "N P"]
    turns: Float[np.ndarray, " N"]
    rows: dict[str, slice]
    swell: dict[str, float]  # measured radius over true radius: softness spreads a thing


@dataclass(frozen=True)
class Match:
    """How well each of N blobs agrees with one shape."""

    likeness: Float[np.ndarray, " N"]  # soft Dice with the best template
    turns: Float[np.ndarray, " N"]  # radians, of that template
    softness: Int[np.ndarray, " N"]  # its index in TEMPLATE_SIGMAS


@cache
def templates(radius_px: float, sigma_px: float) -> Templates:
    """Draw every shape at every angle on a patch and measure it as a blob is measured."""
    points = (np.arange(PATCH) + 0.5) / PATCH * 2 * PATCH_REACH - PATCH_REACH
    gap = points[:, None] - points
    covers: list[np.ndarray] = []
    turns: list[float] = []
    rows, swell = {}, {}
    for shape in SHAPES:
        begin, period = len(covers), math.radians(PERIOD[shape])
        scale = 1.0
        for turn in np.arange(0, period, period / round(period / TURN_STEP)) if period else (0.0,):
            cos, sin = math.cos(turn), math.sin(turn)
            for _ in range(2):  # measure the radius, then draw at that radius
                soft = np.exp(-0.5 * (gap * scale * radius_px / sigma_px) ** 2)
                soft /= soft.sum(axis=1, keepdims=True)
                y, x = np.meshgrid(points * scale, points * scale, indexing="ij")
                edge = distance(shape, cos * x + sin * y, cos * y - sin * x) * radius_px
                shown = soft @ np.clip(0.5 - edge, 0, 1) @ soft.T
                cover = np.clip(shown / (SOFT_LEVEL * np.quantile(shown[shown > 0.25], LEVEL_RANK)), 0, 1)
                scale *= math.sqrt(cover.mean() * (2 * PATCH_REACH) ** 2 / math.pi)
            covers.append(cover.reshape(-1))
            turns.append(float(turn))
        rows[shape], swell[shape] = slice(begin, len(covers)), scale
    return Templates(torch.from_numpy(np.stack(covers)).float(), np.array(turns), rows, swell)


def match_shapes(blobs: Sequence[Blob], height: int, width: int) -> dict[str, Match]:
    """Compare every blob with every shape's templates of about its radius."""
    unit = height / 2
    covers = np.zeros((len(blobs), height * width), np.float32)
    for row, blob in zip(covers, blobs, strict=True):
        row[blob.pixels] = blob.cover
    points = (torch.arange(PATCH) + 0.5) / PATCH * 2 * PATCH_REACH - PATCH_REACH
    radius, x, y = (torch.tensor([getattr(blob, name) for blob in blobs])[:, None] for name in ("radius", "x", "y"))
    across, down = (x + radius * points) * height / width, y + radius * points
    grid = torch.stack([across[:, None, :].expand(-1, PATCH, -1), down[:, :, None].expand(-1, -1, PATCH)], dim=-1)
    images = torch.from_numpy(covers).reshape(-1, 1, height, width)
    seen = rearrange(functional.grid_sample(images, grid.float(), align_corners=False), "n 1 h w -> n (h w)")
    found = {shape: Match(*(np.zeros(len(blobs), kind) for kind in (float, float, int))) for shape in SHAPES}
    radii = np.array([blob.radius * unit for blob in blobs])
    nearest = np.abs(np.log(radii[:, None] / np.array(TEMPLATE_RADII))).argmin(axis=1)
    for place in np.unique(nearest):
        which = np.flatnonzero(nearest == place)
        banks = [templates(TEMPLATE_RADII[place], sigma) for sigma in TEMPLATE_SIGMAS]
        these = seen[torch.from_numpy(which)]
        energies = [these.square().sum(1)[:, None] + bank.covers.square().sum(1) for bank in banks]
        dice = torch.stack([2 * these @ b.covers.T / energy for b, energy in zip(banks, energies, strict=True)]).numpy()
        for shape, rows in banks[0].rows.items():
            best = rearrange(dice[:, :, rows], "s n r -> n (s r)")
            softness, row = np.divmod(best.argmax(axis=1), rows.stop - rows.start)
            found[shape].likeness[which] = best.max(axis=1)
            found[shape].turns[which] = banks[0].turns[rows][row]
            found[shape].softness[which] = softness
    return found
