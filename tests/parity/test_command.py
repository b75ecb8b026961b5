import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.parity import __main__ as command
from tests.parity.runner import Case


def write_case(folder: Path, component: str = "doubler") -> Path:
    folder.mkdir()
    tolerance = {"per_output": {"out.y": {"rtol": 0.0, "atol": 0.5}, "out.z": {"rtol": 0.1, "atol": 0.0}}}
    facts = {"system": "Toy", "component": component, "config": {}, "call": {}, "tolerance": tolerance}
    (folder / "case.json").write_text(json.dumps(facts))
    x = torch.tensor([1.0, 2.0])
    save_file({"in.x": x, "out.y": 2 * x, "out.z": x + 1}, folder / "io.safetensors")
    return folder


@pytest.fixture(autouse=True)
def components(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(case: Case) -> dict[str, torch.Tensor]:
        x = case.input("x")
        return {"out.y": 2 * x + 0.25, "out.z": x + 1}

    def wrong(case: Case) -> dict[str, torch.Tensor]:
        return run(case) | {"out.z": case.input("x")}

    def broken(case: Case) -> dict[str, torch.Tensor]:
        raise KeyError("in.\nw")

    runs = {("Toy", "doubler"): run, ("Toy", "wrong"): wrong, ("Toy", "broken"): broken}
    monkeypatch.setattr(command, "components", lambda: runs)


def test_case_within_its_tolerances_is_one_line_and_exit_code_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([str(write_case(tmp_path / "a"))]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("ok       a: doubler of Toy: out.y off by 0.25, allowed 0.5; 2 of 2 outputs within")
    assert shown.count("\n") == 1


@pytest.mark.parametrize(
    ("component", "says"),
    [
        ("wrong", "FAILED   b: wrong of Toy: out.z off by 1, allowed 0.2; 1 of 2 outputs"),
        ("broken", "FAILED   b: broken of Toy: KeyError: 'in.\\nw'"),
        ("tripler", "MISSING  b: tripler of Toy: there is no such component here"),
    ],
)
def test_one_failure_among_several_is_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], component: str, says: str
) -> None:
    assert command.main([str(write_case(tmp_path / "a")), str(write_case(tmp_path / "b", component))]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith(says)


def test_folder_that_is_no_case_is_exit_code_2_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "case.json").write_text("[1, 2")
    paths = [write_case(tmp_path / "a"), tmp_path / "b", tmp_path / "c", tmp_path / "nowhere"]
    assert command.main([str(path) for path in paths]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == f"error: no case: {', '.join(map(str, paths[1:]))}. Name folders that hold a case.json.\n"
    assert command.main([]) == 2
