"""The order of samples is a permutation and a pure function; prefetching changes nothing."""

import threading

import pytest
import torch

from mutoscope.data.loader import order, prefetch, sample_ids


def test_an_epoch_shows_every_sample_once_and_each_epoch_in_another_order() -> None:
    first, second = (order(3, epoch, 50).tolist() for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second and first != order(4, 0, 50).tolist()


def test_steps_cut_the_epochs_into_batches_without_loss() -> None:
    seen = [i for step in range(1, 8) for i in sample_ids(0, step, 10, 35)]  # 70 places: two epochs of 35
    assert sorted(seen[:35]) == sorted(seen[35:]) == list(range(35))
    assert sample_ids(0, 4, 10, 35) == seen[30:40]


def test_an_endless_data_set_never_repeats_a_sample() -> None:
    assert [i for step in (1, 2, 3) for i in sample_ids(0, step, 4, None)] == list(range(12))


def test_prefetching_yields_the_same_in_the_same_order() -> None:
    plain = list(prefetch(lambda step: step**2, 5, 20, ahead=0))
    assert list(prefetch(lambda step: step**2, 5, 20, ahead=3)) == plain == [step**2 for step in range(5, 21)]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores
def test_worker_processes_yield_the_same_in_the_same_order() -> None:
    def make(step: int) -> tuple[int, torch.Tensor]:
        return step, torch.full((3,), step)

    made = list(prefetch(make, 5, 12, workers=2))
    assert [step for step, _ in made] == list(range(5, 13))
    assert torch.equal(torch.stack([values for _, values in made]), torch.arange(5, 13)[:, None].expand(8, 3))


def test_an_error_in_a_worker_process_comes_up_where_the_batch_is_asked_for() -> None:
    def make(step: int) -> int:
        if step == 2:
            raise ValueError("bad sample")
        return step

    with pytest.raises(ValueError, match="bad sample"):
        list(prefetch(make, 1, 3, workers=1))


def test_an_error_while_prefetching_comes_up_where_the_batch_is_asked_for() -> None:
    def make(step: int) -> int:
        if step == 3:
            raise ValueError("bad sample")
        return step

    batches = prefetch(make, 1, 5)
    assert [next(batches), next(batches)] == [1, 2]
    with pytest.raises(ValueError, match="bad sample"):
        next(batches)


def test_the_thread_ends_when_the_batches_are_no_longer_wanted() -> None:
    batches = prefetch(lambda step: step, 1, 1000)
    next(batches)
    thread = next(thread for thread in threading.enumerate() if thread.name == "prefetch")
    batches.close()
    thread.join(timeout=5)
    assert not thread.is_alive()
