from importlib.resources import files
from pathlib import Path

import pytest
import torch

from mutoscope.core import weights
from mutoscope.core.errors import RequestError, WeightsError
from mutoscope.encoders.words import PADDING, START, UNKNOWN, Tokenizer, Words, WordsConfig, split

BUNDLED = Path(str(files("mutoscope"))) / "bundled" / "words.safetensors"
VOCABULARY = sorted({"a", "red", "star", "stars", "spins", "box", "over", ",", ".", "红", "色", "星", "圆"} - {"stars"})


@pytest.fixture
def words() -> Words:
    torch.manual_seed(0)
    return Words(WordsConfig(dim=32, depth=2, head_dim=16, max_tokens=12), VOCABULARY).eval().requires_grad_(False)


def test_words_marks_and_chinese_characters_are_cut_apart() -> None:
    assert split("A mid-sized Red star, 红色的圆。") == [
        "a",
        "mid",
        "sized",
        "red",
        "star",
        ",",
        "红",
        "色",
        "的",
        "圆",
        ".",
    ]


def test_known_words_come_back_from_their_numbers() -> None:
    tokenizer = Tokenizer(VOCABULARY)
    assert tokenizer.text(tokenizer.ids("A red star spins, 红色星.")) == "a red star spins , 红 色 星 ."


def test_a_plural_counts_as_its_singular() -> None:
    tokenizer = Tokenizer(VOCABULARY)
    assert tokenizer.ids("stars boxes") == tokenizer.ids("star box")
    assert tokenizer.unknown("stars boxes") == []


def test_unknown_words_are_named_once_with_the_nearest_known_ones() -> None:
    tokenizer = Tokenizer(VOCABULARY)
    assert tokenizer.unknown("a rad spin spinz and a rad zzzz!") == [
        ("rad", []),  # as near to red as cat is to can
        ("spin", ["spins"]),
        ("spinz", ["spins"]),
        ("and", []),
        ("zzzz", []),
    ]
    assert UNKNOWN in tokenizer.ids("a rad star")


def test_a_mark_outside_the_vocabulary_is_no_unknown_word() -> None:
    tokenizer = Tokenizer(VOCABULARY)
    assert tokenizer.ids("star!") == tokenizer.ids("star")


def test_padding_is_inert(words: Words) -> None:
    texts = ["a red star", "a red star spins over a box", ""]
    together = words.encode(texts)
    for row, text in enumerate(texts):
        alone = words.encode([text])
        length = alone.mask.shape[1]
        torch.testing.assert_close(together.tokens[row, :length], alone.tokens[0])
        torch.testing.assert_close(together.pooled[row], alone.pooled[0])
        assert together.mask[row].sum() == length
        assert together.tokens[row, length:].count_nonzero() == 0


def test_tokens_have_unit_mean_square(words: Words) -> None:
    text = words.encode(["a red star spins", "红色的圆"])
    mean_square = text.tokens.square().mean(-1)[text.mask]
    torch.testing.assert_close(mean_square, torch.ones_like(mean_square), rtol=1e-4, atol=1e-4)


def test_the_empty_prompt_is_the_start_alone(words: Words) -> None:
    assert words.ids([""]).tolist() == [[START]]
    null = words.null(3)
    assert null.tokens.shape == (3, 1, 32) and bool(null.mask.all())
    torch.testing.assert_close(null.pooled, null.tokens[:, 0])


def test_a_shorter_prompt_is_padded_behind(words: Words) -> None:
    assert words.ids(["a red star", "a"])[1].tolist()[2:] == [PADDING, PADDING]


def test_a_prompt_that_is_too_long_is_refused_and_not_cut(words: Words) -> None:
    words.encode(["star " * 12])
    with pytest.raises(RequestError, match=r"13 words.*at most 12") as caught:
        words.encode(["star " * 13])
    assert "\n" not in str(caught.value)


def test_a_file_without_vocabulary_is_refused(tmp_path: Path, words: Words) -> None:
    weights.save(tmp_path / "bare.safetensors", words.state_dict(), {"config": "{}"})
    with pytest.raises(WeightsError, match="no vocabulary"):
        Words.load(tmp_path / "bare.safetensors")


@pytest.mark.skipif(not BUNDLED.exists(), reason="the bundled text encoder has not been trained yet")
def test_the_bundled_encoder_knows_both_languages_and_names_what_it_does_not_know() -> None:
    words = Words.load(BUNDLED)
    assert words.unknown("a small red circle drifts left over a checkered floor. 一个大的蓝色星形在旋转。") == []
    assert [word for word, _ in words.unknown("a purpel dragon spins")] == ["purpel", "dragon"]
    assert "purple" in dict(words.unknown("a purpel star"))["purpel"]


@pytest.mark.skipif(not BUNDLED.exists(), reason="the bundled text encoder has not been trained yet")
def test_the_bundled_encoder_puts_a_caption_near_its_translation() -> None:
    words = Words.load(BUNDLED)
    english = words.encode(["a small red circle moves slowly left", "a large blue star spins quickly"]).pooled
    chinese = words.encode(["一个小红色圆形缓慢地向左移动", "一个大蓝色星形快速地旋转"]).pooled
    likeness = torch.nn.functional.cosine_similarity(english[:, None], chinese[None], dim=-1)
    assert likeness.argmax(1).tolist() == [0, 1]
