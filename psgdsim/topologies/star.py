"""All hosts on one switch."""

from __future__ import annotations

from psgdsim.topologies.base import Link, Multicast, Topology, TopologyPart, register_topology
from psgdsim.topologies.wiring import capacity, host_names
from psgdsim.units import Bandwidth, Duration


@register_topology("star")
def star(bandwidth: Bandwidth | None, latency: Duration, multicast: Multicast = "unicast") -> TopologyPart:
    """Join every host to one switch that never blocks; a host sends and receives at full bandwidth at once.

    A message alone in the network takes `latency + bits / bandwidth`; messages that share a host's link share its
    bandwidth max-min fairly. The relay is in the switch.

    Args:
        bandwidth: of each host's link, each way; null for no limit.
        latency: one way from host to host, half of it on either link.
        multicast: how one payload reaches several hosts: `native`, `relay` or `unicast`.
    """
    rate = capacity(bandwidth)

    def build(num_hosts: int) -> Topology:
        hosts = host_names(num_hosts)
        up = [Link(f"{host}.up", rate, latency / 2, host, "switch") for host in hosts]
        down = [Link(f"{host}.down", rate, latency / 2, "switch", host) for host in hosts]
        return Topology(
            hosts=hosts,
            links=(*up, *down),
            route=lambda src, dst: () if src == dst else (src, num_hosts + dst),
            multicast=multicast,
            relay_route=lambda host, is_upload: (host,) if is_upload else (num_hosts + host,),
            switches=("switch",),
        )

    return TopologyPart(build, multicast)
