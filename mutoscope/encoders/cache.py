"""Prompts encoded once: what an encoder made of them, on disk, so that it need not even be loaded again.

    folder/ab/abcd….safetensors    real tokens S D, pooled P, and the words that the encoder does not know

The name is a hash of the prompt, of its picture if it has one, and of all that decides how it is encoded, so nothing in
the folder is ever out of date, and any number of runs may share it.
"""

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from mutoscope.core import weights
from mutoscope.core.errors import MutoscopeError
from mutoscope.encoders.base import Encoder, SeeingEncoder, TextTokens

SAMPLED = 1 << 20  # bytes read at each end of a large file

Picture = UInt8[np.ndarray, "H W 3"]


class Cached(nn.Module):
    """An encoder that remembers. The interface is ``encoders.base.Encoder``, or `SeeingEncoder` where its own is that.

    Args:
        load: makes the encoder, on the device where it is to live; called when a prompt is new, and not before. It is
            on the device of this module while it encodes.
        fingerprint: tells it apart from encoders that encode differently; see `fingerprint`.
        folder: where encoded prompts are kept; made when it is needed.
    """

    def __init__(self, load: Callable[[], Encoder], fingerprint: str, folder: Path) -> None:
        super().__init__()
        self.fingerprint, self.folder = fingerprint, folder
        self._load = load
        self._encoder: Encoder | None = None
        self.register_buffer("here", torch.empty(0), persistent=False)  # goes where the module is sent

    def encode(self, texts: Sequence[str], pictures: Sequence[Picture] | None = None) -> TextTokens:
        """Encode prompts, or read what they were encoded to.

        Args:
            texts: prompts.
            pictures: one for each, if the encoder sees.

        Raises:
            RequestError: if one is too long; none is ever cut off.
            MutoscopeError: the folder cannot be written.
        """
        paths = [self._path(text, sight) for text, sight in zip(texts, _sights(texts, pictures), strict=True)]
        new = {path: row for row, path in enumerate(paths) if not path.exists()}
        if new:
            with self._awake() as encoder:
                rows = list(new.values())
                fresh = [texts[row] for row in rows]
                if pictures is None:
                    encoded = encoder.encode(fresh)
                else:
                    encoded = cast(SeeingEncoder, encoder).encode(fresh, [pictures[row] for row in rows])
            self._write(list(new), fresh, encoded)
        return self._read(paths)

    def null(self, count: int) -> TextTokens:
        """Encode the empty prompt ``count`` times."""
        path = self._path("", "nothing")
        if not path.exists():
            with self._awake() as encoder:
                self._write([path], [""], encoder.null(1))
        return self._read([path] * count)

    def unknown(self, text: str) -> list[tuple[str, list[str]]]:
        """List the words of a prompt that the encoder never learned, each with the nearest that it knows."""
        path = self._path(text, "unknown")
        if not path.exists():
            return self.encoder.unknown(text)
        return [(word, nearest) for word, nearest in json.loads(weights.read(path)[1]["unknown"])]

    @property
    def encoder(self) -> Encoder:
        """The encoder itself, which is loaded by the first call."""
        if self._encoder is None:
            self._encoder = self._load()
        return self._encoder

    @contextmanager
    def _awake(self) -> Iterator[Encoder]:
        """Have the encoder on the device of this module, and then where it was."""
        encoder = self.encoder
        with torch.no_grad():
            if not isinstance(encoder, nn.Module):
                yield encoder
                return
            home = next((tensor.device for tensor in encoder.parameters()), self._device)
            try:
                encoder.to(self._device)
                yield cast(Encoder, encoder)
            finally:
                encoder.to(home)

    @property
    def _device(self) -> torch.device:
        here = self.here
        assert isinstance(here, Tensor)
        return here.device

    def _read(self, paths: Sequence[Path]) -> TextTokens:
        read = {path: weights.read(path)[0] for path in dict.fromkeys(paths)}
        tokens = [read[path]["tokens"] for path in paths]
        lengths = torch.tensor([len(row) for row in tokens])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        pooled = torch.stack([read[path]["pooled"] for path in paths])
        device = self._device
        return TextTokens(pad_sequence(tokens, batch_first=True).to(device), mask.to(device), pooled.to(device))

    def _write(self, paths: Sequence[Path], texts: Sequence[str], encoded: TextTokens) -> None:
        for row, (path, text) in enumerate(zip(paths, texts, strict=True)):
            unknown = {"prompt": text, "unknown": json.dumps(self.encoder.unknown(text), ensure_ascii=False)}
            weights.save(self._path(text, "unknown"), {}, unknown)
            tensors = {"tokens": encoded.tokens[row][encoded.mask[row]], "pooled": encoded.pooled[row]}
            weights.save(path, tensors, {"prompt": text})

    def _path(self, text: str, sight: str) -> Path:
        key = hashlib.sha256(f"{self.fingerprint}\n{sight}\n{text}".encode()).hexdigest()
        return self.folder / key[:2] / f"{key}.safetensors"


def _sights(texts: Sequence[str], pictures: Sequence[Picture] | None) -> list[str]:
    """Return a hash of each picture."""
    if pictures is None:
        return [""] * len(texts)
    return [hashlib.sha256(f"{picture.shape}".encode() + picture.tobytes()).hexdigest() for picture in pictures]


def default_folder() -> Path:
    """Return the folder of a user for encoded prompts, in MUTOSCOPE_CACHE or in ~/.cache/mutoscope, and make it.

    Raises:
        MutoscopeError: it cannot be written.
    """
    own = os.environ.get("MUTOSCOPE_CACHE")
    folder = (Path(own) if own else Path.home() / ".cache" / "mutoscope") / "prompts"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise MutoscopeError(
            f"encoded prompts cannot be kept in {folder}: {error.strerror}. Name another folder in MUTOSCOPE_CACHE."
        ) from error
    return folder


def fingerprint(folder: Path, *settings: str) -> str:
    """Return a hash of an encoder's files and of whatever else decides how it encodes.

    A large file counts by its name, its size and its two ends: reading 10 GB of weights would take longer than encoding
    most prompts, and what was trained apart differs everywhere.

    Args:
        folder: of the encoder.
        settings: the template, the type that it runs in, the most tokens, and the like.
    """
    digest = hashlib.sha256(json.dumps(settings).encode())
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        size = path.stat().st_size
        digest.update(json.dumps([path.relative_to(folder).as_posix(), size]).encode())
        with path.open("rb") as file:
            digest.update(file.read(SAMPLED))
            if size > 2 * SAMPLED:
                file.seek(-SAMPLED, 2)
            digest.update(file.read())
    return digest.hexdigest()
