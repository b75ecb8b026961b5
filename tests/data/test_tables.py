"""Every kind of table gives the same captions; what cannot be read is one line that names the row."""

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mutoscope.core.errors import MediaError
from mutoscope.data import tables
from mutoscope.data.schema import Caption

SEPARATORS = "\u2028\u2029\x85\v\f\x1c\x1d\x1e"


def captions(data: str | bytes, name: str = "t.csv") -> dict[str, list[str]]:
    data = data.encode() if isinstance(data, str) else data
    found = tables.described(tables.rows(data, name), name)
    return {file: [caption.text for caption in about.captions] for file, about in found.items()}


def problem(data: str | bytes, name: str = "t.csv") -> str:
    with pytest.raises(MediaError) as caught:
        captions(data, name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("sign", SEPARATORS)
def test_only_line_feeds_and_carriage_returns_end_a_row(sign: str) -> None:
    text = f"a red square{sign}moves right"
    assert captions(f"file,caption\r\na.mp4,{text}\r\nb.mp4,second\r\n") == {"a.mp4": [text], "b.mp4": ["second"]}
    assert captions(json.dumps({"file": "a.mp4", "caption": text}, ensure_ascii=False), "t.jsonl") == {"a.mp4": [text]}


def test_a_file_in_several_rows_or_with_a_list_has_all_captions() -> None:
    assert captions("file,caption\na.mp4,one\nb.mp4,x\na.mp4,two\n") == {"a.mp4": ["one", "two"], "b.mp4": ["x"]}
    assert captions('{"file": "a.mp4", "caption": ["one", "two"]}', "t.jsonl") == {"a.mp4": ["one", "two"]}
    assert captions("file,caption,caption\na.mp4,one,two\n") == {"a.mp4": ["one", "two"]}


@pytest.mark.parametrize(
    "text",
    [
        "\ufefffile,caption\na.mp4,one\n",
        "file, caption\na.mp4, one\n",
        "File , CAPTION\na.mp4 ,one\n",
        'file, caption\n"a.mp4", "one"\n',
        "\n\nfile,caption\n\na.mp4,one\n\n\n",
        "file,caption,\na.mp4,one,\n,,\n",
        "file;caption\na.mp4;one\n",
        "file\tcaption\na.mp4\tone\n",
        "file,caption\ra.mp4,one\r",
        "\ufefffile,caption\na.mp4,one\n\ufefffile,caption\n",
        ",file,caption\n0,a.mp4,one\n",
        "caption,path\none,a.mp4\n",
    ],
)
def test_tables_as_spreadsheets_and_people_write_them_are_read(text: str) -> None:
    assert captions(text) == {"a.mp4": ["one"]}
    assert captions(text.encode("utf-16")) == {"a.mp4": ["one"]}


@pytest.mark.parametrize(
    "text",
    [
        '{"file": "a.mp4", "caption": "one"}\n{"file": "b.mp4", "caption": "two"}\n\n',
        '[{"file": "a.mp4", "caption": "one"}, {"file": "b.mp4", "caption": "two"}]',
        '\ufeff{"file": "a.mp4",\n "caption": "one"}{"file": "b.mp4", "Caption": "two"}',
        '{"file": "a.mp4", "caption": "one"}\r\n[{"file_name": "b.mp4", "text": "two", "score": NaN}]',
    ],
)
def test_json_is_read_as_lines_as_arrays_and_one_after_another(text: str) -> None:
    for name in ("t.jsonl", "t.ndjson", "t.json"):
        assert captions(text, name) == {"a.mp4": ["one"], "b.mp4": ["two"]}


def test_cells_may_be_of_any_length_and_hold_line_feeds() -> None:
    text = "word \n" * 50_000
    assert captions(f'file,caption\na.mp4,"{text}"\nb.mp4,two\n') == {"a.mp4": [text], "b.mp4": ["two"]}


def test_tab_separated_text_may_hold_commas() -> None:
    assert captions("file\tcaption\na.mp4\ta red square, moving\n", "t.tsv") == {"a.mp4": ["a red square, moving"]}


def test_parquet_gives_what_json_gives() -> None:
    pa = pytest.importorskip("pyarrow", reason="needs the extra curate")
    import pyarrow.parquet as pq

    rows = [{"File": "a.mp4", "caption": ["one", "two"]}, {"File": "b.mp4", "caption": None}]
    with io.BytesIO() as file:
        pq.write_table(pa.Table.from_pylist(rows), file)
        whole = file.getvalue()
    assert captions(whole, "t.parquet") == {"a.mp4": ["one", "two"], "b.mp4": []}
    assert "cannot be read as Parquet" in problem(whole[:50], "t.parquet")


@pytest.mark.parametrize(
    ("text", "name", "says"),
    [
        ("file,caption\na.mp4,a red square, moving right\n", "t.csv", "row 2 has 3 cells and the header 2"),
        ("file,caption\na.mp4,a red square\nmoving right\n", "t.csv", "row 3 has 1 cells and the header 2"),
        ('file,caption\na.mp4,"one\nb.mp4,two\n', "t.csv", "row 2 has quotes that do not match"),
        ('file,caption\na.mp4,"a "red" square"\n', "t.csv", "row 2 has quotes that do not match"),
        ("file,caption\n,lost\n", "t.csv", "row 2 names no file"),
        ("name,caption\na.mp4,one\n", "t.csv", "row 2 names no file"),
        ("file,file,caption\na.mp4,b.mp4,one\n", "t.csv", "two columns file"),
        (b"file,caption\na.mp4,caf\xe9\n", "t.csv", "line 2 is not UTF-8"),
        ('{"file": "a.mp4", "caption": "one"}\n{"file": "b.mp4", "cap', "t.jsonl", "line 2 is not JSON"),
        ('{"file": "a.mp4", "caption": 3}', "t.jsonl", "line 1: caption is '3', not text"),
        ('{"file": 3, "caption": "one"}', "t.jsonl", "line 1 has a file that is no text"),
        ('{"caption": "one"}', "t.jsonl", "line 1 names no file"),
        ('{"file": "a.mp4", "caption": "one", "caption": "two"}', "t.jsonl", "two fields 'caption'"),
        ('["a.mp4"]', "t.json", "entry 1 is no object"),
        ('{"file": "a.mp4", "caption": "cut \\ud83d"}', "t.jsonl", r"line 1: caption holds \ud83d"),
        ("[" * 100_000, "t.jsonl", "line 1"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(text: str | bytes, name: str, says: str) -> None:
    assert says in problem(text, name)


def test_languages_lengths_and_terms_come_along() -> None:
    text = (
        "file,caption,language,length,license,source\n"
        "a.mp4,one,,,MIT,mine\na.mp4,一,zh,dense,CC0,mine\nb.mp4,two,en,12.5,,\n"
    )
    found = tables.described(tables.rows(text.encode(), "t.csv"), "t.csv")
    assert found["a.mp4"].captions == (Caption("one"), Caption("一", "zh", "dense"))
    assert (found["a.mp4"].licence, found["a.mp4"].provenance, found["a.mp4"].where) == ("MIT; CC0", "mine", "row 2")
    assert found["b.mp4"].captions == (Caption("two"),), "a length in seconds is no length of a caption"


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"nowhere\.csv cannot be read"):
        tables.load(tmp_path / "nowhere.csv")


# ---- laws over many tables -------------------------------------------------------------------------------------------

ANY_TEXT = st.text("ab,;\"'\t \n\r\\{}[]é三😀" + SEPARATORS, min_size=1, max_size=12)
NAME = st.sampled_from(["a.mp4", "b.mp4", "c/d.mp4"])
NAMES = st.lists(NAME, min_size=1, max_size=6)


@settings(deadline=None, max_examples=80)
@given(st.data(), st.sampled_from([",", ";", "\t"]), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_what_the_csv_module_writes_is_read_back(data: st.DataObject, sign: str, end: str, has_mark: bool) -> None:
    rows = [(name, data.draw(ANY_TEXT)) for name in data.draw(NAMES)]
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=sign, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([("file", "caption"), *rows])
    wanted = {name: list(dict.fromkeys(text for other, text in rows if other == name)) for name, _ in rows}
    assert captions("\ufeff" * has_mark + file.getvalue()) == wanted


@settings(deadline=None, max_examples=80)
@given(st.lists(st.tuples(NAME, st.lists(ANY_TEXT, max_size=3)), min_size=1, max_size=6), st.booleans())
def test_what_the_json_module_writes_is_read_back(rows: list[tuple[str, list[str]]], is_ascii: bool) -> None:
    objects = [{"file": name, "caption": texts} for name, texts in rows]
    wanted: dict[str, list[str]] = {}
    for name, texts in rows:
        wanted[name] = list(dict.fromkeys([*wanted.get(name, []), *texts]))
    lines = "\n".join(json.dumps(one, ensure_ascii=is_ascii) for one in objects)
    for text in (lines, json.dumps(objects, ensure_ascii=is_ascii, indent=1)):
        assert captions(text, "t.jsonl") == wanted


def mutated(data: st.DataObject, whole: bytes) -> bytes:
    """Cut, double, replace or put in a few bytes."""
    for _ in range(data.draw(st.integers(1, 4))):
        at, end = sorted(data.draw(st.tuples(st.integers(0, len(whole)), st.integers(0, len(whole)))))
        new = data.draw(st.sampled_from([b"", b",", b'"', b"\n", b"\xe9", b"\0", b"{", b"]", b"\\", whole[at:end]]))
        keep = data.draw(st.sampled_from([at, min(at + 1, len(whole)), end]))
        whole = whole[:at] + new + whole[keep:]
    return whole


def check_mutations(data: st.DataObject) -> None:
    name, whole = data.draw(st.sampled_from(SAMPLES))
    text = mutated(data, whole)
    try:
        found = captions(text, name)
    except MediaError as error:
        found, says = {}, str(error)
    else:
        says = f"{name}: read"
    assert says.startswith(name) and "\n" not in says
    is_escaped = b"\\" in text or b"\r" in text
    for caption in (caption for of_file in found.values() for caption in of_file):  # each is in there as it stands
        assert is_escaped or '"' in caption or caption.encode() in text or json.dumps(caption)[1:-1].encode() in text


SAMPLES = [
    ("t.csv", 'file,caption\r\na.mp4,"one, and ""two"""\r\nb.mp4,three\u2028four\r\n'.encode()),
    ("t.tsv", b"file\tcaption\tlicence\na.mp4\tone\tMIT\nb.mp4\ttwo\t\n"),
    ("t.jsonl", '{"file": "a.mp4", "caption": ["one", "two"]}\n{"file": "b.mp4", "text": "三"}\n'.encode()),
    ("t.json", b'[{"file": "a.mp4", "caption": "one\\n"}, {"file": "b.mp4", "licence": "MIT"}]'),
]


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_a_damaged_table_is_read_or_refused_in_one_line(data: st.DataObject) -> None:
    check_mutations(data)


@pytest.mark.slow
@settings(deadline=None, max_examples=800)
@given(st.data())
def test_many_damaged_tables_are_read_or_refused_in_one_line(data: st.DataObject) -> None:
    check_mutations(data)
