"""A picture of codecs: how much is lost against how many bits are sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from psgdsim.report.plots import COLOURS, MARKERS, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_codecs(points: Mapping[str, tuple[float, float]], *, ax: Axes | None = None) -> Axes:
    """Draw the relative error of codecs against their bits per value, both logarithmic.

    What loses nothing stands on the lower edge.

    Args:
        points: `(bits per value, relative error)` by name.
        ax: where to draw; by default on a new figure.
    """
    axes = new_axes(ax)
    least = min([error for _, error in points.values() if error > 0], default=1e-3) / 3
    for i, (name, (bits, error)) in enumerate(points.items()):
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        axes.plot([bits], [max(error, least)], linestyle="none", color=colour, marker=marker, label=name)
    axes.set(xscale="log", yscale="log", xlabel="bits per value", ylabel="relative error")
    axes.grid(visible=True, which="both", color="0.9")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small", frameon=False)
    return axes
