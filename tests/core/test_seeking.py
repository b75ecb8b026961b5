"""Frames [a, b) are bit for bit those of a read from the start, wherever reading begins."""

import itertools
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from mutoscope.core import frames, seeking
from mutoscope.core.media import Probe, probe
from mutoscope.core.video import Video
from tests.core import numbered

B: dict[str, Any] = {"bf": "3"}
H264: dict[str, dict[str, Any]] = {
    "closed": B,
    "open": B | {"x264-params": "open-gop=1"},
    "refresh": {"x264-params": "intra-refresh=1", "group": 24},
    "444": B | {"x264-params": "open-gop=1", "pixels": "yuv444p"},
    "fields": B | {"x264-params": "tff=1"},
    "no-b": {"bf": "0"},
}
HEVC: dict[str, dict[str, Any]] = {
    "open": {"x265-params": "open-gop=1:bframes=3"},
    "closed": {"x265-params": "open-gop=0:bframes=3"},
    "refresh": {"x265-params": "intra-refresh=1:bframes=0"},
}
BLURAY = {"muxing": {"mpegts_m2ts_mode": "1"}}
VP = {"deadline": "realtime", "cpu-used": "8"}
ARF = {"auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "5"}  # frames that only serve prediction

# ending of the file, muxer, encoder, options
Kind = tuple[str, str | None, str, dict[str, Any]]
OFTEN: list[Kind] = [
    *((end, None, "libx264", H264[way]) for end in ("ts", "mpg", "avi") for way in ("closed", "open", "refresh")),
    *((end, None, "libx264", H264[way]) for end in ("mp4", "mkv") for way in ("open", "refresh", "444")),
    *(("m2ts", "mpegts", codec, options | BLURAY) for codec, options in (("libx264", B), ("mpeg2video", {"bf": "2"}))),
    *(("vob", "vob", codec, {"bf": "2"}) for codec in ("libx264", "mpeg2video")),
    *(("ts", None, "libx265", HEVC[way]) for way in HEVC),
    *((end, None, "libx265", HEVC["open"]) for end in ("mp4", "mkv")),
    *((end, None, "mpeg2video", {"bf": "2"}) for end in ("ts", "mpg", "avi")),
    *((end, None, "mpeg4", {"bf": "2"}) for end in ("avi", "mp4")),
    *((end, "asf" if end == "wmv" else None, "libx264", B) for end in ("wmv", "mxf", "flv", "mov")),
    *(("webm", None, codec, ARF) for codec in ("libvpx", "libvpx-vp9")),
    ("mkv", None, "libsvtav1", {}),
    ("avi", None, "wmv2", {}),
    ("mov", None, "qtrle", {"pixels": "rgb24"}),
    ("gif", None, "gif", {"pixels": "bgr8"}),
]
SELDOM: list[Kind] = [
    *(
        (end, "asf" if end == "wmv" else None, codec, options)
        for end in ("ts", "mpg", "mp4", "mov", "mkv", "avi", "flv", "nut", "wmv", "mxf")
        for codec, options in (
            *(("libx264", way) for way in H264.values()),
            *(("libx265", way) for way in HEVC.values()),
            *(("mpeg2video", {"bf": "2"}), ("mpeg2video", {"bf": "2", "flags": "+cgop", "sc_threshold": "1000000000"})),
            *(("mpeg1video", {"bf": "2"}), ("mpeg4", {}), ("mpeg4", {"bf": "2"})),
        )
        if (end, codec) not in {("flv", "mpeg2video"), ("flv", "mpeg1video"), ("flv", "mpeg4"), ("mxf", "libx265"),
                                ("mxf", "mpeg1video"), ("mxf", "mpeg4")}
    ),
    *((end, None, "libvpx", way) for end in ("mkv", "avi", "nut") for way in (VP, ARF)),
    *((end, None, "libvpx-vp9", way) for end in ("mkv", "avi", "nut") for way in (VP, ARF)),
    *((end, None, "libsvtav1", {"svtav1-params": f"irefresh-type={way}"}) for end in ("mp4", "mkv") for way in (1, 2)),
    *(
        (end, None, codec, {"pixels": pixels, "strict": "-2"})
        for end in ("avi", "nut", "mkv")
        for codec, pixels in (
            ("ffv1", "yuv420p"), ("huffyuv", "yuv422p"), ("ffvhuff", "yuv420p"), ("utvideo", "yuv420p"),
            ("magicyuv", "yuv420p"), ("png", "rgb24"), ("rawvideo", "yuv420p"), ("msmpeg4v2", "yuv420p"),
            ("msmpeg4", "yuv420p"), ("wmv1", "yuv420p"), ("wmv2", "yuv420p"), ("flv", "yuv420p"), ("snow", "yuv420p"),
            ("svq1", "yuv410p"), ("cinepak", "rgb24"), ("mjpeg", "yuvj420p"), ("jpeg2000", "rgb24"),
        )
    ),
    *(("mov", None, codec, {"pixels": pixels}) for codec, pixels in (("prores_ks", "yuv422p10le"), ("png", "rgb24"))),
    *(("ogg", None, "libvpx", VP), ("ivf", None, "libvpx-vp9", VP), ("apng", "apng", "apng", {"pixels": "rgb24"})),
]  # fmt: skip


def named(kind: Kind) -> str:
    end, _, codec, options = kind
    return f"{end}-{codec}-{'-'.join(str(value) for value in options.values())}"


@pytest.mark.parametrize(
    "kind",
    [*(pytest.param(kind, id=named(kind)) for kind in OFTEN)]
    + [pytest.param(kind, id=f"slow-{named(kind)}", marks=pytest.mark.slow) for kind in SELDOM],
)
def test_frames_from_any_start_are_those_of_a_read_from_the_start(tmp_path: Path, kind: Kind) -> None:
    end, muxer, codec, options = kind
    path = numbered.write(tmp_path / f"a.{end}", codec, muxer=muxer, **options)
    found = probe(path)
    whole = list(frames.decode(path, found, 0))
    assert [numbered.number_of(frame) for frame in whole] == list(range(48))
    for start in (1, *range(5, 48, 7), 46, 47):
        part = list(itertools.islice(frames.decode(path, found, start), 3))
        assert len(part) == min(3, 48 - start)
        assert all(np.array_equal(one, other) for one, other in zip(part, whole[start:], strict=False)), start


def starts_used(path: Path, found: Probe, start: int, monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """Return the packets at which decoding was begun to reach a frame; None is a plain read from the start."""
    used, decoded = [], frames._decoded
    with monkeypatch.context() as patch:
        patch.setattr(frames, "_decoded", lambda *given: used.append(given[2] and given[2].number) or decoded(*given))
        next(frames.decode(path, found, start))
    return used


@pytest.mark.parametrize(
    ("end", "way", "number"),
    [("mp4", "closed", 36), ("mp4", "open", 36), ("ts", "open", 36), ("avi", "closed", 36), ("mp4", "refresh", 0)],
)
def test_decoding_begins_at_the_last_key_frame_that_can_be_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, way: str, number: int
) -> None:
    path = numbered.write(tmp_path / f"a.{end}", "libx264", **H264[way])
    assert starts_used(path, probe(path), 44, monkeypatch) == [number]


def test_an_index_that_calls_every_frame_a_key_frame_is_not_believed(tmp_path: Path) -> None:
    path = numbered.write(tmp_path / "a.avi", "wmv2")
    believed = probe(path).index.entries
    data = bytearray(path.read_bytes())
    at = data.index(b"idx1") + 12
    for entry in range(at, len(data) - 3, 16):
        data[entry] |= 0x10  # AVIIF_KEYFRAME
    path.write_bytes(data)
    with av.open(str(path)) as container:
        assert all(packet.is_keyframe for packet in container.demux() if packet.size)
    found = probe(path)
    assert found.index.entries == believed and len(believed) < 9
    assert numbered.number_of(next(frames.decode(path, found, 30))) == 30


def test_where_seeks_do_not_lead_to_a_key_frame_the_packets_before_it_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = numbered.write(tmp_path / "a.ts", "libx264", **B)
    found = probe(path)
    whole = list(frames.decode(path, found, 0))
    monkeypatch.setattr(seeking, "packets_after_seek", lambda *_: None)
    for start in (20, 47):
        assert np.array_equal(next(frames.decode(path, found, start)), whole[start])


def test_sound_stays_with_its_picture_where_a_stream_begins_between_key_frames(tmp_path: Path) -> None:
    rate, click_s = 48_000, 1.5
    samples = np.zeros((1, 2 * rate), np.float32)
    samples[0, round(click_s * rate) :][:2400] = np.sin(np.arange(2400) / 8)
    with av.open(str(tmp_path / "whole.ts"), "w") as out:
        picture: Any = out.add_stream("libx264", rate=25, options={"g": "12", "sc_threshold": "0"})
        picture.height, picture.width, picture.pix_fmt = numbered.HEIGHT, numbered.WIDTH, "yuv420p"
        track = out.add_stream("mp2", rate=rate, layout="mono")
        for number in range(48):
            out.mux(picture.encode(av.VideoFrame.from_ndarray(numbered.picture(number), "rgb24")))
            first = round(number * rate / 25)
            sound = av.AudioFrame.from_ndarray(samples[:, first : first + rate // 25], "fltp", "mono")
            sound.sample_rate, sound.pts = rate, first
            out.mux(track.encode(sound))
        out.mux([*picture.encode(None), *track.encode(None)])
    for path in (tmp_path / "whole.ts", cut_at_packet(tmp_path / "whole.ts", tmp_path / "cut.ts", 17)):
        video = Video.open(path)
        first = numbered.number_of(next(video.frames()))
        assert video.audio is not None and first in (0, 24)
        onset_s = float(np.argmax(np.abs(video.audio.array()[0]) > 0.3)) / video.audio.rate
        assert onset_s == pytest.approx(click_s - first / 25, abs=0.02)  # mp2 is late by its own 10 ms


def cut_at_packet(path: Path, out: Path, number: int) -> Path:
    """Copy the bytes of a stream of MPEG from packet `number` on, so that it begins between key frames."""
    with av.open(str(path)) as container:
        at = [packet.pos for packet in container.demux(video=0) if packet.size][number]
    out.write_bytes(path.read_bytes()[at:])
    return out


@pytest.mark.parametrize(
    ("end", "codec", "options"),
    [
        ("ts", "libx264", B),
        ("ts", "libx264", H264["open"]),
        ("ts", "libx265", HEVC["open"]),
        ("ts", "mpeg2video", {"bf": "2"}),
        ("ts", "mpeg4", {}),
    ],
)
@pytest.mark.parametrize("packet", [5, 17])
def test_a_stream_that_begins_between_key_frames_is_read_from_its_first_whole_frame(
    tmp_path: Path, end: str, codec: str, options: dict[str, Any], packet: int
) -> None:
    whole = Video.open(numbered.write(tmp_path / f"whole.{end}", codec, **options))
    video = Video.open(cut_at_packet(tmp_path / f"whole.{end}", tmp_path / f"cut.{end}", packet))
    shown = [numbered.number_of(frame) for frame in video.frames()]
    first = 48 - len(shown)
    assert shown == list(range(first, 48)) and packet <= first <= packet + 14
    assert any("begins between key frames" in notice for notice in video.notices)
    for start in (0, 3, len(shown) - 1):
        assert numbered.number_of(next(video.read(start))) == first + start
    assert video.duration_s == pytest.approx(whole.duration_s - first / 25, abs=0.03)
