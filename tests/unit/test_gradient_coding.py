"""strategies.gradient_coding: parameters, bytes, and workers that are late or lost, in simulation."""

from __future__ import annotations

import numpy as np
import pytest
from fault_cases import BASE

import psgdsim
from psgdsim import wire
from psgdsim.errors import PeerLost, ScenarioError
from psgdsim.scenario import from_dict
from psgdsim.sim import execution
from psgdsim.strategies import gradient_codes, gradient_coding
from psgdsim.strategies.gradient_codes import CyclicRepetition

FREE = {"kind": "star", "bandwidth": None, "latency": "0 s"}


def coded(stragglers=1, **more):
    return {"kind": "gradient_coding", "stragglers": stragglers, **more}


@pytest.fixture
def run(tmp_path):
    def start(stragglers=1, **changes):
        scenario = {**BASE, "topology": FREE, "execution": "exact", "strategy": coded(stragglers), **changes}
        return psgdsim.run(scenario, out=tmp_path / f"run{len(list(tmp_path.iterdir()))}")

    return start


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"stragglers": -1}, "strategy.stragglers: expected at least 0; got -1"),
        ({"stragglers": 4}, r"strategy.stragglers: expected less than world_size \(4\); got 4"),
        (
            {"stragglers": 1, "code": "cyclic"},
            "strategy.code: expected one of fractional_repetition, cyclic_repetition",
        ),
        (
            {"stragglers": 2, "code": "fractional_repetition"},
            r"strategy.stragglers: expected s \+ 1 to divide world_size \(4\) .*, so s one of 0, 1, 3; got 2",
        ),
        (
            {"stragglers": 1, "code": "stochastic", "copies": 5},
            r"strategy.copies: expected at most world_size \(4\); got 5",
        ),
        ({"stragglers": 1, "code": "bernoulli", "copies": 0}, "strategy.copies: expected at least 1; got 0"),
        (
            {"stragglers": 1, "copies": 2},
            "strategy.copies: only codes 'stochastic' and 'bernoulli' have copies; got code 'cyclic_repetition'",
        ),
    ],
)
def test_what_cannot_be_is_refused(parameters, message):
    with pytest.raises(ScenarioError, match=message):
        from_dict({**BASE, "strategy": {"kind": "gradient_coding", **parameters}})


def test_codes_that_multiply_rounding_errors_are_refused(monkeypatch):
    monkeypatch.setattr(gradient_codes, "BAD", 10.0)
    with pytest.raises(ValueError, match=r"stragglers: 3 of 12 are too many .* expected at most 1e\+01; use fewer"):
        CyclicRepetition(12, 3)


def test_the_best_of_several_codes_is_taken():
    first = CyclicRepetition(12, 3)
    largest = [
        max(first._amplification(first._draw(draw), survivors) for survivors in first._trials)
        for draw in range(gradient_codes.MAX_DRAWS)
    ]
    taken = max(first._amplification(first.matrix, survivors) for survivors in first._trials)
    assert taken == min(largest) < 1e-2 * max(largest)
    assert gradient_codes.GOOD < taken < gradient_codes.BAD


def test_a_code_depends_on_its_seed_alone():
    rows = [CyclicRepetition(6, 2, seed).row(4) for seed in (1, 1, 2)]
    assert rows[0] == rows[1] != rows[2]
    assert list(rows[0]) == [0, 4, 5]


@pytest.mark.parametrize("stragglers", [0, 1])
def test_workers_run_freely_and_stragglers_may_be_lost(stragglers):
    strategy = gradient_coding(stragglers)
    assert (strategy.num_servers, strategy.is_lock_step) == (1, False)
    assert strategy.survives_loss == (stragglers > 0)


# --- bytes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stragglers", "num_slow"), [(0, 0), (1, 0), (1, 1), (2, 1), (2, 2)])
def test_bytes_are_those_of_the_formula(stragglers, num_slow, run):
    compute = {"kind": "fixed_slow_set", "time": "100 ms", "delay": "100 s", "ranks": list(range(num_slow))}
    result = run(stragglers, compute=compute)
    size, steps = 4 * 4, 6
    # Down, parameters after each step but the last; up, sums of those that are not slow.
    assert result.summary["bytes"]["payload_total"] == (4 * (steps - 1) + (4 - num_slow) * steps) * size
    farewell = wire.nbytes(())  # all that those who are slow have to send
    assert [sent > farewell for sent in result.summary["bytes"]["sent"]] == [rank >= num_slow for rank in range(5)]
    assert result.summary["bytes"]["sent"][:num_slow] == [farewell] * num_slow
    headers = np.array(result.summary["bytes"]["sent"][num_slow:4]) / steps - size
    assert len(set(headers)) == 1
    assert 0 < headers[0] < 128


