"""Folders of files, on this machine or on the Hugging Face hub, read through the same few methods.

    a path                        the file or the folder there
    hub:owner/name[/path]         a file or a folder of a repository on the hub
    owner/name[/path]             the same, if there is no such path here

Nothing is downloaded until `fetch` asks for a file; names and headers of safetensors files are known before that.
"""

import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Protocol, runtime_checkable

from mutoscope.core.errors import MissingExtra, WeightsError

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+(/[\w./-]+)?")
ENDINGS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".gguf")  # of files with weights
POINTER = b"version https://git-lfs"  # how a file begins that Git LFS left in the place of another
PAGE = re.compile(rb"\s*<(!doctype|html)", re.IGNORECASE)
LONGEST_HEADER = 100_000_000  # bytes, as the safetensors library has it
JSON = Mapping[str, Any]


class Head(NamedTuple):
    """The head of a safetensors file: what it holds, as its JSON says, and where the numbers begin."""

    tensors: Mapping[str, JSON]
    metadata: Mapping[str, str]
    begin: int


@runtime_checkable
class Folder(Protocol):
    """Files under one name."""

    @property
    def source(self) -> str:
        """What the user called it."""
        ...

    def names(self) -> list[str]:
        """Return the files here and one folder down, as relative names with slashes, sorted."""
        ...

    def folders(self) -> list[str]:
        """Return the folders here, sorted."""
        ...

    def inside(self, name: str) -> "Folder":
        """Return a folder of this one."""
        ...

    def above(self) -> "Folder | None":
        """Return the folder that this one is in, if that can be read."""
        ...

    def fetch(self, name: str) -> Path:
        """Return a file on this machine."""
        ...

    def head(self, name: str) -> Head:
        """Read the head of a safetensors file without the rest of it."""
        ...


def find(source: str | Path) -> tuple[Folder, str | None]:
    """Find what a user named.

    Returns:
        The folder, and the name of the file in it if one file was meant.

    Raises:
        WeightsError: there is no such thing.
        MissingExtra: it is on the hub, and huggingface_hub is not installed.
    """
    text = str(source)
    path = Path(text).expanduser()
    if text.startswith("hub:"):
        return _find_on_hub(text.removeprefix("hub:"), text)
    if path.is_dir():
        return LocalFolder(text, path), None
    if path.exists():
        return LocalFolder(str(path.parent), path.parent), path.name
    if REPOSITORY.fullmatch(text) and path.suffix not in ENDINGS:
        return _find_on_hub(text, text)
    raise WeightsError(f"there are no weights at {text}. Check the name, or give hub:OWNER/NAME to download them.")


def bring(source: str | Path, within: Sequence[str]) -> Path:
    """Bring some folders of a folder onto this machine, all files in them but weights that are there twice.

    Args:
        source: see `find`.
        within: names of the folders, or patterns such as "text_encoder*".

    Returns:
        The folder on this machine that holds them.

    Raises:
        WeightsError: there is no such folder, or nothing of that name in it.
        MissingExtra: it is on the hub, and huggingface_hub is not installed.
    """
    folder, file = find(source)
    names = [name for name in folder.names() if any(fnmatch(name, f"{pattern}/*") for pattern in within)]
    if file is not None or not names:
        raise WeightsError(f"there is no {within[0]} in {source}. Give the folder that holds it.")
    safe = {name.rpartition("/")[0] for name in names if name.endswith(".safetensors")}
    wanted = [name for name in names if not (name.endswith(ENDINGS[1:]) and name.rpartition("/")[0] in safe)]
    paths = [folder.fetch(name) for name in wanted]
    for path in paths:
        refuse_stand_in(path)
    return paths[0].parent.parent


@dataclass(frozen=True)
class LocalFolder:
    """A folder on this machine."""

    source: str
    path: Path

    def names(self) -> list[str]:
        """Return the files here and one folder down."""
        found = [*self.path.glob("*"), *self.path.glob("*/*")]
        return sorted(path.relative_to(self.path).as_posix() for path in found if path.is_file())

    def folders(self) -> list[str]:
        """Return the folders here."""
        return sorted(path.name for path in self.path.iterdir() if path.is_dir())

    def inside(self, name: str) -> "LocalFolder":
        """Return a folder of this one."""
        return LocalFolder(str(Path(self.source) / name), self.path / name)

    def above(self) -> "LocalFolder | None":
        """Return the folder that this one is in."""
        above = self.path.absolute().parent
        return None if above == above.parent else LocalFolder(str(above), above)  # the root holds everything

    def fetch(self, name: str) -> Path:
        """Return the file."""
        return self.path / name

    def head(self, name: str) -> Head:
        """Read the head of a safetensors file."""
        return read_head(self.path / name)


