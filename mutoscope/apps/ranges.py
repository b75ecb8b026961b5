"""What values on the command line may be: one table of numbers, checked at the door before a command begins.

The ranges are wide: they keep out what no command could mean (not a number, infinite, below zero, absurdly large), so
that it ends in one line. What a model or a data set can do is checked below, by those that know.

Text and names of files must be UTF-8, because they are written down beside what is made of them.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from mutoscope.core.errors import RequestError
from mutoscope.core.files import STRAY, spelled


@dataclass(frozen=True)
class Range:
    """Numbers from `least` to `most`, both of them included."""

    least: float
    most: float

    def __contains__(self, number: float) -> bool:
        return self.least <= number <= self.most  # nothing compares with nan

    def __str__(self) -> str:
        return f"from {self.least:.12g} to {self.most:.12g}"


PIXELS = Range(1, 65_536)
RANGES = {  # by the name of the option, the same in every command
    "height": PIXELS,
    "width": PIXELS,
    "num_frames": Range(1, 10_000),
    "fps": Range(0.01, 1000),
    "steps": Range(1, 10_000),
    "guidance": Range(-1000, 1000),
    "image_guidance": Range(-1000, 1000),
    "shift": Range(0.001, 1000),
    "restarts": Range(0, 1000),
    "seed": Range(0, 2**53),  # what JSON can hold exactly in any reader
    "count": Range(1, 1_000_000),
    "gpus": Range(1, 1_000_000),
    "shard_size_gb": Range(0.001, 1_000_000),
    "workers": Range(0, 1024),
    "limit": Range(1, 1_000_000),
    "batch_size": Range(1, 1_000_000),
    "bins": Range(2, 1000),
    "port": Range(0, 65_535),
    "share": Range(0, 1),
    "duplicates": Range(0, 1_000_000),
}


SPELLED = ("sources",)  # options whose names of files may be any bytes


def checked(command: Callable[..., None]) -> Callable[..., None]:
    """Return the same command, which refuses what is out of range, or no text, before it does anything."""
    signature = inspect.signature(command)

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        for name, value in values(signature.bind(*args, **kwargs).arguments):
            option = name.replace("_", "-")
            if isinstance(value, int | float) and not isinstance(value, bool) and value not in RANGES[name]:
                text = str(value)
                shown = text if len(text) < 24 else f"{text[:20]}..."
                raise RequestError(f"--{option} {shown} was given. Give a number {RANGES[name]}.")
            if isinstance(value, str | Path) and name not in SPELLED and STRAY.search(str(value)):
                raise RequestError(f"{option} {spelled(str(value))} is not UTF-8. Rename it, or give another.")
        command(*args, **kwargs)

    return run


def values(arguments: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the arguments of a command by name, also those inside groups of options and lists."""
    for name, value in arguments.items():
        if is_dataclass(value) and not isinstance(value, type):
            yield from values({field.name: getattr(value, field.name) for field in fields(value)})
        elif isinstance(value, tuple):
            yield from ((name, one) for one in value)
        else:
            yield name, value
