"""Execution: when and how the values of a simulated run are computed; when things happen does not depend on it."""

from __future__ import annotations

from typing import Any, Final, Protocol

from psgdsim.node import Kernel

NUM_ALONE: Final = 1000
"""So many calls of a batched run are made one by one: compiling for batches pays in longer runs only."""

MIN_GRADIENTS: Final = 64
"""So many gradients are put off at most, or four per rank if that is more."""


class Execution(Protocol):
    """Whoever computes values."""

    def call(self, kernel: Kernel, arguments: tuple[Any, ...]) -> Any:
        """Return the result of a kernel, a pytree of handles; it may be computed later."""


def make(kind: str, num_ranks: int) -> Execution:
    """Return an execution.

    Args:
        kind: `exact` or `batched`.
        num_ranks: how many ranks there are.
    """
    if kind == "exact":
        from psgdsim.sim.execution.exact import Exact

        return Exact()
    from psgdsim.sim.execution.batched import Batched

    return Batched(max(MIN_GRADIENTS, 4 * num_ranks), NUM_ALONE)
