"""All hosts on one switch."""

from __future__ import annotations

import math

from psgdsim.topologies.base import Link, Multicast, Topology, TopologyPart, register_topology
from psgdsim.units import Bandwidth, Duration


@register_topology("star")
def star(bandwidth: Bandwidth | None, latency: Duration, multicast: Multicast = "unicast") -> TopologyPart:
    """Join every host to one switch that never blocks; a host sends and receives at full bandwidth at once.

    A message alone in the network takes `latency + bits / bandwidth`; messages that share a host's link share its
    bandwidth max-min fairly.

    Args:
        bandwidth: of each host's link, each way; null for no limit.
        latency: one way from host to host, half of it on either link.
        multicast: how one payload reaches several hosts: `native`, `relay` or `unicast`.
    """
    capacity = math.inf if bandwidth is None else bandwidth
    if capacity == 0:
        raise ValueError("bandwidth: expected more than 0 bit/s, or null for no limit")

    def build(num_hosts: int) -> Topology:
        hosts = tuple(f"host{i}" for i in range(num_hosts))
        up = [Link(f"{host}.up", capacity, latency / 2) for host in hosts]
        down = [Link(f"{host}.down", capacity, latency / 2) for host in hosts]
        return Topology(
            hosts=hosts,
            links=(*up, *down),
            route=lambda src, dst: (src, num_hosts + dst),
            multicast=multicast,
            relay_route=lambda host, is_upload: (host,) if is_upload else (num_hosts + host,),
        )

    return TopologyPart(build, multicast)
