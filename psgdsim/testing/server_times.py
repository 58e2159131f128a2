"""A parameter server without a network and without learning: how long its updates take, and how stale gradients are."""

from __future__ import annotations

import functools
import math
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from psgdsim import rng
from psgdsim.node import Kernel
from psgdsim.scenario import from_dict
from psgdsim.scenario.experiment import Experiment, build
from psgdsim.sim.driver import Simulation
from psgdsim.sim.execution import Execution
from psgdsim.testing.schedules import tiny_scenario
from psgdsim.trace import Outcome

if TYPE_CHECKING:
    import numpy as np

COMPUTE: Final[dict[str, dict[str, Any]]] = {
    "constant": {"kind": "constant", "time": "1 s"},
    "exponential": {"kind": "exponential", "mean": "1 s"},
    "shifted": {"kind": "shifted_exponential", "shift": "1 s", "mean": "1 s"},
    "pareto": {"kind": "pareto", "scale": "1 s", "shape": 2.5},
    "heterogeneous": {"kind": "fixed_slow_set", "time": "1 s", "delay": "7 s", "ranks": [0, 1]},
}
"""How long a gradient takes, by the name of the distribution."""

SEED: Final = 1


class ServerRun(NamedTuple):
    """What came of a run.

    Attributes:
        time: per update of the model [s].
        staleness: how many gradients that were used were how stale.
    """

    time: float
    staleness: Counter[int | float]

    @property
    def mean(self) -> float:
        """The mean staleness."""
        return sum(value * count for value, count in self.staleness.items()) / self.staleness.total()

    @property
    def variance(self) -> float:
        """The variance of the staleness."""
        return sum((value - self.mean) ** 2 * count for value, count in self.staleness.items()) / self.staleness.total()

    def share(self, value: int) -> float:
        """Return the part of the gradients that were so stale."""
        return self.staleness[value] / self.staleness.total()


@functools.lru_cache(64)
def run_server(num_workers: int, num_gradients: int, compute: str = "exponential", **parameters: Any) -> ServerRun:
    """Run a parameter server until it has used so many gradients.

    Args:
        num_workers: how many.
        num_gradients: a multiple of that.
        compute: how long a gradient takes, a name in `COMPUTE`.
        parameters: of the strategy.

    Example:
        >>> run_server(4, 40, "constant", sync="async").share(3)
        0.925
    """
    scenario = {
        **tiny_scenario({"kind": "parameter_server", **parameters}, num_workers),
        "seed": SEED,
        "data": {"kind": "none", "num_samples": 1024},
        "batch_size": 1,
        "compute": COMPUTE[compute],
        "max_steps": num_gradients // num_workers,
    }
    outcome = run_timed(build(from_dict(scenario)))
    counts = sum((Counter(report.staleness) for report in outcome.reports[:num_workers]), Counter[int | float]())
    return ServerRun(outcome.time / outcome.reports[num_workers].rows[-1]["version"], counts)


def run_timed(experiment: Experiment) -> Outcome:
    """Run an experiment in which values do not decide when things happen, and compute next to nothing.

    Args:
        experiment: what to run.

    Returns:
        The outcome; its times are right, its values are not.

    Raises:
        PsgdsimError: it fails.
    """
    simulation = Simulation(experiment)
    simulation.execution = _Remembered(simulation.execution)
    simulation.accounts.series.edge = math.inf  # nobody looks at links
    outcome = simulation.run()
    if outcome.error is not None:
        raise outcome.error
    return outcome


class _Remembered:
    """Computes what each kernel returns once."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._known: dict[str, Any] = {}

    def call(self, kernel: Kernel, arguments: tuple[Any, ...]) -> Any:
        """Return what the kernel has returned the first time."""
        if kernel.name not in self._known:
            self._known[kernel.name] = self._execution.call(kernel, arguments)
        return self._known[kernel.name]

    def finish(self) -> None:
        """Compute what was put off."""
        self._execution.finish()


def bounded_ends(times: np.ndarray, bound: int) -> np.ndarray:
    """Return when workers of bounded staleness, SSP, end their computations, by a loop over the clocks.

    A worker that has ended c begins the next one as soon as everybody has ended c - `bound`.

    Args:
        times: what each computation takes [s], `(clock, ..., worker)`; what lies between are runs apart.
        bound: how many a worker may have ended more than the slowest.

    Returns:
        The ends [s], of the same shape.

    Example:
        >>> import numpy as np
        >>> bounded_ends(np.array([[1.0, 3.0], [1.0, 1.0]]), 0).tolist()
        [[1.0, 3.0], [4.0, 4.0]]
    """
    import numpy as np

    ends, own = np.empty_like(times), np.zeros_like(times[0])
    for clock, spans in enumerate(times):
        begins = own if clock <= bound else np.maximum(own, ends[clock - bound - 1].max(axis=-1, keepdims=True))
        own = ends[clock] = begins + spans
    return ends


def bounded_time(num_workers: int, num_gradients: int, bound: int) -> float:
    """Return the time per update [s] that `run_server` must give with `ssp` and exponential times.

    Args:
        num_workers: as in `run_server`.
        num_gradients: likewise.
        bound: of the staleness.
    """
    import numpy as np

    # Nobody can be further ahead than this when all together have ended so many.
    clocks = num_gradients // num_workers + bound + 1
    draws = [rng.stream(SEED, "compute", rank).exponential(size=clocks) for rank in range(num_workers)]
    ends = bounded_ends(np.stack(draws, axis=-1), bound)
    return float(np.sort(ends, axis=None)[num_gradients - 1]) / num_gradients


class OrderStatistic(NamedTuple):
    """The k-th smallest of n independent times from Exp(1).

    Attributes:
        k: which one.
        n: of how many.
    """

    k: int
    n: int

    @property
    def mean(self) -> float:
        """Its expectation, H_n - H_(n-k): after the i-th, the next of the n - i left comes after Exp(n - i)."""
        return sum(1 / i for i in range(self.n - self.k + 1, self.n + 1))

    @property
    def variation(self) -> float:
        """Its standard deviation over its mean."""
        return math.sqrt(sum(1 / i**2 for i in range(self.n - self.k + 1, self.n + 1))) / self.mean


def four_errors(variation: float, num: int) -> float:
    """Return four standard errors of a mean, relative to it: the tolerance of all simulated means.

    Args:
        variation: the standard deviation of one of the addends over its mean, or a bound of that.
        num: how many independent addends there are.
    """
    return 4 * variation / math.sqrt(num)
