"""Guidance: what the network is shown at each call, and how its answers become one velocity. Field in, field out.

Write F(text, image) for the velocity, with ∅ for a condition left out. All published forms are one sum,

    F(∅, ∅) + image_scale * (F(∅, image) - F(∅, ∅)) + text_scale * (F(text, image) - F(∅, image)),

in which a branch of weight zero is not evaluated:

    name                        as                                                calls
    conditional                 Guidance()                                        1
    CFG (no image)              Guidance(s)                                       2
    JIT-CFG (STIV, joint)       Guidance(s): image_scale is text_scale            2
    CFG on text only            Guidance(s, image_scale=1): image in each branch  2
    SIT-CFG (STIV, separate)    Guidance(s2, image_scale=s1)                      3

CFG-renorm gives the sum back the length of the conditional velocity.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from einops import repeat
from jaxtyping import Bool, Float
from torch import Tensor

from mutoscope.core.errors import RequestError
from mutoscope.diffusion.flow import replace_given, to_velocity
from mutoscope.diffusion.process import Field

Axes = Literal["sample", "frame", "token"]
_REDUCED = {"sample": (1, 2, 3, 4), "frame": (1, 3, 4), "token": (1,)}  # of B C T H W


class Branch(NamedTuple):
    """Which conditions one call of the network sees."""

    text: bool
    image: bool


BOTH = Branch(text=True, image=True)
IMAGE = Branch(text=False, image=True)
NULL = Branch(text=False, image=False)


@dataclass(frozen=True)
class Guidance:
    """How strongly to follow the prompt and the given frames.

    Args:
        text_scale: at least 0; 1 follows the prompt as trained, more exaggerates it.
        image_scale: the same for given frames; None means joint, one scale for both.
        renormalised_by: give the guided velocity the length of the conditional one, per sample, frame or token.
            Our reading: STIV does not state the axis; "sample" is the plain norm of its formula.

    Source:
        Ho & Salimans 2022, eq. 6 with scale = 1 + w (CFG); STIV (arXiv 2412.07730), JIT-CFG, SIT-CFG and CFG-renorm.
    """

    text_scale: float = 1.0
    image_scale: float | None = None
    renormalised_by: Axes | None = None

    def __post_init__(self) -> None:
        for scale in (self.text_scale, self.image_scale):
            if scale is not None and not 0 <= scale < math.inf:
                raise RequestError(f"guidance={scale} is no scale. Give a number of at least 0; 1 means no guidance.")

    def weights(self, has_image: bool) -> dict[Branch, float]:
        """Return the branches to evaluate, in the order in which to stack them, and the weight of each in the sum.

        Args:
            has_image: whether any frame is given; if not, `image_scale` says nothing and this is plain CFG.
        """
        image_scale = self.image_scale if has_image and self.image_scale is not None else self.text_scale
        weights = {BOTH: self.text_scale, IMAGE: image_scale - self.text_scale, NULL: 1 - image_scale}
        return {branch: weight for branch, weight in weights.items() if branch == BOTH or weight != 0}


class Given(NamedTuple):
    """Frames that are known before sampling."""

    clean: Float[Tensor, "B C T H W"]
    """Their latents; the other frames are never looked at."""
    frames: Bool[Tensor, "B T"]
    """True where a frame is known."""


def guide(stacked: Field, guidance: Guidance, given: Given | None = None) -> Field:
    """Return the guided field, which calls the network once for all branches.

    Given frames travel too: in the state they go in a straight line from their noise to their clean latents, where the
    sampler leaves them. A branch with image sees them clean, as in training. Our reading of STIV's c_I = ∅, "first
    frame noisy": the branch without image sees the state as it is, so a given frame lies on its own noising path,
    (1 - t) * clean + t * noise, which is how a clip that holds it would look to an unconditional network at t.
    What the network answers on given frames is not used, not even in a norm: with image it was never trained.

    Args:
        stacked: field of a batch n times as large, n = len(guidance.weights(given is not None)): first all samples with
            the conditions of the first branch, then all with those of the second, and so on.
        guidance: scales and renormalisation.
        given: the known frames of each sample; None if no sample has one.

    Returns:
        Field of the B samples, for 0 < t <= 1. Its velocity has the dtype of `x`.
    """
    weights = guidance.weights(has_image=given is not None)

    def guided(x: Float[Tensor, "B C T H W"], t: Float[Tensor, " B"]) -> Float[Tensor, "B C T H W"]:
        shown = x if given is None else replace_given(x, given.clean, given.frames)
        views = torch.cat([shown if branch.image else x for branch in weights])
        answers = stacked(views, repeat(t, "B -> (n B)", n=len(weights))).to(x.dtype)
        velocities = list(answers.chunk(len(weights)))
        if given is not None:
            nothing = torch.zeros_like(x)
            velocities = [replace_given(velocity, nothing, given.frames) for velocity in velocities]
        velocity = torch.stack([weights[b] * v for b, v in zip(weights, velocities, strict=True)]).sum(0)
        if guidance.renormalised_by is not None:
            velocity = renormalise(velocity, velocities[0], guidance.renormalised_by)
        if given is not None:
            velocity = replace_given(velocity, to_velocity(x, given.clean, t), given.frames)
        return velocity

    return guided


def renormalise(
    guided: Float[Tensor, "B C T H W"], conditional: Float[Tensor, "B C T H W"], axes: Axes = "sample"
) -> Float[Tensor, "B C T H W"]:
    """Keep the direction of the guided velocity and give it the length of the conditional one (CFG-renorm).

    Args:
        guided: velocity after guidance.
        conditional: velocity that saw every condition.
        axes: what one length is taken over: a "sample", a "frame" of it, or a "token" (one latent position).

    Returns:
        `guided`, scaled; zero where it was zero.
    """
    length = torch.linalg.vector_norm(guided, dim=_REDUCED[axes], keepdim=True)
    wanted = torch.linalg.vector_norm(conditional, dim=_REDUCED[axes], keepdim=True)
    return guided / length.clamp_min(torch.finfo(length.dtype).tiny) * wanted
