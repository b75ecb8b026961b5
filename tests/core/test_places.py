import sys
from pathlib import Path

import pytest

from mutoscope.core.errors import WeightsError
from mutoscope.core.folders import ENDINGS
from mutoscope.core.places import folder_around, folder_named, folder_with, part_in
from tests.core.hub import stand_in

FILES = (
    "README.md",
    "ckpts/film-720p/transformers/weights.pt",
    "ckpts/film-720p/vae/config.json",
    "ckpts/film-720p/vae/weights.pt",
    "ckpts/text_encoder/config.json",
    "ckpts/text_encoder/model.safetensors",
    "ckpts/text_encoders/clip_l.safetensors",
)
READERS = ("text_encoder*", "tokenizer*")


@pytest.fixture(params=["here", "on the hub"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write a release; return how a user names it, on this machine or on the hub."""
    for name in FILES:
        path = tmp_path / "maker" / "film" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    if request.param == "here":
        return str(tmp_path / "maker" / "film")
    monkeypatch.setitem(sys.modules, "huggingface_hub", stand_in(tmp_path))
    return "hub:maker/film"


LEVELS = ("", "/ckpts", "/ckpts/film-720p", "/ckpts/film-720p/transformers", "/ckpts/film-720p/transformers/weights.pt")


@pytest.mark.parametrize("level", LEVELS)
def test_parts_are_found_from_every_level(root: str, level: str) -> None:
    network = part_in(root + level, "transformer")
    assert network in (f"{root}/ckpts/film-720p", root + level)
    assert folder_around(network, ("vae",), ENDINGS) == f"{root}/ckpts/film-720p/vae"
    readers = folder_with(network, READERS)
    assert readers is not None and readers.source == f"{root}/ckpts"


@pytest.mark.parametrize("named", ["", "/ckpts", "/ckpts/text_encoder"])
def test_named_readers_are_found_in_around_and_above(root: str, named: str) -> None:
    assert folder_named(root + named, READERS, "--text-encoders") == f"{root}/ckpts"


def test_what_is_not_there_is_none_or_one_line(root: str) -> None:
    assert folder_with(f"{root}/ckpts/film-720p", ("whisper-tiny",)) is None
    with pytest.raises(WeightsError, match=r"--text-encoders: there is no text_encoder with a config\.json in .*vae"):
        folder_named(f"{root}/ckpts/film-720p/vae", READERS, "--text-encoders")
    with pytest.raises(WeightsError, match=r"is a file\. Single files, as ComfyUI has them, hold no tokenizer"):
        folder_named(f"{root}/ckpts/text_encoders/clip_l.safetensors", READERS, "--text-encoders")


def test_two_releases_in_one_folder_are_not_guessed_between(tmp_path: Path) -> None:
    for name in ("t2v", "i2v"):
        (tmp_path / name / "transformers").mkdir(parents=True)
        (tmp_path / name / "transformers" / "weights.pt").write_text("")
    with pytest.raises(WeightsError, match=r"more than one transformer, in .*i2v, .*t2v\. Name one of them"):
        part_in(str(tmp_path), "transformer")
