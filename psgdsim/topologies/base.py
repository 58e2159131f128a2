"""What a network is: hosts and switches joined by directed links, and a route between any two hosts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from psgdsim.registry import Family

Multicast = Literal["native", "relay", "unicast"]
"""How one payload reaches several ranks.

- `native`: the network copies it on the way, each link of the tree carries it once.
- `relay`: it is uploaded once, whole, and a relay in the network sends the copies.
- `unicast`: the sender sends one copy after the other to each receiver's own flow.
"""


@dataclass(frozen=True)
class Link:
    """One direction of a cable.

    Args:
        name: what reports call it.
        bandwidth: its capacity [bit/s]; infinite where there is no limit.
        latency: the time a bit needs from end to end [s].
    """

    name: str
    bandwidth: float
    latency: float


@dataclass(frozen=True)
class Topology:
    """A network; rank i lives on host i.

    Args:
        hosts: the names of the hosts.
        links: all links; routes name them by their index here.
        route: `(src, dst)` hosts by index -> the links that a message crosses, in order.
        multicast: how one payload reaches several hosts.
        relay_route: `(host, is_upload)` -> the links between a host and the relay; needed for `relay`.
    """

    hosts: tuple[str, ...]
    links: tuple[Link, ...]
    route: Callable[[int, int], tuple[int, ...]]
    multicast: Multicast
    relay_route: Callable[[int, bool], tuple[int, ...]]

    def tree(self, src: int, dsts: Iterable[int]) -> tuple[int, ...]:
        """Return the links that a native multicast crosses, each once."""
        return tuple(dict.fromkeys(link for dst in dsts for link in self.route(src, dst)))

    def latency(self, route: Iterable[int]) -> float:
        """Return the latency of a route [s]."""
        return sum(self.links[link].latency for link in route)


@dataclass(frozen=True)
class TopologyPart:
    """What a topology's factory returns: it becomes a `Topology` once the number of hosts is known.

    Args:
        build: number of hosts -> the network.
        multicast: as in `Topology`; real mode starts a relay for `native` and `relay`.
    """

    build: Callable[[int], Topology]
    multicast: Multicast


topologies = Family("topology", product=TopologyPart)
register_topology = topologies.register
