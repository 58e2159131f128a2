"""Messages that one link stops: all go equally quickly, so what each has carried since it came rises alike.

With k messages under way the rate of each is min(ceiling, capacity / k). In the bits that a message has carried which
was there all the time, each message is through at a number that is known when it comes: a heap of these is all there
is. Source: processor sharing in virtual time, as in Parekh and Gallager, IEEE/ACM Trans. Networking 1(3), 1993.
"""

from __future__ import annotations

import math
from array import array
from heapq import heappop, heappush

import numpy as np

from psgdsim.sim.sharing import Floats


class SharedLink:
    """One direction of a server's link, to or from each of its workers.

    Args:
        capacity: of the link [bit/s].
        ceiling: the highest rate of one message [bit/s].
        num_workers: the number of workers; each has one message here at most.

    Attributes:
        next_finish: when the next message is through if no other comes [s]; infinite if there is none.
        num: how many messages are under way.
    """

    __slots__ = (
        "_at", "_capacity", "_carried", "_ceiling", "_ends", "_integral", "_max", "_order", "_rate", "_seconds",
        "_since", "_size", "_start", "_total", "next_finish", "num",
    )  # fmt: skip

    def __init__(self, capacity: float, ceiling: float, num_workers: int) -> None:
        self._capacity, self._ceiling = capacity, ceiling
        self.next_finish, self.num = math.inf, 0
        self._ends: list[tuple[float, int, int]] = []
        self._order = 0
        self._rate = self._since = self._carried = 0.0  # by `_since`, by a message that was there all the time
        self._integral, self._max = 0.0, 0
        self._start = array("d", [math.nan]) * num_workers  # `_carried` when a message came
        self._at = array("d", [math.nan]) * num_workers  # and the time
        self._size = array("d", [0.0]) * num_workers  # and its bits
        self._total = array("d", [0.0]) * num_workers  # bits of messages that are through
        self._seconds = array("d", [0.0]) * num_workers  # for how long there were messages that are through

    def enter(self, worker: int, nbits: float, now: float) -> None:
        """Let a worker's message in."""
        if self.num:
            self._pass(now)
        else:
            self._carried, self._since = 0.0, now
        self._order += 1
        self._start[worker], self._at[worker], self._size[worker] = self._carried, now, nbits
        heappush(self._ends, (self._carried + nbits, self._order, worker))
        self.num += 1
        self._share()

    def finish(self) -> int:
        """Let out the message that is through at `next_finish`, and return whose it is."""
        now = self.next_finish
        self._pass(now)
        self._carried, _, worker = heappop(self._ends)
        self._total[worker] += self._size[worker]
        self._seconds[worker] += now - self._at[worker]
        self._start[worker] = math.nan
        self.num -= 1
        if self.num:
            self._share()
        else:
            self._rate, self.next_finish = 0.0, math.inf
        return worker

    def _pass(self, now: float) -> None:
        """Let time pass with as many messages as there are."""
        seconds = now - self._since
        if seconds > 0:
            self._carried += self._rate * seconds
            self._integral += self.num * seconds
            self._max = max(self._max, self.num)
            self._since = now

    def _share(self) -> None:
        """Find out how quickly messages go from now on, and when the next is through."""
        self._rate = rate = min(self._ceiling, self._capacity / self.num)
        left = self._ends[0][0] - self._carried
        self.next_finish = self._since + left / rate if left > 0 else self._since

    def until(self, now: float) -> tuple[Floats, Floats]:
        """Return what the messages of each worker have carried until now [bit], and for how long there were any [s].

        Args:
            now: any time from the last change to the next [s].
        """
        start, at, size, total, seconds = map(
            np.frombuffer, (self._start, self._at, self._size, self._total, self._seconds)
        )
        is_there = ~np.isnan(start)
        carried = np.clip(self._carried + self._rate * (now - self._since) - start, 0.0, size)
        return total + np.where(is_there, carried, 0.0), seconds + np.where(is_there, now - at, 0.0)

    def queue(self, now: float) -> tuple[float, int]:
        """Return how many messages there were at once until now: on average, and at most."""
        integral = self._integral + self.num * (now - self._since)
        most = max(self._max, self.num if now > self._since else 0)
        return (integral / now if now > 0 else 0.0), most
