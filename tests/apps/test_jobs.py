import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from mutoscope import plan
from mutoscope.apps import jobs, pictures
from mutoscope.apps.jobs import GenerateJob, generate
from mutoscope.autoencoders.toy import ToyAutoencoder
from mutoscope.core.errors import MediaError, RequestError
from mutoscope.core.video import Video
from mutoscope.loading import Loading
from mutoscope.pipeline import Request, System
from tests.toy_system import toy_system


@pytest.fixture(scope="module")
def system() -> System:
    return toy_system()


@pytest.fixture
def job(tmp_path: Path) -> GenerateJob:
    return GenerateJob(Request("a red circle drifts left", steps=2), out=tmp_path / "out")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 96, 3), dtype=np.uint8)).save(path)
    return path


def options_of(command: list[str]) -> dict[str, str]:
    words = [word for word in command[3:] if word not in ("--force", "--overwrite")]
    return dict(zip(words[::2], words[1::2], strict=True))


def test_same_job_writes_the_same_bytes(system: System, job: GenerateJob, tmp_path: Path) -> None:
    first = generate(replace(job, out=tmp_path / "a.mp4"), system, quiet=True)
    second = generate(replace(job, out=tmp_path / "b.mp4"), system, quiet=True)
    assert first[0].read_bytes() == second[0].read_bytes()


def test_sidecar_names_the_command_that_makes_the_file_again(system: System, job: GenerateJob, tmp_path: Path) -> None:
    asked = replace(job.request, seed=5, steps=8, restarts=3)
    paths = generate(replace(job, request=asked, count=2), system, quiet=True)
    record = json.loads(Path(f"{paths[1]}.json").read_text(encoding="utf-8"))
    assert (record["seed"], record["restarts"]["count"]) == (6, 3)
    assert record["command"][:3] == ["mutoscope", "generate", job.request.prompt]
    options = options_of(record["command"])
    request = Request(
        record["command"][2],
        num_frames=int(options["--num-frames"]),
        height=int(options["--height"]),
        width=int(options["--width"]),
        fps=Fraction(options["--fps"]),
        steps=int(options["--steps"]),
        guidance=float(options["--guidance"]),
        sampler=options["--sampler"],
        restarts=int(options["--restarts"]),
        seed=int(options["--seed"]),
    )
    again = GenerateJob(request, out=tmp_path / "again.mp4")
    assert generate(again, system, quiet=True)[0].read_bytes() == paths[1].read_bytes()


def test_results_in_a_folder_never_overwrite_each_other(system: System, job: GenerateJob) -> None:
    first = generate(job, system, quiet=True)
    second = generate(job, system, quiet=True)
    assert [path.name for path in first + second] == [
        "a-red-circle-drifts-left-0.mp4",
        "a-red-circle-drifts-left-0-2.mp4",
    ]


def test_every_seed_has_its_own_file(system: System, job: GenerateJob, tmp_path: Path) -> None:
    paths = generate(
        replace(job, request=replace(job.request, seed=1), count=3, out=tmp_path / "x.gif"), system, quiet=True
    )
    assert [path.name for path in paths] == ["x-1.gif", "x-2.gif", "x-3.gif"]
    assert all(path.exists() for path in paths)


def test_picture_of_another_size_is_refused_unless_a_fit_is_named(
    system: System, job: GenerateJob, photo: Path
) -> None:
    with pytest.raises(RequestError, match=r"96x48, the clip is 32x32\. Add --fit crop"):
        generate(replace(job, image=photo), system, quiet=True)


