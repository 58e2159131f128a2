"""Whatever calls a program makes, keeps, drops and reads, batched execution gives it the numbers of exact execution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from psgdsim.node import Kernel
from psgdsim.sim.execution.batched import Batched
from psgdsim.sim.execution.exact import Exact
from psgdsim.sim.execution.scans import allot
from psgdsim.sim.values import numbers

TOLERANCE = 1e-5


def weighted_sum(weights: Any, trees: Any) -> Any:
    return jax.tree.map(lambda *leaves: sum(w * leaf for w, leaf in zip(weights, leaves, strict=True)), *trees)


START = Kernel("start", lambda number: {"w": jnp.full((3,), 0.1 * number), "b": jnp.full((), 0.5)})
GRADIENT = Kernel("gradient", lambda p, x: {"w": jnp.sin(p["w"] + x), "b": p["b"] * 0.5 + x.sum()}, "gradient")
APPLY = Kernel("apply", lambda p, g: {"w": p["w"] - 0.1 * g["w"], "b": p["b"] - 0.1 * g["b"]})
CODE = Kernel("code", lambda g, state: ({"w": g["w"] + state, "b": g["b"]}, state * 0.5 + g["w"]), "codec")
VIEW = Kernel("view", lambda p, g: ({"w": g["w"], "b": g["b"]}, p["b"]))
SUM = Kernel("sum", weighted_sum, is_weighted_sum=True)


def asynchronous(execution: Any, draw: Callable[[int], int], num_updates: int) -> list[Any]:
    """Let workers push gradients to a server in any order, each computed at what it read last."""
    state, is_coded = execution.call(START, (1.0,)), draw(2)
    read, coded, rows = [state] * 4, [execution.call(START, (0.0,))["w"]] * 4, []
    for update in range(num_updates):
        worker = draw(4)
        gradient = execution.call(GRADIENT, (read[worker], np.full(3, 0.01 * update, np.float32)))
        if is_coded and draw(3):
            gradient, coded[worker] = execution.call(CODE, (gradient, coded[worker]))
        state = execution.call(APPLY, (state, gradient))
        if draw(5):
            read[worker] = state
        if draw(20) == 0:
            rows.append(state["b"])
        if draw(40) == 0:
            numbers(state)
    return [state, read, rows]


def synchronous(execution: Any, draw: Callable[[int], int], num_rounds: int) -> list[Any]:
    """Let workers compute gradients at one model and add them up; now and then some of them are late."""
    state, losses, late = execution.call(START, (2.0,)), [], []
    for step in range(num_rounds):
        gradients = [
            execution.call(GRADIENT, (state, np.full(3, 0.1 * step + worker, np.float32))) for worker in range(6)
        ]
        losses += [gradient["b"] for gradient in gradients[: draw(3)]]
        if draw(3) == 0:
            late.append(gradients.pop(draw(len(gradients))))
        total = execution.call(SUM, ([1 / len(gradients)] * len(gradients), gradients))
        seen, _ = execution.call(VIEW, (state, total))
        state = execution.call(APPLY, (state, seen))
    return [state, losses, late]


def apart(execution: Any, draw: Callable[[int], int], num_steps: int) -> list[Any]:
    """Let workers train models of their own and take the mean now and then."""
    states = [execution.call(START, (float(worker),)) for worker in range(6)]
    for step in range(num_steps):
        worker = draw(6)
        gradient = execution.call(GRADIENT, (states[worker], np.full(3, 0.1 * step, np.float32)))
        states[worker] = execution.call(APPLY, (states[worker], gradient))
        if draw(6) == 0:
            states = [execution.call(SUM, ([1 / 6] * 6, states))] * 6
    return states


@settings(max_examples=25, deadline=None)
@given(
    program=st.sampled_from([asynchronous, synchronous, apart]),
    length=st.integers(1, 60),
    seed=st.integers(0, 2**32 - 1),
    max_gradients=st.integers(2, 64),
)
def test_batched_execution_gives_the_numbers_of_exact_execution(
    program: Callable[..., list[Any]], length: int, seed: int, max_gradients: int
) -> None:
    results = []
    for execution in (Exact(), Batched(max_gradients)):
        generator = np.random.default_rng(seed)
        results.append(numbers(program(execution, lambda n, g=generator: int(g.integers(n)), length)))
    for one, other in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(other, one, rtol=TOLERANCE, atol=TOLERANCE)


@given(st.data())
def test_versions_stay_in_their_slots_until_nobody_needs_them(data: st.DataObject) -> None:
    num_rows, num_before = data.draw(st.integers(1, 30)), data.draw(st.integers(0, 5))
    versions = range(-num_before, num_rows)
    reads = []
    if num_before:
        reads = [data.draw(st.integers(-num_before, row - 1)) for row in range(num_rows)]
    kept = data.draw(st.sets(st.sampled_from(list(versions)))) | {num_rows - 1}
    rows = None
    if data.draw(st.booleans()):
        rows = data.draw(st.lists(st.integers(0, 9), min_size=num_before, max_size=num_before, unique=True))
    slots = allot(reads, num_rows, num_before, kept, rows)
    content = dict(zip(slots.starts, range(-1, -num_before - 1, -1), strict=True))
    for row in range(num_rows):
        if reads:
            assert content[slots.reads[row]] == reads[row]
        if slots.writes[row] >= 0:
            content[slots.writes[row]] = row
    assert kept <= set(content.values())
    assert all(slot < slots.num for slot in content)
