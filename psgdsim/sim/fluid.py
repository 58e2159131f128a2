"""Flows under way: who is where, how fast, and when each ends.

The engine knows no clock: its user says what time it is, and must come back at `next_finish`. Rates are shared anew
only among flows that a change can reach through links in common: a few of them are followed link by link in Python; if
there are many, numpy shares all flows anew, which gives the others the rates that they have.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final, Generic, TypeVar

import numpy as np

from psgdsim.sim.paths import Path
from psgdsim.sim.sharing import Floats, few_levels, levels
from psgdsim.sim.table import Table

FEW: Final = 64
"""So many flows are followed link by link."""

FILLED: Final = 16
"""So many flows with several bottlenecks are shared in Python."""

SAME_RATE: Final = 2e-15
"""A rate that changes by less, relatively, has not changed: its flow's finish time stays as it is, to the last bit."""

SAME_TIME: Final = 4e-15
"""Flows whose finish times differ by less, relatively, end together: rounding must not tell them apart."""

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

    __slots__ = ("accounted", "block", "nbits", "order", "owner", "path", "row")

    def __init__(self, path: Path, nbits: float, owner: Any = None) -> None:
        self.path, self.nbits, self.owner = path, nbits, owner
        self.row = self.block = self.order = -1
        self.accounted = 0.0

    @property
    def is_under_way(self) -> bool:
        """Whether it is among those that share links."""
        return self.row >= 0


AnyFlow = TypeVar("AnyFlow", bound=Flow)


