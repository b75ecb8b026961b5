"""What there is to examine: every file that the sources on a command line mean, and what is said about it.

    files, folders, globs, URLs, lists, tables ── listing ──> Input, sorted by path

Beside a file may lie what is said about it: `NAME.txt` (its caption) or `NAME.json` (caption, licence, provenance).
A table of `data.tables` names files and what they show; it is read where it lies in a folder that is given, or given
itself. A list is a .txt file of paths or URLs, one a line, that is given itself. A tar shard that is given itself, or
by a glob, is as many sources as it has media members; see `members`.

What is said in a place that cannot be read is not passed over: the table or sidecar becomes an input with a problem.
"""

import json
import os
import posixpath
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from glob import glob
from pathlib import Path
from typing import Any

from mutoscope.core import media
from mutoscope.core.errors import MediaError, RequestError
from mutoscope.core.files import spelled
from mutoscope.curate import members, places
from mutoscope.data import tables
from mutoscope.data.schema import Caption

SIDECARS = (".txt", ".json")
BESIDE = (*tables.SUFFIXES, *SIDECARS, ".md", ".html", ".srt", ".vtt", ".log", ".tar")  # in a folder; no media
OTHER_MEMBERS = (".cls", ".npy", ".npz", ".pkl", ".pth", ".pyd", ".id")  # what shards hold besides; no media either


@dataclass(frozen=True)
class Input:
    """A file to be examined, and what is said about it.

    Args:
        path: a local path, a URL, or that of a member of a shard; see `files.spelled` for names that are not UTF-8.
        size_bytes: 0 where it is not known before.
        captions: what it shows; no two are equal, and none is empty.
        licence: "" where nothing says it, as for `provenance`.
        provenance: where it comes from.
        problem: why it is not examined, "" where it is to be.
    """

    path: str
    size_bytes: int = 0
    captions: tuple[Caption, ...] = ()
    licence: str = ""
    provenance: str = ""
    problem: str = ""

    @property
    def caption(self) -> str:
        """The text of its first caption, "" where it has none."""
        return self.captions[0].text if self.captions else ""

    def with_more(self, other: "Input") -> "Input":
        """Join what is said about one file in two places: all captions, and otherwise the first has the word."""
        return replace(
            self,
            size_bytes=self.size_bytes or other.size_bytes,
            captions=joined(self.captions, other.captions),
            licence=self.licence or other.licence,
            provenance=self.provenance or other.provenance,
            problem=self.problem or other.problem,
        )


def joined(some: Iterable[Caption], others: Iterable[Caption]) -> tuple[Caption, ...]:
    """Join captions, each text once."""
    found: dict[str, Caption] = {}
    for caption in (*some, *others):
        found.setdefault(caption.text, caption)
    return tuple(found.values())


def listing(given: Iterable[str], besides: Path | None = None) -> list[Input]:
    """Find every file that the sources on a command line mean, each once, sorted by path.

    Args:
        given: files, folders, globs, URLs of any of these, lists (.txt) and tables (.csv, .jsonl, .parquet ...).
        besides: a folder that is left out, because the data set is written there.

    Raises:
        RequestError: a source does not exist, or there is none at all.
        MediaError: a list or table that is given itself cannot be read.
    """
    found: dict[str, Input] = {}
    for source in given:
        for entry in _expand(source, besides):
            old = found.get(entry.path)
            found[entry.path] = entry if old is None else old.with_more(entry)
        if all(entry.problem for entry in found.values()):
            says = next((f" ({entry.path}: {entry.problem})" for entry in found.values()), "")
            raise RequestError(
                f"{source} holds no video or picture{says}. Give a file, a folder, a glob, a URL or a list; "
                "tar shards are given by a glob, such as 'folder/*.tar'."
            )
    if not found:
        raise RequestError("No source was given. Give a file, a folder, a glob, a URL or a list.")
    return [found[path] for path in sorted(found)]


def _expand(source: str, besides: Path | None) -> Iterator[Input]:
    if places.is_web(source):
        if members.is_shard(source.partition("?")[0]):
            raise RequestError(
                f"{source} cannot be read member by member over the web. Download it, and give the file."
            )
        yield Input(source)
        return
    if members.is_member(source):
        yield _member(source)
        return
    system, path = places.system(source)
    is_glob = any(sign in source for sign in "*?[")
    if is_glob and not system.exists(path):
        is_url = places.is_url(source)
        names = map(system.unstrip_protocol, system.glob(path)) if is_url else glob(source, recursive=True)
        for name in sorted(names):
            yield from _expand(name, besides)
        return
    suffix = Path(path).suffix.lower()
    if is_folder(system, path, source):
        yield from _walk(system, path, source, besides)
    elif suffix in tables.SUFFIXES or suffix == ".json":
        for name, about in tables.described(_table(system, path, source), source).items():
            yield _said(about, _beside(source, name))
    elif suffix == ".txt":
        for line in _text(system, path, source).split("\n"):
            if line.strip() and not line.lstrip().startswith("#"):
                yield from _expand(_beside(source, line.strip()), besides)
    elif members.is_shard(path):
        yield from _members(source)
    else:
        yield from _alone(system, path, source)


