import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mutoscope import models
from mutoscope.core.errors import RequestError
from mutoscope.models.family import families, find, load, resolve

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-family.md"
CONTRACT = Path(__file__).with_name("test_contract.py")


@pytest.fixture
def pinhole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Put the family that the page on adding a family shows where families lie."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    (tmp_path / "pinhole.py").write_text(blocks[0], encoding="utf-8")
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path)])
    monkeypatch.setattr(models, "pinhole", None, raising=False)  # to be taken away again
    yield "pinhole"
    sys.modules.pop("mutoscope.models.pinhole", None)


def test_every_module_is_a_family_of_that_name() -> None:
    assert "stiv" in families()
    assert [load(name).name for name in families()] == families()


@pytest.mark.parametrize("name", ["stiv/toy", "stiv-toy", "stiv_toy", "STIV/Toy", " stiv "])
def test_slash_hyphen_and_underscore_are_one_and_the_default_goes_without_saying(name: str) -> None:
    assert resolve(name) == ("stiv", "toy")
    assert find(name) == (load("stiv"), load("stiv").presets["toy"])


@pytest.mark.parametrize(
    ("wrong", "nearest"), [("stivv", "stiv/"), ("stiv/tony", "stiv/toy"), ("stiv-xxxl", "stiv/XXL"), ("", "stiv/")]
)
def test_an_unknown_model_is_answered_with_the_nearest_one(wrong: str, nearest: str) -> None:
    with pytest.raises(RequestError) as caught:
        find(wrong)
    message = str(caught.value)
    assert message.startswith(f"model {wrong!r} is not known. There are ")
    assert f"Did you mean {nearest}" in message
    assert "\n" not in message


def test_a_family_is_one_file(pinhole: str) -> None:
    assert pinhole in families()
    family, config = find("pinhole-tiny")
    assert (family.name, config.dim) == ("pinhole", 16)


def test_a_file_put_in_place_is_held_to_the_contract(pinhole: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert pytest.main([str(CONTRACT), "-q", "-k", pinhole, "-p", "no:cacheprovider"]) == pytest.ExitCode.OK
    assert re.search(r"\n\d+ passed, \d+ deselected", capfd.readouterr().out)


def test_a_variant_with_a_file_of_its_own_goes_before_its_parent(
    pinhole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (tmp_path / "pinhole.py").read_text(encoding="utf-8").replace('name="pinhole"', 'name="pinhole_small"')
    (tmp_path / "pinhole_small.py").write_text(source, encoding="utf-8")
    monkeypatch.setattr(models, "pinhole_small", None, raising=False)
    assert resolve("pinhole-small-tiny") == ("pinhole_small", "tiny")
    assert resolve("pinhole-small") == ("pinhole_small", "small")
    assert resolve("pinhole/tiny") == ("pinhole", "tiny")
    sys.modules.pop("mutoscope.models.pinhole_small")
