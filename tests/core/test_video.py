import math
import struct
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from mutoscope.core.errors import MediaError, MutoscopeError, RequestError
from mutoscope.core.media import AudioStream, probe
from mutoscope.core.pictures import read_image
from mutoscope.core.video import Audio, Video, exact_rate
from mutoscope.core.writing import mixing

FORMATS = [".mp4", ".mov", ".mkv", ".webm", ".gif", ".png"]
STREAMED = [".mp4", ".mov", ".mkv", ".webm", ".gif"]


def clip(num_frames: int = 16, height: int = 48, width: int = 64) -> np.ndarray:
    """Make a soft light that moves to the right over a gradient; bright at the top left, so that turns show."""
    y, x, t = np.mgrid[0:height, 0:width, 0:num_frames].astype(np.float32)
    light = 90 * np.exp(-((x - 8 - 3 * t) ** 2 + (y - 14) ** 2) / 90)
    pixels = np.stack([200 - 2 * y + light, 160 - x + light, 90 + x / 2 + y], axis=-1)
    return pixels.clip(0, 255).astype(np.uint8).transpose(2, 0, 1, 3)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * math.log10(255**2 / np.mean((a.astype(np.float64) - b) ** 2))


def encode(path: Path, frames: np.ndarray, codec: str, options: dict[str, str] | None = None, **context: Any) -> Path:
    """Write a file that `Video.save` would not write."""
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream(codec, rate=8, options=options or {})
        stream.height, stream.width = frames.shape[1:3]
        for name, value in context.items():
            setattr(stream.codec_context, name, value)
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame))))
        out.mux(stream.encode(None))
    return path


# ---- round trips


@pytest.mark.parametrize(("suffix", "least_db"), [(".mp4", 42), (".webm", 40), (".gif", 38)])
def test_streamed_file_gives_the_frames_back(tmp_path: Path, suffix: str, least_db: float) -> None:
    frames = clip()
    Video.from_array(frames, 8).save(tmp_path / f"a{suffix}")
    back = Video.open(tmp_path / f"a{suffix}")
    assert (back.height, back.width, back.num_frames, back.fps) == (48, 64, 16, 8)
    assert psnr(back.array(), frames) > least_db
    assert abs(back.array().astype(float).mean() - frames.mean()) < 0.2  # no darkening


@pytest.mark.parametrize("size", [(48, 64), (1, 1), (7, 13)])
def test_png_of_one_frame_is_the_picture_to_the_last_bit(tmp_path: Path, size: tuple[int, int]) -> None:
    frames = clip(1, *size)
    Video.from_array(frames, 8).save(tmp_path / "a.png")
    np.testing.assert_array_equal(Video.open(tmp_path / "a.png").array(), frames)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), frames[0])


def test_png_of_several_frames_is_a_sheet_that_holds_each_of_them(tmp_path: Path) -> None:
    frames = clip(7)
    Video.from_array(frames, 8).save(tmp_path / "a.png")
    sheet = read_image(tmp_path / "a.png")
    windows = np.lib.stride_tricks.sliding_window_view(sheet, (48, 64, 3))[:, :, 0]
    places = [np.argwhere((windows[..., 24, :, :] == frame[24]).all((-1, -2))).tolist() for frame in frames]
    assert all(len(place) == 1 for place in places)
    for (y, x), frame in zip((place[0] for place in places), frames, strict=True):
        np.testing.assert_array_equal(sheet[y : y + 48, x : x + 64], frame)
    assert sorted(places) == places  # row by row


def test_gif_keeps_few_colours_exactly_and_frames_that_repeat(tmp_path: Path) -> None:
    colours = np.array([[0, 0, 0], [255, 0, 0], [20, 200, 90], [255, 255, 255]], np.uint8)
    frames = colours[np.random.default_rng(0).integers(0, 4, (5, 12, 15))].repeat(2, axis=0)
    Video.from_array(frames, 10).save(tmp_path / "a.gif")
    np.testing.assert_array_equal(Video.open(tmp_path / "a.gif").array(), frames)


