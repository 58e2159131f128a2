"""Sums of gradients that batched execution computes as gradients of sums."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest

from psgdsim.scenario import from_dict
from psgdsim.scenario.experiment import build
from psgdsim.sim.execution import lane_job, segment_job
from psgdsim.sim.execution.batched import Batched
from psgdsim.sim.execution.exact import Exact
from psgdsim.sim.values import numbers
from psgdsim.task import Task

SPEC = {
    "name": "sums",
    "world_size": 6,
    "batch_size": 4,
    "max_steps": 5,
    "model": {"kind": "mlp", "hidden": [8]},
    "data": {"kind": "synthetic_classification", "num_samples": 200, "num_features": 6, "num_classes": 3},
    "optimizer": {"kind": "sgd", "learning_rate": 0.1},
    "topology": {"kind": "star", "bandwidth": "1 Gbit/s", "latency": "1 us"},
    "evaluate": {"every": None},
    "trace": "off",
}

NUM = 11  # rows that are no round number: the batch is longer


@pytest.fixture
def summed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Return a list that gets the number of rows of each sum of gradients."""
    found: list[int] = []
    original: Callable[..., Any] = segment_job.summed

    def watched(segment: Any, size: int, **settings: Any) -> Any:
        result = original(segment, size, **settings)
        if result.is_summed:
            found.append(size)
        return result

    for job in (segment_job, lane_job):
        monkeypatch.setattr(job, "summed", watched)
    return found


@pytest.fixture(scope="module")
def task() -> Task:
    """Return a small task."""
    return build(from_dict({**SPEC, "world_size": NUM, "strategy": {"kind": "all_reduce"}})).task


def total_of(execution: Any, task: Task, weights: list[float], hold: list[Any]) -> tuple[Any, list[Any]]:
    """Return a weighted sum of gradients, and the losses; what is appended to `hold` is held."""
    blocks = task.blocks(NUM)
    params = execution.call(task.init, (0, None)).params
    losses, gradients = [], []
    for rank in range(NUM):
        [loss], [gradient] = execution.call(task.gradients, ([params], [blocks.ids(1, rank)]))
        losses.append(loss)
        gradients.append(execution.call(task.weighted_sum, ([0.5], [gradient])))
        if rank == 3:
            hold += [gradient, gradients[-1]]
    total = execution.call(task.weighted_sum, (weights, gradients))
    return total, losses


def assert_equal(got: Any, expected: Any) -> None:
    for a, b in zip(jax.tree.leaves(numbers(got)), jax.tree.leaves(numbers(expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_total_of_gradients_is_one_gradient(task: Task, summed: list[int]) -> None:
    weights = [1.0 + i / 10 for i in range(NUM)]
    hold: list[Any] = []
    expected, expected_losses = total_of(Exact(), task, weights, [])
    execution = Batched(1000)
    total, losses = total_of(execution, task, weights, hold)
    hold.clear()
    assert_equal(total, expected)
    assert_equal(losses, expected_losses)
    assert len(summed) == 1
    assert summed[0] >= NUM


def test_a_gradient_that_is_held_can_be_had_later(task: Task, summed: list[int]) -> None:
    exact_hold: list[Any] = []
    hold: list[Any] = []
    expected, expected_losses = total_of(Exact(), task, [1.0] * NUM, exact_hold)
    execution = Batched(1000)
    total, losses = total_of(execution, task, [1.0] * NUM, hold)
    assert_equal(total, expected)
    assert len(summed) == 1
    assert_equal(losses, expected_losses)
    assert_equal(hold, exact_hold)
    assert_equal(losses, expected_losses)


def test_rows_that_have_no_part_are_no_part_of_it(task: Task, summed: list[int]) -> None:
    weights = [0.0, *[1.0] * (NUM - 1)]
    total, _ = total_of(Batched(1000), task, weights, [])
    assert_equal(total, total_of(Exact(), task, weights, [])[0])
    assert not summed


@pytest.mark.parametrize("strategy", [{"kind": "parameter_server"}, {"kind": "all_reduce", "algorithm": "ring"}])
def test_plain_synchronous_sgd_sums_gradients_at_every_step(
    strategy: dict[str, Any], summed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from psgdsim.sim import execution
    from psgdsim.sim.driver import run_sim

    monkeypatch.setattr(execution, "NUM_ALONE", 0)
    models = {}
    for kind in ("exact", "batched"):
        outcome = run_sim(build(from_dict({**SPEC, "strategy": strategy, "execution": kind})))
        assert outcome.error is None
        models[kind] = outcome.models
    assert len(summed) == 5
    assert_equal(models["batched"], models["exact"])
