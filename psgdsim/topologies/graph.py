"""Networks as graphs: named hosts and switches, cables between any two of them, and the shortest routes."""

from __future__ import annotations

import functools
import heapq
import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Annotated, Final, Literal, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from psgdsim.errors import nearest, shown
from psgdsim.topologies.base import Link
from psgdsim.topologies.wiring import capacity
from psgdsim.units import Bandwidth, Duration

MAX_NAME: Final = 80

_LISTED: Final = 12

Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]


@with_config(ConfigDict(extra="forbid", strict=True))
class Cable(TypedDict):
    """A link between two hosts or switches."""

    src: Annotated[Name, Field(description="one end")]
    dst: Annotated[Name, Field(description="the other end")]
    bandwidth: Annotated[Bandwidth | None, Field(description="its capacity; null for no limit")]
    latency: Annotated[Duration, Field(description="one way")]
    duplex: NotRequired[
        Annotated[
            Literal["full", "shared"],
            Field(description="full (the default): each direction has the bandwidth for itself; shared: both share it"),
        ]
    ]


class Graph:
    """Hosts and switches joined by links, with shortest routes.

    Args:
        names: of all hosts and switches, the hosts first.
        cables: what joins them, each with the place where it is written.
        source: where names and cables are written, if it is one place; messages begin with it.

    Attributes:
        links: two for each full-duplex cable, one for each shared one.

    Raises:
        ValueError: a name is there twice or not at all, a cable has no two ends, or a bandwidth is 0.
    """

    def __init__(self, names: Sequence[str], cables: Iterable[tuple[str, Cable]], source: str | None = None) -> None:
        self.links: list[Link] = []
        self._names, self._source = names, source
        self._out: dict[str, list[tuple[str, int]]] = {name: [] for name in names}
        if len(self._out) < len(names):
            twice = next(name for name, count in Counter(names).items() if count > 1)
            raise ValueError(
                f"{source or 'hosts'}: expected every name once, among hosts and switches; got {shown(twice)} twice"
            )
        for place, cable in cables:
            self._join(place, cable)
        self.route = functools.cache(self._route)
        self._tree = functools.cache(self._shortest_tree)

    def _join(self, place: str, cable: Cable) -> None:
        ends = cable["src"], cable["dst"]
        for end in ends:
            if end not in self._out:
                raise ValueError(f"{place}: nothing is called {shown(end)}; {hint(end, self._out)}")
        if ends[0] == ends[1]:
            raise ValueError(f"{place}: expected two different ends; got {shown(ends[0])} twice")
        bandwidth, latency = capacity(cable["bandwidth"], f"{place}: bandwidth"), cable["latency"]
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
                    f"{self._source or 'links'}: expected a route between all hosts; got none from "
                    f"{shown(self._names[0])} to {shown(host)}"
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


def hint(wrong: str, names: Collection[str]) -> str:
    """Return a hint at the name that was meant; of many names only the nearest.

    Args:
        wrong: what was written.
        names: those that there are.
    """
    text = nearest(wrong, names)
    if len(names) <= _LISTED:
        return text
    return text.split(" (")[0] if text.startswith("did you") else f"none of {len(names)} names is like it"