@pytest.mark.parametrize("suffix", [".webm", ".gif"])
def test_odd_sizes_are_kept_where_the_format_can(tmp_path: Path, suffix: str) -> None:
    frames = clip(4, 33, 47)
    Video.from_array(frames, 8).save(tmp_path / f"a{suffix}")
    assert psnr(Video.open(tmp_path / f"a{suffix}").array(), frames) > 35


def test_tensor_round_trip_is_exact_and_overshoot_is_clamped() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    video = Video.from_array(levels, 8)
    tensor = video.tensor()
    assert tensor.shape == (1, 3, 1, 16, 16)
    assert (tensor.min(), tensor.max()) == (-1, 1)
    np.testing.assert_array_equal(Video.from_tensor(tensor, 8).array(), levels)
    np.testing.assert_array_equal(Video.from_tensor(tensor[0] * 1.5, 8).array()[0, 0, 0], [0, 0, 0])


# ---- what the files are


def test_mp4_is_what_any_player_shows(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    Video.from_array(clip(), Fraction(24000, 1001)).save(path)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.pix_fmt, stream.average_rate) == ("h264", "yuv420p", Fraction(24000, 1001))
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # plays before it is all there


@pytest.mark.parametrize(
    ("colour", "yuv"), [((255, 0, 0), (63, 102, 240)), ((0, 255, 0), (173, 42, 26)), ((255, 255, 255), (235, 128, 128))]
)
@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_colours_are_those_of_bt709(tmp_path: Path, suffix: str, colour: tuple[int, ...], yuv: tuple[int, ...]) -> None:
    frames = np.full((2, 32, 32, 3), colour, np.uint8)
    Video.from_array(frames, 8).save(tmp_path / f"a{suffix}", quality="best")
    with av.open(str(tmp_path / f"a{suffix}")) as container:
        planes = next(container.decode(video=0)).to_ndarray()
    np.testing.assert_allclose([planes[16, 16], planes[36, 8], planes[44, 8]], yuv, atol=1)  # ITU-R BT.709-6, item 3


@pytest.mark.parametrize("suffix", FORMATS)
def test_same_frames_give_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    video = Video.from_array(clip(16, 64, 64), 8)
    sound = Audio.from_array(np.sin(np.arange(32_000, dtype=np.float32) / 9)[None], 16_000)
    for i in range(6):
        video.with_audio(sound).save(tmp_path / f"{i}{suffix}")
    assert len({(tmp_path / f"{i}{suffix}").read_bytes() for i in range(6)}) == 1


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_quality_orders_size_and_error(tmp_path: Path, suffix: str) -> None:
    frames = clip(16, 96, 128)
    frames = (frames + np.random.default_rng(0).integers(0, 20, frames.shape)).astype(np.uint8)
    paths = []
    for quality in ("small", "good", "best"):
        paths.append(tmp_path / f"{quality}{suffix}")
        Video.from_array(frames, 8).save(paths[-1], quality=quality)
    sizes = [path.stat().st_size for path in paths]
    errors = [-psnr(Video.open(path).array(), frames) for path in paths]
    assert sizes == sorted(sizes)
    assert errors == sorted(errors, reverse=True)


# ---- laziness


def test_nothing_is_made_before_it_is_asked_for(tmp_path: Path) -> None:
    made = []

    def frames() -> Iterator[np.ndarray]:
        for i, frame in enumerate(clip()):
            made.append(i)
            yield frame

    video = Video.from_frames(frames, 48, 64, 8, 16).take(2, 8).at_fps(4).resized(24, 32)
    assert made == []
    next(video.frames())
    assert made == [0, 1, 2]
    assert len(video.array()) == len(video.array()) == 4  # a function can be read again


@pytest.mark.parametrize("suffix", STREAMED)
def test_frames_are_let_go_as_they_are_written(tmp_path: Path, suffix: str) -> None:
    made: list[weakref.ref[np.ndarray]] = []
    most = 0

    def frames() -> Iterator[np.ndarray]:
        nonlocal most
        for frame in clip(60):
            mine = frame.copy()
            made.append(weakref.ref(mine))
            most = max(most, sum(frame() is not None for frame in made))
            yield mine

    Video.from_frames(frames(), 48, 64, 8).save(tmp_path / f"a{suffix}")
    assert most <= 3
    assert Video.open(tmp_path / f"a{suffix}").num_frames == 60


