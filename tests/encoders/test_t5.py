import shutil
from pathlib import Path

import pytest
import torch

from mutoscope.core.errors import RequestError
from mutoscope.encoders.base import Encoder
from mutoscope.encoders.clip import LENGTH
from mutoscope.encoders.t5 import TOKENS, ClipT5

pytest.importorskip("transformers")
from tests.encoders.hub_folders import write_clip, write_t5

DIM = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompt")
    write_clip(path / "text_encoder", path / "tokenizer", dim=8)
    write_clip(path / "text_encoder_2", path / "tokenizer_2", dim=12)
    write_t5(path / "text_encoder_3", path / "tokenizer_3", dim=DIM)
    return path


@pytest.fixture(scope="module")
def encoder(folder: Path) -> ClipT5:
    return ClipT5.load(folder)


def test_clips_stand_side_by_side_in_front_of_t5_and_all_is_real(encoder: ClipT5) -> None:
    text = encoder.encode(["a red kite", "dawn"])
    assert isinstance(encoder, Encoder)
    assert text.tokens.shape == (2, LENGTH + TOKENS, DIM) and bool(text.mask.all())
    ids = encoder.clip_l.ids(["a red kite", "dawn"])[0]
    first, second = encoder.clip_l(ids), encoder.clip_g(ids)
    assert torch.equal(text.tokens[:, :LENGTH, :20], torch.cat([first.tokens, second.tokens], dim=2))
    assert text.tokens[:, :LENGTH, 20:].count_nonzero() == 0
    assert encoder.t5 is not None
    assert torch.equal(text.tokens[:, LENGTH:], encoder.t5(encoder.t5.ids(["a red kite", "dawn"], TOKENS)))
    assert torch.equal(text.pooled, torch.cat([first.pooled, second.pooled], dim=1))


def test_a_prompt_is_encoded_alike_in_any_company(encoder: ClipT5) -> None:
    together, alone = encoder.encode(["a red kite flies over the sea", "dawn"]), encoder.encode(["dawn"])
    torch.testing.assert_close(together.tokens[1:], alone.tokens, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together.pooled[1:], alone.pooled, rtol=1e-4, atol=1e-5)


def test_without_t5_zeros_take_its_place(encoder: ClipT5, folder: Path, tmp_path: Path) -> None:
    for name in ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"):
        shutil.copytree(folder / name, tmp_path / name)
    small = ClipT5.load(tmp_path)
    small.dim = DIM
    text, whole = small.null(1), encoder.null(1)
    assert text.tokens.shape == whole.tokens.shape and text.tokens[:, LENGTH:].count_nonzero() == 0
    assert torch.equal(text.tokens[:, :LENGTH], whole.tokens[:, :LENGTH])
    small.encode(["red " * (LENGTH - 2)])
    with pytest.raises(RequestError, match=rf"{LENGTH + 1} tokens .* at most {LENGTH}"):
        small.encode(["red " * (LENGTH - 1)])


def test_a_prompt_that_is_too_long_for_t5_is_refused_and_not_cut(encoder: ClipT5) -> None:
    encoder.encode(["red " * (TOKENS - 1)])
    with pytest.raises(RequestError, match=rf"{TOKENS + 1} tokens .* at most {TOKENS}") as caught:
        encoder.encode(["a kite", "red " * TOKENS])
    assert "\n" not in str(caught.value)


def test_words_that_t5_cannot_spell_are_named_once(encoder: ClipT5) -> None:
    assert encoder.unknown("a 红 kite 红 над the sea") == [("红", []), ("над", [])]
    assert encoder.unknown("") == encoder.unknown("a kite") == []
