"""Where the numbers of flows under way are kept: a row for each, and the matrix of flows and links."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from psgdsim.sim.paths import Path
from psgdsim.sim.sharing import Bools, Floats, Ints, levels
from psgdsim.sim.table import Table

SMALL: Final = 32
"""Up to so many rows, Python is quicker than a numpy call."""

SAME_RATE: Final = 2e-15
"""A rate that changes by less, relatively, has not changed: its flow's finish time stays as it is, to the last bit."""

_FASTEST: Final = 1e200
"""The rate of a flow that nothing limits [bit/s]; an infinite one would make times of nothing."""

_ROWS: Final = {
    "rate": ("d", 0.0),
    "left": ("d", math.inf),
    "since": ("d", 0.0),
    "finish": ("d", math.inf),
    "penalty": ("d", 1.0),
    "ceiling": ("d", math.inf),
    "is_live": ("b", 0),
}
"""Per flow: the rate that sharing grants [bit/s], the bits that were left when it was granted, when that was [s], when
they will be through [s], and what its path says; all in wire bits, `nbits / goodput`. A row without a flow has
infinitely much left, so that it never ends."""

_ENTRIES: Final = {"flow": ("q", 0), "link": ("q", 0), "weight": ("d", 0.0)}
"""The matrix of flows and links, for `levels`."""


class Flow:
    """A message on its way.

    Args:
        path: how it crosses the network.
        nbits: its size.
        owner: whatever its user wants to find in it.
    """

    __slots__ = ("accounted", "block", "crowd", "nbits", "order", "owner", "path", "row")

    def __init__(self, path: Path, nbits: float, owner: Any = None) -> None:
        self.path, self.nbits, self.owner = path, nbits, owner
        self.row = self.block = self.crowd = self.order = -1
        self.accounted = 0.0


