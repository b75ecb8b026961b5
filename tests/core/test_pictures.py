"""A photo is shown as it is meant, upright and at its own levels, or refused in one line."""

import io
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin

from mutoscope.core.errors import MediaError
from mutoscope.core.pictures import check_whole, photo, photo_size, read_image
from mutoscope.core.video import Video

PIXELS = np.random.default_rng(0).integers(0, 255, (24, 40, 3), np.uint8)
TURNED = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # Image.Transpose of each EXIF value


def exif(orientation: object) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize("orientation", [*range(12), 255, 65535])
@pytest.mark.parametrize("suffix", [".webp", ".png", ".jpg", ".tif"])
def test_a_photo_is_upright_by_its_tag_and_a_tag_without_meaning_is_ignored(
    tmp_path: Path, orientation: int, suffix: str
) -> None:
    picture = Image.fromarray(PIXELS)
    if suffix == ".tif":
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[0x0112] = orientation
        picture.save(tmp_path / "a.tif", tiffinfo=tags)
    else:
        picture.save(tmp_path / f"a{suffix}", exif=exif(orientation), lossless=True)
    if orientation in TURNED:
        picture = picture.transpose(Image.Transpose(TURNED[orientation]))
    video = Video.open(tmp_path / f"a{suffix}")
    assert (video.height, video.width, video.num_frames) == (picture.height, picture.width, 1)
    assert photo_size(tmp_path / f"a{suffix}") == read_image(tmp_path / f"a{suffix}").shape[:2]
    if suffix != ".jpg":
        np.testing.assert_array_equal(video.array()[0], np.asarray(picture))
    found = photo(tmp_path / f"a{suffix}")
    assert found is not None and found.is_plain == (suffix == ".tif" or orientation not in TURNED)


def tiff(path: Path, values: np.ndarray, bits: int, *, sample: int = 1, white_is_zero: bool = False) -> Path:
    """Write one strip of grey values, of any depth, by hand."""
    height, width = values.shape
    if bits == 12:
        digits = "".join(f"{value:012b}" for value in values.ravel())
        data = int(digits, 2).to_bytes(len(digits) // 8, "big")
    else:
        data = values.tobytes()
    entries = [
        (256, 3, width), (257, 3, height), (258, 3, bits), (259, 3, 1), (262, 3, 0 if white_is_zero else 1),
        (273, 4, 8), (277, 3, 1), (278, 3, height), (279, 4, len(data)), (339, 3, sample),
    ]  # fmt: skip
    directory = struct.pack("<H", len(entries))
    for tag, kind, value in entries:
        directory += struct.pack("<HHI", tag, kind, 1) + (
            struct.pack("<HH", value, 0) if kind == 3 else struct.pack("<I", value)
        )
    data += bytes(len(data) % 2)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory + bytes(4))
    return path


def test_grey_of_12_and_16_bits_keeps_its_levels(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 257 * 100, 65535]], np.uint16)).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png")[0, :, 0], [0, 100, 255])
    deep = np.array([[0, 257 * 100, 65535, 257]], np.uint16)
    np.testing.assert_array_equal(read_image(tiff(tmp_path / "a.tif", deep, 16))[0, :, 0], [0, 100, 255, 1])
    turned = read_image(tiff(tmp_path / "b.tif", deep, 16, white_is_zero=True))
    np.testing.assert_array_equal(turned[0, :, 0], [255, 155, 0, 254])
    twelve = np.array([[0, 4095, 2048, 16]], np.uint16)
    np.testing.assert_array_equal(read_image(tiff(tmp_path / "c.tif", twelve, 12))[0, :, 0], [0, 255, 128, 1])


@pytest.mark.parametrize(
    ("values", "bits", "sample"),
    [
        (np.full((4, 6), 70000, np.int32), 32, 2),
        (np.full((4, 6), 200, np.int32), 32, 2),
        (np.full((4, 6), 200, np.uint32), 32, 1),
        (np.full((4, 6), -3, np.int16), 16, 2),
        (np.full((4, 6), 0.5, np.float32), 32, 3),
    ],
)
def test_numbers_without_a_known_white_are_refused(tmp_path: Path, values: np.ndarray, bits: int, sample: int) -> None:
    path = tiff(tmp_path / "a.tif", values, bits, sample=sample)
    for read in (photo, read_image, Video.open):
        with pytest.raises(MediaError, match="nobody knows which is white"):
            read(path)


