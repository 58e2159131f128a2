"""How messages share links in virtual time: as flows, or not at all; see `fifo` for queues."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import simpy
from simpy.events import EventPriority

from psgdsim.sim.bundles import Bundle
from psgdsim.sim.flow_table import Flow
from psgdsim.sim.fluid import FluidLinks
from psgdsim.sim.occupancy import Occupancy
from psgdsim.sim.paths import Hop, Path
from psgdsim.sim.sharing import Floats

OnArrival = Callable[["Message"], None]

LATE = EventPriority(2)
"""SimPy's priority of what must see everything that happens at an instant; 1 is that of ordinary events."""


class Late(simpy.Event):
    """Fire at this instant, after everything else that happens at it.

    Args:
        env: the clock.
        action: called with the event.
    """

    def __init__(self, env: simpy.Environment, action: Callable[[simpy.Event], None]) -> None:
        super().__init__(env)
        self._ok, self._value = True, None
        self.callbacks.append(action)
        env.schedule(self, LATE)


class Message(Flow):
    """What a carrier carries.

    Args:
        path: how it crosses the network.
        nbits: its size.
        owner: whatever its user wants to find in it.
        hops: its way, link by link; only store and forward looks at it.
    """

    __slots__ = ("hops", "is_given_up", "num_ends")

    def __init__(self, path: Path, nbits: float, owner: Any, hops: tuple[Hop, ...]) -> None:
        super().__init__(path, nbits, owner)
        self.hops, self.num_ends = hops, 0
        self.is_given_up = False


class Carrier(ABC):
    """Carry messages over links.

    Args:
        env: the clock.
        bandwidth: of each link [bit/s]; the owner keeps it up to date, and says so with `set_bandwidth`.
        latency: of each link [s]; likewise.
        on_arrival: called with each message that has arrived.
        occupancy: told which messages are on which links, if anybody wants to know.
    """

    def __init__(
        self,
        env: simpy.Environment,
        bandwidth: Sequence[float],
        latency: Sequence[float],
        on_arrival: OnArrival,
        occupancy: Occupancy | None = None,
    ) -> None:
        self.env, self.bandwidth, self.latency = env, bandwidth, latency
        self.on_arrival, self.occupancy = on_arrival, occupancy

    @abstractmethod
    def start(self, message: Message) -> None:
        """Send a message off, now."""

    @abstractmethod
    def give_up(self, message: Message) -> None:
        """Take back a message that has not arrived."""

    @abstractmethod
    def set_bandwidth(self, link: int, bandwidth: float) -> None:
        """Take note that a link has another bandwidth from now on."""

    @abstractmethod
    def usage(self, now: float) -> Floats:
        """Return what each link has carried, and for how long it would have been busy with that.

        Args:
            now: until when [s]; any time from the last change to the next.

        Returns:
            For each link [bit] and [s], shape (links, 2).
        """


class FlowCarrier(Carrier):
    """Messages are flows, once their latency has passed."""

    def start(self, message: Message) -> None:
        """Let a message in after its latency."""
        if message.path.delay > 0:
            self.env.timeout(message.path.delay, message).callbacks.append(self._enter)
        else:
            self._admit(message)

    def _enter(self, timer: simpy.Event) -> None:
        message: Any = timer.value
        if not message.is_given_up:
            self._admit(message)

    @abstractmethod
    def _admit(self, message: Message) -> None:
        """Let a message in, now."""


