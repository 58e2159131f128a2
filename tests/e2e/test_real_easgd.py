"""Real runs of elastic averaging: what holds whatever the order of messages."""

from __future__ import annotations

import numpy as np
import pytest
from fault_cases import BASE
from patience import PATIENT

import psgdsim

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

# After five steps from 1 to 0.9^5 no worker moves by itself any more.
SCHEDULE = {"kind": "step_decay", "every_steps": 5, "factor": 1e-30}
X = 0.9**5


def run(tmp_path, sync):
    scenario = {
        **BASE,
        "model": {"kind": "quadratic", "dim": 4},
        "optimizer": {"kind": "sgd", "learning_rate": 0.1, "schedule": SCHEDULE},
        "topology": {"kind": "star", "bandwidth": None, "latency": "0 s"},
        "strategy": {"kind": "easgd", "period": 5, "sync": sync},
        "max_steps": 200,
        **PATIENT,
    }
    result = psgdsim.run(scenario, mode="real", out=tmp_path / "run")
    assert (result.summary["status"], result.summary["steps"]) == ("completed", 200)
    return result


def column(result, name, rank):
    return result.steps[name][result.steps["rank"] == rank]


def test_springs_of_all_at_once_keep_the_sum(tmp_path):
    result = run(tmp_path, "bsp")
    np.testing.assert_allclose(result.params["weight"], (4 * X + 1) / 5, rtol=1e-4)
    assert list(column(result, "version", 4)) == [1 + step // 5 for step in range(200)]


def test_exchanges_of_whoever_comes_are_counted(tmp_path):
    result = run(tmp_path, "async")
    # How often each worker comes depends on the machine; the centre is somewhere between it and them.
    assert np.all((result.params["weight"] > X) & (result.params["weight"] < 1))
    assert list(column(result, "step", 4)) == list(range(1, 201))
    assert column(result, "version", 4)[-1] == 160
    told = []
    for rank in range(4):
        steps, versions = column(result, "step", rank), column(result, "version", rank)
        assert list(steps) == list(range(1, len(steps) + 1))
        own = versions[~np.isnan(versions)]
        assert np.all(np.diff(own) > 0)
        told += list(own)
    assert len(set(told)) == len(told)
    # Of the last exchanges, at most one of each worker, nobody hears before the end.
    assert set(told) <= set(range(1, 161))
    assert len(told) >= 160 - 4
