"""T5 v1.1, and the prompt of Stable Diffusion 3 and ContentV, which joins it to two CLIPs.

    prompt -> CLIP-L  77  768 ┐ side by side 2048,     ┐
           -> CLIP-G  77 1280 ┘ zeros up to 4096       ├ one after the other: tokens B 333 4096
           -> T5 XXL 256 4096 ─────────────────────────┘
           -> the pooled states of the CLIPs side by side: pooled B 2048

Nothing is masked anywhere: padding is encoded, and read by the network, as it was in training. The CLIPs read the
first 77 tokens of a prompt, T5 reads all of it, and what is too long for T5 is refused. A folder without T5 serves as
well: zeros take its place, as published, and a prompt must not be too long for the CLIPs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn

from mutoscope.encoders.base import TextTokens
from mutoscope.encoders.clip import LENGTH, ClipText
from mutoscope.encoders.pretrained import load_network, load_tokenizer, needs_transformers, pad, token_ids

TOKENS = 256  # of T5, unless another number is asked for; it was trained for up to 512
DIM = 4096  # of T5 XXL, and of a token of the prompt


class T5(nn.Module):
    """A frozen encoder of T5 v1.1.

    Args:
        network: `T5EncoderModel` of `transformers`.
        tokenizer: its tokenizer; None to encode numbers only.
    """

    def __init__(self, network: nn.Module, tokenizer: Any = None) -> None:
        super().__init__()
        self.network: Any = network
        self.tokenizer = tokenizer
        self.dim: int = self.network.config.d_model

    @classmethod
    def load(cls, folder: Path, tokenizer: Path | None, *, dtype: torch.dtype | None = None) -> "T5":
        """Read an encoder; a decoder in the same folder stays unread.

        Args:
            folder: with config and weights.
            tokenizer: folder of its tokenizer; None to encode numbers only.
            dtype: to run in; None for that of the weights. Not float16, in which T5 overflows.

        Raises:
            MissingExtra: `transformers` is not installed.
            WeightsError: a folder does not hold what it should.
        """
        with needs_transformers("T5"):
            from transformers import T5EncoderModel
        words = load_tokenizer(tokenizer) if tokenizer is not None else None
        return cls(load_network(T5EncoderModel, folder, unread=r"decoder\.|lm_head\.", dtype=dtype), words)

    def forward(self, ids: Int[Tensor, "B S"]) -> Tensor:
        """Encode numbers of tokens, padding like any other: B S D."""
        return self.network(input_ids=ids).last_hidden_state

    def ids(self, texts: Sequence[str], length: int) -> Int[Tensor, "B {length}"]:
        """Return numbers of tokens, padded to `length`.

        Raises:
            RequestError: a text has more tokens.
        """
        rows = token_ids(self.tokenizer, list(texts), length, "its end mark")
        return pad(rows, self.tokenizer.pad_token_id, length)[0].to(next(self.network.parameters()).device)

    def unknown(self, text: str) -> list[tuple[str, list[str]]]:
        """List the words that T5's vocabulary cannot spell, Chinese ones for instance; it has no likeness to offer."""
        words = dict.fromkeys(text.split())
        ids = self.tokenizer(list(words), add_special_tokens=False)["input_ids"] if words else []
        return [(word, []) for word, row in zip(words, ids, strict=True) if self.tokenizer.unk_token_id in row]


class ClipT5(nn.Module):
    """Two CLIPs and T5 as one encoder. The interface is ``encoders.base.Encoder``.

    Args:
        clip_l: the first tower, with its projection.
        clip_g: the second.
        t5: the third encoder, or None to put zeros in its place.
        length: tokens of the third part.
        dim: width of a token.
    """

    def __init__(
        self, clip_l: ClipText, clip_g: ClipText, t5: T5 | None, *, length: int = TOKENS, dim: int = DIM
    ) -> None:
        super().__init__()
        self.clip_l, self.clip_g, self.t5 = clip_l, clip_g, t5
        self.length, self.dim = length, dim

    @classmethod
    def load(cls, path: Path, *, dtype: torch.dtype | None = None) -> "ClipT5":
        """Read the three from the released folder.

        Args:
            path: holds ``text_encoder``, ``text_encoder_2``, ``tokenizer``, ``tokenizer_2`` and, for T5,
                ``text_encoder_3`` and ``tokenizer_3``.
            dtype: to run in; None for that of the weights.

        Raises:
            MissingExtra: `transformers` is not installed.
            WeightsError: a folder does not hold what it should.
        """
        clips = [
            ClipText.load(path / f"text_encoder{nth}", path / f"tokenizer{nth}", projects=True, dtype=dtype)
            for nth in ("", "_2")
        ]
        third = path / "text_encoder_3"
        t5 = T5.load(third, path / "tokenizer_3", dtype=dtype) if third.exists() else None
        return cls(*clips, t5=t5, dim=DIM if t5 is None else t5.dim)

    def forward(
        self,
        ids_l: Int[Tensor, "B 77"],
        ids_g: Int[Tensor, "B 77"],
        ids_t5: Int[Tensor, "B S"] | None,
        clip_skip: int = 0,
    ) -> TextTokens:
        """Encode numbers of tokens.

        Args:
            ids_l: for the first CLIP.
            ids_g: for the second.
            ids_t5: for T5; None puts zeros in its place.
            clip_skip: blocks of the CLIPs to leave out beyond the last.
        """
        first, second = self.clip_l(ids_l, skip=1 + clip_skip), self.clip_g(ids_g, skip=1 + clip_skip)
        clips = torch.cat([first.tokens, second.tokens], dim=2)
        clips = F.pad(clips, (0, self.dim - clips.shape[2]))
        if self.t5 is None or ids_t5 is None:
            third = clips.new_zeros(clips.shape[0], self.length, self.dim)
        else:
            third = self.t5(ids_t5)
        tokens = torch.cat([clips, third], dim=1)
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        return TextTokens(tokens, mask, torch.cat([first.pooled, second.pooled], dim=1))

    def encode(self, texts: Sequence[str]) -> TextTokens:
        """Encode prompts.

        Raises:
            RequestError: if one is too long.
        """
        texts = list(texts)
        if self.t5 is None:
            token_ids(self.clip_l.tokenizer, texts, LENGTH, "its two marks")
        ids_t5 = None if self.t5 is None else self.t5.ids(texts, self.length)
        return self(self.clip_l.ids(texts)[0], self.clip_g.ids(texts)[0], ids_t5)

    def null(self, count: int) -> TextTokens:
        """Encode the empty prompt ``count`` times."""
        return self.encode([""] * count)

    def unknown(self, text: str) -> list[tuple[str, list[str]]]:
        """List the words of a prompt that T5 cannot spell."""
        return [] if self.t5 is None else self.t5.unknown(text)
