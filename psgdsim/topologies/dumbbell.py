"""Two stars joined by one cable."""

from __future__ import annotations

from psgdsim.topologies.base import Multicast, Topology, TopologyPart, register_topology
from psgdsim.topologies.wiring import Path, Wiring, capacity, host_names
from psgdsim.units import Bandwidth, Duration


@register_topology("dumbbell")
def dumbbell(
    bandwidth: Bandwidth | None,
    latency: Duration,
    bottleneck_bandwidth: Bandwidth | None,
    bottleneck_latency: Duration = 0.0,
    multicast: Multicast = "unicast",
) -> TopologyPart:
    """Join two switches by a bottleneck; the first half of the hosts is on the left, the rest on the right.

    Of an odd number the left has one more. The relay is in the left switch.

    Args:
        bandwidth: of each host's link, each way; null for no limit.
        latency: of each host's link, one way.
        bottleneck_bandwidth: of the cable between the switches, each way; null for no limit.
        bottleneck_latency: of that cable, one way.
        multicast: how one payload reaches several hosts: `native`, `relay` or `unicast`.
    """
    rate, bottleneck = capacity(bandwidth), capacity(bottleneck_bandwidth, "bottleneck_bandwidth")

    def build(num_hosts: int) -> Topology:
        hosts = host_names(num_hosts)
        sides = ["left" if 2 * i < num_hosts else "right" for i in range(num_hosts)]
        wiring = Wiring()
        for host, side in zip(hosts, sides, strict=True):
            wiring.join(host, side, rate, latency)
        wiring.join("left", "right", bottleneck, bottleneck_latency)

        def path(src: int, dst: int) -> Path:
            return (hosts[src], *dict.fromkeys((sides[src], sides[dst])), hosts[dst])

        def relay_path(host: int) -> Path:
            return (hosts[host], *dict.fromkeys((sides[host], "left")))

        return wiring.topology(hosts, ("left", "right"), path, multicast, relay_path)

    return TopologyPart(build, multicast)
