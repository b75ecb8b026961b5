"""A prompt that names the person in a picture: the picture's tokens stand where it is named."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mutoscope.core.errors import RequestError, WeightsError
from mutoscope.encoders.base import SeeingEncoder
from mutoscope.encoders.clip import clip_pixels
from mutoscope.encoders.llm import LENGTH, Template
from mutoscope.encoders.person import LOOKS, PersonClip

transformers = pytest.importorskip("transformers")
from tests.encoders.hub_folders import write_clip, write_llava  # noqa: E402

AROUND = Template("describe : {} <eot>", opening=3)  # the mark in front, "describe", ":"
PICTURE = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
SEEN, LOOKS_TOKENS, EOT = 4, len(LOOKS.split("<image>")[0].split()), 1  # tokens


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("avatar")
    write_llava(path / "llava_llama_image")
    write_clip(path / "text_encoder_2", path / "text_encoder_2", projects=False)
    return path


@pytest.fixture(scope="module")
def encoder(folder: Path) -> PersonClip:
    return PersonClip.load(folder, AROUND)


def test_tokens_are_all_behind_the_opening_with_the_picture_where_it_is_named(
    encoder: PersonClip, folder: Path
) -> None:
    text = encoder.encode([" a red kite "], [PICTURE])
    assert isinstance(encoder, SeeingEncoder)
    assert text.tokens.shape[1] == 3 + LOOKS_TOKENS + SEEN + EOT and text.mask.all()
    whole = transformers.LlavaModel.from_pretrained(folder / "llava_llama_image").eval()
    ids = encoder.llava.tokenizer(AROUND.text.format("a red kite" + LOOKS), return_tensors="pt")["input_ids"]
    image = whole.config.image_token_id
    place = ids[0].tolist().index(image)
    expanded = torch.cat([ids[:, :place], torch.full((1, SEEN), image), ids[:, place + 1 :]], dim=1)
    states = whole(
        input_ids=expanded, pixel_values=clip_pixels(PICTURE, 28)[None], output_hidden_states=True
    ).hidden_states[-3]
    torch.testing.assert_close(text.tokens, states[:, AROUND.opening :], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(text.pooled, encoder.clip(*encoder.clip.ids(["a red kite"])).pooled)


def test_a_prompt_is_encoded_alike_in_any_company(encoder: PersonClip) -> None:
    together = encoder.encode(["a red kite flies over", "dawn"], [np.zeros_like(PICTURE), PICTURE])
    alone = encoder.encode(["dawn"], [PICTURE])
    length = alone.tokens.shape[1]
    torch.testing.assert_close(together.tokens[1:, :length], alone.tokens, rtol=1e-4, atol=1e-5)
    assert together.mask.sum(1).tolist() == [length + 4, length]
    assert not together.tokens[1, length:].any()


def test_without_a_prompt_the_picture_is_black(encoder: PersonClip) -> None:
    null, black = encoder.null(1), encoder.encode([""], [np.zeros_like(PICTURE)])
    torch.testing.assert_close(null.tokens, black.tokens)
    assert encoder.unknown("whatever") == []


def test_what_is_missing_is_named_in_one_line(encoder: PersonClip, folder: Path, tmp_path: Path) -> None:
    for pictures in (None, [PICTURE]):
        with pytest.raises(RequestError, match="Give one picture with each prompt"):
            encoder.encode(["a kite", "dawn"], pictures)
    with pytest.raises(RequestError, match=r"The prompt has .* tokens"):
        encoder.encode(["red " * LENGTH], [PICTURE])
    with pytest.raises(WeightsError, match="there is no Llava at"):
        PersonClip.load(tmp_path, AROUND)
    (tmp_path / "text_encoder").symlink_to(folder / "llava_llama_image")
    with pytest.raises(WeightsError, match="there is no CLIP-L at"):
        PersonClip.load(tmp_path, AROUND)
