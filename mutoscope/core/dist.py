"""Which process of a run this is. `torchrun` says so in the environment; without it there is one process."""

import os
import sys


def rank() -> int:
    """Return the number of this process, 0 to `world_size() - 1`."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return how many processes the run has."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def print0(message: str) -> None:
    """Print `message` once for the whole run, on stderr, since stdout carries results only."""
    if rank() == 0:
        print(message, file=sys.stderr, flush=True)
