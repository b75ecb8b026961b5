"""One optimizer step, and what an objective must offer for it.

An objective says what is trained, on what, and by which loss; the loop knows none of it. Three exist: ``diffusion``
(a video model), ``autoencoder`` and ``words`` (the text encoder).

Everything random in a batch comes from (seed, sample id, step), so a batch can be made again at any time, on any
thread, and nothing of a random state has to be saved.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mutoscope.core import weights
from mutoscope.core.device import multiplies_bfloat16
from mutoscope.core.errors import MutoscopeError
from mutoscope.core.video import Video
from mutoscope.data import loader
from mutoscope.train.state import TrainState

Batch = Any  # tensors in dataclasses, tuples or dicts, as the objective likes; only the objective looks inside


@runtime_checkable
class Objective(Protocol):
    """What a phase optimises; subclass it explicitly.

    A recipe names its config, a frozen dataclass whose ``build(seed)`` makes the objective and finds every error in the
    config before any training. The module's initial weights come from torch's global generator, which the loop seeds.

    Attributes:
        module: what is trained. Its parameters that require gradients go to the optimizer.
        sample_count: samples in the data set, or None when every sample is new (procedural data).
        plan: tells apart the data and their order, where the number of samples does not. A run goes on with its own.
    """

    module: nn.Module
    sample_count: int | None
    plan: str | None = None

    def sample_ids(self, seed: int, step: int, batch_size: int | None, micro_batches: int) -> list[list[int]]:
        """Return the samples of a step, by micro-batch: a pure function of its arguments.

        Args:
            seed: of the run.
            step: from 1.
            batch_size: samples of a step; None where the objective itself says how many.
            micro_batches: equal parts to cut them into.
        """
        if batch_size is None:
            raise ValueError(f"{type(self).__name__} does not make batches of its own")
        ids = loader.sample_ids(seed, step, batch_size, self.sample_count)
        each = batch_size // micro_batches
        return [ids[at : at + each] for at in range(0, batch_size, each)]

    def batch(self, sample_ids: Sequence[int], step: int) -> Batch:
        """Make the batch of these samples: a pure function of (seed, sample ids, step), called from another thread."""
        ...

    def loss(self, module: nn.Module, batch: Batch) -> tuple[Float[Tensor, " B"], Mapping[str, float]]:
        """Return the loss of each sample and any further numbers for the log (their means are logged)."""
        ...

    def export(self, ema: nn.Module, path: Path) -> None:
        """Write the weights that one would publish, with their config, as one safetensors file."""
        ...

    def preview(self, ema: nn.Module, step: int) -> Video | None:
        """Show what the averaged weights do on fixed inputs, or None when there is nothing to see."""
        ...

    def start(self, tensors: Mapping[str, Tensor], *, source: str) -> None:
        """Begin from the weights of an earlier phase or a file. As they are, unless the objective says otherwise."""
        weights.load_into(self.module, tensors, source=source)

    def compile(self) -> None:
        """Compile what the loss runs, in place."""
        self.module.compile()


class NonFiniteLoss(MutoscopeError):
    """The loss or its gradient is not a number; the weights are those of the step before."""


def train_step(
    objective: Objective,
    state: TrainState,
    batches: Sequence[Batch],
    global_samples: int,
    *,
    lr: float,
    clip: float,
    ema_decay: float,
    precision: str = "fp32",
) -> dict[str, float]:
    """Take one optimizer step over ``batches``, the micro-batches of one global batch.

    Args:
        objective: gives the loss of each sample.
        state: module, its average, optimizer and step; all four move on.
        batches: micro-batches; their gradients add up to that of one large batch.
        global_samples: samples in all of them.
        lr: learning rate of this step.
        clip: greatest norm of the gradient; larger ones are scaled down to it. 0 leaves them alone.
        ema_decay: greatest decay of the average of the weights, see ``TrainState.average``.
        precision: ``fp32``, or ``bf16`` for matrix products in bfloat16 with weights kept in float32. A CPU that is
            slow at these multiplies in float32 all the same.

    Returns:
        loss, grad_norm (before clipping) and the objective's own numbers, each a mean over samples.

    Raises:
        NonFiniteLoss: before the weights are touched.
    """
    device = next(state.module.parameters()).device
    state.optimizer.zero_grad(set_to_none=True)
    metrics: dict[str, float] = {"loss": 0.0}
    is_mixed = precision == "bf16" and multiplies_bfloat16(device)
    for batch in batches:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=is_mixed):
            losses, extra = objective.loss(state.module, to_device(batch, device))
        loss = losses.float().sum() / global_samples
        loss.backward()
        metrics["loss"] += loss.item()
        for name, value in extra.items():
            metrics[name] = metrics.get(name, 0.0) + float(value) * len(losses) / global_samples
    parameters = [p for p in state.module.parameters() if p.grad is not None]
    norm = nn.utils.clip_grad_norm_(parameters, clip if clip > 0 else math.inf)
    metrics["grad_norm"] = norm.item()
    if not (math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"])):
        raise NonFiniteLoss(
            f"Step {state.step + 1}: loss {metrics['loss']}, gradient norm {metrics['grad_norm']}. The weights are "
            f"still those of step {state.step}. Lower lr or clip, or set precision to fp32, and train again."
        )
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    state.optimizer.step()
    state.step += 1
    state.average(ema_decay)
    return metrics


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move every tensor in a batch, however it is nested; all else stays as it is."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if is_dataclass(batch) and not isinstance(batch, type):
        return replace(batch, **{f.name: to_device(getattr(batch, f.name), device) for f in fields(batch) if f.init})
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(value, device) for value in batch))
    if isinstance(batch, tuple | list):
        return type(batch)(to_device(value, device) for value in batch)
    return batch
