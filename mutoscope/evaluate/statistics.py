"""How sure a figure is: intervals for shares and means, differences of pairs, and PSNR."""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from mutoscope.core.errors import RequestError

RESAMPLES = 4000


class Interval(NamedTuple):
    """An estimate and the bounds between which the truth lies with the confidence asked for."""

    value: float
    low: float
    high: float


def wilson(right: int, total: int, confidence: float = 0.95) -> Interval:
    """Return a share with its score interval, which stays within 0 and 1 and is honest near them.

    Args:
        right: successes, 0 to `total`.
        total: trials, at least 1.
        confidence: between 0 and 1.

    Source: Wilson 1927; recommended over the textbook interval by Brown, Cai & DasGupta 2001, section 3.1.1.
    """
    if not 0 <= right <= total or total < 1:
        raise RequestError(f"{right} of {total} is no share. Give at least one trial, and no more successes than that.")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = right / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    reach = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    # At the ends a bound is the share itself; rounding must not move it.
    return Interval(share, 0.0 if right == 0 else middle - reach, 1.0 if right == total else middle + reach)


def bootstrap(values: Sequence[float], confidence: float = 0.95, seed: int = 0) -> Interval:
    """Return the mean with its percentile interval over resampled sets of the same size.

    Args:
        values: one for each sample, finite. For a paired difference: the differences.
        confidence: between 0 and 1.
        seed: of the resampling; the same seed gives the same interval.

    Source: Efron 1979; percentile interval, Efron & Tibshirani 1993, section 13.3.
    """
    if not len(values):
        raise RequestError("A mean of no values was asked for. Give at least one.")
    data = np.asarray(values, np.float64)
    draw = np.random.default_rng([20261124, seed])
    means = np.array([data[draw.integers(len(data), size=len(data))].mean() for _ in range(RESAMPLES)])
    low, high = np.quantile(means, ((1 - confidence) / 2, (1 + confidence) / 2))
    return Interval(float(data.mean()), float(low), float(high))


def psnr(frames: UInt8[np.ndarray, "*S"], truth: UInt8[np.ndarray, "*S"]) -> float:
    """Return the peak signal-to-noise ratio in dB, with a peak of 255; infinite when the two are the same."""
    error = float(np.square(frames.astype(np.float64) - truth).mean())
    return 10 * math.log10(255**2 / error) if error else math.inf
