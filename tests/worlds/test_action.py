"""Laws of hard footage: a seed is all, shots tile the frames, and one in five is text without a cut."""

import numpy as np
import pytest

from mutoscope.core.errors import RequestError
from mutoscope.worlds import action


def test_a_seed_gives_the_same_frames_and_shots_tile_them() -> None:
    footage = action.sample(0, size=(36, 64))
    assert [shot.start for shot in footage.shots[1:]] == [shot.end for shot in footage.shots[:-1]]
    assert footage.shots[-1].end == footage.num_frames
    assert footage.cuts == tuple(shot.start for shot in footage.shots[1:])
    few = [frame for frame, _ in zip(footage.frames(), range(5), strict=False)]
    again = [frame for frame, _ in zip(action.sample(0, size=(36, 64)).frames(), range(5), strict=False)]
    assert np.array_equal(few, again)


def test_the_last_of_every_five_is_text_without_a_cut() -> None:
    footage = action.sample(action.TEXT_EVERY - 1, size=(36, 64))
    assert footage.cuts == ()
    assert len(list(footage.frames())) == footage.num_frames


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(RequestError, match="seed=-1"):
        action.sample(-1)
