"""The network in virtual time: flows that share links max-min fairly.

A message waits for the latency of its route, then enters as a flow. At any time rates are max-min fair over all links
(progressive filling; Bertsekas and Gallager, "Data Networks", 1992, section 6.5.2): all rates rise together, and the
flows that cross the first link to fill up are frozen at their share. Rates change only when a flow enters or leaves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import simpy

from psgdsim.topologies.base import Topology


@dataclass(eq=False)
class Flow:
    """A message on its way.

    Args:
        links: the links with a limit that it crosses.
        nbits: what is left to carry at `since`.
        since: the last time its rate changed [s].
        done: fires when its last bit has arrived.
    """

    links: tuple[int, ...]
    nbits: float
    since: float
    done: simpy.Event
    rate: float = 0.0
    finish: float = math.inf

    def set_rate(self, rate: float, now: float) -> None:
        """Change the rate [bit/s]; a rate that stays keeps the finish time exact to the last bit."""
        if rate != self.rate:
            self.nbits = max(0.0, self.nbits - self.rate * (now - self.since))
            self.rate, self.since = rate, now
            self.finish = now + self.nbits / rate


def fair_rates(routes: Sequence[tuple[int, ...]], capacity: Callable[[int], float]) -> list[float]:
    """Return the max-min fair rate of each flow.

    Args:
        routes: the links that each flow crosses, at least one each.
        capacity: link -> its capacity [bit/s].

    Returns:
        Rates [bit/s] in the order of the routes.
    """
    left: dict[int, float] = {}
    crossing: dict[int, set[int]] = {}
    for flow, links in enumerate(routes):
        for link in links:
            left.setdefault(link, capacity(link))
            crossing.setdefault(link, set()).add(flow)
    rates = [0.0] * len(routes)
    while crossing:
        share, bottleneck = min((left[link] / len(flows), link) for link, flows in crossing.items())
        for flow in sorted(crossing[bottleneck]):
            rates[flow] = share
            for link in routes[flow]:
                crossing[link].discard(flow)
                left[link] = max(0.0, left[link] - share)
                if not crossing[link]:
                    del crossing[link]
    return rates


def _fire(event: simpy.Event) -> None:
    event.succeed()


class Network:
    """Carry messages over a topology.

    Args:
        env: the clock.
        topology: what the network looks like.
    """

    def __init__(self, env: simpy.Environment, topology: Topology) -> None:
        self.topology = topology
        self._env = env
        self._flows: dict[Flow, None] = {}
        self._is_dirty = False
        self._wake_up: simpy.Event | None = None

    def carry(self, links: Sequence[int], nbytes: int, *, latency: float | None = None) -> simpy.Event:
        """Send one message.

        Args:
            links: the links that it crosses: a route, or the tree of a native multicast.
            nbytes: its size, headers included [byte].
            latency: what it waits before it enters [s]; the sum over the links by default.

        Returns:
            An event that fires when all of it has arrived.
        """
        delay = self.topology.latency(links) if latency is None else latency
        limited = tuple(link for link in links if math.isfinite(self.topology.links[link].bandwidth))
        done = self._env.event()
        if not limited or nbytes == 0:
            self._after(delay, lambda: _fire(done))
        else:
            self._after(delay, lambda: self._enter(Flow(limited, nbytes * 8.0, self._env.now, done)))
        return done

    def _after(self, delay: float, action: Callable[[], None]) -> None:
        if delay == 0:
            action()
        else:
            self._env.timeout(delay).callbacks.append(lambda _: action())

    def _enter(self, flow: Flow) -> None:
        self._flows[flow] = None
        self._mark_dirty()

    def _mark_dirty(self) -> None:
        """Share again once everything that happens at this instant has happened."""
        if not self._is_dirty:
            self._is_dirty = True
            self._env.timeout(0).callbacks.append(lambda _: self._share())

    def _share(self) -> None:
        self._is_dirty = False
        flows = list(self._flows)
        rates = fair_rates([flow.links for flow in flows], lambda link: self.topology.links[link].bandwidth)
        for flow, rate in zip(flows, rates, strict=True):
            flow.set_rate(rate, self._env.now)
        self._sleep_until_next(flows)

    def _sleep_until_next(self, flows: Iterable[Flow]) -> None:
        finish = min((flow.finish for flow in flows), default=math.inf)
        if math.isinf(finish):
            self._wake_up = None
            return
        timer = self._env.timeout(max(0.0, finish - self._env.now))
        self._wake_up = timer
        timer.callbacks.append(lambda event: self._finish_due(finish) if event is self._wake_up else None)

    def _finish_due(self, finish: float) -> None:
        """End the flows that are due; a few units in the last place decide nothing."""
        horizon = math.nextafter(finish, math.inf) * (1 + 1e-15)
        for flow in [flow for flow in self._flows if flow.finish <= horizon]:
            del self._flows[flow]
            flow.done.succeed()
        self._mark_dirty()
