r"""Llava for HunyuanVideo-Avatar: a prompt, and the person that it is about.

    "a man sings", a picture  -> HunyuanVideo's template for videos around "a man sings\nThe person looks like<image>"
                              -> Llava, below its top: what follows the opening of the template, all 576 tokens of the
                                 picture among it: tokens B S 4096
                              -> CLIP-L reads the prompt alone: pooled B 768

Our reading: that no token of the picture is left out or masked, and that CLIP-L does not read the words about it.
Weights: see `llm`; the released folder calls the language model ``llava_llama_image``.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from mutoscope.core.errors import RequestError, WeightsError
from mutoscope.encoders.base import TextTokens
from mutoscope.encoders.clip import ClipText, clip_pixels
from mutoscope.encoders.llm import LENGTH, Llava, Template, published_template
from mutoscope.encoders.pretrained import pad, token_ids

LOOKS = "\nThe person looks like<image>"
FOLDERS = ("llava_llama_image", "text_encoder*", "tokenizer*")  # that `PersonClip.load` looks into


class PersonClip(nn.Module):
    """Llava's tokens of a prompt and of a person, and CLIP's pooled state of the prompt, as one encoder.

    The interface is ``encoders.base.SeeingEncoder``.

    Args:
        llava: the language model that sees.
        clip: CLIP-L, without projection.
        template: what stands around a prompt.
    """

    def __init__(self, llava: Llava, clip: ClipText, template: Template) -> None:
        super().__init__()
        self.llava, self.clip, self.template = llava, clip, template

    @classmethod
    def load(cls, path: Path, template: Template | None = None, *, dtype: torch.dtype | None = None) -> "PersonClip":
        """Read both from a folder.

        Args:
            path: holds ``llava_llama_image``, or ``text_encoder`` in its place, and ``text_encoder_2``; their
                tokenizers there, or in ``tokenizer`` and ``tokenizer_2``.
            template: None for that of videos, from `llm.published_template`.
            dtype: to run in; None for that of the weights.

        Raises:
            MissingExtra: `transformers` is not installed.
            RequestError: there is no template.
            WeightsError: a folder does not hold what it should.
        """
        template = template or published_template("video")
        first = path / "llava_llama_image"
        if not first.exists():
            first = path / "text_encoder"
        second = path / "text_encoder_2"
        for folder, what in ((first, "Llava"), (second, "CLIP-L")):
            if not folder.exists():
                raise WeightsError(f"there is no {what} at {folder}. Download it again, or check the name.")
        llava = Llava.load(first, _tokenizer_of(first, path / "tokenizer"), dtype=dtype)
        clip = ClipText.load(second, _tokenizer_of(second, path / "tokenizer_2"), projects=False, dtype=dtype)
        return cls(llava, clip, template)

    def encode(self, texts: Sequence[str], pictures: Sequence[UInt8[np.ndarray, "H W 3"]] | None = None) -> TextTokens:
        """Encode prompts with the pictures of those that they are about.

        Args:
            texts: prompts.
            pictures: one for each.

        Raises:
            RequestError: if a prompt is too long, or there are not as many pictures.
        """
        if pictures is None or len(pictures) != len(texts):
            raise RequestError("This model shows the person that a prompt is about. Give one picture with each prompt.")
        tokens = [self._read(text, picture) for text, picture in zip(texts, pictures, strict=True)]
        mask = pad_sequence([torch.ones(len(row), dtype=torch.bool, device=row.device) for row in tokens], True)
        pooled = self.clip(*self.clip.ids([text.strip() for text in texts])).pooled
        return TextTokens(pad_sequence(tokens, True), mask, pooled)

    def null(self, count: int) -> TextTokens:
        """Encode the empty prompt ``count`` times, with a black picture."""
        black: Any = np.zeros((self.llava.side, self.llava.side, 3), np.uint8)
        return self.encode([""] * count, [black] * count)

    def unknown(self, text: str) -> list[tuple[str, list[str]]]:
        """Return nothing: this vocabulary spells every word, byte by byte if need be."""
        return []

    def _read(self, text: str, picture: UInt8[np.ndarray, "H W 3"]) -> Float[Tensor, "S D"]:
        """Return the tokens of one prompt, with those of the picture where it is named."""
        around = self.template.around(text.strip() + LOOKS)
        rows = token_ids(self.llava.tokenizer, [around], LENGTH + self.template.opening, "its template")
        device = next(self.parameters()).device
        ids, mask = (tensor.to(device) for tensor in pad(rows, 0))
        seen, said = self.llava(ids, mask, clip_pixels(picture, self.llava.side)[None].to(device))
        place = rows[0].index(self.llava.network.config.image_token_id)
        return torch.cat([said[0, self.template.opening : place], seen[0], said[0, place + 1 :]])


def _tokenizer_of(folder: Path, beside: Path) -> Path:
    return beside if beside.exists() else folder
