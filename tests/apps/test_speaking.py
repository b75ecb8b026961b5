"""Jobs of a model that makes somebody speak: the voice in the file, the sidecar, and what does not go with it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mutoscope.apps import cli
from mutoscope.apps.jobs import GenerateJob, face_box, generate
from mutoscope.core.errors import RequestError, WeightsError
from mutoscope.core.video import Video
from mutoscope.loading import Loading
from mutoscope.pipeline import Request
from mutoscope.tasks import avatar, faces
from mutoscope.tasks.avatar import Box
from tests.tasks.speaker import EAR, speaker, voice
from tests.tasks.yunet import write_yunet


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GenerateJob:
    monkeypatch.setattr(avatar, "load", lambda *_, **__: (speaker(), EAR))
    picture = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "face.png")
    Video.from_array(picture[None].repeat(3, 0), 8).with_audio(voice(6.5)).save(tmp_path / "voice.mp4")
    request = Request("a man speaks", height=32, width=32, steps=1, seed=3)
    files: dict[str, Any] = {"image": tmp_path / "face.png", "audio": tmp_path / "voice.mp4", "out": tmp_path / "out"}
    return GenerateJob(request, "hunyuan-avatar", force=True, loading=Loading("cpu"), **files)


def test_somebody_speaks_for_as_long_as_the_voice_and_the_command_makes_it_again(
    job: GenerateJob, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = generate(replace(job, count=2, face_box=Box(10, 10, 20, 20.5), skip_steps=True))
    assert "resized from 40x40 to 32x32" in capsys.readouterr().err
    video = Video.open(second)
    assert video.num_frames is not None and 6 <= video.num_frames <= 8  # codecs pad a voice by a few milliseconds
    assert video.fps == 25 and video.audio is not None and first.read_bytes() != second.read_bytes()
    record = json.loads(Path(f"{second}.json").read_text(encoding="utf-8"))
    assert record["seed"] == 4 and record["num_frames"] == video.num_frames and record["face_box"] == "10,10,20,20.5"
    assert set(record["sources"]) == {"image", "audio"} and record["notes"]
    command: list[Any] = record["command"]
    command[command.index("--out") + 1] = again = str(job.out / "again.mp4")
    monkeypatch.setattr("sys.argv", command)
    cli.main()
    assert Path(again).read_bytes() == second.read_bytes()


def test_a_face_that_is_found_is_told_and_its_box_alone_makes_the_video_again(
    job: GenerateJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    detector = tmp_path / "yunet.onnx"
    detector.write_bytes(b"weights")
    monkeypatch.setattr(faces.onnx, "check", lambda what: None)
    monkeypatch.setattr(faces, "largest_face", lambda picture, file: Box(10, 12, 20, 22))
    (found,) = generate(replace(job, face_detector=detector))
    assert "face.png is at 10,12,20,22, by" in capsys.readouterr().err
    record = json.loads(Path(f"{found}.json").read_text(encoding="utf-8"))
    assert record["face_box"] == "10,12,20,22" and "is at 10,12,20,22" in record["notes"][0]
    assert set(record["sources"]) == {"image", "audio", "face_detector"}
    detector.unlink()
    command: list[Any] = record["command"]
    command[command.index("--out") + 1] = again = str(job.out / "again.mp4")
    monkeypatch.setattr("sys.argv", command)
    cli.main()
    assert Path(again).read_bytes() == found.read_bytes()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"audio": None}, r"Give a picture of them \(--image\) and their voice \(--audio\)"),
        ({"image": None}, r"Give a picture of them \(--image\) and their voice \(--audio\)"),
        ({"request": Request("a man", num_frames=9)}, "no use for --num-frames: the video lasts as long as the voice"),
        ({"fit": "pad"}, "no use for --fit pad"),
        ({"model": "stiv/toy"}, "stiv/toy makes nobody speak, so --audio cannot be used. Add --model hunyuan-avatar"),
        ({"face_box": Box(10, 10, 50, 20)}, "does not lie in a picture of 40x40"),
        ({"request": Request(" ")}, "The prompt is empty"),
        ({"face_box": Box(1, 1, 9, 9), "face_detector": Path("y.onnx")}, "Both --face-box and --face-detector"),
        ({"model": "stiv/toy", "audio": None, "face_detector": Path("y.onnx")}, "so --face-detector cannot be used"),
    ],
)
def test_what_cannot_be_made_is_refused_before_anything_is_loaded(
    job: GenerateJob, changes: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(avatar, "load", lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(RequestError, match=says):
        generate(replace(job, **changes), quiet=True)


def test_a_detector_that_is_not_there_or_finds_nobody_ends_it_before_anything_is_loaded(
    job: GenerateJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx", reason="needs the package onnx")
    pytest.importorskip("onnxruntime", reason="needs the extra curate-learned")
    monkeypatch.setattr(avatar, "load", lambda *_, **__: pytest.fail("it was loaded"))
    detector = write_yunet(tmp_path / "yunet.onnx")
    with pytest.raises(RequestError, match=r"finds no face in the picture of 40x40\. Say where it is with --face-box"):
        generate(replace(job, face_detector=detector), quiet=True)
    monkeypatch.setattr(faces, "largest_face", lambda *_: pytest.fail("it was looked for"))
    with pytest.raises(RequestError, match="The prompt is empty"):
        generate(replace(job, request=Request(" "), face_detector=detector), quiet=True)
    with pytest.raises(WeightsError, match="there are no weights at"):
        generate(replace(job, face_detector=tmp_path / "gone.onnx"), quiet=True)


def test_a_box_is_four_numbers() -> None:
    assert face_box("1,2,3.5,4") == Box(1, 2, 3.5, 4) and face_box(None) is None
    for text in ("1,2,3", "1,2,3,4,5", "left", ""):
        with pytest.raises(RequestError, match="Write LEFT,TOP,RIGHT,BOTTOM"):
            face_box(text)