@pytest.mark.parametrize("stragglers", [0, 1])
def test_a_codec_with_memory_has_its_ends_on_worker_and_server(stragglers, run):
    codec = {"kind": "error_feedback", "codec": {"kind": "top_k", "ratio": 0.25}}
    plain, sparse = (run(stragglers, max_steps=60, **more) for more in ({}, {"codec": codec}))
    assert sparse.summary["bytes"]["payload_total"] < plain.summary["bytes"]["payload_total"]
    assert sparse.summary["final"]["train_loss"] < 0.2 * plain.steps["loss"][0]


@pytest.mark.parametrize("code", ["cyclic_repetition", "fractional_repetition", "stochastic", "bernoulli"])
def test_batched_execution_agrees_with_exact_execution(code, run, monkeypatch):
    monkeypatch.setattr(execution, "NUM_ALONE", 0)
    changes = {"compute": {"kind": "exponential", "mean": "100 ms"}, "strategy": coded(2, code=code), "world_size": 6}
    exact, batched = (run(2, **changes, execution=kind) for kind in ("exact", "batched"))
    assert batched.summary["time_s"] == exact.summary["time_s"]
    np.testing.assert_allclose(batched.params["weight"], exact.params["weight"], rtol=1e-5)


# --- workers that are late ------------------------------------------------------------------------------------


def test_a_late_worker_begins_anew_with_each_step(run):
    compute = {"kind": "fixed_slow_set", "time": "100 ms", "delay": "10 s", "ranks": [2]}
    result = run(1, compute=compute)
    np.testing.assert_allclose(result.steps["time"][result.steps["rank"] == 4], 0.2 * np.arange(1, 7), rtol=1e-12)
    np.testing.assert_allclose(result.steps["time"][result.steps["rank"] == 2], 0.2 * np.arange(1, 7), rtol=1e-12)
    assert result.summary["time_s"] == pytest.approx(1.2)


def test_a_sum_on_its_way_is_not_called_back(run):
    # The uplink of rank 0 is slow: its sums come when the step is over, and it begins late.
    topology = {
        "kind": "custom",
        "hosts": [f"h{i}" for i in range(5)],
        "switches": ["s"],
        "links": [
            {"src": f"h{i}", "dst": "s", "bandwidth": "1 kbit/s" if i == 0 else None, "latency": "0 s"}
            for i in range(5)
        ],
    }
    result = run(1, topology=topology, compute={"kind": "constant", "time": "100 ms"})
    workers = result.steps["rank"] < 4
    used = [result.steps["is_used"][workers & (result.steps["rank"] == rank)].sum() for rank in range(4)]
    assert used[0] == 0
    assert used[1:] == [6, 6, 6]
    assert result.summary["bytes"]["sent"][0] > 0


# --- workers that are lost ------------------------------------------------------------------------------------


def test_as_many_workers_as_may_straggle_may_be_lost(run):
    faults = [{"kind": "crash", "rank": rank, "at": at} for rank, at in ((3, "250 ms"), (0, "750 ms"))]
    lost, whole = run(2, faults=faults), run(2)
    np.testing.assert_allclose(lost.params["weight"], whole.params["weight"], rtol=1e-5)
    assert lost.summary["status"] == "completed"


def test_one_lost_worker_more_ends_the_run(run):
    faults = [{"kind": "crash", "rank": rank, "at": "250 ms"} for rank in (0, 3)]
    with pytest.raises(PeerLost, match=r"rank 4: lost rank [03]: it crashed at 0\.25 s"):
        run(1, faults=faults)


@pytest.mark.parametrize("code", ["cyclic_repetition", "fractional_repetition"])
def test_a_worker_that_has_come_back_takes_part_again(code, run):
    faults = [
        {"kind": "crash", "rank": 1, "at": "250 ms", "restart_after": "300 ms"},
        {"kind": "crash", "rank": 2, "at": "1100 ms"},
    ]
    result = run(1, faults=faults, strategy=coded(1, code=code), max_steps=10)
    whole = run(1, strategy=coded(1, code=code), max_steps=10)
    np.testing.assert_allclose(result.params["weight"], whole.params["weight"], rtol=1e-5)
    assert result.summary["status"] == "completed"
    assert np.nanmax(result.steps["incarnation"]) == 2
