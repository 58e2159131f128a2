"""What a compute-time model is: per rank, a function that says how long each computation takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Protocol

from pydantic import Field

from psgdsim.registry import Family

if TYPE_CHECKING:
    import numpy as np

Positive = Annotated[float, Field(gt=0)]
Probability = Annotated[float, Field(ge=0, le=1)]

Draw = Callable[[float, float], float]
"""`(now, load)` -> the time [s] of a computation that starts at `now` [s] on `load` times a rank's batch of rows."""


class Machine(Protocol):
    """What a model may ask of the task and of the machine that the run starts on."""

    def flops(self) -> float:
        """Return the floating-point operations of the gradient of one rank's batch."""

    def seconds(self, repeats: int) -> float:
        """Return the median time of the gradient of one rank's batch on this machine [s]."""


@dataclass(frozen=True)
class ComputeTime:
    """A model of compute times.

    Args:
        start: `(rank, generator)` -> the times of one rank, one after the other. What a rank's times remember of the
            past lives there.
        mean: the expected time of one batch [s]; infinite where there is none, NaN where it is not known beforehand.
        resolve: for a model that depends on the task or the machine: asks for what it needs and returns the constant
            time of one batch [s], which takes the model's place before the run.
        ranks: the ranks that it names.
    """

    start: Callable[[int, np.random.Generator], Draw]
    mean: float
    resolve: Callable[[Machine], float] | None = None
    ranks: tuple[int, ...] = ()


def proportional(sample: Callable[[np.random.Generator], float], mean: float) -> ComputeTime:
    """Return the model of independent times of one batch; other loads take proportionally longer or shorter.

    Args:
        sample: draws the time of one batch [s].
        mean: its expectation [s].
    """

    def start(_rank: int, rng: np.random.Generator) -> Draw:
        return lambda _now, load: sample(rng) * load

    return ComputeTime(start, mean)


def unknown(resolve: Callable[[Machine], float]) -> ComputeTime:
    """Return a model that is resolved to a constant before the run."""

    def start(rank: int, _rng: np.random.Generator) -> Draw:
        raise AssertionError(f"rank {rank}: the compute time was not resolved before the run")

    return ComputeTime(start, math.nan, resolve)


compute_times = Family("compute model", product=ComputeTime)
register_compute_time = compute_times.register
