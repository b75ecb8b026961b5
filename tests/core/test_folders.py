import sys
from pathlib import Path

import pytest

from mutoscope.core import folders
from mutoscope.core.errors import WeightsError
from tests.core.hub import stand_in

FILES = (
    "model_index.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "text_encoder/pytorch_model.bin",
    "text_encoder_2/pytorch_model.bin",
    "tokenizer/merges.txt",
    "transformer/model.safetensors",
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in FILES:
        path = tmp_path / "maker" / "film" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path


def test_only_the_folders_asked_for_are_brought_and_no_weights_twice(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads: list[str] = []
    monkeypatch.setitem(sys.modules, "huggingface_hub", stand_in(root, downloads.append))
    assert folders.bring("hub:maker/film", ("text_encoder*", "tokenizer*")) == root / "maker" / "film"
    assert sorted(downloads) == [FILES[1], FILES[2], FILES[4], FILES[5]]


def test_local_folder_is_brought_as_it_is(root: Path) -> None:
    assert folders.bring(root / "maker" / "film", ("tokenizer",)) == root / "maker" / "film"


def test_folder_that_is_not_there_is_named(root: Path) -> None:
    with pytest.raises(WeightsError, match=r"there is no vae in .*film\. Give the folder that holds it"):
        folders.bring(root / "maker" / "film", ("vae",))


def test_head_of_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes((20).to_bytes(8, "little") + b'{"a": [1, 2]}       ')
    with pytest.raises(WeightsError, match="is not a whole safetensors file"):
        folders.read_head(tmp_path / "w.safetensors")
