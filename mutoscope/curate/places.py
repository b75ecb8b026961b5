r"""Where sources lie: how a path or URL is spelled, which file system it belongs to, whether it has changed.

A file name is bytes, and need not be UTF-8. A byte that is no UTF-8 is spelled with an escape: the name
b"caf\xe9.mp4" is the text ``caf\xe9.mp4``, with a backslash, everywhere from the listing to the data set.
"""

import os
import re
from typing import Any

import fsspec

from mutoscope.core.errors import RequestError

ESCAPE = re.compile(r"\\x([89a-f][0-9a-f])")


def unspelled(path: str) -> str:
    """Return the local path that `spelled` was called with."""
    if "\\x" not in path or os.path.lexists(path):
        return path
    return ESCAPE.sub(lambda escape: chr(0xDC00 + int(escape[1], 16)), path)


def is_url(source: str) -> bool:
    """Say whether a source is not a local path."""
    return "://" in source or "::" in source


def is_web(source: str) -> bool:
    """Say whether a source is on the web, where there are neither folders nor globs, as ? begins a query."""
    return source.startswith(("http://", "https://"))


def system(source: str) -> tuple[Any, str]:
    """Return the file system of a source, and its name there.

    Raises:
        RequestError: what this kind of URL needs is not installed.
    """
    if not is_url(source):
        return fsspec.filesystem("file"), unspelled(source)
    try:
        return fsspec.core.url_to_fs(source)
    except (ImportError, ValueError) as error:
        raise RequestError(f"{source} cannot be reached: {error}. Install what it names with pip.") from error


def state(path: str) -> str:
    """Return a text that changes when the file at a path or URL does."""
    if is_web(path):
        return ""  # an address is taken to mean one file for good
    if is_url(path):
        there, name = system(path)
        return str(there.ukey(name))
    try:
        found = os.stat(unspelled(path))
    except (OSError, ValueError) as error:
        return f"missing: {getattr(error, 'strerror', None) or error}"
    return f"{found.st_size} bytes, {found.st_mtime_ns} ns"
