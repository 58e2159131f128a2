"""Bulk-synchronous SGD: every rank computes a gradient, all take the mean, all apply it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from psgdsim import collectives
from psgdsim.codecs.base import Codec
from psgdsim.data.assignment import Assignment, AssignmentName, assign
from psgdsim.node import Node
from psgdsim.strategies.base import Strategy, register_strategy
from psgdsim.task import Task, TrainState

Algorithm = Literal[
    "broadcast",
    "ring",
    "recursive_doubling",
    "halving_doubling",
    "tree",
    "pipelined_tree",
    "hierarchical",
    "leaders",
]

Sum = Callable[..., Coroutine[Any, Any, Any]]
"""`(node, vector, tag=)` -> the sum over all ranks."""

_SUMS: Final[dict[str, Sum]] = {
    "ring": collectives.ring_all_reduce,
    "recursive_doubling": collectives.recursive_doubling_all_reduce,
    "halving_doubling": collectives.halving_doubling_all_reduce,
    "tree": collectives.tree_all_reduce,
    "pipelined_tree": collectives.pipelined_tree_all_reduce,
    "hierarchical": collectives.hierarchical_all_reduce,
    "leaders": collectives.leader_all_reduce,
}
_GROUPED: Final = ("hierarchical", "leaders")


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

    def check(world_size: int, codec: Codec) -> None:
        assign(assignment, world_size, redundancy)
        if algorithm != "broadcast" and not codec.is_summable:
            raise ValueError(
                "algorithm: expected algorithm 'broadcast' with a codec whose payloads cannot be added without "
                f"decoding them, or codec 'identity'; got algorithm {algorithm!r}"
            )
        _check_settings(algorithm, world_size, group_size, segments)

    async def worker(node: Node, task: Task) -> None:
        held = assign(assignment, node.world_size, redundancy)
        combine = _Broadcast() if algorithm == "broadcast" else _Sum(_chosen(algorithm, group_size, segments))
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

    def num_blocks(world_size: int) -> int:
        return len(assign(assignment, world_size, redundancy).holders)

    return Strategy(worker, check, num_blocks)


def _check_settings(algorithm: str, world_size: int, group_size: int | None, segments: int | None) -> None:
    """Raise `ValueError` if a setting is missing, does not fit, or would be ignored."""
    if algorithm in _GROUPED and group_size is None:
        raise ValueError(f"group_size: required with algorithm {algorithm!r}: how many ranks are in a group")
    if algorithm not in _GROUPED and group_size is not None:
        raise ValueError(
            f"group_size: only algorithms {' and '.join(_GROUPED)} have groups; got algorithm {algorithm!r}"
        )
    if group_size is not None and group_size > world_size:
        raise ValueError(f"group_size: expected at most world_size ({world_size}); got {group_size}")
    if algorithm == "hierarchical" and group_size is not None and world_size % group_size:
        divisors = [size for size in range(1, world_size + 1) if world_size % size == 0]
        below, above = max(d for d in divisors if d < group_size), min(d for d in divisors if d > group_size)
        raise ValueError(
            f"group_size: expected a divisor of world_size ({world_size}), such as {below} or {above}; got {group_size}"
        )
    if algorithm != "pipelined_tree" and segments is not None:
        raise ValueError(f"segments: only algorithm 'pipelined_tree' has segments; got algorithm {algorithm!r}")


def _chosen(algorithm: str, group_size: int | None, segments: int | None) -> Sum:
    settings = {"group_size": group_size, "segments": segments}
    given = {name: value for name, value in settings.items() if value is not None}
    return functools.partial(_SUMS[algorithm], **given) if given else _SUMS[algorithm]


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


class _Sum:
    """Payloads are added on the way by one of the collectives; the sum is decoded once.

    Args:
        total: the collective.
    """

    def __init__(self, total: Sum) -> None:
        self._total = total

    async def start(self, node: Node, task: Task, _held: Assignment, state: TrainState) -> None:
        self.encoder = await node.compute(task.init_codec, state.params)
        self.decoder = self.encoder

    async def __call__(self, node: Node, task: Task, part: Any, step: int) -> Any:
        payload, self.encoder = await node.compute(task.encode, part, self.encoder, node.rank, step)
        vector = await node.compute(collectives.RAVEL, payload)
        total = await node.collective(self._total, vector, tag=f"gradient {step}")
        payload = await node.compute(collectives.UNRAVEL, total, payload)
        update, self.decoder = await node.compute(task.decode, payload, self.decoder, part)
        return update
