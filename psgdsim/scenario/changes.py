"""What changes about the network while a scenario runs: the family `change`.

A change names links as the topology does, or by patterns: `host3.*` is every link whose name begins so, `*` is all of
them. Where several changes meet on a link, the bandwidth is the last absolute value that any of them gives (in the
order of the scenario), times all factors; the latency is the last value given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from psgdsim.registry import Family
from psgdsim.scenario.link_rows import check_links, matching
from psgdsim.topologies.base import Topology
from psgdsim.units import BANDWIDTH, TIME

if TYPE_CHECKING:
    import numpy as np

MATHIS_CONSTANT: Final = math.sqrt(1.5)
"""C of the formula in `loss`, for losses at regular distances and an acknowledgement per segment."""

FAST_RETRANSMIT_SEGMENTS: Final = 4
"""Shorter messages cannot have three duplicate acknowledgements, so that a loss is noticed by a timeout."""


class Effect(NamedTuple):
    """What a change makes of a link.

    Args:
        bandwidth: its capacity [bit/s], or None to leave it.
        latency: its latency [s], or None to leave it.
        factor: what the bandwidth is multiplied by.
    """

    bandwidth: float | None = None
    latency: float | None = None
    factor: float = 1.0

    def __str__(self) -> str:
        parts = [
            "" if self.bandwidth is None else BANDWIDTH.format(self.bandwidth),
            "" if self.latency is None else f"latency {TIME.format(self.latency)}",
            "" if self.factor == 1 else "down" if self.factor == 0 else f"x {self.factor:.3g}",
        ]
        return ", ".join(filter(None, parts)) or "as usual"


class Moment(NamedTuple):
    """From this time [s] on the change has this effect on the links that match."""

    time: float
    links: tuple[str, ...]
    effect: Effect


@dataclass(frozen=True)
class Change:
    """Something about the network that is not always the same.

    Args:
        links: patterns of the links that it concerns.
    """

    links: tuple[str, ...]

    def check(self, topology: Topology, _num_ranks: int) -> None:
        """Raise `ValueError` if something that is named does not exist; the message begins with the key to blame."""
        check_links("links", self.links, topology)

    def load(self, topology: Topology) -> None:
        """Read the files that the change needs, before the run; raises `ValueError` as `check` does."""


@dataclass(frozen=True)
class Course(Change):
    """Bandwidth or latency take a course over time.

    Args:
        moments: what happens, in the order of time; may be endless, unless it comes from a file, and then `links` is
            empty. Raises `ValueError` if the file is not valid.
        key: where the links are named.
    """

    moments: Callable[[], Iterable[Moment]]
    key: str = "links"

    def check(self, topology: Topology, _num_ranks: int) -> None:
        """Raise `ValueError` if a pattern matches no link."""
        check_links(self.key, self.links, topology)

    def load(self, topology: Topology) -> None:
        """Read the file, if there is one, and look for the links that it names."""
        if not self.links:
            named = dict.fromkeys(name for moment in self.moments() for name in moment.links)
            check_links("path", named, topology)


@dataclass(frozen=True)
class Jitter(Change):
    """A message that crosses one of the links comes later by a random time.

    Args:
        draw: draws that time [s].
    """

    draw: Callable[[np.random.Generator], float]


@dataclass(frozen=True)
class Loss(Change):
    """A part of the segments that cross a link is lost.

    Args:
        probability: of each segment on each of the links.
        segment: its size [byte].
        timeout: after which a lost segment is sent again if nothing else tells of the loss [s].
    """

    probability: float
    segment: float
    timeout: float

    def rate(self, num_links: int, rtt: float) -> float:
        """Return the highest rate of a connection [bit/s].

        Args:
            num_links: how many of the links its messages cross.
            rtt: its round-trip time [s].
        """
        lost = 1 - (1 - self.probability) ** num_links
        return math.inf if rtt == 0 else 8 * self.segment / rtt * MATHIS_CONSTANT / math.sqrt(lost)

    def delay(self, num_links: int, rtt: float, nbytes: float, rng: np.random.Generator) -> float:
        """Draw by how much a message comes later because the loss of a segment had to be noticed by a timeout [s]."""
        segments = max(1, math.ceil(nbytes / self.segment))
        if segments >= FAST_RETRANSMIT_SEGMENTS:
            return 0.0
        is_whole = (1 - self.probability) ** (num_links * segments)
        total, timeout = 0.0, max(self.timeout, 3 * rtt)
        while rng.random() >= is_whole:
            total, timeout = total + timeout, 2 * timeout
        return total


@dataclass(frozen=True)
class Background(Change):
    """Messages that are no rank's.

    Args:
        src: the host that sends them.
        dst: the host that gets them.
        nbytes: the size of each [byte].
        gap: draws the time between the starts of two [s].
        at: when the first may start [s].
        until: when no more start [s].
    """

    src: str
    dst: str
    nbytes: float
    gap: Callable[[np.random.Generator], float]
    at: float
    until: float

    def check(self, topology: Topology, _num_ranks: int) -> None:
        """Raise `ValueError` if a host does not exist."""
        for key, host in (("from", self.src), ("to", self.dst)):
            matching(key, host, topology.hosts, "host")
        if self.src == self.dst:
            raise ValueError(f"to: expected another host than from; got {self.dst!r} twice")


changes = Family("change", product=Change)
register_change = changes.register
