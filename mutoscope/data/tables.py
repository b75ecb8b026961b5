"""Tables of files with their captions: one reader for curation, training and footage.

    .csv .tsv .jsonl .json .parquet ── rows ──> Row: where it stands, its fields ── described ──> {file: Description}

A row names a file (column ``file`` or another of `FILE_KEYS`) and may have ``caption`` (one text or, in JSON and
Parquet, a list of texts), ``language``, ``length``, ``licence`` and ``provenance``; other columns are left alone. Names
of columns may be in capitals and have spaces around them. A file in several rows has the captions of all of them.

Nothing is guessed and nothing is cut: text may hold any character and be of any length, and a row that cannot be read
as it was meant, such as one with a comma too many, is an error that names the row.
"""

import codecs
import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mutoscope.core.errors import MediaError, MissingExtra
from mutoscope.data.schema import Caption

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
JSON = (".jsonl", ".ndjson", ".json")  # a single .json may also describe the one file beside which it lies
FILE_KEYS = ("file", "file_name", "filename", "path", "file_path", "video", "video_path", "image", "url")
CAPTION_KEYS = ("caption", "captions", "text")
LICENCE_KEYS = ("licence", "license")
PROVENANCE_KEYS = ("provenance", "source_repo", "source", "origin")
KEYS = (*FILE_KEYS, *CAPTION_KEYS, *LICENCE_KEYS, *PROVENANCE_KEYS)
LENGTHS = ("short", "dense")  # of a caption; a column `length` may also be seconds, which are no business of ours
DELIMITERS = (",", ";", "\t")  # spreadsheets write semicolons where the comma is the decimal sign
LONGEST_CELL = 2**31 - 1  # characters; the default of the csv module is 131,072
BLANK = re.compile(r"[ \t\r\n]*")
EXAMPLE = '{"file": "a.mp4", "caption": "a red kite"}'
NEEDED = f"It needs a column {FILE_KEYS[0]}, and may have caption, licence and provenance."


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Args:
        where: its place for messages, such as ``row 3``, as a spreadsheet counts: the header is row 1.
        fields: by the names of the columns in lower case; texts and, from JSON and Parquet, other plain values.
    """

    where: str
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Description:
    """What a table or a sidecar says about a file.

    Args:
        captions: in the order in which they stand; the text "" where a caption is there and empty.
        licence: "" where nothing says it, as for `provenance`.
        provenance: where the file comes from.
        where: the row that names it first.
    """

    captions: tuple[Caption, ...] = ()
    licence: str = ""
    provenance: str = ""
    where: str = ""


def load(path: Path) -> dict[str, Description]:
    """Read what a table says about each file that it names, in the order of the table.

    Raises:
        MediaError: the table is missing, or a row cannot be read.
        MissingExtra: it is Parquet, and pyarrow is not installed.
    """
    try:
        return described(rows(path.read_bytes(), str(path)), str(path))
    except OSError as error:
        raise MediaError(f"{path} cannot be read ({error.strerror or error}). Give a .csv or .jsonl table.") from error


def rows(data: bytes, name: str) -> list[Row]:
    """Read the rows of a table; its kind follows from the ending of its name.

    Args:
        data: its bytes.
        name: of the table, for messages.

    Raises:
        MediaError: a row cannot be read; the message names it.
        MissingExtra: it is Parquet, and pyarrow is not installed.
    """
    suffix = Path(name).suffix.lower()
    if suffix == ".parquet":
        return _parquet(data, name)
    text = text_of(data, name)
    return list(_json(text, name) if suffix in JSON else _csv(text, name))


def described(rows: Iterable[Row], name: str) -> dict[str, Description]:
    """Collect what rows say about each file.

    Args:
        rows: of one table.
        name: of the table, for messages.

    Raises:
        MediaError: a row names no file, or its caption is no text; the message names the row.
    """
    found: dict[str, Description] = {}
    for row in rows:
        place = f"{name}: {row.where}"
        key = next((key for key in FILE_KEYS if row.fields.get(key)), None)
        file = row.fields[key] if key else ""
        if not isinstance(file, str) or not file.strip():
            problem = "names no file" if key is None else f"has a {key} that is no text"
            raise MediaError(f"{place} {problem}. {NEEDED}")
        _refuse_halves(file, place)
        new = replace(describe(row.fields, place), where=row.where)
        found[file] = _with(found[file], new) if file in found else new
    return found


def describe(fields: Mapping[str, Any], place: str) -> Description:
    """Return what the fields of one row, or of a sidecar, say.

    Args:
        fields: by the names of the columns in lower case.
        place: of the row, for messages.

    Raises:
        MediaError: a caption is no text.
    """

    def first(keys: Sequence[str]) -> str:
        texts = (value for key in keys if isinstance(value := fields.get(key), str) and value.strip())
        text = next(texts, "")
        _refuse_halves(text, place)
        return text

    language, length = (str(fields.get(key) or "").strip() for key in ("language", "length"))
    length = length.casefold() if length.casefold() in LENGTHS else LENGTHS[0]
    captions: list[Caption] = []
    for key in CAPTION_KEYS:
        if key == "text" and any(caption.text.strip() for caption in captions):
            break  # beside a caption, a column of this name says something else
        captions += [Caption(text, language or "en", length) for text in _texts(fields.get(key), f"{place}: {key}")]
    return Description(tuple(dict.fromkeys(captions)), first(LICENCE_KEYS), first(PROVENANCE_KEYS))


def text_of(data: bytes, name: str) -> str:
    """Decode text in UTF-8, with or without a byte order mark, or in UTF-16 with one, as spreadsheets write it.

    Raises:
        MediaError: it is in another encoding.
    """
    is_wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if is_wide else "utf-8").lstrip("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise MediaError(f"{name}: line {line} is not UTF-8. Save it as UTF-8.") from error


def _with(old: Description, new: Description) -> Description:
    """Add a further row about the same file."""

    def both(one: str, other: str) -> str:
        return "; ".join(dict.fromkeys(text for text in (one, other) if text))

    return Description(
        tuple(dict.fromkeys((*old.captions, *new.captions))),
        both(old.licence, new.licence),
        both(old.provenance, new.provenance),
        old.where,
    )


def _texts(value: object, place: str) -> Iterator[str]:
    if isinstance(value, str):
        _refuse_halves(value, place)
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one, place)
    elif value is not None:
        raise MediaError(f"{place} is {str(value)[:40]!r}, not text. Give text in quotes, or a list of texts.")


def _refuse_halves(text: str, place: str) -> None:
    """Refuse text that no file can hold: JSON can spell half of a surrogate pair, as where an emoji was cut in two."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ascii(text[error.start])[1:-1]
        raise MediaError(f"{place} holds {half}, half of a character. Remove it, or write the character out.") from None


