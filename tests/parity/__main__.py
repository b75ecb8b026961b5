"""The command behind scripts/parity: run golden cases, print a line for each."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tests.parity.runner import Case, Run, Verdict, components, judge


def main(paths: list[str]) -> int:
    """Run the cases in some folders.

    Returns:
        The exit code: 0 if all are within their tolerances, 1 if not, 2 if a folder is no case.
    """
    folders = [Path(path) for path in paths]
    if strange := [str(folder) for folder in folders if not is_case(folder)]:
        print(f"error: no case: {', '.join(strange)}. Name folders that hold a case.json.", file=sys.stderr)
        return 2
    if not folders:
        print("error: no folder was named. Type: scripts/parity PATH...", file=sys.stderr)
        return 2
    runs = components()
    held = [tell(Case(folder), runs) for folder in folders]
    return int(not all(held))


def is_case(folder: Path) -> bool:
    """Return whether a folder holds a case that says what it is."""
    try:
        return {"system", "component", "config", "call", "tolerance"} <= Case(folder).facts.keys()
    except (OSError, ValueError, AttributeError):
        return False


def tell(case: Case, runs: Mapping[tuple[str, str], Run]) -> bool:
    """Run a case and print what came of it; return whether it holds."""
    system, component = case.facts["system"], case.facts["component"]
    label, start = f"{case.folder.name}: {component} of {system}", time.perf_counter()
    run = runs.get((system, component))
    if run is None:
        print(f"MISSING  {label}: there is no such component here", flush=True)
        return False
    try:
        verdicts = judge(case, run)
        worst = max(verdicts, key=lambda verdict: (not verdict.is_within, used(verdict)))
    except Exception as error:  # what a case makes of ours is its result, whatever it is
        print(f"FAILED   {label}: {type(error).__name__}: {' '.join(str(error).split())[:300]}", flush=True)
        return False
    outside = sum(not verdict.is_within for verdict in verdicts)
    print(
        f"{'FAILED  ' if outside else 'ok      '} {label}: {worst.name} off by {worst.error:.3g}, allowed "
        f"{worst.allowed:.3g}; {len(verdicts) - outside} of {len(verdicts)} outputs within their tolerances, "
        f"{time.perf_counter() - start:.1f} s",
        flush=True,
    )
    return not outside


def used(verdict: Verdict) -> float:
    """Return the share of its tolerance that an output uses up."""
    return verdict.error / max(verdict.allowed, 1e-30)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
