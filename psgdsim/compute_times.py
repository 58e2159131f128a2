"""How long a machine computes: straggler models, in virtual seconds.

A model draws the time that one rank needs for its `batch_size` rows in one step; more rows take proportionally
longer. Means and order statistics of each are in the tests of `tests/oracle`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from psgdsim.registry import Family
from psgdsim.units import Duration

if TYPE_CHECKING:
    import numpy as np

Positive = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class ComputeTime:
    """A distribution of compute times.

    Args:
        sample: draws one time [s] from a generator.
        mean: its expectation [s]; infinite where it has none.
    """

    sample: Callable[[np.random.Generator], float]
    mean: float


compute_times = Family("compute model", product=ComputeTime)
register_compute_time = compute_times.register


@register_compute_time("constant")
def constant(time: Duration) -> ComputeTime:
    """Take the same time every step.

    Args:
        time: that time.
    """
    return ComputeTime(lambda _rng: time, time)


@register_compute_time("exponential")
def exponential(mean: Duration) -> ComputeTime:
    """Draw from an exponential distribution (Dutta et al., AISTATS 2018, arXiv 1803.01113).

    Args:
        mean: the mean time.
    """
    return ComputeTime(lambda rng: float(rng.exponential(mean)), mean)


@register_compute_time("shifted_exponential")
def shifted_exponential(shift: Duration, mean: Duration) -> ComputeTime:
    """Take a fixed time plus an exponential tail (Lee et al., IEEE T-IT 2018, arXiv 1512.02673).

    Args:
        shift: the least time.
        mean: the mean of the tail that comes on top of it.
    """
    return ComputeTime(lambda rng: shift + float(rng.exponential(mean)), shift + mean)


@register_compute_time("pareto")
def pareto(scale: Duration, shape: Positive) -> ComputeTime:
    """Draw from a Pareto distribution, the heavy tail of shared clusters: scale * U**(-1/shape).

    Args:
        scale: the least time.
        shape: the tail's exponent; at most 1 the mean is infinite, at most 2 the variance is.
    """
    mean = shape * scale / (shape - 1) if shape > 1 else float("inf")
    return ComputeTime(lambda rng: scale * (1.0 + float(rng.pareto(shape))), mean)


@register_compute_time("lognormal")
def lognormal(median: Duration, sigma: Positive) -> ComputeTime:
    """Draw from a log-normal distribution: median * exp(sigma * Z).

    Args:
        median: the median time.
        sigma: the standard deviation of the logarithm.
    """
    import math

    return ComputeTime(
        lambda rng: median * math.exp(sigma * float(rng.standard_normal())), median * math.exp(sigma**2 / 2)
    )
