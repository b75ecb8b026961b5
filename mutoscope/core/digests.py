"""SHA-256 of files, read as a stream; of a large file once, and then from notes in the user's folder for such things.

    ~/.cache/mutoscope/digests/ab12….json    path, size, time of the last change, SHA-256

A note counts as long as size and time are those of the file.
"""

import hashlib
import json
import os
from pathlib import Path

from mutoscope.core.files import replacing

LARGE = 64 * 2**20  # bytes from which on a note is worth its file


def cache_folder(name: str) -> Path:
    """Return one of the user's folders for what can be made again: in MUTOSCOPE_CACHE, or in ~/.cache/mutoscope."""
    own = os.environ.get("MUTOSCOPE_CACHE")
    return (Path(own) if own else Path.home() / ".cache" / "mutoscope") / name


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, as ``sha256sum`` prints it.

    Raises:
        MutoscopeError: the notes cannot be written.
    """
    path, state = path.resolve(), path.stat()
    facts = {"path": str(path), "size": state.st_size, "changed_ns": state.st_mtime_ns}
    if state.st_size < LARGE:
        return _read(path)
    note = cache_folder("digests") / f"{hashlib.sha256(str(path).encode(errors='surrogateescape')).hexdigest()}.json"
    if note.is_file():
        known = json.loads(note.read_text(encoding="utf-8"))
        if all(known.get(name) == value for name, value in facts.items()):
            return known["sha256"]
    digest = _read(path)
    with replacing(note) as temporary:
        temporary.write_text(json.dumps({**facts, "sha256": digest}) + "\n", encoding="utf-8")
    return digest


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
