"""Photos: what a picture file holds, and its pixels as they are meant to be seen.

    file ── photo ──> Photo: size, upright; None for a video or animation
      └── read_image ──> one frame, "H W 3" uint8

Of a file with several pages or pictures the first is read, and that is said. Numbers of which nobody knows which is
white (32 bits, whole or real) are refused: to guess would show nonsense.
"""

import struct
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from mutoscope.core.errors import MediaError
from mutoscope.core.media import Frame, existing, reason

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")  # a JPEG may turn out to be MPO, several pictures in one
PLAIN = ("1", "L", "P", "RGB", "LA", "RGBA")  # modes that any reader shows alike
ORIENTATION = 0x0112  # tag of EXIF and TIFF
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SUBFILE, BITS, WHITE_IS_ZERO = 254, 258, 262  # tags of TIFF
IS_NO_PAGE = 0b101  # flags of `SUBFILE`: a smaller copy of another page, a mask
# what the parsers of Pillow stumble over in a file that makes no sense
DAMAGE = (OSError, SyntaxError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError, struct.error)


@dataclass(frozen=True)
class Photo:
    """What a picture file holds.

    Args:
        height: pixels, upright.
        width: pixels, upright.
        codec: such as ``jpeg``.
        is_plain: any reader shows it as it is: upright, one picture, 8 bits a channel or less, RGB or grey.
        notices: choices made in reading it, in words.
    """

    height: int
    width: int
    codec: str
    is_plain: bool
    notices: tuple[str, ...] = ()


def photo(path: Path) -> Photo | None:
    """Say what a photo holds, from its header; None for what is not a photo.

    Raises:
        MediaError: it is damaged, or of a kind that cannot be shown.
    """
    with _opened(path) as image:
        if image is None:
            return None
        turn = _turn(image)
        is_on_its_side = turn is not None and turn not in (TURNS[2], TURNS[3], TURNS[4])
        height, width = (image.width, image.height) if is_on_its_side else (image.height, image.width)
        pages = getattr(image, "n_frames", 1)
        notices = [f"holds {pages} pictures; number {image.tell() + 1} is read"] if pages > 1 else []
        is_plain = image.mode in PLAIN and turn is None and pages == 1 and not _is_animated_webp(path, image)
        return Photo(height, width, (image.format or "").lower(), is_plain, tuple(notices))


def photo_size(path: Path) -> tuple[int, int] | None:
    """Return height and width of a photo, upright, from its header; None for what is not a photo."""
    found = photo(path)
    return None if found is None else (found.height, found.width)


def check_whole(path: Path) -> None:
    """Read a photo through, a JPEG without drawing it in full, because its header does not tell of damage.

    Raises:
        MediaError: it is damaged.
    """
    with _opened(path) as image:
        if image is not None:
            image.draft("RGB", (image.width // 8, image.height // 8))
            image.load()


def read_image(path: str | Path) -> Frame:
    """Read a photo (PNG, JPEG, WebP, BMP, TIFF), turned upright by its EXIF tag; what is transparent becomes white.

    Returns:
        "H W 3" uint8.

    Raises:
        MediaError: the file is missing, not a picture, damaged, or of a kind that cannot be shown.
    """
    path = existing(path)
    with _opened(path) as image:
        if image is None:
            raise MediaError(f"{path} is not a picture. Give a PNG, JPEG, WebP, BMP or TIFF file.")
        turn = _turn(image)
        image.load()
        if image.mode.startswith("I"):
            image = _eight_bits(image)
        if turn is not None:
            image = image.transpose(turn)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return np.array(image.convert("RGB"))


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image | None]:
    """Open a photo at the page to be read; None for a file of another kind, or an animation."""
    Image.init()  # Pillow knows only some of the formats before
    try:
        with ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore", UserWarning)  # about broken tags, which change nothing here
            image = stack.enter_context(Image.open(path, formats=FORMATS))
            is_animation = getattr(image, "is_animated", False) and image.format in ("PNG", "WEBP")
            if is_animation and image.format == "WEBP":
                raise MediaError(f"{path} is an animated WebP, which cannot be read. Save it as GIF, APNG or MP4.")
            if not is_animation:
                _choose_page(image)
                _refuse_unknown_white(image, path)
            yield None if is_animation else image
    except UnidentifiedImageError:
        yield None
    except (*DAMAGE, Image.DecompressionBombError) as error:
        raise MediaError(f"{path} cannot be read as a picture: {reason(error)}. Give another file.") from error


def _choose_page(image: Image.Image) -> None:
    """Go to the first page of a TIFF that is neither a smaller copy of another one nor a mask."""
    for page in range(getattr(image, "n_frames", 1) if image.format == "TIFF" else 0):
        image.seek(page)
        flags = image.tag_v2.get(SUBFILE, 0)  # pyright: ignore[reportAttributeAccessIssue]
        if not (isinstance(flags, int) and flags & IS_NO_PAGE):
            return
    if image.format == "TIFF":
        image.seek(0)


def _refuse_unknown_white(image: Image.Image, path: Path) -> None:
    is_deep = image.mode == "F" or (image.mode == "I" and image.format != "PNG")  # I: 16 bits in PNG by an older Pillow
    if is_deep:
        kind = "real numbers" if image.mode == "F" else "whole numbers of more than 16 bits, or below zero"
        raise MediaError(f"{path} holds {kind}, of which nobody knows which is white. Save it with 8 or 16 bits.")


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Return how to turn a picture upright; a tag that is damaged, or has no meaning, turns nothing."""
    if image.format == "TIFF":  # Pillow turns it when it loads it, and gives the size as it will be
        return None
    try:
        orientation = image.getexif().get(ORIENTATION)
    except DAMAGE:
        return None
    return TURNS.get(orientation) if isinstance(orientation, int) else None


def _eight_bits(image: Image.Image) -> Image.Image:
    """Bring grey of up to 16 bits, which Pillow would clip at 255, to 8; what is transparent becomes white."""
    values = np.asarray(image).astype(np.float64)
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(BITS, (16,))
    white = 2 ** (bits[0] if isinstance(bits, tuple) else bits) - 1
    grey = np.round(values.clip(0, white) * 255 / white).astype(np.uint8)
    if tags.get(WHITE_IS_ZERO) == 0:
        grey = 255 - grey
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey[values == clear] = 255
    return Image.fromarray(grey)


def _is_animated_webp(path: Path, image: Image.Image) -> bool:
    """Say whether a WebP is packed as an animation, if only of one frame, which FFmpeg does not read."""
    if image.format != "WEBP":
        return False
    with path.open("rb") as file:
        head = file.read(21)
    return head[12:16] == b"VP8X" and bool(head[20] & 2)  # flag of RFC 9649, section 2.7
