"""Gates: links that are no wires, but limit or stop what passes between certain hosts besides the wires in between.

A partition cannot be had by cutting wires alone: hosts on one side of it may need the very wires that must not carry
anything to the other side. And a connection whose rate TCP limits has that limit for itself. Both are gates on routes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from psgdsim.errors import ScenarioError
from psgdsim.scenario.changes import Loss
from psgdsim.scenario.experiment import Experiment
from psgdsim.scenario.faults import Fault
from psgdsim.scenario.link_rows import matching
from psgdsim.topologies.base import Link, Topology

MAX_LOSSY_HOSTS = 256
"""Each ordered pair of hosts whose route loses segments needs a gate."""

Ends = tuple[int, int]
"""A route's ends, hosts by index; -1 is the relay."""

RELAY = -1


@dataclass(frozen=True)
class GatedTopology:
    """A topology with gates.

    Args:
        bare: the network without them.
        topology: the network with gates on its routes; they come after its own links.
        of_fault: the gates that a fault shuts, by its number.
    """

    bare: Topology
    topology: Topology
    of_fault: dict[int, tuple[int, ...]]


def links_of(topology: Topology, patterns: tuple[str, ...]) -> tuple[int, ...]:
    """Return the links that match any of the patterns, by index, each once."""
    names = [link.name for link in topology.links]
    return tuple(dict.fromkeys(link for pattern in patterns for link in matching("links", pattern, names, "link")))


def with_gates(experiment: Experiment) -> GatedTopology:
    """Build an experiment's network, with the gates that its changes and faults need.

    Raises:
        ScenarioError: segments are lost among too many hosts.
    """
    bare = experiment.topology.build(experiment.num_ranks)
    builder = _Builder(bare)
    of_fault = {i: builder.add_sides(fault) for i, fault in enumerate(experiment.faults) if _is_partition(fault)}
    for i, change in enumerate(experiment.changes):
        if isinstance(change, Loss):
            builder.add_limits(i, change)
    return GatedTopology(bare, builder.topology(), of_fault)


def _is_partition(fault: Fault) -> bool:
    return fault.kind == "cut" and not fault.links


def ways(topology: Topology) -> Iterator[tuple[Ends, tuple[int, ...]]]:
    """Yield the ends of every route, and the links that it crosses; those to and from the relay, too."""
    hosts = range(len(topology.hosts))
    for src in hosts:
        for dst in hosts:
            if src != dst:
                yield (src, dst), topology.route(src, dst)
        if topology.multicast == "relay":
            yield (src, RELAY), topology.relay_route(src, True)
            yield (RELAY, src), topology.relay_route(src, False)


class _Builder:
    def __init__(self, bare: Topology) -> None:
        self._bare = bare
        self._gates: list[Link] = []
        self._rules: list[Callable[[int, int], tuple[int, ...]]] = []

    def _add(self, name: str, bandwidth: float = math.inf) -> int:
        # A gate has no ends: it leads from where a message is to where it is.
        self._gates.append(Link(name, bandwidth, 0.0))
        return len(self._bare.links) + len(self._gates) - 1

    def add_sides(self, fault: Fault) -> tuple[int, ...]:
        """Put a gate on the way out of each host on one side, and one on its way in; the relay is on the other."""
        inside = dict.fromkeys(self._bare.host_of(rank) for rank in fault.ranks or ())
        out_of = {host: self._add(f"{self._bare.hosts[host]}.cut.out") for host in inside}
        into = {host: self._add(f"{self._bare.hosts[host]}.cut.in") for host in inside}

        def rule(src: int, dst: int) -> tuple[int, ...]:
            if (src in inside) == (dst in inside):
                return ()
            return (out_of[src],) if src in inside else (into[dst],)

        self._rules.append(rule)
        return (*out_of.values(), *into.values())

    def add_limits(self, index: int, loss: Loss) -> None:
        """Put a gate of the highest rate that TCP reaches between two hosts on each route that loses segments."""
        bare = self._bare
        if len(bare.hosts) > MAX_LOSSY_HOSTS:
            raise ScenarioError(
                f"changes.{index}: expected at most {MAX_LOSSY_HOSTS} hosts with loss; there are {len(bare.hosts)}"
            )
        lossy, gates = frozenset(links_of(bare, loss.links)), {}
        for ends, route in ways(bare):
            rate = math.inf
            if num := len(lossy.intersection(route)):
                rate = loss.rate(num, 2 * bare.latency(route))
            if rate < math.inf:
                gates[ends] = (self._add(f"loss{index}.{ends[0]}.{ends[1]}", rate),)
        self._rules.append(lambda src, dst: gates.get((src, dst), ()))

    def topology(self) -> Topology:
        bare, rules = self._bare, tuple(self._rules)
        if not rules:
            return bare

        def gates(src: int, dst: int) -> tuple[int, ...]:
            return tuple(gate for rule in rules for gate in rule(src, dst)) if src != dst else ()

        def relay_route(host: int, is_upload: bool) -> tuple[int, ...]:  # noqa: FBT001 - the topology's signature
            ends = (host, RELAY) if is_upload else (RELAY, host)
            return (*bare.relay_route(host, is_upload), *gates(*ends))

        return replace(
            bare,
            links=(*bare.links, *self._gates),
            route=lambda src, dst: (*bare.route(src, dst), *gates(src, dst)),
            relay_route=relay_route,
        )
