"""What a strategy is: one program per role, plus what the scenario loader and the results need to know of it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psgdsim.codecs.base import Codec
from psgdsim.errors import StrategyError, shown
from psgdsim.node import Node
from psgdsim.registry import Family
from psgdsim.strategies.as_they_come import AsTheyCome
from psgdsim.task import Task

Program = Callable[[Node, Task], Coroutine[Any, Any, None]]
"""An `async def` over a node and a task: what one role does."""

Row = dict[str, Any]


def _accept(_world_size: int, _codec: Codec) -> None:
    """Accept any setting."""


def _no_summary(_world_size: int, _rows: Sequence[Row]) -> dict[str, Any]:
    """Add nothing to the summary."""
    return {}


def _guarded(program: Program) -> Program:
    """Return a program that is a coroutine, whatever its author has written."""

    def start(node: Node, task: Task) -> Coroutine[Any, Any, None]:
        try:
            running = program(node, task)
        except Exception as error:
            return _fail(error)
        if isinstance(running, Coroutine):
            return running
        name = getattr(program, "__qualname__", shown(program))
        return _fail(
            StrategyError(f"what a rank runs must be an `async def`; {name} is none and returned {shown(running)}")
        )

    return start


async def _fail(error: Exception) -> None:
    raise error


@dataclass(frozen=True)
class Strategy:
    """A way to train one model (or several) on many nodes.

    Args:
        worker: the program of ranks 0 .. world_size - 1.
        check: `(world_size, codec)`; raises `ValueError` if the strategy cannot run so, saying what to change.
        num_blocks: world size -> blocks into which one step's rows are dealt out.
        summarize: `(world_size, step rows of all ranks)` -> entries for `summary.json`; all that is certain to
            be there is the last row of each rank (`trace: off`), so nothing may depend on others.
        is_replicated: whether every rank that leads, and has the whole model, ends with the same parameters, bit for
            bit; the run fails if not.
        server: the program of the ranks after the workers', or None if there are none.
        num_servers: how many of them there are.
        is_lock_step: whether all ranks end every step together with `Node.checkpoint`. If not, ranks run freely: the
            servers lead, or all workers where there are none, and each rank that leads calls `checkpoint` after its own
            steps; a worker that does not lead calls `Node.end_step` and goes on until a server tells it to stop. A
            server's step is as many rows as one step of all workers.
        survives_loss: whether the programs go on without a worker that is lost.
        awaits_lost: whether they wait for it instead; then a run fails as soon as a worker is lost that will not come
            back.
        needs_all: why the programs cannot go on without a rank, where they do not survive its loss.
        is_sharded: whether the model lies in parts on the servers, and is whole only on the workers.
        is_bitwise: whether what one rank computes must be, bit for bit, what another one computes; then a simulation
            always executes exactly.
        is_spmd: whether all workers do the same, each with numbers of its own: what they do, and with whom, does not
            depend on their rank, which they only hand to `SampleOrder.ids`, `pick` or a kernel. Then a simulation may
            run their program once for all of them (see `per_rank`); it finds out by itself if that is not so, but then
            it has to begin anew.
        as_they_come: says that the programs do nothing but what this stands for, if that is so. Then a simulation may
            find out what comes of them without running them.

    Raises:
        ValueError: a server's program without servers, or the other way round.
    """

    worker: Program
    check: Callable[[int, Codec], None] = _accept
    num_blocks: Callable[[int], int] = lambda world_size: world_size
    summarize: Callable[[int, Sequence[Row]], dict[str, Any]] = _no_summary
    is_replicated: bool = True
    server: Program | None = None
    num_servers: int = 0
    is_lock_step: bool = True
    survives_loss: bool = False
    awaits_lost: bool = False
    needs_all: str = "the others wait for what each of them sends"
    is_sharded: bool = False
    is_bitwise: bool = False
    is_spmd: bool = False
    as_they_come: AsTheyCome | None = None

    def __post_init__(self) -> None:
        if (self.server is not None) != (self.num_servers > 0):
            expected = "0 without a server program" if self.server is None else "at least 1 with a server program"
            raise ValueError(f"num_servers: expected {expected}; got {self.num_servers}")

    def program(self, rank: int, world_size: int) -> Program:
        """Return what a rank runs.

        A program that cannot even be started fails once it runs, as every other that fails.
        """
        return _guarded(self.worker if self.server is None or rank < world_size else self.server)

    def leaders(self, world_size: int) -> range:
        """Return the ranks that lead a run: those that end their steps with `Node.checkpoint`."""
        first = 0 if self.is_lock_step or not self.num_servers else world_size
        return range(first, world_size + self.num_servers)

    def replicas(self, world_size: int) -> range:
        """Return the ranks that must end with the same parameters: those that lead and have the whole model, if any."""
        leaders = self.leaders(world_size) if self.is_replicated else range(0)
        return leaders[:world_size] if self.is_sharded else leaders

    def staleness(self, counts: Mapping[int | float, int]) -> dict[str, Any]:
        """Return how stale the workers' gradients were; where ranks run freely, also how many were by how much.

        Args:
            counts: how many of their steps were by how much.
        """
        total = sum(value * count for value, count in sorted(counts.items()))
        summary = {"mean": total / max(1, sum(counts.values())), "max": max(counts, default=0)}
        if self.is_lock_step:
            return summary
        return {**summary, "histogram": {str(value): count for value, count in sorted(counts.items())}}


strategies = Family("strategy", product=Strategy)
register_strategy = strategies.register
