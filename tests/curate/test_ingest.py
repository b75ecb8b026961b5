"""Whatever is given becomes rows: with facts and captions where it is fine, with a reason where it is not."""

import csv
import hashlib
import json
import os
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import fsspec
import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="needs the extra curate")

from mutoscope.core import media
from mutoscope.core.errors import MediaError, RequestError
from mutoscope.curate.ingest import Ingest, Shelf, Source, examine
from mutoscope.curate.listing import Input, listing
from mutoscope.curate.manifest import Manifest
from tests.curate import damage

REAL = Path(__file__).parents[3] / "shared/media/public"


def take(folder: Path, path: str | Path, settings: Ingest = Ingest()) -> Source:
    return examine(Input(str(path)), settings, Manifest(folder / "work"), Shelf(folder / "fetched"))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    damage.write_video(folder / "a.mp4")
    damage.write_photo(folder / "b.jpg")
    (folder / "below").mkdir()
    damage.write_photo(folder / "below/c.png", 1)
    return folder


def test_a_video_has_its_facts_and_the_hash_of_its_bytes(tmp_path: Path, good: Path) -> None:
    found = take(tmp_path, good / "a.mp4")
    sha256 = hashlib.sha256((good / "a.mp4").read_bytes()).hexdigest()
    assert (found.sha256, found.id, found.problem) == (sha256, sha256[:16], "")
    assert (found.kind, found.codec, found.fps, found.num_frames) == ("video", "h264", "8", 12)
    assert (found.width, found.height, found.duration_s, found.has_audio) == (64, 48, 1.5, False)


def test_a_photo_is_one_frame_that_does_not_last(tmp_path: Path, good: Path) -> None:
    found = take(tmp_path, good / "b.jpg")
    assert (found.kind, found.codec, found.num_frames, found.duration_s, found.fps) == ("image", "jpeg", 1, 0.0, "")
    assert (found.width, found.height, found.problem) == (64, 48, "")


def test_every_kind_of_damage_is_a_row_with_its_reason(tmp_path: Path) -> None:
    wanted = damage.damaged(tmp_path / "raw")
    found = {Path(given.path).name: take(tmp_path, given.path) for given in listing([str(tmp_path / "raw")])}
    assert found.keys() == wanted.keys()
    for name, says in wanted.items():
        problem = found[name].problem
        assert problem and "\n" not in problem and says in problem, (name, problem)
        assert str(tmp_path) not in problem, "the path has its own column"


def test_an_ending_that_lies_does_not_matter(tmp_path: Path, good: Path) -> None:
    (tmp_path / "video.jpg").write_bytes((good / "a.mp4").read_bytes())
    (tmp_path / "photo.mp4").write_bytes((good / "b.jpg").read_bytes())
    assert take(tmp_path, tmp_path / "video.jpg").kind == "video"
    assert take(tmp_path, tmp_path / "photo.mp4").kind == "image"


def test_a_container_that_contradicts_its_stream_is_not_believed(tmp_path: Path, good: Path) -> None:
    (tmp_path / "huge.mp4").write_bytes(damage.huge_mp4((good / "a.mp4").read_bytes()))
    found = take(tmp_path, tmp_path / "huge.mp4")
    assert found.problem or found.width * found.height < 100 * 100


def test_more_pixels_than_asked_for_are_refused_before_decoding(tmp_path: Path, good: Path) -> None:
    for name in ("a.mp4", "b.jpg"):
        assert (
            "announces 64x48, more than max_pixels=100" in take(tmp_path, good / name, Ingest(max_pixels=100)).problem
        )


def test_time_stamps_that_make_no_sense_are_refused(tmp_path: Path, good: Path, monkeypatch) -> None:
    probe = media.probe
    times = tuple(Fraction(i * 10**9) for i in range(13))
    monkeypatch.setattr("mutoscope.core.media.probe", lambda file: replace(probe(file), times=times))
    assert "12 frames in 1.2e+10 s" in take(tmp_path, good / "a.mp4").problem


