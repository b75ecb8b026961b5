"""Measure how well `mutoscope.plan` foretells peak memory: its counts against runs of the same networks on a CPU.

    python benchmarks/bench_plan.py                       # all cases, a few minutes
    python benchmarks/bench_plan.py --only "wan decode"

Networks are the published ones at reduced width and depth, with random weights in float32, at sizes where a run takes
at least 1 GB above what the loaded network takes; each runs in a process of its own. Prints one JSON line for each
case, with the ratio of the count to the measured peak; `--within 0.15` makes it fail where that is off by more.
"""

import ctypes
import gc
import json
import multiprocessing
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor, nn

from mutoscope import plan
from mutoscope.autoencoders.base import Size
from mutoscope.autoencoders.hunyuan import HunyuanAutoencoder, HunyuanConfig
from mutoscope.autoencoders.wan import WanAutoencoder, WanConfig
from mutoscope.encoders.base import TextTokens
from mutoscope.models import contentv, hunyuan
from mutoscope.models.family import Facts, Family
from mutoscope.placement.blocks import return_large_blocks
from mutoscope.plan import Workload

TEXT_TOKENS = 64
WARM = Size(5, 64, 64)  # the clip before the measured one


@dataclass(frozen=True)
class Options:
    """What to measure.

    Args:
        only: one case, such as "wan decode"; all if empty.
        threads: that torch may use.
        within: fail where the count is off by more than this share of the peak; report alone, if not given.
    """

    only: str = ""
    threads: int = 1
    within: float | None = None


@dataclass(frozen=True)
class Case:
    """A run to count and to measure.

    Args:
        family: what is planned; its autoencoder is built without arguments.
        config: of the network.
        size: of the clip.
        part: "network" for one call of it, "autoencoder" for decoding.
    """

    family: Family
    config: Any
    size: Size
    part: str

    @property
    def workload(self) -> Workload:
        """What the plan is asked, in the type in which a CPU runs it."""
        return Workload(
            self.family,
            self.config,
            self.size,
            text_tokens=TEXT_TOKENS,
            dtype=torch.float32,
            autoencoder_dtype=torch.float32,
        )


class NarrowHunyuan(HunyuanAutoencoder):
    """HunyuanVideo's autoencoder at a quarter of its widths."""

    def __init__(self) -> None:
        super().__init__(HunyuanConfig(dims=(32, 64, 128, 128), groups=8))


class NarrowWan(WanAutoencoder):
    """Wan's autoencoder at a quarter of its widths."""

    def __init__(self) -> None:
        super().__init__(WanConfig(dim=24))


def cases() -> dict[str, Case]:
    """Return what is measured: each takes between 1 and 2 GB."""
    shallow = replace(hunyuan.PRESETS["t2v"], depth=1, single_depth=1, dim=1536, num_heads=12)
    narrow = contentv.Config(depth=1, num_heads=24)
    film, content = (
        replace(hunyuan.FAMILY, autoencoder=NarrowHunyuan),
        replace(contentv.FAMILY, autoencoder=NarrowWan),
    )
    return {
        "hunyuan step": Case(film, shallow, Size(33, 512, 576), "network"),
        "contentv step": Case(content, narrow, Size(33, 384, 384), "network"),
        "hunyuan decode": Case(film, shallow, Size(17, 416, 416), "autoencoder"),
        "wan decode": Case(content, narrow, Size(9, 512, 960), "autoencoder"),
    }


def run_of(case: Case, module: nn.Module, size: Size) -> Callable[[], object]:
    """Return the run at a size, its inputs made."""
    work = case.workload
    autoencoder: Any = case.family.autoencoder() if case.part == "network" else module
    shape = autoencoder.latent_shape(*size, work.patch)
    if case.part == "autoencoder":
        return partial(_decode, module, torch.randn(1, *shape))
    batch = work.batch
    text = TextTokens(
        torch.randn(batch, TEXT_TOKENS, case.config.text_dim),
        torch.ones(batch, TEXT_TOKENS, dtype=torch.bool),
        torch.randn(batch, case.config.pooled_dim),
    )
    condition = case.family.condition(text, [Facts(size.height, size.width, size.num_frames)] * batch)
    return partial(module, torch.randn(batch, *shape), torch.full((batch,), 0.5), condition)


def _decode(autoencoder: Any, latents: Tensor) -> None:
    return_large_blocks()  # as `pipeline.System.decode` does
    for _ in autoencoder.decode_stream(latents):
        pass


@torch.no_grad()
def measure(name: str, options: Options) -> tuple[float, float]:
    """Run one case in this process; returns its peak above the memory in use before, in bytes, and its seconds."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    case = cases()[name]
    module = case.family.network(case.config) if case.part == "network" else case.family.autoencoder()
    module.eval().requires_grad_(False)
    run_of(case, module, WARM)()  # kernels are made on first use
    run = run_of(case, module, case.size)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before, start = status_bytes("VmRSS"), time.perf_counter()
    run()
    return status_bytes("VmHWM") - before, time.perf_counter() - start


def status_bytes(field: str) -> int:
    """Return a line of the process's status, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024


def counted(case: Case) -> int:
    """Return what the plan says that the run takes besides weights."""
    made = plan.plan(case.workload, plan.cpu(1, 0))
    return (made.network if case.part == "network" else made.autoencoder).count.peak_bytes


def main(options: Options) -> None:
    """Print one JSON line for each case."""
    off = []
    for name, case in cases().items():
        if options.only not in ("", name):
            continue
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            ((peak, seconds),) = pool.starmap(measure, [(name, options)])
        needed = counted(case)
        ratio = needed / peak
        line = {
            "benchmark": "plan",
            "case": name,
            "clip": plan.spell(case.size),
            "counted_gb": round(needed / 1e9, 3),
            "peak_gb": round(peak / 1e9, 3),
            "ratio": round(ratio, 3),
            "seconds": round(seconds, 1),
            "threads": options.threads,
            "machine": f"{platform.machine()}, torch {torch.__version__}",
        }
        print(json.dumps(line), flush=True)
        if options.within is not None and abs(ratio - 1) > options.within:
            off.append(name)
    if off:
        raise SystemExit(f"the plan is off by more than {options.within:.0%}: {', '.join(off)}")


if __name__ == "__main__":
    main(tyro.cli(Options))
