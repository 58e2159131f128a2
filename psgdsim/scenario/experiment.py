"""From a scenario to the objects that a driver runs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from psgdsim.compute_times import ComputeTime
from psgdsim.errors import ScenarioError
from psgdsim.scenario.calibration import Clock, resolve_compute
from psgdsim.scenario.changes import Change
from psgdsim.scenario.faults import Fault
from psgdsim.scenario.schema import Scenario
from psgdsim.strategies.base import Strategy
from psgdsim.task import Schedule, Task
from psgdsim.topologies.base import TopologyPart


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
        """Rows per rank and step, of which `compute` says the time."""
        return self.task.global_rows / self.world_size


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
    )
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
    topology = network(scenario).build(scenario.world_size) if changes else None
    for i, change in enumerate(changes):
        try:
            if topology is not None:
                change.load(topology)
        except ValueError as error:
            raise ScenarioError(f"changes.{i}.{error}") from None
    return changes


def network(scenario: Scenario) -> TopologyPart:
    """Return the network with the ranks on its hosts; its `build` takes the number of ranks."""
    return scenario.hosts.place(scenario.topology.build())


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
