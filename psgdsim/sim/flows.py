"""Flows that are known beforehand: when does each arrive?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import ValidationError

from psgdsim.errors import PsgdsimError, nearest, shown
from psgdsim.network_model import TcpModel, tcp_model
from psgdsim.scenario.document import Document
from psgdsim.scenario.problems import problems_of, scenario_error
from psgdsim.scenario.spec import read_spec
from psgdsim.sim.bundles import Bundle, Routes, together
from psgdsim.sim.flow_table import Flow
from psgdsim.sim.fluid import FluidLinks
from psgdsim.sim.paths import Paths
from psgdsim.sim.sharing import Floats
from psgdsim.topologies.base import Topology, TopologyPart, topologies

FlowSpec = tuple[str, str, float, float]
"""`(src, dst, nbytes, start_time)`: hosts by name, bytes, seconds."""


def simulate_flows(
    topology: Topology | TopologyPart | Mapping[str, Any],
    flows: Iterable[FlowSpec],
    tcp: str | Mapping[str, Any] | TcpModel | None = "none",
    *,
    num_hosts: int | None = None,
) -> Floats:
    """Return when flows arrive that share a network max-min fairly.

    Args:
        topology: a network; or a part or its spec as in YAML, such as `{"kind": "custom", "hosts": [...], "switches":
            [...], "links": [{"src": ..., "dst": ..., "bandwidth": "1 Gbit/s", "latency": "50 us"}, ...]}`.
        flows: for each `(src, dst, nbytes, start_time)`, hosts by name, in bytes and seconds.
        tcp: TCP's corrections: `none`, `cm02`, `lv08` or the settings of a `TcpModel`.
        num_hosts: how many hosts a part has that takes any number; otherwise all that it names.

    Returns:
        The time [s] at which each flow has arrived, in the order of `flows`.

    Raises:
        PsgdsimError: a host is unknown, a size or time is no number of at least 0, or the spec is wrong.

    Example:
        >>> links = [{"src": "a", "dst": "b", "bandwidth": "8 kbit/s", "latency": "100 ms"}]
        >>> network = {"kind": "custom", "hosts": ["a", "b"], "links": links}
        >>> simulate_flows(network, [("a", "b", 1000, 0.0), ("a", "b", 500, 0.0)])
        array([1.6, 1.1])
    """
    network = _built(topology, num_hosts)
    todo = list(flows)
    arrivals = _arrivals(network, todo, _tcp(tcp))
    return _run(FluidLinks([link.bandwidth for link in network.links]), arrivals, len(todo))


def _run(links: FluidLinks, arrivals: list[tuple[float, Flow]], num: int) -> Floats:
    """Return when each flow ends; a flow's owner is its place in the result.

    Args:
        links: nothing is on them yet.
        arrivals: when each flow enters, and the flow; will be sorted.
        num: how many flows there are, members of bundles included.
    """
    ends = np.full(num, math.inf)
    arrivals.sort(key=lambda arrival: arrival[0])
    entered = 0
    while True:
        due = arrivals[entered][0] if entered < len(arrivals) else math.inf
        now = min(due, links.next_finish())
        if now == math.inf:
            return ends
        for flow in links.due(now):
            links.end(flow, now)
            ends[flow.members if isinstance(flow, Bundle) else flow.owner] = now
        while entered < len(arrivals) and arrivals[entered][0] <= now:
            _enter(links, arrivals[entered][1], ends, now)
            entered += 1
        if links.is_dirty:
            links.share(now)


def _enter(links: FluidLinks, flow: Flow, ends: Floats, now: float) -> None:
    if flow.nbits == 0 or not flow.path.links:
        ends[flow.owner] = now
    elif isinstance(flow, Bundle):
        links.add_bundle(flow, now)
    else:
        links.add(flow, now)


def _arrivals(network: Topology, flows: Sequence[FlowSpec], tcp: TcpModel | None) -> list[tuple[float, Flow]]:
    """Return when each flow enters the network, once its latency has passed."""
    latencies = [link.latency for link in network.links]
    paths = Paths([link.bandwidth for link in network.links], latencies, tcp)
    src, dst, nbits, start = _columns(network.hosts, flows)
    routes = list(map(network.route, src, dst))
    arrivals: list[tuple[float, Flow]] = []
    alone: Sequence[int] = range(len(flows))
    if tcp is None:
        all_routes = Routes.of(routes)
        enter = start + all_routes.sums(latencies)
        groups, alone = together(enter, nbits, all_routes.lengths)
        for members in groups:
            bundle = Bundle(all_routes.select(members), float(nbits[members[0]]), members)
            arrivals.append((float(enter[members[0]]), bundle))
    for i in alone:
        reverse = network.route(dst[i], src[i]) if paths.needs_reverse else ()
        path = paths.path(routes[i], reverse)
        arrivals.append((float(start[i]) + path.delay, Flow(path, float(nbits[i]), i)))
    return arrivals


def _columns(hosts: Sequence[str], flows: Sequence[FlowSpec]) -> tuple[list[int], list[int], Floats, Floats]:
    """Return the flows' hosts by index, sizes [bit] and starts [s]; refuse those that make no sense."""
    if not flows:
        return [], [], np.zeros(0), np.zeros(0)
    index = {name: i for i, name in enumerate(hosts)}
    srcs, dsts, nbytes, starts = zip(*flows, strict=True)
    numbers = np.array(nbytes), np.array(starts)
    are_numbers = all(each.dtype.kind in "biuf" and each.min() >= 0 and each.max() < math.inf for each in numbers)
    if not (are_numbers and index.keys() >= {*srcs, *dsts}):
        _refuse(index, flows)
    nbits, start = 8.0 * numbers[0], numbers[1]
    return [index[src] for src in srcs], [index[dst] for dst in dsts], nbits.astype(float), start.astype(float)


def _refuse(index: Mapping[str, int], flows: Sequence[FlowSpec]) -> None:
    """Say what is wrong with the first flow that makes no sense."""
    for i, (src, dst, nbytes, start) in enumerate(flows):
        if src not in index or dst not in index:
            name = dst if src in index else src
            raise PsgdsimError(f"flow {i}: no host is called {shown(name)}; {nearest(name, index)}")
        if not (0 <= nbytes < math.inf and 0 <= start < math.inf):
            raise PsgdsimError(
                f"flow {i}: expected a size [byte] and a start [s] of at least 0; got {shown(nbytes)} and "
                f"{shown(start)}"
            )


def _tcp(tcp: str | Mapping[str, Any] | TcpModel | None) -> TcpModel | None:
    try:
        return tcp_model(tcp)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        raise PsgdsimError("; ".join(problems)) from None


def _built(topology: Topology | TopologyPart | Mapping[str, Any], num_hosts: int | None) -> Topology:
    """Return the network that a spec or a part describes."""
    if isinstance(topology, Topology):
        return topology
    part: TopologyPart = _part(topology) if isinstance(topology, Mapping) else topology
    size = num_hosts if num_hosts is not None else part.max_hosts
    if size is None:
        raise PsgdsimError("num_hosts: required, for this topology has room for any number of hosts")
    return part.build(size)


def _part(spec: Mapping[str, Any]) -> TopologyPart:
    try:
        part: TopologyPart = read_spec(topologies, spec).build()
    except ValidationError as error:
        data = {"topology": spec}
        details = [{**each, "loc": ("topology", *each["loc"])} for each in error.errors()]
        raise scenario_error(problems_of(details, data), Document(data=data)) from None  # type: ignore[arg-type]
    return part
