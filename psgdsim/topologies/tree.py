"""Hosts at the leaves of a tree of switches."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from psgdsim.topologies.base import Multicast, Topology, TopologyPart, register_topology
from psgdsim.topologies.wiring import Path, Wiring, capacity, host_names, room
from psgdsim.units import Bandwidth, Duration


@register_topology("tree")
def tree(
    fan_out: Annotated[int, Field(ge=2, le=1000)],
    levels: Annotated[int, Field(ge=1, le=16)],
    bandwidth: Bandwidth | None,
    latency: Duration,
    multicast: Multicast = "unicast",
) -> TopologyPart:
    """Put hosts at the leaves of a tree of switches whose links are all alike, so that it narrows towards the root.

    The relay is in the root.

    Args:
        fan_out: switches or hosts below each switch.
        levels: levels of switches; there is room for `fan_out ** levels` hosts.
        bandwidth: of each link, each way; null for no limit.
        latency: of each link, one way.
        multicast: how one payload reaches several hosts: `native`, `relay` or `unicast`.
    """
    rate, num_hosts = capacity(bandwidth), room(fan_out**levels, "levels")
    return TopologyPart(lambda _num_hosts: _tree(fan_out, levels, rate, latency, multicast), multicast, num_hosts)


def _tree(fan_out: int, levels: int, rate: float, latency: float, multicast: Multicast) -> Topology:
    """Return the tree with all its hosts."""
    hosts = host_names(fan_out**levels)
    names = [["root"], *([f"switch{level}.{i}" for i in range(fan_out**level)] for level in range(1, levels))]
    wiring = Wiring()
    for upper, lower in zip(names, [*names[1:], hosts], strict=True):
        for i, below in enumerate(lower):
            wiring.join(upper[i // fan_out], below, rate, latency)

    def above(host: int) -> list[str]:
        """Return the switches from a host up to the root."""
        return [names[level][host // fan_out ** (levels - level)] for level in reversed(range(levels))]

    def path(src: int, dst: int) -> Path:
        up, down = above(src), above(dst)
        turn = next(i for i in range(levels) if up[i] == down[i])
        return (hosts[src], *up[: turn + 1], *reversed(down[:turn]), hosts[dst])

    switches = tuple(name for level in names for name in level)
    return wiring.topology(hosts, switches, path, multicast, lambda host: (hosts[host], *above(host)))
