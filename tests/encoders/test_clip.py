import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mutoscope.core.errors import MissingExtra, WeightsError
from mutoscope.encoders.clip import LENGTH, MEAN, STD, ClipText, clip_pixels

pytest.importorskip("transformers")
from tests.encoders.hub_folders import write_clip, write_whole_clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip")
    write_clip(path, path)
    return path


@pytest.fixture(scope="module")
def clip(folder: Path) -> ClipText:
    return ClipText.load(folder, folder, projects=True)


def test_tokens_are_what_a_tower_without_its_last_block_gives(clip: ClipText) -> None:
    ids, _ = clip.ids(["a red kite"])
    tokens = clip(ids).tokens
    states: list[torch.Tensor] = []
    blocks = clip.network.text_model.encoder.layers
    handle = blocks[1].register_forward_hook(lambda *given: states.append(given[2]))
    clip(ids)
    handle.remove()
    assert torch.equal(tokens, states[0] if isinstance(states[0], torch.Tensor) else states[0][0])


def test_pooled_is_projected_where_the_tower_is_read_with_its_projection(clip: ClipText, folder: Path) -> None:
    ids, mask = clip.ids(["a red kite", "dawn"])
    plain = ClipText.load(folder, None, projects=False)(ids)
    torch.testing.assert_close(clip(ids).pooled, plain.pooled @ clip.network.text_projection.weight.T)
    torch.testing.assert_close(clip(ids, mask).pooled, clip(ids).pooled)  # causal: what is behind <end> is not seen


def test_the_text_tower_is_found_in_a_whole_clip(clip: ClipText, tmp_path: Path) -> None:
    whole, (ids, mask) = write_whole_clip(tmp_path), clip.ids(["a red kite"])
    states = whole.text_model(input_ids=ids, attention_mask=mask)
    for projects, wanted in ((False, states.pooler_output), (True, whole.text_projection(states.pooler_output))):
        torch.testing.assert_close(ClipText.load(tmp_path, None, projects=projects)(ids, mask).pooled, wanted)


def test_a_long_prompt_is_cut_and_still_ends(clip: ClipText) -> None:
    short, long = clip.ids(["red " * 75])[0], clip.ids(["red " * 200])[0]
    assert short.shape == (1, LENGTH) and torch.equal(short, long)


def test_folders_that_do_not_hold_what_they_should_are_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"config\.json is missing"):
        ClipText.load(tmp_path, None, projects=True)
    tensors = load_file(folder / "model.safetensors")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(WeightsError, match="cannot load CLIPTextModel") as caught:
        ClipText.load(tmp_path, None, projects=False)
    assert "\n" not in str(caught.value)
    gone = tensors.pop(next(iter(tensors)))
    save_file(tensors | {"something": gone}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match=r"1 missing: .*; 1 unknown: something\. Choose") as caught:
        ClipText.load(tmp_path, None, projects=True)
    assert "\n" not in str(caught.value)
    with pytest.raises(WeightsError, match="there is no tokenizer"):
        ClipText.load(folder, tmp_path / "tokenizer", projects=True)


def test_without_transformers_the_command_that_brings_it_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"CLIP needs transformers.*pip install 'mutoscope\[hub\]'"):
        ClipText.load(folder, None, projects=True)


def test_a_picture_of_one_colour_is_that_colour_normalised() -> None:
    colour = np.array([10, 200, 90], np.uint8)
    pixels = clip_pixels(np.tile(colour, (50, 70, 1)), 28)
    wanted = (torch.tensor(colour / 255) - torch.tensor(MEAN)) / torch.tensor(STD)
    torch.testing.assert_close(pixels, wanted.float()[:, None, None].expand(3, 28, 28), rtol=1e-5, atol=1e-6)


def test_a_picture_on_its_side_gives_pixels_on_their_side() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 90, 3), dtype=np.uint8)
    turned = clip_pixels(np.ascontiguousarray(picture.transpose(1, 0, 2)), 28)
    torch.testing.assert_close(turned, clip_pixels(picture, 28).transpose(1, 2), rtol=0, atol=2 / 255 / min(STD))


def test_a_picture_of_the_right_size_is_only_normalised() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    pixels = clip_pixels(picture, 28) * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    assert np.array_equal((pixels * 255).round().permute(1, 2, 0).numpy().astype(np.uint8), picture)
