"""Collective operations, written once against the node: the same message pattern in both modes.

Costs for N ranks, a message of m bytes, latency alpha and bandwidth B are those of Thakur, Rabenseifner and Gropp,
"Optimization of Collective Communication Operations in MPICH", IJHPCA 19(1), 2005.
"""

from __future__ import annotations

import itertools
from typing import Any

from psgdsim.compilation import lazy_jit
from psgdsim.node import Kernel, Node


def _cut(vector: Any, parts: int) -> list[Any]:
    length = vector.shape[0]
    offsets = [j * length // parts for j in range(parts + 1)]
    return [vector[start:stop] for start, stop in itertools.pairwise(offsets)]


def _join(parts: list[Any]) -> Any:
    import jax.numpy as jnp

    return jnp.concatenate(parts)


def _ravel(tree: Any) -> Any:
    from jax.flatten_util import ravel_pytree

    return ravel_pytree(tree)[0]


def _unravel(vector: Any, like: Any) -> Any:
    from jax.flatten_util import ravel_pytree

    return ravel_pytree(like)[1](vector)


ADD = Kernel("add", lazy_jit(lambda a, b: a + b))
CUT = Kernel("cut", lazy_jit(_cut, static=("parts",)))
JOIN = Kernel("join", lazy_jit(_join))
RAVEL = Kernel("ravel", lazy_jit(_ravel))
UNRAVEL = Kernel("unravel", lazy_jit(_unravel))


async def all_gather(node: Node, payload: Any, *, tag: str, senders: range | list[int] | None = None) -> list[Any]:
    """Give every rank the payloads of all senders: each multicasts its own to all others.

    Time alpha + (N-1) m / B where a multicast is sent as unicasts, alpha + N m / B or so where the network copies it;
    the sender's bytes are (N-1) m or m.

    Args:
        node: this rank.
        payload: what this rank contributes; ignored if it is not among the senders.
        tag: names the operation and the step.
        senders: the ranks that contribute, ascending; all workers by default.

    Returns:
        The payloads in the order of the senders.
    """
    sources = list(range(node.world_size)) if senders is None else list(senders)
    others = [rank for rank in range(node.world_size) if rank != node.rank]
    receives = [node.recv(src, tag=tag) for src in sources if src != node.rank]
    sends = [node.multicast(others, payload, tag=tag)] if node.rank in sources and others else []
    results = await node.gather(*sends, *receives)
    received = {message.src: message.payload for message in results[len(sends) :]}
    return [payload if src == node.rank else received[src] for src in sources]


async def ring_all_reduce(node: Node, vector: Any, *, tag: str) -> Any:
    """Sum a vector over all ranks around a ring; every rank ends with the same bits.

    Time 2(N-1) alpha + 2(N-1)/N m/B; (N-1)/N * 2m bytes sent per rank, 2(N-1) m in all, for any length of vector.
    Source: Patarasuk and Yuan, "Bandwidth Optimal All-reduce Algorithms", JPDC 69(2), 2009.

    Args:
        node: this rank.
        vector: a value of shape `(d,)`.
        tag: names the operation and the step.

    Returns:
        The sum, shape `(d,)`.
    """
    num, rank = node.world_size, node.rank
    if num == 1:
        return vector
    successor, predecessor = (rank + 1) % num, (rank - 1) % num
    chunks = await node.compute(CUT, vector, num)

    async def shift(index: int, phase: str) -> Any:
        _, message = await node.gather(
            node.send(successor, chunks[index % num], tag=phase), node.recv(predecessor, tag=phase)
        )
        return message.payload

    for s in range(num - 1):
        received = await shift(rank - s, f"{tag} rs{s}")
        own = (rank - s - 1) % num
        chunks[own] = await node.compute(ADD, chunks[own], received)
    for s in range(num - 1):
        chunks[(rank - s) % num] = await shift(rank + 1 - s, f"{tag} ag{s}")
    return await node.compute(JOIN, chunks)
