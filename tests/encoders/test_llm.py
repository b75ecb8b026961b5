import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mutoscope.core.errors import RequestError, WeightsError
from mutoscope.encoders import llm
from mutoscope.encoders.base import Encoder
from mutoscope.encoders.clip import clip_pixels
from mutoscope.encoders.llm import (
    LENGTH,
    PUBLISHED,
    Llama,
    LlamaClip,
    LlavaClip,
    Template,
    published_template,
    read_template,
)

transformers = pytest.importorskip("transformers")
from tests.encoders.hub_folders import write_clip, write_llama, write_llava  # noqa: E402

needs_diffusers = pytest.mark.skipif(importlib.util.find_spec("diffusers") is None, reason="diffusers is not installed")
AROUND = Template("describe : {} <eot>", opening=3)  # the mark in front, "describe", ":"
SHOWN = Template("<line> <image> <line> describe <line> {} <eot> <head> assistant <tail> <line>", opening=6)
PICTURE = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
SEEN = 4  # tokens of a picture of the tiny network


@needs_diffusers
@pytest.mark.parametrize("name", ["video", "video_i2v"])
def test_templates_in_the_source_of_diffusers_are_those_published(name: llm.TemplateName) -> None:
    template = published_template(name)
    assert llm._sha256(template.text) == PUBLISHED[name].sha256
    assert template.text.count("{}") == 1 and template.opening == PUBLISHED[name].opening
    assert ("<image>" in template.text) == (name == "video_i2v")


def test_without_diffusers_both_ways_to_a_template_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"pip install 'diffusers.* or give the template in a file"):
        published_template("video")
    with pytest.raises(RequestError, match="Give it in a file"):
        published_template("image")


def test_the_source_is_read_without_being_run_and_another_template_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "diffusers"
    source = package / "pipelines" / "hunyuan_video" / "pipeline_hunyuan_video.py"
    source.parent.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit\n")
    monkeypatch.syspath_prepend(tmp_path)  # where it is found before the real one
    monkeypatch.delitem(sys.modules, "diffusers", raising=False)
    for line in ('DEFAULT_PROMPT_TEMPLATE = {"template": "say {}"}', "DEFAULT_PROMPT_TEMPLATE = made()", "import os"):
        source.write_text(f"raise SystemExit\n{line}\n")
        with pytest.raises(RequestError, match="does not have HunyuanVideo's template as published"):
            published_template("video")


@needs_diffusers
def test_a_template_in_a_file_is_known_by_its_hash(tmp_path: Path) -> None:
    template, path = published_template("video"), tmp_path / "template.txt"
    path.write_text(template.text + "\n", encoding="utf-8")
    assert read_template(path) == template
    path.write_text(template.text.replace("{}", "{} "), encoding="utf-8")
    with pytest.raises(RequestError, match="none of HunyuanVideo's templates"):
        read_template(path)
    with pytest.raises(RequestError, match="cannot read the template"):
        read_template(tmp_path / "nothing.txt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llm")
    write_llama(path / "text_encoder")
    write_llava(path / "text_encoder_i2v")
    write_clip(path / "text_encoder_2", path / "text_encoder_2", projects=False)
    return path


@pytest.fixture(scope="module")
def encoder(folder: Path) -> LlamaClip:
    return LlamaClip.load(folder, AROUND)


@pytest.fixture(scope="module")
def seeing(folder: Path) -> LlavaClip:
    loaded = LlavaClip.load(folder, SHOWN, stride=2)
    loaded.llava.empty_line = 3  # what the tiny tokenizer calls <line>
    return loaded


