"""Independent times: each computation draws anew; more rows take proportionally longer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from psgdsim.compute_times.base import ComputeTime, Positive, proportional, register_compute_time
from psgdsim.units import Duration

if TYPE_CHECKING:
    import numpy as np


@register_compute_time("constant")
def constant(time: Duration) -> ComputeTime:
    """Take the same time every step.

    Args:
        time: that time.
    """
    return proportional(lambda _rng: time, time)


@register_compute_time("exponential")
def exponential(mean: Duration) -> ComputeTime:
    """Draw from an exponential distribution (Dutta et al., AISTATS 2018, arXiv 1803.01113).

    Args:
        mean: the mean time.
    """
    return proportional(lambda rng: float(rng.exponential(mean)), mean)


@register_compute_time("shifted_exponential")
def shifted_exponential(shift: Duration, mean: Duration) -> ComputeTime:
    """Take a fixed time plus an exponential tail (Lee et al., IEEE T-IT 2018, arXiv 1512.02673).

    Args:
        shift: the least time.
        mean: the mean of the tail that comes on top of it.
    """
    return proportional(lambda rng: shift + float(rng.exponential(mean)), shift + mean)


@register_compute_time("load_scaled_shifted_exponential")
def load_scaled_shifted_exponential(time: Duration, straggling: Positive) -> ComputeTime:
    """Stretch a fixed time and its exponential tail with the load (Reisizadeh et al., ISIT 2017, arXiv 1701.05973).

    At load l, in batches, P(T <= t) = 1 - exp(-(mu / l) (t - a l)) for t >= a l, where a is `time` and mu is
    `straggling / time`: the law of `shifted_exponential` with the tail's mean given in units of the least time.

    Args:
        time: the least time of one batch.
        straggling: the least time over the mean of the tail; 0.5 to 2 is usual, less is a heavier tail.
    """
    tail = time / straggling
    return proportional(lambda rng: time + float(rng.exponential(tail)), time + tail)


@register_compute_time("pareto")
def pareto(scale: Duration, shape: Positive) -> ComputeTime:
    """Draw from a Pareto distribution, the heavy tail of shared clusters: scale * U**(-1/shape).

    Args:
        scale: the least time.
        shape: the tail's exponent; at most 1 the mean is infinite, at most 2 the variance is.
    """
    mean = shape * scale / (shape - 1) if shape > 1 else math.inf
    return proportional(lambda rng: scale * (1.0 + float(rng.pareto(shape))), mean)


@register_compute_time("lognormal")
def lognormal(median: Duration, sigma: Positive) -> ComputeTime:
    """Draw from a log-normal distribution: median * exp(sigma * Z).

    Args:
        median: the median time.
        sigma: the standard deviation of the logarithm.
    """

    def sample(rng: np.random.Generator) -> float:
        return float(median) * math.exp(sigma * float(rng.standard_normal()))

    return proportional(sample, median * math.exp(sigma**2 / 2))