class FluidLinks(Generic[AnyFlow]):
    """Links, and the flows that share them.

    Args:
        bandwidths: of each link [bit/s].

    Attributes:
        bandwidth: of each link now [bit/s].
    """

    def __init__(self, bandwidths: Sequence[float]) -> None:
        self.bandwidth = list(bandwidths)
        self._carried = [0.0] * len(self.bandwidth)
        self._granted = [0.0] * len(self.bandwidth)  # since the link's bandwidth last changed
        self._busy = [0.0] * len(self.bandwidth)  # until then
        self._on: list[dict[AnyFlow, None]] = [{} for _ in self.bandwidth]
        self._flows: dict[AnyFlow, None] = {}
        self._dirty: dict[int, None] = {}
        self._is_plain = True
        self._rows = Table(_ROWS)
        self._at: list[AnyFlow | None] = []
        self._top = self._num_added = 0
        self._free: list[int] = []
        self._entries = Table(_ENTRIES)
        self._used = self._dead = 0
        self._unlisted: dict[AnyFlow, None] = {}
        self._look()

    def _look(self) -> None:
        """Remember the cells that are needed all the time."""
        cells = self._rows.cells
        self._rate, self._left, self._since = cells["rate"], cells["left"], cells["since"]
        self._finish, self._is_live = cells["finish"], cells["is_live"]

    @property
    def flows(self) -> Iterable[AnyFlow]:
        """The flows under way, in the order in which they entered."""
        return self._flows

    @property
    def is_dirty(self) -> bool:
        """Whether something has changed that `share` must see."""
        return bool(self._dirty)

    # --- what happens -----------------------------------------------------------------------------------------

    def add(self, flow: AnyFlow, now: float) -> None:
        """Let a flow in. If it is alone on its links it goes at once, else rates are shared at the next `share`."""
        path, on = flow.path, self._on
        row = flow.row = self._free.pop() if self._free else self._new_row()
        self._at[row] = flow
        self._left[row], self._since[row], self._rate[row] = flow.nbits / path.goodput, now, 0.0
        self._is_live[row] = 1
        flow.order = self._num_added = self._num_added + 1
        self._flows[flow] = self._unlisted[flow] = None
        if not path.is_plain:
            self._is_plain = False
        if not self._is_plain:
            self._rows.cells["penalty"][row], self._rows.cells["ceiling"][row] = path.penalty, path.ceiling
        is_alone = True
        for link in path.links:
            here = on[link]
            if here:
                is_alone = False
            here[flow] = None
        if not is_alone:
            for link in path.links:
                self._dirty[link] = None
        elif path.is_plain:
            self._set_rate(row, min([self.bandwidth[link] for link in path.links]), now)
        else:
            self._set_rate(row, few_levels([path], self.bandwidth)[0] / path.penalty, now)

    def end(self, flow: AnyFlow, now: float, *, is_complete: bool = True) -> None:
        """Take a flow out: it has arrived, or it is given up."""
        row = flow.row
        total = flow.nbits if is_complete else flow.nbits - self.left(flow, now)
        self._account(flow, total)
        for link in flow.path.links:
            here = self._on[link]
            del here[flow]
            if here:
                self._dirty[link] = None
        del self._flows[flow]
        self._rate[row], self._left[row], self._finish[row], self._is_live[row] = 0.0, math.inf, math.inf, 0
        self._at[row] = None
        self._free.append(row)
        self._unlist(flow)
        flow.row = -1
        if self._top > FEW and 2 * len(self._free) > self._top:
            self._compact()

    def set_bandwidth(self, link: int, bandwidth: float, now: float) -> None:
        """Change a link's capacity [bit/s]; 0 stops all that cross it."""
        for flow in self._on[link]:
            self._account(flow, flow.nbits - self.left(flow, now))
        self._busy[link] = self._busy_for(link)
        self._granted[link] = 0.0
        self.bandwidth[link] = bandwidth
        self._dirty[link] = None

    def next_finish(self) -> float:
        """Return when the next flow ends if nothing changes [s]; infinite if none does."""
        if self._top <= FEW // 2:
            return min(self._finish[: self._top], default=math.inf)
        return float(self._rows.columns["finish"][: self._top].min())

    def due(self, now: float) -> list[AnyFlow]:
        """Return the flows that end by now, in the order in which they entered."""
        horizon = now * (1 + SAME_TIME)
        if len(self._flows) <= FEW // 2:
            finish = self._finish
            return [flow for flow in self._flows if finish[flow.row] <= horizon]
        rows = np.flatnonzero(self._rows.columns["finish"][: self._top] <= horizon).tolist()
        if len(rows) == len(self._flows):
            return list(self._flows)
        return sorted((flow for row in rows if (flow := self._at[row])), key=lambda flow: flow.order)

    # --- what is known of a flow or a link --------------------------------------------------------------------

    def left(self, flow: AnyFlow, now: float) -> float:
        """Return what a flow has still to carry [bit]."""
        row = flow.row
        wire = self._left[row] - self._rate[row] * (now - self._since[row])
        return float(max(0.0, wire) * flow.path.goodput)

    def finish(self, flow: AnyFlow) -> float:
        """Return when a flow ends if nothing changes [s]."""
        return float(self._finish[flow.row])

    def rate(self, flow: AnyFlow) -> float:
        """Return a flow's rate [bit/s of payload]."""
        return float(self._rate[flow.row] * flow.path.goodput)

    def loads(self) -> list[float]:
        """Return what flows take of each link now [bit/s], acknowledgements and headers included."""
        loads = [0.0] * len(self.bandwidth)
        for flow in self._flows:
            rate = self._rate[flow.row]
            for link, coefficient in zip(flow.path.links, flow.path.coefficients, strict=True):
                loads[link] += coefficient * rate
        return loads

    def usage(self, now: float) -> list[tuple[float, float]]:
        """Return what each link has carried until now [bit], and for how long it would have been busy with that [s].

        The second counts acknowledgements and headers, too; over the time that has passed it is the utilisation.
        """
        for flow in self._flows:
            self._account(flow, flow.nbits - self.left(flow, now))
        return [(carried, self._busy_for(link)) for link, carried in enumerate(self._carried)]

    def _busy_for(self, link: int) -> float:
        granted = self._granted[link]
        return self._busy[link] + (granted / self.bandwidth[link] if granted > 0 else 0.0)

    def _account(self, flow: AnyFlow, total: float) -> None:
        """Book what a flow has carried so far on its links."""
        path, nbits = flow.path, total - flow.accounted
        flow.accounted = total
        for link in path.route:
            self._carried[link] += nbits
        wire = nbits / path.goodput
        for link, coefficient in zip(path.links, path.coefficients, strict=True):
            self._granted[link] += coefficient * wire

    # --- sharing ----------------------------------------------------------------------------------------------

    def share(self, now: float) -> None:
        """Share the links anew that have changed since the last time."""
        dirty, self._dirty = self._dirty, {}
        found = self._reached(dirty)
        if found is None or not self._share_few(*found, now):
            self._share_all(now)

    def _reached(self, changed: Iterable[int]) -> tuple[dict[AnyFlow, None], list[int]] | None:
        """Return the flows that a change can reach and the links on which they meet, or None if they are many."""
        on, links, flows = self._on, list(changed), dict[AnyFlow, None]()
        if max([len(on[link]) for link in links], default=0) > FEW:
            return None
        seen = set(links)
        for link in links:  # grows on the way
            here = on[link]
            if len(here) > FEW:
                return None
            for flow in here:
                if flow in flows:
                    continue
                flows[flow] = None
                for other in flow.path.links:
                    if other not in seen:
                        seen.add(other)
                        links.append(other)
            if len(flows) > FEW:
                return None
        return flows, links

    def _share_few(self, flows: dict[AnyFlow, None], links: list[int], now: float) -> bool:
        """Share a few flows in Python; return False, having done nothing, if numpy is quicker."""
        if self._is_plain and self._share_one_bottleneck(flows, links, now):
            return True
        if len(flows) > FILLED:
            return False
        heights = few_levels([flow.path for flow in flows], self.bandwidth)
        for flow, height in zip(flows, heights, strict=True):
            self._set_rate(flow.row, height / flow.path.penalty, now)
        return True

    def _share_one_bottleneck(self, flows: dict[AnyFlow, None], links: list[int], now: float) -> bool:
        """Share equally if the tightest link stops all of them; return whether it does."""
        on, bandwidth = self._on, self.bandwidth
        lowest, num = math.inf, 0
        for link in links:
            here = len(on[link])
            if here and bandwidth[link] < lowest * here:
                lowest, num = bandwidth[link] / here, here
        if num != len(flows):
            return False
        for flow in flows:
            self._set_rate(flow.row, lowest, now)
        return True

    def _set_rate(self, row: int, rate: float, now: float) -> None:
        old = self._rate[row]
        rate = min(rate, _FASTEST)
        if abs(rate - old) <= SAME_RATE * old and old > 0:
            return
        left = self._left[row] - old * (now - self._since[row])
        left = max(left, 0.0)
        self._left[row], self._since[row], self._rate[row] = left, now, rate
        self._finish[row] = now + left / rate if rate > 0 else math.inf

    def _share_all(self, now: float) -> None:
        self._list_new()
        top, used, entries = self._top, self._used, self._entries.columns
        columns = {name: column[:top] for name, column in self._rows.columns.items()}
        is_live = columns["is_live"].view(np.bool_)
        capacity = np.array([*self.bandwidth, math.inf])  # the last is where entries of flows that have ended point
        level = levels(
            capacity,
            entries["flow"][:used],
            entries["link"][:used],
            entries["weight"][:used],
            columns["ceiling"],
            is_live,
        )
        self._set_rates(columns, level if self._is_plain else level / columns["penalty"], now)

    @staticmethod
    def _set_rates(columns: dict[str, Floats], rate: Floats, now: float) -> None:
        """Do what `_set_rate` does, to all rows at once."""
        np.minimum(rate, _FASTEST, out=rate)
        has_changed = np.abs(rate - columns["rate"]) > SAME_RATE * columns["rate"]
        rows: Any = slice(None) if has_changed.all() else np.flatnonzero(has_changed)
        rate, old, left, since = rate[rows], columns["rate"][rows], columns["left"][rows], columns["since"][rows]
        left = np.maximum(left - old * (now - since), 0.0)
        columns["rate"][rows], columns["left"][rows], columns["since"][rows] = rate, left, now
        with np.errstate(divide="ignore", invalid="ignore"):
            finish = now + left / rate
        if not rate.all():
            finish[rate == 0] = math.inf
        columns["finish"][rows] = finish

    # --- where flows are kept ---------------------------------------------------------------------------------

    def _new_row(self) -> int:
        if self._top == self._rows.size:
            self._rows.grow(2 * self._top)
            self._look()
        self._top += 1
        self._at.append(None)
        return self._top - 1

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

    def _unlist(self, flow: AnyFlow) -> None:
        """Blank out the flow's entries in the matrix."""
        if flow.block < 0:
            del self._unlisted[flow]
            return
        link, weight, width = self._entries.cells["link"], self._entries.cells["weight"], len(flow.path.links)
        for at in range(flow.block, flow.block + width):
            link[at], weight[at] = len(self.bandwidth), 0.0
        flow.block = -1
        self._dead += width
        if 2 * self._dead > self._used + FEW:
            self._compact()

    def _compact(self) -> None:
        """Close the gaps that flows have left."""
        rows = np.array([flow.row for flow in self._flows], np.int64)
        self._rows.keep(rows)
        for row, flow in enumerate(self._flows):
            flow.row, flow.block = row, -1
        self._at = list(self._flows)
        self._top, self._free = len(rows), []
        self._used = self._dead = 0
        self._unlisted = dict.fromkeys(self._flows)
