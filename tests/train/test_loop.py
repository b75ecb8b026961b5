"""A run that is stopped, in whatever way, ends as one that never was."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mutoscope.core import weights
from mutoscope.core.errors import RecipeError
from mutoscope.train import loop
from mutoscope.train.state import checkpoints
from mutoscope.train.step import NonFiniteLoss

sys.path.insert(0, str(Path(__file__).parent))
import toy_run


def lines(folder: Path) -> list[dict]:
    """Return the log without what depends on the clock."""
    read = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "samples_per_second"} for line in read]


def same_weights(one: Path, other: Path) -> bool:
    (a, _), (b, _) = weights.read(one), weights.read(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken")
    loop.run(toy_run.recipe(), out)
    return out


def killed(out: Path, phase: str, step: int) -> int:
    program = [sys.executable, str(Path(toy_run.__file__)), str(out), phase, str(step)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.run(program, capture_output=True, env=environment, check=False).returncode


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_run_killed_in_the_middle_has_the_same_losses_to_the_last_bit(tmp_path: Path, unbroken: Path) -> None:
    assert killed(tmp_path, "fit", 11) == -signal.SIGKILL
    assert len(lines(tmp_path / "fit")) >= 10
    assert killed(tmp_path, "second", 18) == -signal.SIGKILL  # resumes "fit" at 8, then dies in the next phase
    loop.run(toy_run.recipe(), tmp_path)
    for phase in ("fit", "second"):
        assert lines(tmp_path / phase) == lines(unbroken / phase)
        assert same_weights(tmp_path / phase / loop.WEIGHTS, unbroken / phase / loop.WEIGHTS)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores
@pytest.mark.parametrize(("ahead", "workers"), [(0, 0), (2, 2)])
def test_prefetching_leaves_every_loss_as_it_is(tmp_path: Path, unbroken: Path, ahead: int, workers: int) -> None:
    loop.run(toy_run.recipe(), tmp_path, prefetch=ahead, workers=workers)
    assert lines(tmp_path / "second") == lines(unbroken / "second")


def test_polite_stop_finishes_the_step_saves_and_says_how_to_go_on(tmp_path: Path, unbroken: Path) -> None:
    def ask(phase: str, step: int, metrics: object) -> None:
        if step == 10:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(loop.Interrupted, match=r"after step 10 of 24.*same command"):
        loop.run(toy_run.recipe(), tmp_path, on_step=ask)
    assert checkpoints(tmp_path / "fit" / "checkpoints")[-1].stem == "step-00000010"
    loop.run(toy_run.recipe(), tmp_path)
    assert lines(tmp_path / "fit") == lines(unbroken / "fit")


def test_the_last_two_checkpoints_are_kept_and_a_damaged_one_is_passed_over(tmp_path: Path, unbroken: Path) -> None:
    def stop(phase: str, step: int, metrics: object) -> None:
        if step == 13:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loop.run(toy_run.recipe(), tmp_path, on_step=stop)
    kept = checkpoints(tmp_path / "fit" / "checkpoints")
    assert [path.stem for path in kept] == ["step-00000008", "step-00000012"]
    kept[-1].write_bytes(kept[-1].read_bytes()[:1000])
    loop.run(toy_run.recipe(), tmp_path)
    assert lines(tmp_path / "fit") == lines(unbroken / "fit")


def test_finished_phases_are_not_run_again(tmp_path: Path) -> None:
    recipe = toy_run.recipe()
    loop.run(recipe, tmp_path)
    steps = []
    loop.run(recipe, tmp_path, on_step=lambda phase, step, metrics: steps.append((phase, step)))
    assert steps == []


def test_a_later_phase_starts_from_the_average_of_the_one_before(tmp_path: Path) -> None:
    first, second = toy_run.recipe().phases
    loop.run(toy_run.recipe(phases=(first, replace(second, steps=1, lr=1e-30, warmup_steps=0))), tmp_path)
    assert same_weights(tmp_path / "fit" / loop.WEIGHTS, tmp_path / "second" / loop.WEIGHTS)


def test_a_changed_recipe_is_refused_and_the_field_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = toy_run.phase(steps=4)
    loop.run(toy_run.recipe(phases=(short,)), tmp_path)
    for change, named in (({"lr": 0.5}, r"phases\.0\.lr=0\.01, now it is 0\.5"), ({"steps": 3}, r"phases\.0\.steps=4")):
        with pytest.raises(RecipeError, match=named):
            loop.run(toy_run.recipe(phases=(replace(short, **change),)), tmp_path)
    with pytest.raises(RecipeError, match="seed=7, now it is 8"):
        loop.run(toy_run.recipe(phases=(short,), seed=8), tmp_path)
    monkeypatch.setattr(
        toy_run.Fitting, "sample_count", property(lambda self: 11, lambda self, value: None), raising=False
    )
    with pytest.raises(RecipeError, match="10 samples, now there are 11"):
        loop.run(toy_run.recipe(phases=(replace(short, steps=8),)), tmp_path)
    monkeypatch.undo()
    loop.run(toy_run.recipe(phases=(short,)), tmp_path)  # what failed has not become the recipe of the run


def test_several_processes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match=r"one of 2\. Start it without torchrun"):
        loop.run(toy_run.recipe(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_from_before_a_setting_existed_goes_on_while_the_setting_has_its_default(tmp_path: Path) -> None:
    short = toy_run.phase(steps=4)
    loop.run(toy_run.recipe(phases=(short,)), tmp_path)
    resolved = json.loads((tmp_path / loop.RECIPE).read_text(encoding="utf-8"))
    del resolved["phases"][0]["compile"]
    (tmp_path / loop.RECIPE).write_text(json.dumps(resolved), encoding="utf-8")
    with pytest.raises(RecipeError, match="compile=None, now it is True"):
        loop.run(toy_run.recipe(phases=(replace(short, steps=6, compile=True),)), tmp_path)
    loop.run(toy_run.recipe(phases=(replace(short, steps=6),)), tmp_path)
    assert json.loads((tmp_path / loop.RECIPE).read_text(encoding="utf-8"))["phases"][0]["compile"] is False


def test_more_steps_and_another_cadence_go_on_unless_a_later_phase_built_on_them(tmp_path: Path) -> None:
    first = toy_run.phase(steps=6, schedule="constant")
    longer = replace(first, steps=12, save_every=3, log_every=2, sample_every=5)
    loop.run(toy_run.recipe(phases=(first,)), tmp_path)
    steps: list[int] = []
    both = (longer, toy_run.phase("second", steps=2, start_from="previous"))
    loop.run(toy_run.recipe(phases=both), tmp_path, on_step=lambda phase, step, metrics: steps.append(step))
    assert steps == [*range(7, 13), 1, 2]
    with pytest.raises(RecipeError, match="second has begun"):
        loop.run(toy_run.recipe(phases=(replace(longer, steps=20), both[1])), tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # torch's own, when it compiles
def test_compiled_steps_have_the_losses_of_plain_ones(tmp_path: Path) -> None:
    plain = toy_run.phase(steps=6, log_every=1)
    for name, phase in (("plain", plain), ("compiled", replace(plain, compile=True))):
        loop.run(toy_run.recipe(phases=(phase,)), tmp_path / name)
    losses = [[line["loss"] for line in lines(tmp_path / name / "fit")] for name in ("plain", "compiled")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_loss_that_is_not_a_number_stops_before_the_weights_are_touched(tmp_path: Path) -> None:
    poisoned = toy_run.phase(objective=toy_run.FittingObjective(poison_step=7), save_every=1)
    with pytest.raises(NonFiniteLoss, match="Step 7: loss nan"):
        loop.run(toy_run.recipe(phases=(poisoned,)), tmp_path)
    tensors, metadata = weights.read(checkpoints(tmp_path / "fit" / "checkpoints")[-1])
    assert metadata["step"] == "6" and all(bool(value.isfinite().all()) for value in tensors.values())


def test_logged_lines_are_means_over_their_steps(tmp_path: Path) -> None:
    every = toy_run.phase(steps=10)
    loop.run(toy_run.recipe(phases=(every,)), tmp_path / "every")
    loop.run(toy_run.recipe(phases=(replace(every, log_every=4),)), tmp_path / "fourth")
    losses = [line["loss"] for line in lines(tmp_path / "every" / "fit")]
    means = [line["loss"] for line in lines(tmp_path / "fourth" / "fit")]
    assert means == pytest.approx([sum(losses[0:4]) / 4, sum(losses[4:8]) / 4, sum(losses[8:10]) / 2])
