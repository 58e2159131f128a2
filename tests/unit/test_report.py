from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import psgdsim
from psgdsim import RunResult, report
from psgdsim.errors import PsgdsimError
from psgdsim.report import plots
from psgdsim.report.timeline import chrome_trace
from psgdsim.trace import Event, RankReport


@pytest.fixture(autouse=True)
def _no_display(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    with mpl.rc_context({"backend": "Agg"}):
        yield
    plt.close("all")


def _run(tiny: dict[str, Any], folder: Path, **changes: Any) -> RunResult:
    return psgdsim.run({**tiny, **changes}, out=folder)


def _result(folder: Path, world_size: int, time: float, *, rows: int = 60, models: int = 1) -> RunResult:
    """A run folder of ten steps that has what rates are computed from, and nothing else."""
    folder.mkdir()
    text = f"""
        name: made-up
        world_size: {world_size}
        model: {{kind: softmax_regression}}
        data: {{kind: digits}}
        global_batch_size: {rows}
        optimizer: {{kind: sgd, learning_rate: 0.1}}
        strategy: {{kind: all_reduce}}
        topology: {{kind: star, bandwidth: 1 Gbit/s, latency: 1 us}}
        max_steps: 10
    """
    (folder / "scenario.yaml").write_text(text, encoding="utf-8")
    summary: dict[str, Any] = {"world_size": world_size, "steps": 10, "time_s": time}
    if models > 1:
        summary["models"] = [{"model": i} for i in range(models)]
    return RunResult(folder, summary)


def _texts(axes: Any) -> dict[str, Any]:
    return {text.get_text(): text for text in axes.texts}


# --- rates ----------------------------------------------------------------------------------------------------


def test_rate_counts_each_row_once_per_step_and_model(tmp_path: Path) -> None:
    assert report.rows_per_second(_result(tmp_path / "one", 2, 4.0)) == 60 * 10 / 4.0
    assert report.rows_per_second(_result(tmp_path / "three", 2, 4.0, models=3)) == 3 * 60 * 10 / 4.0


def test_rate_of_a_run_that_took_no_time_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PsgdsimError, match=r"10 steps in 0\.0 s: expected at least one step that takes time"):
        report.rows_per_second(_result(tmp_path / "run", 1, 0.0))


def test_speedup_is_the_ratio_of_rates(tmp_path: Path) -> None:
    runs = [_result(tmp_path / "b", 4, 2.0), _result(tmp_path / "a", 1, 6.0)]
    assert report.speedups(runs) == {1: 1.0, 4: 3.0}
    assert list(report.speedups(runs)) == [1, 4]


def test_speedup_of_weak_scaling_counts_the_rows_of_all_ranks(tmp_path: Path) -> None:
    runs = [_result(tmp_path / "a", 1, 2.0, rows=10), _result(tmp_path / "b", 4, 2.0, rows=40)]
    assert report.speedups(runs) == {1: 1.0, 4: 4.0}


def test_speedup_takes_a_baseline_from_elsewhere(tmp_path: Path) -> None:
    runs = [_result(tmp_path / "b", 2, 3.0)]
    assert report.speedups(runs, _result(tmp_path / "a", 1, 6.0)) == {2: 2.0}


def test_speedup_needs_one_rank_to_compare_with(tmp_path: Path) -> None:
    two = _result(tmp_path / "a", 2, 3.0)
    with pytest.raises(PsgdsimError, match=r"got runs of world size \[2\] and no baseline"):
        report.speedups([two])
    with pytest.raises(PsgdsimError, match="compares with one rank"):
        report.speedups([two], two)


def test_speedup_wants_one_run_of_each_size(tmp_path: Path) -> None:
    with pytest.raises(PsgdsimError, match="two runs of world size 2"):
        report.speedups([_result(tmp_path / "a", 2, 3.0), _result(tmp_path / "b", 2, 3.0)])


