"""Batched execution against exact execution, for every strategy and codec: `psgdsim verify execution`."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from psgdsim.errors import PsgdsimError
from psgdsim.per_rank import Parted
from psgdsim.scenario import from_dict
from psgdsim.scenario.experiment import Experiment, build
from psgdsim.sim.as_they_come import run as as_they_come
from psgdsim.sim.driver import Simulation, can_be_in_step
from psgdsim.sim.execution import MAX_STEPS
from psgdsim.task import Task
from psgdsim.testing.checks import Check
from psgdsim.testing.codec_rows import ROWS, CodecRow
from psgdsim.testing.training import run_scenario
from psgdsim.testing.variants import Variant, built_in_variants
from psgdsim.trace import RESERVED, Outcome

TOLERANCE: Final = 1e-5
"""Largest difference of a parameter, relative to the largest parameter of its array."""

LOSS_TOLERANCE: Final = 1e-4
"""Largest difference of a loss, relative to that loss."""

CODED_TOLERANCE: Final = 1e-3
"""Of parameters and losses where a codec rounds or chooses: a last bit may make it take the other of two values."""

EXACT: Final = RESERVED | {"staleness"}
"""Columns of a step's row that values do not decide."""

SGD: Final = {"kind": "sgd", "learning_rate": 0.05}
"""For codecs: Adam would make as much of the least gradient as of the largest."""

SYNCS: Final = ("bsp", "async")
"""The parameter servers with which each codec is tried: all gradients at one model, and each at another."""

SOURCE: Final = "execution: exact"

_SCENARIO: Final[dict[str, Any]] = {
    "name": "execution",
    "world_size": 4,
    "batch_size": 8,
    "max_steps": 12,
    "model": {"kind": "mlp", "hidden": [16]},
    "data": {"kind": "synthetic_classification", "num_samples": 200, "num_features": 6, "num_classes": 3},
    "optimizer": {"kind": "adam", "learning_rate": 0.01},
    "topology": {"kind": "star", "bandwidth": "100 Mbit/s", "latency": "50 us"},
    "compute": {"kind": "exponential", "mean": "1 ms"},
    "evaluate": {"every": "5 steps"},
}


def verify_execution() -> Iterator[Check]:
    """Run every strategy, and then every codec, both ways; compare parameters, losses, times, bytes and staleness."""
    for variant in built_in_variants():
        yield from check_variant(variant)
    for row in ROWS:
        yield from check_codec_row(row)


def check_variant(variant: Variant) -> Iterator[Check]:
    """Check a strategy, with gradients that are not coded.

    Args:
        variant: the strategy.
    """
    scenario = small_scenario(world_size=variant.world_size, strategy=variant.spec)
    experiment = dataclasses.replace(build(from_dict(scenario)), task=_task(variant.world_size))
    yield from check_executions(variant.label, experiment)


def check_codec_row(row: CodecRow) -> Iterator[Check]:
    """Check a codec with parameter servers.

    Args:
        row: of `codec_rows.ROWS`.
    """
    specs = {sync: {"kind": "parameter_server", "sync": sync} for sync in SYNCS}
    built = {sync: build(from_dict(small_scenario(strategy=spec, optimizer=SGD))) for sync, spec in specs.items()}
    task = dataclasses.replace(built["bsp"].task, codec=row.make())
    tolerance = TOLERANCE if task.codec.is_identity else CODED_TOLERANCE
    for sync, experiment in built.items():
        yield from check_executions(f"{row.label}, {sync}", dataclasses.replace(experiment, task=task), tolerance)


@functools.cache
def _task(world_size: int) -> Task:
    """Return the task of the small scenario; strategies share it, so that its kernels are compiled once for all."""
    return build(from_dict(small_scenario(world_size=world_size, strategy={"kind": "all_reduce"}))).task


def small_scenario(**changes: Any) -> dict[str, Any]:
    """Return a scenario with a few steps of a small perceptron.

    Args:
        changes: other keys of the scenario, at least `strategy`.
    """
    return {**_SCENARIO, **changes}


def check_executions(name: str, experiment: Experiment, tolerance: float = TOLERANCE) -> Iterator[Check]:
    """Run an experiment exactly, in batches and, if it can be, in one of the ways for many workers; and compare.

    Args:
        name: what checks call it.
        experiment: what to run.
        tolerance: as for `compare_outcomes`.

    Raises:
        PsgdsimError: it fails.
    """
    exact = run_scenario(with_execution(experiment, "exact"))
    yield from compare_outcomes(name, exact, run_in_batches(experiment), tolerance)
    as_one = run_as_one(experiment)
    if as_one is not None:
        yield from compare_outcomes(f"{name}, as one", exact, as_one, tolerance, rounding=1e-12)
    as_a_whole = run_as_they_come(experiment)
    if as_a_whole is not None:
        yield from compare_outcomes(f"{name}, as they come", exact, as_a_whole, tolerance, rounding=1e-12)


def with_execution(experiment: Experiment, kind: str) -> Experiment:
    """Return an experiment with the same kernels, so that they are compiled once.

    Args:
        experiment: the experiment.
        kind: `exact` or `batched`.
    """
    return dataclasses.replace(experiment, scenario=experiment.scenario.model_copy(update={"execution": kind}))


def run_in_batches(experiment: Experiment, max_gradients: int | None = None) -> Outcome:
    """Run an experiment in batches from its first call on, however few ranks it has.

    Args:
        experiment: what to run.
        max_gradients: how many gradients are put off at most, if not as many as ever.

    Raises:
        PsgdsimError: it fails.
    """
    outcome = _InBatches(with_execution(experiment, "batched"), max_gradients).run()
    if outcome.error is not None:
        raise outcome.error
    return outcome


