"""What the factories share: cables between named hosts and switches, and routes written as the names on the way."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from psgdsim.topologies.base import Link, Multicast, Topology

Path = Sequence[str]
"""The hosts and switches that a message passes, both ends included."""

MAX_HOSTS = 100_000

_CACHED_ROUTES = 2**16
_MASK = 2**64 - 1


def capacity(bandwidth: float | None, name: str = "bandwidth") -> float:
    """Return a capacity [bit/s], infinite for None.

    Args:
        bandwidth: what the scenario says [bit/s].
        name: the parameter's name, for the message.

    Raises:
        ValueError: it is 0.
    """
    if bandwidth == 0:
        raise ValueError(f"{name}: expected more than 0 bit/s, or null for no limit; got 0 bit/s")
    return math.inf if bandwidth is None else bandwidth


def room(count: int, name: str, what: str = "hosts in all") -> int:
    """Return a number of hosts, or of what `what` says, if it is within bounds.

    Args:
        count: the number.
        name: the parameter to blame.
        what: what is counted, for the message.

    Raises:
        ValueError: it is more than `MAX_HOSTS`.
    """
    if count > MAX_HOSTS:
        raise ValueError(f"{name}: expected at most {MAX_HOSTS} {what}; got {count}")
    return count


def pick(count: int, src: int, dst: int, salt: int = 0) -> int:
    """Choose one of several equal routes by a hash of the two ends: always the same one, evenly over many pairs.

    The hash is SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), as a switch hashes a flow's addresses (equal-cost
    multipath, RFC 2992).

    Args:
        count: how many there are to choose from.
        src: the sending host, by index.
        dst: the receiving host, by index.
        salt: tells several choices for the same pair apart.

    Returns:
        A number in [0, count).
    """
    state = salt
    for word in (src, dst):
        state = (state + word + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state % count


def host_names(count: int) -> tuple[str, ...]:
    """Return `host0`, `host1`, ..."""
    return tuple(f"host{i}" for i in range(count))


class Wiring:
    """The cables of a network.

    Attributes:
        links: two directed links per cable.
    """

    def __init__(self) -> None:
        self.links: list[Link] = []
        self._index: dict[tuple[str, str], int] = {}

    def join(self, a: str, b: str, bandwidth: float, latency: float) -> None:
        """Lay a full-duplex cable: a link from `a` to `b` and one back; nothing if there is one already.

        Args:
            a: a host or switch.
            b: another.
            bandwidth: of each direction [bit/s].
            latency: of each direction [s].
        """
        for src, dst in ((a, b), (b, a)):
            self.connect(src, dst, bandwidth, latency)

    def connect(self, src: str, dst: str, bandwidth: float, latency: float) -> None:
        """Lay one direction; nothing if there is a link already."""
        if (src, dst) not in self._index:
            self._index[src, dst] = len(self.links)
            self.links.append(Link(f"{src}->{dst}", bandwidth, latency, src, dst))

    def along(self, path: Iterable[str]) -> tuple[int, ...]:
        """Return the links of a path, in order."""
        return tuple(self._index[ends] for ends in pairwise(path))

    def topology(
        self,
        hosts: tuple[str, ...],
        switches: tuple[str, ...],
        path: Callable[[int, int], Path],
        multicast: Multicast,
        relay_path: Callable[[int], Path],
        grid: tuple[int, ...] = (),
    ) -> Topology:
        """Return the finished network.

        Args:
            hosts: their names.
            switches: their names.
            path: `(src, dst)`, two different hosts by index -> the names on the way.
            multicast: how one payload reaches several hosts.
            relay_path: host by index -> the names on the way to the relay.
            grid: as in `Topology`.
        """

        @functools.lru_cache(_CACHED_ROUTES)
        def route(src: int, dst: int) -> tuple[int, ...]:
            return () if src == dst else self.along(path(src, dst))

        def relay_route(host: int, is_upload: bool) -> tuple[int, ...]:  # noqa: FBT001 - the contract
            to_relay = relay_path(host)
            return self.along(to_relay if is_upload else reversed(to_relay))

        return Topology(hosts, tuple(self.links), route, multicast, relay_route, switches, grid)
