import torch

from mutoscope.nn.embed import sinusoid


def test_products_of_sinusoids_depend_on_the_difference_alone() -> None:
    embedded = sinusoid(torch.arange(20.0), 64)
    products = embedded @ embedded.T
    for distance in range(5):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))


def test_zero_is_all_cosines() -> None:
    assert sinusoid(torch.zeros(1), 6).tolist() == [[1, 1, 1, 0, 0, 0]]


def test_frequencies_fall_from_one_to_the_longest_period() -> None:
    (first, *_, last) = sinusoid(torch.ones(1), 512, max_period=1000.0)[0, 256:].asin()
    torch.testing.assert_close(first, torch.tensor(1.0))
    torch.testing.assert_close(last, torch.tensor(1000.0 ** -(255 / 256)))
