"""Kept clips become files that anybody can play, of the size that was asked for, and what cannot be written is told."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pyarrow", reason="needs the extra curate")

from mutoscope.core.video import Audio, Video
from mutoscope.curate import write
from mutoscope.curate.ingest import Ingest, Shelf, Source, examine
from mutoscope.curate.listing import Input
from mutoscope.curate.manifest import Manifest
from mutoscope.curate.write import Kept, Shards, Write
from mutoscope.data.tars import Tars
from tests.curate import damage
from tests.curate.test_remux import write as with_key_frames


def source_of(path: Path) -> Source:
    folder = path.parent / "work"
    return examine(Input(str(path)), Ingest(), Manifest(folder), Shelf(folder))


def kept(source: Source, start: int = 0, end: int | None = None, settings: Write = Write()) -> Kept:
    end = end or source.num_frames
    row: dict[str, object] = {"id": f"clip-{source.id}-{start:04d}", "start": start, "end": end}
    return write.keep(source, row | {"start_s": float(start), "end_s": float(end)}, settings, {}, "train")


def written(out: Path, clips: list[Kept], settings: Write = Write()) -> Tars:
    tasks = write.plan(clips, settings)
    shards = Shards(out, write.plan_digest(tasks, settings), settings, out / "fetched")
    shards.building.mkdir(parents=True)
    for task in tasks:
        pieces = shards.left(task)
        for piece in pieces[::-1]:  # the order in which they are done does not matter
            shards(piece)
        shards.join(task, pieces)
    shards.finish(tasks)
    return Tars(out)


def opened(read: Tars, index: int, folder: Path) -> Video:
    sample = read.sample(index)
    path = folder / f"clip-{index}{sample.suffix}"
    path.write_bytes(sample.payload)
    return Video.open(path)


def test_an_odd_side_loses_its_last_line_and_nothing_is_blurred(tmp_path: Path) -> None:
    frames = damage.moving(6, 45, 63)
    Video.from_array(frames, 8).save(tmp_path / "a.webm", quality="best")
    source = source_of(tmp_path / "a.webm")
    read = written(tmp_path / "set", [kept(source, 2, 5)], Write(quality="best"))
    video = opened(read, 0, tmp_path)
    truth = Video.open(tmp_path / "a.webm").array()[2:5, :44, :62]
    assert video.array().shape == truth.shape and np.abs(video.array().astype(int) - truth).mean() < 2.5
    assert (read.rows[0].height, read.rows[0].width) == (44, 62)


def test_a_clip_that_can_be_copied_keeps_its_very_pixels_and_any_other_is_encoded(tmp_path: Path) -> None:
    path = with_key_frames(tmp_path / "a.mp4")
    source, truth = source_of(path), Video.open(path).array()
    settings = Write(copies=True, quality="small")
    read = written(tmp_path / "set", [kept(source, 10, 20, settings), kept(source, 21, 30, settings)], settings)
    copied, encoded = (opened(read, index, tmp_path).array() for index in range(2))
    np.testing.assert_array_equal(copied, truth[10:20])
    assert encoded.shape == truth[21:30].shape and not np.array_equal(encoded, truth[21:30])


def test_only_what_is_larger_is_shrunk_and_keeps_its_shape(tmp_path: Path) -> None:
    source = source_of(damage.write_video(tmp_path / "a.mp4", size=(96, 128)))
    settings = Write(short_side_px=48)
    read = written(tmp_path / "set", [kept(source, settings=settings)], settings)
    video = opened(read, 0, tmp_path)
    assert (video.height, video.width) == (48, 64) == (read.rows[0].height, read.rows[0].width)
    assert Write(short_side_px=500).size(source) == (96, 128)


def test_sound_stays_unless_it_is_not_wanted(tmp_path: Path) -> None:
    tone = Audio.from_array(np.sin(np.arange(24_000) / 9)[None].astype(np.float32) * 0.3, 16_000)
    Video.from_array(damage.moving(12), 8).with_audio(tone).save(tmp_path / "a.mp4")
    source = source_of(tmp_path / "a.mp4")
    for settings in (Write(), Write(keeps_audio=False)):
        read = written(tmp_path / f"set{settings.keeps_audio}", [kept(source, 4, 12, settings)], settings)
        assert (opened(read, 0, tmp_path).audio is not None) == settings.keeps_audio


def test_a_picture_is_copied_unless_it_lies_on_its_side_or_is_too_large(tmp_path: Path) -> None:
    damage.write_photo(tmp_path / "a.jpg")
    picture = Image.open(tmp_path / "a.jpg")
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "b.jpg", exif=exif)
    read = written(tmp_path / "set", sorted([kept(source_of(tmp_path / name)) for name in ("a.jpg", "b.jpg")], key=str))
    found = {row.source.rpartition("/")[2]: index for index, row in enumerate(read.rows)}
    assert read.sample(found["a.jpg"]).payload == (tmp_path / "a.jpg").read_bytes()
    turned = opened(read, found["b.jpg"], tmp_path)
    assert (turned.height, turned.width) == (64, 48) and np.array_equal(
        turned.array(), Video.open(tmp_path / "b.jpg").array()
    )
    settings = Write(short_side_px=24)
    small = written(tmp_path / "small", [kept(source_of(tmp_path / "a.jpg"), settings=settings)], settings)
    assert (opened(small, 0, tmp_path).height, small.rows[0].width) == (24, 32)


def test_a_clip_that_cannot_be_written_is_told_and_the_others_are(tmp_path: Path) -> None:
    source = source_of(damage.write_video(tmp_path / "a.mp4", 8))
    clips = [kept(source, 0, 4), kept(source, 6, 12), kept(source, 4, 8)]
    read = written(tmp_path / "set", clips)
    assert [row.id[-4:] for row in read.rows] == ["0000", "0004"]
    assert "0006" in read.metadata["failed"] and "8" in read.metadata["failed"]


def test_ways_of_encoding_are_told_apart_and_shard_sizes_are_not() -> None:
    ways = [Write(), Write(short_side_px=64), Write(quality="small"), Write(keeps_audio=False)]
    assert len({way.digest() for way in ways}) == 4 and Write(shard_clips=5).digest() == Write().digest()
