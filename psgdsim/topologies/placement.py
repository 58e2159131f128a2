"""Which rank lives on which host, how fast the hosts are, and what joins the ranks of one host."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict

from psgdsim.topologies.base import Link, Topology, TopologyPart
from psgdsim.units import Bandwidth, Duration

_Count = Annotated[int, Field(ge=1, le=100_000)]


class _Settings(BaseModel):
    """Nothing is converted silently, nothing is ignored, nothing changes."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True
    )


class Loopback(_Settings):
    """What joins the ranks of one host."""

    bandwidth: Annotated[Bandwidth, Field(gt=0)] | None = Field(
        default=None, description="what all messages inside one host share; null for no limit"
    )
    latency: Duration = Field(default="0 s", description="of a message inside one host, one way")


class HostKind(_Settings):
    """Some hosts that are alike."""

    count: _Count = Field(description="the number of such hosts")
    speed: Annotated[float, Field(gt=0)] = Field(
        default=1.0, description="compute times are divided by it; 0.5 takes twice as long"
    )


class Hosts(_Settings):
    """The machines: what lives on each of them, and how fast they are.

    Worker i lives on host `i // ranks_per_host`, beside the others but with a processor of its own, so ranks of one
    host compute at full speed at once; they share the host's links to the network. A message between two of them
    crosses only the loopback. A strategy's servers live on hosts of their own after the workers', one on each, or
    `beside` the workers: server j on host j, beginning again with host 0 if there are more servers than hosts.
    """

    ranks_per_host: _Count = Field(default=1, description="workers on each host; the last of these may have fewer")
    servers: Literal["own", "beside"] = Field(
        default="own", description="where servers live: on hosts of their own, or beside workers, the first on host 0"
    )
    loopback: Loopback = Field(default=Loopback(), description="what joins the ranks of one host")
    kinds: Annotated[tuple[HostKind, ...], Strict(strict=False)] = Field(
        default=(), description="the first hosts, the next ones, ...; hosts beyond them have speed 1"
    )

    def num_hosts(self, num_ranks: int, num_servers: int = 0) -> int:
        """Return how many hosts the ranks need; the last `num_servers` of them are servers."""
        return self._num_worker_hosts(num_ranks - num_servers) + (num_servers if self.servers == "own" else 0)

    def _num_worker_hosts(self, num_workers: int) -> int:
        return -(-num_workers // self.ranks_per_host)

    def check(self, part: TopologyPart, num_ranks: int, num_servers: int = 0) -> None:
        """Raise `ValueError` if the ranks do not fit; the message begins with the key to blame."""
        needed = self.num_hosts(num_ranks, num_servers)
        beside = " beside them" if self.servers == "beside" else ""
        servers = f" and {num_servers} server{'s' if num_servers > 1 else ''}{beside}" if num_servers else ""
        need = f"{needed} hosts ({num_ranks - num_servers} ranks, {self.ranks_per_host} per host{servers})"
        if part.max_hosts is not None and needed > part.max_hosts:
            raise ValueError(f"topology: expected room for {need}; there is room for {part.max_hosts}")
        listed = sum(kind.count for kind in self.kinds)
        if listed > needed:
            raise ValueError(f"hosts.kinds: expected at most {need}; got {listed}")

    def place(self, part: TopologyPart, num_servers: int = 0) -> TopologyPart:
        """Return a part whose `build` takes the number of ranks instead of that of hosts.

        Args:
            part: the network.
            num_servers: how many of the ranks, the last, are servers.
        """
        return replace(part, build=functools.partial(self._build, part, num_servers), max_hosts=None)

    def _build(self, part: TopologyPart, num_servers: int, num_ranks: int) -> Topology:
        self.check(part, num_ranks, num_servers)
        num_hosts = self.num_hosts(num_ranks, num_servers)
        bare = part.build(num_hosts)
        if self.ranks_per_host > 1 or (num_servers and self.servers == "beside"):
            num_workers = num_ranks - num_servers
            first = self._num_worker_hosts(num_workers) if self.servers == "own" else 0

            def host_of(rank: int) -> int:
                is_server = rank >= num_workers
                return first + (rank - num_workers) % (num_hosts - first) if is_server else rank // self.ranks_per_host

            bare = self._with_loopbacks(replace(bare, host_of=host_of))
        if self.kinds:
            speeds = [kind.speed for kind in self.kinds for _ in range(kind.count)]
            bare = replace(bare, speeds=(*speeds, *[1.0] * (len(bare.hosts) - len(speeds))))
        return bare

    def _with_loopbacks(self, bare: Topology) -> Topology:
        """Add a link from each host to itself, unless it would neither limit nor delay anything."""
        if self.loopback == Loopback():
            return bare
        rate = math.inf if self.loopback.bandwidth is None else self.loopback.bandwidth
        loopbacks = (Link(f"{host}.loopback", rate, self.loopback.latency, host, host) for host in bare.hosts)
        first = len(bare.links)
        return replace(
            bare,
            links=(*bare.links, *loopbacks),
            route=lambda src, dst: (first + src,) if src == dst else bare.route(src, dst),
        )
