"""Measure the conversion of a .pt file of HunyuanVideo's official layout to that of diffusers: time and peak memory.

Usage: python benchmarks/bench_convert.py [GB]

The file is of the given size, with as many blocks as fit, in bfloat16, nested under "module" as published. Peak memory
is sampled every 10 ms from outside: anonymous memory, which the process holds for itself; mapped memory, pages of files
that the system takes back when it wants; and both together.
"""

import json
import multiprocessing
import sys
import tempfile
import time
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from mutoscope.core import layouts, weights
from mutoscope.core.checkpoint import open_checkpoint
from mutoscope.models import hunyuan

BLOCK_GB = (339_831_296 + 2 * 141_591_808) * 2 / 1e9  # one double and two single blocks, in bfloat16
PARTS = ("RssAnon", "RssFile", "VmRSS")


def config_of(size_gb: float) -> hunyuan.Config:
    """Return a network of that size, as wide as the published one."""
    depth = max(1, round((size_gb - 0.8) / BLOCK_GB))
    return replace(hunyuan.PRESETS["t2v"], depth=depth, single_depth=2 * depth)


def network_of(size_gb: float) -> torch.nn.Module:
    """Build it without its numbers."""
    with torch.device("meta"):
        return hunyuan.Hunyuan(config_of(size_gb)).to(torch.bfloat16)


def write(path: Path, size_gb: float) -> int:
    """Write the file; return its tensors' size in bytes."""
    state = {name: torch.zeros_like(t, device="cpu") for name, t in network_of(size_gb).state_dict().items()}
    theirs = weights.to_theirs(state, hunyuan.keys(config_of(size_gb))["official"])
    torch.save({"module": theirs}, path)
    return sum(tensor.nbytes for tensor in theirs.values())


def convert(path: Path, out: Path, size_gb: float) -> None:
    """Do the work that is measured."""
    keys = hunyuan.keys(config_of(size_gb))
    match = layouts.recognise(open_checkpoint(path), layouts.headers_of(network_of(size_gb)), keys, what="it")
    layouts.convert(match, keys["diffusers"], "diffusers", out, metadata={}, shard_bytes=4 * 10**9)


def watch(process: BaseProcess) -> dict[str, int]:
    """Return the peak of each part of a process's memory, in MB, when it has ended."""
    peaks = dict.fromkeys(PARTS, 0)
    while process.is_alive():
        try:
            lines = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii").splitlines()
        except OSError:
            break
        now = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith(PARTS)}
        peaks = {part: max(peak, now.get(part, 0)) for part, peak in peaks.items()}
        time.sleep(0.01)
    process.join()
    return {part: round(peak_kib * 1024 / 1e6) for part, peak_kib in peaks.items()}


def main() -> None:
    """Print one JSON line."""
    size_gb = float(sys.argv[1]) if len(sys.argv) > 1 else 8.0
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "mp_rank_00_model_states.pt", Path(folder) / "out"
        size_bytes = write(source, size_gb)
        start = time.perf_counter()
        process = context.Process(target=convert, args=(source, out, size_gb))
        process.start()
        peaks = watch(process)
        seconds = time.perf_counter() - start
        files = sorted(path.stat().st_size for path in out.iterdir())
    if process.exitcode:
        sys.exit(f"error: the conversion ended with exit code {process.exitcode}")
    line = {"bench": "convert", "gb": round(size_bytes / 1e9, 2), "seconds": round(seconds, 1)}
    line |= {"anonymous_mb": peaks["RssAnon"], "mapped_mb": peaks["RssFile"], "resident_mb": peaks["VmRSS"]}
    print(json.dumps({**line, "files": len(files), "largest_gb": round(files[-1] / 1e9, 2)}))


if __name__ == "__main__":
    main()
