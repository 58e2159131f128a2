"""Pictures of runs, drawn with matplotlib on axes that the caller may bring.

Each curve keeps its colour, marker and line style by its place in the legend, and its name stands at its end. The
colours are told apart by colour-blind readers (Okabe and Ito, "Color Universal Design", 2008).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

from psgdsim.errors import PsgdsimError, nearest

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

    from psgdsim.results import RunResult

Quantity = Literal["time", "bytes", "step"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#808080")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLES = ("-", "--", "-.", ":")

_X_LABELS: dict[Quantity, str] = {"time": "time [s]", "bytes": "bytes sent, all ranks [MB]", "step": "step"}
_KINDS = {"compute": COLOURS[0], "encode": COLOURS[3], "send": COLOURS[4], "receive": COLOURS[2]}
_GREY = "0.45"
_DISTURBANCE: dict[str, Any] = {"facecolor": "#fbe3e0", "edgecolor": "#8B0000", "hatch": "////", "linewidth": 0.6}


def rows_per_second(result: RunResult) -> float:
    """Return the training rows that a run used per second of its own time (virtual in `sim`, wall in `real`).

    Rows count once per step and model, on however many ranks they were computed. A run that trained several models
    at once used its rows once for each.

    Args:
        result: a run of at least one step that took time.

    Raises:
        PsgdsimError: the run has no step or took no time, so it has no rate.
    """
    from psgdsim import scenario

    steps, time = result.summary["steps"], result.summary["time_s"]
    if not steps or not time:
        raise PsgdsimError(f"{result.folder}: {steps} steps in {time} s: expected at least one step that takes time")
    rows = scenario.load(result.folder / "scenario.yaml").global_rows
    return float(rows * steps * len(result.summary.get("models", [None])) / time)


def speedups(runs: Sequence[RunResult], baseline: RunResult | None = None) -> dict[int, float]:
    """Return the speed-up of each run: its rows per second over those of one rank.

    Args:
        runs: one per world size; with the same rows per step this is strong scaling, with the same rows per rank it is
            weak scaling.
        baseline: the run of one rank; by default the one among `runs`.

    Returns:
        world size -> speed-up, in the order of the world sizes.

    Raises:
        PsgdsimError: there is no run of one rank to compare with, or two runs have the same world size.
    """
    by_size: dict[int, RunResult] = {}
    for result in sorted(runs, key=lambda result: int(result.summary["world_size"])):
        size = result.summary["world_size"]
        if size in by_size:
            raise PsgdsimError(
                f"two runs of world size {size}, {by_size[size].folder} and {result.folder}; expected one of each"
            )
        by_size[size] = result
    reference = by_size.get(1) if baseline is None else baseline
    if reference is None or reference.summary["world_size"] != 1:
        raise PsgdsimError(f"speed-up compares with one rank; got runs of world size {list(by_size)} and no baseline")
    unit = rows_per_second(reference)
    return {size: rows_per_second(result) / unit for size, result in by_size.items()}


def plot_speedup(
    curves: Mapping[str, Mapping[int, float]], *, ax: Axes | None = None, title: str | None = None
) -> Axes:
    """Draw speed-up over ranks on logarithmic axes, beside the ideal line on which N ranks are N times as fast.

    Args:
        curves: name -> (world size -> speed-up), as `speedups` returns.
        ax: where to draw; by default on a new figure.
        title: above the axes.
    """
    axes = new_axes(ax)
    sizes = sorted({size for curve in curves.values() for size in curve})
    axes.plot(sizes, sizes, color=_GREY, linewidth=1, zorder=1)
    axes.axhline(1, color="0.8", linewidth=1, zorder=0)
    for i, curve in enumerate(curves.values()):
        axes.plot(list(curve), list(curve.values()), **_style(i))
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: _ratio(value))
    axes.set_xlabel("ranks")
    axes.set_ylabel("speed-up over one rank")
    ends = {name: (max(curve), curve[max(curve)]) for name, curve in curves.items()}
    _name_ends(axes, {"ideal": (sizes[-1], float(sizes[-1])), **ends}, {"ideal": _GREY, **_colours(curves)})
    return _finish(axes, title)


def plot_accuracy(
    results: Mapping[str, RunResult],
    *,
    x: Quantity = "time",
    ax: Axes | None = None,
    title: str | None = None,
    legend: bool = False,
) -> Axes:
    """Draw test accuracy over time, bytes or steps; of several models trained at once, the best at each evaluation.

    Args:
        results: name -> run, of models that classify.
        x: `time` (virtual or wall seconds), `bytes` (sent by all ranks so far) or `step`.
        ax: where to draw; by default on a new figure.
        title: above the axes.
        legend: whether a legend names the curves; otherwise their names stand at their ends, where there must be room.

    Raises:
        PsgdsimError: there is no such quantity.
    """
    if x not in _X_LABELS:
        raise PsgdsimError(f"x: got {x!r}; {nearest(x, _X_LABELS)}")
    axes = new_axes(ax)
    ends = {}
    for i, (name, result) in enumerate(results.items()):
        xs, accuracies = _accuracy(result, x)
        axes.plot(xs, accuracies, label=name, **_style(i))
        ends[name] = (float(xs[-1]), float(accuracies[-1]))
    axes.set_xlabel(_X_LABELS[x])
    axes.set_ylabel("test accuracy")
    axes.yaxis.set_major_formatter("{x:.0%}")
    if legend:
        axes.legend(loc="lower right", frameon=False)
    else:
        _name_ends(axes, ends, _colours(results))
    return _finish(axes, title)


def plot_timeline(
    result: RunResult, *, until: float | None = None, ax: Axes | None = None, title: str | None = None
) -> Axes:
    """Draw what each rank computes, sends and receives over time, from `trace.json`; faults lie behind, hatched.

    What happened to the network has a row of its own below the ranks.

    Args:
        result: the run.
        until: the end of the picture [s]; by default that of the run.
        ax: where to draw; by default on a new figure.
        title: above the axes.
    """
    from matplotlib.patches import Patch

    axes = new_axes(ax)
    events = json.loads((result.folder / "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    bars = [event for event in events if event["ph"] == "X" and event["dur"] > 0]
    num_workers, num_servers = result.summary["world_size"], result.summary.get("num_servers", 0)
    num_ranks = num_workers + num_servers
    rows = [f"rank {i}" for i in range(num_workers)] + [f"rank {num_workers + i} (server)" for i in range(num_servers)]
    rows += ["network"] * any(event["pid"] == num_ranks for event in bars)
    for kind, colour in _KINDS.items():
        top = 0.0 if kind in ("compute", "encode") else 0.28 if kind == "send" else 0.56
        for rank in sorted({event["pid"] for event in bars}):
            spans = [
                (event["ts"] / 1e3, event["dur"] / 1e3)
                for event in bars
                if event["pid"] == rank and event["cat"] == kind
            ]
            axes.broken_barh(spans, (rank - 0.42 + top, 0.26), facecolors=colour, linewidth=0)
    present = [kind for kind in _KINDS if any(event["cat"] == kind for event in bars)]
    handles = [Patch(color=_KINDS[kind]) for kind in present]
    disturbances = [event for event in bars if event["cat"] in ("fault", "change")]
    if disturbances:
        _draw_disturbances(axes, disturbances)
        present.append("fault or change")
        handles.append(Patch(**_DISTURBANCE))
    axes.legend(handles, present, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(present), frameon=False)
    axes.set_yticks(range(len(rows)), rows)
    axes.invert_yaxis()
    axes.set_xlim(0, None if until is None else until * 1e3)
    axes.set_xlabel("time [ms]")
    axes.set_title(title or "", loc="left", fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _draw_disturbances(axes: Axes, events: Sequence[Mapping[str, Any]]) -> None:
    """Draw what went wrong or changed behind everything else, with its name."""
    from matplotlib.patheffects import withStroke

    for event in events:
        start, row, is_fault = event["ts"] / 1e3, event["pid"], event["cat"] == "fault"
        axes.broken_barh([(start, event["dur"] / 1e3)], (row - 0.47, 0.94), zorder=0, **_DISTURBANCE)
        name = axes.annotate(
            event["name"],
            (start, row - 0.45 if is_fault else row),
            xytext=(2, 0),
            textcoords="offset points",
            va="bottom" if is_fault else "center",
            fontsize=8,
            clip_on=True,
        )
        name.set_path_effects([withStroke(linewidth=2.5, foreground="white")])


def _accuracy(result: RunResult, x: Quantity) -> tuple[np.ndarray, np.ndarray]:
    """Return the quantity and the best model's accuracy at each evaluation."""
    import numpy as np

    evals = result.evals
    steps = np.unique(evals["step"])
    accuracies = np.asarray([evals["test_accuracy"][evals["step"] == step].max() for step in steps])
    if x == "step":
        return steps, accuracies
    if x == "time":
        return np.asarray([evals["time"][evals["step"] == step].max() for step in steps]), accuracies
    rows = result.steps
    if "histogram" not in result.summary["staleness"]:
        return np.asarray([rows["bytes"][rows["step"] == step].sum() / 1e6 for step in steps]), accuracies
    # Ranks that run freely count steps of their own.
    times = [evals["time"][evals["step"] == step].max() for step in steps]
    return np.asarray([_sent_until(rows, time) / 1e6 for time in times]), accuracies


