"""The text encoder of the bundled model: English words and Chinese characters to tokens that say what a scene holds.

Trained by this package alone (``recipes/toy/words.py``) on captions of procedural worlds; Apache-2.0 like the code.

    "A red star spins." -> <start> a red star spins .   words; a Chinese character is a word of its own
      embed               B S 192
      4 blocks            B S 192     attention among all real tokens (1-D RoPE), then an MLP
      normalise           tokens B S 192, each of unit mean square; zero where padded
      <start>             pooled B 192: a learned vector in front of every prompt, which reads the rest

STIV's own encoder is an internal CLIP text model: causal, pooled at the last token (arXiv 2412.07730, section 3). Our
reading: ours attends both ways and pools at a token in front, because a caption names an object's colour before its
shape and its motion after, and each of the three should know of the others.

The vocabulary is fixed and stored with the weights. A word outside it becomes ``<unknown>``, and `unknown` names it
with the nearest known words; an English plural counts as its singular.
"""

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mutoscope.core import config as configs
from mutoscope.core import weights
from mutoscope.core.errors import RequestError, WeightsError
from mutoscope.encoders.base import TextTokens
from mutoscope.nn.attention import attend
from mutoscope.nn.mlp import MLP
from mutoscope.nn.rope import grid_rope, rotate

PADDING, UNKNOWN, START = 0, 1, 2  # ids in front of those of the vocabulary
SPECIAL = 3
WORD = re.compile(r"[a-z]+|[0-9]|[\u3400-\u9fff]|[.,:;!?]")
WESTERN = str.maketrans("。，、：；！？’", ".,,:;!?'")  # one form of every mark
CLOSE = 0.8  # of difflib's ratio: one letter wrong, missing or too many; cat is no slip for can
MARKS = frozenset(".,:;!?")


@dataclass(frozen=True)
class WordsConfig:
    """The shape of the network.

    Args:
        dim: width of a token.
        depth: blocks.
        head_dim: width of an attention head.
        mlp_ratio: width of the MLP as a multiple of ``dim``.
        max_tokens: longest prompt in words, marks and Chinese characters.
    """

    dim: int = 192
    depth: int = 4
    head_dim: int = 32
    mlp_ratio: int = 2
    max_tokens: int = 160


def split(text: str) -> list[str]:
    """Cut a text into lower-case English words, single digits, Chinese characters and marks; all else is dropped."""
    return WORD.findall(text.lower().translate(WESTERN))


class Tokenizer:
    """Words to numbers and back, by a fixed vocabulary.

    Args:
        vocabulary: words in the order of their numbers.
    """

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self.vocabulary = tuple(vocabulary)
        self.number = {word: SPECIAL + index for index, word in enumerate(self.vocabulary)}

    def ids(self, text: str) -> list[int]:
        """Return the numbers of a text's words; marks that are not in the vocabulary are dropped."""
        known = (self.number.get(self._known_form(word), UNKNOWN) for word in split(text) if self._counts(word))
        return list(known)

    def text(self, ids: Sequence[int]) -> str:
        """Return the words of some numbers, with spaces between."""
        return " ".join(self.vocabulary[one - SPECIAL] if one >= SPECIAL else "?" for one in ids)

    def unknown(self, text: str) -> list[tuple[str, list[str]]]:
        """List the words outside the vocabulary, each once, with up to three known words that may have been meant."""
        missing = dict.fromkeys(
            word for word in split(text) if self._counts(word) and self._known_form(word) not in self.number
        )
        return [(word, difflib.get_close_matches(word, self.vocabulary, n=3, cutoff=CLOSE)) for word in missing]

    def _counts(self, word: str) -> bool:
        return word not in MARKS or word in self.number

    def _known_form(self, word: str) -> str:
        """Return the word, or the singular of an English plural when only that is known."""
        if word in self.number:
            return word
        singulars = (word.removesuffix("s"), word.removesuffix("es"))
        return next((one for one in singulars if len(one) > 1 and one in self.number), word)


