from dataclasses import replace
from pathlib import Path

import pytest

from mutoscope.apps import about
from mutoscope.autoencoders.toy import ToyAutoencoder, ToyConfig
from mutoscope.core.errors import RequestError
from mutoscope.models import stiv
from mutoscope.pipeline import Request
from tests.published_toy import publish


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family = publish(tmp_path / "film", monkeypatch)
    config = ToyConfig(stiv.PRESETS["tiny"].latent_channels)

    class FourChannels(ToyAutoencoder):
        def __init__(self) -> None:
            super().__init__(config)

    monkeypatch.setattr(stiv, "FAMILY", replace(family, autoencoder=FourChannels))


def test_info_of_a_published_model_says_where_and_on_what_terms(
    published: None, capsys: pytest.CaptureFixture[str]
) -> None:
    about.print_info("stiv/tiny")
    shown = capsys.readouterr().out
    for words in ("hub:maker/film", "Toy Licence, https://example.org/licence", "32x32x4, 8 frames a second", "0.1M"):
        assert words in shown
    assert "8 of video" in shown  # 4 frames of 4x4 latents, by patches of 2x2x2


def test_info_of_the_bundled_model_says_where_it_lies(capsys: pytest.CaptureFixture[str]) -> None:
    about.print_info("stiv")
    assert "bundled with this package" in capsys.readouterr().out


def test_info_of_a_model_without_weights_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    about.print_info("stiv/XL")
    shown = capsys.readouterr().out
    assert "769.0M" in shown
    assert "none published: train it with mutoscope train" in shown


def test_models_say_where_their_weights_are(published: None, capsys: pytest.CaptureFixture[str]) -> None:
    about.print_models()
    lines = {line.split("│")[1].strip(): line for line in capsys.readouterr().out.splitlines() if "stiv/" in line}
    assert "bundled" in lines["stiv/toy"]
    assert "published" in lines["stiv/tiny"]
    assert "train it" in lines["stiv/XL"]


def test_plan_says_what_a_device_must_have(capsys: pytest.CaptureFixture[str]) -> None:
    about.print_plan("stiv/toy", Request("", height=128, steps=8, restarts=2), "rtx4090", 2, has_image=False)
    shown = capsys.readouterr().out
    assert "stiv/toy at 128x64x16 on 2 x rtx4090, 24.0 GB" in shown
    assert "512 of video" in shown  # 16 x 8 latent pixels in four slots of four frames
    assert "in 16 steps" in shown  # four of the eight are walked again, twice
    assert "does not fit" not in shown


def test_plan_says_what_does_not_fit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    small = {"l40s": replace(about.HARDWARE["l40s"], memory_bytes=20_000_000)}
    monkeypatch.setattr(about, "HARDWARE", small)
    about.print_plan("stiv/toy", Request("", height=128), "l40s", 1, has_image=False)
    assert "fit l40s" in capsys.readouterr().out
    with pytest.raises(RequestError, match=r"hardware 'gpu' is not known\. There are l40s, and cpu for this machine"):
        about.print_plan("stiv/toy", Request(""), "gpu", 1, has_image=False)


def test_plan_of_a_model_without_a_size_asks_for_one() -> None:
    with pytest.raises(RequestError, match=r"no size of its own\. Say --height and --width"):
        about.print_plan("stiv/XL", Request("", num_frames=16), "h200", 1, has_image=False)
