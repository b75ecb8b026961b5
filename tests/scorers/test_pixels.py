"""Frames are prepared as the processors of transformers prepare them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mutoscope.core.errors import WeightsError
from mutoscope.scorers.pixels import Layout

pytest.importorskip("transformers", reason="needs the extra hub")
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from tests.scorers.towers import CLIP_PIXELS, SQUARE_PIXELS, noise


def layout(folder: Path, **told: Any) -> Layout:
    (folder / "preprocessor_config.json").write_text(json.dumps(told))
    return Layout.of(folder)


@pytest.mark.parametrize("kind", [CLIPImageProcessorPil, SiglipImageProcessorPil, ViTImageProcessorPil])
@pytest.mark.parametrize("size", [(61, 90), (91, 60), (300, 301), (224, 224)])
def test_pixels_equal_those_of_the_published_processor(kind: Any, size: tuple[int, int], tmp_path: Path) -> None:
    processor = kind()
    processor.save_pretrained(tmp_path)
    frames = noise(2, 0, *size)
    wanted = processor(list(frames), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(Layout.of(tmp_path)(frames), wanted, rtol=0, atol=1e-6)


def test_an_old_file_says_the_shorter_edge_in_one_number_and_a_processor_may_hold_the_file(tmp_path: Path) -> None:
    old = layout(tmp_path, **CLIP_PIXELS)
    assert (old.size, old.crop) == ((28,), (28, 28))
    (tmp_path / "preprocessor_config.json").unlink()
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": SQUARE_PIXELS}))
    assert (Layout.of(tmp_path).size, Layout.of(tmp_path).crop) == ((28, 28), None)
    square = Layout.of(tmp_path).picture(np.full((9, 5, 3), 255, np.uint8))
    assert square.shape == (3, 28, 28) and np.allclose(square, 1)


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"do_resize": False}, "does not resize"),
        ({"size": {"longest_edge": 28}}, "asks for pictures of size"),
        ({"image_mean": None}, "no mean and deviation"),
    ],
)
def test_what_is_not_known_is_refused(changed: dict[str, Any], problem: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=problem):
        layout(tmp_path, **SQUARE_PIXELS | changed)


def test_a_folder_that_does_not_say_how_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"preprocessor_config\.json is missing"):
        Layout.of(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("[]")
    with pytest.raises(WeightsError, match="holds no settings"):
        Layout.of(tmp_path)
