"""All-gather by multicast: as many bytes as it takes, and only one latency."""

from __future__ import annotations

from typing import Any

from psgdsim.node import Node


async def all_gather(node: Node, payload: Any, *, tag: str, senders: range | list[int] | None = None) -> list[Any]:
    """Give every rank the payloads of all senders: each multicasts its own to all others.

    Time alpha + (N-1) m/B, and m/B more where a relay sends the copies; the bytes sent per rank are (N-1) m where a
    multicast is sent as unicasts, m where the network copies it.
    Source: Thakur, Rabenseifner and Gropp, IJHPCA 19(1), 2005 (all to all, sent at the same time).

    Args:
        node: this rank.
        payload: what this rank contributes, any payload; ignored if it is not among the senders.
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
