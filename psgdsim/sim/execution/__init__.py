"""Execution: when and how the values of a simulated run are computed; when things happen does not depend on it."""

from __future__ import annotations

from typing import Any, Final, Protocol

from psgdsim.node import Kernel

NUM_ALONE: Final = 10_000
"""So many calls of a batched run of few ranks are made at once, one by one: compiling for batches pays later only."""

FEW_GRADIENTS: Final = 1_000
"""With more, a run that is simulated as a whole pays, also of few ranks: it compiles a handful of programs."""

FEW_RANKS: Final = 32
"""With more, batches pay within a few steps, and a step made call by call would not fit in memory."""

MAX_STEPS: Final = 16
"""So many gradients per rank are put off at most: what is put off should not leave the processor's cache."""

MAX_GRADIENTS: Final = 1024
"""So many gradients are put off at most by all ranks together, or two per rank if that is more; but see `FEW_STEPS`."""

FEW_STEPS: Final = 8
"""So many gradients per rank are put off anyway where ranks are carried on as one: that holds no results."""


class Execution(Protocol):
    """Whoever computes values."""

    def call(self, kernel: Kernel, arguments: tuple[Any, ...]) -> Any:
        """Return the result of a kernel, a pytree of handles; it may be computed later."""

    def finish(self) -> None:
        """Compute all that anybody still wants: no more calls will come."""


def pays_off(num_ranks: int, num_gradients: float) -> bool:
    """Return whether it pays to compile what simulates a run as a whole.

    Args:
        num_ranks: how many ranks there are.
        num_gradients: how many gradients they compute in all.
    """
    return num_ranks > FEW_RANKS or num_gradients > FEW_GRADIENTS


def make(kind: str, num_ranks: int, num_in_step: int = 0) -> Execution:
    """Return an execution.

    Args:
        kind: `exact` or `batched`.
        num_ranks: how many ranks there are.
        num_in_step: how many of them are carried on as one; only with `batched`.
    """
    if kind == "exact":
        from psgdsim.sim.execution.exact import Exact

        return Exact()
    from psgdsim.sim.execution.batched import Batched
    from psgdsim.sim.execution.lane_batched import LaneBatched

    max_gradients = max(min(MAX_GRADIENTS, MAX_STEPS * num_ranks), 2 * num_ranks)
    if num_in_step:
        return LaneBatched(num_in_step, max(max_gradients, FEW_STEPS * num_in_step))
    return Batched(max_gradients, NUM_ALONE if num_ranks <= FEW_RANKS else 0)