def test_a_missing_file_is_a_row_until_it_is_there(tmp_path: Path, good: Path) -> None:
    assert "does not exist" in take(tmp_path, tmp_path / "late.mp4").problem
    (tmp_path / "late.mp4").write_bytes((good / "a.mp4").read_bytes())
    assert take(tmp_path, tmp_path / "late.mp4").problem == ""


def test_a_file_is_read_again_only_when_it_changes(tmp_path: Path, good: Path, monkeypatch) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes((good / "a.mp4").read_bytes())
    first = take(tmp_path, path)
    read = []
    monkeypatch.setattr("mutoscope.core.media.probe", lambda file: read.append(file))
    assert take(tmp_path, path) == first and not read
    monkeypatch.undo()
    path.write_bytes(b"not a video any more")
    os.utime(path, ns=(1, 1))
    assert take(tmp_path, path).problem


def test_a_full_disk_is_not_the_fault_of_the_file(tmp_path: Path, good: Path, monkeypatch) -> None:
    def full(path: Path) -> None:
        try:
            raise OSError(28, "No space left on device")
        except OSError as error:
            raise MediaError("cannot be read") from error

    monkeypatch.setattr("mutoscope.core.media.probe", full)
    with pytest.raises(MediaError):
        take(tmp_path, good / "a.mp4")
    monkeypatch.undo()
    assert take(tmp_path, good / "a.mp4").problem == "", "and it is not remembered"


def test_folders_globs_and_files_name_each_file_once_and_sorted(good: Path) -> None:
    names = [str(good / name) for name in ("a.mp4", "b.jpg", "below/c.png")]
    assert [one.path for one in listing([str(good)])] == names
    assert [one.path for one in listing([str(good / "b.jpg"), str(good), str(good / "*.mp4")])] == names
    assert [one.path for one in listing([str(good / "**/*.png")])] == names[2:]


def test_relative_sources_keep_relative_names(good: Path, monkeypatch) -> None:
    monkeypatch.chdir(good)
    assert [one.path for one in listing(["below"])] == ["below/c.png"]
    assert [one.path for one in listing(["*.jpg"])] == ["b.jpg"]
    assert [one.path for one in listing(["."])] == ["./a.mp4", "./b.jpg", "./below/c.png"]


def test_the_data_set_hidden_files_and_texts_are_no_sources(tmp_path: Path, good: Path) -> None:
    for name in ("set/shards/00000.tar", "set/card.html", "set/x.jpg", ".hidden/x.jpg", "._a.mp4", "README.md"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "a.mp4").write_bytes((good / "a.mp4").read_bytes())
    assert [one.path for one in listing([str(tmp_path)], tmp_path / "set")] == [str(tmp_path / "a.mp4")]


def test_a_list_names_files_beside_it_and_urls(tmp_path: Path, good: Path) -> None:
    (tmp_path / "list.txt").write_text(f"# mine\n{good / 'a.mp4'}\n\nhttps://example.org/v.mp4?size=big\n")
    found = [one.path for one in listing([str(tmp_path / "list.txt")])]
    assert found == [str(good / "a.mp4"), "https://example.org/v.mp4?size=big"]


def test_tables_and_sidecars_say_what_a_file_shows_and_on_what_terms(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg"):
        damage.write_photo(tmp_path / name, ord(name[0]))
    (tmp_path / "a.txt").write_text("a red\n square ")
    (tmp_path / "b.json").write_text(json.dumps({"caption": "a kite", "license": "CC0-1.0", "url": "https://x.org"}))
    with (tmp_path / "captions.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["file", "caption", "licence", "source"], ["c.jpg", "a cat, asleep", "MIT", "mine"]]
        )
    found = {Path(one.path).stem: one for one in listing([str(tmp_path)])}
    assert found["a"].caption == "a red square"
    assert (found["b"].caption, found["b"].licence) == ("a kite", "CC0-1.0")
    assert (found["c"].caption, found["c"].licence, found["c"].provenance) == ("a cat, asleep", "MIT", "mine")
    assert found["d"].caption == ""
    examined = examine(found["c"], Ingest(licence="all mine"), Manifest(tmp_path / "w"), Shelf(tmp_path / "f"))
    assert (examined.licence, examined.caption) == ("MIT", "a cat, asleep")
    assert take(tmp_path, found["d"].path, Ingest(licence="all mine")).licence == "all mine"


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_table_that_is_given_names_the_files(tmp_path: Path, good: Path, suffix: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"file": str(good / "b.jpg"), "caption": "it’s"}, {"file": "https://x.org/v.mp4", "caption": "two"}]
    table = tmp_path / f"table{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), table)
    elif suffix == ".jsonl":
        table.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["file", "caption"])
            writer.writeheader()
            writer.writerows(rows)
    assert [(one.path, one.caption) for one in listing([str(table)])] == [(r["file"], r["caption"]) for r in rows]


