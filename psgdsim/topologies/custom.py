"""A network written out link by link, in the scenario or in a file."""

from __future__ import annotations

import functools
from typing import Annotated

from pydantic import Field

from psgdsim.topologies.base import Multicast, Topology, TopologyPart, register_topology
from psgdsim.topologies.graph import Cable, Graph, Name
from psgdsim.topologies.network_file import Network, read_network


@register_topology("custom")
def custom(
    hosts: tuple[Name, ...] = (),
    links: tuple[Cable, ...] = (),
    switches: tuple[Name, ...] = (),
    multicast: Multicast = "unicast",
    file: Annotated[str, Field(min_length=1, max_length=4096)] | None = None,
) -> TopologyPart:
    """Join named hosts and switches by the links listed, here or in a file; messages take the shortest route.

    The shortest route has the fewest links; among those, the least latency; among those, the links listed first. Hosts
    pass on messages for others where that is shortest. Ranks live on the hosts in the order of their names here; the
    relay is in the switch that is nearest to all hosts together (in the first such host if there is no switch).

    A file, of at most 8 MiB, is one of these. Where a bandwidth is `null` there is no limit.

    - GraphML (`.graphml`), undirected: the nodes, in order, are hosts, or switches where their attribute `role` is
      `switch`; edges have the attributes `bandwidth` and `latency`, texts with units, and may have `duplex`. Other
      attributes are ignored, but not misspelt ones.
    - An edge list (`.edges`, `.edgelist`, `.csv`) in UTF-8: lines such as `host0,leaf0,1 Gbit/s,50 us`, with
      `,shared` at the end where both directions share the bandwidth; `#` begins a comment. Hosts are in the order in
      which they first occur. It is what networkx writes and reads with `delimiter=","`.

    Args:
        hosts: their names.
        links: each `{src, dst, bandwidth, latency, duplex}`, both ways; `duplex: full` (the default) or `shared`.
        switches: their names; with a file, names or patterns such as `leaf*` of those that it does not call so.
        multicast: how one payload reaches several hosts: `native`, `relay` or `unicast`.
        file: instead of hosts and links, a GraphML file or an edge list; a relative path is looked for in the working
            directory.
    """
    network = _network(hosts, links, switches, file)
    graph = Graph((*network.hosts, *network.switches), network.cables, network.source)
    graph.check_connected(network.hosts)
    return TopologyPart(functools.partial(_topology, network, graph, multicast), multicast, len(network.hosts))


def _network(hosts: tuple[str, ...], links: tuple[Cable, ...], switches: tuple[str, ...], file: str | None) -> Network:
    if file is not None:
        if hosts or links:
            raise ValueError(
                f"file: expected either a file or hosts and links; got a file and {'hosts' if hosts else 'links'}"
            )
        return read_network(file, switches)
    if not hosts:
        raise ValueError("expected hosts and links, or a file (GraphML or an edge list); got neither")
    return Network(hosts, switches, tuple((f"links: number {i}", cable) for i, cable in enumerate(links)))


def _topology(network: Network, graph: Graph, multicast: Multicast, num_hosts: int) -> Topology:
    hosts = network.hosts
    if num_hosts > len(hosts):
        raise ValueError(f"hosts: expected at least {num_hosts}, one per rank; got {len(hosts)}")
    relay = functools.cache(lambda: graph.centre(network.switches or hosts, hosts))

    def relay_route(host: int, is_upload: bool) -> tuple[int, ...]:  # noqa: FBT001 - the contract
        return graph.route(hosts[host], relay()) if is_upload else graph.route(relay(), hosts[host])

    return Topology(
        hosts=hosts,
        links=tuple(graph.links),
        route=lambda src, dst: graph.route(hosts[src], hosts[dst]),
        multicast=multicast,
        relay_route=relay_route,
        switches=network.switches,
    )