class FlowTable:
    """Flows with rates of their own, and when each ends; all in wire bits, `nbits / goodput`.

    Args:
        num_links: how many links there are.

    Attributes:
        flows: the flows, in the order in which they entered.
        is_plain: whether none has a penalty, a bound or a coefficient.
    """

    def __init__(self, num_links: int) -> None:
        self.flows: dict[Flow, None] = {}
        self.is_plain = True
        self._nowhere = num_links  # the link of entries that mean nothing any more
        self._rows = Table(_ROWS)
        self._at: list[Flow | None] = []
        self._free: list[int] = []
        self._entries = Table(_ENTRIES)
        self._used = self._dead = 0
        self._unlisted: dict[Flow, None] = {}
        self._look()

    def _look(self) -> None:
        """Remember the cells that are needed all the time."""
        cells = self._rows.cells
        self._rate, self._left, self._since = cells["rate"], cells["left"], cells["since"]
        self._finish, self._is_live = cells["finish"], cells["is_live"]

    # --- flows come and go ------------------------------------------------------------------------------------

    def add(self, flow: Flow, left: float, now: float) -> None:
        """Give a flow a row; it has some bits left and no rate yet."""
        row = flow.row = self._free.pop() if self._free else self._new_row()
        path = flow.path
        self._at[row] = flow
        self._left[row], self._since[row], self._rate[row] = left, now, 0.0
        self._is_live[row] = 1
        if not path.is_plain:
            self.is_plain = False
        if not self.is_plain:
            self._rows.cells["penalty"][row], self._rows.cells["ceiling"][row] = path.penalty, path.ceiling
        self.flows[flow] = self._unlisted[flow] = None

    def add_like(self, flow: Flow, other: Flow) -> None:
        """Give a flow a row with what another one has left and how quickly it goes, to the last bit."""
        row = other.row
        self.add(flow, self._left[row], self._since[row])
        self._rate[flow.row], self._finish[flow.row] = self._rate[row], self._finish[row]

    def remove(self, flow: Flow) -> None:
        """Free a flow's row."""
        row = flow.row
        del self.flows[flow]
        self._rate[row], self._left[row], self._finish[row], self._is_live[row] = 0.0, math.inf, math.inf, 0
        self._at[row] = None
        self._free.append(row)
        if flow.block < 0:
            del self._unlisted[flow]
        else:
            self._blank(flow)
        flow.row = -1
        if not self.flows:
            self.is_plain = True
        if len(self._at) > 2 * SMALL and 2 * len(self._free) > len(self._at):
            self._compact()

    def _new_row(self) -> int:
        row = len(self._at)
        if row == self._rows.size:
            self._rows.grow(2 * row)
            self._look()
        self._at.append(None)
        return row

    def _compact(self) -> None:
        """Close the gaps that flows have left."""
        self._rows.keep(np.array([flow.row for flow in self.flows], np.int64))
        for row, flow in enumerate(self.flows):
            flow.row, flow.block = row, -1
        self._at, self._free = list(self.flows), []
        self._used = self._dead = 0
        self._unlisted = dict.fromkeys(self.flows)

    # --- the matrix -------------------------------------------------------------------------------------------

    def _list_new(self) -> None:
        """Enter the flows into the matrix that have come since the last time."""
        for flow in self._unlisted:
            width = len(flow.path.links)
            if self._used + width > self._entries.size:
                self._entries.grow(2 * (self._used + width))
            flow.block = self._used
            cells = self._entries.cells
            for at, (link, weight) in enumerate(zip(flow.path.links, flow.path.weights, strict=True), self._used):
                cells["flow"][at], cells["link"][at], cells["weight"][at] = flow.row, link, weight
            self._used += width
        self._unlisted.clear()

    def matrix(self) -> tuple[Ints, Ints, Floats, Floats, Bools]:
        """Return what `levels` must know; all views, valid until a flow comes or goes."""
        self._list_new()
        rows, (flow, link, weight) = self._columns(), (self._entries.columns[name][: self._used] for name in _ENTRIES)
        return flow, link, weight, rows["ceiling"], rows["is_live"].view(np.bool_)

    def _blank(self, flow: Flow) -> None:
        """Make the flow's entries mean nothing."""
        link, width = self._entries.cells["link"], len(flow.path.links)
        for at in range(flow.block, flow.block + width):
            link[at] = self._nowhere
        flow.block = -1
        self._dead += width
        if 2 * self._dead > self._used + 4 * SMALL:
            self._compact()

    # --- rates ------------------------------------------------------------------------------------------------

    def set_rate(self, flow: Flow, rate: float, now: float) -> None:
        """Let a flow go on at another rate [bit/s]."""
        row = flow.row
        old = self._rate[row]
        rate = min(rate, _FASTEST)
        if abs(rate - old) <= SAME_RATE * old and old > 0:
            return
        left = self._left[row] - old * (now - self._since[row])
        left = max(left, 0.0)
        self._left[row], self._since[row], self._rate[row] = left, now, rate
        self._finish[row] = now + left / rate if rate > 0 else math.inf

    def share(self, capacity: Floats, now: float) -> None:
        """Give all flows their max-min fair rates.

        Args:
            capacity: of each link [bit/s], and an infinite one behind.
            now: the time [s].
        """
        rows, level = self._columns(), levels(capacity, *self.matrix())
        self._set_rates(rows, level if self.is_plain else level / rows["penalty"], now)

    def _columns(self) -> dict[str, Floats]:
        top = len(self._at)
        return {name: column[:top] for name, column in self._rows.columns.items()}

    @staticmethod
    def _set_rates(rows: dict[str, Floats], rate: Floats, now: float) -> None:
        """Do what `set_rate` does, to all rows at once."""
        np.minimum(rate, _FASTEST, out=rate)
        has_changed = np.abs(rate - rows["rate"]) > SAME_RATE * rows["rate"]
        some: Any = slice(None) if has_changed.all() else np.flatnonzero(has_changed)
        rate, old, left, since = rate[some], rows["rate"][some], rows["left"][some], rows["since"][some]
        left = np.maximum(left - old * (now - since), 0.0)
        rows["rate"][some], rows["left"][some], rows["since"][some] = rate, left, now
        if rate.all():
            rows["finish"][some] = now + left / rate
        else:
            with np.errstate(divide="ignore", invalid="ignore"):
                rows["finish"][some] = np.where(rate > 0, now + left / rate, math.inf)

    def pressure(self, num_links: int) -> tuple[Floats, Floats]:
        """Return for each link what the flows load it with [bit/s], and the highest level of a flow that crosses it."""
        rows, (flow, link, weight, *_) = self._columns(), self.matrix()
        level = (rows["rate"] * rows["penalty"])[flow]
        highest = np.zeros(num_links)
        np.maximum.at(highest, link, level)
        return np.asarray(np.bincount(link, weight * level, num_links), float), highest

    # --- what is known ----------------------------------------------------------------------------------------

    def next_finish(self) -> float:
        """Return when the next flow ends if no rate changes [s]; infinite if none does."""
        if not self.flows:
            return math.inf
        if len(self._at) <= SMALL:
            return float(min(self._finish[: len(self._at)]))
        return float(self._rows.columns["finish"][: len(self._at)].min())

    def due(self, horizon: float) -> list[Flow]:
        """Return the flows that end by a time, in any order that is always the same."""
        if len(self.flows) <= SMALL:
            finish = self._finish
            return [flow for flow in self.flows if finish[flow.row] <= horizon]
        rows = (self._rows.columns["finish"][: len(self._at)] <= horizon).nonzero()[0].tolist()
        return [flow for row in rows if (flow := self._at[row])]

    def finish(self, flow: Flow) -> float:
        """Return when a flow ends if its rate does not change [s]."""
        return float(self._finish[flow.row])

    def rate(self, flow: Flow) -> float:
        """Return what sharing has granted a flow [bit/s]."""
        return float(self._rate[flow.row])

    def left(self, flow: Flow, now: float) -> float:
        """Return what a flow has still to carry [bit]."""
        row = flow.row
        return float(max(0.0, self._left[row] - self._rate[row] * (now - self._since[row])))
