"""What a rank contributes to the mean gradient of a step: its blocks, or its one block in micro-batches."""

from __future__ import annotations

import itertools
from typing import Any, Protocol

from psgdsim.data.assignment import Assignment
from psgdsim.data.order import split_rows
from psgdsim.errors import StrategyError
from psgdsim.node import Node
from psgdsim.per_rank import pick
from psgdsim.task import Task


class Contribution(Protocol):
    """A rank's part of the mean gradient of a step.

    Attributes:
        senders: the ranks that have a part, ascending.
    """

    senders: list[int]

    async def __call__(self, params: Any, step: int) -> tuple[Any, Any]:
        """Return the mean loss over this rank's rows, and its part of the mean gradient of all ranks."""


class Blocks:
    """The gradients of all blocks that a rank holds; it contributes those that no smaller rank holds.

    Args:
        node: the rank.
        task: what is trained.
        held: which ranks hold which blocks.
    """

    def __init__(self, node: Node, task: Task, held: Assignment) -> None:
        self._node, self._task = node, task
        self._blocks, self._mine = task.blocks(held.num_blocks), held.blocks_of(node.rank)
        self.senders = sorted({held.owner(block) for block in range(held.num_blocks)})
        rows = split_rows(task.global_rows, held.num_blocks)
        self._own = [i for i, block in enumerate(self._mine) if held.owner(block) == node.rank]
        self._weights = [pick(rows, self._mine[i]) / task.global_rows for i in self._own] or [0.0]
        total = sum(pick(rows, block) for block in self._mine)
        self._shares = [pick(rows, block) / total for block in self._mine]

    async def __call__(self, params: Any, step: int) -> tuple[Any, Any]:
        """Return the mean loss over this rank's rows, and its part of the mean gradient of all ranks."""
        node, task = self._node, self._task
        ids = [self._blocks.ids(step, block) for block in self._mine]
        losses, gradients = await node.compute(task.gradients, [params] * len(ids), ids)
        own = [gradients[i] for i in self._own] or gradients[:1]
        part = await node.compute(task.weighted_sum, self._weights, own)
        return losses[0] if len(losses) == 1 else await node.compute(task.weighted_sum, self._shares, losses), part


class MicroBatches:
    """The gradient of a rank's block, rows after rows: only the activations of one micro-batch are held at a time.

    Args:
        node: the rank.
        task: what is trained.
        num: into how many micro-batches, as equal as possible, a step's rows are cut.

    Raises:
        StrategyError: the rank has fewer rows.
    """

    def __init__(self, node: Node, task: Task, num: int) -> None:
        self._node, self._task = node, task
        self.senders = list(range(node.world_size))
        self._blocks = task.blocks(node.world_size)
        self._rows = split_rows(task.global_rows, node.world_size)[node.rank]
        if num > self._rows:
            raise StrategyError(
                f"strategy.accumulation: expected at most as many micro-batches as rank {node.rank} has rows per step, "
                f"{self._rows}; got {num}"
            )
        self._ends = list(itertools.accumulate(split_rows(self._rows, num), initial=0))

    async def __call__(self, params: Any, step: int) -> tuple[Any, Any]:
        """Return the mean loss over this rank's rows, and its part of the mean gradient of all ranks."""
        node, task = self._node, self._task
        ids = self._blocks.ids(step, node.rank)
        micro_batches = [ids[start:stop] for start, stop in itertools.pairwise(self._ends)]
        loss, gradient = await node.compute(task.backward.first_rows, params, micro_batches[0], self._rows)
        for each in micro_batches[1:]:
            loss, gradient = await node.compute(task.backward.more_rows, params, each, self._rows, loss, gradient)
        return loss, await node.compute(task.weighted_sum, [self._rows / task.global_rows], [gradient])
