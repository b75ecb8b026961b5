"""Overlapping windows, averaged inside every step: how a network that was made for short clips makes a long one.

    7 frames in a circle, windows of 3     step 0   [0 1 2] [3 4 5] [6 0 1]
                                           step 1   [6 0 1] [2 3 4] [5 6 0]      moved by one
                                           step 2   [5 6 0] [1 2 3] [4 5 6]

The network answers each window by itself, and a frame in several of them goes where their answers point on average.
Because the windows begin elsewhere at every step, no frame is always at an edge, and what one window says is soon heard
in the others. That the last frame is followed by the first costs nothing, and spares a rule for the ends.

Source:
    The mean of overlapping answers is that of MultiDiffusion (Bar-Tal et al. 2023); that windows move, and go around,
    is as in the released code of HunyuanVideo-Avatar.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mutoscope.core.errors import RequestError

Answer = Callable[[Float[Tensor, "B C window H W"], Int[Tensor, " window"]], Float[Tensor, "B C window H W"]]
"""(some frames of a clip, which they are) -> their velocity."""


def windows(frames: int, window: int, shift: int = 0) -> Int[Tensor, "n window"]:
    """Say which frames are in each window.

    Args:
        frames: of the clip, at least as many as a window has.
        window: frames of a window, at least 1.
        shift: frames by which to begin earlier than at frame 0.

    Returns:
        Frames of each of the ceil(frames / window) windows, in order, which together are all; the clip itself, whatever
        the shift, if it is one window long.

    Raises:
        RequestError: the clip is shorter than a window.
    """
    if not 1 <= window <= frames:
        raise RequestError(f"{frames} frames hold no window of {window}. Give at least as many frames as a window has.")
    if window == frames:
        return torch.arange(frames)[None]
    starts = torch.arange(0, frames, window) - shift
    return (starts[:, None] + torch.arange(window)) % frames


def average(
    answer: Answer, x: Float[Tensor, "B C T H W"], places: Int[Tensor, "n window"]
) -> Float[Tensor, "B C T H W"]:
    """Ask for the velocity of each window, and return for each frame the mean over the windows that it is in.

    Args:
        answer: called once for each window, in order.
        x: the state of the whole clip.
        places: from `windows`; every frame in at least one, and in none twice.
    """
    total, visits = torch.zeros_like(x), x.new_zeros(x.shape[2], 1, 1)
    for frames in places.to(x.device):
        velocity = answer(x.index_select(2, frames), frames)
        total = total.index_add(2, frames, velocity)
        visits = visits.index_add(0, frames, visits.new_ones(len(frames), 1, 1))
    return total / visits
