"""Bulk-synchronous SGD: every rank computes a gradient, all take the mean, all apply it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from psgdsim.codecs.base import Codec
from psgdsim.data.assignment import AssignmentName, assign
from psgdsim.data.order import split_rows
from psgdsim.node import Node
from psgdsim.strategies.addition import Addition, Algorithm
from psgdsim.strategies.base import Strategy, register_strategy
from psgdsim.task import Task


@register_strategy("all_reduce")
def all_reduce(
    algorithm: Algorithm = "ring",
    redundancy: Annotated[int, Field(ge=1)] = 1,
    assignment: AssignmentName = "cyclic",
    group_size: Annotated[int, Field(ge=1)] | None = None,
    segments: Annotated[int, Field(ge=1, le=4096)] | None = None,
) -> Strategy:
    """Average the gradients of all ranks after every step: synchronous SGD without a server.

    w <- w - eta * sum_b (rows_b / rows) g_b(w). With m bytes of gradient, N ranks send per step, all together,
    N(N-1) m (`broadcast` over unicast), N m (`broadcast` where the network copies a multicast), N m lg N
    (`recursive_doubling`) or 2 (N-1) m (all others, and what folding adds where N is not 2^k). The times are in
    `psgdsim.collectives`.
    Source: Thakur, Rabenseifner and Gropp, IJHPCA 19(1), 2005; Patarasuk and Yuan, JPDC 69(2), 2009 (ring).

    Args:
        algorithm: `broadcast`, every rank sends its coded gradient to all others; all other algorithms need a codec
            whose payloads can be added: `ring`, the fewest bytes; `recursive_doubling`, the fewest latencies;
            `halving_doubling`, few of both; `tree`, up and down a binomial tree; `pipelined_tree`, in segments along
            two trees; `hierarchical`, inside groups and then between all their ranks; `leaders`, inside groups and then
            between their first ranks.
        redundancy: how many ranks compute each block; more than one costs compute time and, without a code, gains
            nothing: the smallest of the ranks that hold a block contributes it.
        assignment: which ranks hold which block when there is redundancy.
        group_size: ranks per group of neighbours, for `hierarchical` (a divisor of world_size) and `leaders`.
        segments: into how many segments `pipelined_tree` cuts each half of the gradient; 8 if null.
    """
    addition = Addition(algorithm, group_size, segments)

    def check(world_size: int, codec: Codec) -> None:
        assign(assignment, world_size, redundancy)
        addition.check(world_size, codec)

    async def worker(node: Node, task: Task) -> None:
        held = assign(assignment, node.world_size, redundancy)
        blocks, mine = task.blocks(held.num_blocks), held.blocks_of(node.rank)
        rows = split_rows(task.global_rows, held.num_blocks)
        own = [i for i, block in enumerate(mine) if held.owner(block) == node.rank]
        weights = [rows[mine[i]] / task.global_rows for i in own] or [0.0]
        shares = [rows[block] / sum(rows[each] for each in mine) for block in mine]
        state = await node.compute(task.init, 0, None)
        owners = sorted({held.owner(block) for block in range(held.num_blocks)})
        add = await addition.start(node, task, state.params, senders=owners)
        for step in task.steps():
            ids = [blocks.ids(step, block) for block in mine]
            losses, gradients = await node.compute(task.gradients, [state.params] * len(ids), ids)
            part = await node.compute(task.weighted_sum, weights, [gradients[i] for i in own] or gradients[:1])
            state = await node.compute(task.apply, state, await add(part, step))
            loss = losses[0] if len(losses) == 1 else await node.compute(task.weighted_sum, shares, losses)
            node.record(loss=loss)
            if not await node.checkpoint(step, [state.params]):
                return

    def num_blocks(world_size: int) -> int:
        return len(assign(assignment, world_size, redundancy).holders)

    return Strategy(worker, check, num_blocks)
