"""Adafactor against closed forms and Adam; the learning rate at its corners."""

import copy

import pytest
import torch
from torch import nn

from mutoscope.core.errors import RecipeError
from mutoscope.train.optim import Adafactor, AdamW, Muon, learning_rate, orthogonalise, squares_of


class Holder(nn.Module):
    def __init__(self, *values: torch.Tensor) -> None:
        super().__init__()
        self.values = nn.ParameterList(values)


def stepped(holder: Holder, optimizer: torch.optim.Optimizer, lr: float, gradients: list[list[torch.Tensor]]) -> Holder:
    for group in optimizer.param_groups:
        group["lr"] = lr
    for grads in gradients:
        for value, grad in zip(holder.values, grads, strict=True):
            value.grad = grad.clone()
        optimizer.step()
    return holder


def test_adafactor_of_a_vector_without_mean_and_clip_is_adam_without_mean() -> None:
    torch.manual_seed(0)
    ours = Holder(torch.randn(7, dtype=torch.float64))
    theirs = copy.deepcopy(ours)
    gradients = [[torch.randn(7, dtype=torch.float64)] for _ in range(20)]
    stepped(ours, Adafactor(beta1=0.0, update_clip=1e9).build(ours), 0.1, gradients)
    adam = torch.optim.AdamW(theirs.parameters(), lr=0.1, betas=(0.0, 0.999), eps=0.0, weight_decay=0.0)
    stepped(theirs, adam, 0.1, gradients)
    torch.testing.assert_close(ours.values[0], theirs.values[0], rtol=1e-9, atol=1e-12)


def test_adafactor_of_a_matrix_is_adam_where_the_squares_have_rank_one() -> None:
    torch.manual_seed(1)
    ours = Holder(torch.randn(5, 3, dtype=torch.float64))
    theirs = copy.deepcopy(ours)
    scale = torch.rand(5, 1, dtype=torch.float64) * torch.rand(1, 3, dtype=torch.float64)
    gradients = [[scale * torch.randn((), dtype=torch.float64)] for _ in range(20)]
    stepped(ours, Adafactor(beta1=0.0, update_clip=1e9).build(ours), 0.1, gradients)
    adam = torch.optim.AdamW(theirs.parameters(), lr=0.1, betas=(0.0, 0.999), eps=0.0, weight_decay=0.0)
    stepped(theirs, adam, 0.1, gradients)
    torch.testing.assert_close(ours.values[0], theirs.values[0], rtol=1e-9, atol=1e-12)


def test_adafactor_first_step_follows_the_published_formula() -> None:
    grad = torch.tensor([[1.0, -2.0], [3.0, 0.5]], dtype=torch.float64)
    holder = Holder(torch.zeros(2, 2, dtype=torch.float64))
    stepped(holder, Adafactor(beta1=0.9, eps=0.0).build(holder), 0.1, [[grad]])
    squares = grad.square()
    estimate = squares.mean(1)[:, None] * squares.mean(0)[None] / squares.mean()
    update = grad / estimate.sqrt()
    update = update / max(1.0, float(update.square().mean().sqrt()))
    torch.testing.assert_close(holder.values[0].detach(), -0.1 * 0.1 * update)


def test_adafactor_update_has_bounded_root_mean_square() -> None:
    holder = Holder(torch.zeros(4, 6))
    optimizer = Adafactor(beta1=0.0, update_clip=0.5).build(holder)
    stepped(holder, optimizer, 1.0, [[1e-3 * torch.randn(4, 6)] for _ in range(50)])
    before = holder.values[0].detach().clone()
    stepped(holder, optimizer, 1.0, [[torch.full((4, 6), 1e6)]])
    assert float((holder.values[0].detach() - before).square().mean().sqrt()) <= 0.5 + 1e-5


def test_adafactor_keeps_rows_and_columns_instead_of_squares() -> None:
    holder = Holder(torch.zeros(8, 2, 3, 3))
    optimizer = Adafactor(beta1=0.0).build(holder)
    stepped(holder, optimizer, 0.1, [[torch.randn(8, 2, 3, 3)]])
    assert sum(value.numel() for value in optimizer.state[holder.values[0]].values()) == 1 + 8 + 18


