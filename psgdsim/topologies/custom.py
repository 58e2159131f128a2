"""A network written out link by link."""

from __future__ import annotations

import functools
import heapq
import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from psgdsim.errors import nearest
from psgdsim.topologies.base import Link, Multicast, Topology, TopologyPart, register_topology
from psgdsim.topologies.wiring import capacity
from psgdsim.units import Bandwidth, Duration

Name = Annotated[str, Field(min_length=1, max_length=80)]


@with_config(ConfigDict(extra="forbid", strict=True))
class Cable(TypedDict):
    """A link between two hosts or switches.

    Attributes:
        src: one end.
        dst: the other.
        bandwidth: its capacity; null for no limit.
        latency: one way.
        duplex: `full`, each direction has the bandwidth for itself (the default); `shared`, both share it.
    """

    src: Name
    dst: Name
    bandwidth: Bandwidth | None
    latency: Duration
    duplex: NotRequired[Literal["full", "shared"]]


@register_topology("custom")
def custom(
    hosts: Annotated[tuple[Name, ...], Field(min_length=1)],
    links: tuple[Cable, ...],
    switches: tuple[Name, ...] = (),
    multicast: Multicast = "unicast",
) -> TopologyPart:
    """Join named hosts and switches by the links listed; messages take the shortest route.

    The shortest route has the fewest links; among those, the least latency; among those, the links listed first. Hosts
    pass on messages for others where that is shortest. Ranks live on the hosts in the order of their names here; the
    relay is in the switch that is nearest to all hosts together (in the first such host if there is no switch).

    Args:
        hosts: their names.
        links: each `{src, dst, bandwidth, latency, duplex}`, both ways; `duplex: full` (the default) or `shared`.
        switches: their names.
        multicast: how one payload reaches several hosts: `native`, `relay` or `unicast`.
    """
    graph = _Graph((*hosts, *switches), links)
    graph.check_connected(hosts)

    def build(num_hosts: int) -> Topology:
        if num_hosts > len(hosts):
            raise ValueError(f"hosts: expected at least {num_hosts}, one per rank; got {len(hosts)}")
        relay = graph.centre(switches or hosts, hosts)
        return Topology(
            hosts=hosts,
            links=tuple(graph.links),
            route=lambda src, dst: graph.route(hosts[src], hosts[dst]),
            multicast=multicast,
            relay_route=lambda host, is_upload: (
                graph.route(hosts[host], relay) if is_upload else graph.route(relay, hosts[host])
            ),
            switches=switches,
        )

    return TopologyPart(build, multicast, len(hosts))


class _Graph:
    """Nodes joined by links, with shortest routes.

    Args:
        names: of all hosts and switches.
        cables: what joins them.
    """

    def __init__(self, names: Sequence[str], cables: Iterable[Cable]) -> None:
        self.links: list[Link] = []
        self._names = names
        self._out: dict[str, list[tuple[str, int]]] = {name: [] for name in names}
        if len(self._out) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"hosts: expected every name once, among hosts and switches; got {twice!r} twice")
        for i, cable in enumerate(cables):
            self._join(i, cable)
        self.route = functools.cache(self._route)
        self._tree = functools.cache(self._shortest_tree)

    def _join(self, number: int, cable: Cable) -> None:
        ends = cable["src"], cable["dst"]
        for end in ends:
            if end not in self._out:
                raise ValueError(f"links: number {number}: nothing is called {end!r}; {nearest(end, self._out)}")
        if ends[0] == ends[1]:
            raise ValueError(f"links: number {number}: expected two different ends; got {ends[0]!r} twice")
        bandwidth, latency = capacity(cable["bandwidth"], f"links: number {number}: bandwidth"), cable["latency"]
        if cable.get("duplex", "full") == "shared":
            link = self._add(Link("{}--{}".format(*ends), bandwidth, latency, *ends))
            self._out[ends[0]].append((ends[1], link))
            self._out[ends[1]].append((ends[0], link))
            return
        for src, dst in (ends, ends[::-1]):
            self._out[src].append((dst, self._add(Link(f"{src}->{dst}", bandwidth, latency, src, dst))))

    def _add(self, link: Link) -> int:
        self.links.append(link)
        return len(self.links) - 1

    def check_connected(self, hosts: Iterable[str]) -> None:
        """Raise `ValueError` unless every host can reach every other."""
        reached = self._tree(self._names[0])
        for host in hosts:
            if host not in reached:
                raise ValueError(
                    f"links: expected a route between all hosts; got none from {self._names[0]!r} to {host!r}"
                )

    def centre(self, candidates: Iterable[str], hosts: Sequence[str]) -> str:
        """Return the candidate with the fewest links to all hosts together."""

        def links_to_all(name: str) -> float:
            tree = self._tree(name)
            return sum(tree[host][0] if host in tree else math.inf for host in hosts)

        return min(candidates, key=links_to_all)

    def _route(self, src: str, dst: str) -> tuple[int, ...]:
        tree, links = self._tree(src), []
        while dst != src:
            _, dst, link = tree[dst]
            links.append(link)
        return tuple(reversed(links))

    def _shortest_tree(self, src: str) -> dict[str, tuple[int, str, int]]:
        """Return for each node its distance in links, the node before it and the link from there (Dijkstra)."""
        tree: dict[str, tuple[int, str, int]] = {}
        order = 0
        queue: list[tuple[int, float, int, str, str, int]] = [(0, 0.0, order, src, src, -1)]
        while queue:
            hops, latency, _, name, previous, via = heapq.heappop(queue)
            if name in tree:
                continue
            tree[name] = (hops, previous, via)
            for neighbour, link in self._out[name]:
                order += 1
                longer = latency + self.links[link].latency
                heapq.heappush(queue, (hops + 1, longer, order, neighbour, name, link))
        return tree
