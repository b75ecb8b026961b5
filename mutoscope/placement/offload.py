"""Weights that are on the device only while they are used.

    with resident(network, "cuda"):     copied there
        network(x, t, condition)
                                        and forgotten there; the originals never left

A model's components take turns, so the device needs room for the greatest of them, not for all. Each turn costs one
copy over the bus; nothing is copied back, because nothing here changes weights.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

Offload = Literal["none", "component"]


@contextmanager
def resident(module: nn.Module, device: torch.device | str) -> Iterator[None]:
    """Have a module's weights and buffers on a device while the block runs; then put the originals in place again.

    What the block does to the weights is lost. Where they are on the device already, nothing happens.
    """
    device = torch.device(device)
    originals: list[tuple[nn.Module, str, Tensor]] = []
    copies: dict[Tensor, Tensor] = {}  # so that tied weights stay tied
    try:
        for owner in module.modules():
            own = (owner.named_parameters(recurse=False), owner.named_buffers(recurse=False))
            for name, tensor in list(itertools.chain(*own)):
                if tensor.device.type != device.type:
                    originals.append((owner, name, tensor))
                    if tensor not in copies:
                        copies[tensor] = _copy(tensor, device)
                    setattr(owner, name, copies[tensor])
        yield
    finally:
        for owner, name, tensor in originals:
            setattr(owner, name, tensor)


def _copy(tensor: Tensor, device: torch.device) -> Tensor:
    copy = tensor.detach().to(device)
    return nn.Parameter(copy, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copy
