import json
import sys
from pathlib import Path

import pytest

from mutoscope.core.errors import MutoscopeError
from mutoscope.core.log import RunLog, progress


def read(folder: Path) -> list[dict[str, float | str]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def write(folder: Path, steps: range, **options: int) -> None:
    log = RunLog(folder, tensorboard=False, **options)
    for step in steps:
        log.scalars(step, {"loss": step / 8})
    log.close()


def test_resumed_log_has_each_step_once(tmp_path: Path) -> None:
    write(tmp_path, range(7))
    write(tmp_path, range(4, 9), resume_at=4)
    assert read(tmp_path) == [{"step": step, "loss": step / 8} for step in range(9)]


def test_new_log_starts_empty(tmp_path: Path) -> None:
    write(tmp_path, range(3))
    write(tmp_path, range(2))
    assert [line["step"] for line in read(tmp_path)] == [0, 1]


def test_line_cut_short_by_a_kill_is_dropped_on_resume(tmp_path: Path) -> None:
    write(tmp_path, range(3))
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    write(tmp_path, range(3, 5), resume_at=3)
    assert [line["step"] for line in read(tmp_path)] == [0, 1, 2, 3, 4]


def test_each_line_is_on_disk_before_the_run_goes_on(tmp_path: Path) -> None:
    log = RunLog(tmp_path, tensorboard=False)
    log.scalars(0, {"loss": 1.0})
    assert read(tmp_path) == [{"step": 0, "loss": 1.0}]
    log.close()


def test_log_stays_json_when_the_loss_does_not_stay_finite(tmp_path: Path) -> None:
    log = RunLog(tmp_path, tensorboard=False)
    log.scalars(0, {"loss": float("nan"), "norm": float("inf")})
    log.close()
    assert read(tmp_path) == [{"step": 0, "loss": "nan", "norm": "inf"}]


def test_log_of_something_else_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text("hello\n")
    with pytest.raises(MutoscopeError, match=r"log\.jsonl is not a log"):
        RunLog(tmp_path, tensorboard=False, resume_at=1)
    assert (tmp_path / "log.jsonl").read_text() == "hello\n"


def test_only_rank_zero_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    write(tmp_path, range(2))
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_shows_what_the_log_holds(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for steps in (range(7), range(4, 9)):
        log = RunLog(tmp_path, resume_at=steps[0])
        for step in steps:
            log.scalars(step, {"loss": step / 8})
        log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(step, step / 8) for step in range(9)]


def test_missing_tensorboard_is_one_sentence_and_the_log_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    log = RunLog(tmp_path)
    log.scalars(0, {"loss": 1.0})
    log.close()
    assert capsys.readouterr().err == (
        "The TensorBoard log needs tensorboard, which is not installed. Type: pip install 'mutoscope[train]'\n"
    )
    assert read(tmp_path) == [{"step": 0, "loss": 1.0}]


def test_progress_without_a_terminal_is_ten_plain_lines_with_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(200, "video") as bar:
        for _ in range(200):
            bar.advance(loss=0.25)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert len(lines) == 10
    assert lines[0] == "video: 20 of 200, loss 0.25, 0 s left"
    assert lines[-1] == "video: 200 of 200, loss 0.25"


def test_resumed_progress_counts_on(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(10, "video", done=8) as bar:
        bar.advance()
        bar.advance()
    assert capsys.readouterr().err == "video: 9 of 10, 0 s left\nvideo: 10 of 10\n"


def test_progress_on_a_terminal_is_a_bar_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress(3, "video [a]") as bar:
        for _ in range(3):
            bar.advance(loss=0.5)
    out, err = capsys.readouterr()
    assert out == ""
    assert "video [a]" in err
    assert "3/3" in err
    assert "loss 0.5" in err


def test_quiet_progress_shows_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with progress(3, "video", quiet=True) as bar:
        bar.advance(3)
    monkeypatch.setenv("RANK", "1")
    with progress(3, "video") as bar:
        bar.advance(3)
    assert capsys.readouterr() == ("", "")
