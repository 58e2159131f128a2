"""Store and forward: each link carries one message after the other, whole."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import simpy

from psgdsim.sim.carriers import Carrier, Message, OnArrival
from psgdsim.sim.occupancy import Occupancy
from psgdsim.sim.sharing import Floats


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
        self._carrier, self._env = carrier, carrier.env
        self._occupancy, self._links = carrier.occupancy, (link,)
        self._waiting: deque[_Copy] = deque()
        self._timer: simpy.Event | None = None
        self._left, self._since = 0.0, 0.0
        self._bandwidth = carrier.bandwidth[link]
        self._carried = self._busy = 0.0

    def join(self, copy: _Copy) -> None:
        """Wait for the link, behind those that came before."""
        self._waiting.append(copy)
        if self._occupancy is not None:
            self._occupancy.enter(self._links, self._env.now)
        if len(self._waiting) == 1:
            self._begin()

    def _begin(self) -> None:
        """Put the first on the link."""
        if self._waiting:
            self._left, self._since = self._waiting[0].message.nbits, self._env.now
            self._set_timer()

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
        if self._occupancy is not None:
            self._occupancy.leave(self._links, self._env.now)
        self._begin()
        self._carrier.forward(copy)

    def _settle(self, nbits: float) -> None:
        """Count bits that the link has carried of the message on it."""
        self._carried += nbits
        self._busy += self._env.now - self._since if nbits else 0.0
        self._left, self._since = self._left - nbits, self._env.now

    def _done(self, now: float) -> float:
        """Return the bits carried since the last time anything changed."""
        elapsed = now - self._since
        return min(self._left, self._bandwidth * elapsed) if self._waiting and elapsed else 0.0

    def usage(self, now: float) -> tuple[float, float]:
        """Return the bits carried until a time, and for how long the link was busy with them."""
        done = self._done(now)
        return self._carried + done, self._busy + (now - self._since if done else 0.0)

    def change(self, bandwidth: float) -> None:
        """Go on at another bandwidth."""
        self._settle(self._done(self._env.now))
        self._bandwidth = bandwidth
        if self._waiting:
            self._set_timer()

    def drop(self, message: Message) -> None:
        """Take a message out, and go on with the next if it was on the link."""
        kept = deque(copy for copy in self._waiting if copy.message is not message)
        num = len(self._waiting) - len(kept)
        if not num:
            return
        is_first = self._waiting[0].message is message
        if is_first:
            self._settle(self._done(self._env.now))
        self._waiting = kept
        if self._occupancy is not None:
            self._occupancy.leave(num * self._links, self._env.now)
        if is_first:
            self._timer = None
            self._begin()


class FifoCarrier(Carrier):
    """A link carries whole messages in the order in which they come, then they need its latency to the next link.

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
        self._queues = [_Queue(self, link) for link in range(len(bandwidth))]

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

    def usage(self, now: float) -> Floats:
        """As in `Carrier`."""
        return np.array([queue.usage(now) for queue in self._queues]).reshape(-1, 2)
