"""A member of a tar shard is a source like any file, and is unpacked only while it is looked at."""

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

pytest.importorskip("pyarrow", reason="needs the extra curate")

from mutoscope.core.errors import MediaError, RequestError
from mutoscope.curate import members
from mutoscope.curate.ingest import UNPACKED, Ingest, Input, Shelf, Source, examine, listing
from mutoscope.curate.manifest import Manifest
from tests.curate import damage


def pack(path: Path, contents: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        folder = tarfile.TarInfo("deep")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, data in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return damage.write_video(tmp_path_factory.mktemp("good") / "a.mp4").read_bytes()


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return damage.write_photo(tmp_path_factory.mktemp("good") / "b.jpg").read_bytes()


def take(folder: Path, path: str) -> Source:
    return examine(Input(path), Ingest(), Manifest(folder / "work"), Shelf(folder / "fetched"))


def test_each_media_member_is_an_input_with_what_its_neighbours_say(tmp_path: Path, video: bytes, photo: bytes) -> None:
    said = json.dumps({"caption": "a cat", "license": "MIT"}).encode()
    shard = pack(
        tmp_path / "00000.tar",
        {
            "deep/a.txt": b"a square\nmoves", "deep/a.mp4": video, "deep/a.cls": b"3",
            "b.c.jpg": photo, "b.json": said, "c.json": b"{", "c.mp4": b"no video", ".hidden.mp4": video,
        },
    )  # fmt: skip
    found = listing([str(shard)])
    assert [one.path for one in found] == [f"tar://{name}::{shard}" for name in ("b.c.jpg", "c.mp4", "deep/a.mp4")]
    assert [one.caption for one in found] == ["a cat", "", "a square moves"]
    assert [one.size_bytes for one in found] == [len(photo), 8, len(video)]
    assert found[0].licence == "MIT"


def test_a_member_is_examined_as_the_file_that_it_is(tmp_path: Path, video: bytes, photo: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(video)
    (tmp_path / "b.jpg").write_bytes(photo)
    shard = pack(tmp_path / "s.tar", {"a.mp4": video, "b.jpg": photo, "c.mp4": b""})
    for name in ("a.mp4", "b.jpg"):
        path = members.joined(name, str(shard))
        assert take(tmp_path, path) == replace(take(tmp_path, str(tmp_path / name)), path=path)
    assert take(tmp_path, members.joined("c.mp4", str(shard))).problem == "it is empty: 0 bytes"


def test_few_members_are_unpacked_at_once_and_those_in_use_stay(tmp_path: Path) -> None:
    contents = {f"{i}.bin": bytes([i]) * 700 for i in range(9)}
    shard = pack(tmp_path / "s.tar", contents)
    shelf = Shelf(tmp_path / "fetched")
    first = shelf.local(members.joined("0.bin", str(shard)))
    for name, data in contents.items():
        assert shelf.local(members.joined(name, str(shard))).read_bytes() == data
        assert shelf.local(members.joined("0.bin", str(shard))) == first and first.exists()
        assert len(list((tmp_path / "fetched").iterdir())) <= UNPACKED
    shelf.forget(members.joined("0.bin", str(shard)))
    assert not first.exists()


def test_a_shard_that_is_cut_short_gives_what_is_whole_and_a_row_that_says_so(tmp_path: Path, video: bytes) -> None:
    shard = pack(tmp_path / "s.tar", {"a.mp4": video, "b.mp4": video})
    whole = shard.read_bytes()
    for end in (len(video) + 3000, 700 + len(video) + 512 * 3, 1536 + 512, 100, 0):
        shard.write_bytes(whole[:end])
        *found, last = listing([str(shard)])
        wanted = ["a.mp4"] if end > len(video) else []
        assert sorted([last.path, *(one.path for one in found)]) == sorted(
            [str(shard), *(members.joined(name, str(shard)) for name in wanted)]
        )
        assert take(tmp_path / str(end), str(shard)).problem in ("it is cut short or damaged", "it is empty: 0 bytes")


def test_shards_behind_a_url_are_read_member_by_member(tmp_path: Path, video: bytes) -> None:
    remote = fsspec.filesystem("memory")
    remote.pipe("/bucket/0.tar", pack(tmp_path / "s.tar", {"a.mp4": video, "a.txt": b"a square"}).read_bytes())
    try:
        (found,) = listing(["memory://bucket/*.tar"])
        assert found.caption == "a square" and take(tmp_path, found.path).num_frames == 12
    finally:
        remote.store.clear()


def test_a_list_may_name_shards_and_members(tmp_path: Path, video: bytes) -> None:
    shard = pack(tmp_path / "s.tar", {"a.mp4": video, "b.mp4": video, "b.txt": b"b"})
    (tmp_path / "list.txt").write_text(f"s.tar\ntar://b.mp4::{shard}\n")
    assert [one.caption for one in listing([str(tmp_path / "list.txt")])] == ["", "b"]


def test_what_is_not_there_is_said(tmp_path: Path, video: bytes) -> None:
    shard = pack(tmp_path / "s.tar", {"a.mp4": video})
    for given in (str(tmp_path / "t.tar"), members.joined("b.mp4", str(shard)), "https://example.org/s.tar"):
        with pytest.raises(RequestError, match=r"does not exist|Download it"):
            listing([given])
    with pytest.raises(RequestError, match=r"folder/\*\.tar"):
        listing([str(tmp_path)])
    (path,) = (one.path for one in listing([str(shard)]))
    shard.unlink()
    assert "does not exist" in take(tmp_path, path).problem
    with pytest.raises(MediaError, match="shard is gone"):
        Shelf(tmp_path / "fetched").local(path)
