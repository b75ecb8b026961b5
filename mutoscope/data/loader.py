"""In which order samples are seen, and how the next batch is made while the current one is trained on.

Which samples make up step k is a pure function of (seed, k): a resumed run sees what an uninterrupted one would.
"""

import queue
import threading
from collections.abc import Callable, Generator
from functools import lru_cache
from typing import TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

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


def prefetch(make: Callable[[int], T], first: int, last: int, *, ahead: int = 2) -> Generator[T, None, None]:
    """Yield make(first) ... make(last), each made on another thread while the ones before are in use.

    Args:
        make: must depend on its argument alone; then the result is the same without a thread.
        first: first step.
        last: last step, included.
        ahead: how many results may wait. 0 makes them as they are asked for.
    """
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