@dataclass(frozen=True)
class HubFolder:
    """A folder of a repository on the hub."""

    source: str
    repository: str
    files: tuple[str, ...]
    prefix: str

    def names(self) -> list[str]:
        """Return the files here and one folder down."""
        inside = [name.removeprefix(self.prefix) for name in self.files if name.startswith(self.prefix)]
        return sorted(name for name in inside if name.count("/") <= 1)

    def folders(self) -> list[str]:
        """Return the folders here."""
        inside = [name.removeprefix(self.prefix) for name in self.files if name.startswith(self.prefix)]
        return sorted({name.split("/")[0] for name in inside if "/" in name})

    def inside(self, name: str) -> "HubFolder":
        """Return a folder of this one."""
        return self._at(f"{self.prefix}{name}/")

    def above(self) -> "HubFolder | None":
        """Return the folder that this one is in, if it is in the repository."""
        if not self.prefix:
            return None
        above = self.prefix[:-1].rpartition("/")[0]
        return self._at(f"{above}/" if above else "")

    def _at(self, prefix: str) -> "HubFolder":
        return replace(self, source=f"hub:{self.repository}/{prefix}".rstrip("/"), prefix=prefix)

    def fetch(self, name: str) -> Path:
        """Download the file, unless it has been before."""
        hub = _hub()
        try:
            return Path(hub.hf_hub_download(self.repository, self.prefix + name))
        except Exception as error:
            raise _failed(self.source, error) from error

    def head(self, name: str) -> Head:
        """Ask the hub for the head of a safetensors file, a few kilobytes."""
        hub = _hub()
        try:
            found = hub.parse_safetensors_file_metadata(self.repository, self.prefix + name)
        except Exception as error:
            raise _failed(self.source, error) from error
        tensors = {name: {"dtype": part.dtype, "shape": list(part.shape)} for name, part in found.tensors.items()}
        return Head(tensors, dict(found.metadata), 0)


def read_text(folder: Folder, name: str) -> str:
    """Read a file of text.

    Raises:
        WeightsError: something else stands in its place.
    """
    path = folder.fetch(name)
    refuse_stand_in(path)
    return path.read_text(encoding="utf-8")


def refuse_stand_in(path: Path) -> None:
    """Refuse a pointer of Git LFS, and a web page, which downloads leave in the place of a file.

    Raises:
        WeightsError: it is one of them.
    """
    with path.open("rb") as file:
        begin = file.read(512)
    if begin.startswith(POINTER):
        size = re.search(rb"size (\d+)", begin)
        meant = f" of {int(size[1]):,} bytes" if size else ""
        raise WeightsError(
            f"{path} is a Git LFS pointer: {path.stat().st_size} bytes that stand for the file{meant}, which was not "
            "downloaded. Type git lfs pull in its folder, or download it with: hf download OWNER/NAME"
        )
    if PAGE.match(begin):
        raise WeightsError(
            f"{path} is a web page, saved under the name of the file: most often one that asks to log in. Download the "
            "file again, with: hf download OWNER/NAME"
        )


def read_head(path: Path) -> Head:
    """Read the head of a safetensors file, and check that the file is as long as it should be.

    Raises:
        WeightsError: it is not a whole safetensors file.
    """
    refuse_stand_in(path)
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(LONGEST_HEADER, size):
                raise ValueError("its head is cut off")
            head: dict[str, Any] = json.loads(file.read(length))
        metadata = head.pop("__metadata__", {})
        end = 8 + length + max((entry["data_offsets"][1] for entry in head.values()), default=0)
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} is not a whole safetensors file ({error}). Download or make it again.") from error
    if end != size:
        raise WeightsError(f"{path} is not a whole safetensors file: {size} of {end} bytes. Download or make it again.")
    return Head(head, metadata, 8 + length)


def _find_on_hub(name: str, source: str) -> tuple[Folder, str | None]:
    owner, _, rest = name.partition("/")
    repository, _, inside = rest.partition("/")
    if not owner or not repository:
        raise WeightsError(f"{source} does not name a repository. Write hub:OWNER/NAME or hub:OWNER/NAME/FOLDER.")
    hub = _hub()
    try:
        files = tuple(hub.list_repo_files(f"{owner}/{repository}"))
    except Exception as error:
        raise _failed(source, error) from error
    inside = inside.strip("/")
    if inside in files:
        prefix, _, file = inside.rpartition("/")
        return HubFolder(source, f"{owner}/{repository}", files, f"{prefix}/" if prefix else ""), file
    prefix = f"{inside}/" if inside else ""
    if not any(file.startswith(prefix) for file in files):
        folders = ", ".join(sorted({file.split("/")[0] for file in files if "/" in file})) or "no folders"
        raise WeightsError(f"{source} is not there: {owner}/{repository} has {folders}. Name one of them.")
    return HubFolder(source, f"{owner}/{repository}", files, prefix), None


def _hub() -> ModuleType:
    try:
        import huggingface_hub
    except ImportError as error:
        raise MissingExtra("hub", "huggingface_hub", "Downloading weights") from error
    return huggingface_hub


def _failed(source: str, error: Exception) -> WeightsError:
    """Say in one line why the hub did not answer; its own messages have many."""
    if isinstance(error, WeightsError):
        return error
    reason = " ".join(str(error).split())[:200]
    return WeightsError(
        f"there is no {source} on this machine, and the hub does not give it ({type(error).__name__}: {reason}). Check "
        "the name and the connection; log in with `hf auth login` if the repository asks for it."
    )
