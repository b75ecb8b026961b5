"""Judges on CLIP and SigLIP say what the networks of transformers say, whatever is looked at together."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mutoscope.core.errors import MissingExtra, RecipeError, WeightsError
from mutoscope.scorers import clip
from mutoscope.scorers.clip import Aesthetic, Concepts, Embedding, Layers, Similarity, Towers
from mutoscope.scorers.judge import Place, Seen

pytest.importorskip("transformers", reason="needs the extra hub")
from tests.scorers.towers import clips, noise, write_clip, write_siglip

KITE, SEA = "a red kite", "the sea at dawn"


@pytest.fixture(scope="module", params=[write_clip, write_siglip])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    """A folder, and the network in it."""
    folder = tmp_path_factory.mktemp("towers")
    return str(folder), request.param(folder)


def own(network: Any, weights: str, frames: np.ndarray) -> torch.Tensor:
    """The vectors of frames as transformers has them, of length 1."""
    pixels = Towers.load(weights, Place()).layout(frames)
    with torch.inference_mode():
        return torch.nn.functional.normalize(network.get_image_features(pixel_values=pixels).pooler_output)


def own_text(network: Any, weights: str, texts: list[str]) -> torch.Tensor:
    rows = Towers.load(weights, Place()).tokenizer(
        texts,
        return_tensors="pt",
        padding="max_length",
        truncation=True,
        max_length=network.config.text_config.max_position_embeddings,
    )
    mask = {"attention_mask": rows["attention_mask"]} if network.config.model_type == "clip" else {}
    with torch.inference_mode():
        return torch.nn.functional.normalize(network.get_text_features(rows["input_ids"], **mask).pooler_output)


def test_an_embedding_is_the_networks_own_vector_of_length_1(model: tuple[str, Any]) -> None:
    weights, network = model
    seen = clips(1, 3)
    one, three = (row["embedding"] for row in Embedding(weights, frames=3).open(Place())(seen))
    assert np.allclose(one, own(network, weights, seen[0].frames)[0], atol=1e-6)
    mean = own(network, weights, seen[1].frames).mean(0)
    assert np.allclose(three, mean / mean.norm(), atol=1e-6) and np.linalg.norm(three) == pytest.approx(1)


def test_similarity_is_the_cosine_and_a_clip_without_text_has_none(model: tuple[str, Any]) -> None:
    weights, network = model
    told, untold = Seen(noise(2), KITE), Seen(noise(3, 1))
    first, none, last = Similarity(weights).open(Place())([told, untold, Seen(noise(1, 2), SEA)])
    texts = own_text(network, weights, [KITE, SEA])
    assert first["text_similarity"] == pytest.approx(
        float((own(network, weights, told.frames) @ texts[0]).mean()), abs=1e-6
    )
    assert last["text_similarity"] == pytest.approx(float(own(network, weights, noise(1, 2))[0] @ texts[1]), abs=1e-6)
    assert none == {} and Similarity(weights).open(Place())([untold]) == [{}]


def test_a_concept_is_what_the_whole_network_finds_most_likely(model: tuple[str, Any]) -> None:
    weights, network = model
    judge = Concepts(weights, ("red kite", "sea", "dawn"), prompt="a {}")
    (row,) = judge.open(Place())([Seen(noise(1))])
    texts = own_text(network, weights, ["a red kite", "a sea", "a dawn"])
    with torch.inference_mode():
        shares = (network.logit_scale.exp() * own(network, weights, noise(1)) @ texts.T).softmax(dim=1)[0]
    assert row["concept"] == judge.classes[int(shares.argmax())]
    assert row["concept_share"] == pytest.approx(float(shares.max()), abs=1e-6)


def test_neither_batch_nor_company_nor_order_of_frames_change_a_number(model: tuple[str, Any], tmp_path: Path) -> None:
    weights, _ = model
    head = torch.nn.Linear(clip.towers(weights, Place()).width, 1)
    torch.save(head.state_dict(), tmp_path / "head.pth")
    judges = (Aesthetic(weights, str(tmp_path / "head.pth")), Similarity(weights))

    def said(seen: list[Seen], **place: Any) -> list[list[Any]]:
        return [[*row.values()] for judge in judges for row in judge.open(Place(**place))(seen)]

    seen = clips(3, 1, 2)
    alone = [said([one], batch=1) for one in seen]
    together = said(seen, batch=5)
    assert np.allclose(together, [row for number in (0, 1) for row in (one[number] for one in alone)], atol=1e-5)
    turned = said([Seen(one.frames[::-1], one.text) for one in seen], batch=5)
    assert np.allclose(turned, together, atol=1e-5)
    again = said([Seen(one.frames[[0, 0, 0]], one.text) for one in seen], batch=5)
    assert np.allclose(again, said([Seen(one.frames[:1], one.text) for one in seen], batch=5), atol=1e-5)


def test_judges_on_one_model_look_at_a_frame_once(model: tuple[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    weights, _ = model
    place = Place(batch=3)
    tower, looked = clip.towers(weights, place), []
    features = tower.network.get_image_features
    monkeypatch.setattr(
        tower.network,
        "get_image_features",
        lambda **given: looked.append(len(given["pixel_values"])) or features(**given),
    )
    seen = [Seen(noise(4, 77), KITE)]
    Embedding(weights).open(place)(seen)
    Similarity(weights).open(place)(seen)
    assert looked == [3, 1]


def test_half_precision_stays_near(model: tuple[str, Any]) -> None:
    weights, _ = model
    exact, rough = (
        Embedding(weights).open(Place(dtype=kind))(clips(2))[0]["embedding"] for kind in ("float32", "bfloat16")
    )
    assert 0 < np.abs(np.asarray(exact) - np.asarray(rough)).max() < 0.05


# ---- the head of LAION -----------------------------------------------------------------------------------------------


def test_the_layers_are_those_that_were_published_and_nothing_bends_between_them() -> None:
    head = Layers(768)
    assert {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()} == {
        "layers.0.weight": (1024, 768), "layers.0.bias": (1024,),
        "layers.2.weight": (128, 1024), "layers.2.bias": (128,),
        "layers.4.weight": (64, 128), "layers.4.bias": (64,),
        "layers.6.weight": (16, 64), "layers.6.bias": (16,),
        "layers.7.weight": (1, 16), "layers.7.bias": (1,),
    }  # fmt: skip
    x, y = torch.randn(2, 1, 768)
    with torch.inference_mode():
        torch.testing.assert_close(head(x + y) + head(torch.zeros(1, 768)), head(x) + head(y), rtol=0, atol=1e-4)


def test_the_mark_is_the_mean_over_frames_of_what_the_head_makes_of_their_vectors(
    model: tuple[str, Any], tmp_path: Path
) -> None:
    weights, network = model
    width = clip.towers(weights, Place()).width
    layers, line = Layers(width), torch.nn.Linear(width, 1)
    for name, head in (("mlp.pth", layers), ("line.pth", line)):
        torch.save(head.state_dict(), tmp_path / name)
        (row,) = Aesthetic(weights, str(tmp_path / name)).open(Place())([Seen(noise(3))])
        with torch.inference_mode():
            wanted = head(own(network, weights, noise(3))).mean()
        assert row["aesthetic"] == pytest.approx(float(wanted), abs=1e-5)


def test_a_head_of_another_network_or_with_code_in_it_is_refused(tmp_path: Path) -> None:
    write_clip(tmp_path)
    torch.save(torch.nn.Linear(768, 1).state_dict(), tmp_path / "wide.pth")
    with pytest.raises(WeightsError, match=r"another shape.*weight \(given float 1x768, needs float 1x10\)"):
        Aesthetic(str(tmp_path), str(tmp_path / "wide.pth")).open(Place())
    torch.save({"weight": torch.zeros(1, 10), "bias": Path("x")}, tmp_path / "code.pth")
    with pytest.raises(WeightsError, match=r"could run code|no state dict"):
        Aesthetic(str(tmp_path), str(tmp_path / "code.pth")).open(Place())
    with pytest.raises(WeightsError, match="there are no weights at"):
        Aesthetic(str(tmp_path), str(tmp_path / "none.pth")).check()


# ---- what is missing -------------------------------------------------------------------------------------------------


def test_weights_that_are_not_there_are_told_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="there are no weights at"):
        Embedding(str(tmp_path / "none")).check()
    with pytest.raises(WeightsError, match=r"config\.json and safetensors is needed.*hub:OWNER/NAME"):
        Similarity(str(tmp_path)).check()
    write_clip(tmp_path)
    Embedding(str(tmp_path)).check()


def test_without_transformers_the_command_that_brings_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"pip install 'mutoscope\[hub\]'"):
        Embedding("somewhere").check()


def test_concepts_need_something_to_choose_from() -> None:
    with pytest.raises(RecipeError, match="two or more different classes"):
        Concepts("x", ("one", "one"))
    with pytest.raises(RecipeError, match="where the class is to stand"):
        Concepts("x", ("one", "two"), prompt="a photo")
