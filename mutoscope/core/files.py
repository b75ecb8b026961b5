"""Files and folders that appear whole under their final name, or not at all; names that can be printed."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mutoscope.core.errors import MutoscopeError

STRAY = re.compile("[\udc80-\udcff]")  # how Python holds a byte of a file name that is no UTF-8


def spelled(name: str) -> str:
    r"""Spell a name so that it can be printed and stored: bytes that are no UTF-8 become escapes such as ``\xe9``."""
    return STRAY.sub(lambda stray: f"\\x{ord(stray[0]) - 0xDC00:02x}", name)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes the name `path` when the block ends, and vanishes when it raises.

    The temporary name keeps the suffix, because writers choose the format by it. Missing folders are made.

    Args:
        path: final name; a file already there stays as it is until the new one is complete.

    Raises:
        MutoscopeError: the folder or the file cannot be written (no space, no right), here or inside the block.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.touch()
            mode = temporary.stat().st_mode
            yield temporary
            os.chmod(temporary, mode)  # as any new file has it: safetensors leaves its files to their owner alone
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise MutoscopeError(
            f"cannot write {path}: {error.strerror or error}. Free some space there, or name another folder."
        ) from error


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; it takes that name when the block ends, and vanishes when it raises.

    Args:
        path: final name: of nothing yet, or of an empty folder.

    Raises:
        MutoscopeError: there is something in it already, or it cannot be written, here or inside the block.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise MutoscopeError(f"{path} is there already. Remove it, or name another folder.")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.mkdir()
            yield temporary
            os.replace(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise MutoscopeError(
            f"cannot write {path}: {error.strerror or error}. Free some space there, or name another folder."
        ) from error
