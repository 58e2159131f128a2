"""Collectives and what they cost in the alpha-beta model, where a message of m bytes takes alpha + m/B.

Times are written with `a`, the latency alpha [s], and `t`, the time m/B of the whole message [s]; bytes in messages of
m bytes, over all ranks. `p` is the number of ranks, a power of 2 where its logarithm occurs.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from math import log2
from typing import Any, NamedTuple

from psgdsim import collectives
from psgdsim.node import Node
from psgdsim.topologies.base import Link, Topology, TopologyPart

THAKUR = "Thakur et al., IJHPCA 19(1), 2005"
RABENSEIFNER = "Rabenseifner, ICCS 2004"
PATARASUK = "Patarasuk and Yuan, JPDC 69(2), 2009"

Program = Callable[..., Coroutine[Any, Any, Any]]


class Law(NamedTuple):
    """A collective and what it costs.

    Attributes:
        program: `(node, vector, tag=)`, what every rank runs.
        time: `(p, a, t)` -> [s].
        copies: `p` -> bytes sent by all ranks together, in messages.
        source: where the formulas are from.
    """

    program: Program
    time: Callable[[int, float, float], float]
    copies: Callable[[int], float]
    source: str


async def parameter_server(node: Node, vector: Any, *, tag: str) -> None:
    """Push a vector from every rank to the last one, the server, and pull one back."""
    server = node.world_size - 1
    if node.rank == server:
        await node.gather(*(node.recv(worker, tag=tag) for worker in range(server)))
        await node.gather(*(node.send(worker, vector, tag=tag) for worker in range(server)))
    else:
        await node.send(server, vector, tag=tag)
        await node.recv(server, tag=tag)


async def _barrier(node: Node, _vector: Any, *, tag: str) -> None:
    await collectives.barrier(node, tag=tag)


LAWS: dict[str, Law] = {
    "ring all-reduce": Law(
        collectives.ring_all_reduce,
        lambda p, a, t: 2 * (p - 1) * a + 2 * (p - 1) / p * t,
        lambda p: 2 * (p - 1),
        PATARASUK,
    ),
    "recursive doubling": Law(
        collectives.recursive_doubling_all_reduce, lambda p, a, t: log2(p) * (a + t), lambda p: p * log2(p), THAKUR
    ),
    "halving and doubling": Law(
        collectives.halving_doubling_all_reduce,
        lambda p, a, t: 2 * log2(p) * a + 2 * (p - 1) / p * t,
        lambda p: 2 * (p - 1),
        RABENSEIFNER,
    ),
    "tree all-reduce": Law(
        collectives.tree_all_reduce, lambda p, a, t: 2 * log2(p) * (a + t), lambda p: 2 * (p - 1), THAKUR
    ),
    "parameter server": Law(parameter_server, lambda p, a, t: 2 * (a + p * t), lambda p: 2 * p, "2 (alpha + N m/B)"),
    "all to all": Law(collectives.all_gather, lambda p, a, t: a + (p - 1) * t, lambda p: p * (p - 1), THAKUR),
    "ring all-gather": Law(
        collectives.ring_all_gather, lambda p, a, t: (p - 1) * (a + t), lambda p: p * (p - 1), THAKUR
    ),
    "ring reduce-scatter": Law(
        collectives.ring_reduce_scatter, lambda p, a, t: (p - 1) * a + (p - 1) / p * t, lambda p: p - 1, THAKUR
    ),
    "halving reduce-scatter": Law(
        collectives.halving_reduce_scatter, lambda p, a, t: log2(p) * a + (p - 1) / p * t, lambda p: p - 1, THAKUR
    ),
    "reduce": Law(collectives.reduce, lambda p, a, t: log2(p) * (a + t), lambda p: p - 1, THAKUR),
    "broadcast": Law(collectives.broadcast, lambda p, a, t: log2(p) * (a + t), lambda p: p - 1, THAKUR),
    "scatter broadcast": Law(
        collectives.scatter_broadcast,
        lambda p, a, t: (log2(p) + p - 1) * a + 2 * (p - 1) / p * t,
        lambda p: p - 1 + log2(p) / 2,
        THAKUR,
    ),
    "barrier": Law(_barrier, lambda p, a, _t: log2(p) * a, lambda _p: 0, "Hensgen et al., IJPP 17(1), 1988"),
}
"""By name; `parameter server` has one rank more than `p`, the server."""

NUM_SERVERS = {"parameter server": 1}
"""How many ranks a law has besides those that it counts."""


def two_levels(num_groups: int, group_size: int, near: tuple[float, float], far: tuple[float, float]) -> TopologyPart:
    """Return a network of groups: every host has a link to its own group and another to all other groups.

    Args:
        num_groups: how many groups.
        group_size: hosts in each; host i is in group `i // group_size`.
        near: latency [s] and bandwidth [bit/s] inside groups.
        far: latency and bandwidth between groups.
    """
    hosts = tuple(f"host{i}" for i in range(num_groups * group_size))
    links = tuple(
        Link(f"{host}.{level}.{way}", bandwidth, latency / 2)
        for level, (latency, bandwidth) in (("near", near), ("far", far))
        for way in ("up", "down")
        for host in hosts
    )

    def route(src: int, dst: int) -> tuple[int, ...]:
        level = 0 if src // group_size == dst // group_size else 2
        return (level * len(hosts) + src, (level + 1) * len(hosts) + dst)

    network = Topology(hosts, links, route, "unicast", lambda _host, _is_upload: ())
    return TopologyPart(lambda _num_hosts: network, "unicast", len(hosts))
