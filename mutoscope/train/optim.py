"""AdamW and Adafactor, their settings, and the learning rate at each step."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

Schedule = Literal["constant", "cosine"]


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019). Decay applies to matrices, not to vectors.

    Args:
        beta1: how much of the mean gradient is kept each step, in [0, 1).
        beta2: the same for the mean square.
        eps: added to the root mean square.
        weight_decay: fraction of a matrix taken off each step, times the learning rate.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer over the module's parameters that are trained."""
        trained = [p for p in module.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        return torch.optim.AdamW(groups, lr=0.0, betas=(self.beta1, self.beta2), eps=self.eps, fused=True)


@dataclass(frozen=True)
class Adafactor:
    """Adafactor with a given learning rate, as STIV uses it (arXiv 2412.07730): beta 0.9 and 0.999, no weight decay.

    Args:
        beta1: how much of the mean update is kept each step, in [0, 1). 0 keeps no mean and saves its memory.
        beta2: how much of the mean square is kept each step.
        eps: added to squared gradients.
        update_clip: greatest root mean square of a tensor's update, before the learning rate.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-30
    update_clip: float = 1.0

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer over the module's parameters that are trained."""
        return FactoredAdam([p for p in module.parameters() if p.requires_grad], self)


class FactoredAdam(torch.optim.Optimizer):
    """Adam whose mean square is kept as row and column means only (Shazeer & Stern 2018, algorithm 4).

    The learning rate is given from outside, the decay of the mean square is constant and its start is corrected as in
    Adam (their section 7.1 shows the two are one), and updates of a large root mean square are clipped. Tensors of
    more than two axes are seen as matrices, first axis down. ``torch.optim.Adafactor`` has no mean of updates and a
    decay that grows, so it cannot run STIV's settings.
    """

    def __init__(self, params: Iterable[Tensor], config: Adafactor) -> None:
        super().__init__(params, {"lr": 0.0})
        self.config = config

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every parameter that has a gradient."""
        c = self.config
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state.update(_empty_state(parameter, has_mean=c.beta1 > 0))
                state["step"] += 1
                if "rows" in state:
                    grad = parameter.grad.flatten(1)
                    rows = state["rows"].lerp_(_mean_square(grad, 1) + c.eps, 1 - c.beta2)
                    columns = state["columns"].lerp_(_mean_square(grad, 0) + c.eps, 1 - c.beta2)
                    # The square is rows x columns / mean(rows): their root's inverse, an axis at a time.
                    update = grad * (rows / rows.mean()).rsqrt()[:, None]
                    update = update.mul_(columns.rsqrt()).view_as(parameter)
                else:
                    squares = state["squares"].lerp_(parameter.grad.square() + c.eps, 1 - c.beta2)
                    update = parameter.grad * squares.rsqrt()
                correction = (1 - c.beta2 ** state["step"].item()) ** 0.5
                size = update.norm() * (correction / (update.numel() ** 0.5 * c.update_clip))
                update *= correction / size.clamp(min=1.0)
                if c.beta1 > 0:
                    update = state["mean"].lerp_(update, 1 - c.beta1)
                parameter.sub_(update, alpha=group["lr"])


def _mean_square(matrix: Float[Tensor, "R C"], dim: int) -> Float[Tensor, " N"]:
    return torch.linalg.vector_norm(matrix, dim=dim).square_() / matrix.shape[dim]


def _empty_state(parameter: Tensor, *, has_mean: bool) -> dict[str, Any]:
    state: dict[str, Any] = {"step": torch.tensor(0.0)}
    if parameter.ndim >= 2:
        state["rows"] = parameter.new_zeros(parameter.shape[0])
        state["columns"] = parameter.new_zeros(parameter[0].numel())
    else:
        state["squares"] = torch.zeros_like(parameter)
    if has_mean:
        state["mean"] = torch.zeros_like(parameter)
    return state


def learning_rate(step: int, *, peak: float, warmup_steps: int, steps: int, schedule: Schedule) -> float:
    """Return the learning rate of one step.

    Args:
        step: the step about to be taken, from 1.
        peak: the rate when warm.
        warmup_steps: the rate rises in a straight line over these.
        steps: steps of the whole phase.
        schedule: after the warm-up: ``constant``, or ``cosine`` down to 0 just past the last step.
    """
    if step <= warmup_steps:
        return peak * step / warmup_steps
    if schedule == "constant":
        return peak
    progress = (step - 1 - warmup_steps) / max(1, steps - warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))
