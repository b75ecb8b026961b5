"""In which order samples are seen, and how the next batch is made while the current one is trained on.

Which samples make up step k is a pure function of (seed, k): a resumed run sees what an uninterrupted one would.
"""

import queue
import signal
import threading
from collections.abc import Callable, Generator
from functools import lru_cache
from typing import TypeVar

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mutoscope.core import rng

T = TypeVar("T")
DONE = object()


@lru_cache(maxsize=2)
def order(seed: int, epoch: int, count: int) -> Int[Tensor, " count"]:
    """Return the order of an epoch: each of ``count`` samples once."""
    return torch.randperm(count, generator=rng.generator(seed, "order", epoch))


def sample_ids(seed: int, step: int, batch_size: int, count: int | None) -> list[int]:
    """Return the samples of one step.

    Args:
        seed: of the run.
        step: from 1.
        batch_size: samples of a step; a batch may begin in one epoch and end in the next.
        count: samples in the data set, or None for an endless one, whose samples are never seen twice.
    """
    places = range((step - 1) * batch_size, step * batch_size)
    if count is None:
        return list(places)
    return [int(order(seed, place // count, count)[place % count]) for place in places]


def prefetch(
    make: Callable[[int], T], first: int, last: int, *, ahead: int = 2, workers: int = 0
) -> Generator[T, None, None]:
    """Yield make(first) ... make(last), each made while the ones before are in use, on another thread or in processes.

    Args:
        make: must depend on its argument alone; then the result is the same without a thread.
        first: first step.
        last: last step, included.
        ahead: how many results may wait, of each worker if there are any. Without workers, 0 makes them when asked for.
        workers: processes forked from this one that make them; 0 takes one thread, which is enough unless a step is
            over sooner than a batch is made.
    """
    if workers > 0:
        yield from DataLoader(
            _Made(make, first, last),
            batch_size=None,  # each item is a batch
            num_workers=workers,
            collate_fn=_unchanged,
            prefetch_factor=max(1, ahead),
            multiprocessing_context="fork",  # so that `make` and all that it reads need not be copied
            worker_init_fn=_leave_signals,
        )
        return
    if ahead == 0:
        yield from map(make, range(first, last + 1))
        return
    ready: queue.Queue[object] = queue.Queue(maxsize=ahead)
    stopped = threading.Event()

    def put(item: object) -> None:
        while not stopped.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for step in range(first, last + 1):
                if stopped.is_set():
                    return
                put(make(step))
            put(DONE)
        except BaseException as error:  # handed over, and raised where the batch is asked for
            put(error)

    threading.Thread(target=work, name="prefetch", daemon=True).start()
    try:
        while (item := ready.get()) is not DONE:
            if isinstance(item, BaseException):
                raise item
            yield item  # pyright: ignore[reportReturnType]
    finally:
        stopped.set()


class _Made(Dataset[T]):
    """make(first) ... make(last), by place."""

    def __init__(self, make: Callable[[int], T], first: int, last: int) -> None:
        self.make, self.first, self.last = make, first, last

    def __len__(self) -> int:
        return self.last - self.first + 1

    def __getitem__(self, place: int) -> T:
        return self.make(self.first + place)


def _unchanged(item: T) -> T:
    return item


def _leave_signals(worker: int) -> None:
    """Leave Ctrl-C to the process that started this one, which also ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
