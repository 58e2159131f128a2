"""Messages that are sent together, and whoever waits for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Final

import numpy as np
import simpy

from psgdsim.sim.bundles import SMALLEST, Bundle, Routes, together
from psgdsim.sim.carriers import FluidCarrier, Message
from psgdsim.sim.paths import MAX_CACHED
from psgdsim.sim.sharing import Floats, Ints

FEWEST: Final = 4
"""Fewer messages than this are sent one by one, though they are of one size."""

OnArrivals = Callable[[list[int]], None]


class Batch:
    """Messages that were sent together; tells of those that arrive at one instant together.

    Args:
        env: the clock.
        on_arrival: called with the messages that have arrived at an instant, by number, ascending.
    """

    def __init__(self, env: simpy.Environment, on_arrival: OnArrivals) -> None:
        self._env, self._on_arrival = env, on_arrival
        self._arrived: list[int] = []

    def arrive(self, bundle: Bundle) -> None:
        """Take note that all members of a bundle have arrived."""
        self.note(bundle.members.tolist())

    def note(self, messages: Sequence[int]) -> None:
        """Take note that messages have arrived, by number."""
        if not self._arrived:
            event = self._env.event()
            event.callbacks.append(self._tell)
            event.succeed()
        self._arrived += messages

    def _tell(self, _: simpy.Event) -> None:
        arrived, self._arrived = self._arrived, []
        self._on_arrival(sorted(arrived))


class Part:
    """One message of a batch; to the network what a `Delivery` is.

    Args:
        batch: whose part it is.
        number: which of its messages.
        receivers: the hosts that it is for, by index.
    """

    __slots__ = ("_batch", "_number", "is_cancelled", "message", "receivers")

    def __init__(self, batch: Batch, number: int, receivers: Sequence[int]) -> None:
        self._batch, self._number, self.receivers = batch, number, receivers
        self.message: Message | None = None
        self.is_cancelled = False

    def succeed(self) -> None:
        """Take note that it has arrived."""
        self._batch.note((self._number,))


class Bundler:
    """Send messages of a batch together that are equally large and need equally long to enter the network.

    Args:
        route: hosts by index -> the links between them.
        latency: of each link [s]; looked at again after `forget`.
        carrier: who carries them.
        header: what each message is larger than its payload [bit].
    """

    def __init__(
        self,
        route: Callable[[int, int], Sequence[int]],
        latency: Sequence[float],
        carrier: FluidCarrier,
        header: float,
    ) -> None:
        self._route, self._latency, self._carrier, self._header = route, latency, carrier, header
        self._known: dict[tuple[Sequence[int], Sequence[int]], Ways] = {}
        self._num_known = 0  # pairs of hosts in them

    def forget(self) -> None:
        """Take note that a link has changed."""
        self._known.clear()
        self._num_known = 0

    def send(self, srcs: Sequence[int], dsts: Sequence[int], nbytes: Sequence[float], batch: Batch) -> Iterable[int]:
        """Send those that go together, and return the places of all others.

        Args:
            srcs: the sending host of each.
            dsts: the receiving host of each.
            nbytes: the payload of each.
            batch: told when they have arrived.
        """
        num = len(srcs)
        if num < FEWEST:
            return range(num)
        size = 8.0 * nbytes[0] + self._header
        is_one_size = size > 0 and all(each == nbytes[0] for each in nbytes)
        if num < SMALLEST and not is_one_size:
            return range(num)
        ways = self._ways(tuple(srcs), tuple(dsts))
        if is_one_size:
            parts, alone = ways.parts
            for routes, members, delay in parts:
                self._carrier.start_bundle(Bundle(routes, size, members, batch), delay)
            return alone
        nbits = 8.0 * np.asarray(nbytes, float) + self._header
        groups, alone = together(ways.delays, nbits, ways.routes.lengths)
        for members in groups:
            first = members[0]
            bundle = Bundle(ways.routes.select(members), float(nbits[first]), members, batch)
            self._carrier.start_bundle(bundle, float(ways.delays[first]))
        return alone

    def _ways(self, srcs: tuple[int, ...], dsts: tuple[int, ...]) -> Ways:
        """Return how messages get from hosts to hosts."""
        known = self._known.get((srcs, dsts))
        if known is None:
            if self._num_known + len(srcs) > MAX_CACHED:
                self.forget()
            self._num_known += len(srcs)
            routes = Routes.of(list(map(self._route, srcs, dsts)))
            known = self._known[srcs, dsts] = Ways(routes, routes.sums(self._latency))
        return known


class Ways:
    """How messages get from some hosts to others.

    Args:
        routes: the links that each crosses.
        delays: the latency of each [s].
    """

    def __init__(self, routes: Routes, delays: Floats) -> None:
        self.routes, self.delays = routes, delays

    @cached_property
    def parts(self) -> tuple[list[tuple[Routes, Ints, float]], list[int]]:
        """Which of them go together if all have one size: routes, places and delay of each bundle; and the others."""
        num = len(self.delays)
        # Of many messages, a few that enter apart from the rest soon meet it: bundles of them would not last.
        groups, alone = together(self.delays, np.ones(num), self.routes.lengths, FEWEST if num < SMALLEST else None)
        return [(self.routes.select(places), places, float(self.delays[places[0]])) for places in groups], alone
