"""Windows: every frame is in one, none is always at an edge, and averaging changes nothing where windows agree."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mutoscope.core.errors import RequestError
from mutoscope.diffusion.samplers import euler
from mutoscope.diffusion.schedule import grid
from mutoscope.diffusion.windows import average, windows

sizes = st.integers(1, 40).flatmap(lambda frames: st.tuples(st.just(frames), st.integers(1, frames)))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(sizes, st.integers(-100, 100))
def test_every_frame_is_in_a_window_and_in_none_twice(size: tuple[int, int], shift: int) -> None:
    frames, window = size
    places = windows(frames, window, shift)
    assert places.shape == (-(-frames // window), window)
    assert set(places.flatten().tolist()) == set(range(frames))
    assert all(len(set(row)) == window for row in places.tolist())


@given(sizes, st.integers(0, 100))
def test_a_window_is_neighbours_on_a_circle_and_a_shift_turns_it(size: tuple[int, int], shift: int) -> None:
    frames, window = size
    places = windows(frames, window, shift)
    assert torch.equal((places.diff(dim=1) - 1) % frames, torch.zeros_like(places[:, 1:]))
    if window < frames:
        assert torch.equal(places, (windows(frames, window) - shift) % frames)
        assert torch.equal(places, windows(frames, window, shift + frames))


@pytest.mark.parametrize("shift", [0, 1, 10])
def test_a_window_as_long_as_the_clip_is_the_clip_whatever_the_shift(shift: int) -> None:
    x = draw(2, 3, 5, 2, 2)
    assert windows(5, 5, shift).tolist() == [[0, 1, 2, 3, 4]]
    answer = average(lambda part, frames: torch.sin(part) * frames[:, None, None], x, windows(5, 5, shift))
    assert torch.equal(answer, torch.sin(x) * torch.arange(5)[:, None, None])


def test_windows_are_those_that_can_be_counted_by_hand() -> None:
    assert windows(7, 3).tolist() == [[0, 1, 2], [3, 4, 5], [6, 0, 1]]
    assert windows(7, 3, 1).tolist() == [[6, 0, 1], [2, 3, 4], [5, 6, 0]]


@given(sizes, st.integers(0, 50))
def test_windows_that_agree_give_what_they_agree_on(size: tuple[int, int], shift: int) -> None:
    frames, window = size
    x, truth = draw(1, 2, frames, 1, 1), draw(1, 2, frames, 1, 1, seed=1)
    answer = average(lambda part, which: truth[:, :, which] - part, x, windows(frames, window, shift))
    torch.testing.assert_close(answer, truth - x)


def test_where_windows_disagree_a_frame_gets_their_mean() -> None:
    x, calls = torch.zeros(1, 1, 7, 1, 1), iter([3.0, 5.0, 9.0])
    answer = average(lambda part, _: torch.full_like(part, next(calls)), x, windows(7, 3))
    assert answer.flatten().tolist() == [6.0, 6.0, 3.0, 5.0, 5.0, 5.0, 9.0]


def test_moving_windows_make_one_clip_of_frames_that_pull_towards_their_neighbours() -> None:
    """Each window pulls its frames towards its own mean; only windows that move bring all frames of a clip together."""

    def spread(step: int) -> float:
        times = grid(24).double()

        def field(x: Tensor, t: Tensor) -> Tensor:
            index = int((times - t[0]).abs().argmin())
            places = windows(12, 4, step * index)
            return average(lambda part, _: 24 * (part - part.mean(dim=2, keepdim=True)), x, places)

        return float(euler(field, draw(1, 1, 12, 1, 1), times).std())

    assert spread(0) > 0.1
    assert spread(1) < 1e-3 * spread(0)


def test_gradients_go_through_every_window() -> None:
    x = draw(1, 1, 7, 1, 1).requires_grad_()
    average(lambda part, _: part**2, x, windows(7, 3, 2)).sum().backward()
    torch.testing.assert_close(x.grad, 2 * x.detach())


@pytest.mark.parametrize(("frames", "window"), [(3, 4), (3, 0), (0, 1)])
def test_a_clip_shorter_than_a_window_is_refused_in_one_line(frames: int, window: int) -> None:
    with pytest.raises(RequestError, match=f"{frames} frames hold no window of {window}"):
        windows(frames, window)