class Words(nn.Module):
    """Encode prompts. The interface is ``encoders.base.Encoder``.

    Args:
        config: shape of the network.
        vocabulary: words that it knows.
    """

    def __init__(self, config: WordsConfig, vocabulary: Sequence[str]) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = Tokenizer(vocabulary)
        self.embedding = nn.Embedding(SPECIAL + len(vocabulary), config.dim, padding_idx=PADDING)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        nn.init.normal_(self.embedding.weight, std=0.5)

    @classmethod
    def load(cls, path: Path) -> "Words":
        """Read an encoder with the config and vocabulary that its weights carry, ready to use and frozen.

        Raises:
            WeightsError: if the file is no such encoder.
        """
        tensors, metadata = weights.read(path)
        missing = [name for name in ("config", "vocabulary") if name not in metadata]
        if missing:
            raise WeightsError(
                f"{path} carries no {' and no '.join(missing)}. Give a file that the recipe toy/words wrote."
            )
        encoder = cls(
            configs.from_json(WordsConfig, json.loads(metadata["config"])), json.loads(metadata["vocabulary"])
        )
        weights.load_into(encoder, tensors, source=str(path))
        return encoder.eval().requires_grad_(False)

    def forward(self, ids: Int[Tensor, "B S"]) -> TextTokens:
        """Encode numbers of words, each row beginning with START and ending in padding."""
        mask = ids != PADDING
        x = self.embedding(ids)
        rope = grid_rope([ids.shape[1]], self.config.head_dim, device=ids.device)
        for block in self.blocks:
            x = block(x, rope, mask)
        tokens = nn.functional.rms_norm(x.float(), x.shape[-1:]) * mask[..., None]
        return TextTokens(tokens, mask, tokens[:, 0])

    def encode(self, texts: Sequence[str]) -> TextTokens:
        """Encode prompts.

        Raises:
            RequestError: if one is too long; none is ever cut off.
        """
        return self(self.ids(texts))

    def null(self, count: int) -> TextTokens:
        """Encode the empty prompt ``count`` times."""
        return self.encode([""] * count)

    def unknown(self, text: str) -> list[tuple[str, list[str]]]:
        """List the words of a prompt that the encoder never learned, each with the nearest that it knows."""
        return self.tokenizer.unknown(text)

    def ids(self, texts: Sequence[str]) -> Int[Tensor, "B S"]:
        """Return the numbers of the words of every text, START in front, padded to the longest.

        Raises:
            RequestError: if a text is too long.
        """
        rows = [[START, *self.tokenizer.ids(text)] for text in texts]
        longest = max(map(len, rows))
        if longest - 1 > self.config.max_tokens:
            raise RequestError(
                f"The prompt has {longest - 1} words, marks and Chinese characters; this model reads at most "
                f"{self.config.max_tokens}. Shorten it."
            )
        padded = [row + [PADDING] * (longest - len(row)) for row in rows]
        return torch.tensor(padded, device=self.embedding.weight.device)


class Block(nn.Module):
    """Pre-norm transformer block whose attention sees every real token."""

    def __init__(self, config: WordsConfig) -> None:
        super().__init__()
        dim = config.dim
        self.head_dim = config.head_dim
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, dim * config.mlp_ratio)

    def forward(
        self, x: Float[Tensor, "B S D"], rope: Float[Tensor, "2 S K"], mask: Bool[Tensor, "B S"]
    ) -> Float[Tensor, "B S D"]:
        """Return the tokens after one round of reading each other."""
        q, k, v = rearrange(self.qkv(self.norm1(x)), "B S (three N K) -> three B N S K", three=3, K=self.head_dim)
        read = attend(rotate(q, rope), rotate(k, rope), v, mask)
        x = x + self.out(rearrange(read, "B N S K -> B S (N K)"))
        return x + self.mlp(self.norm2(x))
