"""Bulk-synchronous SGD: every rank computes a gradient, all take the mean, all apply it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from psgdsim import collectives
from psgdsim.codecs.base import Codec
from psgdsim.data.assignment import Assignment, AssignmentName, assign
from psgdsim.node import Node
from psgdsim.strategies.base import Strategy, register_strategy
from psgdsim.task import Task, TrainState


@register_strategy("all_reduce")
def all_reduce(
    algorithm: Literal["broadcast", "ring"] = "ring",
    redundancy: Annotated[int, Field(ge=1)] = 1,
    assignment: AssignmentName = "cyclic",
) -> Strategy:
    """Average the gradients of all ranks after every step: synchronous SGD without a server.

    w <- w - eta * sum_b (rows_b / rows) g_b(w). With m bytes of gradient each of N ranks sends (N-1) m (`broadcast`
    over unicast), m (`broadcast` where the network copies a multicast) or 2 (N-1)/N m (`ring`) per step.
    Source: Patarasuk and Yuan, JPDC 69(2), 2009 (ring).

    Args:
        algorithm: `broadcast`, every rank sends its coded gradient to all others, or `ring`, which needs a codec
            whose payloads can be added.
        redundancy: how many ranks compute each block; more than one costs compute time and, without a code, gains
            nothing: the smallest of the ranks that hold a block contributes it.
        assignment: which ranks hold which block when there is redundancy.
    """

    def check(world_size: int, codec: Codec) -> None:
        assign(assignment, world_size, redundancy)
        if algorithm == "ring" and not codec.is_summable:
            raise ValueError(
                "algorithm: algorithm 'ring' adds payloads without decoding them, which this codec does not allow; use "
                "algorithm 'broadcast', or codec 'identity'"
            )

    async def worker(node: Node, task: Task) -> None:
        held = assign(assignment, node.world_size, redundancy)
        combine = _Ring() if algorithm == "ring" else _Broadcast()
        blocks = task.blocks(len(held.holders))
        state = await node.compute(task.init, 0, None)
        await combine.start(node, task, held, state)
        for step in task.steps():
            mine = held.blocks_of(node.rank)
            ids = [blocks.ids(step, block) for block in mine]
            losses, gradients = await node.compute(task.gradients, [state.params] * len(ids), ids)
            shares = [len(rows) / task.global_rows for rows in ids]
            owned = [i for i, block in enumerate(mine) if held.owner(block) == node.rank]
            part = await node.compute(
                task.weighted_sum,
                [shares[i] for i in owned] or [0.0],
                [gradients[i] for i in owned] or gradients[:1],
            )
            gradient = await combine(node, task, part, step)
            state = await node.compute(task.apply, state, gradient)
            node.record(loss=await node.compute(task.weighted_sum, [share / sum(shares) for share in shares], losses))
            if not await node.checkpoint(step, [state.params]):
                return

    return Strategy(worker, check)


class _Broadcast:
    """Every owner of a block sends its part to all others; all add the parts up in the order of the ranks."""

    async def start(self, node: Node, task: Task, held: Assignment, state: TrainState) -> None:
        self.senders = sorted({held.owner(block) for block in range(len(held.holders))})
        self.encoder = await node.compute(task.init_codec, state.params)
        self.decoders = dict.fromkeys(self.senders, self.encoder)

    async def __call__(self, node: Node, task: Task, part: Any, step: int) -> Any:
        payload = None
        if node.rank in self.senders:
            payload, self.encoder = await node.compute(task.encode, part, self.encoder, node.rank, step)
        payloads = await collectives.all_gather(node, payload, tag=f"gradient {step}", senders=self.senders)
        parts = []
        for rank, coded in zip(self.senders, payloads, strict=True):
            update, self.decoders[rank] = await node.compute(task.decode, coded, self.decoders[rank], part)
            parts.append(update)
        return await node.compute(task.weighted_sum, [1.0] * len(parts), parts)


class _Ring:
    """Payloads travel around a ring and are added on the way; the sum is decoded once."""

    async def start(self, node: Node, task: Task, _held: Assignment, state: TrainState) -> None:
        self.encoder = await node.compute(task.init_codec, state.params)
        self.decoder = self.encoder

    async def __call__(self, node: Node, task: Task, part: Any, step: int) -> Any:
        payload, self.encoder = await node.compute(task.encode, part, self.encoder, node.rank, step)
        vector = await node.compute(collectives.RAVEL, payload)
        total = await collectives.ring_all_reduce(node, vector, tag=f"gradient {step}")
        payload = await node.compute(collectives.UNRAVEL, total, payload)
        update, self.decoder = await node.compute(task.decode, payload, self.decoder, part)
        return update
