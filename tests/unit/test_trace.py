"""How much is kept of a run: events, rows of steps, or little."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

import psgdsim
from psgdsim import scenario
from psgdsim.errors import ProgramError
from psgdsim.scenario.experiment import build
from psgdsim.sim.driver import run_sim
from psgdsim.trace import RankLog

STRATEGIES = {
    "ring": {"kind": "all_reduce", "algorithm": "ring"},
    "tree": {"kind": "all_reduce", "algorithm": "tree"},
    "coded": {"kind": "coded_shuffle", "code": "ccdc", "redundancy": 2},
    "server": {"kind": "parameter_server", "sync": "async"},
}
CHANGES = [{"kind": "bandwidth_trace", "rows": [["5 ms", "*.up", "80 Mbit/s"]]}]


def outcome(tiny, **changes):
    found = run_sim(build(scenario.from_dict({**tiny, **changes})))
    if found.error is not None:
        raise found.error
    return found


def nearly(tree):
    """Return a tree that equals another if its floats do, but for rounding."""
    if isinstance(tree, dict):
        return {key: nearly(value) for key, value in tree.items()}
    return pytest.approx(tree, rel=1e-9, abs=1e-12) if isinstance(tree, float) else tree


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_the_summary_does_not_depend_on_what_is_kept(tiny, strategy, tmp_path):
    tiny |= {"world_size": 4, "strategy": STRATEGIES[strategy], "execution": "exact"}
    runs = [psgdsim.run({**tiny, "trace": level}, out=tmp_path / level) for level in ("full", "steps", "off")]
    timed = ("wall_s", "compile_s")
    full, steps, off = ({key: value for key, value in run.summary.items() if key not in timed} for run in runs)
    assert full["steps"] == 4
    assert off == steps
    # A ring is computed as a whole where no events are kept, and sums of times are rounded in another order.
    assert full == (nearly(steps) if strategy == "ring" else steps)
    assert [len(run.evals["step"]) for run in runs] == [len(runs[0].evals["step"])] * 3


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_what_each_level_keeps(tiny, strategy):
    tiny |= {"world_size": 4, "strategy": STRATEGIES[strategy], "changes": CHANGES}
    full, steps, off = (outcome(tiny, trace=level) for level in ("full", "steps", "off"))
    assert min(len(report.events) for report in full.reports) > 4
    assert [event.kind for event in full.network_events] == ["change"]
    for other in (steps, off):
        assert [(report.events, report.dropped_events) for report in other.reports] == [([], 0)] * len(full.reports)
        assert other.network_events == []
    assert [report.rows for report in steps.reports] == [report.rows for report in full.reports]
    first = 4 if strategy == "server" else 0
    kept = [report.rows if report.rank == first else report.rows[-1:] for report in full.reports]
    assert [report.rows for report in off.reports] == kept
    counted = [Counter(row["staleness"] for row in report.rows) for report in full.reports]
    assert [report.staleness for report in off.reports] == counted


def test_events_are_kept_up_to_64_ranks_unless_the_scenario_says_otherwise(tiny):
    def level(world_size, **changes):
        return build(scenario.from_dict({**tiny, "batch_size": 1, "world_size": world_size, **changes})).trace

    assert (level(64), level(65), level(65, trace="full"), level(2, trace="off")) == ("full", "steps", "full", "off")
    assert level(64, strategy=STRATEGIES["server"]) == "steps"


def test_all_ranks_together_keep_no_more_events_than_there_is_room_for(tiny, monkeypatch):
    every = [len(report.events) for report in outcome(tiny).reports]
    monkeypatch.setattr("psgdsim.scenario.experiment.MAX_EVENTS", 50)
    found = outcome(tiny)
    assert [len(report.events) for report in found.reports] == [50 // 3] * 3
    assert [report.dropped_events for report in found.reports] == [num - 50 // 3 for num in every]


def test_a_rank_that_begins_anew_keeps_the_last_row_of_each_life():
    log = RankLog(0, lambda: 0.0, keeps_rows=False)
    for step in (1, 2, 3, 1, 2):
        log.record({"staleness": step - 1})
        log.close_step(step)
    assert [row["step"] for row in log.rows] == [3, 2]
    assert log.report(lambda value: value, "", 0).staleness == {0: 2, 1: 2, 2: 1}


@pytest.mark.parametrize("value", [np.float32(1), "1"])
def test_staleness_is_a_plain_number(value):
    with pytest.raises(ProgramError, match=r"rank 0 records staleness=.*; expected a plain number"):
        RankLog(0, lambda: math.pi).record({"staleness": value})
