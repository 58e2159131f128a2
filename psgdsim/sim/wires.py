"""The links between a server and its workers, where one stops all messages of a direction; they meet nowhere else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from psgdsim.network_model import NetworkModel
from psgdsim.scenario.experiment import Experiment
from psgdsim.sim.link_usage import LinkUsage
from psgdsim.sim.shared_link import SharedLink
from psgdsim.sim.sharing import Floats, Ints
from psgdsim.topologies.base import Topology


@dataclass(frozen=True)
class Direction:
    """The ways from all workers to a server, or back.

    Args:
        delay: what each message waits before it enters [s].
        own: for each worker, in a row each, the links that its messages alone cross, shape (N, number of links).
        common: the links that all messages cross.
        link: what stops them.
        routes: of each worker.
    """

    delay: float
    own: Ints
    common: Ints
    link: SharedLink
    routes: tuple[tuple[int, ...], ...]

    @property
    def links(self) -> set[int]:
        """All links that messages cross."""
        return {*self.own.ravel().tolist(), *self.common.tolist()}

    @staticmethod
    def of(topology: Topology, ways: Sequence[tuple[int, int]]) -> Direction | None:
        """Return a direction, or None if messages do not all go at one rate there.

        Args:
            topology: the network.
            ways: where each worker's messages come from and go to, hosts by index.
        """
        routes = [topology.route(*way) for way in ways]
        num = len(routes)
        counts = np.zeros(len(topology.links), int)
        for route in routes:
            counts[list(route)] += 1
        own = [[link for link in route if counts[link] == 1 and num > 1] for route in routes]
        common = [link for link in dict.fromkeys(routes[0]) if counts[link] == num]
        crossed = [len(own[i]) + len(common) for i in range(num)]
        num_own = {len(each) for each in own}
        if any(len(set(route)) < len(route) for route in routes) or crossed != list(map(len, routes)):
            return None  # a route crosses a link twice, or shares one with some of the others
        if len(num_own) > 1 or (num_own == {0} and num > 1):
            return None  # or is another's
        delays = {topology.latency(route) for route in routes}
        capacity = min((topology.links[link].bandwidth for link in common), default=math.inf)
        ceilings = {topology.bandwidth(each) for each in own}
        are_alike = len(ceilings) == 1 or min(ceilings) >= capacity
        if len(delays) > 1 or not are_alike or math.isinf(min(capacity, *ceilings)):
            return None
        link = SharedLink(capacity, min(ceilings), num)
        wide = np.array(own, np.int64).reshape(num, -1)
        return Direction(delays.pop(), wide, np.array(common, np.int64), link, tuple(routes))


class Wires:
    """Both directions, and what they do to the links of a network.

    Args:
        topology: the network.
        model: how messages share it.
        up: from the workers.
        down: to them.

    Attributes:
        topology: as given.
        model: likewise.
        up: likewise.
        down: likewise.
        now: until when everything has happened [s].
    """

    def __init__(self, topology: Topology, model: NetworkModel, up: Direction, down: Direction) -> None:
        self.topology, self.model, self.up, self.down = topology, model, up, down
        self.now = 0.0
        self._bandwidth = np.array([link.bandwidth for link in topology.links])
        self._ways = {route: (each.link, i) for each in (up, down) for i, route in enumerate(each.routes)}

    @staticmethod
    def of(experiment: Experiment, topology: Topology) -> Wires | None:
        """Return the wires of an experiment whose messages are those of `AsTheyCome`; None if they may meet otherwise.

        Args:
            experiment: what is run.
            topology: its network.
        """
        model, num_workers = experiment.scenario.network, experiment.world_size
        if experiment.strategy.as_they_come is None or experiment.faults or experiment.changes:
            return None
        if model.model != "fluid" or model.tcp_model is not None or model.message_overhead.cpu:
            return None
        server, *hosts = map(topology.host_of, (num_workers, *range(num_workers)))
        up = Direction.of(topology, [(host, server) for host in hosts])
        down = Direction.of(topology, [(server, host) for host in hosts])
        if up is None or down is None:
            return None
        are_apart = up.links.isdisjoint(down.links)
        return Wires(topology, model, up, down) if are_apart else None

    def way(self, route: tuple[int, ...]) -> tuple[SharedLink, int]:
        """Return what stops the messages on a route, and whose they are."""
        return self._ways[route]

    def counters(self, now: float) -> Floats:
        """Return for each link the bits that it has carried until now, and how long it would have been busy with that.

        Args:
            now: any time from the last event to the next [s].
        """
        nbits = self._by_link(now)[:, 0]
        return np.stack([nbits, nbits / self._bandwidth], 1)

    def _by_link(self, now: float) -> Floats:
        """Return for each link the bits that it has carried, and for how long there were messages on it if not all."""
        found = np.zeros((len(self._bandwidth), 2))
        for each in (self.up, self.down):
            by_worker = np.stack(each.link.until(now), 1)
            found[each.own] = by_worker[:, None]
            found[each.common] = by_worker.sum(axis=0)
        return found

    def usage(self) -> list[LinkUsage]:
        """Return what each link has done."""
        return [
            LinkUsage(link.name, nbits / 8.0, busy)
            for link, (nbits, busy) in zip(self.topology.links, self.counters(self.now).tolist(), strict=True)
        ]

    def until(self, now: float) -> list[tuple[float, int]]:
        """Return for each link how many messages were on it at once until now, on average and at most."""
        seconds = self._by_link(now)[:, 1].tolist()
        queues = [(each / now if now > 0 else 0.0, int(each > 0)) for each in seconds]
        for each in (self.up, self.down):
            for link in each.common.tolist():
                queues[link] = each.link.queue(now)
        return queues