def _walk(system: Any, folder: str, source: str, besides: Path | None) -> Iterator[Input]:
    """Yield the media files below a folder, each with what tables and sidecars say."""
    entries = system.find(folder, detail=True)
    root = str(system._strip_protocol(folder)).rstrip("/")
    is_url = places.is_url(source)
    avoided = str(besides.resolve()) + os.sep if besides is not None and not is_url else None
    names = {
        name: info
        for name, info in sorted(entries.items())
        if not any(part.startswith(".") for part in name[len(root) :].split("/"))
        and not (avoided and str(Path(name).resolve()).startswith(avoided))
    }

    def shown(name: str) -> str:
        return spelled(system.unstrip_protocol(name) if is_url else source.rstrip("/") + name[len(root) :])

    notes = _Notes(names, lambda name: _bytes(system, name, shown(name)), shown)
    notes.read_tables()
    for name, info in names.items():
        if Path(name).suffix.lower() in BESIDE:
            if members.is_shard(name):
                says = f"it is a tar shard; give it by itself, or all by a glob: '{shown(folder) or folder}/*.tar'"
                yield Input(shown(name), problem=says)
            continue
        yield Input(shown(name), int(info.get("size") or 0)).with_more(notes.about(name))
    yield from notes.problems


def _members(shard: str) -> Iterator[Input]:
    """Yield the media files in a tar shard, each with what other members say about it."""
    state, shard = places.state(shard), spelled(shard)
    found = members.members(shard, state)
    told = [name for name in found.places if Path(name).suffix.lower() in (*tables.SUFFIXES, *SIDECARS)]
    contents = dict(members.contents(shard, state, told))
    notes = _Notes(found.places, contents.__getitem__, lambda name: members.joined(name, shard), by_key=True)
    notes.read_tables()
    is_media = {
        name: not any(part.startswith(".") for part in name.removeprefix("./").split("/"))
        and Path(name).suffix.lower() not in BESIDE + OTHER_MEMBERS
        for name in (*found.places, *found.left_out)
    }
    for name, (_, size_bytes) in found.places.items():
        if is_media[name]:
            yield Input(members.joined(name, shard), size_bytes).with_more(notes.about(name))
    for name, says in found.left_out.items():
        if is_media[name] or Path(name).suffix.lower() in (*tables.SUFFIXES, *SIDECARS):
            yield Input(members.joined(name, shard), problem=says)
    yield from notes.problems
    if found.problem:
        yield Input(shard)  # to be a row that says so


def _member(path: str) -> Input:
    shard = members.parted(path)[1]
    is_folder(*places.system(shard), shard)  # refuses one that is not there
    found = next((entry for entry in _members(shard) if entry.path == path), None)
    if found is None:
        raise RequestError(f"{path} does not exist. Give {shard} for all of its members.")
    return found


def _alone(system: Any, path: str, source: str) -> Iterator[Input]:
    """Yield a file that is given itself, with what its sidecars say."""
    shown = spelled(source)
    stem = posixpath.splitext(path)[0]
    beside = [path, *(name for suffix in SIDECARS if (name := stem + suffix) != path and system.exists(name))]
    notes = _Notes(beside, lambda name: _bytes(system, name, name), spelled)
    is_here = not places.is_url(source) and Path(path).is_file()
    yield Input(shown, Path(path).stat().st_size if is_here else 0).with_more(notes.about(path))
    yield from notes.problems


# ---- what is said about files ----------------------------------------------------------------------------------------


