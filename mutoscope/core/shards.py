"""Which files of a folder are its weights: one file, the shards that an index names, or a series without an index.

    name.safetensors                                    name.fp16.safetensors
    name-00001-of-00002.safetensors                     name.fp16-00001-of-00002.safetensors
    name.safetensors.index.json                         name-00001-of-00002.fp16.safetensors (old)
                                                        name.safetensors.index.fp16.json

A folder may hold the same weights in several precisions. Those without a mark in their name are taken, as diffusers and
the published programs do it; any other is taken where its file, or its index, is named.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mutoscope.core.errors import WeightsError
from mutoscope.core.folders import ENDINGS, Folder, read_text

SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)((?:\.\w+)?\.\w+)")
INDEX = re.compile(r"(.+)(\.safetensors|\.bin|\.pt|\.pth)\.index(\.\w+)?\.json")
PRECISION = re.compile(r"[._-](fp|bf|float)\d+\w*")  # what a file's name has more than that of the full precision
SCALES = "_map.pt"  # ends the name of a file of scales
FORMATS = (ENDINGS[:1], ENDINGS[1:-1], ENDINGS[-1:])  # safetensors before torch.save before GGUF


class Files(NamedTuple):
    """The files of one set of weights; `places` says in which of them a tensor is, where an index does."""

    names: list[str]
    places: Mapping[str, str]


def choose(folder: Folder, within: Sequence[str]) -> Files:
    """Return the files that hold a folder's weights.

    Args:
        folder: it.
        within: folders to look into if it holds none itself.

    Raises:
        WeightsError: there are none, a part is missing, or it is not clear which are meant.
    """
    names = folder.names()
    for place in ("", *(f"{name}/" for name in within)):
        here = [name for name in names if name.startswith(place) and "/" not in name.removeprefix(place)]
        for endings in FORMATS:
            if found := _sets(here, endings):
                title = _plain(folder, found)
                return of_index(folder, title, names) if INDEX.fullmatch(title) else _series(folder, found[title])
    if any(name.endswith(".distcp") for name in names):
        raise WeightsError(
            f"{folder.source} is a checkpoint of torch.distributed, which is not read. Turn it into a file first: "
            "python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER weights.pt"
        )
    folders_here = sorted({name.split("/")[0] for name in names if name.endswith(ENDINGS) and "/" in name})
    hint = f"There are some in {', '.join(folders_here)}: name one of them." if folders_here else "Name another folder."
    raise WeightsError(f"there are no weights in {folder.source}. {hint}")


def of_index(folder: Folder, index: str, names: Sequence[str]) -> Files:
    """Return the shards that an index names.

    Args:
        folder: that holds them.
        index: name of the index in it.
        names: of all files in it.

    Raises:
        WeightsError: it is no index, or a shard is missing.
    """
    place = index[: index.rfind("/") + 1]
    try:
        weight_map = json.loads(read_text(folder, index))["weight_map"]
        spelled = {name.lower(): name for name in names}  # a file system may have changed the case of letters
        places: dict[str, str] = {}
        for tensor, shard in weight_map.items():
            name = place + str(shard)
            places[str(tensor)] = name if name in names else spelled.get(name.lower(), name)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{folder.source}: {index} is no index of weights. Download it again.") from error
    shards = sorted(set(places.values()))
    _refuse_missing(folder, [shard for shard in shards if shard not in names], len(shards))
    return Files(shards, places)


def _sets(here: Sequence[str], endings: tuple[str, ...]) -> dict[str, list[str]]:
    """Return the sets of weights among some files: the name of each, or of its index, and its files."""
    indexes = [name for name in here if (match := INDEX.fullmatch(name)) and match[2] in endings]
    if indexes:
        return {name: [] for name in indexes}
    found: dict[str, list[str]] = {}
    for name in here:
        if name.endswith(endings) and not name.endswith(SCALES):
            shard = SHARD.fullmatch(name)
            found.setdefault(f"{shard[1]}{shard[4]}" if shard else name, []).append(name)
    return found


def _plain(folder: Folder, found: Mapping[str, Sequence[str]]) -> str:
    """Return the set that is not another one in fewer bits."""
    plain = [name for name in found if not any(_is_variant(name, other) for other in found)]
    if len(plain) == 1 and len({shard and shard[3] for shard in map(SHARD.fullmatch, found[plain[0]])}) < 2:
        return plain[0]
    files = [name for title, names in found.items() for name in names or [title]]
    raise WeightsError(f"{folder.source} holds several sets of weights: {', '.join(files)}. Name one of them.")


def _is_variant(name: str, other: str) -> bool:
    """Say whether a name is another one with a mark of precision put into it."""
    return any(name[: mark.start()] + name[mark.end() :] == other for mark in PRECISION.finditer(name))


def _series(folder: Folder, files: Sequence[str]) -> Files:
    """Return a file, or the shards of a series without an index, which say in their names how many there are."""
    match = SHARD.fullmatch(files[0])
    if match is None:
        return Files(list(files), {})
    stem, digits, count, ending = match[1], len(match[2]), int(match[3]), match[4]
    wanted = [f"{stem}-{number:0{digits}}-of-{match[3]}{ending}" for number in range(1, count + 1)]
    _refuse_missing(folder, [name for name in wanted if name not in files], count)
    return Files(wanted, {})


def _refuse_missing(folder: Folder, missing: Sequence[str], count: int) -> None:
    if missing:
        raise WeightsError(
            f"{folder.source} lacks {len(missing)} of {count} shards, {missing[0]} first. Download them again."
        )
