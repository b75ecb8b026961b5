"""Real files, as cameras, phones and web sites make them: every one is read with the right count, size, turn and times.

They lie beside the repository in shared/media/public, where MANIFEST.csv states the truth about each.
"""

import csv
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from mutoscope.core.errors import MediaError
from mutoscope.core.media import probe
from mutoscope.core.pictures import read_image
from mutoscope.core.video import Audio, Video

FOLDER = Path(__file__).parents[3] / "shared" / "media" / "public"
if not (FOLDER / "MANIFEST.csv").is_file():
    pytest.skip(f"the folder of real media is not at {FOLDER}", allow_module_level=True)

with (FOLDER / "MANIFEST.csv").open(newline="") as manifest:
    ROWS = {row["file"]: row for row in csv.DictReader(manifest)}
VIDEOS = [name for name, row in ROWS.items() if row["kind"] == "video"]
PHOTOS = [name for name, row in ROWS.items() if row["kind"] == "photo"]
TRUE_RATE = {"store_aisle.gif": 15, "fruit_conveyor.gif": 15}  # FFmpeg guesses 50/3 from the first delays of 7, 6, 7 cs
HEAVY = ["bunny_titles_24fps.webm"]
LIGHT = [name for name in VIDEOS if name not in HEAVY]


def stamps_of(path: Path) -> tuple[list[float], int]:
    """Decode with FFmpeg alone: the time stamps of the frames and the turn of the first."""
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        assert isinstance(stream, av.VideoStream)
        stream.thread_type = "AUTO"
        stamps = [(frame.time, frame.rotation) for frame in container.decode(stream)]
    return [time for time, _ in stamps], stamps[0][1]


@pytest.mark.parametrize("name", VIDEOS)
def test_probe_agrees_with_the_manifest(name: str) -> None:
    row, found = ROWS[name], probe(FOLDER / name)
    assert (found.width, found.height, found.rotation) == (int(row["w"]), int(row["h"]), int(row["rotation"]))
    assert (found.codec, found.pixel_format) == tuple(row["codec"].split())
    assert found.container == row["container"]
    assert found.header_fps == Fraction(row["fps"])
    assert found.num_frames == int(row["frames"])
    assert found.variable_frame_rate == (row["vfr"] == "yes")
    assert found.duration_s == pytest.approx(float(row["duration_s"]), abs=2e-3)
    assert bool(found.audio_streams) == (row["has_audio"] == "yes")
    if not found.variable_frame_rate:
        assert found.fps == TRUE_RATE.get(name, Fraction(row["fps"]))
        assert found.num_frames / found.fps == pytest.approx(found.duration_s, abs=2 * float(found.time_base))
    if found.audio_streams:
        assert row["audio_codec"].startswith(found.audio_streams[0].codec)


@pytest.mark.parametrize("name", VIDEOS)
def test_time_stamps_are_those_of_the_decoded_frames(name: str) -> None:
    stamps, rotation = stamps_of(FOLDER / name)
    found = probe(FOLDER / name)
    assert len(stamps) == int(ROWS[name]["frames"])
    assert rotation == int(ROWS[name]["rotation"])
    np.testing.assert_allclose(Video.open(FOLDER / name).timestamps, np.subtract(stamps, stamps[0]), atol=1e-9)
    assert float(found.start_s) == pytest.approx(stamps[0])


@pytest.mark.parametrize("name", [*LIGHT, *(pytest.param(name, marks=pytest.mark.slow) for name in HEAVY)])
def test_frames_come_in_full_and_from_any_start(name: str) -> None:
    video = Video.open(FOLDER / name)
    sums = []
    for frame in video.frames():
        assert frame.shape == (int(ROWS[name]["h"]), int(ROWS[name]["w"]), 3)
        sums.append(zlib.crc32(frame.tobytes()))
    assert len(sums) == int(ROWS[name]["frames"])
    assert len(set(sums)) > len(sums) // 2  # they differ: not one picture again and again
    for start in np.random.default_rng(0).integers(1, len(sums) - 2, 3).tolist():
        assert [zlib.crc32(frame.tobytes()) for frame in video.take(start, 2).frames()] == sums[start : start + 2]


def test_several_video_streams_are_named_and_the_best_is_read() -> None:
    found = probe(FOLDER / "nasa_mirror_dissolve.mp4")
    assert (found.video_streams, found.stream) == ((0, 3), 3)
    assert found.notices == ("holds video streams 0, 3; stream 3, 480x270, is read",)
    assert len(found.audio_streams) == 2


