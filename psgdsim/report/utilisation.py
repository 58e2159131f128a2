"""A picture of how much each link of a simulated run was used over time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psgdsim.errors import PsgdsimError
from psgdsim.report.plots import COLOURS, new_axes

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

    from psgdsim.results import RunResult

_HEIGHT = 0.84
_GREY = "0.45"


def plot_utilisation(
    result: RunResult,
    *,
    num_links: int = 8,
    until: float | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw how much the busiest links of a simulated run were used over time, and the mean of all others.

    Each has a row as high as its capacity, with its mean over the run at the end; the time is in milliseconds, as in
    `plot_timeline`, so that one can stand below the other.

    Args:
        result: the run.
        num_links: how many links have a row of their own.
        until: the end of the picture [s]; by default that of the run.
        ax: where to draw; by default on a new figure.
        title: above the axes.

    Raises:
        PsgdsimError: the run has no links, as those in mode `real`, or took no time.
    """
    edges, names, used = _series(result)
    mean = (edges[1:] - edges[:-1]) @ used / edges[-1]
    order = sorted(range(len(names)), key=lambda link: -round(float(mean[link]), 9))  # rounding must not order links
    rows = [(names[link], used[:, link], float(mean[link]), COLOURS[0]) for link in order[:num_links]]
    if others := order[num_links:]:
        rows.append((f"mean of {len(others)} others", used[:, others].mean(1), float(mean[others].mean()), _GREY))
    axes = new_axes(ax)
    full = max(1.0, *(float(values.max()) for _, values, _, _ in rows))  # the model `ideal` goes beyond a capacity
    for i, (_, values, average, colour) in enumerate(rows):
        bottom = i + _HEIGHT / 2
        axes.axhspan(bottom - _HEIGHT / full, bottom, facecolor="0.94", linewidth=0, zorder=0)
        axes.stairs(bottom - _HEIGHT * values / full, edges * 1e3, baseline=bottom, fill=True, color=colour)
        axes.text(1.01, i, f"{average:.1%}", transform=axes.get_yaxis_transform(), va="center", fontsize=9)
    axes.text(1.01, 1.0, "mean", transform=axes.transAxes, va="bottom", fontsize=9, color=_GREY)
    axes.set_yticks(range(len(rows)), [name for name, _, _, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, (edges[-1] if until is None else until) * 1e3)
    axes.set_xlabel("time [ms]")
    axes.set_title(title or "", loc="left", fontsize="medium")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return axes


def _series(result: RunResult) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Return the edges of the spans of time [s], the links, and how much each was used (spans x links)."""
    import numpy as np

    table = result.link_series
    if not table["end"].max(initial=0.0):
        path, mode = result.folder / "link_series.csv", result.summary["mode"]
        raise PsgdsimError(f"{path}: nothing over time in it (mode {mode}); expected a run in mode sim that took time")
    names = list(dict.fromkeys(table["name"].tolist()))
    starts, ends = (table[name].reshape(-1, len(names))[:, 0] for name in ("start", "end"))
    return np.array([*starts, ends[-1]]), names, table["utilisation"].reshape(-1, len(names))