@pytest.mark.parametrize(("fit", "told"), [("crop", "32 columns and 0 rows cut"), ("pad", "16 rows of grey added")])
def test_fitted_picture_says_what_was_done_to_it(
    system: System, job: GenerateJob, photo: Path, fit: pictures.Fit, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = generate(replace(job, image=photo, fit=fit), system)
    assert told in capsys.readouterr().err
    assert told in json.loads(Path(f"{path}.json").read_text(encoding="utf-8"))["notes"][0]


def test_crop_keeps_the_middle_and_pad_keeps_everything(system: System, photo: Path) -> None:
    settings = system.settings(Request("a circle"))
    frame = np.zeros((32, 64, 3), np.uint8)
    frame[:, 16:48] = 255
    assert (pictures.fitted(frame, settings, "crop", "it", []) == 255).all()
    padded = pictures.fitted(frame, settings, "pad", "it", [])
    assert (padded[:8] == pictures.PAD_GREY).all()
    assert (padded[24:] == pictures.PAD_GREY).all()
    assert padded[16].min() == 0
    assert padded[16].max() == 255


def test_continuation_begins_with_the_last_four_frames_of_the_clip(
    system: System, job: GenerateJob, tmp_path: Path
) -> None:
    frames = np.random.default_rng(1).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    clip = tmp_path / "clip.mp4"
    Video.from_array(frames, 8).save(clip)
    requests, notes = jobs._requests(replace(job, request=replace(job.request, num_frames=8), video=clip), system)
    decoded = Video.open(clip).array()
    assert sorted(requests[0].given) == [0, 1, 2, 3]
    assert all((requests[0].given[index] == decoded[3 + index]).all() for index in range(4))
    assert "frames 3 to 6" in notes[-1]


def test_clip_too_short_to_continue_is_refused(system: System, job: GenerateJob, photo: Path) -> None:
    with pytest.raises(RequestError, match="has 1 frames"):
        generate(replace(job, video=photo), system, quiet=True)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"count": 0}, "count=0"),
        ({"request": Request("a circle", seed=-1)}, "seed=-1"),
        ({"image": Path("x.png"), "video": Path("y.mp4")}, "Give one of them"),
        ({"out": Path("film.avi")}, "ends in .avi"),
    ],
)
def test_impossible_job_is_refused(system: System, job: GenerateJob, change: dict, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        generate(replace(job, **change), system, quiet=True)


def test_a_file_is_replaced_only_when_asked(system: System, job: GenerateJob, tmp_path: Path) -> None:
    path = tmp_path / "film.gif"
    path.write_bytes(b"mine")
    with pytest.raises(RequestError, match=r"exists\. Add --overwrite"):
        generate(replace(job, out=path), system, quiet=True)
    assert path.read_bytes() == b"mine"
    assert generate(replace(job, out=path, overwrite=True), system, quiet=True) == [path]
    assert Video.open(path).num_frames == 4


def test_a_folder_may_have_a_dot_in_its_name(system: System, job: GenerateJob, tmp_path: Path) -> None:
    (path,) = generate(replace(job, out=tmp_path / "run-v1.5"), system, quiet=True)
    assert path.parent == tmp_path / "run-v1.5" and path.suffix == ".mp4"
    (tmp_path / "old.mp4").mkdir()
    (path,) = generate(replace(job, out=tmp_path / "old.mp4"), system, quiet=True)
    assert path.parent == tmp_path / "old.mp4"


def test_a_rate_that_the_format_does_not_have_is_refused_before_sampling(
    system: System, job: GenerateJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "sample", lambda *_: pytest.fail("sampled"))
    with pytest.raises(RequestError, match="at most 50 fps"):
        generate(
            replace(job, request=replace(job.request, fps=Fraction(60)), out=tmp_path / "x.gif"), system, quiet=True
        )


def test_of_a_long_clip_only_the_last_frames_are_kept(
    system: System, job: GenerateJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "long.mp4"
    frames = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    Video.from_array(frames, fps=8).save(path)
    read = Video.open(path).array()
    monkeypatch.setattr(Video, "array", lambda self: pytest.fail("the whole clip was read into memory"))
    requests, _ = jobs._requests(replace(job, video=path), system)
    assert all((requests[0].given[index] == read[36 + index]).all() for index in range(4))


def test_folder_that_cannot_be_made_is_found_before_sampling(job: GenerateJob, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MediaError, match="Name another folder"):
        generate(replace(job, out=tmp_path / "file" / "folder"), None, quiet=True)


def test_failed_sampling_leaves_nothing_behind(
    system: System, job: GenerateJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(latents: object, way: str) -> Iterator[object]:
        raise KeyboardInterrupt

    monkeypatch.setattr(system, "decode", broken)
    with pytest.raises(KeyboardInterrupt):
        generate(job, system, quiet=True)
    assert not list(job.out.iterdir())


def test_frames_go_into_the_file_while_others_are_still_to_be_made(
    system: System, job: GenerateJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    decode, frames = system.decode, Video.frames

    def one_at_a_time(latents: Tensor, way: plan.Way) -> Iterator[Tensor]:
        for group in decode(latents, way):
            for frame in group.split(1, dim=2):
                events.append("made")
                yield frame

    def to_the_writer(video: Video) -> Iterator[np.ndarray]:
        for frame in frames(video):
            events.extend(["written"] * (video.num_frames == 4))  # and not a frame on its way from the decoder
            yield frame

    monkeypatch.setattr(system, "decode", one_at_a_time)
    monkeypatch.setattr(Video, "frames", to_the_writer)
    generate(job, system, quiet=True)
    assert events == ["made", "written"] * 4


def test_decoding_that_fails_in_the_middle_leaves_nothing_behind(
    system: System, job: GenerateJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = system.decode

    def breaks(latents: Tensor, way: plan.Way) -> Iterator[Tensor]:
        yield next(decode(latents, way))[:, :, :1]
        raise MemoryError

    monkeypatch.setattr(system, "decode", breaks)
    for ending in ("mp4", "webm", "gif", "png"):
        with pytest.raises(MemoryError):
            generate(replace(job, out=job.out / f"film.{ending}"), system, quiet=True)
    assert not list(job.out.iterdir())


def test_unknown_words_are_named_with_their_neighbours(
    system: System, job: GenerateJob, capsys: pytest.CaptureFixture[str]
) -> None:
    generate(replace(job, request=Request("a red circl and a zebra", steps=1)), system)
    notes = capsys.readouterr().err
    assert 'does not know "circl", did you mean circle?' in notes
    assert 'does not know "zebra"\n' in notes  # nothing it knows is spelt nearly so
    assert "mutoscope info stiv/toy" in notes


def test_other_sizes_than_trained_are_noted(
    system: System, job: GenerateJob, capsys: pytest.CaptureFixture[str]
) -> None:
    generate(replace(job, request=Request("a red circle", height=48, steps=1)), system)
    assert "trained on clips of 4 x 32x32" in capsys.readouterr().err


def test_what_has_no_room_is_refused_before_loading_unless_forced(
    system: System, job: GenerateJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []
    monkeypatch.setattr(jobs, "load", lambda name, *_, **__: loads.append(name) or system)
    monkeypatch.setattr(jobs, "available_bytes", lambda _: 50_000_000)
    job = replace(job, request=replace(job.request, restarts=0))
    great = replace(job, model="stiv/toy", loading=Loading("cpu"), request=replace(job.request, num_frames=160))
    with pytest.raises(RequestError, match=r"stiv/toy at 64x64x160 needs .*, you have 50\.0 MB: use \d+x\d+x\d+"):
        generate(replace(great, request=replace(great.request, steps=10**6)), quiet=True)
    assert loads == []
    generate(replace(job, model="stiv/toy", force=True), quiet=True)
    generate(replace(job, model="stiv/toy"), quiet=True)  # too little work to be worth a plan
    assert loads == ["stiv/toy", "stiv/toy"]


class Tiles(ToyAutoencoder):
    """The toy autoencoder with tiles, which are the whole."""

    def decode_tiled(self, latents: Tensor, run: Callable[[Tensor], Tensor] | None = None) -> Iterator[Tensor]:
        return self.decode_stream(latents)


def test_way_to_decode_follows_the_memory_and_is_told(
    job: GenerateJob, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    system = toy_system()
    system.autoencoder.__class__ = Tiles
    monkeypatch.setattr(plan, "available_bytes", lambda _: 1000)
    told = "decoded in the published tiles, which changes the picture a little: exactly takes "
    (path,) = generate(job, system)
    assert f"note: {told}" in capsys.readouterr().err
    record = json.loads(Path(f"{path}.json").read_text(encoding="utf-8"))
    assert record["notes"][-1].startswith(told)
    assert options_of(record["command"])["--decode"] == "tiled"
    (asked,) = generate(replace(job, loading=Loading(decode="exact")), system)
    monkeypatch.setattr(plan, "available_bytes", lambda _: 10**9)
    (fits,) = generate(job, system)
    assert told not in capsys.readouterr().err
    records = [json.loads(Path(f"{path}.json").read_text(encoding="utf-8")) for path in (asked, fits)]
    assert [options_of(record["command"]).get("--decode") for record in records] == ["exact", None]


def test_tiles_are_refused_before_loading_where_there_are_none(
    job: GenerateJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "load", lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(RequestError, match="decodes exactly and not in tiles"):
        generate(replace(job, model="stiv/toy", loading=Loading(decode="tiled")), quiet=True)


def test_sidecar_names_where_weights_came_from_and_how_they_fitted(system: System, job: GenerateJob) -> None:
    (path,) = generate(
        replace(job, loading=Loading(weights="there", offload="component"), force=True), system, quiet=True
    )
    command = json.loads(Path(f"{path}.json").read_text(encoding="utf-8"))["command"]
    assert command[-6:] == ["--weights", "there", "--offload", "component", "--force", "--overwrite"]
