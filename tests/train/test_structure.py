import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from mutoscope.core.errors import RecipeError
from mutoscope.train.structure import MOVING, STILL, Probe, Supervision, TokenProbe, cell_weights, without_probe
from mutoscope.worlds.scene import sample
from mutoscope.worlds.truth import CHANNELS, NOWHERE, NUMBERS, truth_maps


def maps_of(seed: int) -> torch.Tensor:
    return torch.from_numpy(truth_maps(sample(seed, count=2))).float()


def true_answers(probe: Probe, maps: torch.Tensor) -> torch.Tensor:
    """What a perfect probe answers: large logits for the true classes, and the true numbers."""
    reached = maps[:, CHANNELS["shape"]] != NOWHERE
    answers = [torch.where(reached, 30.0, -30.0)]
    for name in list(probe.sizes)[1:]:
        truth = maps[:, CHANNELS[name]]
        if name not in NUMBERS:
            truth = 30.0 * one_hot(truth[:, 0].long().clamp(min=0), probe.sizes[name]).movedim(-1, 1)
        answers.append(truth)
    return torch.cat(answers, dim=1)


@pytest.mark.parametrize("reads", [STILL, MOVING])
def test_the_truth_has_no_error_and_all_its_classes_are_right(reads: tuple[str, ...]) -> None:
    probe, maps = Probe(4, reads), maps_of(1)
    error, found = probe.errors(true_answers(probe, maps), maps)
    assert error.max() < 1e-6 and set(found.values()) == {1.0}
    assert set(found) == {name for name in reads if name not in NUMBERS}


def test_the_error_of_a_number_is_its_weighted_square_over_the_cells_it_is_true_of() -> None:
    probe, maps = Probe(4, ("offset",)), maps_of(2)
    answers = true_answers(probe, maps)
    answers[:, 1:] += 2.0
    error, _ = probe.errors(answers, maps)
    torch.testing.assert_close(error, torch.full_like(error, 0.35 * 4.0))


def test_a_probe_on_tokens_answers_frame_by_frame() -> None:
    probe = TokenProbe(6, 2, ("colour",))
    tokens = torch.randn(3, 4, 8, 6)  # B t L D: 4 slots of 2 frames, 2 x 4 cells
    answers = probe.of_tokens(tokens, 2)
    assert answers.shape == (24, 9, 2, 4)
    row = probe.out(tokens[1, 3, 5]).view(2, 9)  # slot 3, cell (1, 1): frames 6 and 7 of sample 1
    torch.testing.assert_close(answers[8 + 7, :, 1, 1], row[1])


def test_cells_that_an_object_reaches_weigh_more_and_the_mean_is_one() -> None:
    maps = torch.stack([maps_of(3), maps_of(4)])
    weights = cell_weights(maps, 5.0)
    reached = maps[:, None, :, CHANNELS["shape"].start] != NOWHERE
    assert weights.shape == (2, 1, 16, 8, 8)
    np.testing.assert_allclose(weights.mean().item(), 1, rtol=1e-5)
    torch.testing.assert_close(weights[reached].min() / weights[~reached].max(), torch.tensor(5.0))


def test_the_probe_stays_behind() -> None:
    assert without_probe({"probe.out.weight": torch.ones(1), "patch.weight": torch.ones(1)}).keys() == {"patch.weight"}


def test_weights_that_say_nothing_are_refused() -> None:
    with pytest.raises(RecipeError, match="object_weight must be above 0"):
        Supervision(object_weight=0)
