"""Do one function over many tasks, each at most once at a time, in processes that may die or hang.

    local   a few spawned processes, each with one task at hand; one that dies or runs out of time is replaced
    ray     Ray Data hands out batches; each batch is done by such a process on the node that got it

A broken file can take a decoder down with it, or hold it for ever. Then its task is `Lost`, with the reason, and all
others go on.
"""

import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, Literal, TypeVar

from mutoscope.core.errors import MissingExtra, MutoscopeError

T = TypeVar("T")
R = TypeVar("R")
Engine = Literal["local", "ray"]
READY = object()  # what a process says first
START_S = 600.0  # seconds that it may take to say so, on a machine that is very busy
RAY_BATCH = 16  # tasks: their process takes a second to start


@dataclass(frozen=True)
class Lost:
    """A task that has no result, and why; the same command tries it again."""

    reason: str


def run(
    function: Callable[[T], R],
    tasks: Sequence[T],
    limit_s: Callable[[T], float],
    workers: int,
    engine: Engine = "local",
) -> Iterator[tuple[int, R | Lost]]:
    """Yield the number of each task and its result, in the order in which they are done.

    Args:
        function: does a task; sent to other processes, so it must be importable there.
        tasks: what to do.
        limit_s: seconds after which a task is given up.
        workers: processes; 0 works in this one, where nothing can be given up.
        engine: where they run. For Ray, 0 workers means as many as the cluster has cores.

    Raises:
        MissingExtra: Ray is asked for and not installed.
        MutoscopeError: `function` raised it.
        RuntimeError: `function` raised something else.
    """
    if engine == "ray":
        yield from _ray(function, tasks, limit_s, workers)
    elif workers == 0:
        yield from ((index, function(task)) for index, task in enumerate(tasks))
    else:
        yield from _local(function, tasks, limit_s, workers)


# ---- processes of this machine ---------------------------------------------------------------------------------------


@dataclass
class _Worker(Generic[T]):
    process: BaseProcess
    pipe: Connection
    index: int | None = None  # of the task at hand
    deadline: float = 0.0
    is_ready: bool = False  # it has imported what it needs


def _local(
    function: Callable[[T], R], tasks: Sequence[T], limit_s: Callable[[T], float], workers: int
) -> Iterator[tuple[int, R | Lost]]:
    upcoming = iter(range(len(tasks)))
    crew = [_start(function) for _ in range(min(workers, len(tasks)))]
    try:
        for worker in crew:
            _hand_over(worker, next(upcoming), tasks, limit_s)
        while busy := [worker for worker in crew if worker.index is not None]:
            left_s = min(worker.deadline for worker in busy) - time.monotonic()
            ready = wait([worker.pipe for worker in busy], max(0.0, left_s))
            for worker in busy:
                index = worker.index
                assert index is not None
                if worker.pipe in ready:
                    result = _receive(worker)
                    if result is READY:
                        worker.is_ready, worker.deadline = True, time.monotonic() + limit_s(tasks[index])
                        continue
                elif time.monotonic() > worker.deadline:
                    result = Lost(f"it was not done after {limit_s(tasks[index]):.3g} s")
                else:
                    continue
                worker.index = None
                following = next(upcoming, None)
                if isinstance(result, Lost):
                    _stop(worker)
                    crew.remove(worker)
                    if following is not None:
                        worker = _start(function)
                        crew.append(worker)
                if following is not None:
                    _hand_over(worker, following, tasks, limit_s)
                yield index, result
    finally:
        for worker in crew:
            _stop(worker)


def _start(function: Callable[[T], R]) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, function), daemon=True)
    process.start()
    theirs.close()  # or the end of the other process would not be seen
    return _Worker(process, ours)


def _hand_over(worker: _Worker, index: int, tasks: Sequence[T], limit_s: Callable[[T], float]) -> None:
    worker.index = index
    worker.deadline = time.monotonic() + (limit_s(tasks[index]) if worker.is_ready else START_S)
    with suppress(OSError):  # it died meanwhile, which its pipe will tell
        worker.pipe.send(tasks[index])


def _receive(worker: _Worker) -> Any:
    try:
        kind, result = worker.pipe.recv()
    except (EOFError, OSError):
        worker.process.join()
        code = worker.process.exitcode or 0
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        return Lost(f"the process that worked on it {how}")
    if kind == "ready":
        return READY
    if kind == "raised":
        raise result
    return result


def _stop(worker: _Worker) -> None:
    """End a process at once: whatever it writes appears whole or not at all."""
    worker.process.kill()
    worker.process.join()
    worker.pipe.close()


def _serve(pipe: Connection, function: Callable[[Any], Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    threading.Thread(target=_follow_parent, daemon=True).start()
    prepare()
    pipe.send(("ready", None))
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        try:
            answer = "done", function(task)
        except Exception as error:
            answer = "raised", _portable(error)
        pipe.send(answer)


def _portable(error: Exception) -> Exception:
    """Return an error that can travel to another process, which one with arguments of its own cannot."""
    if isinstance(error, MutoscopeError):
        return type(error)(str(error)) if type(error).__init__ is Exception.__init__ else MutoscopeError(str(error))
    return RuntimeError("".join(traceback.format_exception(error)))  # a fault of the program: say where


def _follow_parent() -> None:
    """End with the process that started this one, also where that was killed in the middle of a long task."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def prepare() -> None:
    """Make a process a good worker: one core, and no lock shared between FFmpeg's threads and Python's log."""
    import av.logging
    import pyarrow

    av.logging.restore_default_callback()
    # Not set_level, which would put the callback in Python back: a decoder's thread then waits for ever for the lock.
    av.logging.set_libav_level(av.logging.PANIC)  # what FFmpeg complains of is told by the row of the source
    pyarrow.set_cpu_count(1)


# ---- Ray -------------------------------------------------------------------------------------------------------------


def _ray(
    function: Callable[[T], R], tasks: Sequence[T], limit_s: Callable[[T], float], workers: int
) -> Iterator[tuple[int, R | Lost]]:
    data = _import_ray()
    rows = [{"index": i, "task": pickle.dumps(task), "limit_s": limit_s(task)} for i, task in enumerate(tasks)]
    if not rows:
        return
    batches = data.from_items(rows, override_num_blocks=-(-len(rows) // RAY_BATCH)).map_batches(
        partial(do_batch, function),
        batch_size=RAY_BATCH,
        batch_format="numpy",
        zero_copy_batch=False,
        num_cpus=1,
        concurrency=workers or None,
    )
    for row in batches.iter_rows():
        yield int(row["index"]), pickle.loads(row["result"])


def do_batch(function: Callable[[Any], Any], batch: dict[str, Any]) -> dict[str, Any]:
    """Do the tasks of one batch of Ray Data, in a process of its own that may die without taking Ray's worker along."""
    tasks = [(pickle.loads(task), float(limit)) for task, limit in zip(batch["task"], batch["limit_s"], strict=True)]
    results = dict(run(partial(_do_first, function), tasks, lambda task: task[1], workers=1))
    return {"index": batch["index"], "result": [pickle.dumps(results[i]) for i in range(len(tasks))]}


def _do_first(function: Callable[[Any], Any], task: tuple[Any, float]) -> Any:
    return function(task[0])


def _import_ray() -> Any:
    try:
        import ray.data  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtra("curate-ray", "ray[data]", "--engine ray") from error
    return ray.data


def refuse_missing(engine: Engine) -> None:
    """Find out before any work whether an engine is installed.

    Raises:
        MissingExtra: it is not.
    """
    if engine == "ray":
        _import_ray()
