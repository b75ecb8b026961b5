"""Every task has one result, or a reason why it has none; what a user can put right arrives as such."""

import os
import signal

import pytest

pytest.importorskip("pyarrow", reason="needs the extra curate")

from mutoscope.core.errors import MissingExtra, MutoscopeError, RecipeError
from mutoscope.curate import pool
from mutoscope.curate.pool import Lost


def trouble(task: str) -> str:
    if task == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "ends":
        os._exit(3)
    if task == "hangs":
        signal.pause()
    if task == "recipe":
        raise RecipeError("mend it")
    if task == "extra":
        raise MissingExtra("curate", "cv2", "it")
    if task == "bug":
        raise KeyError("oh")
    return task.upper()


def test_tasks_that_die_or_hang_are_lost_with_a_reason_and_all_others_are_done() -> None:
    tasks = ["a", "dies", "b", "hangs", "c", "ends"]
    found = dict(pool.run(trouble, tasks, lambda task: 0.5 if task == "hangs" else 600.0, workers=1))
    assert [found[i] for i in (0, 2, 4)] == ["A", "B", "C"]
    assert found[1] == Lost("the process that worked on it was killed by signal 9")
    assert found[3] == Lost("it was not done after 0.5 s")
    assert found[5] == Lost("the process that worked on it ended with code 3")


@pytest.mark.parametrize(
    ("task", "kind", "says"),
    [("recipe", RecipeError, "mend it"), ("extra", MutoscopeError, "pip install"), ("bug", RuntimeError, "in trouble")],
)
def test_errors_arrive_from_other_processes(task: str, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says):
        list(pool.run(trouble, [task], lambda _: 600.0, workers=1))


def test_without_processes_the_tasks_are_done_here() -> None:
    assert list(pool.run(trouble, ["a", "b"], lambda _: 1.0, workers=0)) == [(0, "A"), (1, "B")]
