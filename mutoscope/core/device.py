"""Which devices there are, and what they are good for."""

import os
from pathlib import Path

import torch

from mutoscope.core.errors import RequestError


def find_device(name: str | None = None) -> torch.device:
    """Return a device by its name, or the fastest kind there is.

    Args:
        name: such as ``cpu``, ``cuda``, ``cuda:1`` or ``mps``; None chooses.

    Raises:
        RequestError: there is no such device here.
    """
    kinds = [kind for kind, module in (("cuda", torch.cuda), ("mps", torch.backends.mps)) if module.is_available()]
    if name is None:
        return torch.device([*kinds, "cpu"][0])
    try:
        device = torch.device(name)
        if device.type != "cpu":
            torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        there = " or ".join(["cpu", *kinds])
        raise RequestError(f"device={name} is not here. Use {there}, or leave it out for the fastest.") from error
    return device


def available_bytes(device: torch.device | str) -> int:
    """Return the memory that could still be taken on a device: on an accelerator its own, else the machine's.

    What torch keeps there of memory that was given back can be taken again, and counts.

    Raises:
        RuntimeError: torch knows no such device here.
    """
    device = torch.device(device)
    if device.type == "cpu":
        return _available_on_the_machine()
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    module = torch.get_device_module(device)
    free, _ = module.mem_get_info(device)
    return free + module.memory_reserved(device) - module.memory_allocated(device)


def _available_on_the_machine() -> int:
    """Return free memory and what the system would give up for it, where it says so; else all there is."""
    info = Path("/proc/meminfo")
    if info.exists():
        lines = dict(line.split(":") for line in info.read_text(encoding="ascii").splitlines())
        if "MemAvailable" in lines:
            return int(lines["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def multiplies_bfloat16(device: torch.device) -> bool:
    """Tell whether products in bfloat16 are fast on a device.

    Accelerators have units for them. A CPU needs AVX-512 or AMX: without, torch 2.13 takes 20 to 80 times as long as in
    float32 (2.4 against 45 to 87 GFLOP/s on one Zen 3 core).
    """
    return device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
