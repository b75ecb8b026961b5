import os

import pytest
import torch

from mutoscope.core.device import available_bytes, find_device, multiplies_bfloat16
from mutoscope.core.errors import RequestError


def test_a_device_is_found_by_its_name() -> None:
    assert find_device("cpu") == torch.device("cpu")
    assert find_device().type in ("cpu", "cuda", "mps")


@pytest.mark.parametrize("name", ["tpu", "cuda:97", "xla", "", "meta:x"])
def test_a_device_that_is_not_here_is_refused_with_those_that_are(name: str) -> None:
    with pytest.raises(RequestError, match=f"device={name} is not here. Use cpu"):
        find_device(name)


def test_accelerators_multiply_bfloat16() -> None:
    assert multiplies_bfloat16(torch.device("cuda"))


def test_memory_of_the_machine_is_less_than_all_there_is() -> None:
    everything = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < available_bytes("cpu") <= everything


@pytest.mark.gpu
def test_memory_of_an_accelerator_falls_with_what_is_taken() -> None:
    before = available_bytes("cuda")
    taken = torch.empty(1 << 28, dtype=torch.uint8, device="cuda")
    assert before - available_bytes("cuda") >= taken.nbytes // 2
