"""Shards are the same bytes every time, are gone on with where they end, and are what WebDataset reads."""

import gc
import itertools
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="needs the extra curate")

from mutoscope.core.errors import MediaError
from mutoscope.data import tars
from mutoscope.data.schema import Caption, Clip
from mutoscope.data.tars import Sample, Tars, Writer


def samples(count: int, first: int = 0) -> list[Sample]:
    return [
        Sample(
            Clip(f"clip-{i:04d}", "test", i + 1, 8, 6, "30000/1001", captions=(Caption("红\u2028色"),)),
            ".mp4" if i % 3 else ".jpg",
            bytes([i]) * (500 + 37 * i),
            {"licence": "CC0-1.0", "scores": {"light": 0.5}},
        )
        for i in range(first, first + count)
    ]


def written(folder: Path, counts: tuple[int, ...] = (5, 4, 3)) -> list[Sample]:
    made, rows = [], []
    for shard, count in enumerate(counts):
        few = samples(count, len(made))
        writer = Writer(folder / tars.shard_name(shard), shard)
        for sample in few:
            writer.add(sample)
        writer.close()
        made += few
        rows += writer.rows
    tars.write_index(folder, rows)
    return made


def test_clips_come_back_as_written(tmp_path: Path) -> None:
    made = written(tmp_path)
    read = Tars(tmp_path)
    assert [read.sample(i) for i in range(len(read))] == made


def test_two_writers_make_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        written(tmp_path / name)
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_a_shard_cut_anywhere_is_ended_to_the_same_bytes(tmp_path: Path) -> None:
    written(tmp_path / "whole", (4,))
    whole = (tmp_path / "whole" / "00000.tar").read_bytes()
    path = tmp_path / "00000.tar"
    for cut in (0, 1, 511, 512, 700, 1024, 1536, 2047, 3000, 4096, 5000, 6655, len(whole) - 1, len(whole)):
        (tmp_path / ".00000.tar.part").write_bytes(whole[:cut])
        writer = Writer(path, 0)
        there = {row.id for row in writer.rows}
        for sample in samples(4):
            if sample.clip.id not in there:
                writer.add(sample)
        writer.close()
        assert path.read_bytes() == whole, cut


def test_a_shard_that_is_not_ended_does_not_have_its_name(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "00000.tar", 0)
    writer.add(samples(1)[0])
    writer.abandon()
    assert not (tmp_path / "00000.tar").exists()


def test_tar_reads_the_shards(tmp_path: Path) -> None:
    made = written(tmp_path, (5,))
    with tarfile.open(tmp_path / "00000.tar") as file:
        names = file.getnames()
        payloads = [file.extractfile(name).read() for name in names[1::2]]  # pyright: ignore[reportOptionalMemberAccess]
    assert names == [f"{one.clip.id}{suffix}" for one in made for suffix in (".json", one.suffix)]
    assert payloads == [one.payload for one in made]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_the_shards(tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset", reason="the oracle is not installed")
    made = written(tmp_path)
    read = list(wds.WebDataset([str(path) for path in sorted(tmp_path.glob("*.tar"))], shardshuffle=False))
    assert [one["__key__"] for one in read] == [one.clip.id for one in made]
    assert [one["json"] for one in read] == [one.record() for one in made]
    assert [one[sample.suffix[1:]] for one, sample in zip(read, made, strict=True)] == [one.payload for one in made]
    gc.collect()  # the library leaves its files open


def test_captions_that_say_something_are_counted_also_with_an_older_index(tmp_path: Path) -> None:
    writer = Writer(tmp_path / tars.shard_name(0), 0)
    for number, texts in enumerate((("",), ("a", " ", "b"), ("a",))):
        captions = tuple(Caption(text) for text in texts)
        writer.add(Sample(Clip(f"c{number}", "test", 9, 48, 64, "8", captions=captions), ".mp4", b"x"))
    writer.close()
    for rows in (writer.rows, [replace(row, captions=-1) for row in writer.rows]):
        tars.write_index(tmp_path, rows)
        assert [Tars(tmp_path).captions(index) for index in range(3)] == [0, 2, 1]


def test_an_epoch_has_every_clip_once_and_each_epoch_another_order(tmp_path: Path) -> None:
    written(tmp_path)
    read = Tars(tmp_path)
    first, second = read.order(7, 0), read.order(7, 1)
    assert sorted(first) == sorted(second) == list(range(12)) and first != second
    shards = [read.rows[i].shard for i in first]
    assert len(list(itertools.groupby(shards))) == 3, "a shard is read in one go"


def test_a_stopped_reader_goes_on_exactly_where_it_was(tmp_path: Path) -> None:
    written(tmp_path)
    read = Tars(tmp_path)

    def names(start: int, stop: int) -> list[str]:
        return [one.clip.id for one in itertools.islice(read.stream(3, start), stop - start)]

    whole = names(0, 30)
    for stop in (1, 11, 12, 13, 25):
        assert names(0, stop) + names(stop, 30) == whole


def test_a_damaged_clip_is_refused(tmp_path: Path) -> None:
    written(tmp_path, (3,))
    read = Tars(tmp_path)
    path = tmp_path / "00000.tar"
    data = bytearray(path.read_bytes())
    data[read.rows[1].offset + 5] ^= 1
    path.write_bytes(data)
    read.sample(0)
    with pytest.raises(MediaError, match="clip-0001"):
        read.sample(1)


def test_a_folder_without_index_or_with_a_short_shard_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="mutoscope curate"):
        Tars(tmp_path)
    written(tmp_path)
    path = tmp_path / "00002.tar"
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(MediaError, match=r"00002\.tar"):
        Tars(tmp_path)
