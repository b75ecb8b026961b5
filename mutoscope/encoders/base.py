"""What every text encoder offers: prompts in, tokens out, and the empty prompt for guidance."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, UInt8
from torch import Tensor


@dataclass(frozen=True)
class TextTokens:
    """A batch of encoded prompts, padded to the longest.

    Args:
        tokens: one vector for each token; zero where padded.
        mask: True where a token is real.
        pooled: one vector for each prompt.
    """

    tokens: Float[Tensor, "B S D"]
    mask: Bool[Tensor, "B S"]
    pooled: Float[Tensor, "B P"]


@runtime_checkable
class Encoder(Protocol):
    """Turn prompts into tokens."""

    def encode(self, texts: Sequence[str]) -> TextTokens:
        """Encode prompts.

        Raises:
            RequestError: if one is too long; none is ever cut off.
        """
        ...

    def null(self, count: int) -> TextTokens:
        """Encode the empty prompt ``count`` times: what a sample without text is conditioned on."""
        ...

    def unknown(self, text: str) -> list[tuple[str, list[str]]]:
        """List the words of a prompt that the encoder never learned, each with the nearest that it knows."""
        ...


@runtime_checkable
class SeeingEncoder(Protocol):
    """Turn prompts and the pictures that they speak of into tokens; the rest is as `Encoder` has it."""

    def encode(self, texts: Sequence[str], pictures: Sequence[UInt8[np.ndarray, "H W 3"]]) -> TextTokens:
        """Encode prompts.

        Args:
            texts: prompts.
            pictures: one for each; a black one for a prompt that speaks of none.

        Raises:
            RequestError: if one is too long; none is ever cut off.
        """
        ...
