"""A picture of a network, and its routes as rows."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psgdsim.report.network_layout import Cable, Point, cables, media, place
from psgdsim.report.plots import COLOURS, STYLES
from psgdsim.topologies.base import Topology
from psgdsim.units import BANDWIDTH, TIME

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_LABELLED = 80
"""Hosts and switches of a larger network are drawn without their names."""

_MAX_KINDS = 12
_GREY = "0.45"
_HOST = "#F0E442"
_PAPER = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"}


@dataclass(frozen=True)
class RouteRow:
    """The way of a message between two ranks.

    Attributes:
        src: the sending rank.
        dst: the receiving rank.
        path: the hosts and switches that it passes, both ends included.
        links: the names of the links that it crosses.
        latency: one way [s].
        bandwidth: what a message alone gets [bit/s]; infinite without a limit.
    """

    src: int
    dst: int
    path: tuple[str, ...]
    links: tuple[str, ...]
    latency: float
    bandwidth: float

    def __str__(self) -> str:
        return f"{self.src} -> {self.dst}: {' > '.join(self.path)}  ({properties(self.bandwidth, self.latency)})"


def routes(topology: Topology, pairs: Iterable[tuple[int, int]]) -> list[RouteRow]:
    """Return the routes between pairs of ranks.

    Args:
        topology: the network.
        pairs: `(src, dst)`, ranks.
    """
    rows = []
    for src, dst in pairs:
        start, end = topology.host_of(src), topology.host_of(dst)
        route = topology.route(start, end)
        way = (topology.hosts[start], *topology.entered(start, route), topology.hosts[end])
        path = tuple(name for name, following in zip(way, (*way[1:], ""), strict=True) if name != following)
        names = tuple(topology.links[link].name for link in route)
        rows.append(RouteRow(src, dst, path, names, topology.latency(route), topology.bandwidth(route)))
    return rows


def properties(bandwidth: float, latency: float) -> str:
    """Return a bandwidth [bit/s] and a latency [s] in words, to four digits.

    Example:
        >>> properties(1e9, 5e-5), properties(float("inf"), 0.0)
        ('1 Gbit/s, 50 us', 'no limit, 0 s')
    """
    rate = "no limit" if math.isinf(bandwidth) else BANDWIDTH.format(float(f"{bandwidth:.4g}"))
    return f"{rate}, {TIME.format(float(f'{latency:.4g}'))}"


def plot_topology(
    topology: Topology, num_ranks: int | None = None, *, ax: Axes | None = None, title: str | None = None
) -> Axes:
    """Draw a network: hosts as squares with their ranks on them, switches as circles, cables coloured by their kind.

    A cable is a straight line if both its directions are alike, else an arrow for each direction.

    Args:
        topology: the network.
        num_ranks: how many ranks live on its hosts; by default one on each host.
        ax: where to draw; by default on axes of a new figure.
        title: of the axes.

    Returns:
        The axes.
    """
    axes = _axes(ax)
    points = place(topology)
    _draw_cables(axes, topology, points)
    for name in media(topology):
        _draw_medium(axes, topology, name, points)
    _draw_switches(axes, topology, points)
    _draw_hosts(axes, topology, points, len(topology.hosts) if num_ranks is None else num_ranks)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_axis_off()
    axes.margins(0.12)
    axes.set_title(title or "", loc="left", fontsize="medium")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), fontsize=9, frameon=False, ncols=2)
    return axes


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    from matplotlib.figure import Figure

    return Figure(figsize=(9, 6), layout="constrained").subplots()


def _draw_cables(axes: Axes, topology: Topology, points: Mapping[str, Point]) -> None:
    """Draw all cables, a colour and line style for each kind, the most frequent first."""
    from matplotlib.collections import LineCollection

    kinds: dict[tuple[float, float], list[Cable]] = defaultdict(list)
    for cable in cables(topology):
        kinds[cable.bandwidth, cable.latency].append(cable)
    for i, (kind, group) in enumerate(sorted(kinds.items(), key=lambda item: -len(item[1]))):
        style: dict[str, Any] = {
            "color": COLOURS[i % len(COLOURS)],
            "linestyle": STYLES[i // len(COLOURS) % len(STYLES)],
        }
        if len(group) == 1 and len(points) <= MAX_LABELLED:
            _label_cable(axes, group[0], points, style["color"])
        elif i < _MAX_KINDS:
            axes.plot([], [], linewidth=1.8, label=f"{properties(*kind)}  ({len(group)} x)", **style)
        bent = [cable for cable in group if cable.is_one_way or _hides(points, cable)]
        straight = [(points[cable.src], points[cable.dst]) for cable in group if cable not in bent]
        axes.add_collection(LineCollection(straight, linewidths=_pen(points), zorder=1, **style))
        for cable in bent:
            _draw_arc(axes, points[cable.src], points[cable.dst], style, has_head=cable.is_one_way)


def _label_cable(axes: Axes, cable: Cable, points: Mapping[str, Point], colour: str) -> None:
    """Write what a cable is beside it, nearer to its beginning so that labels of crossing cables stay apart."""
    (x0, y0), (x1, y1) = points[cable.src], points[cable.dst]
    aside = 0.06 if cable.is_one_way else 0.0
    middle = (0.62 * x0 + 0.38 * x1 + aside * (y1 - y0), 0.62 * y0 + 0.38 * y1 - aside * (x1 - x0))
    text = properties(cable.bandwidth, cable.latency)
    axes.annotate(text, middle, ha="center", va="center", fontsize=7, color=colour, zorder=3, bbox=_PAPER)


def _pen(points: Mapping[str, Point]) -> float:
    """Return the width of a line, thin where there are many [pt]."""
    return 1.4 if len(points) <= MAX_LABELLED else 0.25


def _hides(points: Mapping[str, Point], cable: Cable) -> bool:
    """Whether a straight line would pass behind another host or switch; not asked of large networks."""
    if len(points) > MAX_LABELLED:
        return False
    (x0, y0), (x1, y1) = points[cable.src], points[cable.dst]
    length = math.hypot(x1 - x0, y1 - y0)
    for name, (x, y) in points.items():
        along = ((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / length**2
        beside = abs((x - x0) * (y1 - y0) - (y - y0) * (x1 - x0)) / length
        if name not in (cable.src, cable.dst) and 0 < along < 1 and beside < 0.1:
            return True
    return False


def _draw_arc(axes: Axes, start: Point, end: Point, style: Mapping[str, Any], *, has_head: bool) -> None:
    from matplotlib.patches import FancyArrowPatch

    arc = FancyArrowPatch(
        start,
        end,
        arrowstyle="-|>" if has_head else "-",
        connectionstyle=f"arc3,rad={0.12 if has_head else 0.25}",
        mutation_scale=12,
        shrinkA=8 if has_head else 0,
        shrinkB=8 if has_head else 0,
        linewidth=1.4,
        zorder=1,
        **style,
    )
    axes.add_patch(arc)


def _draw_medium(axes: Axes, topology: Topology, name: str, points: Mapping[str, Point]) -> None:
    """Draw a medium that all hosts share as a bar with a stub to each of them."""
    y = points[name][1]
    ends = [points[host] for host in topology.hosts]
    left, right = min(end[0] for end in ends), max(end[0] for end in ends)
    link = next(link for link in topology.links if link.src == name)
    label = f"{properties(link.bandwidth, link.latency)}, shared by all"
    axes.plot([left - 0.4, right + 0.4], [y, y], color=COLOURS[0], linewidth=5, solid_capstyle="round", label=label)
    for end in ends:
        axes.plot([end[0], end[0]], [end[1], y], color=COLOURS[0], linewidth=1.4, zorder=1)


def _draw_switches(axes: Axes, topology: Topology, points: Mapping[str, Point]) -> None:
    switches = [name for name in topology.switches if name not in media(topology)]
    is_labelled = len(points) <= MAX_LABELLED
    if switches:
        across, up = zip(*(points[name] for name in switches), strict=True)
        size = 150 if is_labelled else 20
        axes.scatter(
            across, up, size, "white", marker="o", edgecolors="black", linewidths=_pen(points), zorder=2, label="switch"
        )
    for name in switches if is_labelled else ():
        _label_switch(axes, topology, name, points)


def _label_switch(axes: Axes, topology: Topology, name: str, points: Mapping[str, Point]) -> None:
    """Write a switch's name beside it, away from its hosts; above it by default."""
    x, y = points[name]
    ends = [points[cable.src] for cable in cables(topology) if cable.dst == name and cable.src in topology.hosts]
    right, up = (sum(end[axis] - here for end in ends) / max(1, len(ends)) for axis, here in ((0, x), (1, y)))
    axes.annotate(
        name,
        (x, y),
        (0, 11 if up < 0.2 else -11),
        textcoords="offset points",
        ha="center" if abs(right) < 0.3 else "left" if right < 0 else "right",
        va="bottom" if up < 0.2 else "top",
        fontsize=7,
        color=_GREY,
        zorder=4,
        bbox=_PAPER,
    )


