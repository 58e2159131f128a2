"""Single cases of batched execution that once gave other numbers than exact execution."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from psgdsim.node import Kernel
from psgdsim.sim.execution.batched import Batched
from psgdsim.sim.execution.exact import Exact
from psgdsim.sim.values import numbers

DOUBLE = Kernel("double", lambda x: x * 2.0, "gradient")
FILL = Kernel("fill", lambda value: jnp.full((3,), value))


def total(weights: Any, trees: Any) -> Any:
    return sum(weight * tree for weight, tree in zip(weights, trees, strict=True))


SUM = Kernel("sum", total, is_weighted_sum=True)


def test_a_call_that_was_dropped_runs_when_it_is_made_again() -> None:
    execution = Batched(max_gradients=4)
    data = np.ones(3, np.float32)
    data.flags.writeable = False
    execution.call(DOUBLE, (data,))
    for i in range(40):
        execution.call(DOUBLE, (np.full(3, i, np.float32),))
    np.testing.assert_array_equal(numbers(execution.call(DOUBLE, (data,))), 2.0 * data)


@pytest.mark.parametrize(
    ("function", "number"),
    [
        (lambda x, s: x * ((s * 100003) % 1000), 30_000),
        (lambda x, s: x * (s * 2654435761 % 7), 3),
        (lambda x, s: x * (s / 3 - s / 3.0000001), 1e6),
        (lambda x, s: x * s.bit_length(), 5),
    ],
)
def test_python_computes_with_plain_numbers_as_ever(function: Any, number: float) -> None:
    kernel = Kernel("plain", function)
    results = [numbers(each.call(kernel, (np.ones(2, np.float32), number))) for each in (Exact(), Batched(4))]
    np.testing.assert_allclose(results[1], results[0], rtol=1e-6)


def test_an_array_is_what_it_was_at_the_call() -> None:
    execution, data, results = Batched(8), np.zeros(3, np.float32), []
    for i in range(3):
        data[:] = i
        results.append(execution.call(DOUBLE, (data,)))
    assert [numbers(each)[0] for each in results] == [0.0, 2.0, 4.0]


def test_rows_that_are_no_addends_have_no_part_in_a_sum_even_if_they_are_infinite() -> None:
    execution = Batched(64)
    rows = [execution.call(DOUBLE, (np.full(3, value, np.float32),)) for value in (1, 2, 3, np.inf, 4, 5, 6)]
    finite = rows[:3] + rows[4:]
    np.testing.assert_array_equal(numbers(execution.call(SUM, ([1.0] * 6, finite))), [42.0] * 3)
    numbers(rows[3])
    np.testing.assert_array_equal(numbers(execution.call(SUM, ([0.5] * 6, finite))), [21.0] * 3)


def test_many_plain_numbers_can_be_added() -> None:
    assert numbers(Batched(4).call(SUM, ([0.5] * 6, [1.0] * 6))) == 3.0


def test_what_has_failed_is_said_again_to_all_who_ask() -> None:
    def refuse(*_: Any) -> Any:
        raise RuntimeError("no")

    execution = Batched(4)
    first = execution.call(FILL, (1.0,))
    execution._runner.run = refuse  # type: ignore[method-assign]
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no"):
            numbers(first)
