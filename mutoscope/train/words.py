"""Train the text encoder to say, token by token, what a caption tells of a scene.

    caption -> Words -> tokens -> a reader with a learned query for each object, in the order of mention, and one for
                                  the surroundings
                     -> pooled -> a linear reader for all four
    each reads every attribute, or that it is not told; cross-entropy over all of them

The readers are weak on purpose (one attention, then linear) and thrown away: what they can read, the cross-attention of
a video model can. English and Chinese captions that tell the same facts are taught in pairs, whose pooled vectors are
drawn together.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from mutoscope.core import config, rng, weights
from mutoscope.core.video import Video
from mutoscope.encoders.base import TextTokens
from mutoscope.encoders.words import UNKNOWN, Words, WordsConfig, split
from mutoscope.nn.attention import attend
from mutoscope.train.step import Objective
from mutoscope.worlds import scene as world
from mutoscope.worlds.language import Caption, Language, Length, describe

SLOTS = 3  # objects in a scene at most
THING_FACTS = {
    "shape": world.SHAPES,
    "colour": world.COLOURS,
    "size": world.SIZES,
    "texture": world.TEXTURES,
    "motion": world.MOTIONS,
    "speed": world.SPEEDS,
}
SCENE_FACTS = {
    "background": world.BACKGROUNDS,
    "tone": world.TONES,
    "camera": world.CAMERAS,
    "count": tuple(range(1, SLOTS + 1)),
}
LENGTHS: tuple[Length, ...] = ("brief", "short", "dense")
LENGTH_SHARES = (0.3, 0.4, 0.3)
LANGUAGES: tuple[Language, ...] = ("en", "zh")
NOT_TOLD = 0  # the class of a fact that the caption leaves out


@dataclass(frozen=True)
class WordsObjective:
    """Train the text encoder on captions of procedural worlds.

    Args:
        model: shape of the network.
        vocabulary_scenes: scenes whose captions give the vocabulary.
        word_dropout: share of words replaced by ``<unknown>``, so that a strange word does no harm.
        alignment: weight of the distance between the two languages' pooled vectors.
    """

    model: WordsConfig = WordsConfig()
    vocabulary_scenes: int = 3_000
    word_dropout: float = 0.02
    alignment: float = 0.2

    def build(self, seed: int) -> "Reading":
        """Collect the vocabulary and make the network."""
        return Reading(self, seed)


@dataclass(frozen=True)
class ReadingBatch:
    """Captions as numbers, the English half first and the Chinese in the same order behind; and the facts they tell."""

    ids: Int[Tensor, "B S"]
    facts: Int[Tensor, "B F"]


class Reading(Objective):
    """The objective that ``WordsObjective`` describes. A sample is a scene with one caption in each language."""

    def __init__(self, settings: WordsObjective, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self.sample_count: int | None = None
        words = Words(settings.model, collect_vocabulary(settings.vocabulary_scenes))
        self.module: nn.Module = Lesson(words)

    def batch(self, sample_ids: Sequence[int], step: int) -> ReadingBatch:
        """Write a caption in each language for every scene, telling the same facts."""
        assert isinstance(self.module, Lesson)
        lengths: list[Length] = [self._length(one) for one in sample_ids]
        scenes = [world.sample(one, split="train") for one in sample_ids]
        captions = [
            describe(scene, one, language, length)
            for language in LANGUAGES
            for scene, one, length in zip(scenes, sample_ids, lengths, strict=True)
        ]
        ids = self.module.words.ids([caption.text for caption in captions])
        facts = torch.tensor([facts_of(scene, one) for scene, one in zip(scenes * 2, captions, strict=True)])
        dropped = torch.rand(ids.shape, generator=rng.generator(self.seed, "words", step, sample_ids[0]))
        is_word = ids > UNKNOWN + 1
        return ReadingBatch(ids.masked_fill(is_word & (dropped < self.settings.word_dropout), UNKNOWN), facts)

    def _length(self, sample_id: int) -> Length:
        u = rng.uniform(self.seed, sample_id, 0, "length")
        return LENGTHS[int(np.searchsorted(np.cumsum(LENGTH_SHARES)[:-1], u))]

    def loss(self, module: nn.Module, batch: ReadingBatch) -> tuple[Float[Tensor, " B"], Mapping[str, float]]:
        """Return the loss of each scene: both captions, both readers, and how far the languages are apart."""
        assert isinstance(module, Lesson)
        text = module.words(batch.ids)
        by_tokens, by_pooled = module.read_tokens(text), module.read_pooled(text)
        losses = _cross_entropy(by_tokens, batch.facts) + 0.5 * _cross_entropy(by_pooled, batch.facts)
        english, chinese = text.pooled.chunk(2)
        apart = 1 - F.cosine_similarity(english, chinese, dim=1)
        per_scene = sum(losses.chunk(2)) / 2 + self.settings.alignment * apart
        return per_scene, {
            "right": float(_right(by_tokens, batch.facts).float().mean()),
            "apart": float(apart.detach().mean()),
        }

    def export(self, ema: nn.Module, path: Path) -> None:
        """Write the encoder in bfloat16, with its config and vocabulary; the readers stay behind."""
        assert isinstance(ema, Lesson)
        tensors = {name: value.bfloat16() for name, value in ema.words.state_dict().items()}
        metadata = {
            "config": json.dumps(config.to_json(self.settings.model)),
            "vocabulary": json.dumps(ema.words.tokenizer.vocabulary, ensure_ascii=False),
        }
        weights.save(path, tensors, metadata)

    def preview(self, ema: nn.Module, step: int) -> Video | None:
        """There is nothing to see."""
        return None


class Lesson(nn.Module):
    """The encoder and the readers that teach it."""

    def __init__(self, words: Words) -> None:
        super().__init__()
        self.words = words
        dim = words.config.dim
        self.head_dim = words.config.head_dim
        self.queries = nn.Parameter(torch.randn(SLOTS + 1, dim) * dim**-0.5)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.thing = nn.Linear(dim, _classes(THING_FACTS))
        self.scene = nn.Linear(dim, _classes(SCENE_FACTS))
        self.pooled = nn.Linear(dim, SLOTS * _classes(THING_FACTS) + _classes(SCENE_FACTS))

    def read_tokens(self, text: TextTokens) -> list[Float[Tensor, "B _"]]:
        """Return the scores of every fact, read from the tokens."""
        key, value = rearrange(self.key_value(text.tokens), "B S (two N K) -> two B N S K", two=2, K=self.head_dim)
        queries = repeat(self.queries, "Q (N K) -> B N Q K", B=len(key), K=self.head_dim).to(key.dtype)
        read = rearrange(attend(queries * self.head_dim**0.5, key, value, text.mask), "B N Q K -> B Q (N K)")
        things = rearrange(self.thing(read[:, :SLOTS]), "B Q C -> B (Q C)")
        return _split(torch.cat([things, self.scene(read[:, SLOTS])], 1))

    def read_pooled(self, text: TextTokens) -> list[Float[Tensor, "B _"]]:
        """Return the scores of every fact, read from the pooled vector."""
        return _split(self.pooled(text.pooled))


def facts_of(scene: world.Scene, caption: Caption) -> list[int]:
    """Return the class of every fact: of things in the order of mention, then of the surroundings; 0 if not told."""
    facts: list[int] = []
    for index in caption.order:
        for name, values in THING_FACTS.items():
            told = (index, name) in caption.told
            facts.append(1 + values.index(getattr(scene.things[index], name)) if told else NOT_TOLD)
    facts += [NOT_TOLD] * (len(THING_FACTS) * (SLOTS - len(caption.order)))
    truth = {"count": len(scene.things)}
    for name, values in SCENE_FACTS.items():
        value = truth.get(name, getattr(scene, name, None))
        facts.append(1 + values.index(value) if (None, name) in caption.told else NOT_TOLD)
    return facts


def fact_names() -> list[str]:
    """Return the name of every fact, in the order of ``facts_of``."""
    return list(THING_FACTS) * SLOTS + list(SCENE_FACTS)


def collect_vocabulary(scenes: int) -> list[str]:
    """Return every word of many captions, sorted."""
    found: set[str] = set()
    for seed, language, length in itertools.product(range(scenes), LANGUAGES, LENGTHS):
        found |= set(split(describe(world.sample(seed, split="train"), seed, language, length).text))
    return sorted(found)


@torch.no_grad()
def accuracy(
    lesson: Lesson, seeds: Sequence[int], split: world.Split, language: Language, length: Length
) -> dict[str, float]:
    """Measure how many facts are read from the tokens.

    Args:
        lesson: the encoder with its readers.
        seeds: of the scenes.
        split: of the scenes.
        language: of the captions.
        length: of the captions.

    Returns:
        Share of facts right by name; ``mean`` over all; ``all`` is the share of captions with every fact right.
    """
    scenes = [world.sample(seed, split=split) for seed in seeds]
    captions = [describe(scene, seed, language, length) for scene, seed in zip(scenes, seeds, strict=True)]
    facts = torch.tensor([facts_of(scene, caption) for scene, caption in zip(scenes, captions, strict=True)])
    right = _right(lesson.read_tokens(lesson.words.encode([caption.text for caption in captions])), facts).float()
    names = np.array(fact_names())
    shares = {name: float(right[:, torch.from_numpy(names == name)].mean()) for name in dict.fromkeys(names.tolist())}
    return {**shares, "mean": float(right.mean()), "all": float(right.min(1).values.mean())}


def _classes(facts: Mapping[str, tuple]) -> int:
    return sum(1 + len(values) for values in facts.values())


def _split(scores: Float[Tensor, "B C"]) -> list[Float[Tensor, "B _"]]:
    sizes = [1 + len(values) for values in (*list(THING_FACTS.values()) * SLOTS, *SCENE_FACTS.values())]
    return list(scores.float().split(sizes, dim=1))


def _cross_entropy(scores: list[Float[Tensor, "B _"]], facts: Int[Tensor, "B F"]) -> Float[Tensor, " B"]:
    columns = zip(scores, facts.unbind(1), strict=True)
    return torch.stack([F.cross_entropy(one, fact, reduction="none") for one, fact in columns]).mean(0)


def _right(scores: list[Float[Tensor, "B _"]], facts: Int[Tensor, "B F"]) -> Bool[Tensor, "B F"]:
    return torch.stack([one.argmax(1) for one in scores], 1) == facts