def test_what_is_transparent_becomes_white_in_every_mode(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[9, 8, 7, 255], [9, 8, 7, 0]]], np.uint8)).save(tmp_path / "rgba.png")
    np.testing.assert_array_equal(read_image(tmp_path / "rgba.png")[0], [[9, 8, 7], [255, 255, 255]])
    Image.fromarray(np.array([[[9, 255], [9, 0], [9, 128]]], np.uint8)).save(tmp_path / "la.png")
    np.testing.assert_array_equal(read_image(tmp_path / "la.png")[0, :, 0], [9, 255, 132])
    palette = Image.new("P", (3, 1))
    palette.putpalette([9, 8, 7, 50, 60, 70])
    palette.putdata([0, 1, 0])
    palette.save(tmp_path / "p.png", transparency=1)
    np.testing.assert_array_equal(read_image(tmp_path / "p.png")[0], [[9, 8, 7], [255, 255, 255], [9, 8, 7]])
    Image.fromarray(np.array([[0, 30]], np.uint8)).save(tmp_path / "l.png", transparency=30)
    np.testing.assert_array_equal(read_image(tmp_path / "l.png")[0, :, 0], [0, 255])
    Image.fromarray(np.array([[0, 25700]], np.uint16)).save(tmp_path / "deep.png", transparency=25700)
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png")[0, :, 0], [0, 255])


def test_one_bit_and_four_inks_are_shown_as_pillow_shows_them(tmp_path: Path) -> None:
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "one.png")
    np.testing.assert_array_equal(read_image(tmp_path / "one.png")[0, :, 0], [255, 0])
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "inks.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "inks.tif")[0, 0], [255, 0, 0])
    found = photo(tmp_path / "inks.tif")
    assert found is not None and not found.is_plain


def test_of_several_pages_the_first_is_read_and_that_is_said(tmp_path: Path) -> None:
    one, two = Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS[:12])
    one.save(tmp_path / "a.tif", save_all=True, append_images=[two])
    video = Video.open(tmp_path / "a.tif")
    np.testing.assert_array_equal(video.array()[0], PIXELS)
    assert video.notices == ("holds 2 pictures; number 1 is read",)
    small = TiffImagePlugin.ImageFileDirectory_v2()
    small[254] = 1  # a smaller copy, as cameras put it first
    two.save(tmp_path / "b.tif", tiffinfo=small)
    one.save(tmp_path / "b.tif", save_all=True, append=True)
    np.testing.assert_array_equal(read_image(tmp_path / "b.tif"), PIXELS)
    assert photo_size(tmp_path / "b.tif") == PIXELS.shape[:2]


def test_an_animated_webp_is_refused_by_its_name_and_one_of_one_frame_is_a_photo(tmp_path: Path) -> None:
    one, two = Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)
    one.save(tmp_path / "two.webp", save_all=True, append_images=[two], lossless=True)
    with pytest.raises(MediaError, match="an animated WebP"):
        Video.open(tmp_path / "two.webp")
    whole = (tmp_path / "two.webp").read_bytes()
    chunks, at = b"", 12
    while at < len(whole):
        size = 8 + -(-struct.unpack("<I", whole[at + 4 : at + 8])[0] // 2) * 2
        chunk = whole[at : at + size]
        chunks += chunk if b"ANMF" not in chunks or chunk[:4] != b"ANMF" else b""
        at += size
    (tmp_path / "one.webp").write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks)
    np.testing.assert_array_equal(read_image(tmp_path / "one.webp"), PIXELS)
    found = photo(tmp_path / "one.webp")
    assert found is not None and not found.is_plain


# ---- laws over damaged photos ----------------------------------------------------------------------------------------


def samples() -> list[bytes]:
    made = []
    for mode in ("RGB", "L", "P", "RGBA", "CMYK", "1", "I;16"):
        deep = Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257)
        image = deep if mode == "I;16" else Image.fromarray(PIXELS).convert(mode)
        for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF"):
            try:
                with io.BytesIO() as file:
                    image.save(file, kind, exif=exif(6)) if kind in ("PNG", "JPEG", "WEBP") else image.save(file, kind)
                    made.append(file.getvalue())
            except OSError:  # a format that has no such mode
                continue
    return made


SAMPLES = samples()


def check_damaged(data: st.DataObject, folder: Path) -> None:
    whole = bytearray(data.draw(st.sampled_from(SAMPLES)))
    reach = data.draw(st.sampled_from([64, 300, len(whole)]))  # headers lie at the beginning
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, min(reach, len(whole)) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del whole[data.draw(st.integers(1, len(whole))) :]
    path = folder / "a.bin"
    path.write_bytes(whole)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            found = photo(path)
            if found is not None and found.height * found.width < 10**6:
                check_whole(path)
                assert read_image(path).shape == (found.height, found.width, 3)
        except MediaError as error:
            says = str(error)
        else:
            says = ""
    assert "\n" not in says


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_photo_is_shown_at_its_size_or_refused_in_one_line(tmp_path: Path, data: st.DataObject) -> None:
    check_damaged(data, tmp_path)


@pytest.mark.slow
@settings(deadline=None, max_examples=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_many_damaged_photos_are_shown_at_their_size_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    check_damaged(data, tmp_path)
