"""Networks of data centres, in which many equal ways join two hosts: leaf-spine and fat-tree."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from psgdsim.topologies.base import Multicast, Topology, TopologyPart, register_topology
from psgdsim.topologies.wiring import Path, Wiring, capacity, host_names, pick, room
from psgdsim.units import Bandwidth, Duration

Count = Annotated[int, Field(ge=1, le=10_000)]
Oversubscription = Annotated[float, Field(ge=1, le=1000)]


@register_topology("leaf_spine")
def leaf_spine(
    leaves: Count,
    spines: Count,
    hosts_per_leaf: Count,
    bandwidth: Bandwidth | None,
    latency: Duration,
    oversubscription: Oversubscription = 1.0,
    multicast: Multicast = "unicast",
) -> TopologyPart:
    """Join each of the leaf switches, which have the hosts, to each of the spine switches.

    A message between two leaves goes over the spine that a hash of its two ends picks (equal-cost multipath). The
    relay is in the first spine.

    Args:
        leaves: leaf switches.
        spines: spine switches.
        hosts_per_leaf: hosts on each leaf.
        bandwidth: of each host's link, each way; null for no limit.
        latency: of each link, one way.
        oversubscription: what a leaf's hosts can send together over what its links to the spines carry together.
        multicast: how one payload reaches several hosts: `native`, `relay` or `unicast`.
    """
    rate, num_hosts = capacity(bandwidth), room(leaves * hosts_per_leaf, "hosts_per_leaf")
    room(leaves * spines, "spines", "links between switches")
    uplink = rate * hosts_per_leaf / (spines * oversubscription)
    rates = (rate, uplink)
    shape = (leaves, spines, hosts_per_leaf)
    return TopologyPart(lambda _num_hosts: _leaf_spine(shape, rates, latency, multicast), multicast, num_hosts)


def _leaf_spine(
    shape: tuple[int, int, int], rates: tuple[float, float], latency: float, multicast: Multicast
) -> Topology:
    """Return the network; `rates` are those of the hosts' links and of those between switches."""
    num_leaves, num_spines, per_leaf = shape
    hosts = host_names(num_leaves * per_leaf)
    leaves, spines = [f"leaf{i}" for i in range(num_leaves)], [f"spine{i}" for i in range(num_spines)]
    wiring = Wiring()
    for i, host in enumerate(hosts):
        wiring.join(host, leaves[i // per_leaf], rates[0], latency)
    for leaf in leaves:
        for spine in spines:
            wiring.join(leaf, spine, rates[1], latency)

    def path(src: int, dst: int) -> Path:
        up, down = src // per_leaf, dst // per_leaf
        if up == down:
            return (hosts[src], leaves[up], hosts[dst])
        return (hosts[src], leaves[up], spines[pick(num_spines, src, dst)], leaves[down], hosts[dst])

    def relay_path(host: int) -> Path:
        return (hosts[host], leaves[host // per_leaf], spines[0])

    return wiring.topology(hosts, (*spines, *leaves), path, multicast, relay_path)


@register_topology("fat_tree")
def fat_tree(
    k: Annotated[int, Field(ge=2, le=72, multiple_of=2)],
    bandwidth: Bandwidth | None,
    latency: Duration,
    oversubscription: Oversubscription = 1.0,
    multicast: Multicast = "unicast",
) -> TopologyPart:
    """Build a three-level fat-tree from switches of k ports (Al-Fares, Loukissas and Vahdat, SIGCOMM 2008).

    There are k pods of k/2 edge and k/2 aggregation switches each, and (k/2)**2 core switches. A message turns round at
    the lowest level it can; among equal ways a hash of its two ends picks one (equal-cost multipath). The relay is in
    the first core switch.

    Args:
        k: ports of each switch, an even number; there is room for `k**3 / 4` hosts.
        bandwidth: of each host's link, each way; null for no limit.
        latency: of each link, one way.
        oversubscription: by how much the links between switches are slower than those of hosts; 1 for full bisection.
        multicast: how one payload reaches several hosts: `native`, `relay` or `unicast`.
    """
    rate = capacity(bandwidth)
    rates = (rate, rate / oversubscription)
    return TopologyPart(lambda _num_hosts: _fat_tree(k // 2, rates, latency, multicast), multicast, k**3 // 4)


def _fat_tree(half: int, rates: tuple[float, float], latency: float, multicast: Multicast) -> Topology:
    """Return the fat-tree of switches with `2 * half` ports; `rates` as in `_leaf_spine`."""
    pod = half * half
    hosts = host_names(2 * half * pod)
    edges, aggregations = ([f"{kind}{i}" for i in range(2 * pod)] for kind in ("edge", "aggregation"))
    cores = [f"core{i}" for i in range(pod)]
    wiring = Wiring()
    for i, host in enumerate(hosts):
        wiring.join(host, edges[i // half], rates[0], latency)
    for i in range(2 * pod):
        for lane in range(half):
            wiring.join(edges[i], aggregations[i // half * half + lane], rates[1], latency)
        for j in range(half):
            wiring.join(aggregations[i], cores[i % half * half + j], rates[1], latency)

    def up(host: int, lane: int) -> Path:
        """Return the way from a host to the aggregation switch that its pod has in a lane."""
        return (hosts[host], edges[host // half], aggregations[host // pod * half + lane])

    def path(src: int, dst: int) -> Path:
        if src // half == dst // half:
            return (hosts[src], edges[src // half], hosts[dst])
        lane = pick(half, src, dst)
        if src // pod == dst // pod:
            return (*up(src, lane), *reversed(up(dst, lane)[:2]))
        return (*up(src, lane), cores[lane * half + pick(half, src, dst, 1)], *reversed(up(dst, lane)))

    return wiring.topology(
        hosts, (*cores, *aggregations, *edges), path, multicast, lambda host: (*up(host, 0), cores[0])
    )
