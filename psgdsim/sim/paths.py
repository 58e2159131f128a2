"""What a message's way through the network means for sharing: its weights, its bound and its delay."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from psgdsim.network_model import TcpModel

MAX_CACHED = 2**16


class Path(NamedTuple):
    """How a message crosses the network.

    Args:
        route: the links that carry its bytes.
        links: all links that its rate loads: the route, and the way back of its acknowledgements.
        coefficients: what each of `links` carries per unit of the rate that sharing grants.
        penalty: its rate on a shared bottleneck is in proportion to 1 / penalty.
        ceiling: bound on its rate times penalty; infinite without a bound.
        weights: coefficients / penalty.
        goodput: payload per bit of the rate that sharing grants.
        delay: how long it waits before it enters [s].
        is_plain: whether it shares like any other: each link carries it once, and it has no bound.
    """

    route: tuple[int, ...]
    links: tuple[int, ...]
    coefficients: tuple[float, ...]
    penalty: float
    ceiling: float
    weights: tuple[float, ...]
    goodput: float
    delay: float
    is_plain: bool


class Hop(NamedTuple):
    """One link of a message's way.

    Args:
        link: which one.
        is_first: whether it leaves the sender.
        after: where the message goes from here, as indices of hops; nowhere if it has arrived.
    """

    link: int
    is_first: bool
    after: tuple[int, ...]


def hops(routes: Iterable[Sequence[int]]) -> tuple[Hop, ...]:
    """Return the tree of a message that takes several routes; routes are one as long as they begin alike."""
    known: dict[tuple[int, ...], int] = {}
    after: list[list[int]] = []
    for route in routes:
        for length in range(1, len(route) + 1):
            way = tuple(route[:length])
            if way in known:
                continue
            if length > 1:
                after[known[way[:-1]]].append(len(after))
            known[way] = len(after)
            after.append([])
    return tuple(Hop(way[-1], len(way) == 1, tuple(after[i])) for way, i in known.items())


class Paths:
    """Make paths, and remember them until a link changes.

    Args:
        bandwidth: of each link [bit/s]; looked at again after `forget`.
        latency: of each link [s]; likewise.
        tcp: TCP's corrections, or None for plain fairness.
    """

    def __init__(self, bandwidth: Sequence[float], latency: Sequence[float], tcp: TcpModel | None = None) -> None:
        self._bandwidth, self._latency, self._tcp = bandwidth, latency, tcp
        self._cache: dict[tuple[tuple[int, ...], tuple[int, ...], float | None], Path] = {}
        self._build: Callable[[tuple[int, ...], tuple[int, ...], float], Path] = _plain
        if tcp is not None:
            self._build = self._corrected

    @property
    def needs_reverse(self) -> bool:
        """Whether it matters on which way acknowledgements go."""
        return self._tcp is not None and self._tcp.cross_traffic > 0

    def forget(self) -> None:
        """Take note that a link has changed."""
        self._cache.clear()

    def path(self, route: Iterable[int], reverse: Iterable[int] = (), latency: float | None = None) -> Path:
        """Return the path of a message.

        Args:
            route: the links that carry it.
            reverse: the links of the route back.
            latency: one way [s]; the sum over the route by default.
        """
        key = (tuple(route), tuple(reverse), latency)
        path = self._cache.get(key)
        if path is None:
            if len(self._cache) >= MAX_CACHED:
                self._cache.clear()
            total = sum(self._latency[link] for link in key[0]) if latency is None else latency
            path = self._cache[key] = self._build(key[0], key[1], total)
        return path

    def _corrected(self, route: tuple[int, ...], reverse: tuple[int, ...], latency: float) -> Path:
        """Return the path of a TCP flow.

        As in SimGrid, only a route with latency has a penalty and a window. A flow keeps the penalty that it starts
        with when a link changes, and a link that is down adds nothing to it.
        """
        tcp = self._tcp
        assert tcp is not None
        load = _load(route)
        for link in reverse if tcp.cross_traffic > 0 else ():
            load[link] = load.get(link, 0.0) + tcp.cross_traffic
        penalty, bound = 1.0, math.inf
        if latency > 0:
            open_links = [link for link in route if self._bandwidth[link] > 0]
            penalty = latency + sum(8 * tcp.weight_s / self._bandwidth[link] for link in open_links)
            bound = math.inf if tcp.gamma is None else 8 * tcp.gamma / (2 * latency)
        return Path(
            route=route,
            links=tuple(load),
            coefficients=tuple(load.values()),
            penalty=penalty,
            ceiling=bound * penalty,
            weights=tuple(each / penalty for each in load.values()),
            goodput=tcp.bandwidth_factor,
            delay=latency * tcp.latency_factor,
            is_plain=False,
        )


def _load(route: tuple[int, ...]) -> dict[int, float]:
    """Return how often each link carries the bytes."""
    return {link: float(route.count(link)) for link in route}


def _plain(route: tuple[int, ...], _reverse: tuple[int, ...], latency: float) -> Path:
    return plain_path(route, latency)


def plain_path(route: tuple[int, ...], latency: float = 0.0) -> Path:
    """Return the path of a flow that nothing but its links limits."""
    if len(set(route)) == len(route):
        ones = (1.0,) * len(route)
        return Path(route, route, ones, 1.0, math.inf, ones, 1.0, latency, is_plain=True)
    load = _load(route)
    times = tuple(load.values())
    return Path(route, tuple(load), times, 1.0, math.inf, times, 1.0, latency, is_plain=False)