def test_adamw_decays_matrices_and_leaves_vectors() -> None:
    holder = Holder(torch.ones(2, 2), torch.ones(2))
    stepped(holder, AdamW(weight_decay=0.5).build(holder), 0.1, [[torch.zeros(2, 2), torch.zeros(2)]])
    assert torch.allclose(holder.values[0], torch.tensor(0.95)) and torch.equal(holder.values[1], torch.ones(2))


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.blocks = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 18)])


def test_orthogonalised_matrices_have_singular_values_near_one_and_the_same_directions() -> None:
    torch.manual_seed(2)
    for shape in ((3, 8, 8), (2, 5, 12), (2, 12, 5)):
        matrices = torch.randn(shape)
        moves = orthogonalise(matrices)
        assert moves.shape == matrices.shape
        values = torch.linalg.svdvals(moves)
        assert values.min() > 0.3 and values.max() < 1.3
        u, _, v = torch.linalg.svd(matrices, full_matrices=False)
        rotated = u.mT @ moves @ v.mT  # diagonal where left and right directions are kept
        assert (rotated - torch.diag_embed(torch.diagonal(rotated, dim1=1, dim2=2))).abs().max() < 0.05
    assert not orthogonalise(torch.zeros(1, 3, 3)).any()


def test_fused_squares_are_cut_and_other_matrices_left_whole() -> None:
    assert [squares_of(torch.zeros(rows, 4)).shape[0] for rows in (4, 8, 12, 16, 6)] == [1, 2, 3, 1, 1]


def test_muon_moves_matrices_of_blocks_by_its_rate_in_every_direction() -> None:
    torch.manual_seed(3)
    module = Blocks()
    weight = module.get_parameter("blocks.0.weight")
    before = weight.detach().clone()
    optimizer = Muon(weight_decay=0.0).build(module)
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    weight.grad = torch.randn(6, 6) * 1e3  # its size does not matter
    optimizer.step()
    move = (weight.detach() - before) / (0.01 * 0.2 * 6**0.5)
    values = torch.linalg.svdvals(move)
    assert values.min() > 0.3 and values.max() < 1.3


def test_muon_moves_all_else_as_adamw_does() -> None:
    torch.manual_seed(4)
    ours, theirs = Blocks(), Blocks()
    theirs.load_state_dict(ours.state_dict())
    optimizers = [Muon(rest_lr=0.5).build(ours), AdamW(weight_decay=0.0).build(theirs)]
    for _ in range(5):
        grads = [torch.randn(6, 4), torch.randn(6), torch.randn(18)]
        for module, optimizer, lr in ((ours, optimizers[0], 0.02), (theirs, optimizers[1], 0.01)):
            parameters = [module.first.weight, module.first.bias, module.blocks[1].bias]
            for parameter, grad in zip(parameters, grads, strict=True):
                parameter.grad = grad.clone()
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
    for name in ("first.weight", "first.bias", "blocks.1.bias"):
        torch.testing.assert_close(ours.get_parameter(name), theirs.get_parameter(name))


def test_muon_without_blocks_is_refused() -> None:
    with pytest.raises(RecipeError, match="Muon found no layer with"):
        Muon(blocks="layers.").build(Blocks())


def test_learning_rate_rises_in_a_line_then_stays_or_falls_to_nothing() -> None:
    def rate(step: int, schedule: str) -> float:
        return learning_rate(step, peak=2.0, warmup_steps=10, steps=110, schedule=schedule)  # pyright: ignore[reportArgumentType]

    assert [rate(step, "constant") for step in (1, 5, 10, 11, 110)] == pytest.approx([0.2, 1.0, 2.0, 2.0, 2.0])
    assert [rate(step, "cosine") for step in (10, 11, 61, 111)] == pytest.approx([2.0, 2.0, 1.0, 0.0], abs=1e-12)
    assert learning_rate(1, peak=2.0, warmup_steps=0, steps=5, schedule="constant") == 2.0
