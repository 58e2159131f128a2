"""Batched execution computes what exact execution computes, but for rounding; times and bytes are the very same."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import pytest

from psgdsim.compilation import compile_clock
from psgdsim.scenario import from_dict
from psgdsim.scenario.experiment import Experiment, build
from psgdsim.sim.execution import pays_off
from psgdsim.testing.checks import Check
from psgdsim.testing.training import run_scenario
from psgdsim.testing.verify_execution import (
    check_executions,
    compare_outcomes,
    run_in_batches,
    small_scenario,
    with_execution,
)
from psgdsim.trace import Outcome

STRATEGIES: dict[str, dict[str, Any]] = {
    "ring": {"kind": "all_reduce", "algorithm": "ring"},
    "tree": {"kind": "all_reduce", "algorithm": "tree"},
    "halving_doubling": {"kind": "all_reduce", "algorithm": "halving_doubling"},
    "broadcast": {"kind": "all_reduce", "algorithm": "broadcast"},
    "broadcast_redundant": {"kind": "all_reduce", "algorithm": "broadcast", "redundancy": 2},
    "ccdc": {"kind": "coded_shuffle", "code": "ccdc", "redundancy": 2},
    "parameter_server": {"kind": "parameter_server", "sync": "bsp"},
    "parameter_server_async": {"kind": "parameter_server", "sync": "async"},
}
CODECS: dict[str, dict[str, Any]] = {
    "identity": {"kind": "identity"},
    "cast": {"kind": "cast", "dtype": "bfloat16"},
    "top_k": {"kind": "error_feedback", "codec": {"kind": "top_k", "ratio": 0.25}},
}

PAIRS = [
    ("ring", "identity"),
    ("tree", "identity"),
    ("halving_doubling", "identity"),
    ("broadcast", "top_k"),
    ("broadcast_redundant", "cast"),
    ("ccdc", "identity"),
    ("parameter_server", "identity"),
    ("parameter_server", "top_k"),
    ("parameter_server_async", "identity"),
    ("parameter_server_async", "top_k"),
]


def experiment_of(strategy: str, codec: str = "identity", **changes: Any) -> Experiment:
    """Build a small experiment."""
    return build(from_dict(small_scenario(strategy=STRATEGIES[strategy], codec=CODECS[codec], **changes)))


def wrong(checks: Sequence[Check]) -> list[Check]:
    """Return the checks that fail, of some."""
    assert checks
    return [check for check in checks if not check.is_right]


@pytest.mark.parametrize(("strategy", "codec"), PAIRS)
def test_batched_execution_agrees_with_exact_execution(strategy: str, codec: str) -> None:
    # `psgdsim verify execution` compares all strategies and codecs.
    assert wrong(list(check_executions("", experiment_of(strategy, codec)))) == []


def test_a_short_run_makes_its_calls_one_by_one_with_the_same_result() -> None:
    experiment = experiment_of("parameter_server_async")
    exact, batched = (run_scenario(with_execution(experiment, kind)) for kind in ("exact", "batched"))
    assert wrong(list(compare_outcomes("", exact, batched))) == []


@functools.cache
def short_outcome() -> Outcome:
    """Return the outcome of a short run."""
    return run_scenario(experiment_of("parameter_server", execution="exact", max_steps=4))


def later(outcome: Outcome) -> None:
    outcome.time += 1e-9


def heavier(outcome: Outcome) -> None:
    outcome.reports[1].payload_nbytes += 1


def staler(outcome: Outcome) -> None:
    outcome.reports[2].rows[3]["staleness"] += 1


def lossier(outcome: Outcome) -> None:
    outcome.reports[0].rows[-1]["loss"] *= 1 + 3e-4


def other(outcome: Outcome) -> None:
    outcome.models = jax.tree.map(lambda leaf: leaf + 1e-4, outcome.models)


def no_number(outcome: Outcome) -> None:
    outcome.models = jax.tree.map(lambda leaf: leaf * math.nan, outcome.models)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (later, "times, bytes, staleness"),
        (heavier, "times, bytes, staleness"),
        (staler, "times, bytes, staleness"),
        (lossier, "losses"),
        (other, "parameters"),
        (no_number, "parameters"),
    ],
)
def test_a_difference_between_executions_is_found(change: Callable[[Outcome], None], what: str) -> None:
    exact = short_outcome()
    changed = copy.deepcopy(exact)
    change(changed)
    assert wrong(list(compare_outcomes("x", exact, copy.deepcopy(exact)))) == []
    assert [check.name for check in wrong(list(compare_outcomes("x", exact, changed)))] == [f"x: {what}"]


def test_a_synchronous_round_compiles_once_however_many_rounds_there_are() -> None:
    clock, counts = compile_clock(), []
    for steps in (16, 48):
        experiment = experiment_of("parameter_server", max_steps=steps, evaluate={"every": None})
        before = clock.num_programs
        run_in_batches(experiment, max_gradients=16)
        counts.append(clock.num_programs - before)
    assert counts[1] <= counts[0]


@pytest.mark.parametrize(("num_ranks", "num_gradients"), [(8, 1001), (33, 33), (8, math.inf)])
def test_long_runs_and_those_of_many_ranks_are_compiled_as_a_whole(num_ranks: int, num_gradients: float) -> None:
    assert pays_off(num_ranks, num_gradients)


@pytest.mark.parametrize(("num_ranks", "num_gradients"), [(8, 1000), (32, 32)])
def test_short_runs_of_few_ranks_are_not(num_ranks: int, num_gradients: float) -> None:
    assert not pays_off(num_ranks, num_gradients)
