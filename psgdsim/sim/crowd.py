"""Many flows that one link stops: they all go at its capacity over their number.

What each of them has left falls by the same amount, so the order in which they end is fixed, and a heap does for them
what numpy would otherwise do to every flow whenever one comes or goes.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from typing import Final

from psgdsim.sim.flow_table import SAME_RATE, Flow

_FRESH: Final = 2**16
"""After so many changes of rate all is counted from 0 again, or what has been carried would swallow what is left."""


class Crowd:
    """Flows that go at one rate.

    Args:
        members: the flows, each with the bits that it has left.
        rate: of each flow [bit/s].
        now: the time [s].

    Attributes:
        rate: of each flow now [bit/s].
    """

    def __init__(self, members: Iterable[tuple[Flow, float]], rate: float, now: float) -> None:
        self.rate = rate
        self._begin(members, now)

    def _begin(self, members: Iterable[tuple[Flow, float]], now: float) -> None:
        self._since = now
        self._num_changes = 0
        self._fallen = 0.0  # what each flow has carried from the beginning until `_since`
        self._ends = dict(members)  # the value of `_fallen` at which each has carried all
        self._queue = [(left, member.order, member) for member, left in self._ends.items()]
        heapq.heapify(self._queue)

    def _carried(self, now: float) -> float:
        return self._fallen + self.rate * (now - self._since)

    def set_rate(self, rate: float, now: float) -> None:
        """Let all flows go on at another rate [bit/s]."""
        if abs(rate - self.rate) > SAME_RATE * rate:
            self._fallen, self._since, self.rate = self._carried(now), now, rate
            self._num_changes += 1
            if self._num_changes == _FRESH:
                self._begin(self.members(now), now)

    def join(self, member: Flow, left: float, now: float) -> None:
        """Let a flow in that has some bits left."""
        end = self._ends[member] = self._carried(now) + left
        heapq.heappush(self._queue, (end, member.order, member))

    def leave(self, member: Flow) -> None:
        """Let a flow out."""
        del self._ends[member]

    def left(self, member: Flow, now: float) -> float:
        """Return what a flow has still to carry [bit]."""
        return max(0.0, self._ends[member] - self._carried(now))

    def members(self, now: float) -> list[tuple[Flow, float]]:
        """Return all flows with what each has still to carry [bit]."""
        carried = self._carried(now)
        return [(member, max(0.0, end - carried)) for member, end in self._ends.items()]

    def next_finish(self) -> float:
        """Return when the next flow ends if the rate stays [s]; infinite if none does."""
        queue = self._queue
        while queue and queue[0][2] not in self._ends:
            heapq.heappop(queue)
        if not queue or self.rate == 0:
            return math.inf
        return self._since + max(0.0, queue[0][0] - self._fallen) / self.rate

    def due(self, horizon: float) -> list[Flow]:
        """Return the flows that end by a time; they must leave before anything else happens."""
        due = []
        while self.next_finish() <= horizon:
            due.append(heapq.heappop(self._queue)[2])
        return due
