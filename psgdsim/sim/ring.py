"""A ring all-reduce without its messages: when each rank is done, and what its links carry, if no link is ever shared.

In phase p rank i sends chunk i - p to its successor, which takes t, and goes on when it has got one from its
predecessor: end(i, p) = start(i, p) + t and start(i, p + 1) = max(end(i, p), end(i - 1, p)). That is linear in the
algebra of max and +, so each phase is one step for all ranks. A rank always sends, or waits for what is on its way to
it, but for the time from end(i, p) to start(i - 1, p) where its predecessor begins that late.
Source: Baccelli, Cohen, Olsder and Quadrat, "Synchronization and Linearity", Wiley 1992, section 1.2.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from psgdsim.collectives.base import offsets
from psgdsim.compilation import lazy_jit
from psgdsim.node import Kernel
from psgdsim.sim.paths import Path
from psgdsim.sim.sharing import Floats, Ints

MAX_SPANS: Final = 256
"""So many spans of time are told apart of each rank; with more phases, several are one span of even traffic."""


class Ways:
    """The ways from each rank of a ring to the next, no two of which have a link in common.

    Args:
        paths: the path of the messages of each rank.
        bandwidth: of each link [bit/s].

    Attributes:
        delay: what a message of each rank waits before it enters [s], shape (N,).
        pace: how long each of its bits takes then [s], shape (N,).
        are_alike: whether they take equally long for all ranks.
    """

    def __init__(self, paths: Sequence[Path], bandwidth: Sequence[float]) -> None:
        self.delay = np.array([path.delay for path in paths])
        self.pace = np.array([1.0 / (path.goodput * _rate_alone(path, bandwidth)) for path in paths])
        self.are_alike = bool((self.pace == self.pace[0]).all())
        self._num_links = len(bandwidth)
        self._link: Ints = np.array([link for path in paths for link in path.links], np.int64)
        self._rank: Ints = np.repeat(np.arange(len(paths)), [len(path.links) for path in paths])
        self._per_bit = np.array(
            [
                (link in path.route, coefficient / path.goodput / bandwidth[link], pace * (link in path.route))
                for path, pace in zip(paths, self.pace.tolist(), strict=True)
                for link, coefficient in zip(path.links, path.coefficients, strict=True)
            ]
        ).reshape(-1, 3)

    @staticmethod
    def are_apart(paths: Sequence[Path]) -> bool:
        """Whether no link is loaded by two of the paths, or crossed twice by one."""
        links = list(itertools.chain.from_iterable(path.links for path in paths))
        return len(set(links)) == len(links) and all(len(set(path.route)) == len(path.route) for path in paths)

    def on_links(self, nbits: Floats) -> Floats:
        """Return what becomes of links when each rank has sent so many bits.

        Returns:
            For each link the bits that it has carried, for how long it would have been busy with that at its full
            bandwidth [s], and for how long there was a message on it [s].
        """
        amounts = np.zeros((self._num_links, 3))
        amounts[self._link] = nbits[self._rank, None] * self._per_bit
        return amounts


def _rate_alone(path: Path, bandwidth: Sequence[float]) -> float:
    """Return the rate that sharing grants a message that is alone on its links [bit/s]; infinite without a limit."""
    levels = (bandwidth[link] / weight for link, weight in zip(path.links, path.weights, strict=True))
    return min(path.ceiling, *levels, math.inf) / path.penalty


@dataclass(frozen=True)
class Traffic:
    """What the ranks of a ring have sent at which time.

    Args:
        ring: whose ranks.
        start: when the first of them began [s].
        times: moments of each rank, ascending, as many as `ring` tells apart [s], shape (K, N).
    """

    ring: Ring
    start: float
    times: Floats

    def until(self, time: float) -> Floats:
        """Return what links have done until a time [s]; see `Ways.on_links`."""
        num_past, last = self._num_past(time), len(self.times) - 1
        before, after = np.maximum(num_past - 1, 0), np.minimum(num_past, last)
        ranks = np.arange(self.times.shape[1])
        t0, t1 = self.times[before, ranks], self.times[after, ranks]
        n0, n1 = self.ring.sent(before), self.ring.sent(after)
        part = np.divide(time - t0, t1 - t0, out=np.zeros_like(t0), where=t1 > t0)
        return self.ring.ways.on_links(n0 + part * (n1 - n0))

    def _num_past(self, time: float) -> Ints:
        """Return how many moments of each rank are not after a time [s]."""
        first, last = self._range
        begin, end = last.searchsorted(time, "right"), first.searchsorted(time, "right")
        return begin + np.count_nonzero(self.times[begin:end] <= time, axis=0)  # type: ignore[no-any-return]

    @cached_property
    def _range(self) -> tuple[Floats, Floats]:
        """Where each moment comes first, and last [s]."""
        return self.times.min(axis=1), self.times.max(axis=1)


@dataclass(frozen=True)
class Course:
    """How a ring all-reduce goes.

    Args:
        ends: when each rank is done [s], shape (N,).
        transfer: for how long each of them sent, or waited for what was on its way [s], shape (N,).
        traffic: what they sent when.
    """

    ends: Floats
    transfer: Floats
    traffic: Traffic


class Ring:
    """A ring all-reduce of vectors of one size.

    Args:
        ways: the ways of its messages.
        nbits: the size of the message that carries each chunk [bit], shape (N,).

    Attributes:
        ways: as given.
        total: what becomes of links by it (see `Ways.on_links`).
    """

    def __init__(self, ways: Ways, nbits: Floats) -> None:
        num_phases, self._num = 2 * (len(nbits) - 1), len(nbits)
        self.ways = ways
        width = math.ceil(num_phases / MAX_SPANS)
        edges = np.minimum(np.arange(0, num_phases + width, width), num_phases)
        self._spans = np.diff(edges).tolist()
        self._phases = np.repeat(edges, 2)[1:-1]  # how many messages a rank has sent at each moment that is told apart
        self._sums, self._ranks = np.cumsum(np.tile(nbits, 3)), np.arange(2 * len(nbits), 3 * len(nbits))
        self.total = ways.on_links(self.sent(np.full(len(nbits), -1)))
        self._delay, pace = _with_last(ways.delay), _with_last(ways.pace)
        sizes = np.tile(nbits, 2)
        windows = np.lib.stride_tricks.sliding_window_view(sizes * pace[0] if ways.are_alike else sizes, len(pace))
        self._windows, self._pace = windows[::-1], None if ways.are_alike else pace
        extremes = ways.delay + np.outer([nbits.min(), nbits.max()], ways.pace)
        self._shortest, self._longest = float(extremes.min()), float(extremes.max())

    def sent(self, moments: Ints) -> Floats:
        """Return what each rank has sent at a moment of its own, given by its place among those told apart [bit]."""
        sent: Floats = self._sums[self._ranks] - self._sums[self._ranks - self._phases[moments]]
        return sent

    def course(self, starts: Floats) -> Course:
        """Find out how it goes.

        Args:
            starts: when each rank begins [s], shape (N,).
        """
        gaps, lengths = np.zeros(self._num), self._lengths()
        times, start = np.empty((2 * len(self._spans), self._num + 1)), _with_last(starts)
        before, after = start[:-1], start[1:]
        num_close = 0  # in so many phases from now on nobody is done before its predecessor begins
        for num_phases, begin, end in zip(self._spans, times[::2], times[1::2], strict=True):
            own, others = end[1:], end[:-1]
            for length in itertools.islice(lengths, num_phases):
                np.add(start, self._delay, out=begin)
                np.add(begin, length, out=end)
                if num_close:
                    num_close -= 1
                else:
                    gaps += np.maximum(before - own, 0.0)
                    num_close = _num_close(float(start.max() - start.min()), self._shortest, self._longest)
                np.maximum(own, others, out=after)
                start[0] = start[-1]
                begin = end  # noqa: PLW2901 - only the first of some phases has a moment of its own
        ends = after.copy()
        return Course(ends, ends - starts - gaps, Traffic(self, float(starts.min()), times[:, 1:]))

    def _lengths(self) -> Iterator[Floats]:
        """Return for each phase how long the bits of the message of the last rank, and then of each, take [s]."""
        rows = itertools.chain.from_iterable(itertools.repeat(self._windows))
        return rows if self._pace is None else map(self._pace.__mul__, rows)


def _with_last(vector: Floats) -> Floats:
    """Return a vector with its last element before its first, too: before the first rank stands the last one."""
    return np.concatenate([vector[-1:], vector])


def _num_close(apart: float, shortest: float, longest: float) -> int:
    """Return in how many phases from the next one on no rank is done before its predecessor begins.

    Args:
        apart: how long after the first rank the last one begins a phase [s].
        shortest: the least time that a rank takes for a phase [s].
        longest: the longest [s].
    """
    if longest <= shortest:
        return 1 << 30 if apart < shortest else 0
    return max(0, int((shortest - apart) / (longest - shortest)) - 1)


def _sum(vectors: Sequence[Any]) -> Any:
    num, starts = len(vectors), offsets(vectors[0].shape[0], len(vectors))
    return _sum_by_chunk(list(vectors), np.repeat(np.arange(num, dtype=np.int32), np.diff(starts)))


def _sum_along_the_ring(vectors: Sequence[Any], chunk: Any) -> Any:
    """Sum chunk c, to which an element belongs, from rank c on along the ring, as its messages would."""
    import jax
    import jax.numpy as jnp

    stacked, element = jnp.stack(vectors), jnp.arange(len(chunk))

    def add(distance: Any, total: Any) -> Any:
        return stacked[(chunk + distance) % len(vectors), element] + total

    return jax.lax.fori_loop(1, len(vectors), add, stacked[chunk, element])


_sum_by_chunk = lazy_jit(_sum_along_the_ring)

SUM = Kernel("ring_sum", _sum)
"""`(vectors of all ranks) -> vector`: the sum that a ring all-reduce ends with, bit for bit."""