def test_simulated_speedup_without_network_or_stragglers_is_ideal(tiny: dict[str, Any], tmp_path: Path) -> None:
    del tiny["batch_size"]
    topology = {"kind": "star", "bandwidth": None, "latency": "0 s"}
    runs = [
        _run(
            tiny,
            tmp_path / str(ranks),
            world_size=ranks,
            global_batch_size=24,
            topology=topology,
            compute={"kind": "constant", "time": f"{24 // ranks} ms"},
            max_steps=2,
        )
        for ranks in (1, 3)
    ]
    assert report.speedups(runs)[3] == pytest.approx(3.0, rel=1e-12)


# --- pictures -------------------------------------------------------------------------------------------------


def test_speedup_picture_has_the_curves_and_the_ideal_line() -> None:
    axes = report.plot_speedup({"ring": {1: 1.0, 2: 1.5, 4: 2.5}, "plain": {1: 1.0, 4: 0.5}}, title="here")
    ideal, _, ring, plain = axes.get_lines()
    assert list(ideal.get_xdata()) == list(ideal.get_ydata()) == [1, 2, 4]
    assert list(ring.get_ydata()) == [1.0, 1.5, 2.5]
    assert list(plain.get_xdata()) == [1, 4]
    assert axes.get_title("left") == "here"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("ranks", "speed-up over one rank")
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "2", "4"]


def test_speedup_picture_draws_where_it_is_told() -> None:
    import matplotlib.pyplot as plt

    _, axes = plt.subplots()
    assert report.plot_speedup({"ring": {1: 1.0, 2: 1.5}}, ax=axes) is axes


def test_curves_differ_in_more_than_colour() -> None:
    axes = report.plot_speedup({name: {1: 1.0, 2: 2.0} for name in "abcdefg"})
    looks = [(line.get_color(), line.get_marker()) for line in axes.get_lines()[2:]]
    assert len({colour for colour, _ in looks}) == len({marker for _, marker in looks}) == 7


def test_names_stand_at_the_ends_and_never_on_each_other() -> None:
    axes = report.plot_speedup({"a": {1: 1.0, 2: 1.5}, "b": {1: 1.0, 2: 1.5}, "c": {1: 1.0, 2: 1.51}})
    axes.figure.canvas.draw()
    names = _texts(axes)
    assert names.keys() == {"ideal", "a", "b", "c"}
    boxes = sorted((text.get_window_extent() for text in names.values()), key=lambda box: box.y0)
    assert all(below.y1 <= above.y0 + 1 for below, above in pairwise(boxes))
    assert all(box.x0 >= axes.transData.transform((2, 1))[0] for box in boxes)


def test_ratios_are_labelled_as_they_are_spoken() -> None:
    axes = report.plot_speedup({"a": {1: 1.0, 8: 0.125}})
    assert [axes.yaxis.get_major_formatter()(value) for value in (8, 1, 0.5, 0.125)] == ["8", "1", "1/2", "1/8"]


@pytest.mark.parametrize(
    ("x", "label"), [("step", "step"), ("time", "time [s]"), ("bytes", "bytes sent, all ranks [MB]")]
)
def test_accuracy_picture_is_the_evaluations(
    tiny: dict[str, Any], tmp_path: Path, x: plots.Quantity, label: str
) -> None:
    result = _run(tiny, tmp_path / "run", evaluate={"every": "2 steps"})
    axes = report.plot_accuracy({"ring": result}, x=x)
    (line,) = axes.get_lines()
    assert axes.get_xlabel() == label
    assert list(line.get_ydata()) == list(result.evals["test_accuracy"])
    end = {"step": 4, "time": result.summary["time_s"], "bytes": result.summary["bytes"]["total"] / 1e6}[x]
    assert line.get_xdata()[-1] == pytest.approx(end)
    assert _texts(axes).keys() == {"ring"}


def test_accuracy_picture_shows_the_best_of_several_models(tiny: dict[str, Any], tmp_path: Path) -> None:
    strategy = {"kind": "coded_shuffle", "redundancy": 1, "learning_rates": [0.3, 0.01, 1e-6]}
    result = _run(tiny, tmp_path / "run", strategy=strategy)
    (line,) = report.plot_accuracy({"ccdc": result}, x="step").get_lines()
    assert len(result.evals["test_accuracy"]) == 3
    assert list(line.get_ydata()) == [max(result.evals["test_accuracy"])]


