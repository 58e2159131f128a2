"""What the links of a run have done, for its run folder."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from psgdsim.network_model import NetworkModel
from psgdsim.sim.link_usage import LinkUsage, utilisation
from psgdsim.sim.ring import Traffic
from psgdsim.sim.series import Series, num_bins_for
from psgdsim.sim.sharing import Floats
from psgdsim.topologies.base import Topology
from psgdsim.trace import LinkBin, LinkReport


class Carrying(Protocol):
    """Whoever carries messages; `sim.network.Network` does."""

    topology: Topology
    model: NetworkModel

    def counters(self, now: float) -> Floats:
        """See `Network.counters`."""

    def usage(self) -> list[LinkUsage]:
        """See `Network.usage`."""


class Counting(Protocol):
    """Whoever counts the messages on links; `sim.occupancy.Occupancy` does."""

    def until(self, now: float) -> list[tuple[float, int]]:
        """See `Occupancy.until`."""


class LinkAccounts:
    """Accounts of a network's first links, which are those of its scenario.

    Args:
        network: whose links they are.
        occupancy: told by the network which messages are on which links.
        num_links: how many links.

    Attributes:
        series: what they carry over time; whoever moves the clock must look after its `edge`.
    """

    def __init__(self, network: Carrying, occupancy: Counting, num_links: int) -> None:
        self._network, self._occupancy = network, occupancy
        self._names = [link.name for link in network.topology.links[:num_links]]
        self.series = Series(self._counters, num_bins_for(num_links))
        self._booked: Traffic | None = None
        self._before = np.zeros((len(network.topology.links), 3))  # of what was booked before that

    def book(self, traffic: Traffic) -> None:
        """Count messages that the network does not carry, from their beginning, which may have passed, to their end.

        Args:
            traffic: what they do to links; what was booked before it has come to its end.
        """
        if self._booked is not None:
            self._before += self._booked.ring.total
        self._booked = traffic
        self.series.amend(traffic.start, lambda time: traffic.until(time)[:, :2])

    def _counters(self, now: float) -> Floats:
        counters = self._network.counters(now)
        return counters if self._booked is None else counters + self._not_carried(now)[:, :2]

    def _not_carried(self, now: float) -> Floats:
        """Return what has been booked until now: bits, busy seconds, and seconds with a message for each link."""
        return self._before if self._booked is None else self._before + self._booked.until(now)

    def reports(self, now: float) -> list[LinkReport]:
        """Return what each link has done until now."""
        booked = self._not_carried(now)[: len(self._names)].tolist()
        usage = [
            LinkUsage(link.name, link.nbytes + nbits / 8.0, link.busy + busy)
            for link, (nbits, busy, _) in zip(self._network.usage(), booked, strict=False)
        ]
        shares = utilisation(usage, now or 1.0)
        if self._network.model.model == "ideal":
            return [LinkReport(link.name, round(link.nbytes), shares[link.name]) for link in usage]
        queues = [
            (mean + seconds / (now or 1.0), max(most, int(seconds > 0)))
            for (mean, most), (_, _, seconds) in zip(self._occupancy.until(now), booked, strict=False)
        ]
        return [
            LinkReport(link.name, round(link.nbytes), shares[link.name], *queue)
            for link, queue in zip(usage, queues, strict=True)
        ]

    def bins(self, now: float) -> list[LinkBin]:
        """Return what each link has done over time, bin after bin until now."""
        edges, nbytes, used = (each.tolist() for each in self.series.bins(now))
        return [
            LinkBin(start, end, name, int(number), part)
            for start, end, numbers, parts in zip(edges, edges[1:], nbytes, used, strict=False)
            for name, number, part in zip(self._names, numbers, parts, strict=False)
        ]