def test_variable_frame_rate_is_told_and_resampled_to_the_frames_that_were_left() -> None:
    flower, whole = Video.open(FOLDER / "derived_flower_vfr.mkv"), Video.open(FOLDER / "flower_opening_2997.mp4")
    assert flower.notices == ("variable frame rate, 20.12 fps on average, a frame lasts up to 0.067 s",)
    gaps = np.diff(flower.timestamps) * 30000 / 1001
    np.testing.assert_allclose(gaps, np.resize([1, 2], 99), atol=0.04)
    steady = flower.resized(54, 96).at_fps(Fraction(30000, 1001))
    assert steady.num_frames == 149  # the last of the 150 was dropped too
    pairs = zip(steady.take(0, 30).array(), whole.resized(54, 96).take(0, 30).array(), strict=True)
    errors = [np.abs(a.astype(int) - b).mean() for i, (a, b) in enumerate(pairs) if i % 3 < 2]  # i % 3 == 2 was dropped
    assert max(errors) < 3


@pytest.mark.parametrize("name", [name for name in VIDEOS if ROWS[name]["has_audio"] == "yes"])
def test_sound_lasts_about_as_long_as_the_picture(name: str) -> None:
    video = Video.open(FOLDER / name)
    assert video.audio is not None
    samples = video.audio.array()
    assert np.abs(samples).max() <= 1.1
    assert samples.shape[1] / video.audio.rate == pytest.approx(video.duration_s, abs=0.06)


def test_speech_is_sound_without_video() -> None:
    speech = Audio.open(FOLDER / "speech_jfk_16k.wav")
    assert (speech.rate, speech.layout, speech.array().shape) == (16_000, "mono", (1, 176_000))
    with pytest.raises(MediaError, match="holds no video"):
        Video.open(FOLDER / "speech_jfk_16k.wav")


@pytest.mark.parametrize("name", PHOTOS)
def test_photo_is_one_frame_of_its_size(name: str) -> None:
    size = (int(ROWS[name]["h"]), int(ROWS[name]["w"]))
    video = Video.open(FOLDER / name)
    assert (video.height, video.width, video.num_frames) == (*size, 1)
    assert video.array()[0].shape == read_image(FOLDER / name).shape == (*size, 3)


@pytest.mark.parametrize("share", [0.2, 0.6, 0.99])
@pytest.mark.parametrize("name", [*VIDEOS, "pelican_square.jpg", "coffee_cup.png"])
def test_real_file_cut_short_is_refused_before_it_is_decoded(tmp_path: Path, name: str, share: float) -> None:
    data = (FOLDER / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(len(data) * share)])
    read = read_image if name in PHOTOS else probe
    with pytest.raises(MediaError) as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["signing_again_man.mkv", "testsrc_av1.mkv", "fruit_conveyor.gif", "frog_dolly_in.mp4"],
)
def test_hole_that_costs_frames_is_an_error(tmp_path: Path, name: str) -> None:
    data = bytearray((FOLDER / name).read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = bytes(3000)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(MediaError):
        Video.open(tmp_path / name).array()


def test_hole_that_webm_cannot_count_is_told_as_a_frame_that_lasts(tmp_path: Path) -> None:
    data = bytearray((FOLDER / "crystal_orbit.webm").read_bytes())
    data[250_000:253_000] = bytes(3000)  # WebM states no number of frames, and the last ones are there
    (tmp_path / "a.webm").write_bytes(data)
    assert "a frame lasts up to 4" in Video.open(tmp_path / "a.webm").notices[0]


def test_sound_of_a_real_clip_is_carried_into_a_new_file(tmp_path: Path) -> None:
    clip = Video.open(FOLDER / "crystal_orbit.webm").take(30, 60).resized(80, 120)
    for suffix in (".mp4", ".webm"):
        clip.save(tmp_path / f"a{suffix}")
        back = Video.open(tmp_path / f"a{suffix}")
        assert clip.audio is not None
        assert back.audio is not None
        before, after = clip.audio.array()[0], back.audio.array()[0]
        seconds = np.linspace(0.1, 1.9, 4000)  # compare at the same seconds, whatever the sampling rate
        a = np.interp(seconds, np.arange(len(before)) / clip.audio.rate, before)
        b = np.interp(seconds, np.arange(len(after)) / back.audio.rate, after)
        assert np.corrcoef(a, b)[0, 1] > 0.8
