from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mutoscope.core.errors import MutoscopeError, RequestError
from mutoscope.encoders.base import Encoder, TextTokens
from mutoscope.encoders.cache import Cached, default_folder, fingerprint


class Letters:
    """Encode every letter as its number; remember what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str]) -> TextTokens:
        if any(len(text) > 20 for text in texts):
            raise RequestError("The prompt is too long. Shorten it.")
        self.asked += texts
        rows = [[1.0, *map(ord, text)] for text in texts]
        longest = max(map(len, rows))
        tokens = torch.tensor([row + [0.0] * (longest - len(row)) for row in rows])[..., None]
        mask = torch.tensor([[index < len(row) for index in range(longest)] for row in rows])
        return TextTokens(tokens, mask, tokens.sum(1))

    def null(self, count: int) -> TextTokens:
        return self.encode([""] * count)

    def unknown(self, text: str) -> list[tuple[str, list[str]]]:
        return [(letter, ["a"]) for letter in text if letter > "z"]


def assert_same(one: TextTokens, other: TextTokens) -> None:
    for ours, theirs in zip(vars(one).values(), vars(other).values(), strict=True):
        assert torch.equal(ours, theirs)


def test_what_is_remembered_is_what_was_encoded_to_the_last_bit(tmp_path: Path) -> None:
    texts = ["a kite", "kite", "", "a kite"]
    cached = Cached(Letters, "letters", tmp_path)
    assert isinstance(cached, Encoder)
    for _ in range(2):
        assert_same(cached.encode(texts), Letters().encode(texts))
    assert_same(cached.null(2), Letters().null(2))


def test_a_prompt_is_encoded_once_and_the_encoder_loaded_only_for_a_new_one(tmp_path: Path) -> None:
    letters = Letters()
    Cached(lambda: letters, "letters", tmp_path).encode(["one", "two", "one"])
    assert letters.asked == ["one", "two"]

    def fail() -> Letters:
        raise AssertionError("loaded for nothing")

    again = Cached(fail, "letters", tmp_path)
    again.encode(["two", "one"])
    assert again.unknown("one") == []
    with pytest.raises(AssertionError, match="loaded for nothing"):
        again.encode(["three"])


def test_unknown_words_are_remembered_too(tmp_path: Path) -> None:
    cached = Cached(Letters, "letters", tmp_path)
    asked = cached.unknown("aé")
    cached.encode(["aé"])
    assert cached.unknown("aé") == asked == [("é", ["a"])]


def test_encoders_that_differ_share_a_folder_and_nothing_in_it(tmp_path: Path) -> None:
    first, second = Letters(), Letters()
    Cached(lambda: first, "one", tmp_path).encode(["kite"])
    Cached(lambda: second, "two", tmp_path).encode(["kite"])
    assert first.asked == second.asked == ["kite"]


def test_a_prompt_that_is_refused_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(RequestError):
        Cached(Letters, "letters", tmp_path).encode(["short", "l" * 30])
    assert list(tmp_path.rglob("*.safetensors")) == []


def test_a_fingerprint_follows_names_sizes_contents_and_settings(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(bytes(5 << 20))
    first = fingerprint(tmp_path, "bf16")
    assert fingerprint(tmp_path, "bf16") == first
    assert fingerprint(tmp_path, "fp16") != first
    (tmp_path / "model").write_bytes(bytes((5 << 20) - 1) + b"1")
    assert fingerprint(tmp_path, "bf16") != first
    (tmp_path / "model").write_bytes(bytes(5 << 20))
    (tmp_path / "model").rename(tmp_path / "weights")
    assert fingerprint(tmp_path, "bf16") != first


class Colours(nn.Module):
    """Encode a prompt as the mean colour of its picture; remember what was seen, and where it was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen: list[str] = []
        self.sent: list[str] = []

    def to(self, device: torch.device) -> "Colours":
        self.sent.append(device.type)
        return self

    def encode(self, texts: Sequence[str], pictures: Sequence[np.ndarray] = ()) -> TextTokens:
        self.seen += texts
        tokens = torch.stack([torch.from_numpy(picture).float().mean((0, 1)) for picture in pictures])[:, None]
        return TextTokens(tokens, torch.ones(len(texts), 1, dtype=torch.bool), tokens[:, 0])

    def null(self, count: int) -> TextTokens:
        return self.encode([""] * count, [np.zeros((2, 2, 3), np.uint8)] * count)

    def unknown(self, text: str) -> list[tuple[str, list[str]]]:
        return []


def test_a_prompt_is_told_apart_by_its_picture_and_needs_none_to_name_its_unknown_words(tmp_path: Path) -> None:
    colours = Colours()
    cached = Cached(lambda: colours, "colours", tmp_path)
    black, white = np.zeros((2, 3, 3), np.uint8), np.full((2, 3, 3), 255, np.uint8)
    for _ in range(2):
        assert cached.encode(["kite"] * 3, [black, white, black]).pooled[:, 0].tolist() == [0, 255, 0]
        assert not cached.null(2).tokens.any()
    assert colours.seen == ["kite", "kite", ""]
    again = Cached(lambda: pytest.fail("loaded for nothing"), "colours", tmp_path)
    assert again.unknown("kite") == []


def test_an_encoder_is_where_its_memory_is_while_it_encodes_and_then_at_home_again(tmp_path: Path) -> None:
    colours = Colours()
    cached = Cached(lambda: colours, "colours", tmp_path)
    cached.here = torch.empty(0, device="meta")
    with cached._awake() as encoder:
        assert encoder is colours and colours.sent == ["meta"]
    assert colours.sent == ["meta", "cpu"]


def test_the_folder_is_the_one_that_the_environment_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MUTOSCOPE_CACHE", str(tmp_path))
    assert default_folder() == tmp_path / "prompts"
    monkeypatch.delenv("MUTOSCOPE_CACHE")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert default_folder() == tmp_path / ".cache" / "mutoscope" / "prompts"
    (tmp_path / "file").touch()
    monkeypatch.setenv("MUTOSCOPE_CACHE", str(tmp_path / "file"))
    with pytest.raises(MutoscopeError, match="Name another folder in MUTOSCOPE_CACHE"):
        default_folder()
