"""What a strategy is: one program per role, plus what the scenario loader and the results need to know of it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from psgdsim.codecs.base import Codec
from psgdsim.node import Node
from psgdsim.registry import Family
from psgdsim.task import Task

Program = Callable[[Node, Task], Coroutine[Any, Any, None]]
"""An `async def` over a node and a task: what one role does."""

Row = dict[str, Any]


def _accept(_world_size: int, _codec: Codec) -> None:
    """Accept any setting."""


def _no_summary(_world_size: int, _rows: Sequence[Row]) -> dict[str, Any]:
    """Add nothing to the summary."""
    return {}


@dataclass(frozen=True)
class Strategy:
    """A way to train one model (or several) on many nodes.

    Args:
        worker: the program of ranks 0 .. world_size - 1.
        check: `(world_size, codec)`; raises `ValueError` if the strategy cannot run so, saying what to change.
        num_blocks: world size -> blocks into which one step's rows are dealt out.
        summarize: `(world_size, step rows of all ranks)` -> entries for `summary.json`.
        is_replicated: whether every rank ends with the same parameters, bit for bit; the run fails if not.
    """

    worker: Program
    check: Callable[[int, Codec], None] = _accept
    num_blocks: Callable[[int], int] = lambda world_size: world_size
    summarize: Callable[[int, Sequence[Row]], dict[str, Any]] = _no_summary
    is_replicated: bool = True


strategies = Family("strategy", product=Strategy)
register_strategy = strategies.register
