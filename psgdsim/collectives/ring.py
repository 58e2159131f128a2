"""Collectives around a ring: each rank sends to the next one only, so they load every link of a switch equally."""

from __future__ import annotations

from typing import Any

from psgdsim.collectives.base import ADD, CUT, JOIN, Group, Ranks
from psgdsim.node import Node


async def ring_all_reduce(node: Node, vector: Any, *, tag: str, ranks: Ranks | None = None) -> Any:
    """Sum a vector over all ranks around a ring; every rank ends with the same bits.

    Time 2(N-1) alpha + 2(N-1)/N m/B; 2(N-1)/N m bytes sent per rank, 2(N-1) m in all, for any length of vector.
    Source: Patarasuk and Yuan, "Bandwidth Optimal All-reduce Algorithms", JPDC 69(2), 2009.

    Args:
        node: this rank.
        vector: a value of shape `(d,)`.
        tag: names the operation and the step.
        ranks: who takes part, in the order of the ring; all by default.

    Returns:
        The sum, shape `(d,)`.
    """
    group = Group(node, ranks)
    if group.size == 1:
        return vector
    chunks = await node.compute(CUT, vector, group.size)
    await _reduce_around(group, chunks, group.place, f"{tag} rs")
    await _gather_around(group, chunks, group.place + 1, f"{tag} ag")
    return await node.compute(JOIN, chunks)


async def ring_reduce_scatter(node: Node, vector: Any, *, tag: str, ranks: Ranks | None = None) -> Any:
    """Sum a vector over all ranks around a ring and leave one part of the sum with each.

    Time (N-1) alpha + (N-1)/N m/B; (N-1)/N m bytes sent per rank, (N-1) m in all, for any length of vector.
    Source: Thakur, Rabenseifner and Gropp, IJHPCA 19(1), 2005.

    Args:
        node: this rank.
        vector: a value of shape `(d,)`.
        tag: names the operation and the step.
        ranks: who takes part, in the order of the ring; all by default.

    Returns:
        Chunk j of the sum, j being this rank's place among the ranks; it begins at element `j * d // N`.
    """
    group = Group(node, ranks)
    chunks = await node.compute(CUT, vector, group.size)
    await _reduce_around(group, chunks, group.place - 1, f"{tag} rs")
    return chunks[group.place]


async def ring_all_gather(node: Node, payload: Any, *, tag: str, ranks: Ranks | None = None) -> list[Any]:
    """Give every rank the payloads of all, passed on around a ring.

    Time (N-1)(alpha + b/B) for payloads of b bytes; (N-1) b bytes sent per rank, N(N-1) b in all.
    Source: Thakur, Rabenseifner and Gropp, IJHPCA 19(1), 2005.

    Args:
        node: this rank.
        payload: what this rank contributes, any payload.
        tag: names the operation and the step.
        ranks: who takes part, in the order of the ring; all by default.

    Returns:
        The payloads in the order of the ranks.
    """
    group = Group(node, ranks)
    payloads = [payload] * group.size
    await _gather_around(group, payloads, group.place, f"{tag} ag")
    return payloads


async def _reduce_around(group: Group, chunks: list[Any], first: int, tag: str) -> None:
    """Begin by passing on chunk `first`; end with the sum of chunk `first + 1`, in place."""
    for s in range(group.size - 1):
        received = await _shift(group, chunks[(first - s) % group.size], f"{tag}{s}")
        own = (first - s - 1) % group.size
        chunks[own] = await group.node.compute(ADD, chunks[own], received)


async def _gather_around(group: Group, parts: list[Any], first: int, tag: str) -> None:
    """Begin by passing on part `first`, which this rank has; end with all parts, in place."""
    for s in range(group.size - 1):
        parts[(first - s - 1) % group.size] = await _shift(group, parts[(first - s) % group.size], f"{tag}{s}")


async def _shift(group: Group, payload: Any, tag: str) -> Any:
    """Send to the successor while receiving from the predecessor."""
    return await group.exchange((group.place + 1) % group.size, payload, (group.place - 1) % group.size, tag)
