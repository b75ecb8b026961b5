"""Shards: pairs of files that hold precomputed latents and the records of their clips.

    folder/00000.safetensors   latents "N C T h w"
    folder/00000.jsonl         N lines, one Clip each
    folder/dataset.json        what made them; the same call goes on, another one is refused

The records are written last, each file under another name and then renamed: a shard is whole if its .jsonl is there.
Reading maps the latents into memory, so that a data set larger than memory costs none.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mutoscope.core import weights
from mutoscope.core.errors import MediaError
from mutoscope.core.files import replacing
from mutoscope.data.schema import Clip

DESCRIPTION = "dataset.json"


def write(folder: Path, index: int, latents: Float[Tensor, "N C T h w"], clips: Sequence[Clip]) -> None:
    """Write one shard; until it is whole, readers do not see it."""
    if len(latents) != len(clips):
        raise ValueError(f"{len(latents)} latents for {len(clips)} clips")
    (folder / f"{index:05d}.jsonl").unlink(missing_ok=True)  # of a shard that had fewer clips
    weights.save(folder / f"{index:05d}.safetensors", {"latents": latents.contiguous()}, {"clips": str(len(clips))})
    _write_text(folder / f"{index:05d}.jsonl", "".join(clip.to_line() + "\n" for clip in clips))


def rows(folder: Path, index: int) -> int:
    """Return the number of clips of a whole shard, 0 where there is none."""
    path = folder / f"{index:05d}.jsonl"
    return len(_lines(path)) if path.exists() else 0


def count(folder: Path) -> int:
    """Return the number of clips in all whole shards of a folder."""
    return sum(rows(folder, int(path.stem)) for path in folder.glob("[0-9]*.jsonl"))


def describe(folder: Path, description: Mapping[str, object]) -> None:
    """Say what the shards in a folder are made of; refuse a folder begun otherwise.

    Raises:
        MediaError: naming the first entry that differs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = json.loads(json.dumps(description))
    if (folder / DESCRIPTION).exists():
        found = description_of(folder)
        for key in sorted(found.keys() | wanted.keys()):
            if found.get(key) != wanted.get(key):
                raise MediaError(
                    f"{folder} was begun with {key}={found.get(key)}, now it is {wanted.get(key)}. "
                    f"Give another folder, or delete this one."
                )
    else:
        _write_text(folder / DESCRIPTION, json.dumps(wanted, indent=1, ensure_ascii=False) + "\n")


def description_of(folder: Path) -> dict[str, object]:
    """Return what ``describe`` wrote."""
    try:
        return json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MediaError(
            f"{folder} holds no latents ({DESCRIPTION} is missing or damaged). Precompute them first."
        ) from error


class Shards:
    """The clips of a folder, by number.

    Args:
        folder: where ``write`` put them.

    Raises:
        MediaError: if there is no whole shard, or one is damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.description = description_of(self.folder)
        self._lines: list[str] = []
        self._places: list[tuple[int, int]] = []  # of each clip: shard, row
        self._latents = []
        for path in sorted(self.folder.glob("[0-9]*.jsonl")):
            lines = _lines(path)
            try:
                handle = safe_open(path.with_suffix(".safetensors"), framework="pt")
                latents = handle.get_slice("latents")
                shape = latents.get_shape()
            except (OSError, SafetensorError) as error:
                raise MediaError(
                    f"{path.with_suffix('.safetensors')} is damaged. Delete it and precompute again."
                ) from error
            if len(lines) != shape[0]:
                raise MediaError(
                    f"{path} lists {len(lines)} clips for {shape[0]} latents. Delete it and precompute again."
                )
            if self._latents and shape[1:] != list(self.latent_shape):
                raise MediaError(
                    f"{path} has latents of shape {shape[1:]}, the shards before {list(self.latent_shape)}."
                )
            self.latent_shape: tuple[int, ...] = tuple(shape[1:])
            self._places += [(len(self._latents), row) for row in range(len(lines))]
            self._latents.append(latents)
            self._lines += lines
        if not self._lines:
            raise MediaError(f"{self.folder} holds no finished shard. Precompute the latents first.")

    def __len__(self) -> int:
        return len(self._lines)

    def clip(self, index: int) -> Clip:
        """Return the record of one clip."""
        return Clip.from_line(self._lines[index])

    def latents(self, index: int, frames: slice = slice(None)) -> Float[Tensor, "C T h w"]:
        """Return the latents of one clip, or of some of its frames, in float32."""
        shard, row = self._places[index]
        return self._latents[shard][row : row + 1, :, frames][0].to(torch.float32)


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split("\n")[:-1]  # splitlines() would also cut at U+2028 inside a caption


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
