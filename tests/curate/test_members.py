"""A member of a tar shard is a source like any file, and is unpacked only while it is looked at."""

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("pyarrow", reason="needs the extra curate")

from mutoscope.core.errors import MediaError, RequestError
from mutoscope.curate import members
from mutoscope.curate.ingest import UNPACKED, Ingest, Shelf, Source, examine
from mutoscope.curate.listing import Input, listing
from mutoscope.curate.manifest import Manifest
from tests.curate import damage


def pack(path: Path, contents: dict[str, bytes] | list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        folder = tarfile.TarInfo("deep")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, data in contents.items() if isinstance(contents, dict) else contents:
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
    broken, *found = sorted(listing([str(shard)]), key=lambda one: not one.problem)
    assert broken.path == f"tar://c.json::{shard}" and "it is not JSON" in broken.problem
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
    for source in (str(tmp_path / "t.tar"), members.joined("b.mp4", str(shard)), "https://example.org/s.tar"):
        with pytest.raises(RequestError, match=r"does not exist|Download it"):
            listing([source])
    with pytest.raises(RequestError, match=r"folder/\*\.tar"):
        listing([str(tmp_path)])
    (path,) = (one.path for one in listing([str(shard)]))
    shard.unlink()
    assert "does not exist" in take(tmp_path, path).problem
    with pytest.raises(MediaError, match="shard is gone"):
        Shelf(tmp_path / "fetched").local(path)


def told(shard: Path) -> dict[str, tuple[str, bytes]]:
    """Return the captions and the bytes of the media members by name."""
    found = [one for one in listing([str(shard)]) if members.is_member(one.path) and not one.problem]
    read = {one.path: b"".join(members.read(one.path, "")) for one in found}
    return {members.parted(one.path)[0]: (" | ".join(c.text for c in one.captions), read[one.path]) for one in found}


def test_members_of_one_name_are_all_kept_with_their_own_captions(tmp_path: Path) -> None:
    twice = [("a.mp4", b"1"), ("a.txt", b"one"), ("a.mp4", b"2"), ("a.txt", b"two"), ("a.mp4", b"3")]
    shard = pack(tmp_path / "s.tar", twice)
    assert told(shard) == {"a.mp4": ("one", b"1"), "a#2.mp4": ("two", b"2"), "a#3.mp4": ("", b"3")}


def test_tars_that_were_joined_are_all_read_and_their_members_not_mixed_up(tmp_path: Path) -> None:
    one = pack(tmp_path / "1.tar", {"a.mp4": b"1", "b.mp4": b"b", "b.txt": b"a b"})
    other = pack(tmp_path / "2.tar", {"a.mp4": b"2", "a.txt": b"two", "c.mp4": b"c"})
    shard = tmp_path / "s.tar"
    shard.write_bytes(one.read_bytes() + other.read_bytes())
    wanted = {"a.mp4": ("", b"1"), "a#2.mp4": ("two", b"2"), "b.mp4": ("a b", b"b"), "c.mp4": ("", b"c")}
    assert told(shard) == wanted
    shard.write_bytes(shard.read_bytes() + b"no tar" * 200)
    assert told(shard) == wanted
    assert "is no tar file" in take(tmp_path, str(shard)).problem
    assert str(shard) in [one.path for one in listing([str(shard)])]


def test_captions_belong_to_names_up_to_the_last_dot_before_those_up_to_the_first(tmp_path: Path) -> None:
    contents = {"clip.1.mp4": b"1", "clip.1.txt": b"one", "clip.2.mp4": b"2", "clip.txt": b"all", "x.mp4": b"x"}
    assert told(pack(tmp_path / "s.tar", contents)) == {
        "clip.1.mp4": ("one", b"1"), "clip.2.mp4": ("all", b"2"), "x.mp4": ("", b"x"),
    }  # fmt: skip


def test_a_table_in_a_shard_is_read(tmp_path: Path) -> None:
    shard = pack(tmp_path / "s.tar", {"d/t.csv": b"file,caption\na.mp4,one\na.mp4,two\n", "d/a.mp4": b"1"})
    assert told(shard) == {"d/a.mp4": ("one | two", b"1")}


def test_a_shard_cut_between_two_members_is_named(tmp_path: Path) -> None:
    shard = pack(tmp_path / "s.tar", {"a.mp4": b"1", "b.mp4": b"2"})
    shard.write_bytes(shard.read_bytes()[: 512 * 3])
    assert told(shard) == {"a.mp4": ("", b"1")} and "cut short" in take(tmp_path, str(shard)).problem


@pytest.mark.parametrize(("kind", "name"), [("gz", "s.tar.gz"), ("gz", "s.tar"), ("bz2", "s.tbz2"), ("xz", "s.tar.xz")])
def test_a_compressed_shard_says_that_it_must_be_unpacked(tmp_path: Path, kind: str, name: str) -> None:
    with tarfile.open(tmp_path / name, f"w:{kind}") as tar:  # pyright: ignore[reportCallIssue, reportArgumentType]
        tar.addfile(tarfile.TarInfo("a.mp4"))
    (found,) = listing([str(tmp_path / name)])
    assert "it is compressed" in take(tmp_path, found.path).problem


def test_what_only_has_the_name_of_a_tar_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_bytes(b"PK\x03\x04" + bytes(range(256)) * 4)
    assert "it is no tar file" in take(tmp_path, str(tmp_path / "s.tar")).problem


def test_links_are_followed_inside_a_shard_and_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name, kind, target in (
            ("d/a.mp4", tarfile.REGTYPE, ""),
            ("hard.mp4", tarfile.LNKTYPE, "d/a.mp4"),
            ("d/soft.mp4", tarfile.SYMTYPE, "a.mp4"),
            ("gone.mp4", tarfile.SYMTYPE, "nowhere.mp4"),
            ("holes.mp4", tarfile.GNUTYPE_SPARSE, ""),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, target, 4 if kind == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(b"film") if member.size else None)
    assert told(tmp_path / "s.tar") == dict.fromkeys(("d/a.mp4", "hard.mp4", "d/soft.mp4"), ("", b"film"))
    left = {members.parted(one.path)[0]: one.problem for one in listing([str(tmp_path / "s.tar")]) if one.problem}
    assert "a link to nowhere.mp4" in left["gone.mp4"] and "holes" in left["holes.mp4"]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_a_member_whose_name_is_not_utf8_is_named_with_an_escape(tmp_path: Path, form: int, video: bytes) -> None:
    with tarfile.open(tmp_path / "s.tar", "w", format=form, encoding="latin-1") as tar:
        for name, data in (("caf\xe9.mp4", video), ("caf\xe9.txt", b"a square"), ("x::y.mp4", video)):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    stem = "caf\xe9" if form == tarfile.PAX_FORMAT else "caf\\xe9"  # pax headers are UTF-8, whatever is asked for
    found = listing([str(tmp_path / "s.tar")])
    assert [one.path for one in found] == [
        f"tar://{stem}.mp4::{tmp_path}/s.tar", f"tar://x:\\x3ay.mp4::{tmp_path}/s.tar",
    ]  # fmt: skip
    assert found[0].caption == "a square"
    assert [take(tmp_path, one.path).num_frames for one in found] == [12, 12]


# ---- laws over damaged shards ----------------------------------------------------------------------------------------


def check_damaged(data: st.DataObject, folder: Path) -> None:
    """Every member that stands before the damage is read as it is, or there is a row that says why not."""
    contents = {f"{i}.mp4": bytes([65 + i]) * data.draw(st.integers(0, 1500)) for i in range(4)}
    shard = folder / "s.tar"
    whole = bytearray(pack(shard, contents).read_bytes())
    match data.draw(st.sampled_from(["cut", "flip", "join", "twice"])):
        case "cut":
            del whole[data.draw(st.integers(1, len(whole))) :]
        case "flip":
            for _ in range(data.draw(st.integers(1, 5))):
                whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
        case "join":
            at = data.draw(st.integers(0, len(whole)))
            whole += whole[at:]
        case "twice":
            whole = whole[: data.draw(st.integers(0, 9)) * 512] + whole
    shard.write_bytes(whole)
    members.members.cache_clear()
    found = listing([str(shard)])
    is_named = any(one.path == str(shard) for one in found)
    read = [b"".join(members.read(one.path, "")) for one in found if members.is_member(one.path) and not one.problem]
    lost = [name for name, content in contents.items() if content not in read]
    assert not lost or len(read) >= len(contents) or is_named or any(one.problem for one in found)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_shard_is_read_or_named(tmp_path: Path, data: st.DataObject) -> None:
    check_damaged(data, tmp_path)


@pytest.mark.slow
@settings(deadline=None, max_examples=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_many_damaged_shards_are_read_or_named(tmp_path: Path, data: st.DataObject) -> None:
    check_damaged(data, tmp_path)
