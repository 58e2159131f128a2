"""Flows that enter together with the same size, carried as one for as long as all of them go at one rate.

A bundle loads each link with as many shares as members cross it, so filling treats it as one flow with coefficients and
stops it at its first full link. That is what max-min fairness gives its members if every one of them crosses a full
link on which nobody is faster (the bottleneck condition, which the max-min fair rates alone fulfil; Bertsekas and
Gallager, "Data Networks", 2nd ed. 1992, section 6.5.2). Whoever shares checks that, and else splits bundles into parts
whose members do go at one rate.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np

from psgdsim.sim.flow_table import Flow, FlowTable
from psgdsim.sim.paths import Path, plain_path
from psgdsim.sim.sharing import TIE, Floats, Ints, levels

SMALLEST: Final = 32
"""Fewer flows than this go one by one where they meet others: as long as they are few, each of them costs less than a
sharing by numpy."""

FULL: Final = 1e-12
"""A link is full if it lacks less than this, relatively; sums of many rates are rounded."""


class Routes:
    """The links that several flows cross, one flow behind the other.

    Args:
        links: all links of the first flow, then all of the second, ...
        lengths: how many links each flow crosses.
    """

    def __init__(self, links: Ints, lengths: Ints) -> None:
        self.links, self.lengths = links, lengths

    @classmethod
    def of(cls, routes: Sequence[Sequence[int]]) -> Routes:
        """Return the routes of flows, each given by its links."""
        lengths = np.fromiter(map(len, routes), np.int64, len(routes))
        return cls(np.fromiter(itertools.chain.from_iterable(routes), np.int64, int(lengths.sum())), lengths)

    @classmethod
    def join(cls, routes: Sequence[Routes]) -> Routes:
        """Return the routes of all flows, one behind the other."""
        links, lengths = [each.links for each in routes], [each.lengths for each in routes]
        return cls(np.concatenate(links), np.concatenate(lengths))

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def _begins(self) -> Ints:
        return np.cumsum(self.lengths) - self.lengths

    @cached_property
    def path(self) -> Path:
        """How the flows cross the network as one, without a delay; its route names all links of all flows."""
        route = tuple(self.links.tolist())
        if len(self) == 1:
            return plain_path(route)
        times = np.bincount(self.links)
        links = times.nonzero()[0]
        weights = tuple(times[links].astype(float).tolist())
        return Path(route, tuple(links.tolist()), weights, 1.0, math.inf, weights, 1.0, 0.0, is_plain=False)

    @property
    def _flows(self) -> Ints:
        """The flow of each of `links`."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def sums(self, values: Sequence[float]) -> Floats:
        """Return for each flow the sum of its links' values, added in the order of its links."""
        return np.asarray(np.bincount(self._flows, np.asarray(values, float)[self.links], len(self)), float)

    def are_stopped(self, full: Floats, levels: Floats) -> bool:
        """Whether every flow crosses a link that is full and on which none is at a higher level.

        Args:
            full: for each link the highest level there if it is full, infinite otherwise.
            levels: of each flow; none crosses no link.
        """
        is_stop = full[self.links] <= np.repeat(levels * (1 + FULL), self.lengths)
        return bool(np.logical_or.reduceat(is_stop, self._begins).all())

    def entries(self) -> tuple[Ints, Ints, Floats]:
        """Return the matrix of flows and links, as in `levels`."""
        span = int(self.links.max()) + 1
        pairs, times = np.unique(self._flows * span + self.links, return_counts=True)
        return pairs // span, pairs % span, times.astype(float)

    def select(self, flows: Ints) -> Routes:
        """Return the routes of some of the flows, in the order given."""
        if len(flows) == len(self):
            return self
        begins, lengths = self._begins[flows], self.lengths[flows]
        places = np.arange(lengths.sum()) + np.repeat(begins - (np.cumsum(lengths) - lengths), lengths)
        return Routes(self.links[places], lengths)

    @cached_property
    def singles(self) -> list[Routes]:
        """The routes of each flow for itself."""
        begins, lengths = self._begins, self.lengths
        return [Routes(self.links[begins[i] : begins[i] + lengths[i]], lengths[i : i + 1]) for i in range(len(self))]


