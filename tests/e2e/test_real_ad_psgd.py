"""Asynchronous gossip in both modes: what holds whatever the order of messages."""

from __future__ import annotations

import numpy as np
import pytest
from fault_cases import BASE
from patience import PATIENT

import psgdsim

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

# Noise sets the ranks apart in the first step; after it, the learning rate is so small that they only average.
APART = {
    **BASE,
    "plugins": ["watched_gossip"],
    "strategy": {"kind": "watched_ad_psgd"},
    "model": {"kind": "quadratic", "dim": 1, "noise": 50.0},
    "optimizer": {
        "kind": "sgd",
        "learning_rate": 0.1,
        "schedule": {"kind": "step_decay", "every_steps": 1, "factor": 1e-12},
    },
    "topology": {"kind": "star", "bandwidth": None, "latency": "0 s"},
    "batch_size": 1,
    "max_steps": 20,
    "evaluate": {"every": None},
    **PATIENT,
}


def last_of(result, column):
    rows = [np.flatnonzero(result.steps["rank"] == rank)[-1] for rank in range(4)]
    return result.steps[column][rows]


@pytest.mark.parametrize("mode", ["sim", "real"])
def test_averaging_keeps_the_sum_and_brings_the_ranks_together(mode, tmp_path):
    ring = {"kind": "all_reduce", "algorithm": "ring"}
    sync = psgdsim.run({**APART, "strategy": ring, "max_steps": 1}, out=tmp_path / "sync").params["weight"][0]
    apart = psgdsim.run({**APART, "max_steps": 1}, mode=mode, out=tmp_path / "apart")
    result = psgdsim.run(APART, mode=mode, out=tmp_path / "run")
    finals, starts = last_of(result, "final"), last_of(apart, "final")
    assert np.ptp(starts) > 1
    assert starts.mean() == pytest.approx(sync, rel=1e-5)
    assert finals.mean() == pytest.approx(sync, rel=1e-5)
    # 38 averages or more, each of which shrinks the variance by at least 0.3 in the mean: 1e-6 of it would be left.
    assert finals.std() < 0.01 * starts.std()
    assert result.summary["bytes"]["payload_total"] == 2 * 20 * 2 * 4


def test_ranks_choose_the_same_partners_in_both_modes(tmp_path):
    compute = {"kind": "fixed_slow_set", "time": "10 ms", "delay": "50 ms", "ranks": [1]}
    scenario = {**APART, "strategy": {"kind": "ad_psgd", "graph": "complete"}, "compute": compute}
    sim, real = (psgdsim.run(scenario, mode=mode, out=tmp_path / mode) for mode in ("sim", "real"))
    for result in (sim, real):
        assert "unread" not in (result.folder / "log.txt").read_text(encoding="utf-8")
        assert result.summary["staleness"]["mean"] <= 1
    for rank in (0, 2):
        partners = [each.steps["partner"][each.steps["rank"] == rank] for each in (sim, real)]
        np.testing.assert_array_equal(*partners)
        assert set(partners[0]) == {1, 3}
    # In the first and last steps, and of what came after a passive rank's last one, some may differ; the bytes may not.
    assert real.summary["bytes"]["sent"] == sim.summary["bytes"]["sent"]
