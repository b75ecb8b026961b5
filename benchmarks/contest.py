"""What contests with another library share: both sides in turn, peaks in processes of their own, one line of figures.

    times, results = contest.in_turn({"ours": run_ours, "theirs": run_theirs}, rounds=5)
    contest.refuse_unless_same("attention", contest.difference(results["ours"], results["theirs"]), allowed=1e-5)
    line = contest.compared(times["ours"], times["theirs"]) | contest.facts(threads=2, rounds=5)

Ratios are theirs over ours, so more than 1 is in our favour.
"""

import ctypes
import gc
import multiprocessing
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Seconds(NamedTuple):
    """How long one run took.

    Args:
        cpu: time of all threads of the process.
        wall: time on the wall.
    """

    cpu: float
    wall: float


def timed(run: Callable[[], Any]) -> tuple[Seconds, Any]:
    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    result = run()
    return Seconds(time.process_time() - cpu, time.perf_counter() - wall), result


def in_turn(sides: Mapping[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, list[Seconds]], dict[str, Any]]:
    """Run all sides once to make kernels, then in turn so many times; returns times and last results."""
    times: dict[str, list[Seconds]] = {name: [] for name in sides}
    results: dict[str, Any] = {}
    for number in range(rounds + 1):
        for name, run in sides.items():
            seconds, results[name] = timed(run)
            if number:
                times[name].append(seconds)
    return times, results


def compared(ours: Sequence[Seconds], theirs: Sequence[Seconds]) -> dict[str, Any]:
    """Return the medians of both sides, and of their ratios round by round."""
    line: dict[str, Any] = {}
    for field in Seconds._fields:
        ratios = (getattr(b, field) / getattr(a, field) for a, b in zip(ours, theirs, strict=True))
        line[f"{field}_ratio"] = round(statistics.median(ratios), 2)
    return line | {"ours": medians(ours), "theirs": medians(theirs)}


def medians(times: Sequence[Seconds]) -> dict[str, float]:
    cpu, wall = (statistics.median(values) for values in zip(*times, strict=True))
    return {"cpu_s": digits(cpu, 3), "wall_s": digits(wall, 3)}


def with_peaks(line: dict[str, Any], ours_mb: float, theirs_mb: float) -> dict[str, Any]:
    """Add both peaks to a line, and their ratio."""
    return line | {
        "memory_ratio": round(theirs_mb / ours_mb, 2),
        "ours": {**line.get("ours", {}), "peak_mb": digits(ours_mb, 3)},
        "theirs": {**line.get("theirs", {}), "peak_mb": digits(theirs_mb, 3)},
    }


def digits(value: float, count: int) -> float:
    return float(f"{value:.{count}g}")


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest difference relative to the largest value."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


def refuse_unless_same(name: str, found: float, allowed: float) -> None:
    if not found <= allowed:  # nor is it the same where there are no numbers
        raise SystemExit(f"{name}: ours differs from theirs by {found:.1e}, more than the {allowed:.0e} allowed.")


def peak_mb(run: Callable[[], Any]) -> float:
    """Run something in this process; returns the peak of its memory above what was in use before. Linux alone."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _status_mb("VmRSS")
    run()
    return _status_mb("VmHWM") - before


def _status_mb(field: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def in_own_processes(function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Return what a function of the main file returns for each of the arguments, each in a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, max_tasks_per_child=1) as pool:  # fails where a process dies; a Pool waits
        return [future.result() for future in [pool.submit(function, *call) for call in calls]]


def facts(threads: int, rounds: int) -> dict[str, Any]:
    """Return what belongs to every figure: how it was measured, when, of which commit and on what machine."""
    command = ["git", "--no-optional-locks", "describe", "--always", "--dirty"]
    described = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    return {
        "threads": threads,
        "rounds": rounds,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": described.stdout.strip(),
        "machine": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}",
    }