def test_iterator_can_be_read_once_and_says_so() -> None:
    video = Video.from_frames(iter(clip()), 48, 64, 8)
    assert len(video.array()) == 16
    with pytest.raises(RequestError, match="used up"):
        video.array()


# ---- failure leaves nothing


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failing_frames_leave_no_file_and_the_old_one_as_it_was(
    tmp_path: Path, suffix: str, error: type[BaseException]
) -> None:
    def frames() -> Iterator[np.ndarray]:
        yield from clip(12)
        raise error

    (tmp_path / f"a{suffix}").write_text("old")
    with pytest.raises(error):
        Video.from_frames(frames, 48, 64, 8).save(tmp_path / f"a{suffix}")
    assert [path.name for path in tmp_path.iterdir()] == [f"a{suffix}"]
    assert (tmp_path / f"a{suffix}").read_text() == "old"


@pytest.mark.parametrize("suffix", FORMATS)
def test_disk_that_takes_no_more_is_one_line_and_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    resource = pytest.importorskip("resource")
    noise = np.random.default_rng(0).integers(0, 255, (30, 64, 64, 3), dtype=np.uint8)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(MutoscopeError, match=r"cannot write .*: .+\. Free some space") as caught:
            Video.from_array(noise, 8).save(tmp_path / f"a{suffix}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


# ---- sizes, turns and pixels that are not square

TURNS = {  # display matrix (a, b, c, d): what a player does to the stored picture
    (1, 0, 0, 1): lambda frame: frame,
    (0, 1, -1, 0): lambda frame: np.rot90(frame, -1),
    (-1, 0, 0, -1): lambda frame: np.rot90(frame, 2),
    (0, -1, 1, 0): lambda frame: np.rot90(frame, 1),
    (-1, 0, 0, 1): lambda frame: frame[:, ::-1],
    (1, 0, 0, -1): lambda frame: frame[::-1],
    (0, 1, 1, 0): lambda frame: frame.transpose(1, 0, 2),
    (0, -1, -1, 0): lambda frame: np.rot90(frame, 2).transpose(1, 0, 2),
}


def turned(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Rewrite the matrix in the track header of an MP4 (ISO/IEC 14496-12, section 8.3.2)."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # after version, times, identity, duration, layer, volume
    a, b, c, d = (value << 16 for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    result = path.with_name("turned.mp4")
    result.write_bytes(data)
    return result


@pytest.mark.parametrize("matrix", TURNS)
def test_frames_are_upright_whatever_the_display_matrix(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    Video.from_array(clip(4), 8).save(tmp_path / "a.mp4")
    plain = Video.open(tmp_path / "a.mp4").array()
    video = Video.open(turned(tmp_path / "a.mp4", matrix))
    expected = np.stack([TURNS[matrix](frame) for frame in plain])
    assert (video.height, video.width) == expected.shape[1:3]
    np.testing.assert_array_equal(video.array(), expected)
    assert bool(video.notices) == (matrix != (1, 0, 0, 1))


def test_slanted_display_matrix_is_refused(tmp_path: Path) -> None:
    Video.from_array(clip(2), 8).save(tmp_path / "a.mp4")
    with pytest.raises(MediaError, match="slant"):
        Video.open(turned(tmp_path / "a.mp4", (1, 1, -1, 1)))


@pytest.mark.parametrize(("aspect", "size"), [(Fraction(4, 3), (48, 85)), (Fraction(3, 4), (64, 64))])
def test_oblong_pixels_are_made_square_by_stretching(tmp_path: Path, aspect: Fraction, size: tuple[int, int]) -> None:
    path = encode(tmp_path / "a.mkv", clip(3), "libx264", sample_aspect_ratio=aspect)
    video = Video.open(path)
    assert (video.height, video.width) == size == video.array().shape[1:3]
    assert "64x48 with oblong pixels" in video.notices[0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photo_is_upright_by_its_exif_tag(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(clip(1)[0])
    picture.save(tmp_path / "a.webp", exif=exif, lossless=True)
    to_upright = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # Image.Transpose of each EXIF value
    if orientation in to_upright:
        picture = picture.transpose(Image.Transpose(to_upright[orientation]))
    video = Video.open(tmp_path / "a.webp")
    assert (video.height, video.width, video.num_frames) == (picture.height, picture.width, 1)
    np.testing.assert_array_equal(video.array()[0], np.asarray(picture))


def test_photos_of_other_depths_become_8_bit_rgb(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 257 * 100, 65535]], np.uint16)).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png")[0, :, 0], [0, 100, 255])
    Image.fromarray(np.array([[[9, 8, 7, 255], [9, 8, 7, 0]]], np.uint8)).save(tmp_path / "clear.png")
    np.testing.assert_array_equal(read_image(tmp_path / "clear.png")[0], [[9, 8, 7], [255, 255, 255]])


# ---- parts and times


@pytest.mark.parametrize("codec", ["libx264", "mpeg4", "libvpx-vp9", "gif"])
def test_part_read_from_a_file_equals_that_part_of_the_whole(tmp_path: Path, codec: str) -> None:
    suffix = {"libx264": ".mp4", "mpeg4": ".avi", "libvpx-vp9": ".webm", "gif": ".gif"}[codec]
    frames = clip(30)
    if codec == "gif":
        Video.from_array(frames, 8).save(tmp_path / "a.gif")
    else:
        encode(tmp_path / f"a{suffix}", frames, codec, gop_size=6, pix_fmt="yuv420p")
    video = Video.open(tmp_path / f"a{suffix}")
    whole = video.array()
    for start in (0, 1, 5, 6, 17, 23, 29):
        np.testing.assert_array_equal(video.take(start, min(3, 30 - start)).array(), whole[start : start + 3])
    np.testing.assert_array_equal(video.take(4, 20).take(3, 5).array(), whole[7:12])


def test_vp8_frame_that_is_not_shown_is_not_counted(tmp_path: Path) -> None:
    encode(tmp_path / "a.webm", clip(20), "libvpx", pix_fmt="yuv420p")
    with av.open(str(tmp_path / "a.webm")) as source, av.open(str(tmp_path / "b.webm"), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for i, packet in enumerate(packet for packet in source.demux() if packet.size):
            data = bytearray(bytes(packet))
            data[0] &= 0xFF if i != 7 else 0xEF  # RFC 6386, section 9.1: bit 4 is show_frame
            copy = av.Packet(bytes(data))
            copy.stream, copy.time_base, copy.pts, copy.dts = stream, packet.time_base, packet.pts, packet.dts
            copy.is_keyframe = packet.is_keyframe
            out.mux(copy)
    assert len(Video.open(tmp_path / "a.webm").array()) == probe(tmp_path / "a.webm").num_frames == 20
    assert len(Video.open(tmp_path / "b.webm").array()) == probe(tmp_path / "b.webm").num_frames == 19


def test_slower_rate_keeps_every_second_frame_and_faster_repeats() -> None:
    video = Video.from_array(clip(), 8)
    frames = video.array()
    np.testing.assert_array_equal(video.at_fps(4).array(), frames[::2])
    np.testing.assert_array_equal(video.at_fps(16).array()[1::2], frames)
    for fps in (1, 5, Fraction(24000, 1001), 60):
        assert video.at_fps(fps).duration_s == pytest.approx(2, abs=0.5 / fps)
        assert len(video.at_fps(fps).array()) == video.at_fps(fps).num_frames
    np.testing.assert_array_equal(video.at_fps(24).take(5, 9).array(), video.at_fps(24).array()[5:14])


def test_resampling_takes_the_frame_nearest_in_time() -> None:
    times = tuple(map(Fraction, ("0", "0.1", "0.5", "0.6", "1.0")))
    video = replace(Video.from_array(clip(4), 4), times=times, variable_frame_rate=True)
    np.testing.assert_array_equal(video.at_fps(5).array(), clip(4)[[0, 1, 2, 3, 3]])


@pytest.mark.parametrize(("suffix", "tick"), [(".mp4", 1 / 90_000), (".webm", 1e-3), (".gif", 1e-2)])
def test_variable_frame_rate_is_written_as_it_is(tmp_path: Path, suffix: str, tick: float) -> None:
    times = tuple(map(Fraction, ("0", "1/8", "1/2", "0.7", "1.3", "1.4")))
    video = replace(Video.from_array(clip(5), 4), times=times, variable_frame_rate=True)
    video.save(tmp_path / f"a{suffix}")
    back = Video.open(tmp_path / f"a{suffix}")
    assert back.variable_frame_rate
    np.testing.assert_allclose(back.timestamps, video.timestamps, atol=tick)
    np.testing.assert_allclose(back.take(2, 3).timestamps, np.subtract(back.timestamps[2:], back.timestamps[2]))


@pytest.mark.parametrize("fps", [1, 8, 12.5, 15, 29.97, Fraction(30000, 1001), 50])
@pytest.mark.parametrize("suffix", STREAMED)
def test_rate_and_duration_survive_a_file(tmp_path: Path, suffix: str, fps: float | Fraction) -> None:
    video = Video.from_array(clip(40, 16, 16), fps)
    video.save(tmp_path / f"a{suffix}")
    back = Video.open(tmp_path / f"a{suffix}")
    tick = {".mp4": 1e-4, ".mov": 1e-4, ".mkv": 1e-3, ".webm": 1e-3, ".gif": 1.1e-2}[suffix]
    assert not back.variable_frame_rate
    assert float(back.fps) == pytest.approx(float(video.fps), rel=tick)
    np.testing.assert_allclose(back.timestamps, video.timestamps, atol=tick)
    assert back.duration_s == pytest.approx(video.duration_s, abs=2 * tick)


@pytest.mark.parametrize("suffix", STREAMED)
@pytest.mark.parametrize("sounds", [False, True])
@pytest.mark.parametrize("seconds", [("0", "0.1", "0.2", "0.3", "3"), ("0", "2", "3.5", "7"), ("0", "4")])
def test_the_last_frame_lasts_as_long_as_it_did(
    tmp_path: Path, suffix: str, sounds: bool, seconds: tuple[str, ...]
) -> None:
    times = tuple(map(Fraction, seconds))
    video = replace(Video.from_array(clip(len(times) - 1), 10), times=times, variable_frame_rate=True)
    video.with_audio(click(float(times[-1]), 0.5) if sounds else None).save(tmp_path / f"a{suffix}")
    back = Video.open(tmp_path / f"a{suffix}")
    assert back.duration_s == pytest.approx(video.duration_s, abs=0.011)
    np.testing.assert_allclose(back.timestamps, video.timestamps, atol=0.011)
    back.save(tmp_path / f"b{suffix}")  # what was read is written alike
    assert Video.open(tmp_path / f"b{suffix}").duration_s == pytest.approx(video.duration_s, abs=0.011)


def test_a_last_frame_that_is_held_lies_on_no_grid(tmp_path: Path) -> None:
    times = tuple(map(Fraction, ("0", "0.1", "0.2", "0.3", "3")))
    replace(Video.from_array(clip(4), 10), times=times, variable_frame_rate=True).save(tmp_path / "a.gif")
    video = Video.open(tmp_path / "a.gif")
    assert video.variable_frame_rate and video.notices[0].endswith("a frame lasts up to 2.7 s")
    assert video.at_fps(10).num_frames == 30
    assert not video.take(0, 3).at_fps(10).variable_frame_rate


def test_rates_are_exact() -> None:
    assert exact_rate(29.97) == Fraction(2997, 100)
    assert exact_rate(12.5) == Fraction(25, 2)
    assert Video.from_array(clip(3), Fraction(30000, 1001)).timestamps[2] == 2 * 1001 / 30000
    for fps in (0, -1, math.nan, math.inf):
        with pytest.raises(RequestError, match="must be above 0"):
            exact_rate(fps)


# ---- resizing


def test_what_a_crop_cuts_off_is_never_less_than_nothing() -> None:
    """211 columns scaled to 320 and back are 211.00000000000003, and Pillow refuses a crop by less than nothing."""
    video = Video.from_array(np.zeros((1, 162, 211, 3), np.uint8), 1)
    assert video.resized(240, 320, crop=True).array().shape == (1, 240, 320, 3)


def test_resizing_to_another_shape_is_refused_unless_a_crop_is_asked_for() -> None:
    video = Video.from_array(clip(1, 40, 80), 8)
    with pytest.raises(RequestError, match=r"80x40 does not have the shape of 20x20\. Use 20x10, or ask for a crop"):
        video.resized(20, 20)
    square = video.resized(20, 20, crop=True)
    np.testing.assert_array_equal(square.array(), video.resized(20, 40).array()[:, :, 10:30])
    assert square.notices == ("resized from 80x40 to 20x20, cutting 20 pixels each at the left and right",)
    assert video.resized(40, 80) is video


def test_resizing_rounds_a_shape_by_less_than_a_pixel() -> None:
    assert Video.from_array(clip(1, 427, 640), 8).resized(43, 64).array().shape == (1, 43, 64, 3)


# ---- sound


def click(seconds: float, at_s: float, rate: int = 48_000, channels: int = 1) -> Audio:
    samples = np.zeros((channels, round(seconds * rate)), np.float32)
    start = round(at_s * rate)
    samples[:, start : start + rate // 20] = 0.8 * np.sin(np.arange(rate // 20) * 2 * np.pi * 1000 / rate)
    return Audio.from_array(samples, rate)


def onset_s(audio: Audio) -> float:
    return float(np.argmax(np.abs(audio.array()[0]) > 0.2)) / audio.rate


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
@pytest.mark.parametrize(("rate", "channels"), [(48_000, 2), (16_000, 1), (11_025, 1)])
def test_sound_stays_where_it_was(tmp_path: Path, suffix: str, rate: int, channels: int) -> None:
    video = Video.from_array(clip(16), 8).with_audio(click(2, 1.25, rate, channels))
    video.save(tmp_path / f"a{suffix}")
    back = Video.open(tmp_path / f"a{suffix}")
    assert back.audio is not None
    assert len(back.audio.array()) == channels
    assert onset_s(back.audio) == pytest.approx(1.25, abs=0.01)
    assert back.audio.array().shape[1] / back.audio.rate == pytest.approx(2, abs=0.05)
    part = back.take(8, 8)  # from second 1 on
    assert part.audio is not None
    assert onset_s(part.audio) == pytest.approx(0.25, abs=0.01)
    assert part.audio.array().shape[1] / part.audio.rate == pytest.approx(1, abs=0.05)
    part.save(tmp_path / f"part{suffix}")
    assert onset_s(Audio.open(tmp_path / f"part{suffix}")) == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100])
def test_channels_become_their_mean_and_another_rate_keeps_time(rate: int) -> None:
    time = np.arange(2 * rate) / rate
    loud = np.sin(2 * np.pi * 440 * time)
    sound = Audio.from_array(np.stack([loud, np.zeros_like(loud)]).astype(np.float32), rate).mono(16_000)
    samples = sound.array()
    assert (sound.rate, sound.layout, samples.shape) == (16_000, "mono", (1, 32_000))
    wanted = 0.5 * np.sin(2 * np.pi * 440 * np.arange(32_000) / 16_000)
    assert np.abs(samples[0] - wanted)[400:-400].max() < 1e-4


@pytest.mark.parametrize("rate", [48_000, 44_100, 16_000])
@pytest.mark.parametrize("seconds", [1, 1.7, 2.01])
def test_sound_of_an_mp4_ends_where_its_track_does(tmp_path: Path, rate: int, seconds: float) -> None:
    Video.from_array(clip(16), 8).with_audio(click(seconds, 0.5, rate)).save(tmp_path / "a.mp4")
    audio = Video.open(tmp_path / "a.mp4").audio
    assert audio is not None and audio.array().shape == (1, round(seconds * rate))


def surround(layout: str) -> Audio:
    """Make a tone of its own for each channel, all as loud as can be."""
    channels = av.AudioLayout(layout).nb_channels
    tones = np.sin(np.arange(24_000) * 2 * np.pi * (300 + 200 * np.arange(channels)[:, None]) / 48_000)
    return Audio(48_000, layout, lambda: iter([tones.astype(np.float32)]))


@pytest.mark.parametrize("layout", ["2.1", "3.0", "3.1", "4.0", "quad", "4.1", "5.0(side)", "5.1", "5.1(side)", "7.1"])
@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_sound_of_any_layout_is_written_and_what_is_mixed_down_is_said(
    tmp_path: Path, suffix: str, layout: str
) -> None:
    sound = surround(layout)
    Video.from_array(clip(4), 8).with_audio(sound).save(tmp_path / f"a{suffix}")
    back = Audio.open(tmp_path / f"a{suffix}")
    assert back.array().shape[1] == pytest.approx(24_000, abs=50)
    is_mixed = back.layout == "stereo"
    assert is_mixed or back.layout == layout.replace("(side)", "")
    notices = mixing([AudioStream(1, "flac", 48_000, layout)])
    assert is_mixed == any("mixed down to stereo" in notice and suffix in notice for notice in notices)
    assert back.array().std(axis=1).max() < 0.75  # of a full tone 0.707


def test_channels_are_mixed_without_being_louder_than_they_were() -> None:
    loudest = Audio(48_000, "5.1", lambda: iter([np.ones((6, 4800), np.float32)]))
    mixed = loudest.mixed(("mono", "stereo")).array()
    assert mixed.shape == (2, 4800) and np.allclose(mixed, 1, atol=1e-6)
    assert loudest.mixed(("5.1",)) is loudest
    with pytest.raises(RequestError, match="does not say which is which"):
        replace(loudest, layout="6 channels").mixed(("stereo",))


def test_sound_and_picture_are_interleaved(tmp_path: Path) -> None:
    Video.from_array(clip(80), 8).with_audio(click(10, 1)).save(tmp_path / "a.mp4")
    with av.open(str(tmp_path / "a.mp4")) as container:
        kinds = [packet.stream.type for packet in sorted(container.demux(), key=lambda p: p.pos or 0) if packet.size]
    assert "video" in kinds[len(kinds) // 2 :]
    assert "audio" in kinds[: len(kinds) // 4]


# ---- bad input


def broken(path: Path, change: Callable[[bytes], bytes]) -> Path:
    path.write_bytes(change(path.read_bytes()))
    return path


@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("suffix", [*FORMATS, ".avi"])
def test_file_that_was_cut_short_is_an_error_and_never_fewer_frames(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".avi":
        encode(path, clip(30), "mpeg4")
    else:
        Video.from_array(clip(30), 8).with_audio(click(3, 1)).save(path)
    broken(path, lambda data: data[: int(len(data) * share)])
    with pytest.raises(MediaError) as caught:
        Video.open(path).array()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_gif_with_a_hole_is_an_error(tmp_path: Path) -> None:
    Video.from_array(clip(60), 8).save(tmp_path / "a.gif")
    path = broken(tmp_path / "a.gif", lambda data: data[:9000] + bytes(900) + data[9900:])
    with pytest.raises(MediaError, match="cut short or damaged"):
        Video.open(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.mp4", b""),
        ("a.mp4", b"hello"),
        ("notes.txt", b"hello\n" * 99),
        ("a.png", b"\x89PNG\r\n\x1a\n"),
        ("a.gif", b"GIF89a"),
    ],
)
def test_file_that_is_no_video_is_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MediaError) as caught:
        Video.open(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_picture_or_sound_of_unknown_coding_is_told_and_left_out(tmp_path: Path) -> None:
    def renamed(name: str, *codes: bytes) -> Path:
        Video.from_array(clip(16), 8).with_audio(click(2, 1)).save(tmp_path / name)
        for code in codes:
            broken(tmp_path / name, lambda data, code=code: b"zzzz".join(data.rsplit(code, 1)))
        return tmp_path / name

    with pytest.raises(MediaError, match="coded in a way that cannot be decoded"):
        Video.open(renamed("picture.mp4", b"avc1"))
    silent = Video.open(renamed("sound.mp4", b"mp4a", b"esds"))
    assert silent.audio is None and silent.array().shape[0] == 16


def test_missing_file_and_folder_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"none\.mp4 does not exist\. Give the path"):
        Video.open(tmp_path / "none.mp4")
    with pytest.raises(MediaError, match="is a folder"):
        Video.open(tmp_path)
    Video.from_array(clip(2), 8).save(tmp_path / "a.gif")
    with pytest.raises(MediaError, match=r"a\.gif is not a picture"):
        read_image(tmp_path / "a.gif")
    with pytest.raises(MediaError, match="holds no sound"):
        Audio.open(tmp_path / "a.gif")


@pytest.mark.parametrize(
    ("size", "fps", "name", "quality", "message"),
    [
        ((48, 64), 8, "a.avi", None, r"ends in \.avi\. Use \.mp4, \.mov, \.mkv, \.webm, \.gif or \.png"),
        ((48, 64), 8, "a", None, "ends in nothing"),
        ((47, 64), 8, "a.mp4", None, r"even width and height, not 64x47\. Use 64x48"),
        ((48, 63), 8, "a.mp4", None, r"Use 64x48, or save as \.webm"),
        ((48, 64), 60, "a.gif", None, r"at most 50 fps, not 60\. Use at_fps\(25\)"),
        ((48, 64), 8, "a.gif", "best", "has only one"),
        ((6000, 8000), 8, "a.png", None, "a contact sheet holds 1 frames of 8000x6000, not 2"),
    ],
)
def test_what_cannot_be_saved_is_refused_before_a_frame_is_made(
    tmp_path: Path, size: tuple[int, int], fps: int, name: str, quality: Any, message: str
) -> None:
    def frames() -> Iterator[np.ndarray]:
        raise AssertionError("a frame was asked for")
        yield

    with pytest.raises(RequestError, match=message):
        Video.from_frames(frames, *size, fps, 2).save(tmp_path / name, quality=quality)
    assert list(tmp_path.iterdir()) == []


def test_frames_that_break_their_promise_are_named() -> None:
    def video(num_frames: int | None, *frames: np.ndarray) -> Video:
        return Video.from_frames(lambda: iter(frames), 48, 64, 8, num_frames)

    frames = clip(3)
    with pytest.raises(MediaError, match=r"frame 1 is \(24, 32, 3\) of uint8; all must be \(48, 64, 3\)"):
        video(None, frames[0], frames[0, ::2, ::2]).array()
    with pytest.raises(MediaError, match="3 frames came of the 4 announced"):
        video(4, *frames).array()
    with pytest.raises(MediaError, match="more frames came than the 2 announced"):
        list(video(2, *frames).frames())
    with pytest.raises(MediaError, match="0 frames came"):
        video(None).array()
    with pytest.raises(RequestError, match="not known"):
        video(None, *frames).at_fps(4)
    with pytest.raises(RequestError, match="2 frames from frame 2 on were asked for; the video has 3"):
        video(3, *frames).take(2, 2)


def test_tensor_or_array_of_another_kind_is_named() -> None:
    with pytest.raises(RequestError, match=r"\(4, 2, 8, 8\) was given; 3 T H W"):
        Video.from_tensor(torch.zeros(4, 2, 8, 8), 8)
    with pytest.raises(RequestError, match="not finite"):
        Video.from_tensor(torch.full((3, 2, 8, 8), torch.nan), 8)
    with pytest.raises(RequestError, match="T H W 3 of uint8 is needed"):
        Video.from_array(np.zeros((2, 8, 8, 4), np.uint8), 8)


@pytest.mark.parametrize("name", ["50%d off.mp4", "a:b.mp4", "日本 clip.webm", "-x.gif"])
def test_any_file_name_works(tmp_path: Path, name: str) -> None:
    Video.from_array(clip(2), 8).save(tmp_path / name)
    assert Video.open(str(tmp_path / name)).num_frames == 2
