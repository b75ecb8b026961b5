"""What is said about files reaches them, and what cannot be read is a row that says why."""

import json
import os
from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="needs the extra curate")

from mutoscope.core.errors import MediaError, RequestError
from mutoscope.curate.ingest import Ingest, Shelf, examine
from mutoscope.curate.listing import Input, listing
from mutoscope.curate.manifest import Manifest
from tests.curate import damage


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.mp4", "b.mp4", "clip.1.mp4"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def texts(found: list[Input]) -> dict[str, list[str]]:
    return {Path(one.path).name: [caption.text for caption in one.captions] for one in found if not one.problem}


def problems(found: list[Input]) -> dict[str, str]:
    return {Path(one.path).name: one.problem for one in found if one.problem}


def test_a_table_is_read_alike_where_it_lies_in_a_folder_and_given_itself(folder: Path) -> None:
    (folder / "t.csv").write_text("file, caption\na.mp4, one\n./a.mp4,two\u2028three\nclip.1.mp4,four\n", "utf-8")
    assert texts(listing([str(folder)])) == {"a.mp4": ["one", "two three"], "b.mp4": [], "clip.1.mp4": ["four"]}
    assert texts(listing([str(folder / "t.csv")])) == {"a.mp4": ["one", "two three"], "clip.1.mp4": ["four"]}


@pytest.mark.parametrize("name", ["t.json", "t.jsonl", "deep/t.ndjson"])
def test_json_tables_are_found_wherever_they_lie(folder: Path, name: str) -> None:
    (folder / "deep").mkdir()
    place = "../a.mp4" if "/" in name else "a.mp4"
    (folder / name).write_text(json.dumps([{"file": place, "captions": ["one", "two"]}]))
    assert texts(listing([str(folder)]))["a.mp4"] == ["one", "two"]


def test_captions_of_all_places_are_joined_each_text_once(folder: Path) -> None:
    (folder / "t.csv").write_text("file,caption,licence\na.mp4,one,CC0\na.mp4,three,CC0\n")
    (folder / "a.txt").write_text("one\n")
    (folder / "a.json").write_text(json.dumps({"caption": ["two", "one"], "license": "MIT"}))
    (found,) = (one for one in listing([str(folder)]) if one.path.endswith("a.mp4"))
    assert [caption.text for caption in found.captions] == ["two", "one", "three"] and found.licence == "MIT"


def test_what_cannot_be_read_is_a_row_with_its_reason(folder: Path) -> None:
    (folder / "ragged.csv").write_text("file,caption\na.mp4,red, moving\n")
    (folder / "elsewhere.csv").write_text("file,caption\nz.mp4,one\nhttps://x.org/y.mp4,two\n")
    (folder / "nameless.csv").write_text("movie,caption\na.mp4,one\n")
    (folder / "array.json").write_text('[{"file": "a.mp4", "caption": 3}]')
    (folder / "a.json").write_text('{"caption": ')
    (folder / "b.txt").write_bytes(b"caf\xe9")
    (folder / "figures.csv").write_text("step,loss\n1,2\n")
    (folder / "other.json").write_text("{")
    (folder / "s.tar").write_bytes(b"")
    found = problems(listing([str(folder)]))
    assert {name: says[:14] for name, says in found.items()} == {
        "ragged.csv": "row 2 has 3 ce",
        "elsewhere.csv": "it names 2 fil",
        "nameless.csv": "row 2 names no",
        "array.json": "entry 1: capti",
        "a.json": "it is not JSON",
        "b.txt": "line 1 is not ",
        "s.tar": "it is a tar sh",
    }
    assert "row 2: z.mp4" in found["elsewhere.csv"]
    with pytest.raises(MediaError, match="row 2 has 3 cells"):
        listing([str(folder / "ragged.csv")])
    (row,) = (one for one in listing([str(folder)]) if one.path.endswith("ragged.csv"))
    source = examine(row, Ingest(), Manifest(folder / "w"), Shelf(folder / "f"))
    assert source.problem == row.problem and source.path == row.path


def test_a_folder_of_nothing_but_problems_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("file,caption\na.mp4,one\n")
    with pytest.raises(RequestError, match=r"holds no video or picture .*row 2: a\.mp4"):
        listing([str(tmp_path)])


@pytest.mark.skipif(os.name == "nt", reason="names are not bytes there")
def test_a_name_that_is_not_utf8_is_spelled_with_an_escape_and_read(tmp_path: Path) -> None:
    good = damage.write_video(tmp_path / "good.mp4").read_bytes()
    raw = tmp_path / "raw"
    raw.mkdir()
    try:
        (Path(os.fsdecode(os.fsencode(raw) + b"/caf\xe9.mp4"))).write_bytes(good)
    except OSError:
        pytest.skip("this file system takes no such names")
    (Path(os.fsdecode(os.fsencode(raw) + b"/caf\xe9.txt"))).write_text("a square")
    for given in (str(raw), os.fsdecode(os.fsencode(raw) + b"/caf\xe9.mp4"), f"{raw}/*.mp4"):
        (found,) = listing([given])
        assert found.path == f"{raw}/caf\\xe9.mp4" and found.caption == "a square"
        source = examine(found, Ingest(), Manifest(tmp_path / "w"), Shelf(tmp_path / "f"))
        assert (source.problem, source.num_frames) == ("", 12)
    (raw / "t.csv").write_text("file,caption\ncaf\\xe9.mp4,it moves\n")
    (found,) = listing([str(raw)])
    assert [caption.text for caption in found.captions] == ["a square", "it moves"]
    (raw / "t.csv").unlink()
    (raw / "caf\\xe9.mp4").write_bytes(b"a file of just that name")
    assert listing([f"{raw}/caf\\xe9.mp4"])[0].size_bytes == 24
