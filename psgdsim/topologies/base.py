"""What a network is: hosts and switches joined by directed links, and a route between any two hosts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from psgdsim.registry import Family

Multicast = Literal["native", "relay", "unicast"]
"""How one payload reaches several ranks.

- `native`: the network copies it on the way, each link of the tree carries it once.
- `relay`: it is uploaded once, whole, and a relay in the network sends the copies.
- `unicast`: the sender sends a copy to each receiver, all at the same time.
"""


@dataclass(frozen=True)
class Link:
    """One direction of a cable, or a medium that both directions share.

    Args:
        name: what reports call it.
        bandwidth: its capacity [bit/s]; infinite where there is no limit.
        latency: the time a bit needs from end to end [s].
        src: the host or switch that it leaves; the medium's own name where many share it.
        dst: the host or switch that it enters; the medium's own name where many share it.
    """

    name: str
    bandwidth: float
    latency: float
    src: str = ""
    dst: str = ""


def _same(rank: int) -> int:
    return rank


@dataclass(frozen=True)
class Topology:
    """A network; rank i lives on host i unless `host_of` says otherwise.

    Args:
        hosts: the names of the hosts.
        links: all links; routes name them by their index here.
        route: `(src, dst)` hosts by index -> the links that a message crosses, in order; from a host to itself the
            links of its loopback, or none.
        multicast: how one payload reaches several hosts.
        relay_route: `(host, is_upload)` -> the links between a host and the relay; needed for `relay`.
        switches: the names of the switches.
        grid: the sizes of the grid that the hosts form, the last dimension fastest; empty if they form none.
        host_of: rank -> the host it lives on, by index.
        speeds: how fast each host computes, against one of speed 1; empty if all have speed 1.
    """

    hosts: tuple[str, ...]
    links: tuple[Link, ...]
    route: Callable[[int, int], tuple[int, ...]]
    multicast: Multicast
    relay_route: Callable[[int, bool], tuple[int, ...]]
    switches: tuple[str, ...] = ()
    grid: tuple[int, ...] = ()
    host_of: Callable[[int], int] = _same
    speeds: tuple[float, ...] = ()

    def speed(self, rank: int) -> float:
        """Return how fast a rank computes, against one of speed 1."""
        return self.speeds[self.host_of(rank)] if self.speeds else 1.0

    def tree(self, src: int, dsts: Iterable[int]) -> tuple[int, ...]:
        """Return the links that a native multicast crosses, each once.

        They are the union of the routes, but a host or switch that one route reaches already is not entered again by
        another: a payload is copied where the routes part, and equal-cost routes do not double it.
        """
        crossed: dict[int, None] = {}
        reached: set[str] = set()
        for dst in dsts:
            route = self.route(src, dst)
            entered = self.entered(src, route)
            known = max((i for i, name in enumerate(entered, start=1) if name in reached), default=0)
            crossed.update(dict.fromkeys(route[known:]))
            reached.update(name for name in entered[known:] if name)
        return tuple(crossed)

    def entered(self, src: int, route: Iterable[int]) -> list[str]:
        """Return what each link of a route leads into: a host, a switch, a medium, or "" where the link does not say.

        Args:
            src: the host where the route begins, by index.
            route: links by index.
        """
        names, name = [], self.hosts[src]
        for link in (self.links[index] for index in route):
            name = link.dst if link.src == name else link.src
            names.append(name)
        return names

    def latency(self, route: Iterable[int]) -> float:
        """Return the latency of a route [s]."""
        return sum(self.links[link].latency for link in route)

    def bandwidth(self, route: Iterable[int]) -> float:
        """Return what a message alone on a route gets [bit/s]; infinite without a limit."""
        return min((self.links[link].bandwidth for link in route), default=math.inf)


@dataclass(frozen=True)
class TopologyPart:
    """What a topology's factory returns: it becomes a `Topology` once the number of hosts is known.

    Args:
        build: number of hosts -> the network.
        multicast: as in `Topology`; real mode starts a relay for `native` and `relay`.
        max_hosts: the most hosts it has room for, or None for any number.
    """

    build: Callable[[int], Topology]
    multicast: Multicast
    max_hosts: int | None = None


topologies = Family("topology", product=TopologyPart)
register_topology = topologies.register
