"""Flows that share links max-min fairly: who is where, and who must be given another rate when something changes.

Nothing here knows a clock: its user says what time it is, and must come back at `next_finish`. Rates are shared anew
only among flows that a change can reach through links in common. A few of them are followed link by link in Python;
many that one link stops are a crowd; for the rest, and wherever there are large bundles, numpy shares all flows anew
that are in no crowd, which leaves those that the change does not reach the rates that they have. Small bundles that a
change reaches are taken apart.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from typing import Final
from weakref import WeakKeyDictionary

import numpy as np

from psgdsim.sim.bundles import Bundle, Routes, are_even, split_uneven
from psgdsim.sim.crowds import Crowds
from psgdsim.sim.flow_table import Flow, FlowTable
from psgdsim.sim.sharing import Floats, few_levels

FEW: Final = 16
"""Up to so many flows are followed link by link and shared in Python."""

SAME_TIME: Final = 4e-15
"""Flows whose finish times differ by less, relatively, end together: rounding must not tell them apart."""


class FluidLinks:
    """Links, and the flows that share them.

    Args:
        bandwidths: of each link [bit/s].
    """

    def __init__(self, bandwidths: Sequence[float]) -> None:
        self._bandwidth = array("d", [*bandwidths, math.inf])  # the last is the `nowhere` of the table
        self._capacity = np.frombuffer(self._bandwidth)
        num = len(bandwidths)
        self._on: list[dict[Flow, None]] = [{} for _ in range(num)]
        self._dirty: dict[int, None] = {}
        self._newcomers: dict[Flow, None] = {}  # those whose rate has not been shared yet
        self._flows: dict[Flow, None] = {}
        self._bundles: dict[Bundle, None] = {}
        self._even: WeakKeyDictionary[Routes, bool] = WeakKeyDictionary()  # as long as no bandwidth changes
        self._num_added = 0
        self._table = FlowTable(num)
        self._crowds = Crowds(self._bandwidth, self._on, self._table)
        self._carried = [0.0] * num
        self._granted = [0.0] * num  # since the link's bandwidth last changed
        self._busy = [0.0] * num  # until then

    def __contains__(self, flow: object) -> bool:
        return flow in self._flows

    @property
    def flows(self) -> Iterable[Flow]:
        """The flows under way, in the order in which they entered; those in a bundle count as one."""
        return self._flows

    @property
    def is_dirty(self) -> bool:
        """Whether something has changed that `share` must see."""
        return bool(self._dirty)

    # --- what happens -----------------------------------------------------------------------------------------

    def add(self, flow: Flow, now: float) -> float:
        """Let a flow in. If it is alone on its links it goes at once, else rates are shared at the next `share`.

        Returns:
            When it ends if nothing changes [s]; infinite if that is not known yet.
        """
        path, on = flow.path, self._on
        self._table.add(flow, flow.nbits / path.goodput, now)
        self._flows[flow] = None
        flow.order = self._num_added = self._num_added + 1
        is_alone = True
        for link in path.links:
            here = on[link]
            if here:
                is_alone = False
            here[flow] = None
        if not is_alone:
            self._newcomers[flow] = None
            for link in path.links:
                self._dirty[link] = None
            return math.inf
        level = path.ceiling
        for link, weight in zip(path.links, path.weights, strict=True):
            level = min(level, self._bandwidth[link] / weight)
        self._table.set_rate(flow, level / path.penalty, now)
        return self._table.finish(flow)

    def add_bundle(self, bundle: Bundle, now: float) -> float:
        """Let a bundle in, as `add` does a flow."""
        finish = self.add(bundle, now)
        self._num_added += len(bundle.members) - 1  # places in the order for all of them
        self._bundles[bundle] = None
        if bundle not in self._newcomers and self._is_even(bundle):
            return finish
        self._dirty.update(dict.fromkeys(bundle.path.links))
        if bundle.is_small:
            self._newcomers.pop(bundle, None)
            self._newcomers.update(dict.fromkeys(self._loosen(bundle)))
        else:
            self._newcomers[bundle] = None
        return math.inf

    def _is_even(self, bundle: Bundle) -> bool:
        """Whether the members of a bundle that is alone on its links go at one rate; its routes and bandwidths say."""
        if bundle.routes not in self._even:
            self._even[bundle.routes] = bundle.is_even(self._table.rate(bundle), self._capacity)
        return self._even[bundle.routes]

    def end(self, flow: Flow, now: float, *, is_complete: bool = True) -> None:
        """Take a flow out: it has arrived, or it is given up."""
        self._account(flow, flow.nbits if is_complete else self._carried_of(flow, now))
        del self._flows[flow]
        if isinstance(flow, Bundle) and flow in self._bundles:
            del self._bundles[flow]
        if flow in self._newcomers:
            del self._newcomers[flow]
        if flow.crowd < 0:
            self._table.remove(flow)
        else:
            self._crowds.leave(flow)
        for link in flow.path.links:
            here = self._on[link]
            del here[flow]
            if here:
                self._dirty[link] = None

    def set_bandwidth(self, link: int, bandwidth: float, now: float) -> None:
        """Change a link's capacity [bit/s]; 0 stops all that cross it."""
        for flow in self._on[link]:
            self._account(flow, self._carried_of(flow, now))
        self._busy[link] = self._busy_for(link)
        self._granted[link] = 0.0
        self._bandwidth[link] = bandwidth
        self._even.clear()
        self._dirty[link] = None

    def next_finish(self) -> float:
        """Return when the next flow ends if nothing changes [s]; infinite if none does."""
        return min(self._table.next_finish(), self._crowds.next_finish())

    def due(self, now: float) -> list[Flow]:
        """Return the flows that end by now, in the order in which they entered."""
        horizon = now * (1 + SAME_TIME)
        due = self._table.due(horizon) + self._crowds.due(horizon)
        if len(due) > 1:
            due.sort(key=lambda flow: flow.order)
        return due

    # --- what is known -------------------------------------------------------------------------------------

    def rate(self, flow: Flow) -> float:
        """Return what sharing has granted a flow [bit/s]; less of it is payload where a TCP model says so."""
        return self._table.rate(flow) if flow.crowd < 0 else self._crowds.rate(flow)

    def usage(self, now: float) -> Floats:
        """Return what each link has carried until now [bit], and for how long it would have been busy with that [s].

        The second counts acknowledgements and headers, too; over the time that has passed it is the utilisation.
        """
        for flow in self._flows:
            self._account(flow, self._carried_of(flow, now))
        usage, bandwidth = np.empty((len(self._carried), 2)), self._capacity[:-1]
        usage[:, 0] = self._carried
        granted = np.divide(self._granted, bandwidth, out=np.zeros_like(bandwidth), where=bandwidth > 0)
        np.add(self._busy, granted, out=usage[:, 1])
        return usage

    def _carried_of(self, flow: Flow, now: float) -> float:
        """Return what a flow has carried until now [bit of payload]."""
        left = self._table.left(flow, now) if flow.crowd < 0 else self._crowds.left(flow, now)
        return flow.nbits - left * flow.path.goodput

    def _busy_for(self, link: int) -> float:
        bandwidth = self._bandwidth[link]
        return self._busy[link] + (self._granted[link] / bandwidth if bandwidth > 0 else 0.0)

    def _account(self, flow: Flow, total: float) -> None:
        """Book what a flow has carried so far on its links."""
        path, nbits = flow.path, total - flow.accounted
        flow.accounted = total
        if path.is_plain:
            for link in path.route:
                self._carried[link] += nbits
                self._granted[link] += nbits
            return
        for link in path.route:
            self._carried[link] += nbits
        wire = nbits / path.goodput
        for link, coefficient in zip(path.links, path.coefficients, strict=True):
            self._granted[link] += coefficient * wire

    # --- sharing ----------------------------------------------------------------------------------------------

    def share(self, now: float) -> None:
        """Share the links anew that have changed since the last time."""
        changed, self._dirty = self._dirty, {}
        newcomers, self._newcomers = self._newcomers, {}
        changed = self._crowds.settle(changed, newcomers, now)
        if not changed:
            return
        reached = self._reached(changed)
        if self._loosen_small(changed if reached is None else reached[1]):
            reached = self._reached(changed)
        if reached is None or not self._bundles.keys().isdisjoint(reached[0]):
            self._share_all(now)
            self._crowds.consider(changed, now)
        elif not self._share_one_bottleneck(*reached, now):
            flows = reached[0]
            heights = few_levels([flow.path for flow in flows], self._bandwidth)
            for flow, height in zip(flows, heights, strict=True):
                self._table.set_rate(flow, height / flow.path.penalty, now)

    def _share_all(self, now: float) -> None:
        """Share all flows anew that are in no crowd; split the bundles whose members go at different rates by now."""
        self._table.share(self._capacity, now)
        bundles = list(self._bundles)
        if not bundles or are_even(bundles, self._table, self._capacity):
            return
        uneven = split_uneven(bundles, self._table, self._capacity)
        for bundle, parts in uneven:
            self._replace(bundle, parts, now)
        if uneven:
            self._table.share(self._capacity, now)

    def _loosen_small(self, links: Iterable[int]) -> bool:
        """Take the small bundles on some links apart; return whether there were any."""
        if not self._bundles:
            return False
        flows = dict.fromkeys(flow for link in links for flow in self._on[link])
        small = [flow for flow in flows if isinstance(flow, Bundle) and flow in self._bundles and flow.is_small]
        for bundle in small:
            self._loosen(bundle)
        return bool(small)

    def _loosen(self, bundle: Bundle) -> list[Bundle]:
        """Let the members of a bundle go on one by one, as if they had come like that."""
        parts = bundle.loose()
        for place, part in enumerate(parts):
            self._table.add_like(part, bundle)
            part.order = bundle.order + place
        self._swap(bundle, parts)
        return parts

    def _replace(self, bundle: Bundle, parts: Sequence[Bundle], now: float) -> None:
        """Let the parts of a bundle go on in its place."""
        left = self._table.left(bundle, now)
        for part in parts:
            self._table.add(part, left, now)
            part.order = self._num_added = self._num_added + 1
        self._swap(bundle, parts)

    def _swap(self, bundle: Bundle, parts: Sequence[Bundle]) -> None:
        """Put parts that the table has already in the place of a bundle."""
        self._table.remove(bundle)
        del self._flows[bundle], self._bundles[bundle]
        for link in bundle.path.links:
            del self._on[link][bundle]
        for part in parts:
            part.accounted = bundle.accounted
            self._flows[part] = None
            if len(part.members) > 1:
                self._bundles[part] = None
            for link in part.path.links:
                self._on[link][part] = None

    def _reached(self, changed: Iterable[int]) -> tuple[dict[Flow, None], list[int]] | None:
        """Return the flows that a change can reach and their links, or None if they are more than a few."""
        on, links, flows = self._on, list(changed), dict[Flow, None]()
        if max([len(on[link]) for link in links]) > FEW:
            return None
        seen = set(links)
        for link in links:  # grows on the way
            for flow in on[link]:
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

    def _share_one_bottleneck(self, flows: dict[Flow, None], links: list[int], now: float) -> bool:
        """Share equally if the tightest link stops all of a few flows; return whether it does."""
        if not self._table.is_plain:
            return False
        lowest, num = math.inf, 0
        for link in links:
            here = len(self._on[link])
            if here and self._bandwidth[link] < lowest * here:
                lowest, num = self._bandwidth[link] / here, here
        if num != len(flows):
            return False
        for flow in flows:
            self._table.set_rate(flow, lowest, now)
        return True
