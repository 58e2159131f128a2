"""All hosts on one wire, or in one radio cell."""

from __future__ import annotations

from psgdsim.topologies.base import Link, Multicast, Topology, TopologyPart, register_topology
from psgdsim.topologies.wiring import capacity, host_names
from psgdsim.units import Bandwidth, Duration

_MEDIUM = "medium"


@register_topology("shared_medium")
def shared_medium(bandwidth: Bandwidth | None, latency: Duration, multicast: Multicast = "native") -> TopologyPart:
    """Put all hosts on one half-duplex broadcast medium, a bus or a radio channel: whatever is sent shares it.

    All messages under way share the bandwidth max-min fairly, whoever sends them and to whom. A native multicast is
    one transmission that all receivers hear. A relay is a station on the medium, so its copies cross the medium, too.

    Args:
        bandwidth: of the medium, all directions together; null for no limit.
        latency: one way from host to host.
        multicast: how one payload reaches several hosts: `native`, `relay` or `unicast`.
    """
    medium = Link(_MEDIUM, capacity(bandwidth), latency, _MEDIUM, _MEDIUM)

    def build(num_hosts: int) -> Topology:
        return Topology(
            hosts=host_names(num_hosts),
            links=(medium,),
            route=lambda src, dst: () if src == dst else (0,),
            multicast=multicast,
            relay_route=lambda _host, _is_upload: (0,),
            switches=(_MEDIUM,),
        )

    return TopologyPart(build, multicast)
