"""Prompts encoded once: what an encoder made of them, on disk, so that it need not even be loaded again.

    folder/ab/abcd….safetensors    real tokens S D, pooled P, and the words that the encoder does not know

The name is a hash of the prompt and of all that decides how it is encoded, so nothing in the folder is ever out of
date, and any number of runs may share it.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from mutoscope.core import weights
from mutoscope.encoders.base import Encoder, TextTokens

SAMPLED = 1 << 20  # bytes read at each end of a large file


class Cached(nn.Module):
    """An encoder that remembers. The interface is ``encoders.base.Encoder``.

    Args:
        load: makes the encoder; called when a prompt is new, and not before.
        fingerprint: tells it apart from encoders that encode differently; see `fingerprint`.
        folder: where encoded prompts are kept; made when it is needed.
    """

    def __init__(self, load: Callable[[], Encoder], fingerprint: str, folder: Path) -> None:
        super().__init__()
        self.fingerprint, self.folder = fingerprint, folder
        self._load = load
        self._encoder: Encoder | None = None
        self.register_buffer("here", torch.empty(0), persistent=False)  # goes where the module is sent

    def encode(self, texts: Sequence[str]) -> TextTokens:
        """Encode prompts, or read what they were encoded to.

        Raises:
            RequestError: if one is too long; none is ever cut off.
            MutoscopeError: the folder cannot be written.
        """
        new = [text for text in dict.fromkeys(texts) if not self._path(text).exists()]
        if new:
            self._write(new)
        read = {text: weights.read(self._path(text))[0] for text in dict.fromkeys(texts)}
        tokens = [read[text]["tokens"] for text in texts]
        lengths = torch.tensor([len(row) for row in tokens])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        pooled = torch.stack([read[text]["pooled"] for text in texts])
        device = self._device
        return TextTokens(pad_sequence(tokens, batch_first=True).to(device), mask.to(device), pooled.to(device))

    def null(self, count: int) -> TextTokens:
        """Encode the empty prompt ``count`` times."""
        return self.encode([""] * count)

    def unknown(self, text: str) -> list[tuple[str, list[str]]]:
        """List the words of a prompt that the encoder never learned, each with the nearest that it knows."""
        if not self._path(text).exists():
            return self.encoder.unknown(text)
        return [(word, nearest) for word, nearest in json.loads(weights.read(self._path(text))[1]["unknown"])]

    @property
    def encoder(self) -> Encoder:
        """The encoder itself, which is loaded by the first call."""
        if self._encoder is None:
            self._encoder = self._load()
        if isinstance(self._encoder, nn.Module):
            self._encoder.to(self._device)
        return self._encoder

    @property
    def _device(self) -> torch.device:
        here = self.here
        assert isinstance(here, Tensor)
        return here.device

    def _write(self, texts: list[str]) -> None:
        with torch.no_grad():
            encoded = self.encoder.encode(texts)
        for row, text in enumerate(texts):
            tensors = {"tokens": encoded.tokens[row][encoded.mask[row]], "pooled": encoded.pooled[row]}
            unknown = json.dumps(self.encoder.unknown(text), ensure_ascii=False)
            weights.save(self._path(text), tensors, {"prompt": text, "unknown": unknown})

    def _path(self, text: str) -> Path:
        key = hashlib.sha256(f"{self.fingerprint}\n{text}".encode()).hexdigest()
        return self.folder / key[:2] / f"{key}.safetensors"


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
