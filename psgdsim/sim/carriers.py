"""How messages share links in virtual time: as flows, or not at all; see `fifo` for queues."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import simpy
from simpy.events import EventPriority

from psgdsim.sim.flow_table import Flow
from psgdsim.sim.fluid import FluidLinks
from psgdsim.sim.paths import Hop, Path
from psgdsim.sim.series import Series

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
        series: told how busy links are, if anybody wants to know.
    """

    def __init__(
        self,
        env: simpy.Environment,
        bandwidth: Sequence[float],
        latency: Sequence[float],
        on_arrival: OnArrival,
        series: Series | None = None,
    ) -> None:
        self.env, self.bandwidth, self.latency = env, bandwidth, latency
        self.on_arrival, self.series = on_arrival, series

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
    def usage(self) -> list[tuple[float, float]]:
        """Return what each link has carried until now [bit], and for how long it would have been busy with that [s]."""


class FluidCarrier(Carrier):
    """Messages are flows that share links max-min fairly, once their latency has passed.

    Args:
        env: as in `Carrier`.
        bandwidth: as in `Carrier`.
        latency: as in `Carrier`.
        on_arrival: as in `Carrier`.
        series: as in `Carrier`.
    """

    def __init__(
        self,
        env: simpy.Environment,
        bandwidth: Sequence[float],
        latency: Sequence[float],
        on_arrival: OnArrival,
        series: Series | None = None,
    ) -> None:
        super().__init__(env, bandwidth, latency, on_arrival, series)
        self._links = FluidLinks[Message](bandwidth)
        self._is_late = False
        self._due = math.inf
        self._timer: simpy.Event | None = None

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

    def _admit(self, message: Message) -> None:
        if message.nbits == 0 or not message.path.links:
            self.on_arrival(message)
            return
        self._go_on(self._links.add(message, self.env.now))

    def give_up(self, message: Message) -> None:
        """Take a flow out; what it has carried so far stays counted."""
        message.is_given_up = True
        if message in self._links:
            self._links.end(message, self.env.now, is_complete=False)
            self._go_on(math.inf)

    def set_bandwidth(self, link: int, bandwidth: float) -> None:
        """Share anew with another capacity; 0 stops all that cross the link until it changes again."""
        self._links.set_bandwidth(link, bandwidth, self.env.now)
        self._go_on(math.inf)

    def usage(self) -> list[tuple[float, float]]:
        """As in `Carrier`."""
        return self._links.usage(self.env.now)

    def _go_on(self, next_finish: float) -> None:
        """Share once everything that happens at this instant has happened; if that is not needed, wait on."""
        if not self._links.is_dirty:
            self._wake_at(next_finish)
            self._observe()
        elif not self._is_late:
            self._is_late = True
            Late(self.env, self._share)

    def _share(self, _: simpy.Event) -> None:
        self._is_late = False
        self._links.share(self.env.now)
        self._wake_at(self._links.next_finish())
        self._observe()

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
        for message in self._links.due(now):
            self._links.end(message, now)
            self.on_arrival(message)
        self._go_on(math.inf if self._links.is_dirty else self._links.next_finish())

    def _observe(self) -> None:
        if self.series is not None:
            self.series.update(self.env.now, self._links.utilisation())


class IdealCarrier(Carrier):
    """Messages do not feel each other: latency + size / bandwidth of the narrowest link (Hockney's alpha-beta model).

    A change of bandwidth applies to messages that start after it.

    Args:
        env: as in `Carrier`.
        bandwidth: as in `Carrier`.
        latency: as in `Carrier`.
        on_arrival: as in `Carrier`.
        series: as in `Carrier`.
    """

    def __init__(
        self,
        env: simpy.Environment,
        bandwidth: Sequence[float],
        latency: Sequence[float],
        on_arrival: OnArrival,
        series: Series | None = None,
    ) -> None:
        super().__init__(env, bandwidth, latency, on_arrival, series)
        self._carried, self._busy = [0.0] * len(bandwidth), [0.0] * len(bandwidth)
        self._stopped: dict[Message, None] = {}  # by a link without bandwidth

    def start(self, message: Message) -> None:
        """Arrive when it is time, whatever else is under way; a link without bandwidth is waited for."""
        narrowest = min([self.bandwidth[link] for link in message.path.route], default=math.inf)
        if narrowest == 0 and message.nbits > 0:
            self._stopped[message] = None
            return
        time = message.path.delay + (message.nbits / narrowest if message.nbits else 0.0)
        self.env.timeout(time, message).callbacks.append(self._arrive)

    def _arrive(self, timer: simpy.Event) -> None:
        message: Any = timer.value
        if message.is_given_up:
            return
        for link in message.path.route:
            self._carried[link] += message.nbits
            self._busy[link] += message.nbits / self.bandwidth[link] if message.nbits else 0.0
        self.on_arrival(message)

    def set_bandwidth(self, link: int, bandwidth: float) -> None:  # noqa: ARG002 - any change may set them free
        """Start the messages that a link without bandwidth has stopped; the others looked when they started."""
        stopped, self._stopped = self._stopped, {}
        for message in stopped:
            if not message.is_given_up:
                self.start(message)

    def give_up(self, message: Message) -> None:
        """Forget a message; nothing of it is counted."""
        message.is_given_up = True

    def usage(self) -> list[tuple[float, float]]:
        """As in `Carrier`; of messages that have arrived."""
        return list(zip(self._carried, self._busy, strict=True))