def test_accuracy_over_something_else_is_an_error() -> None:
    with pytest.raises(PsgdsimError, match="got 'tme'; did you mean 'time'"):
        report.plot_accuracy({}, x="tme")  # type: ignore[arg-type]


def test_timeline_picture_has_a_row_per_rank_and_a_colour_per_activity(tiny: dict[str, Any], tmp_path: Path) -> None:
    result = _run(tiny, tmp_path / "run", max_steps=1)
    axes = report.plot_timeline(result, until=0.05, title="one step")
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["rank 0", "rank 1", "rank 2"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["compute", "send", "receive"]
    assert axes.get_xlim() == (0, 50)
    ends = [path.vertices[:, 0].max() for bars in axes.collections for path in bars.get_paths()]
    assert max(ends) == pytest.approx(result.summary["time_s"] * 1e3)


# --- the trace ------------------------------------------------------------------------------------------------


def _report(rank: int, events: list[Event], dropped: int = 0) -> RankReport:
    return RankReport(rank, [], events, dropped, {}, 0, 0, 0, "", 0)


def test_trace_has_one_process_per_rank_and_times_in_microseconds() -> None:
    send = Event("send", "gradient 1", 0.5, 0.75, 1, peer=1, nbytes=80)
    trace = chrome_trace([_report(0, [Event("compute", "gradients", 0.0, 0.5, 1), send]), _report(1, [], dropped=7)])
    rows = trace["traceEvents"]
    names = {row["pid"]: row["args"]["name"] for row in rows if row["name"] == "process_name"}
    assert names == {0: "rank 0", 1: "rank 1"}
    compute, sent = (row for row in rows if row["ph"] == "X")
    assert (compute["ts"], compute["dur"], compute["args"]) == (0.0, 5e5, {"step": 1})
    assert (sent["ts"], sent["dur"], sent["cat"], sent["name"]) == (5e5, 2.5e5, "send", "gradient 1")
    assert sent["args"] == {"step": 1, "nbytes": 80, "peer": 1}
    assert trace["otherData"] == {"dropped_events": 7}
    assert json.loads(json.dumps(trace)) == trace


def test_messages_that_overlap_get_a_row_each() -> None:
    events = [
        Event("receive", "a", 0.0, 2.0, 1),
        Event("receive", "b", 1.0, 3.0, 1),
        Event("receive", "c", 2.0, 4.0, 1),
    ]
    rows = chrome_trace([_report(0, events)])["traceEvents"]
    track = {row["name"]: row["tid"] for row in rows if row["ph"] == "X"}
    assert track["a"] == track["c"] != track["b"]
    names = [row["args"]["name"] for row in rows if row["name"] == "thread_name"]
    assert names == ["receive", "receive"]


def test_compute_send_and_receive_are_rows_of_their_own() -> None:
    events = [Event(kind, kind, 0.0, 1.0, 1) for kind in ("compute", "send", "receive")]
    rows = chrome_trace([_report(0, events)])["traceEvents"]
    named = {row["tid"]: row["args"]["name"] for row in rows if row["name"] == "thread_name"}
    assert sorted(named.values()) == ["compute", "receive", "send"]
    assert all(named[row["tid"]] == row["cat"] for row in rows if row["ph"] == "X")


def test_more_messages_at_once_than_rows_share_the_last_one() -> None:
    rows = chrome_trace([_report(0, [Event("send", "x", 0.0, 1.0, 1)] * 150)])["traceEvents"]
    tracks = {row["tid"] for row in rows if row["ph"] == "X"}
    assert tracks == set(range(100, 200))


def test_trace_of_a_run_has_every_byte_that_was_sent(tiny: dict[str, Any], tmp_path: Path) -> None:
    result = _run(tiny, tmp_path / "run")
    rows = json.loads((result.folder / "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    sent = [0, 0, 0]
    for row in rows:
        if row.get("cat") == "send":
            sent[row["pid"]] += row["args"]["nbytes"]
    assert sent == result.summary["bytes"]["sent"]
