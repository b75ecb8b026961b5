"""What is done: (source, stage, version, parameters) -> result, each exactly once, whatever is killed and when.

    folder/entries/<stage>/<2 digits>/<key>.json       which object answers a task; where it is, the task is done
    folder/objects/<2 digits>/<sha256>.parquet         results under the hash of their bytes
    folder/tmp/                                        what is being written, all that a kill can leave behind
    folder/fetched/, folder/<stage over the set>/      not the manifest's: remote sources, a stage's own files

An object is on disk before the entry that names it, and both appear by one rename or link. Two workers that did the
same task agree on the entry that came first. Results that equal each other are stored once.
"""

import hashlib
import json
import os
import shutil
import socket
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mutoscope.core.errors import MutoscopeError

# beside which a stage over the set has a folder of its own
# beside which a stage over the set has a folder of its own
FOLDERS = ("entries", "objects", "tmp", "fetched", "vote", "earlier-shards")


@dataclass(frozen=True)
class Task:
    """One thing to do, told apart from all others by its key.

    Args:
        source: sha256 of the bytes worked on, or another text that changes when they do.
        stage: name of what is done; it names a folder.
        version: of the code that does it, raised whenever the same parameters give another result.
        parameters: settings, and digests of the results of earlier stages that it reads; plain JSON data.
    """

    source: str
    stage: str
    version: int
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """Return 64 hexadecimal digits, the same for the same task on any machine."""
        text = json.dumps([self.source, self.stage, self.version, self.parameters], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Entry:
    """The outcome of a task: an object, a small value, or the problem that stood in its way.

    Args:
        key: of the task.
        digest: sha256 of the object, "" where there is none.
        suffix: of its file.
        size_bytes: of its file.
        value: a result that is small enough to stand here.
        problem: what is wrong with the source, "" if nothing is.
    """

    key: str
    digest: str = ""
    suffix: str = ""
    size_bytes: int = 0
    value: Mapping[str, Any] | None = None
    problem: str = ""


@dataclass(frozen=True)
class Pruned:
    """What was removed.

    Args:
        results: entries.
        size_bytes: of the objects that no other entry names.
    """

    results: int
    size_bytes: int


class Manifest:
    """The entries and objects of one folder; any number of processes may use it at a time.

    Attributes:
        used: keys of the entries that were found or made through this object.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.used: set[str] = set()

    def find(self, task: Task) -> Entry | None:
        """Return the outcome of a task, or None where it is still to be done, or its object was lost."""
        try:
            found = json.loads(self._entry_path(task).read_text(encoding="utf-8"))
            entry = Entry(**found["outcome"])
            whole = not entry.digest or self.path(entry).stat().st_size == entry.size_bytes
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if not whole or entry.key != task.key:
            return None
        self.used.add(entry.key)
        return entry

    def path(self, entry: Entry) -> Path:
        """Return where the object of an entry lies."""
        return self.folder / "objects" / entry.digest[:2] / f"{entry.digest}{entry.suffix}"

    def commit(self, task: Task, write: Callable[[Path], None], suffix: str = ".parquet") -> Entry:
        """Write a result and enter it.

        Args:
            task: what was done.
            write: writes the result to the path that it is given.
            suffix: of the file.

        Returns:
            The entry, which is another worker's if that came first.

        Raises:
            MutoscopeError: the folder cannot be written.
        """
        with self._temporary(suffix) as temporary:
            write(temporary)
            _flush(temporary)
            entry = Entry(task.key, digest_of(temporary), suffix, temporary.stat().st_size)
            final = self.path(entry)
            final.parent.mkdir(parents=True, exist_ok=True)
            os.replace(temporary, final)
        return self._enter(task, entry)

    def commit_value(self, task: Task, value: Mapping[str, Any]) -> Entry:
        """Enter a small result, plain JSON data."""
        return self._enter(task, Entry(task.key, value=value))

    def commit_problem(self, task: Task, problem: str) -> Entry:
        """Enter what is wrong with the source, so that it is not found out again."""
        return self._enter(task, Entry(task.key, problem=problem))

    def count(self, stage: str) -> int:
        """Return how many tasks of a stage are entered, of whatever version."""
        return sum(1 for _ in (self.folder / "entries" / stage).glob("*/*.json"))

    def sweep(self) -> None:
        """Remove what killed processes left half written; to be called while none is at work."""
        shutil.rmtree(self.folder / "tmp", ignore_errors=True)

    def prune(self, used: Collection[str]) -> Pruned:
        """Remove all entries but some, and the objects that none of these names; to be called while none is at work.

        Args:
            used: keys of the entries to keep.
        """
        entries = [path for path in self.folder.glob("entries/*/*/*.json") if path.stem not in used]
        for path in entries:  # first: an entry without its object is work to be done, the reverse only takes space
            path.unlink()
        kept = (json.loads(path.read_text(encoding="utf-8")) for path in self.folder.glob("entries/*/*/*.json"))
        named = {f"{entry['outcome']['digest']}{entry['outcome']['suffix']}" for entry in kept}
        objects = [path for path in self.folder.glob("objects/*/*") if path.name not in named]
        size_bytes = sum(path.stat().st_size for path in objects)
        for path in objects:
            path.unlink()
        return Pruned(len(entries), size_bytes)

    def _entry_path(self, task: Task) -> Path:
        return self.folder / "entries" / task.stage / task.key[:2] / f"{task.key}.json"

    def _enter(self, task: Task, entry: Entry) -> Entry:
        self.used.add(task.key)
        asked = {name: getattr(task, name) for name in ("source", "stage", "version", "parameters")}
        final = self._entry_path(task)
        with self._temporary(".json") as temporary:
            text = json.dumps({**asked, "outcome": vars(entry)}, ensure_ascii=False, indent=1)
            temporary.write_text(text + "\n", encoding="utf-8")
            _flush(temporary)
            final.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(temporary, final)  # unlike a rename, this fails where there is one
            except FileExistsError:
                first = self.find(task)
                if first is not None:
                    return first
                os.replace(temporary, final)  # that one was damaged
            except OSError:  # a file system without links
                os.replace(temporary, final)
        return entry

    @contextmanager
    def _temporary(self, suffix: str) -> Iterator[Path]:
        folder = self.folder / "tmp"
        path = folder / f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex}{suffix}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                yield path
            finally:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise MutoscopeError(
                f"cannot write to {self.folder}: {error.strerror or error}. Free some space there, or name another "
                "folder with --out."
            ) from error


def digest_of(path: Path) -> str:
    """Return the sha256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Have the bytes on the disk before they get their name: a rename may outlive a power cut that they do not."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
