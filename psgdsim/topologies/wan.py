"""Several sites, far from each other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import permutations
from typing import Annotated, TypeVar

from pydantic import Field

from psgdsim.topologies.base import Multicast, Topology, TopologyPart, register_topology
from psgdsim.topologies.wiring import Path, Wiring, capacity, room
from psgdsim.units import Bandwidth, Duration

Count = Annotated[int, Field(ge=1, le=10_000)]
Entry = TypeVar("Entry")


@register_topology("wan")
def wan(
    sites: Annotated[Sequence[str], Field(min_length=1, max_length=100)],
    hosts_per_site: Count | Sequence[Count],
    bandwidth: Sequence[Sequence[Bandwidth | None]],
    latency: Sequence[Sequence[Duration | None]],
    local_bandwidth: Bandwidth | None,
    local_latency: Duration,
    multicast: Multicast = "unicast",
) -> TopologyPart:
    """Join sites, each a star of hosts around a router, by a link between every two routers.

    Hosts are numbered site by site. A message goes directly from the sender's router to the receiver's. The relay is
    in the first site's router.

    Args:
        sites: their names.
        hosts_per_site: one number for all, or one per site.
        bandwidth: entry [i][j] is that from site i to site j; null for no limit. The diagonal is not looked at.
        latency: entry [i][j] is that from site i to site j, one way. The diagonal is not looked at.
        local_bandwidth: of each host's link, each way; null for no limit.
        local_latency: of each host's link, one way.
        multicast: how one payload reaches several hosts: `native`, `relay` or `unicast`.
    """
    names = _names(sites)
    counts = (hosts_per_site,) * len(names) if isinstance(hosts_per_site, int) else tuple(hosts_per_site)
    if len(counts) != len(names):
        raise ValueError(f"hosts_per_site: expected one number for each of {len(names)} sites; got {len(counts)}")
    num_hosts = room(sum(counts), "hosts_per_site")
    rates, delays = _matrix("bandwidth", bandwidth, len(names)), _matrix("latency", latency, len(names))
    links: dict[tuple[int, int], tuple[float, float]] = {}
    for i, j in permutations(range(len(names)), 2):
        delay = delays[i][j]
        if delay is None:
            raise ValueError(f"latency: expected a time from site {names[i]!r} to {names[j]!r}; got null")
        links[i, j] = (capacity(rates[i][j], "bandwidth"), delay)
    local = (capacity(local_bandwidth, "local_bandwidth"), local_latency)
    return TopologyPart(lambda _num_hosts: _wan(names, counts, links, local, multicast), multicast, num_hosts)


def _names(sites: Sequence[str]) -> tuple[str, ...]:
    """Return the sites' names if they can name hosts and links."""
    for site in sites:
        if re.fullmatch(r"[A-Za-z0-9_-]{1,40}", site) is None:
            raise ValueError(f"sites: expected names of 1 to 40 of the characters A-Z a-z 0-9 _ -; got {site[:60]!r}")
    if len(set(sites)) < len(sites):
        raise ValueError(f"sites: expected different names; got {next(s for s in sites if sites.count(s) > 1)!r} twice")
    return tuple(sites)


def _matrix(name: str, rows: Sequence[Sequence[Entry]], size: int) -> Sequence[Sequence[Entry]]:
    """Return a matrix if it is square and of the right size."""
    lengths = [len(row) for row in rows]
    if lengths != [size] * size:
        raise ValueError(f"{name}: expected {size} rows of {size}, one for each site; got rows of {lengths}")
    return rows


def _wan(
    sites: tuple[str, ...],
    counts: tuple[int, ...],
    links: dict[tuple[int, int], tuple[float, float]],
    local: tuple[float, float],
    multicast: Multicast,
) -> Topology:
    """Return the network; `links` and `local` are bandwidths and latencies, by sites (from, to) and inside a site."""
    hosts = tuple(f"{site}.host{i}" for site, count in zip(sites, counts, strict=True) for i in range(count))
    routers = [f"{site}.router" for site in sites]
    home = [router for router, count in zip(routers, counts, strict=True) for _ in range(count)]
    wiring = Wiring()
    for host, router in zip(hosts, home, strict=True):
        wiring.join(host, router, *local)
    for (i, j), (rate, delay) in links.items():
        wiring.connect(routers[i], routers[j], rate, delay)

    def path(src: int, dst: int) -> Path:
        return (hosts[src], *dict.fromkeys((home[src], home[dst])), hosts[dst])

    def relay_path(host: int) -> Path:
        return (hosts[host], *dict.fromkeys((home[host], routers[0])))

    return wiring.topology(hosts, tuple(routers), path, multicast, relay_path)
