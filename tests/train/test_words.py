from pathlib import Path

import pytest
import torch

from mutoscope.encoders.words import UNKNOWN, Words, WordsConfig
from mutoscope.train.words import (
    NOT_TOLD,
    Lesson,
    Reading,
    WordsObjective,
    accuracy,
    collect_vocabulary,
    fact_names,
    facts_of,
)
from mutoscope.worlds import scene as world
from mutoscope.worlds.language import describe

SMALL = WordsObjective(model=WordsConfig(dim=32, depth=1, head_dim=16), vocabulary_scenes=40)


@pytest.fixture(scope="module")
def objective() -> Reading:
    torch.manual_seed(0)
    return SMALL.build(seed=3)


def test_facts_are_those_told_in_the_order_of_mention() -> None:
    scene = next(scene for scene in map(world.sample, range(100)) if len(scene.things) == 2)
    caption = describe(scene, 1, "en", "dense")
    facts = facts_of(scene, caption)
    first = scene.things[caption.order[0]]
    assert facts[0] == 1 + world.SHAPES.index(first.shape) and facts[1] == 1 + world.COLOURS.index(first.colour)
    assert set(facts[12:18]) == {NOT_TOLD}  # there is no third thing
    assert facts[fact_names().index("count")] == 2


def test_both_languages_of_a_sample_tell_the_same(objective: Reading) -> None:
    english, chinese = objective.batch(range(12), 1).facts.chunk(2)
    assert torch.equal(english, chinese)


def test_a_batch_follows_from_its_samples_and_step_alone(objective: Reading) -> None:
    first, again = objective.batch([4, 9], 7), objective.batch([4, 9], 7)
    assert torch.equal(first.ids, again.ids) and torch.equal(first.facts, again.facts)


def test_only_words_are_dropped() -> None:
    objective = WordsObjective(model=SMALL.model, vocabulary_scenes=40, word_dropout=1.0).build(seed=3)
    ids = objective.batch([4, 9], 1).ids
    assert set(ids[:, 1:].unique().tolist()) <= {0, UNKNOWN} and bool((ids[:, 0] == 2).all())


def test_every_weight_gets_a_gradient_and_the_loss_falls(objective: Reading) -> None:
    module = objective.module
    optimizer = torch.optim.AdamW(module.parameters(), 3e-3)
    losses = []
    for _ in range(12):
        loss = objective.loss(module, objective.batch(range(8), 0))[0].mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and bool(p.grad.any()) for p in module.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_the_vocabulary_covers_captions_never_seen() -> None:
    known = set(collect_vocabulary(300))
    assert known >= set(collect_vocabulary(30)) and {"red", "红", "camera", "镜", "."} <= known


def test_exported_weights_load_with_their_vocabulary(objective: Reading, tmp_path: Path) -> None:
    objective.export(objective.module, tmp_path / "words.safetensors")
    words = Words.load(tmp_path / "words.safetensors")
    assert isinstance(objective.module, Lesson)
    ours = objective.module.words.tokenizer.vocabulary
    assert words.tokenizer.vocabulary == ours


def test_accuracy_counts_every_fact(objective: Reading) -> None:
    assert isinstance(objective.module, Lesson)
    found = accuracy(objective.module, range(5), "held_out", "en", "short")
    assert set(found) == {*fact_names(), "mean", "all"} and all(0 <= share <= 1 for share in found.values())
