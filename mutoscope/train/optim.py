"""AdamW, Adafactor and Muon, their settings, and the learning rate at each step."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mutoscope.core.device import multiplies_bfloat16
from mutoscope.core.errors import RecipeError

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


@dataclass(frozen=True)
class Muon:
    """Muon for the matrices of the blocks, those of convolutions among them, AdamW for all else.

    A matrix moves by its momentum made orthogonal: all directions alike, where Adam's update is mostly a few strong
    ones. It is scaled so that its root mean square is about that of an AdamW update, so learning rates are alike, too.

    Args:
        blocks: part of the names of the layers that are meant. First and last layers stay out.
        momentum: how much of the mean gradient is kept each step, in [0, 1).
        weight_decay: fraction of a matrix taken off each step, times the learning rate.
        rest: for all other parameters.
        rest_lr: their learning rate, as a share of that of the matrices.

    Source:
        Jordan et al. 2024, "Muon" (Newton-Schulz iteration, Nesterov momentum); Liu et al. 2025, "Muon is scalable for
        LLM training", arXiv 2502.16982, eq. 4 (scale).
    """

    blocks: str = "blocks."
    momentum: float = 0.95
    weight_decay: float = 0.01
    rest: AdamW = AdamW(weight_decay=0.0)
    rest_lr: float = 0.5

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer over the module's parameters that are trained.

        Raises:
            RecipeError: if no layer has such a name.
        """
        matrices = [
            cast(nn.Parameter, layer.weight)
            for name, layer in module.named_modules()
            if isinstance(layer, nn.Linear | nn.Conv2d) and self.blocks in name and layer.weight.requires_grad
        ]
        if not matrices:
            raise RecipeError(
                f"Muon found no layer with {self.blocks!r} in its name in {type(module).__name__}. "
                "Set blocks to a part of the names of its blocks, or use AdamW."
            )
        taken = {id(matrix) for matrix in matrices}
        rest = [p for p in module.parameters() if p.requires_grad and id(p) not in taken]
        return OrthogonalMomentum(matrices, rest, self)


class OrthogonalMomentum(torch.optim.Optimizer):
    """The optimizer that `Muon` describes. A fused layer, such as q, k and v in one, moves as the squares it is of."""

    def __init__(self, matrices: list[nn.Parameter], rest: list[nn.Parameter], config: Muon) -> None:
        super().__init__([{"params": matrices}, {"params": rest}], {"lr": 0.0})
        self.config = config

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every parameter that has a gradient."""
        matrices, rest = self.param_groups
        self._step_matrices([p for p in matrices["params"] if p.grad is not None], matrices["lr"])
        for parameter in rest["params"]:
            if parameter.grad is not None:
                self._step_rest(parameter, rest["lr"] * self.config.rest_lr)

    def _step_matrices(self, matrices: list[nn.Parameter], lr: float) -> None:
        c = self.config
        alike: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
        for matrix in matrices:
            state, grad = self.state[matrix], cast(Tensor, matrix.grad)
            if not state:
                state["mean"] = torch.zeros_like(matrix)
            mean = state["mean"].lerp_(grad, 1 - c.momentum)
            ahead = torch.lerp(grad, mean, c.momentum)  # Nesterov: where the mean will be
            squares = squares_of(ahead.flatten(1))
            alike.setdefault(tuple(squares.shape[1:]), []).append((matrix, squares))
        for shape, pairs in alike.items():  # many small products at once: each alone would leave the machine idle
            moves = orthogonalise(torch.cat([squares for _, squares in pairs]))
            scale = 0.2 * max(shape) ** 0.5
            for (matrix, _), move in zip(pairs, moves.split([len(squares) for _, squares in pairs]), strict=True):
                matrix.mul_(1 - lr * c.weight_decay).sub_(move.reshape(matrix.shape), alpha=lr * scale)

    def _step_rest(self, parameter: nn.Parameter, lr: float) -> None:
        c, state, grad = self.config.rest, self.state[parameter], cast(Tensor, parameter.grad)
        if not state:
            zeros = torch.zeros_like(parameter)
            state.update({"step": torch.tensor(0.0), "mean": zeros, "squares": zeros.clone()})
        state["step"] += 1
        step = state["step"].item()
        mean = state["mean"].lerp_(grad, 1 - c.beta1)
        squares = state["squares"].lerp_(grad.square(), 1 - c.beta2)
        root = (squares / (1 - c.beta2**step)).sqrt_().add_(c.eps)
        if parameter.ndim >= 2:
            parameter.mul_(1 - lr * c.weight_decay)
        parameter.addcdiv_(mean, root, value=-lr / (1 - c.beta1**step))


def squares_of(matrix: Float[Tensor, "R C"]) -> Float[Tensor, "n r C"]:
    """Cut a fused layer of two or three squares, one above the other, into these; leave any other whole."""
    rows, columns = matrix.shape
    count = rows // columns if rows in (2 * columns, 3 * columns) else 1
    return matrix.view(count, rows // count, columns)


def orthogonalise(matrices: Float[Tensor, "n R C"], steps: int = 5) -> Float[Tensor, "n R C"]:
    """Bring all singular values of each matrix near 1 (about 0.7 to 1.2), by a polynomial in itself.

    Args:
        matrices: of any size; zero stays zero.
        steps: iterations.

    Source:
        Jordan et al. 2024, "Muon", whose three coefficients rise fastest from near 0 and do not settle at 1.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    x = x.bfloat16() if multiplies_bfloat16(x.device) else x.float()
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return (x if wide else x.mT).to(matrices.dtype)


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
