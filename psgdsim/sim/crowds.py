"""Which flows may be treated as crowds, and for how long.

A link's flows are a crowd if the link stops all of them and they meet no others: every flow on any link of theirs
crosses this link, and no other link of theirs would stop them first. That is found out once, for all flows, and then
kept true flow by flow.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from psgdsim.sim.crowd import Crowd
from psgdsim.sim.flow_table import Flow, FlowTable
from psgdsim.sim.sharing import TIE

SMALLEST: Final = 16
"""A crowd forms of more flows than this, and ends at half of it."""

PATIENCE: Final = 32
"""A crowd is tried once a link's flows have been shared anew often enough to pay for it: one time for so many flows."""


class Crowds:
    """The crowds of a network.

    Args:
        bandwidth: of each link [bit/s]; the owner keeps it up to date.
        on: the flows on each link; likewise.
        table: where flows are that are in no crowd.
    """

    def __init__(self, bandwidth: array[float], on: Sequence[dict[Flow, None]], table: FlowTable) -> None:
        self._bandwidth, self._on, self._table = bandwidth, on, table
        self._by_link: dict[int, Crowd] = {}
        self._group = array("q", [-1]) * len(bandwidth)  # the link whose crowd all flows here belong to
        self._size = array("d", [0.0]) * len(bandwidth)  # how many of them there are here
        self._patience = array("q", [0]) * len(bandwidth)
        self._groups, self._sizes = np.frombuffer(self._group, np.int64), np.frombuffer(self._size)
        self._capacity = np.frombuffer(bandwidth)

    # --- while a crowd lasts ----------------------------------------------------------------------------------

    def settle(self, changed: dict[int, None], newcomers: Iterable[Flow], now: float) -> dict[int, None]:
        """Give the crowds that a change touches their new rates, or end them.

        Args:
            changed: links on which something has changed.
            newcomers: flows that have come since the last time.
            now: the time [s].

        Returns:
            The links that have changed and are no crowd's.
        """
        if not self._by_link:
            return changed
        for link in dict.fromkeys(self._group[link] for link in changed):
            if link >= 0 and not self._is_kept(link, changed, newcomers, now):
                self.dissolve(link, now)
        return {link: None for link in changed if self._group[link] < 0}

    def _is_kept(self, link: int, changed: Iterable[int], newcomers: Iterable[Flow], now: float) -> bool:
        """Let newcomers in and set the rate; return False if the flows on a link are no crowd any more."""
        crowd, group = self._by_link[link], self._group
        if 2 * len(self._on[link]) <= SMALLEST:
            return False
        for flow in newcomers:
            if flow.crowd < 0 and link in flow.path.links:
                if not flow.path.is_plain or any(group[other] not in {-1, link} for other in flow.path.links):
                    return False
                crowd.join(flow, self._table.left(flow, now), now)
                self._take(flow, link)
        if any(group[other] == link and self._size[other] != len(self._on[other]) for other in changed):
            return False
        rate = self._bandwidth[link] / len(self._on[link])
        if ((rate * (1 - TIE) * self._sizes > self._capacity) & (self._groups == link)).any():
            return False
        crowd.set_rate(rate, now)
        return True

    def _take(self, flow: Flow, link: int) -> None:
        """Move a flow from the table to the crowd of a link."""
        self._table.remove(flow)
        flow.crowd = link
        for other in flow.path.links:
            self._group[other] = link
            self._size[other] += 1

    def leave(self, flow: Flow) -> None:
        """Let a flow out that ends."""
        self._by_link[flow.crowd].leave(flow)
        self._let_go(flow)

    def _let_go(self, flow: Flow) -> None:
        flow.crowd = -1
        for other in flow.path.links:
            self._size[other] -= 1
            if not self._size[other] and other not in self._by_link:
                self._group[other] = -1

    def dissolve(self, link: int, now: float) -> None:
        """Give the members of a crowd rows of their own in the table."""
        crowd = self._by_link.pop(link)
        for flow, left in crowd.members(now):
            self._let_go(flow)
            self._table.add(flow, left, now)
            self._table.set_rate(flow, crowd.rate, now)
        self._group[link] = -1

    # --- how a crowd forms ------------------------------------------------------------------------------------

    def consider(self, changed: Iterable[int], now: float) -> None:
        """Take note that the flows on some links had to be shared anew; form a crowd if that promises to pay.

        Args:
            changed: links whose flows are in no crowd.
            now: the time [s].
        """
        link = max(changed, key=lambda link: len(self._on[link]))
        num = len(self._on[link])
        if num <= SMALLEST:
            return
        self._patience[link] += PATIENCE
        if self._patience[link] > num + 4 * PATIENCE:
            self._patience[link] = 0 if self._form(link, now) else -8 * num

    def _form(self, link: int, now: float) -> bool:
        """Make the flows on a link a crowd if they are one."""
        rate = self._bandwidth[link] / len(self._on[link])
        size: dict[int, int] = {}
        for flow in self._on[link]:
            if not flow.path.is_plain:
                return False
            for other in flow.path.links:
                size[other] = size.get(other, 0) + 1
        for other, num in size.items():
            if num != len(self._on[other]) or rate * (1 - TIE) * num > self._bandwidth[other]:
                return False
        members = [(flow, self._table.left(flow, now)) for flow in self._on[link]]
        for flow, _ in members:
            self._take(flow, link)
        self._by_link[link] = Crowd(members, rate, now)
        return True

    # --- what is known ----------------------------------------------------------------------------------------

    def next_finish(self) -> float:
        """Return when the next flow in a crowd ends if nothing changes [s]."""
        if not self._by_link:
            return math.inf
        return min([crowd.next_finish() for crowd in self._by_link.values()])

    def due(self, horizon: float) -> list[Flow]:
        """Return the flows in crowds that end by a time; they must leave before anything else happens."""
        return [flow for crowd in self._by_link.values() for flow in crowd.due(horizon)]

    def rate(self, flow: Flow) -> float:
        """Return the rate of a flow in a crowd [bit/s]."""
        return self._by_link[flow.crowd].rate

    def left(self, flow: Flow, now: float) -> float:
        """Return what a flow in a crowd has still to carry [bit]."""
        return self._by_link[flow.crowd].left(flow, now)
