"""What real runs keep: workers get the scenario, and what it says of the trace."""

from __future__ import annotations

import json

import pytest
from patience import PATIENT

import psgdsim

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]


@pytest.mark.parametrize(("level", "num_rows"), [("full", 4), ("steps", 4), ("off", 1)])
def test_workers_keep_what_the_scenario_says(tiny, tmp_path, level, num_rows):
    run = psgdsim.run({**tiny, **PATIENT, "world_size": 2, "trace": level}, mode="real", out=tmp_path / "run")
    assert [(run.steps["rank"] == rank).sum() for rank in range(2)] == [4, num_rows]
    assert run.steps["step"].max() == run.summary["steps"] == 4
    events = json.loads((tmp_path / "run" / "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    assert any(event["ph"] == "X" for event in events) == (level == "full")
