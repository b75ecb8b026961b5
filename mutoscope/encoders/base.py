"""What every text encoder offers: prompts in, tokens out, and the empty prompt for guidance."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float
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