def _sent_until(rows: Mapping[str, np.ndarray], time: float) -> float:
    """Return what all ranks had sent at the end of the last step that each had ended by a time [byte]."""
    ended = rows["time"] <= time
    return float(sum(rows["bytes"][ended & (rows["rank"] == rank)].max(initial=0) for rank in set(rows["rank"])))


def new_axes(ax: Axes | None) -> Axes:
    """Return the axes that a caller brings, or some on a new figure."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained")[1]


def _style(place: int) -> dict[str, Any]:
    return {
        "color": COLOURS[place % len(COLOURS)],
        "marker": MARKERS[place % len(MARKERS)],
        "linestyle": STYLES[place % len(STYLES)],
        "markersize": 5,
        "linewidth": 1.8,
    }


def _colours(names: Mapping[str, object]) -> dict[str, str]:
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}


def _ratio(value: float) -> str:
    """Return a power of two as it is spoken: 4, 1, 1/2."""
    return str(Fraction(value).limit_denominator(1024))


def _name_ends(axes: Axes, ends: Mapping[str, tuple[float, float]], colours: Mapping[str, str]) -> None:
    """Write each curve's name to the right of its end, moved up where it would stand on another name."""
    size, pixel = 9.0, 72 / axes.figure.dpi
    points = {name: pixel * axes.transData.transform(end) for name, end in ends.items()}
    placed: list[tuple[float, float, float]] = []
    for name in sorted(points, key=lambda name: float(points[name][1])):
        left, middle = map(float, points[name])
        right, height = left + 0.65 * size * len(name), middle
        for other_left, other_right, other_height in sorted(placed, key=lambda box: box[2]):
            if left < other_right and other_left < right and height < other_height + 1.25 * size:
                height = other_height + 1.25 * size
        placed.append((left, right, height))
        axes.annotate(
            name,
            ends[name],
            xytext=(7, height - middle),
            textcoords="offset points",
            va="center",
            color=colours[name],
            fontsize=size,
            annotation_clip=False,
        )


def _finish(axes: Axes, title: str | None) -> Axes:
    axes.set_title(title or "", loc="left", fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    return axes
