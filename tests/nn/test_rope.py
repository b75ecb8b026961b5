import pytest
import torch
from torch import Tensor

from mutoscope.nn.rope import axes_rope, falling_speeds, grid_rope, rotate, rotate_pairs


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_products_depend_on_the_distance_alone() -> None:
    q, k = draw(16).expand(6, 5, 16), draw(2, 16)[1].expand(6, 5, 16)
    rope = grid_rope([6, 5], 16)
    turned_q, turned_k = (rotate(x.reshape(30, 16), rope).reshape(6, 5, 16) for x in (q, k))
    for down, across in [(0, 0), (1, 0), (0, 2), (3, 1)]:
        products = (turned_q[down:, across:] * turned_k[: 6 - down, : 5 - across]).sum(-1)
        torch.testing.assert_close(products, products[0, 0].expand_as(products))


def test_each_axis_turns_channels_of_its_own() -> None:
    cos, sin = grid_rope([3, 4], 16).reshape(2, 3, 4, 2, 2, 4)[..., 0, :, :].unbind(0)  # rows columns axis channel
    down, across = cos[:, :, 0] + 1j * sin[:, :, 0], cos[:, :, 1] + 1j * sin[:, :, 1]
    assert torch.equal(down, down[:, :1].expand_as(down))
    assert torch.equal(across, across[:1].expand_as(across))
    assert len(set(map(tuple, down[:, 0].tolist()))) == 3


def test_turning_keeps_lengths_and_leaves_the_origin_alone() -> None:
    x = draw(7, 12)
    turned = rotate(x, grid_rope([7], 12))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(turned[0], x[0])


def test_the_fastest_pair_turns_by_one_radian_a_token() -> None:
    x = torch.zeros(3, 8)
    x[:, 0] = 1.0  # channel 0 is paired with channel 4
    turned = rotate(x, grid_rope([3], 8))
    torch.testing.assert_close(turned[:, 0], torch.arange(3.0).cos())
    torch.testing.assert_close(turned[:, 4], torch.arange(3.0).sin())


@pytest.mark.parametrize("sizes", [(4, 6), (2, 3)])
def test_no_axis_longer_than_in_training_means_no_change(sizes: tuple[int, int]) -> None:
    assert torch.equal(grid_rope(sizes, 16, trained=(4, 6)), grid_rope(sizes, 16))


def test_a_grid_of_twice_the_tokens_has_the_trained_angles_at_every_second() -> None:
    squeezed = grid_rope((8, 6), 16, trained=(4, 6)).reshape(2, 8, 6, 16)
    torch.testing.assert_close(squeezed[:, ::2], grid_rope((4, 6), 16).reshape(2, 4, 6, 16))


def test_neighbouring_channels_turn_as_a_complex_number_does() -> None:
    x, speeds = draw(5, 4), torch.tensor([1.0, 0.1])
    turned = rotate_pairs(x, axes_rope([torch.arange(5.0)], [speeds]))
    angles = torch.arange(5.0)[:, None] * speeds
    wanted = torch.complex(x[:, ::2], x[:, 1::2]) * torch.complex(angles.cos(), angles.sin())
    torch.testing.assert_close(turned, torch.view_as_real(wanted).flatten(1))


def test_pairs_of_an_axis_follow_its_positions_and_no_other() -> None:
    positions, speeds = [torch.tensor([-1.0, 0.0]), torch.arange(3.0)], [falling_speeds(4, 256), falling_speeds(6, 256)]
    table = axes_rope(positions, speeds).reshape(2, 3, 5, 2)
    for pairs, axis in [(slice(0, 2), 0), (slice(2, 5), 1)]:
        angles = positions[axis][:, None] * speeds[axis]
        wanted = torch.stack([angles.cos(), angles.sin()], dim=-1)
        own = table[:, :, pairs].movedim(axis, 0)
        assert torch.equal(own, wanted[:, None].expand_as(own))


def test_speeds_fall_from_one_geometrically() -> None:
    torch.testing.assert_close(falling_speeds(6, 1000.0), torch.tensor([1.0, 0.1, 0.01]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_form_for_the_compiler_turns_the_same_way(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    fused = draw(2, 6, 3, 4, 8).to(dtype)
    x = fused[:, :, 1].transpose(1, 2)  # the layout of queries cut from a fused product
    rope = axes_rope([torch.arange(6.0)], [falling_speeds(8, 256)])
    plain = rotate_pairs(x, rope)
    assert plain.dtype == dtype
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(rotate_pairs(x, rope), plain)
