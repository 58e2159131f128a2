"""Collectives along trees, and the barrier.

A binomial tree over N places: a place's parent is the place without its lowest set bit. The root is place 0 after the
ranks have been turned so that it comes first.
"""

from __future__ import annotations

from typing import Any

from psgdsim.collectives.base import ADD, CUT, JOIN, Group, Ranks
from psgdsim.collectives.ring import ring_all_gather
from psgdsim.node import Node


async def reduce(node: Node, vector: Any, *, tag: str, root: int | None = None, ranks: Ranks | None = None) -> Any:
    """Sum a vector over all ranks at one of them, along a binomial tree.

    Time lg N (alpha + m/B) for N = 2^k, at most that of the next 2^k for other N; m bytes sent per rank but the root,
    (N-1) m in all.
    Source: Thakur, Rabenseifner and Gropp, IJHPCA 19(1), 2005.

    Args:
        node: this rank.
        vector: a value of shape `(d,)`.
        tag: names the operation and the step.
        root: the rank that gets the sum; the first of `ranks` by default.
        ranks: who takes part; all by default.

    Returns:
        The sum, shape `(d,)`, at the root; None elsewhere.
    """
    group = _rooted(Group(node, ranks), root)
    distance = 1
    while distance < group.size:
        if group.place & distance:
            await group.send(group.place - distance, vector, f"{tag} up")
            return None
        if group.place + distance < group.size:
            received = await group.recv(group.place + distance, f"{tag} up")
            vector = await node.compute(ADD, vector, received)
        distance *= 2
    return vector


async def broadcast(node: Node, payload: Any, *, tag: str, root: int | None = None, ranks: Ranks | None = None) -> Any:
    """Give every rank the payload of one of them, along a binomial tree.

    Time ceil(lg N) (alpha + m/B), (N-1) m bytes in all, for any N.
    Source: Thakur, Rabenseifner and Gropp, IJHPCA 19(1), 2005.

    Args:
        node: this rank.
        payload: what the root gives, any payload; ignored elsewhere.
        tag: names the operation and the step.
        root: the rank whose payload it is; the first of `ranks` by default.
        ranks: who takes part; all by default.

    Returns:
        The root's payload.
    """
    group = _rooted(Group(node, ranks), root)
    if group.place:
        payload = await group.recv(group.place & (group.place - 1), f"{tag} down")
    for child in _children(group):
        await group.send(child, payload, f"{tag} down")
    return payload


async def scatter_broadcast(
    node: Node, vector: Any, *, tag: str, root: int | None = None, ranks: Ranks | None = None
) -> Any:
    """Give every rank the vector of one of them: scattered along a binomial tree, then gathered around a ring.

    Time (lg N + N-1) alpha + 2(N-1)/N m/B, (N-1) m + m/2 lg N bytes in all, for N = 2^k. For long vectors, where
    `broadcast` sends the whole lg N times.
    Source: Thakur, Rabenseifner and Gropp, IJHPCA 19(1), 2005.

    Args:
        node: this rank.
        vector: a value of shape `(d,)` at the root; ignored elsewhere.
        tag: names the operation and the step.
        root: the rank whose vector it is; the first of `ranks` by default.
        ranks: who takes part; all by default.

    Returns:
        The root's vector.
    """
    group = _rooted(Group(node, ranks), root)
    if group.place:
        chunks = await group.recv(group.place & (group.place - 1), f"{tag} sc")
    else:
        chunks = await node.compute(CUT, vector, group.size)
    for child in _children(group):
        keep = child - group.place
        await group.send(child, chunks[keep:], f"{tag} sc")
        chunks = chunks[:keep]
    parts = await ring_all_gather(node, chunks[0], tag=tag, ranks=group.ranks)
    return await node.compute(JOIN, parts)


async def tree_all_reduce(node: Node, vector: Any, *, tag: str, ranks: Ranks | None = None) -> Any:
    """Sum a vector over all ranks by a reduce and a broadcast along a binomial tree; all end with the same bits.

    Time 2 lg N (alpha + m/B) for N = 2^k, at most that of the next 2^k for other N; 2(N-1) m bytes in all.
    Source: Thakur, Rabenseifner and Gropp, IJHPCA 19(1), 2005.

    Args:
        node: this rank.
        vector: a value of shape `(d,)`.
        tag: names the operation and the step.
        ranks: who takes part; all by default.

    Returns:
        The sum, shape `(d,)`.
    """
    total = await reduce(node, vector, tag=tag, ranks=ranks)
    return await broadcast(node, total, tag=tag, ranks=ranks)


async def barrier(node: Node, *, tag: str, ranks: Ranks | None = None) -> None:
    """Wait until every rank has come here.

    Time ceil(lg N) alpha, and that of as many empty frames per rank.
    Source: Hensgen, Finkel and Manber, "Two Algorithms for Barrier Synchronization", Int. J. Parallel Programming
    17(1), 1988 (dissemination).

    Args:
        node: this rank.
        tag: names the operation and the step.
        ranks: who takes part; all by default.
    """
    group = Group(node, ranks)
    distance = 1
    while distance < group.size:
        dst, src = (group.place + distance) % group.size, (group.place - distance) % group.size
        await group.exchange(dst, None, src, f"{tag} b{distance}")
        distance *= 2


def _rooted(group: Group, root: int | None) -> Group:
    """Return the same ranks, turned so that the root comes first."""
    first = group.place_of(root)
    return Group(group.node, group.ranks[first:] + group.ranks[:first])


def _children(group: Group) -> list[int]:
    """Return the places to which this place of a binomial tree sends, the largest subtree first."""
    lowest = group.place & -group.place or 1 << (group.size - 1).bit_length()
    distances = (1 << k for k in reversed(range(lowest.bit_length() - 1)))
    return [group.place + distance for distance in distances if group.place + distance < group.size]
