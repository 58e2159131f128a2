"""Random schedules: a strategy run again and again, each time with other compute times and message delays.

Whatever a program assumes about who is fast, which message comes first or where a run ends, some schedule breaks.
A schedule follows from its seed alone, so that the one that broke can be run again.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from psgdsim import rng
from psgdsim.compute_times import ComputeTime
from psgdsim.errors import Interrupted
from psgdsim.scenario import from_dict
from psgdsim.scenario.changes import Jitter
from psgdsim.scenario.experiment import Experiment, build
from psgdsim.schedule import Schedule
from psgdsim.task import Task
from psgdsim.testing.watched import CancelledRunError, WatchedSimulation
from psgdsim.topologies.base import Link, Multicast, Topology, TopologyPart
from psgdsim.trace import Outcome

if TYPE_CHECKING:
    import numpy as np

Spec = str | Mapping[str, Any]
"""A strategy as a scenario names it, such as `{"kind": "sgp", "tau": 1}`; a name alone takes all defaults."""

Draw = Callable[["np.random.Generator"], float]

MULTICASTS: Final[tuple[Multicast, ...]] = ("unicast", "native", "relay")
MAX_STEPS: Final = 4
LONGEST: Final = 1000.0
"""No computation and no delay takes longer [s]."""


@dataclass(frozen=True)
class RandomSchedules:
    """A strategy at a tiny scale, ready to be run with random schedules.

    Of a schedule are random: how long each computation takes (all alike, exponential or heavy-tailed, with ranks of
    very different speeds), by how much each message is late, independently of the others (not at all, all alike,
    exponential, or a few by very much), how multicasts are copied, how many steps there are, and whether time ends
    the run.

    Args:
        experiment: what to run; its network, its compute times and its stop rule count for nothing.

    Example:
        >>> schedules = RandomSchedules.of("all_reduce", world_size=2)
        >>> schedules.run(seed=1).error is None
        True
    """

    experiment: Experiment

    @classmethod
    def of(cls, strategy: Spec, world_size: int = 4, **changes: Any) -> RandomSchedules:
        """Return the schedules of a strategy on a noisy bowl with two parameters.

        Args:
            strategy: as in a scenario.
            world_size: the number of workers.
            changes: other keys of the scenario.

        Raises:
            ScenarioError: there is no such strategy, or it cannot run so.
        """
        experiment = build(from_dict({**tiny_scenario(strategy, world_size), **changes}))
        task = _with_kernels(experiment.task) if changes else _tiny_task(world_size)
        return cls(replace(experiment, task=task))

    def draw(self, seed: int, stop: Schedule | None = None) -> Experiment:
        """Return the experiment with the schedule of a seed.

        Args:
            seed: the schedule's.
            stop: when the run ends, if that is not to be random.
        """
        generator = rng.stream(seed, "random schedule")
        times, delays = _times(generator, self.experiment.num_ranks), _delays(generator)
        multicast = MULTICASTS[generator.integers(len(MULTICASTS))]
        steps = int(generator.integers(1, MAX_STEPS + 1))
        end = float(generator.exponential(5.0)) if generator.random() < 1 / 4 else None
        changes = () if delays is None else (Jitter(("net",), delays),)
        drawn = replace(self.experiment.task.schedule, last_step=steps, max_time=end)
        scenario = self.experiment.scenario.model_copy(update={"seed": seed})
        task = _with_schedule(self.experiment.task, stop or drawn)
        network = TopologyPart(functools.partial(_build, multicast=multicast), multicast)
        return replace(self.experiment, scenario=scenario, task=task, topology=network, compute=times, changes=changes)

    def run(self, seed: int, *, cancel_at: float = math.inf, stop: Schedule | None = None) -> Outcome:
        """Run one schedule, and check that it comes to its end.

        Args:
            seed: the schedule's.
            cancel_at: when to cancel the programs, if they go on for so long [s of virtual time].
            stop: when the run ends, if that is not to be random.

        Returns:
            The outcome.

        Raises:
            Interrupted: the user ends it.
            AssertionError: a program failed, or waits for what nobody sends; a message was not received; something
                goes on that should have ended; or ranks that must agree do not. The message says which seed it was.
        """
        simulation = WatchedSimulation(self.draw(seed, stop), cancel_at)
        outcome = simulation.run()
        if isinstance(outcome.error, Interrupted):
            raise outcome.error
        problems = simulation.unfinished()
        if outcome.error is not None and not isinstance(outcome.error, CancelledRunError):
            problems = [str(outcome.error)]
        elif not simulation.was_cancelled:
            problems += self._disagreements(outcome)
            problems += [f"rank {rank}: {', '.join(messages)}" for rank, messages in simulation.unreceived().items()]
        if problems:
            when = "" if cancel_at == math.inf else f", cancelled at {cancel_at!r} s"
            raise AssertionError(f"schedule of seed {seed}{when}: " + "; ".join(problems))
        return outcome

    def _disagreements(self, outcome: Outcome) -> list[str]:
        replicas = self.experiment.strategy.replicas(self.experiment.world_size)
        odd = [rank for rank in replicas if outcome.reports[rank].digest != outcome.reports[replicas[0]].digest]
        if not odd:
            return []
        return [f"rank {odd[0]} ends with other parameters than rank {replicas[0]}, which `is_replicated` rules out"]

    def failures(self, seeds: Iterable[int]) -> Iterator[str]:
        """Run many schedules; yield what went wrong in each that failed."""
        for seed in seeds:
            try:
                self.run(seed)
            except AssertionError as error:
                yield str(error)


def tiny_scenario(strategy: Spec, world_size: int) -> dict[str, Any]:
    """Return a scenario as small as can be: a noisy bowl, no network to speak of.

    Args:
        strategy: as in a scenario.
        world_size: the number of workers.
    """
    return {
        "name": "tiny",
        "seed": 1,
        "world_size": world_size,
        "model": {"kind": "quadratic", "dim": 2, "noise": 0.5},
        "data": {"kind": "none", "num_samples": 64},
        "batch_size": 2,
        "optimizer": {"kind": "sgd", "learning_rate": 0.1},
        "strategy": {"kind": strategy} if isinstance(strategy, str) else dict(strategy),
        "topology": {"kind": "star", "bandwidth": None, "latency": "0 s"},
        "compute": {"kind": "constant", "time": "1 s"},
        "max_steps": MAX_STEPS,
        "evaluate": {"every": None},
        "execution": "exact",
        "trace": "off",
    }


@functools.cache
def _tiny_task(world_size: int) -> Task:
    """Return the task of the tiny scenario; strategies share it, so that its kernels are compiled once for all."""
    return _with_kernels(build(from_dict(tiny_scenario("all_reduce", world_size))).task)


def _with_kernels(task: Task) -> Task:
    """Return a task whose kernels have been made: its copies have the very same."""
    for name, member in vars(Task).items():
        if isinstance(member, functools.cached_property):
            getattr(task, name)
    return task


def _with_schedule(task: Task, schedule: Schedule) -> Task:
    """Return a copy of a task with another schedule and the very same kernels: nothing is compiled again."""
    other = copy.copy(task)
    object.__setattr__(other, "schedule", schedule)
    return other


def _build(num_hosts: int, multicast: Multicast) -> Topology:
    """Build a network of one link that never fills: the delays of messages are all there is."""
    hosts = tuple(f"host{i}" for i in range(num_hosts))
    return Topology(
        hosts, (Link("net", math.inf, 0.0),), lambda src, dst: (0,) * (src != dst), multicast, lambda _host, _up: (0,)
    )


def _times(generator: np.random.Generator, num_ranks: int) -> ComputeTime:
    """Draw how long computations take."""
    draws: tuple[Draw, ...] = (
        lambda _: 1.0,
        lambda stream: float(stream.exponential()),
        lambda stream: 0.1 * float(stream.pareto(1.1)),
    )
    draw = draws[generator.integers(len(draws))]
    scales = [float(scale) for scale in generator.choice([1.0, 1.0, 1.0, 0.1, 10.0], num_ranks)]
    return ComputeTime(
        lambda rank, stream: lambda _now, _load: min(LONGEST, scales[rank] * draw(stream)), mean=math.nan
    )


def _delays(generator: np.random.Generator) -> Draw | None:
    """Draw by how much messages are late, or None if they are not."""
    scale = float(generator.choice([0.01, 1.0, 10.0]))
    draws: tuple[Draw | None, ...] = (
        None,
        lambda _: scale,
        lambda stream: scale * float(stream.exponential()),
        lambda stream: 100.0 * (stream.random() < 1 / 8),
    )
    return draws[generator.integers(len(draws))]