class Bundle(Flow):
    """Flows of one size that entered together.

    Args:
        routes: the links that each crosses, at least one.
        nbits: the size of each.
        members: the number by which its user knows each; ascending.
        owner: whatever its user wants to find in it.
    """

    __slots__ = ("members", "routes")

    def __init__(self, routes: Routes, nbits: float, members: Ints, owner: Any = None) -> None:
        super().__init__(routes.path, nbits, owner)
        self.routes, self.members = routes, members

    @property
    def is_small(self) -> bool:
        """Whether its members had better go one by one where they meet others."""
        return len(self.members) < SMALLEST

    def is_even(self, rate: float, capacity: Floats) -> bool:
        """Whether all members go at one rate, if no others are on their links.

        Args:
            rate: at which the first of their links is full [bit/s].
            capacity: of each link [bit/s].
        """
        full = np.full(len(capacity), np.inf)
        for link, weight in zip(self.path.links, self.path.weights, strict=True):
            if weight * rate >= capacity[link] * (1 - FULL):
                full[link] = rate
        return self.routes.are_stopped(full, np.full(len(self.members), rate))

    def split(self, level: Floats) -> list[Bundle]:
        """Return a bundle for the members of each level; where those are few, one for each.

        Args:
            level: of each member.
        """
        order = np.argsort(level, kind="stable")
        ascending = level[order]
        cuts = np.flatnonzero(ascending[1:] > ascending[:-1] * (1 + TIE)) + 1
        parts, singles = [], []
        for begin, end in itertools.pairwise([0, *cuts.tolist(), len(order)]):
            group = np.sort(order[begin:end])
            if len(group) < SMALLEST:
                singles.append(group)
            else:
                parts.append(self._part(self.routes.select(group), self.members[group]))
        return parts + self.loose(np.sort(np.concatenate(singles))) if singles else parts

    def loose(self, members: Ints | None = None) -> list[Bundle]:
        """Return a bundle for each of some members, by their places; by default for all."""
        singles = self.routes.singles
        places = range(len(singles)) if members is None else members.tolist()
        return [self._part(singles[i], self.members[i : i + 1]) for i in places]

    def _part(self, routes: Routes, members: Ints) -> Bundle:
        return Bundle(routes, self.nbits, members, self.owner)


def together(start: Floats, nbits: Floats, lengths: Ints, smallest: int | None = None) -> tuple[list[Ints], list[int]]:
    """Return which flows can be bundles.

    Args:
        start: when each flow enters [s].
        nbits: its size.
        lengths: how many links it crosses.
        smallest: of how many flows a bundle consists at least; `SMALLEST` by default.

    Returns:
        The members of each bundle, ascending; and those that enter one by one, ascending.
    """
    some = np.flatnonzero((nbits > 0) & (lengths > 0))
    order = some[np.lexsort((nbits[some], start[some]))]
    is_new = (np.diff(nbits[order]) != 0) | (np.diff(start[order]) != 0)
    edges = np.array([0, *(np.flatnonzero(is_new) + 1), len(order)])
    is_alone = np.ones(len(nbits), bool)
    groups = []
    for i in np.flatnonzero(np.diff(edges) >= (SMALLEST if smallest is None else smallest)):
        groups.append(order[edges[i] : edges[i + 1]])
        is_alone[groups[-1]] = False
    return groups, np.flatnonzero(is_alone).tolist()


def are_even(bundles: Sequence[Bundle], table: FlowTable, capacity: Floats) -> bool:
    """Whether the rates in a table are the max-min fair ones of all members.

    Args:
        bundles: those in the table; each goes at the rate at which its first link is full.
        table: all flows that share links with them.
        capacity: of each link [bit/s], and one behind.
    """
    used, highest = table.pressure(len(capacity))
    full = np.where(used >= capacity * (1 - FULL), highest, np.inf)
    rates = [table.rate(bundle) for bundle in bundles]
    return _joined(bundles).are_stopped(full, np.repeat(rates, [len(bundle.members) for bundle in bundles]))


def _joined(bundles: Sequence[Bundle]) -> Routes:
    return Routes.join([bundle.routes for bundle in bundles])


def split_uneven(bundles: Sequence[Bundle], table: FlowTable, capacity: Floats) -> list[tuple[Bundle, list[Bundle]]]:
    """Return the bundles whose members must not go at one rate, each with its parts that may.

    Args:
        bundles: as in `are_even`.
        table: as in `are_even`.
        capacity: as in `are_even`.
    """
    flow, link, weight, ceiling, is_live = table.matrix()
    is_live = is_live.copy()
    is_live[[bundle.row for bundle in bundles]] = False
    kept = np.flatnonzero(is_live[flow])
    member, crossed, times = _joined(bundles).entries()
    num_rows, edges = len(ceiling), np.cumsum([0, *(len(bundle.members) for bundle in bundles)])
    level = levels(
        capacity,
        np.append(flow[kept], member + num_rows),
        np.append(link[kept], crossed),
        np.append(weight[kept], times),
        np.append(ceiling, np.full(edges[-1], np.inf)),
        np.append(is_live, np.ones(edges[-1], bool)),
    )[num_rows:]
    lowest, highest = np.minimum.reduceat(level, edges[:-1]), np.maximum.reduceat(level, edges[:-1])
    uneven = np.flatnonzero(highest > lowest * (1 + TIE)).tolist()
    return [(bundles[i], bundles[i].split(level[edges[i] : edges[i + 1]])) for i in uneven]
