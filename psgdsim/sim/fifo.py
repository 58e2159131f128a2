"""Store and forward: each link carries one message after the other, whole."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import simpy

from psgdsim.sim.carriers import Carrier, Message, OnArrival
from psgdsim.sim.series import Series


class _Copy:
    """A message, or one copy of a multicast, at one link of its way.

    Args:
        message: the message.
        hop: where it is in `message.hops`.
    """

    __slots__ = ("hop", "message")

    def __init__(self, message: Message, hop: int) -> None:
        self.message, self.hop = message, hop


class _Queue:
    """What waits for a link; the first is on it.

    Args:
        carrier: whose link it is.
        link: which one.
    """

    def __init__(self, carrier: FifoCarrier, link: int) -> None:
        self._carrier, self._link, self._env = carrier, link, carrier.env
        self._waiting: deque[_Copy] = deque()
        self._timer: simpy.Event | None = None
        self._left, self._since = 0.0, 0.0
        self._bandwidth = carrier.bandwidth[link]
        self.carried = self.busy = 0.0

    def join(self, copy: _Copy) -> None:
        """Wait for the link, behind those that came before."""
        self._waiting.append(copy)
        if len(self._waiting) == 1:
            self._begin()

    def _begin(self) -> None:
        """Put the first on the link; those that were given up meanwhile have left the queue."""
        while self._waiting and self._waiting[0].message.is_given_up:
            self._waiting.popleft()
        if self._waiting:
            self._left, self._since = self._waiting[0].message.nbits, self._env.now
            self._set_timer()
        self._carrier.note(self._link, is_busy=bool(self._waiting))

    def _set_timer(self) -> None:
        self._timer = None
        if self._bandwidth > 0 or self._left == 0:
            time = self._left / self._bandwidth if self._left else 0.0
            self._timer = self._env.timeout(time)
            self._timer.callbacks.append(self._end)

    def _end(self, timer: simpy.Event) -> None:
        if timer is not self._timer:
            return
        self._timer = None
        self._settle(self._left)
        copy = self._waiting.popleft()
        self._begin()
        self._carrier.forward(copy)

    def _settle(self, nbits: float) -> None:
        """Count bits that the link has carried of the message on it."""
        self.carried += nbits
        self.busy += self._env.now - self._since if nbits else 0.0
        self._left, self._since = self._left - nbits, self._env.now

    def _done(self) -> float:
        """Return the bits carried since the last time anything changed."""
        elapsed = self._env.now - self._since
        return min(self._left, self._bandwidth * elapsed) if elapsed else 0.0

    def settle_now(self) -> None:
        """Count what has been carried until now."""
        if self._waiting:
            self._settle(self._done())

    def change(self, bandwidth: float) -> None:
        """Go on at another bandwidth."""
        self.settle_now()
        self._bandwidth = bandwidth
        if self._waiting:
            self._set_timer()

    def drop(self, message: Message) -> None:
        """Take a message off the link, if it is on it, and go on with the next."""
        if self._waiting and self._waiting[0].message is message:
            self.settle_now()
            self._timer = None
            self._begin()


class FifoCarrier(Carrier):
    """A link carries whole messages in the order in which they come, then they need its latency to the next link.

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
        self._queues = [_Queue(self, link) for link in range(len(bandwidth))]
        self._utilisation = [0.0] * len(bandwidth)

    def start(self, message: Message) -> None:
        """Queue a message at the first link of each branch of its way."""
        message.num_ends = sum(not hop.after for hop in message.hops)
        if not message.hops:
            self.env.timeout(message.path.delay, message).callbacks.append(lambda timer: self._finish(timer.value))
        for i, hop in enumerate(message.hops):
            if hop.is_first:
                self._queues[hop.link].join(_Copy(message, i))

    def forward(self, copy: _Copy) -> None:
        """Let a message that has left a link propagate to the next ones."""
        hop = copy.message.hops[copy.hop]
        self.env.timeout(self.latency[hop.link], copy).callbacks.append(self._reach)

    def _reach(self, timer: simpy.Event) -> None:
        copy: Any = timer.value
        message = copy.message
        if message.is_given_up:
            return
        after = message.hops[copy.hop].after
        for i in after:
            self._queues[message.hops[i].link].join(_Copy(message, i))
        if not after:
            message.num_ends -= 1
            if message.num_ends == 0:
                self._finish(message)

    def _finish(self, message: Message) -> None:
        if not message.is_given_up:
            self.on_arrival(message)

    def give_up(self, message: Message) -> None:
        """Take a message out of all queues."""
        message.is_given_up = True
        for hop in message.hops:
            self._queues[hop.link].drop(message)

    def set_bandwidth(self, link: int, bandwidth: float) -> None:
        """Go on at another bandwidth, in the middle of a message if need be; 0 stops the link."""
        self._queues[link].change(bandwidth)

    def usage(self) -> list[tuple[float, float]]:
        """As in `Carrier`."""
        for queue in self._queues:
            queue.settle_now()
        return [(queue.carried, queue.busy) for queue in self._queues]

    def note(self, link: int, *, is_busy: bool) -> None:
        """Tell the series whether a link is busy from now on."""
        if self.series is not None and self._utilisation[link] != is_busy:
            self._utilisation[link] = float(is_busy)
            self.series.update(self.env.now, self._utilisation)