class FluidCarrier(FlowCarrier):
    """Messages are flows that share links max-min fairly, once their latency has passed.

    Args:
        env: as in `Carrier`.
        bandwidth: as in `Carrier`.
        latency: as in `Carrier`.
        on_arrival: as in `Carrier`.
        occupancy: as in `Carrier`.
    """

    def __init__(
        self,
        env: simpy.Environment,
        bandwidth: Sequence[float],
        latency: Sequence[float],
        on_arrival: OnArrival,
        occupancy: Occupancy | None = None,
    ) -> None:
        super().__init__(env, bandwidth, latency, on_arrival, occupancy)
        self._links = FluidLinks(bandwidth)
        self._is_late = False
        self._due = math.inf
        self._timer: simpy.Event | None = None

    def _admit(self, message: Message) -> None:
        if message.nbits == 0 or not message.path.links:
            self.on_arrival(message)
            return
        if self.occupancy is not None:
            self.occupancy.enter(message.path.route, self.env.now)
        self._go_on(self._links.add(message, self.env.now))

    def start_bundle(self, bundle: Bundle, delay: float) -> None:
        """Let messages in together after a delay [s]; the bundle's owner is told by `arrive` when they have arrived."""
        if delay > 0:
            self.env.timeout(delay).callbacks.append(lambda _: self._admit_bundle(bundle))
        else:
            self._admit_bundle(bundle)

    def _admit_bundle(self, bundle: Bundle) -> None:
        if self.occupancy is not None:
            self.occupancy.enter(bundle.path.route, self.env.now)
        self._go_on(self._links.add_bundle(bundle, self.env.now))

    def give_up(self, message: Message) -> None:
        """Take a flow out; what it has carried so far stays counted."""
        message.is_given_up = True
        if message in self._links:
            self._links.end(message, self.env.now, is_complete=False)
            if self.occupancy is not None:
                self.occupancy.leave(message.path.route, self.env.now)
            self._go_on(math.inf)

    def set_bandwidth(self, link: int, bandwidth: float) -> None:
        """Share anew with another capacity; 0 stops all that cross the link until it changes again."""
        self._links.set_bandwidth(link, bandwidth, self.env.now)
        self._go_on(math.inf)

    def usage(self, now: float) -> Floats:
        """As in `Carrier`."""
        return self._links.usage(now)

    def _go_on(self, next_finish: float) -> None:
        """Share once everything that happens at this instant has happened; if that is not needed, wait on."""
        if not self._links.is_dirty:
            self._wake_at(next_finish)
        elif not self._is_late:
            self._is_late = True
            Late(self.env, self._share)

    def _share(self, _: simpy.Event) -> None:
        self._is_late = False
        self._links.share(self.env.now)
        self._wake_at(self._links.next_finish())

    def _wake_at(self, time: float) -> None:
        """Look again at `time` at the latest; when that is too early, it is found out then."""
        if time >= self._due:
            return
        self._due = time
        self._timer = timer = self.env.timeout(max(0.0, time - self.env.now))
        timer.callbacks.append(self._wake)

    def _wake(self, timer: simpy.Event) -> None:
        if timer is not self._timer:
            return
        self._due, self._timer = math.inf, None
        now = self.env.now
        for flow in self._links.due(now):
            self._links.end(flow, now)
            if self.occupancy is not None:
                self.occupancy.leave(flow.path.route, now)
            if isinstance(flow, Message):
                self.on_arrival(flow)
            else:
                flow.owner.arrive(flow)
        self._go_on(math.inf if self._links.is_dirty else self._links.next_finish())


class IdealCarrier(Carrier):
    """Messages do not feel each other: latency + size / bandwidth of the narrowest link (Hockney's alpha-beta model).

    A change of bandwidth applies to messages that start after it.

    Args:
        env: as in `Carrier`.
        bandwidth: as in `Carrier`.
        latency: as in `Carrier`.
        on_arrival: as in `Carrier`.
        occupancy: as in `Carrier`.
    """

    def __init__(
        self,
        env: simpy.Environment,
        bandwidth: Sequence[float],
        latency: Sequence[float],
        on_arrival: OnArrival,
        occupancy: Occupancy | None = None,
    ) -> None:
        super().__init__(env, bandwidth, latency, on_arrival, occupancy)
        self._carried, self._busy = [0.0] * len(bandwidth), [0.0] * len(bandwidth)
        self._under_way: dict[Message, tuple[float, list[float]]] = {}  # when it arrives, at which bandwidths
        self._stopped: dict[Message, None] = {}  # by a link without bandwidth

    def start(self, message: Message) -> None:
        """Arrive when it is time, whatever else is under way; a link without bandwidth is waited for."""
        time = message.path.delay
        if message.nbits:
            bandwidths = [self.bandwidth[link] for link in message.path.route]
            narrowest = min(bandwidths) if bandwidths else math.inf
            if narrowest == 0:
                self._stopped[message] = None
                return
            time += message.nbits / narrowest
            self._under_way[message] = self.env.now + time, bandwidths
        self.env.timeout(time, message).callbacks.append(self._arrive)

    def _arrive(self, timer: simpy.Event) -> None:
        message: Any = timer.value
        if message.is_given_up:
            return
        if message.nbits:
            _, bandwidths = self._under_way.pop(message)
            _count(message, message.nbits, bandwidths, self._carried, self._busy)
        self.on_arrival(message)

    def _count_so_far(self, message: Message, now: float, carried: list[float], busy: list[float]) -> None:
        """Count what a message under way has put on its links until now."""
        end, bandwidths = self._under_way[message]
        left = (end - now) * min(bandwidths, default=math.inf) if end > now else 0.0
        _count(message, max(0.0, message.nbits - left), bandwidths, carried, busy)

    def set_bandwidth(self, link: int, bandwidth: float) -> None:  # noqa: ARG002 - any change may set them free
        """Start the messages that a link without bandwidth has stopped; the others looked when they started."""
        stopped, self._stopped = self._stopped, {}
        for message in stopped:
            if not message.is_given_up:
                self.start(message)

    def give_up(self, message: Message) -> None:
        """Take a message out; what it has carried so far stays counted."""
        message.is_given_up = True
        if message in self._under_way:
            self._count_so_far(message, self.env.now, self._carried, self._busy)
            del self._under_way[message]

    def usage(self, now: float) -> Floats:
        """As in `Carrier`."""
        carried, busy = list(self._carried), list(self._busy)
        for message in self._under_way:
            self._count_so_far(message, now, carried, busy)
        return np.array([carried, busy]).T


def _count(
    message: Message, nbits: float, bandwidths: Sequence[float], carried: list[float], busy: list[float]
) -> None:
    """Count bits that a message has put on its links."""
    for link, bandwidth in zip(message.path.route, bandwidths, strict=True):
        carried[link] += nbits
        busy[link] += nbits / bandwidth
