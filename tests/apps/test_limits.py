from pathlib import Path

import numpy as np
import pytest

from mutoscope.apps.limits import looks_drawn, refuse_foreign
from mutoscope.core.errors import RequestError
from mutoscope.worlds.render import render
from mutoscope.worlds.scene import sample


@pytest.mark.parametrize(
    ("prompt", "unknown"),
    [("an astronaut riding a horse", ["astronaut", "riding", "horse"]), ("sunset over the sea", ["sunset", "sea"])],
)
def test_a_prompt_without_a_known_word_is_declined_with_what_would_work(prompt: str, unknown: list[str]) -> None:
    with pytest.raises(RequestError, match=r"no word of it.*mutoscope info stiv/toy.*mutoscope models"):
        refuse_foreign("stiv/toy", prompt, unknown, [])


@pytest.mark.parametrize(
    ("prompt", "unknown"), [("a purple elephant drifts left", ["elephant"]), ("", []), ("一个红色的圆", [])]
)
def test_a_prompt_with_a_known_word_is_tried(prompt: str, unknown: list[str]) -> None:
    refuse_foreign("stiv/toy", prompt, unknown, [])


def test_a_picture_of_anything_else_is_declined() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    with pytest.raises(RequestError, match=r"photo\.png does not look like it"):
        refuse_foreign("stiv/toy", "a red star", [], [(Path("photo.png"), photo)])


@pytest.mark.parametrize("seed", range(8))
def test_every_first_frame_of_the_world_looks_drawn(seed: int) -> None:
    assert looks_drawn(render(sample(seed))[0])
