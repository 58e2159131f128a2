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
    arrivals = _arrivals(network, list(flows), _tcp(tcp))
    return _run(FluidLinks[Flow]([link.bandwidth for link in network.links]), arrivals)


def _run(links: FluidLinks[Flow], arrivals: list[tuple[float, Flow]]) -> Floats:
    """Return when each flow ends; a flow's owner is its place in the result.

    Args:
        links: nothing is on them yet.
        arrivals: when each flow enters, and the flow; will be sorted.
    """
    ends = np.full(len(arrivals), math.inf)
    arrivals.sort(key=lambda arrival: arrival[0])
    entered = 0
    while True:
        due = arrivals[entered][0] if entered < len(arrivals) else math.inf
        now = min(due, links.next_finish())
        if now == math.inf:
            return ends
        for flow in links.due(now):
            links.end(flow, now)
            ends[flow.owner] = now
        while entered < len(arrivals) and arrivals[entered][0] <= now:
            _enter(links, arrivals[entered][1], ends, now)
            entered += 1
        if links.is_dirty:
            links.share(now)


def _enter(links: FluidLinks[Flow], flow: Flow, ends: Floats, now: float) -> None:
    if flow.nbits == 0 or not flow.path.links:
        ends[flow.owner] = now
    else:
        links.add(flow, now)


def _arrivals(network: Topology, flows: Sequence[FlowSpec], tcp: TcpModel | None) -> list[tuple[float, Flow]]:
    """Return when each flow enters the network, once its latency has passed."""
    paths = Paths([link.bandwidth for link in network.links], [link.latency for link in network.links], tcp)
    index = {name: i for i, name in enumerate(network.hosts)}
    arrivals = []
    for i, (src, dst, nbytes, start) in enumerate(flows):
        if src not in index or dst not in index:
            name = dst if src in index else src
            raise PsgdsimError(f"flow {i}: no host is called {shown(name)}; {nearest(name, index)}")
        if not (0 <= nbytes < math.inf and 0 <= start < math.inf):
            raise PsgdsimError(
                f"flow {i}: expected a size [byte] and a start [s] of at least 0; got {shown(nbytes)} and "
                f"{shown(start)}"
            )
        route = network.route(index[src], index[dst])
        reverse = network.route(index[dst], index[src]) if paths.needs_reverse else ()
        path = paths.path(route, reverse)
        arrivals.append((start + path.delay, Flow(path, 8.0 * nbytes, i)))
    return arrivals


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
