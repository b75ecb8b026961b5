"""THE clock, and what a process must offer. Every other module of the package keeps to this page.

- `t` is in [0, 1]. At t = 1 there is only noise, at t = 0 only data; sampling runs from 1 down to 0.
- In between lies a straight line: ``x_t = (1 - t) * latents + t * noise``, with `noise` drawn from N(0, 1) per element.
- A network predicts the velocity along it: ``velocity = dx_t/dt = noise - latents``.
- A **field** is that prediction with everything but ``(x, t)`` already bound: prompt, weights, guidance.
- A **given** frame is known before sampling (an image to animate, a clip to go on from). The network sees it clean,
  at any t, and learns nothing from it.

A family whose published code counts the other way, or in 0..1000, converts at its own edge and nowhere else.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor

Field = Callable[[Float[Tensor, "B *S"], Float[Tensor, " B"]], Float[Tensor, "B *S"]]
"""(x, t) -> velocity; one t per sample, 0 < t <= 1."""


class Pair(NamedTuple):
    """What one training step shows the network, and what it should have answered."""

    x_t: Float[Tensor, "B C T H W"]
    target: Float[Tensor, "B C T H W"]
    weight: Float[Tensor, "B 1 T 1 1"]
    """Of the squared error; zero on given frames."""


@runtime_checkable
class Process(Protocol):
    """A path from data to noise that a network can be trained on."""

    def times(self, u: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Turn uniform numbers into the times at which to train."""
        ...

    def pair(
        self,
        latents: Float[Tensor, "B C T H W"],
        noise: Float[Tensor, "B C T H W"],
        t: Float[Tensor, " B"],
        given: Bool[Tensor, "B T"] | None = None,
    ) -> Pair:
        """Put latents and noise together at time t."""
        ...
