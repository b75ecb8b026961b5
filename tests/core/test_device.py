import os

import pytest

from mutoscope.core.device import available_bytes


def test_memory_of_the_machine_is_less_than_all_there_is() -> None:
    everything = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < available_bytes("cpu") <= everything


@pytest.mark.gpu
def test_memory_of_an_accelerator_falls_with_what_is_taken() -> None:
    import torch

    before = available_bytes("cuda")
    taken = torch.empty(1 << 28, dtype=torch.uint8, device="cuda")
    assert before - available_bytes("cuda") >= taken.nbytes // 2
