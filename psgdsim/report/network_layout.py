"""Where the hosts and switches of a network stand in its picture."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from psgdsim.topologies.base import Topology

Point = tuple[float, float]

_DEPTH = (0.42, 0.3)
"""How far, right and up, the next layer of a three-dimensional grid is drawn."""


@dataclass(frozen=True)
class Cable:
    """What joins two places: both directions if they are alike, else one of them.

    Args:
        src: a host or switch.
        dst: another.
        bandwidth: of each direction [bit/s].
        latency: one way [s].
        is_one_way: whether it is only the direction from `src` to `dst`.
    """

    src: str
    dst: str
    bandwidth: float
    latency: float
    is_one_way: bool


def cables(topology: Topology) -> list[Cable]:
    """Return what joins the hosts and switches; loopbacks and links without named ends are left out.

    A link that both directions share comes back as one cable, too.
    """
    order = {name: i for i, name in enumerate((*topology.hosts, *topology.switches))}
    properties = {
        (link.src, link.dst): (link.bandwidth, link.latency)
        for link in topology.links
        if link.src != link.dst and link.src and link.dst
    }
    found = []
    for (src, dst), kind in properties.items():
        back = properties.get((dst, src))
        is_one_way = back is not None and back != kind
        if back is None or is_one_way or order[src] < order[dst]:
            found.append(Cable(src, dst, *kind, is_one_way=is_one_way))
    return found


def media(topology: Topology) -> list[str]:
    """Return the names of the media that many share."""
    return [link.src for link in topology.links if link.src == link.dst and link.src in topology.switches]


def place(topology: Topology) -> dict[str, Point]:
    """Return where each host and switch stands.

    Grids are drawn as grids, other networks without switches as a circle; hosts around switches that are all joined
    to each other as stars, other networks in levels with the hosts at the bottom.
    """
    near = _neighbours(topology)
    if media(topology):
        row = {host: (float(i), 0.0) for i, host in enumerate(topology.hosts)}
        return {**row, **dict.fromkeys(topology.switches, ((len(row) - 1) / 2, 1.0))}
    if not topology.switches:
        return _grid(topology) if len(topology.grid) in (2, 3) else _circle(topology.hosts, len(topology.hosts) / 6)
    levels = _levels(topology, near)
    if len(levels) == 2 and len(levels[1]) != 2:
        return _stars(levels, near)
    return _layers(levels, near)


def _neighbours(topology: Topology) -> Mapping[str, list[str]]:
    near: dict[str, list[str]] = defaultdict(list)
    for cable in cables(topology):
        near[cable.src].append(cable.dst)
        near[cable.dst].append(cable.src)
    return near


def _grid(topology: Topology) -> dict[str, Point]:
    """Return a grid, rows from the top; of three dimensions the first goes into the depth."""
    *outer, rows, columns = topology.grid
    points = {}
    for i, host in enumerate(topology.hosts):
        depth, row, column = i // (rows * columns), i // columns % rows, i % columns
        shift = (_DEPTH[0] * depth, _DEPTH[1] * depth) if outer else (0.0, 0.0)
        points[host] = (column * 1.4 + shift[0], -row * 1.2 + shift[1])
    return points


def _circle(names: Sequence[str], radius: float, centre: Point = (0.0, 0.0)) -> dict[str, Point]:
    """Return places on a circle, clockwise from the top."""
    angles = [math.tau * (0.25 - i / len(names)) for i in range(len(names))]
    points = [(centre[0] + radius * math.cos(angle), centre[1] + radius * math.sin(angle)) for angle in angles]
    return dict(zip(names, points, strict=True))


def _levels(topology: Topology, near: Mapping[str, list[str]]) -> list[list[str]]:
    """Return the hosts, the switches next to hosts, those next to them, and so on."""
    level = dict.fromkeys(topology.hosts, 0)
    queue = deque(topology.hosts)
    while queue:
        name = queue.popleft()
        for other in near[name]:
            if other not in level:
                level[other] = level[name] + 1
                queue.append(other)
    for name in topology.switches:
        level.setdefault(name, 1)
    levels: list[list[str]] = [[] for _ in range(max(level.values()) + 1)]
    for name in (*topology.hosts, *topology.switches):
        levels[level[name]].append(name)
    return levels


def _stars(levels: Sequence[list[str]], near: Mapping[str, list[str]]) -> dict[str, Point]:
    """Return the switches on a circle, or alone in the middle, and around each its hosts."""
    hosts, switches = levels
    own = {switch: [name for name in near[switch] if name in set(hosts)] for switch in switches}
    radius = max(1.0, max(len(group) for group in own.values()) / 6)
    if len(switches) == 1:
        return {**_circle(hosts, radius), switches[0]: (0.0, 0.0)}
    points = _circle(switches, radius * len(switches))
    for switch, group in own.items():
        x, y = points[switch]
        outwards = math.atan2(y, x)
        for i, host in enumerate(group):
            angle = outwards + math.radians(200) * (0.5 - (i + 0.5) / len(group))
            points[host] = (x + radius * math.cos(angle), y + radius * math.sin(angle))
    return points


def _layers(levels: Sequence[list[str]], near: Mapping[str, list[str]]) -> dict[str, Point]:
    """Return the levels one above the other, each as wide as the hosts, a switch above the middle of what is below."""
    width = float(max(len(names) for names in levels))
    height = max(1.0, width / 7)
    across: dict[str, float] = {}
    points = {}
    for level, names in enumerate(levels):
        middles = {}
        for i, name in enumerate(names):
            below = [across[other] for other in near[name] if other in across] if level else []
            middles[name] = sum(below) / len(below) if below else float(i)
        ordered = sorted(names, key=lambda name: middles[name])
        for i, name in enumerate(ordered):
            points[name] = (width * (i + 0.5) / len(ordered), height * level)
        across.update((name, points[name][0]) for name in ordered)
    return points