# ---- kinds of tables -------------------------------------------------------------------------------------------------


def _csv(text: str, name: str) -> Iterator[Row]:
    """Read comma-separated values (RFC 4180), also with semicolons or tabs; an empty line counts, and says nothing."""
    csv.field_size_limit(LONGEST_CELL)
    delimiter = "\t" if name.lower().endswith(".tsv") else _delimiter(text)
    # csv splits at line feeds and carriage returns alone, and only where newline="" leaves them as they are
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    header: list[str] | None = None
    number = 0
    while True:
        number += 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            advice = "Put text in double quotes, and double the quotes inside it."
            raise MediaError(f"{name}: row {number} has quotes that do not match ({error}). {advice}") from error
        if cells is None:
            return
        if not any(cell.strip() for cell in cells):
            continue
        names = [cell.strip("\ufeff \t").casefold() for cell in cells]
        header = header or names
        if names == header:  # also where files with a header each were joined
            continue
        while len(cells) > len(header) and not cells[-1].strip():
            cells.pop()
        if len(cells) != len(header):
            counts = f"row {number} has {len(cells)} cells and the header {len(header)}"
            sign = {",": "commas", ";": "semicolons"}.get(delimiter, "tabs")
            advice = f"Put text that holds {sign} or line breaks in double quotes, and leave no {sign} out."
            raise MediaError(f"{name}: {counts}. {advice}")
        fields = _fields(header, cells, name)
        for key in set(FILE_KEYS) & fields.keys():
            fields[key] = fields[key].strip()
        yield Row(f"row {number}", fields)


def _delimiter(text: str) -> str:
    """Return the sign with which the header has a column that names files."""
    header = re.split(r"[\r\n]", text.lstrip(), maxsplit=1)[0]
    for sign in DELIMITERS:
        if any(cell.strip(' "').casefold() in FILE_KEYS for cell in header.split(sign)):
            return sign
    return DELIMITERS[0]


def _fields(header: Sequence[str], cells: Sequence[Any], name: str) -> dict[str, Any]:
    """Pair names with cells; several columns of captions become a list."""
    fields: dict[str, Any] = {}
    for key, cell in zip(header, cells, strict=True):
        if key not in fields:
            fields[key] = cell
        elif key in CAPTION_KEYS:
            fields[key] = [fields[key], cell]
        elif key in KEYS:
            raise MediaError(f"{name} has two columns {key}. Remove one of them, or give it another name.")
    return fields


def _json(text: str, name: str) -> Iterator[Row]:
    """Read JSON objects: one a line, one after another in any way, or in arrays."""
    decoder = json.JSONDecoder(object_pairs_hook=_object, parse_constant=lambda _: None, strict=False)
    at, line, entry = 0, 1, 0
    while True:
        start = BLANK.match(text, at).end()  # pyright: ignore[reportOptionalMemberAccess]  # it matches nothing too
        line += text.count("\n", at, start)
        if start == len(text):
            return
        try:
            found, at = decoder.raw_decode(text, start)
        except json.JSONDecodeError as error:
            place = f"{name}: line {error.lineno} is not JSON ({error.msg}, column {error.colno})"
            raise MediaError(f"{place}. Mend that line; each is one object, such as {EXAMPLE}") from error
        except (ValueError, RecursionError) as error:
            raise MediaError(f"{name}: line {line} cannot be read ({error}). Mend or remove it.") from error
        for one in found if isinstance(found, list) else [found]:
            entry += 1
            where = f"entry {entry}" if isinstance(found, list) else f"line {line}"
            if not isinstance(one, dict):
                raise MediaError(f"{name}: {where} is no object. Each is one object, such as {EXAMPLE}")
            yield Row(where, one)
        line += text.count("\n", start, at)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its fields; of a field that is there twice the json module would keep the last in silence."""
    found = {name.strip().casefold(): value for name, value in pairs}
    if len(found) < len(pairs):
        names = [name.strip().casefold() for name, _ in pairs]
        raise ValueError(f"it has two fields {next(name for name in names if names.count(name) > 1)!r}")
    return found


def _parquet(data: bytes, name: str) -> list[Row]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtra("curate", "pyarrow", f"Reading {name}") from error
    try:
        table = pq.read_table(io.BytesIO(data))
        header = [column.strip().casefold() for column in table.column_names]
        columns = [column.to_pylist() for column in table.columns]
    except (OSError, ValueError, pa.ArrowException) as error:
        raise MediaError(f"{name} cannot be read as Parquet ({str(error)[:200]}). Write it again.") from error
    cells = zip(*columns, strict=True)
    return [Row(f"row {number}", _fields(header, row, name)) for number, row in enumerate(cells, 1)]
