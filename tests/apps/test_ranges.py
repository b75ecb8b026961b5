"""Numbers that no command could mean end in one line, before the command begins."""

import dataclasses
import inspect
import math
import typing
from collections.abc import Iterator

import pytest

from mutoscope.apps import cli
from mutoscope.apps.ranges import RANGES, checked
from mutoscope.core.errors import RequestError
from tests.apps.test_cli import run

NEVER = (math.nan, math.inf, -math.inf, 1e300, -1e300, 10**300, -(10**300))


def kinds(annotation: object) -> set[object]:
    """Return the plain types in an annotation."""
    inside = typing.get_args(annotation)
    return {annotation} if not inside else set().union(*map(kinds, inside))


def numeric(function: object) -> Iterator[str]:
    """Yield the numeric options of a command, also those of groups of options."""
    for name, hint in typing.get_type_hints(function).items():
        for kind in kinds(hint):
            if dataclasses.is_dataclass(kind):
                yield from numeric(kind)
            elif kind in (int, float):
                yield name


OPTIONS = [(command, option) for command, function in cli.COMMANDS.items() for option in numeric(function)]


def test_every_numeric_option_of_every_command_has_a_range() -> None:
    assert len(OPTIONS) > 30
    assert {option for _, option in OPTIONS} == set(RANGES)


@pytest.mark.parametrize(("command", "option"), OPTIONS)
def test_what_is_out_of_range_is_refused_before_the_command_begins(command: str, option: str) -> None:
    function = cli.COMMANDS[command]
    begun = []

    def fake(*args: object, **options: object) -> None:
        begun.append(options)

    fake.__signature__ = inspect.signature(function)  # pyright: ignore[reportFunctionMemberAccess]
    needed = {
        name: "x"
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is parameter.empty and name != option
    }
    positional = [
        needed.pop(name)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.POSITIONAL_ONLY and name in needed
    ]

    def call(value: float) -> None:
        is_own = option in inspect.signature(function).parameters
        given = {option: value} if is_own else {"sampling": cli.Sampling(**{option: value})}  # pyright: ignore[reportArgumentType]
        checked(fake)(*positional, **needed, **given)

    limits, is_whole = RANGES[option], int in kinds(typing.get_type_hints(cli.Sampling).get(option, float))
    for value in (*NEVER, limits.least - 1, limits.most + 1):
        if is_whole and not isinstance(value, int):
            continue  # the parser takes none, nor does the group
        with pytest.raises(RequestError, match=f"--{option.replace('_', '-')} .* was given. Give a number from"):
            call(value)
    assert not begun
    for value in (limits.least, limits.most):
        call(value)
    assert len(begun) == 2


@pytest.mark.parametrize(
    "words",
    [
        ("generate", "a red circle", "--fps", "nan"),
        ("generate", "a red circle", "--guidance=-inf"),
        ("plan", "stiv/toy", "--gpus", "0"),
        ("convert", "stiv/toy", "a", "b", "--layout", "official", "--shard-size-gb", "inf"),
        ("train", "recipe.py", "--out", "o", "--workers=-1"),
        ("evaluate", "stiv/toy", "--shift", "nan"),
        ("curate", "x", "--out", "o", "--workers", "1" + "0" * 40),
        ("vote", "thresholds", "set", "--column", "sharpness", "--port", "65536"),
        ("world", "footage", "--out", "o", "--share", "nan"),
    ],
)
def test_the_command_line_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert run(monkeypatch, *words) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith("error: --") and shown.err.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ("generate", "a red \udce9"),
        ("generate", "a red circle", "--image", "caf\udce9.png"),
        ("curate", "raw", "--out", "caf\udce9"),
        ("train", "recipe.py", "--out", "o", "--set", "name=caf\udce9"),
    ],
)
def test_what_is_not_utf8_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert run(monkeypatch, *words) == 2
    assert "\\xe9" in (shown := capsys.readouterr().err) and "is not UTF-8" in shown and shown.count("\n") == 1