def run_as_one(experiment: Experiment) -> Outcome | None:
    """Run an experiment in batches with all workers carried on as one, however few they are; None if they part.

    Args:
        experiment: what to run.

    Raises:
        PsgdsimError: it fails.
    """
    batched = _without_events(experiment)
    if not can_be_in_step(batched):
        return None
    try:
        outcome = Simulation(batched, is_lockstep=True).run()
    except Parted:
        return None
    if outcome.error is not None:
        raise outcome.error
    return outcome


def run_as_they_come(experiment: Experiment) -> Outcome | None:
    """Run an experiment whose server takes gradients as they come as a whole, however few workers there are.

    Args:
        experiment: what to run.

    Returns:
        The outcome; None if it is no such experiment.

    Raises:
        PsgdsimError: it is one, but cannot be run so.
    """
    batched = _without_events(experiment)
    if not as_they_come.is_as_they_come(batched):
        return None
    outcome = as_they_come.run(batched)
    if outcome is None:
        raise PsgdsimError(f"scenario {experiment.scenario.name!r} can be run message by message alone")
    return outcome


def _without_events(experiment: Experiment) -> Experiment:
    """Return an experiment to be run in batches, whose trace needs no single messages."""
    changes = {"execution": "batched", "trace": "steps"}
    return dataclasses.replace(experiment, scenario=experiment.scenario.model_copy(update=changes))


class _InBatches(Simulation):
    """A simulation that makes no call one by one."""

    def __init__(self, experiment: Experiment, max_gradients: int | None) -> None:
        from psgdsim.sim.execution.batched import Batched

        super().__init__(experiment)
        if isinstance(self.execution, Batched):
            self.execution = Batched(max_gradients or MAX_STEPS * experiment.num_ranks)


def compare_outcomes(
    name: str, exact: Outcome, batched: Outcome, tolerance: float = TOLERANCE, *, rounding: float = 0.0
) -> Iterator[Check]:
    """Compare what two runs of one experiment have come to.

    Args:
        name: what checks call it.
        exact: the outcome of exact execution.
        batched: that of batched execution.
        tolerance: the largest difference of a parameter (see `TOLERANCE`), and of a loss if that is more than ever.
        rounding: the largest difference of seconds, relative to the time of the run; where more than one message is
            taken as a whole they are added up in another order.
    """
    import jax

    pairs = zip(jax.tree.leaves(exact.models), jax.tree.leaves(batched.models), strict=True)
    yield _at_zero(f"{name}: parameters", max(_deviation(one, other) for one, other in pairs), tolerance)
    difference = _first_difference(exact, batched, rounding)
    yield Check(f"{name}: times, bytes, staleness", "the same", difference, SOURCE)
    if difference == "the same":  # else there may be more losses of one than of the other
        losses = zip(_losses(exact), _losses(batched), strict=True)
        largest = max(_deviation(one, other) for one, other in losses)
        yield _at_zero(f"{name}: losses", largest, max(LOSS_TOLERANCE, tolerance))


def _at_zero(name: str, deviation: float, tolerance: float) -> Check:
    return Check(name, "0", f"{deviation:.3g}", SOURCE, deviation, tolerance)


def _deviation(expected: Any, got: Any) -> float:
    """Return the largest difference between two arrays or numbers, relative to the largest expected magnitude."""
    import numpy as np

    found = float(np.abs(got - expected).max(initial=0.0) / max(1e-30, np.abs(expected).max(initial=0.0)))
    return math.inf if math.isnan(found) else found


def _losses(outcome: Outcome) -> list[float]:
    """Return all losses: of each rank's steps, and of the evaluations."""
    steps = [row["loss"] for report in outcome.reports for row in report.rows if "loss" in row]
    return steps + [row[name] for row in outcome.evals for name in ("train_loss", "test_loss")]


def _first_difference(exact: Outcome, batched: Outcome, rounding: float) -> str:
    """Return what is the first of all that must be the same, and is not."""
    tolerance = rounding * exact.time
    if abs(batched.time - exact.time) > tolerance:
        return f"{batched.time!r} s, not {exact.time!r} s"
    for one, other in zip(exact.reports, batched.reports, strict=True):
        for name in ("sent_nbytes", "payload_nbytes", "relay_nbytes", "staleness"):
            if getattr(other, name) != getattr(one, name):
                return f"rank {one.rank}: {name} {getattr(other, name)}, not {getattr(one, name)}"
        for name, seconds in one.seconds.items():
            if abs(seconds - other.seconds[name]) > tolerance:
                return f"rank {one.rank}: {other.seconds[name]} s of {name}, not {seconds} s"
        if (what := _first_row(one.rows, other.rows, tolerance)) is not None:
            return f"rank {one.rank}, {what}"
    places = [[(row["step"], row["model"]) for row in outcome.evals] for outcome in (exact, batched)]
    apart = [abs(one["time"] - other["time"]) for one, other in zip(exact.evals, batched.evals, strict=False)]
    is_same = places[0] == places[1] and max(apart, default=0.0) <= tolerance
    return "the same" if is_same else "others: evaluations"


def _first_row(
    exact: Sequence[Mapping[str, Any]], batched: Sequence[Mapping[str, Any]], tolerance: float
) -> str | None:
    """Return what is the first difference between rows of steps, or None."""
    if len(batched) != len(exact):
        return f"{len(batched)} steps, not {len(exact)}"
    for one, other in zip(exact, batched, strict=True):
        for name in sorted(EXACT):
            is_time = name == "time" or name.endswith("_s")
            if abs(one[name] - other[name]) > (tolerance if is_time else 0):
                return f"step {one['step']}: {name} {other[name]}, not {one[name]}"
    return None