def test_layers_left_out_are_those_above_the_one_that_is_read(folder: Path) -> None:
    whole = transformers.LlamaModel.from_pretrained(folder / "text_encoder").eval()
    ids, mask = torch.randint(0, 20, (2, 7), generator=torch.Generator().manual_seed(0)), torch.ones(2, 7).bool()
    mask[1, 4:] = False
    states = whole(input_ids=ids, attention_mask=mask.long(), output_hidden_states=True).hidden_states
    for skipped in (1, 2, 3):
        read = Llama.load(folder / "text_encoder", None, skipped=skipped)(ids, mask)
        torch.testing.assert_close(read, states[-1 - skipped], rtol=1e-5, atol=1e-5)
        normed = Llama.load(folder / "text_encoder", None, skipped=skipped, normed=True)(ids, mask)
        torch.testing.assert_close(normed, whole.norm(states[-1 - skipped]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(Llama.load(folder / "text_encoder", None, skipped=0, normed=True)(ids, mask), states[-1])


def test_tokens_are_those_behind_the_opening_and_as_many_as_the_longest_prompt_has(encoder: LlamaClip) -> None:
    text = encoder.encode(["a red kite", " dawn ", ""])
    assert isinstance(encoder, Encoder)
    assert text.mask.sum(1).tolist() == [4, 2, 1]  # what closes the template among them
    assert text.tokens[~text.mask].count_nonzero() == 0
    ids = encoder.llama.tokenizer("describe : a red kite <eot>", return_tensors="pt")["input_ids"]
    states = encoder.llama(ids, torch.ones_like(ids).bool())
    torch.testing.assert_close(text.tokens[:1], states[:, 3:])


def test_a_prompt_is_encoded_alike_in_any_company(encoder: LlamaClip) -> None:
    together, alone = encoder.encode(["a red kite flies over the sea", "dawn"]), encoder.encode(["dawn"])
    torch.testing.assert_close(together.tokens[1:, :2], alone.tokens, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together.pooled[1:], alone.pooled, rtol=1e-4, atol=1e-5)
    assert encoder.null(2).mask.tolist() == [[True], [True]]
    assert encoder.unknown("anything") == []


def test_a_prompt_that_is_too_long_is_refused_and_not_cut(encoder: LlamaClip) -> None:
    encoder.encode(["red " * (LENGTH - 1)])
    with pytest.raises(RequestError, match=rf"at most {LENGTH + 3}"):
        encoder.encode(["red " * LENGTH])


def test_a_folder_without_clip_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text_encoder").symlink_to(folder / "text_encoder")
    with pytest.raises(WeightsError, match="there is no CLIP-L"):
        LlamaClip.load(tmp_path, AROUND)


def test_every_second_token_of_the_picture_is_in_front_and_the_header_is_gone(seeing: LlavaClip) -> None:
    text = seeing.encode(["a red kite", "dawn"], [PICTURE, PICTURE])
    assert text.mask.sum(1).tolist() == [SEEN // 2 + 4, SEEN // 2 + 2]  # the prompt, and the last empty line
    ids = seeing.llava.tokenizer(SHOWN.text.format("a red kite"), return_tensors="pt")["input_ids"]
    seen, states = seeing.llava(ids, torch.ones_like(ids).bool(), clip_pixels(PICTURE, 28)[None])
    torch.testing.assert_close(text.tokens[0, : SEEN // 2], seen[0, ::2])
    torch.testing.assert_close(text.tokens[0, SEEN // 2 :], states[0, [6, 7, 8, 13]])


def test_the_library_merges_pictures_in_the_same_way(seeing: LlavaClip, folder: Path) -> None:
    whole = transformers.LlavaModel.from_pretrained(folder / "text_encoder_i2v").eval()
    ids = seeing.llava.tokenizer(SHOWN.text.format("a red kite"), return_tensors="pt")["input_ids"]
    image = whole.config.image_token_id
    place = ids[0].tolist().index(image)
    expanded = torch.cat([ids[:, :place], torch.full((1, SEEN), image), ids[:, place + 1 :]], dim=1)
    states = whole(
        input_ids=expanded, pixel_values=clip_pixels(PICTURE, 28)[None], output_hidden_states=True
    ).hidden_states[-3]
    seen, text = seeing.llava(ids, torch.ones_like(ids).bool(), clip_pixels(PICTURE, 28)[None])
    torch.testing.assert_close(seen, states[:, place : place + SEEN], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(text[:, place + 1 :], states[:, place + SEEN :], rtol=1e-4, atol=1e-5)


def test_a_prompt_with_a_picture_is_encoded_alike_in_any_company(seeing: LlavaClip) -> None:
    together = seeing.encode(["a red kite flies over", "dawn"], [np.zeros_like(PICTURE), PICTURE])
    alone = seeing.encode(["dawn"], [PICTURE])
    torch.testing.assert_close(together.tokens[1:, : SEEN // 2 + 2], alone.tokens, rtol=1e-4, atol=1e-5)


def test_without_a_prompt_the_picture_is_black(seeing: LlavaClip) -> None:
    null, black = seeing.null(1), seeing.encode([""], [np.zeros_like(PICTURE)])
    assert torch.equal(null.tokens, black.tokens)


def test_what_the_seeing_model_needs_is_named(seeing: LlavaClip, folder: Path) -> None:
    with pytest.raises(RequestError, match="Give one picture with each prompt"):
        seeing.encode(["a red kite"])
    with pytest.raises(RequestError, match="needs `<image>` once"):
        LlavaClip(seeing.llava, seeing.clip, AROUND).encode(["a red kite"], [PICTURE])
