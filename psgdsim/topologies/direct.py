"""Hosts joined to each other without switches: ring, full mesh, torus. Hosts on the way forward messages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Annotated

from pydantic import Field

from psgdsim.topologies.base import Multicast, Topology, TopologyPart, register_topology
from psgdsim.topologies.wiring import Path, Wiring, capacity, host_names, pick, room
from psgdsim.units import Bandwidth, Duration

Extent = Annotated[int, Field(ge=1, le=100_000)]


@register_topology("ring")
def ring(bandwidth: Bandwidth | None, latency: Duration, multicast: Multicast = "unicast") -> TopologyPart:
    """Join each host to the next and the last to the first; a message goes the shorter way round.

    Where both ways are equally long, a hash of the two ends decides. The relay is beside host 0.

    Args:
        bandwidth: of each link, each way; null for no limit.
        latency: of each link, one way.
        multicast: how one payload reaches several hosts: `native`, `relay` or `unicast`.
    """
    rate = capacity(bandwidth)
    return TopologyPart(lambda num_hosts: _torus((num_hosts,), rate, latency, multicast, ()), multicast)


@register_topology("torus")
def torus(
    dims: Annotated[Sequence[Extent], Field(min_length=1, max_length=8)],
    bandwidth: Bandwidth | None,
    latency: Duration,
    multicast: Multicast = "unicast",
) -> TopologyPart:
    """Join the hosts to a grid whose lines are closed to rings, as in many supercomputers.

    Host i has the coordinates of i in row-major order. A message goes along the first dimension to its receiver's
    coordinate, then along the second, and so on (dimension-order routing; Dally and Towles, "Principles and Practices
    of Interconnection Networks", 2004, chapter 8), the shorter way round each; where both are equally long, a hash
    of the two ends decides. The relay is beside host 0.

    Args:
        dims: hosts along each dimension; `[4, 4]` has room for 16.
        bandwidth: of each link, each way; null for no limit.
        latency: of each link, one way.
        multicast: how one payload reaches several hosts: `native`, `relay` or `unicast`.
    """
    sizes, rate = tuple(dims), capacity(bandwidth)
    num_hosts = room(math.prod(sizes), "dims")
    return TopologyPart(lambda _num_hosts: _torus(sizes, rate, latency, multicast, sizes), multicast, num_hosts)


@register_topology("full_mesh")
def full_mesh(bandwidth: Bandwidth | None, latency: Duration, multicast: Multicast = "unicast") -> TopologyPart:
    """Join every host to every other by a cable of its own.

    The relay is beside host 0.

    Args:
        bandwidth: of each link, each way; null for no limit.
        latency: of each link, one way.
        multicast: how one payload reaches several hosts: `native`, `relay` or `unicast`.
    """
    rate = capacity(bandwidth)

    def build(num_hosts: int) -> Topology:
        hosts = host_names(num_hosts)
        wiring = Wiring()
        for a, b in combinations(hosts, 2):
            wiring.join(a, b, rate, latency)

        def path(src: int, dst: int) -> Path:
            return (hosts[src], hosts[dst])

        return wiring.topology(hosts, (), path, multicast, lambda host: path(host, 0) if host else hosts[:1])

    return TopologyPart(build, multicast)


def _torus(
    sizes: tuple[int, ...], rate: float, latency: float, multicast: Multicast, grid: tuple[int, ...]
) -> Topology:
    """Return the torus of these sizes."""
    hosts = host_names(math.prod(sizes))
    strides = tuple(math.prod(sizes[axis + 1 :]) for axis in range(len(sizes)))
    wiring = Wiring()
    for host in range(len(hosts)):
        for size, stride in zip(sizes, strides, strict=True):
            if size > 1:
                wiring.join(hosts[host], hosts[_neighbour(host, size, stride, 1)], rate, latency)

    def path(src: int, dst: int) -> Path:
        names, host = [hosts[src]], src
        for axis, (size, stride) in enumerate(zip(sizes, strides, strict=True)):
            ahead = (dst // stride - src // stride) % size
            is_backward = 2 * ahead > size or (2 * ahead == size and pick(2, src, dst, axis) == 1)
            for _ in range(size - ahead if is_backward else ahead):
                host = _neighbour(host, size, stride, -1 if is_backward else 1)
                names.append(hosts[host])
        return names

    return wiring.topology(hosts, (), path, multicast, lambda host: path(host, 0), grid)


def _neighbour(host: int, size: int, stride: int, step: int) -> int:
    """Return the host one step away along the dimension of this size and stride."""
    place = host // stride % size
    return host + ((place + step) % size - place) * stride
