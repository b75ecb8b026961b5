import hashlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mutoscope.core.rng import generator, noise, uniform

SHAPE = (4, 2, 3, 3)

keys = st.lists(st.integers() | st.text(), max_size=4).map(tuple)


def test_noise_is_the_same_whatever_was_drawn_before_and_however_the_batch_is_split() -> None:
    batch = torch.stack([noise(SHAPE, seed=1, sample_id=n, step=5) for n in range(4)])
    torch.randn(7)
    halves = [torch.stack([noise(SHAPE, 1, n, 5) for n in ids]) for ids in ((2, 3), (0, 1))]
    assert torch.equal(batch, torch.cat([halves[1], halves[0]]))


def test_noise_does_not_touch_the_global_generators() -> None:
    before = torch.get_rng_state()
    noise(SHAPE, 0, 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_follows_from_its_key_alone_on_every_machine() -> None:
    # sha256 of the key -> Philox4x64-10 -> Box & Muller, worked out here once more in plain Python floats
    key = hashlib.sha256(b'["noise", 3, 1, 4]').digest()[:16]
    bits = [int(b) for b in np.random.Philox(key=int.from_bytes(key, "little")).random_raw(4)]
    u = [((b >> 11) + 1) / 2**53 for b in bits]
    radius = [math.sqrt(-2 * math.log(u[0])), math.sqrt(-2 * math.log(u[1]))]
    expected = [
        radius[0] * math.cos(2 * math.pi * u[2]),
        radius[1] * math.cos(2 * math.pi * u[3]),
        radius[0] * math.sin(2 * math.pi * u[2]),
    ]
    torch.testing.assert_close(noise((3,), 3, 1, 4), torch.tensor(expected))


@pytest.mark.parametrize("other", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (2**40, 0, 0)])
def test_every_part_of_the_key_changes_the_noise(other: tuple[int, int, int]) -> None:
    assert not torch.equal(noise(SHAPE, 0, 0, 0), noise(SHAPE, *other))


def test_noise_is_standard_normal() -> None:
    draws = noise((100_001,), seed=0, sample_id=0).double().numpy()
    assert stats.kstest(draws, "norm").pvalue > 0.01


def test_noise_of_neighbouring_samples_is_uncorrelated() -> None:
    a, b = (noise((100_000,), 0, sample_id) for sample_id in (0, 1))
    assert abs((a * b).mean()) < 4 / math.sqrt(100_000)


def test_noise_in_half_precision_is_the_rounded_noise() -> None:
    half = noise(SHAPE, 0, 0, dtype=torch.bfloat16)
    assert torch.equal(half, noise(SHAPE, 0, 0).bfloat16())


@pytest.mark.gpu
def test_noise_on_the_gpu_is_the_noise_on_the_cpu() -> None:
    assert torch.equal(noise(SHAPE, 0, 0, device="cuda").cpu(), noise(SHAPE, 0, 0))


def test_uniform_numbers_are_uniform_and_streams_differ() -> None:
    draws = [uniform(0, n, 0) for n in range(2000)]
    assert stats.kstest(draws, "uniform").pvalue > 0.01
    assert draws[0] != uniform(0, 0, 0, stream="given")


@given(st.integers(), st.integers(min_value=0), st.integers(min_value=0))
def test_uniform_number_is_inside_the_open_interval_in_float32(seed: int, sample_id: int, step: int) -> None:
    u = uniform(seed, sample_id, step)
    assert 0 < torch.tensor(u) < 1
    assert float(torch.tensor(u)) == u


@given(keys, keys)
def test_generators_agree_exactly_when_their_keys_do(a: tuple[int | str, ...], b: tuple[int | str, ...]) -> None:
    assert (generator(*a).initial_seed() == generator(*b).initial_seed()) == (a == b)


def test_number_and_its_text_are_different_keys() -> None:
    assert generator(1).initial_seed() != generator("1").initial_seed()
