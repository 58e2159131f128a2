"""Max-min fair sharing: how fast each flow goes when many cross the same links.

All flows rise together, each in inverse proportion to its penalty, until a link is full or a flow has reached its
bound; those flows are frozen there and the rest rise on (progressive filling; Bertsekas and Gallager, "Data Networks",
2nd ed. 1992, section 6.5.2). The height at which a flow is frozen is its level; its rate is level / penalty.

Filling need not go from the lowest level upwards: a link is full first for all flows on it (a local bottleneck) as soon
as none of them would be stopped lower elsewhere, for what happens elsewhere can only leave more for its flows' other
links. `levels` freezes all local bottlenecks of a round at once, in a few numpy calls; `few_levels` does without numpy,
whose calls cost more than a handful of flows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

TIE: Final = 1e-13
"""Levels that differ by less, relatively, are reached at once; rounding must not cost a round each."""


class Load(Protocol):
    """What filling must know of a flow.

    Attributes:
        links: the links that it crosses, each once.
        weights: for each, coefficient / penalty: how fast it fills as the flow's level rises.
        ceiling: the level at which the flow reaches its own bound.
    """

    @property
    def links(self) -> tuple[int, ...]: ...  # noqa: D102

    @property
    def weights(self) -> tuple[float, ...]: ...  # noqa: D102

    @property
    def ceiling(self) -> float: ...  # noqa: D102


def maxmin(
    capacities: Sequence[float] | Floats,
    routes: Sequence[Mapping[int, float] | Iterable[int]],
    penalties: Sequence[float] | None = None,
    bounds: Sequence[float] | None = None,
) -> Floats:
    """Return the weighted max-min fair rates of flows.

    Args:
        capacities: of each link, in any unit of rate; infinite where there is no limit.
        routes: for each flow the links that it crosses, or a mapping from these to coefficients: what a link carries
            per unit of the flow's rate, if not 1.
        penalties: flows on the same bottleneck get rates in proportion to 1 / penalty; all 1 by default.
        bounds: the highest rate of each flow; infinite by default.

    Returns:
        The rates in the order of the routes; infinite for a flow that nothing limits.

    Example:
        >>> maxmin([1.0, 2.0], [[0], [1], [0, 1]])
        array([0.5, 1.5, 0.5])
    """
    num_flows = len(routes)
    penalty = np.ones(num_flows) if penalties is None else np.asarray(penalties, float)
    bound = np.full(num_flows, np.inf) if bounds is None else np.asarray(bounds, float)
    loads = [dict(route) if isinstance(route, Mapping) else dict.fromkeys(route, 1.0) for route in routes]
    flow = np.repeat(np.arange(num_flows), [len(load) for load in loads])
    link = np.array([link for load in loads for link in load], np.int64)
    coefficient = np.array([each for load in loads for each in load.values()], float)
    level = levels(np.asarray(capacities, float), flow, link, coefficient / penalty[flow], bound * penalty)
    return level / penalty


def levels(
    capacity: Floats, flow: Ints, link: Ints, weight: Floats, ceiling: Floats, is_live: Bools | None = None
) -> Floats:
    """Return the level of each flow.

    Flows and links form a sparse matrix; `flow`, `link` and `weight` are its entries in any order.

    Args:
        capacity: of each link.
        flow: the flow of each entry.
        link: its link.
        weight: its coefficient / penalty, more than 0. (An entry on a link without a limit means nothing.)
        ceiling: the level at which each flow reaches its own bound; infinite without one.
        is_live: which flows there are, all by default; the rest gets meaningless levels.

    Returns:
        The level of each flow.
    """
    left, share, ceiling = capacity.copy(), np.zeros(len(capacity)), ceiling.copy()
    level, pending = ceiling.copy(), np.ones(len(ceiling), bool) if is_live is None else is_live.copy()
    num_pending = np.count_nonzero(pending)
    while num_pending and len(link):
        share = _shares(left, np.bincount(link, weight, len(left)), share)
        lowest = share.argmin()
        if ceiling.min() >= share[lowest] and np.count_nonzero(link == lowest) == num_pending:
            # One link stops them all: the common case, worth a short cut.
            return np.where(pending, share[lowest], level)
        reach = ceiling.copy()
        np.minimum.at(reach, flow, share[link])
        first = np.full(len(left), np.inf)
        np.minimum.at(first, link, reach[flow])
        is_full = share <= first * (1 + TIE)
        stops = reach >= ceiling
        stops[flow[is_full[link]]] = True
        stops &= pending
        level[stops], ceiling[stops] = reach[stops], np.inf
        left = _without(left, flow, link, weight, stops, reach)
        pending &= ~stops
        num_pending = np.count_nonzero(pending)
        keep = np.flatnonzero(pending[flow])
        flow, link, weight = flow[keep], link[keep], weight[keep]
    return level


def _shares(left: Floats, use: NDArray[Any], previous: Floats) -> Floats:
    """Return the level at which each link is full; in exact arithmetic it never falls from one round to the next."""
    share = np.full(len(left), np.inf)
    np.divide(left, use, out=share, where=use > 0)
    np.maximum(share, previous, out=share)
    return share


def _without(left: Floats, flow: Ints, link: Ints, weight: Floats, stops: Bools, reach: Floats) -> Floats:
    """Return what the flows that stop here leave of each link; `left` is used up."""
    gone = np.flatnonzero(stops[flow])
    used = np.bincount(link[gone], weight[gone] * reach[flow[gone]], len(left))
    np.subtract(left, used, out=left, where=np.isfinite(left))
    return np.maximum(left, 0.0)


def few_levels(flows: Iterable[Load], capacity: Sequence[float]) -> list[float]:
    """Return the level of each flow, as `levels` does; quicker for a handful.

    Args:
        flows: all flows on the links that any of them crosses.
        capacity: of each link.
    """
    flows = list(flows)
    members: dict[int, dict[int, float]] = {}
    for i, each in enumerate(flows):
        for link, weight in zip(each.links, each.weights, strict=True):
            members.setdefault(link, {})[i] = weight
    use = {link: sum(weights.values()) for link, weights in members.items()}
    left = {link: capacity[link] for link in members}
    # A flow's own bound is like a link that it has for itself; those count from -1 downwards.
    height = {-1 - i: each.ceiling for i, each in enumerate(flows) if each.ceiling < math.inf}
    height |= {link: left[link] / use[link] for link in members}
    level = [math.inf] * len(flows)
    while height:
        full = min(height, key=height.__getitem__)
        lowest = height[full]
        for i in [-1 - full] if full < 0 else list(members[full]):
            level[i] = lowest
            height.pop(-1 - i, None)
            for link in flows[i].links:
                weight = members[link].pop(i)
                left[link] -= weight * lowest
                use[link] -= weight
                if members[link]:
                    height[link] = max(lowest, left[link] / use[link])
                else:
                    height.pop(link, None)
    return level
