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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
        ways: on which ways.
        start: when the first of them began [s].
        times: moments of each rank, ascending [s], shape (K, N).
        nbits: what it had sent by then [bit], shape (K, N); in between it sends evenly.
    """

    ways: Ways
    start: float
    times: Floats
    nbits: Floats

    def until(self, time: float) -> Floats:
        """Return what links have done until a time [s]; see `Ways.on_links`."""
        num_past, last = (self.times <= time).sum(axis=0), len(self.times) - 1
        before, after = np.maximum(num_past - 1, 0), np.minimum(num_past, last)
        ranks = np.arange(self.times.shape[1])
        (t0, t1), (n0, n1) = ([each[before, ranks], each[after, ranks]] for each in (self.times, self.nbits))
        part = np.divide(time - t0, t1 - t0, out=np.zeros_like(t0), where=t1 > t0)
        return self.ways.on_links(n0 + part * (n1 - n0))


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


def course(ways: Ways, starts: Floats, nbits: Floats) -> Course:
    """Find out how a ring all-reduce goes.

    Args:
        ways: the ways of its messages.
        starts: when each rank begins [s], shape (N,).
        nbits: the size of the message that carries each chunk [bit], shape (N,).
    """
    num, num_phases = len(starts), 2 * (len(starts) - 1)
    span = math.ceil(num_phases / MAX_SPANS)
    lasting, sent = _lengths(ways, nbits), _sent(nbits)
    gaps = np.zeros(num)
    marks: list[tuple[Floats, Floats]] = []
    # Before the first rank stands its predecessor, the last one.
    start, end = np.empty(num + 1), np.empty(num + 1)
    start[1:], start[0] = starts, starts[-1]
    lengths = ways.delay + np.outer([nbits.min(), nbits.max()], ways.pace)
    shortest, longest = float(lengths.min()), float(lengths.max())
    may_wait = 0  # so many phases from now on nobody begins before its predecessor has begun
    for phase in range(num_phases):
        np.add(start[1:], ways.delay, out=end[1:])
        if phase % span == 0:
            marks.append((end[1:].copy(), sent(phase)))
        end[1:] += lasting(phase)
        end[0] = end[-1]
        if phase % span == span - 1 or phase == num_phases - 1:
            marks.append((end[1:].copy(), sent(phase + 1)))
        if may_wait == 0:
            gaps += np.maximum(start[:-1] - end[1:], 0.0)
            may_wait = _num_close(float(start.max() - start.min()), shortest, longest)
        else:
            may_wait -= 1
        np.maximum(end[1:], end[:-1], out=start[1:])
        start[0] = start[-1]
    times, amounts = (np.array(each) for each in zip(*marks, strict=True))
    ends = start[1:].copy()
    return Course(ends, ends - starts - gaps, Traffic(ways, float(starts.min()), times, amounts))


def _lengths(ways: Ways, nbits: Floats) -> Callable[[int], Floats]:
    """Return what says, for a phase, how long the bits of each rank's message take [s]."""
    num, sizes = len(nbits), np.tile(nbits, 2)
    if ways.are_alike:
        lengths = sizes * ways.pace[0]
        return lambda phase: lengths[-phase % num :][:num]
    return lambda phase: sizes[-phase % num :][:num] * ways.pace


def _sent(nbits: Floats) -> Callable[[int], Floats]:
    """Return what says how much each rank has sent before a phase [bit]."""
    num = len(nbits)
    until = np.cumsum(np.tile(nbits, 3))
    return lambda phase: until[2 * num :] - until[2 * num - phase :][:num]


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
