"""Files that appear whole under their final name, or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mutoscope.core.errors import MutoscopeError


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
