"""Where the parts of a published model are, from any sensible level of its folder, here or on the hub.

    ckpts/hunyuan-video-t2v-720p/transformers/…     name/transformer/…      models/diffusion_models/file
    ckpts/hunyuan-video-t2v-720p/vae/…              name/vae/…              models/vae/file
    ckpts/text_encoder/… text_encoder_2/…           name/text_encoder/…
    as released                                     for diffusers           for ComfyUI

The network is looked for in the folder that was named and below it; what belongs to it beside its folder and above.
"""

from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatch

from mutoscope.core.errors import WeightsError
from mutoscope.core.folders import ENDINGS, Folder, find
from mutoscope.core.layouts import FOLDERS

DOWN = 2  # folders that are looked into below the one that was named; its own parts are one further down
CONFIG = ("/config.json",)  # single files of encoders have none, and cannot be read
UP = 3  # folders above the network's: from its file to the root of a release


def part_in(source: str, component: str) -> str:
    """Return the file of a part, or the folder that holds it or its folder.

    Args:
        source: what a user named, as `core.folders` reads it.
        component: a name of `layouts.FOLDERS`.

    Raises:
        WeightsError: there are several, or there is no such place.
        MissingExtra: it is on the hub, and huggingface_hub is not installed.
    """
    folder, file = find(source)
    if file is not None:
        return source

    def holds(place: Folder) -> bool:
        inside = (*FOLDERS[component], *([""] if place is folder else []))
        return any(name.endswith(ENDINGS) and name.rpartition("/")[0] in inside for name in place.names())

    found = _below(folder, holds)
    if len(found) > 1:
        several = ", ".join(place.source for place in found)
        raise WeightsError(f"{source} holds more than one {component}, in {several}. Name one of them.")
    return found[0].source if found else source


def folder_with(source: str, wanted: Sequence[str], with_files: tuple[str, ...] = CONFIG) -> Folder | None:
    """Return the nearest folder that holds a folder of one of some names, around what is in `source`, or None.

    Args:
        source: the file or folder of a network.
        wanted: names, or patterns such as "text_encoder*", of which one must be there.
        with_files: ends of the names of files that it must have: its config, or weights.

    Raises:
        WeightsError: there is no such place as `source`.
    """
    place: Folder | None = find(source)[0]
    for _ in range(UP + 1):
        if place is None or _held(place, wanted, with_files):
            return place
        place = place.above()
    return None


def folder_around(source: str, wanted: Sequence[str], with_files: tuple[str, ...]) -> str | None:
    """Return the nearest folder of one of some names around what is in `source`, or None; see `folder_with`."""
    place = folder_with(source, wanted, with_files)
    return None if place is None else place.inside(_held(place, wanted, with_files)[0]).source


def folder_named(source: str, wanted: Sequence[str], what: str) -> str:
    """Return the folder that holds folders of some names, where a user named it, one of them, or one above.

    Args:
        source: what the user named.
        wanted: see `folder_with`.
        what: it was named for, to begin a message with.

    Raises:
        WeightsError: it is not there.
    """
    folder, file = find(source)
    if file is not None:
        raise WeightsError(
            f"{what}: {source} is a file. Single files, as ComfyUI has them, hold no tokenizer: give the folder that "
            f"holds {wanted[0].rstrip('*')}, as it was released."
        )
    above = folder.above()
    if above is not None and any(fnmatch(source.rstrip("/").rpartition("/")[2], name) for name in wanted):
        return above.source
    found = _below(folder, lambda place: bool(_held(place, wanted, CONFIG)))
    if len(found) != 1:
        several = f" It is in {', '.join(place.source for place in found)}: name one of them." if found else ""
        raise WeightsError(
            f"{what}: there is no {wanted[0].rstrip('*')} with a config.json in {source}, nor around it."
            f"{several or ' Name the folder that holds it, as it was released.'}"
        )
    return found[0].source


def _held(place: Folder, wanted: Sequence[str], with_files: tuple[str, ...]) -> list[str]:
    """Return the folders in one that have one of some names, and one of some files in them."""
    folders = {name.split("/")[0] for name in place.names() if "/" in name and name.endswith(with_files)}
    return sorted(name for name in folders if any(fnmatch(name, pattern) for pattern in wanted))


def _below(folder: Folder, holds: Callable[[Folder], bool]) -> list[Folder]:
    """Return the folders that hold something, of the first level at which there are any."""
    level = [folder]
    for _ in range(DOWN + 1):
        if found := [place for place in level if holds(place)]:
            return found
        level = list(_inside(level))
    return []


def _inside(level: Sequence[Folder]) -> Iterator[Folder]:
    for place in level:
        yield from (place.inside(name) for name in place.folders() if not name.startswith("."))