def test_files_behind_a_url_are_listed_fetched_once_and_examined(tmp_path: Path, good: Path) -> None:
    remote = fsspec.filesystem("memory")
    remote.pipe("/bucket/a.mp4", (good / "a.mp4").read_bytes())
    remote.pipe("/bucket/a.txt", b"a square moves")
    remote.pipe("/bucket/cut.mp4", (good / "a.mp4").read_bytes()[:900])
    try:
        found = listing(["memory://bucket"])
        assert [(one.path, one.caption) for one in found] == [
            ("memory:///bucket/a.mp4", "a square moves"),
            ("memory:///bucket/cut.mp4", ""),
        ]
        assert [one.path for one in listing(["memory://bucket/*.mp4"])] == [one.path for one in found]
        sources = [take(tmp_path, one.path) for one in found]
        assert sources[0].problem == "" and sources[0].num_frames == 12 and "cut short" in sources[1].problem
        remote.rm("/bucket/a.mp4")
        shelf = Shelf(tmp_path / "fetched")
        assert shelf.local(found[0].path).read_bytes() == (good / "a.mp4").read_bytes()
        shelf.forget(found[0].path)
        with pytest.raises(FileNotFoundError):
            shelf.local(found[0].path)
    finally:
        remote.store.clear()


@pytest.mark.parametrize("given", [["nowhere.mp4"], ["nothing/*.mp4"], []])
def test_a_source_that_is_not_there_is_refused_before_any_work(tmp_path: Path, given: list[str], monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match="Give a file"):
        listing(given)


def test_a_table_without_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("name,caption\na,b\n")
    with pytest.raises(MediaError, match="column file"):
        listing([str(tmp_path / "table.csv")])


@pytest.mark.parametrize("seed", range(24))
def test_flipped_bits_give_facts_or_a_reason(tmp_path: Path, good: Path, seed: int) -> None:
    name = "a.mp4" if seed % 2 else "b.jpg"
    (tmp_path / name).write_bytes(damage.flipped((good / name).read_bytes(), 0.01 if seed < 12 else 0.001, seed))
    found = take(tmp_path, tmp_path / name)
    assert found.problem or (found.num_frames > 0 and found.height > 0)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real clips are not here")
def test_real_files_have_the_facts_of_their_list(tmp_path: Path) -> None:
    with (REAL / "MANIFEST.csv").open(newline="") as file:
        known = {row["file"]: row for row in csv.DictReader(file)}
    given = {Path(one.path).name: one for one in listing([str(REAL)])}
    assert given.keys() == known.keys()
    for name in ("traffic_overhead_12.5fps.mp4", "store_aisle.gif", "pelican_square.jpg", "cat_chelsea.png"):
        found = examine(given[name], Ingest(), Manifest(tmp_path / "w"), Shelf(tmp_path / "f"))
        assert (found.sha256, found.problem) == (known[name]["sha256"], "")
        assert found.licence == known[name]["licence"] and found.caption == " ".join(known[name]["caption"].split())
        if found.kind == "video":
            assert found.num_frames == int(known[name]["frames"])
            assert np.isclose(found.duration_s, float(known[name]["duration_s"]), atol=0.07)
