"""How much memory a device has to give."""

import os
from pathlib import Path

import torch


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
