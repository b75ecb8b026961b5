"""What is entered stays entered, exactly once, whoever is killed and whoever else does the same."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from mutoscope.core.errors import MutoscopeError
from mutoscope.curate.manifest import Manifest, Pruned, Task

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
TASK = Task("ab" * 32, "signals", 1, {"size": 3, "of": ["a", 1.5]})


def writing(data: bytes):
    return lambda path: path.write_bytes(data)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_key_depends_on_all_that_a_task_is_and_on_nothing_else() -> None:
    others = [
        Task("cd" * 32, "signals", 1, TASK.parameters),
        Task(TASK.source, "split", 1, TASK.parameters),
        Task(TASK.source, "signals", 2, TASK.parameters),
        Task(TASK.source, "signals", 1, {"size": 4, "of": ["a", 1.5]}),
    ]
    assert len({TASK.key, *(other.key for other in others)}) == 5
    assert Task("ab" * 32, "signals", 1, {"of": ["a", 1.5], "size": 3}).key == TASK.key


def test_what_was_entered_is_found_again(tmp_path: Path) -> None:
    assert Manifest(tmp_path).find(TASK) is None
    entry = Manifest(tmp_path).commit(TASK, writing(b"result"))
    assert Manifest(tmp_path).find(TASK) == entry
    assert Manifest(tmp_path).path(entry).read_bytes() == b"result"
    other = Task("cd" * 32, "signals", 1)
    Manifest(tmp_path).commit_problem(other, "it is empty")
    found = Manifest(tmp_path).find(other)
    assert found is not None and found.problem == "it is empty"


def test_the_first_of_two_results_of_one_task_stays(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path)
    first = manifest.commit(TASK, writing(b"first"))
    assert manifest.commit(TASK, writing(b"second")) == first == manifest.find(TASK)
    assert manifest.count("signals") == 1


def test_equal_results_are_stored_once(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path)
    entries = [manifest.commit(Task(f"{i:064x}", "signals", 1), writing(b"same")) for i in range(3)]
    assert len({manifest.path(entry) for entry in entries}) == 1
    assert len(files(tmp_path / "objects")) == 1 and manifest.count("signals") == 3


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        Manifest(tmp_path).commit(TASK, fail)
    assert Manifest(tmp_path).find(TASK) is None and files(tmp_path) == []


@pytest.mark.parametrize("damage", ["object lost", "object short", "entry short", "entry empty"])
def test_a_damaged_outcome_is_not_done_and_is_replaced(tmp_path: Path, damage: str) -> None:
    manifest = Manifest(tmp_path)
    path = manifest.path(manifest.commit(TASK, writing(b"result")))
    entry = next((tmp_path / "entries").rglob("*.json"))
    if damage == "object lost":
        path.unlink()
    elif damage == "object short":
        path.write_bytes(b"res")
    else:
        entry.write_bytes(entry.read_bytes()[:40] if damage == "entry short" else b"")
    assert manifest.find(TASK) is None
    again = manifest.commit(TASK, writing(b"result"))
    assert manifest.find(TASK) == again and manifest.path(again).read_bytes() == b"result"


STEPS = 5  # system calls of a commit after which a process is killed: see `doomed`


def doomed(folder: Path, step: int) -> None:
    """Commit, and die at one of the moments between the writes."""
    calls = 0

    def dying(call):
        def wrapped(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls > step:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return wrapped

    os.replace, os.link, os.fsync = dying(os.replace), dying(os.link), dying(os.fsync)
    Manifest(folder).commit(TASK, writing(b"result"))
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_kill_at_any_moment_leaves_a_task_done_or_not_done(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    found = []
    for step in range(STEPS):
        folder = tmp_path / str(step)
        process = context.Process(target=doomed, args=(folder, step))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        manifest = Manifest(folder)
        found.append(manifest.find(TASK) is not None)
        manifest.sweep()
        entry = manifest.commit(TASK, writing(b"result"))
        assert manifest.path(entry).read_bytes() == b"result"
        assert len(files(folder)) == 2, "one entry, one object, no rubbish"
    assert found == sorted(found) and not found[0] and found[-1]


def racing(folder: Path, name: str, start, results) -> None:
    start.wait()
    made = [Manifest(folder).commit(Task(f"{i:064x}", "s", 1), writing(f"{name}{i}".encode())) for i in range(50)]
    results.put([entry.digest for entry in made])


def test_two_workers_agree_on_every_outcome(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start, results = context.Event(), context.Queue()
    workers = [context.Process(target=racing, args=(tmp_path, name, start, results)) for name in "ab"]
    for worker in workers:
        worker.start()
    start.set()
    one, other = results.get(timeout=60), results.get(timeout=60)
    for worker in workers:
        worker.join()
    assert one == other and Manifest(tmp_path).count("s") == 50


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(MutoscopeError, match="cannot write"):
        Manifest(tmp_path / "file").commit(TASK, writing(b"result"))


def test_pruning_keeps_what_is_used_and_objects_that_something_used_names(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path)
    kept, other, twin = (Task(f"{i:064x}", "signals", 1) for i in range(3))
    entry = manifest.commit(kept, writing(b"same"))
    manifest.commit(other, writing(b"another"))
    manifest.commit(twin, writing(b"same"))
    manifest.commit_problem(Task("ab" * 32, "split", 1), "it is empty")
    assert manifest.used == {task.key for task in (kept, other, twin, Task("ab" * 32, "split", 1))}
    assert manifest.prune({kept.key}) == Pruned(3, len(b"another"))
    assert Manifest(tmp_path).find(kept) == entry and manifest.path(entry).read_bytes() == b"same"
    assert manifest.find(other) is None and manifest.find(twin) is None
    assert manifest.prune({kept.key}) == Pruned(0, 0)
