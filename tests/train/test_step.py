"""One step: accumulation, clipping and averaging against their definitions."""

import copy
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mutoscope.train.optim import AdamW
from mutoscope.train.state import TrainState
from mutoscope.train.step import NonFiniteLoss, Objective, to_device, train_step


class Squares(Objective):
    """The loss of a sample is the square of a linear map of it."""

    sample_count = None

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.module = nn.Linear(3, 2).double()

    def batch(self, sample_ids: Sequence[int], step: int) -> Tensor:
        raise AssertionError("the tests give their batches themselves")

    def export(self, ema: nn.Module, path: Path) -> None:
        pass

    def preview(self, ema: nn.Module, step: int) -> None:
        pass

    def loss(self, module: nn.Module, batch: Tensor) -> tuple[Tensor, dict[str, float]]:
        out = module(batch)
        return out.square().sum(1), {"size": float(out.detach().abs().mean())}


def step(objective: Squares, batches: list[Tensor], optimizer: torch.optim.Optimizer, **changes: float) -> TrainState:
    state = TrainState.begin(objective.module, optimizer)
    settings = {"lr": 0.1, "clip": 0.0, "ema_decay": 0.5} | changes
    train_step(objective, state, batches, sum(map(len, batches)), **settings)  # pyright: ignore[reportArgumentType]
    return state


def sgd(objective: Squares) -> torch.optim.Optimizer:
    return torch.optim.SGD(objective.module.parameters(), lr=1.0)


def test_accumulated_micro_batches_equal_one_large_batch() -> None:
    x = torch.randn(12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    whole, parts = Squares(), Squares()
    step(whole, [x], sgd(whole))
    step(parts, [x[:3], x[3:4], x[4:]], sgd(parts))  # of unequal size, too
    torch.testing.assert_close(parts.module.state_dict(), whole.module.state_dict(), rtol=1e-12, atol=1e-12)


def test_a_step_moves_no_further_than_the_clip_allows() -> None:
    objective = Squares()
    before = torch.cat([p.detach().flatten().clone() for p in objective.module.parameters()])
    step(objective, [100 * torch.ones(2, 3, dtype=torch.float64)], sgd(objective), clip=0.25)
    after = torch.cat([p.detach().flatten() for p in objective.module.parameters()])
    assert float((after - before).norm()) == pytest.approx(0.1 * 0.25, rel=1e-5)


def test_the_average_follows_its_closed_form() -> None:
    objective = Squares()
    state = TrainState.begin(objective.module, AdamW().build(objective.module))
    weights = [objective.module.weight.detach().clone()]  # pyright: ignore[reportCallIssue]
    for k in range(40):
        x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(k))
        train_step(objective, state, [x], 4, lr=0.01, clip=1.0, ema_decay=0.8)
        weights.append(objective.module.weight.detach().clone())  # pyright: ignore[reportCallIssue]
    decays = [1.0] + [min(0.8, (1 + k) / (10 + k)) for k in range(1, 41)]
    shares = [(1 - decays[k] if k else 1.0) * torch.tensor(decays[k + 1 :]).double().prod() for k in range(41)]
    assert float(sum(shares)) == pytest.approx(1.0)
    expected = sum(share * weight for share, weight in zip(shares, weights, strict=True))
    torch.testing.assert_close(state.ema.state_dict()["weight"], expected, rtol=1e-6, atol=1e-9)


def test_a_bad_loss_changes_nothing() -> None:
    objective = Squares()
    before = copy.deepcopy(objective.module.state_dict())
    with pytest.raises(NonFiniteLoss):
        step(objective, [torch.full((1, 3), torch.inf, dtype=torch.float64)], sgd(objective))
    torch.testing.assert_close(objective.module.state_dict(), before, rtol=0, atol=0)


def test_a_nested_batch_moves_as_a_whole() -> None:
    batch = {"a": (torch.ones(1), "text"), "b": [torch.ones(2), None]}
    moved = to_device(batch, torch.device("meta"))
    assert moved["a"][0].is_meta and moved["b"][0].is_meta and moved["a"][1] == "text" and moved["b"][1] is None
