"""From a scenario to the objects that a driver runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from psgdsim.codecs.shapes import check_functions
from psgdsim.compute_times import ComputeTime
from psgdsim.errors import CodecError, ScenarioError
from psgdsim.scenario.calibration import Clock, resolve_compute
from psgdsim.scenario.changes import Change
from psgdsim.scenario.faults import Fault
from psgdsim.scenario.schema import Scenario
from psgdsim.schedule import Schedule
from psgdsim.strategies.base import Strategy
from psgdsim.task import Task
from psgdsim.topologies.base import TopologyPart
from psgdsim.trace import MAX_EVENTS, Level, RankLog

MAX_FULL: Final = 64
"""Up to so many ranks, events are kept unless the scenario says otherwise."""


@dataclass(frozen=True)
class Experiment:
    """Everything a driver needs, the same on every rank and in both modes.

    Args:
        scenario: where it comes from.
        world_size: the number of workers.
        task: what is trained.
        strategy: how.
        topology: the network.
        compute: how long a rank computes in simulation.
        changes: what changes about the network over time; their files have been read.
        faults: what goes wrong.
    """

    scenario: Scenario
    world_size: int
    task: Task
    strategy: Strategy
    topology: TopologyPart
    compute: ComputeTime
    changes: tuple[Change, ...] = ()
    faults: tuple[Fault, ...] = ()

    @property
    def rank_rows(self) -> float:
        """Rows per worker and step, of which `compute` says the time."""
        return self.task.global_rows / self.world_size

    @property
    def num_ranks(self) -> int:
        """The number of workers and servers."""
        return self.world_size + self.strategy.num_servers

    @property
    def trace(self) -> Level:
        """How much is kept of what happens (see `trace.Level`)."""
        return self.scenario.trace or ("full" if self.num_ranks <= MAX_FULL else "steps")

    @property
    def max_events(self) -> int:
        """How many events are kept of each rank, and of the network."""
        return MAX_EVENTS // self.num_ranks if self.trace == "full" else 0

    def start_log(self, rank: int, clock: Callable[[], float]) -> RankLog:
        """Return the log of a rank, still empty.

        Args:
            rank: whose.
            clock: returns the time [s].
        """
        return RankLog(rank, clock, self.max_events, self.trace != "off" or rank == self.leaders[0])

    @property
    def leaders(self) -> range:
        """The ranks that lead the run (see `Strategy`)."""
        return self.strategy.leaders(self.world_size)

    def num_steps(self, rows: Iterable[Mapping[str, Any]]) -> int:
        """Return how many steps a run has made: those of the rank that leads it and has made the most.

        Args:
            rows: the step rows of all ranks.
        """
        return max((row["step"] for row in rows if row["rank"] in self.leaders), default=0)

    @property
    def is_led_by_servers(self) -> bool:
        """Whether servers alone decide when the run ends."""
        return self.strategy.num_servers > 0 and not self.strategy.is_lock_step


def build(scenario: Scenario, clock: Clock | None = None) -> Experiment:
    """Build the parts that a scenario names and load its data.

    Args:
        scenario: the scenario.
        clock: returns the time [s], for a compute model that is measured on this machine.

    Returns:
        The experiment; in its scenario a compute model that depends on the machine is replaced by the constant found.

    Raises:
        DatasetError: the data is missing or damaged.
        ScenarioError: the data is too small for the scenario, a file of a change is not valid, or a measurement needs
            a clock.
    """
    dataset = scenario.data.build().load(scenario.seed)
    rows = len(dataset.train_inputs)
    if scenario.global_rows > rows:
        raise ScenarioError(
            f"scenario {scenario.name!r}: one step takes {scenario.global_rows} rows, but data {scenario.data.kind!r} "
            f"has {rows} to train on; lower batch_size or world_size"
        )
    if scenario.target_accuracy is not None and not (len(dataset.test_inputs) and scenario.model.build().is_correct):
        raise ScenarioError(
            f"scenario {scenario.name!r}: target_accuracy needs test rows and a model that classifies; got data "
            f"{scenario.data.kind!r} and model {scenario.model.kind!r}"
        )
    task = Task(
        model=scenario.model.build(),
        dataset=dataset,
        partition=scenario.data.partition.build(),
        optimizer=scenario.optimizer.build(),
        codec=scenario.codec.build(),
        seed=scenario.seed,
        global_rows=scenario.global_rows,
        schedule=_schedule(scenario, rows),
        on_nonfinite=scenario.on_nonfinite,
    )
    _check_codec(scenario, task)
    strategy: Strategy = scenario.strategy.build()
    try:
        task.blocks(strategy.num_blocks(scenario.world_size))
    except ValueError as error:
        raise ScenarioError(f"scenario {scenario.name!r}: {error}") from None
    scenario = resolve_compute(scenario, task, clock)
    return Experiment(
        scenario=scenario,
        world_size=scenario.world_size,
        task=task,
        strategy=strategy,
        topology=network(scenario),
        compute=scenario.compute.build(),
        changes=_changes(scenario),
        faults=tuple(spec.build() for spec in scenario.faults),
    )


def _changes(scenario: Scenario) -> tuple[Change, ...]:
    changes: tuple[Change, ...] = tuple(spec.build() for spec in scenario.changes)
    topology = network(scenario).build(scenario.num_ranks) if changes else None
    for i, change in enumerate(changes):
        try:
            if topology is not None:
                change.load(topology)
        except ValueError as error:
            raise ScenarioError(f"changes.{i}.{error}") from None
    return changes


def network(scenario: Scenario) -> TopologyPart:
    """Return the network with the ranks on its hosts; its `build` takes the number of ranks.

    Raises:
        ScenarioError: a file that says what the network is like is not what it was when the scenario was read.
    """
    try:
        return scenario.hosts.place(scenario.topology.build(), scenario.num_servers)
    except ValueError as error:
        raise ScenarioError(f"topology.{error}") from None


def _check_codec(scenario: Scenario, task: Task) -> None:
    """Raise `ScenarioError` if the codec cannot code what the model has; nothing is computed."""
    import jax

    params = jax.eval_shape(lambda: task.init.function(0, None).params)
    try:
        check_functions(task.codec, params)
    except CodecError as error:
        raise ScenarioError(f"scenario {scenario.name!r}: codec {scenario.codec.kind!r}: {error}") from None


def _schedule(scenario: Scenario, rows: int) -> Schedule:
    steps_per_epoch = max(1, rows // scenario.global_rows)
    stops = [
        math.inf if scenario.epochs is None else scenario.epochs * steps_per_epoch,
        math.inf if scenario.max_steps is None else scenario.max_steps,
    ]
    every = scenario.evaluate.every
    return Schedule(
        steps_per_epoch=steps_per_epoch,
        last_step=min(stops),
        evaluate_every=None if every is None else every.count * (steps_per_epoch if every.unit == "epoch" else 1),
        target_accuracy=scenario.target_accuracy,
        max_time=scenario.max_time,
    )