@dataclass
class _Notes:
    """What tables and sidecars among some files say about the others.

    Args:
        names: of all files.
        read: returns the bytes of one.
        shown: returns the name of one for people.
        by_key: whether a sidecar also belongs to all files that have its name up to the first dot, as in WebDataset.
    """

    names: Collection[str]
    read: Callable[[str], bytes]
    shown: Callable[[str], str]
    by_key: bool = False
    problems: list[Input] = field(default_factory=list)
    _told: dict[str, Input] = field(default_factory=dict)  # by tables, about each file
    _sidecars: dict[str, str] = field(default_factory=dict)  # by stem and lower-case ending
    _read: dict[str, Input] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.names:
            stem, suffix = posixpath.splitext(name)
            if suffix.lower() in SIDECARS:
                self._sidecars.setdefault(stem + suffix.lower(), name)

    def read_tables(self) -> None:
        """Read the tables; what is no table of files is left alone, as it may be anything."""
        stems = {posixpath.splitext(name)[0] for name in self.names if not name.lower().endswith((*BESIDE,))}
        for name in self.names:
            stem, suffix = posixpath.splitext(name)
            if suffix.lower() in tables.SUFFIXES or (suffix.lower() == ".json" and stem not in stems):
                try:
                    self._read_table(name)
                except MediaError as error:
                    if suffix.lower() in tables.SUFFIXES or self.read(name).lstrip().startswith(b"["):
                        self._problem(name, error)

    def _read_table(self, name: str) -> None:
        rows = tables.rows(self.read(name), name)
        if not any(key in row.fields for row in rows for key in (*tables.FILE_KEYS, *tables.CAPTION_KEYS)):
            return
        missing, spellings = list[str](), {spelled(other): other for other in self.names}
        for file, about in tables.described(rows, name).items():
            place = posixpath.normpath(posixpath.join(posixpath.dirname(name), file))
            place = spellings.get(place) or spellings.get(file) or place
            if place in self.names:
                new = _said(about)
                self._told[place] = self._told[place].with_more(new) if place in self._told else new
            else:
                missing.append(f"{about.where}: {spelled(file)}")
        if missing:
            says = f"it names {len(missing)} files that do not lie here, the first in {missing[0]}"
            self.problems.append(Input(self.shown(name), problem=says))

    def about(self, name: str) -> Input:
        """Return what is said about a file."""
        stem = posixpath.splitext(name)[0]
        folder, slash, base = name.rpartition("/")
        found = Input("")
        for suffix in SIDECARS:
            keys = [stem, folder + slash + base.partition(".")[0]] if self.by_key else [stem]
            sidecar = next((self._sidecars[key + suffix] for key in keys if key + suffix in self._sidecars), None)
            if sidecar is not None and sidecar != name:
                found = self._said_in(sidecar, suffix).with_more(found)
        return found.with_more(self._told.get(name, found))

    def _said_in(self, sidecar: str, suffix: str) -> Input:
        if sidecar not in self._read:
            self._read[sidecar] = Input("")
            try:
                text = tables.text_of(self.read(sidecar), sidecar)
                self._read[sidecar] = _said_in_text(text) if suffix == ".txt" else _said_in_json(text, sidecar)
            except MediaError as error:
                self._problem(sidecar, error)
        return self._read[sidecar]

    def _problem(self, name: str, error: MediaError) -> None:
        says = " ".join(str(error).split()).removeprefix(name).lstrip(": ")
        self.problems.append(Input(self.shown(name), problem=spelled(says).rstrip(".")))


def _said(about: tables.Description, path: str = "") -> Input:
    captions = (replace(caption, text=" ".join(caption.text.split())) for caption in about.captions)
    texts = joined((), (caption for caption in captions if caption.text))
    return Input(path, 0, texts, " ".join(about.licence.split()), " ".join(about.provenance.split()))


def _said_in_text(text: str) -> Input:
    return _said(tables.Description((Caption(text),)))


def _said_in_json(text: str, name: str) -> Input:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MediaError(f"{name}: it is not JSON: {error}. Mend it, or remove it.") from error
    if not isinstance(fields, dict):
        return Input("")
    return _said(tables.describe({name.strip().casefold(): value for name, value in fields.items()}, name))


# ---- files -----------------------------------------------------------------------------------------------------------


def _table(system: Any, path: str, source: str) -> list[tables.Row]:
    return tables.rows(_bytes(system, path, source), source)


def _text(system: Any, path: str, source: str) -> str:
    return tables.text_of(_bytes(system, path, source), source)


def _bytes(system: Any, path: str, shown: str) -> bytes:
    try:
        with system.open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise MediaError(f"{shown} cannot be read ({media.reason(error)}). Give a file that can be read.") from error


def is_folder(system: Any, path: str, source: str) -> bool:
    """Say whether a source is a folder.

    Raises:
        RequestError: there is nothing of that name.
    """
    if system.isdir(path):
        return True
    if not system.exists(path):
        raise RequestError(f"{source} does not exist. Give a file, a folder, a glob, a URL or a list of them.")
    return False


def _beside(table: str, name: str) -> str:
    """Return where a file is that a list or table names: a URL, an absolute path, or one beside the table."""
    if places.is_url(name) or os.path.isabs(name):
        return name
    folder, slash, _ = table.rpartition("/")
    return f"{folder}{slash}{name.removeprefix('./') if slash else name}"
