import inspect
import json
import typing
from pathlib import Path

import pytest

from mutoscope.apps import cli
from mutoscope.core.errors import RequestError
from mutoscope.plan import HARDWARE


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Run the command line; return its exit code."""
    monkeypatch.setattr("sys.argv", ["mutoscope", *words])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_help_lists_every_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--help") == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in cli.COMMANDS)


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_every_option_is_explained(command: str) -> None:
    function = cli.COMMANDS[command]
    assert all(f" {name}: " in str(function.__doc__) for name in inspect.signature(function).parameters)


def test_user_error_is_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise RequestError("this and\nthat")

    monkeypatch.setitem(cli.COMMANDS, "models", refuse)
    assert run(monkeypatch, "models") == 2
    assert capsys.readouterr().err == "error: this and that\n"


def test_interrupt_is_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "models", interrupt)
    assert run(monkeypatch, "models") == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("generate", "a circle", "--model", "nothing"), "Did you mean"),
        (("generate", "a circle", "--model", "missing.safetensors"), "there are no weights at"),
        (("train", "no-such-recipe.py", "--out", "run"), "no-such-recipe.py"),
        (("evaluate", "nothing"), "Did you mean"),
        (("info", "nothing"), "Did you mean"),
        (("plan", "stiv/XL"), "Say --num-frames and --height and --width"),
        (("plan", "stiv/toy", "--gpus", "0"), "--gpus 0"),
        (("world", "clips", "--out", "x", "--duplicates", "1"), "are for footage"),
        (("world", "footage", "--out", "x", "--defects", "rain"), "rain"),
        (("convert", "stiv/toy", "nowhere", "out", "--layout", "mutoscope"), "there are no weights at nowhere"),
    ],
)
def test_mistakes_name_what_was_given(
    words: tuple[str, ...],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert says in error


def test_every_device_can_be_planned_for() -> None:
    choices = typing.get_args(inspect.signature(cli.plan).parameters["hardware"].annotation)
    assert choices == (*HARDWARE, "cpu")


def test_models_are_listed_with_their_size(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "models") == 0
    assert "stiv/toy" in capsys.readouterr().out


def test_world_clips_come_with_their_captions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert run(monkeypatch, "world", "clips", "--out", str(tmp_path / "clips"), "--count", "2") == 0
    lines = (tmp_path / "clips" / "captions.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2
    assert all(json.loads(line) for line in lines)
    assert len(list((tmp_path / "clips").glob("*.mp4"))) == 2


def test_footage_comes_with_its_truth_and_as_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words = ("--height", "48", "--width", "64", "--count", "1", "--defects", "freeze", "--share", "1")
    assert run(monkeypatch, "world", "footage", "--out", str(tmp_path / "raw"), *words) == 0
    (truth,) = (json.loads(path.read_text(encoding="utf-8")) for path in (tmp_path / "raw").glob("*.json"))
    assert {defect["kind"] for defect in truth["defects"]} == {"freeze"}
    assert len(list((tmp_path / "raw").glob("*.mp4"))) == 1
