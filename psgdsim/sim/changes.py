"""Carry out what changes about the network: links take their course, messages are delayed, others come in between."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import numpy as np
import simpy

from psgdsim import rng
from psgdsim.scenario.changes import Background, Change, Course, Effect, Jitter, Loss, Moment
from psgdsim.sim.gates import RELAY, links_of
from psgdsim.sim.network import Network
from psgdsim.sim.notes import Notes
from psgdsim.topologies.base import Topology

MAX_BACKGROUND: Final = 64
"""So many messages of one background are under way at most."""

Links = Sequence[int]


class LinkConditions:
    """What several changes and faults together make of each link.

    Args:
        network: whose links they are.
        on_stop: told which link has no bandwidth any more.
        on_go: told which link has some again.
    """

    def __init__(self, network: Network, on_stop: Callable[[int], None], on_go: Callable[[int], None]) -> None:
        self._network, self._on_stop, self._on_go = network, on_stop, on_go
        self._nominal = network.topology.links
        self._effects: dict[int, dict[int, Effect]] = {}
        self._now = [(link.bandwidth, link.latency) for link in self._nominal]

    def set(self, source: int, links: Iterable[int], effect: Effect) -> None:
        """Let a source (a change or a fault, by number) have an effect on links from now on, instead of its last."""
        for link in links:
            self._effects.setdefault(link, {})[source] = effect
            before, state = self._now[link], self._state(link)
            if state == before:
                continue
            self._now[link] = state
            self._network.set_link(link, bandwidth=state[0], latency=state[1])
            if (state[0] == 0) != (before[0] == 0):
                (self._on_stop if state[0] == 0 else self._on_go)(link)

    def _state(self, link: int) -> tuple[float, float]:
        bandwidth, latency, factor = self._nominal[link].bandwidth, self._nominal[link].latency, 1.0
        for _, effect in sorted(self._effects[link].items()):
            bandwidth = bandwidth if effect.bandwidth is None else effect.bandwidth
            latency = latency if effect.latency is None else effect.latency
            factor *= effect.factor
        return (bandwidth * factor if factor else 0.0), latency


class Courses:
    """Let links take their courses.

    Args:
        env: the clock.
        topology: whose links they are, without gates.
        conditions: told what links are like from now on.
        notes: told what happened when.
        look: called whenever something has happened.
    """

    def __init__(
        self,
        env: simpy.Environment,
        topology: Topology,
        conditions: LinkConditions,
        notes: Notes,
        look: Callable[[], None],
    ) -> None:
        self._env, self._topology, self._conditions, self._notes = env, topology, conditions, notes
        self._look = look
        self._known: dict[tuple[str, ...], Links] = {}

    def start(self, source: int, course: Course) -> None:
        """Begin a course; what it says of time 0 holds at once."""
        self._go_on(source, iter(course.moments()))

    def _go_on(self, source: int, moments: Iterator[Moment]) -> None:
        for moment in moments:
            if moment.time > self._env.now:
                self._wait(source, moment, moments)
                return
            self._apply(source, moment)

    def _wait(self, source: int, moment: Moment, moments: Iterator[Moment]) -> None:
        def reach(_: simpy.Event) -> None:
            self._apply(source, moment)
            self._go_on(source, moments)
            self._look()

        self._env.timeout(moment.time - self._env.now).callbacks.append(reach)

    def _apply(self, source: int, moment: Moment) -> None:
        links = self._known.get(moment.links)
        if links is None:
            links = self._known[moment.links] = links_of(self._topology, moment.links)
        self._conditions.set(source, links, moment.effect)
        names = ", ".join(moment.links)
        self._notes.end((source, names))
        if any(self._matters(link, moment.effect) for link in links):
            self._notes.begin((source, names), "change", f"{names}: {moment.effect}")

    def _matters(self, link: int, effect: Effect) -> bool:
        """Whether an effect alone makes a link other than it is by nature."""
        nature = self._topology.links[link]
        changes_bandwidth = effect.bandwidth not in {None, nature.bandwidth} or effect.factor != 1
        return changes_bandwidth or effect.latency not in {None, nature.latency}


class Delays:
    """By how much messages come later because of jitter and loss.

    Args:
        changes: all changes of a scenario.
        topology: the network, without gates.
        seed: the scenario's.
    """

    def __init__(self, changes: Sequence[Change], topology: Topology, seed: int) -> None:
        self._topology, self._seed = topology, seed
        self._delaying: list[tuple[int, Jitter | Loss, frozenset[int]]] = [
            (i, change, frozenset(links_of(topology, change.links)))
            for i, change in enumerate(changes)
            if isinstance(change, Jitter | Loss)
        ]
        self._known: dict[tuple[int, int], list[Callable[[int], float]]] = {}

    @property
    def has_any(self) -> bool:
        """Whether any message can be delayed."""
        return bool(self._delaying)

    def __call__(self, src: int, dst: int, nbytes: int) -> float:
        """Draw the delay of one message between two ranks, or a rank and the relay [s]."""
        known = self._known.get((src, dst))
        if known is None:
            known = self._known[src, dst] = list(self._between(src, dst))
        return sum(delay(nbytes) for delay in known)

    def _between(self, src: int, dst: int) -> Iterator[Callable[[int], float]]:
        route = self._route(src, dst)
        rtt = 2 * self._topology.latency(route)
        for i, change, links in self._delaying:
            num = len(links.intersection(route))
            if num:
                yield _delay(change, num, rtt, rng.stream(self._seed, "delay", i, src, dst))

    def _route(self, src: int, dst: int) -> tuple[int, ...]:
        host_of = self._topology.host_of
        if src == RELAY:
            return self._topology.relay_route(host_of(dst), False)
        if dst == RELAY:
            return self._topology.relay_route(host_of(src), True)
        return self._topology.route(host_of(src), host_of(dst))


def _delay(change: Jitter | Loss, num: int, rtt: float, generator: np.random.Generator) -> Callable[[int], float]:
    if isinstance(change, Jitter):
        return lambda _nbytes: change.draw(generator)
    return lambda nbytes: change.delay(num, rtt, nbytes, generator)


class BackgroundTraffic:
    """Send messages that are no rank's.

    Args:
        env: the clock.
        network: what carries them.
        background: what they are.
        generator: draws when they start.
        look: called whenever one starts.
    """

    def __init__(
        self,
        env: simpy.Environment,
        network: Network,
        background: Background,
        generator: np.random.Generator,
        look: Callable[[], None],
    ) -> None:
        hosts = network.topology.hosts
        self._env, self._network, self._background = env, network, background
        self._ends = hosts.index(background.src), hosts.index(background.dst)
        self._generator, self._look = generator, look
        self._num_under_way = 0
        self._wait(background.at)

    def _wait(self, seconds: float) -> None:
        if self._env.now + seconds < self._background.until and math.isfinite(seconds):
            self._env.timeout(seconds).callbacks.append(self._send)

    def _send(self, _: simpy.Event) -> None:
        if self._num_under_way < MAX_BACKGROUND:
            self._num_under_way += 1
            self._network.send(*self._ends, self._background.nbytes).callbacks.append(self._end)
        self._wait(self._background.gap(self._generator))
        self._look()

    def _end(self, _: simpy.Event) -> None:
        self._num_under_way -= 1