def _draw_hosts(axes: Axes, topology: Topology, points: Mapping[str, Point], num_ranks: int) -> None:
    """Draw the hosts, one colour for full speed and greys for others, and write their ranks on them."""
    ranks: dict[int, list[int]] = defaultdict(list)
    for rank in range(num_ranks):
        ranks[topology.host_of(rank)].append(rank)
    by_speed: dict[float, list[str]] = defaultdict(list)
    for i, host in enumerate(topology.hosts):
        by_speed[topology.speeds[i] if topology.speeds else 1.0].append(host)
    is_labelled = len(points) <= MAX_LABELLED
    for i, (speed, hosts) in enumerate(sorted(by_speed.items(), reverse=True)):
        across, up = zip(*(points[name] for name in hosts), strict=True)
        label = f"host with its ranks{'' if len(by_speed) == 1 else f', speed {speed:g}'}"
        colour = _HOST if i == 0 else str(max(0.45, 0.95 - 0.15 * i))
        size = 230 if is_labelled else 12
        axes.scatter(
            across, up, size, colour, marker="s", edgecolors="black", linewidths=_pen(points), zorder=2, label=label
        )
    for i, host in enumerate(topology.hosts if is_labelled else ()):
        text = _span(ranks[i])
        axes.annotate(text, points[host], ha="center", va="center", fontsize=7 if len(text) < 4 else 5, zorder=3)


def _span(ranks: Sequence[int]) -> str:
    return "" if not ranks else str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]}-{ranks[-1]}"
