"""Asynchronous gossip that is watched: which pairs average, and where all ranks were before."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from psgdsim.compute_times import ComputeTime
from psgdsim.node import Node
from psgdsim.scenario import from_dict
from psgdsim.scenario.experiment import build
from psgdsim.strategies.ad_psgd import Active, Passive
from psgdsim.task import Task
from psgdsim.testing.checks import Check, compare
from psgdsim.testing.schedules import tiny_scenario
from psgdsim.testing.server_times import four_errors
from psgdsim.testing.training import APART, run_scenario, vector_of

if TYPE_CHECKING:
    import numpy as np

DIM: Final = 4_000


class Average(NamedTuple):
    """A pair that is about to average.

    Attributes:
        active: the rank that asks.
        passive: the one that it asks.
        places: the parameters of all ranks, `(rank, parameter)`.
    """

    active: int
    passive: int
    places: np.ndarray


class Watch:
    """Runs `ad_psgd` with an even number of ranks that noise sets apart in the first step; after it, they only average.

    First all active ranks average while nobody has moved, then passive ones make their first step, then all go on at
    random.

    Args:
        graph: `ring` or `complete`.
        num: how many ranks.
        dim: how many parameters.
        steps: of each rank.

    Attributes:
        averages: all that took place, in their order.
        last: where the ranks are in the end, `(rank, parameter)`.
    """

    def __init__(self, graph: Literal["ring", "complete"], num: int, dim: int, steps: int) -> None:
        self.averages: list[Average] = []
        self._graph, self._gossipers = graph, dict[int, Active | Passive]()
        scenario = {
            **tiny_scenario({"kind": "ad_psgd", "graph": graph}, num),
            **APART,
            "model": {"kind": "quadratic", "dim": dim, "noise": 50.0},
            "max_steps": steps,
        }
        experiment = build(from_dict(scenario))
        strategy = replace(experiment.strategy, worker=self._work)
        compute = ComputeTime(_first_active_ones, math.nan)
        outcome = run_scenario(replace(experiment, strategy=strategy, compute=compute))
        self.num_unread = sum(report.unread for report in outcome.reports)
        self.last = self._places()

    async def _work(self, node: Node, task: Task) -> None:
        rank, num = node.rank, node.world_size
        others = range(1 - rank % 2, num, 2) if self._graph == "complete" else sorted({rank - 1, rank + 1})
        partners = tuple(sorted({other % num for other in others}))
        is_active = rank % 2 == 0
        gossiper = _WatchedActive(node, task, partners, self._note) if is_active else Passive(node, task, partners)
        self._gossipers[rank] = gossiper
        await gossiper.run()

    def _note(self, active: int, passive: int) -> None:
        self.averages.append(Average(active, passive, self._places()))

    def _places(self) -> np.ndarray:
        import numpy as np

        return np.stack([vector_of(self._gossipers[rank].state.params) for rank in sorted(self._gossipers)])


class _WatchedActive(Active):
    """An active rank that says when it averages."""

    def __init__(self, node: Node, task: Task, partners: tuple[int, ...], note: Any) -> None:
        super().__init__(node, task, partners)
        self._note = note

    async def _average(self, partner: int) -> None:
        self._note(self._node.rank, partner)
        await super()._average(partner)


def _first_active_ones(rank: int, stream: np.random.Generator) -> Any:
    """Let active ranks, the even ones, make their first step before passive ones do; later times are memoryless."""
    return lambda now, _load: 0.1 + 0.05 * (rank % 2) if now == 0 else 0.1 + float(stream.exponential())


def square_distance(places: np.ndarray) -> float:
    """Return the sum of the squares of how far ranks are from their mean.

    Args:
        places: `(rank, parameter)`.
    """
    return float(((places - places.mean(axis=0)) ** 2).sum())


def verify_pairs() -> Iterator[Check]:
    """An average of two ranks that lie at random takes 1 / (N - 1) of the square distance of all N from their mean."""
    for n in (4, 8, 16):
        averages = Watch("complete", n, DIM, 3).averages
        before, after = (square_distance(averages[n // 2 + i].places) for i in (0, 1))
        # What two ranks differ by is a sum of squares of so many independent normal numbers.
        tolerance = four_errors(math.sqrt(2), DIM) / (n - 2)
        name = f"ad_psgd complete N={n}, square distance per average"
        yield compare(name, 1 - 1 / (n - 1), after / before, "1 - 1 / (N - 1)", tolerance)
