"""strategies.gossip: parameters, bytes, and what overlaps with what, in simulation."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from fault_cases import BASE

import psgdsim
from psgdsim.errors import ScenarioError
from psgdsim.scenario import from_dict
from psgdsim.scenario.experiment import build
from psgdsim.sim import execution
from psgdsim.sim.driver import run_sim

FREE = {"kind": "star", "bandwidth": None, "latency": "0 s"}
# Parameters of 4,000 byte take 4 ms and a latency of 1 ms; a step computes for 100 ms.
SLOW = {
    "model": {"kind": "quadratic", "dim": 1000},
    "topology": {"kind": "star", "bandwidth": "8 Mbit/s", "latency": "1 ms"},
}


@pytest.fixture
def run(tmp_path):
    def start(strategy, **changes):
        scenario = {**BASE, "topology": FREE, "execution": "exact", "strategy": strategy, **changes}
        return psgdsim.run(scenario, out=tmp_path / f"run{len(list(tmp_path.iterdir()))}")

    return start


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ({"kind": "d_psgd", "graph": "rnig"}, "strategy.graph: expected one of ring, torus, .*; got 'rnig'"),
        ({"kind": "d_psgd", "mix": "before"}, "strategy.mix: expected one of with_step, after_step; got 'before'"),
        ({"kind": "d_psgd", "graph": "torus"}, "strategy.graph: graph 'torus' needs dims; got none"),
        (
            {"kind": "d_psgd", "graph": "torus", "dims": [3, 2]},
            "strategy.dims: expected a product of world_size, 4; got 6",
        ),
        ({"kind": "d_psgd", "degree": 3}, "strategy.degree: only graph 'random_regular' has degree; got graph 'ring'"),
        (
            {"kind": "d_psgd", "graph": "custom", "edges": [[0, 1], [2, 3]]},
            "strategy.edges: expected a connected graph",
        ),
        (
            {"kind": "d_psgd", "graph": "custom", "edges": [[0, -1]]},
            r"strategy\.edges\.0\.1: expected at least 0; got -1",
        ),
        (
            {"kind": "d_psgd", "graph": "custom", "edges": [[0, 1], [1, 2], [2, 3]], "weights": [0.7, 0.7, 0.1]},
            "strategy.weights: expected at most 1 for all edges of a rank; those of rank 1 have more",
        ),
        ({"kind": "sgp", "tau": -1}, "strategy.tau: expected .* 0.* got -1"),
        (
            {"kind": "sgp", "graph": "custom", "edges": [[0, 1]]},
            "strategy.edges: expected a way from each rank to each",
        ),
        ({"kind": "sgp", "edges": [[0, 1]]}, "strategy.edges: only graph 'custom' has edges"),
    ],
)
def test_what_cannot_be_is_refused(strategy, message):
    with pytest.raises(ScenarioError, match=message):
        from_dict({**BASE, "strategy": strategy})


# --- bytes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "messages", "tensors"),
    [
        ({"kind": "d_psgd"}, [2, 2, 2, 2], 16),
        ({"kind": "d_psgd", "mix": "after_step", "graph": "complete"}, [3, 3, 3, 3], 16),
        ({"kind": "d_psgd", "graph": "custom", "edges": [[0, 1], [0, 2], [0, 3]]}, [3, 1, 1, 1], 16),
        ({"kind": "sgp"}, [1, 1, 1, 1], 16 + 4),
        ({"kind": "sgp", "tau": 3}, [1, 1, 1, 1], 16 + 4),
        ({"kind": "sgp", "graph": "exponential"}, [2, 2, 2, 2], 16 + 4),
    ],
)
def test_bytes_are_those_of_the_formula_and_the_headers(strategy, messages, tensors, run):
    steps = 6
    report = run(strategy).summary["bytes"]
    assert report["payload_total"] == steps * sum(messages) * tensors
    headers = [
        (sent - steps * num * tensors) / (steps * num) for sent, num in zip(report["sent"], messages, strict=True)
    ]
    assert len(set(headers)) == 1
    assert 0 < headers[0] < 128


def test_a_network_that_copies_messages_takes_parameters_once(run):
    topology = {"kind": "star", "bandwidth": None, "latency": "0 s", "multicast": "native"}
    assert run({"kind": "d_psgd"}, topology=topology).summary["bytes"]["payload_total"] == 6 * 4 * 16


def test_a_codec_codes_parameters_and_not_the_weight(run):
    strategies = [{"kind": "d_psgd"}, {"kind": "sgp"}]
    plain, coded = (
        [run(strategy, **more) for strategy in strategies]
        for more in ({}, {"codec": {"kind": "cast", "dtype": "bfloat16"}})
    )
    assert [each.summary["bytes"]["payload_total"] for each in coded] == [6 * 4 * 2 * 8, 6 * 4 * (8 + 4)]
    for one, other in zip(plain, coded, strict=True):
        difference = np.abs(one.params["weight"] - other.params["weight"]).max()
        assert 0 < difference < 0.01


# --- time -----------------------------------------------------------------------------------------------------


def ends_of(result, rank=0):
    return result.steps["time"][result.steps["rank"] == rank]


def seconds(result):
    """Return how long the messages that a rank sends in a step take together."""
    return result.summary["bytes"]["sent"][0] / result.summary["steps"] * 8 / 8e6 + 1e-3


def test_parameters_are_exchanged_while_gradients_are_computed(run):
    result = run({"kind": "d_psgd"}, **SLOW)
    np.testing.assert_allclose(ends_of(result), 0.1 * np.arange(1, 7), rtol=1e-12)


def test_parameters_that_are_mixed_after_the_step_are_waited_for(run):
    result = run({"kind": "d_psgd", "mix": "after_step"}, **SLOW)
    np.testing.assert_allclose(ends_of(result), (0.1 + seconds(result)) * np.arange(1, 7), rtol=1e-9)


def test_a_rank_waits_for_its_neighbours_alone(run):
    compute = {"kind": "fixed_slow_set", "time": "100 ms", "delay": "900 ms", "ranks": [0]}
    result = run({"kind": "d_psgd"}, world_size=6, compute=compute, max_steps=4)
    # On a ring of 6, the slow rank's parameters take a step for each rank on the way.
    assert [round(ends_of(result, rank)[2], 6) for rank in range(6)] == [3.0, 2.0, 1.0, 0.3, 1.0, 2.0]


@pytest.mark.parametrize("tau", [0, 1])
def test_late_shares_cost_no_time(tau, run):
    result = run({"kind": "sgp", "tau": tau}, **SLOW)
    step = 0.1 if tau else 0.1 + seconds(result)
    np.testing.assert_allclose(ends_of(result), step * np.arange(1, 7), rtol=1e-9)


def test_tau_hides_a_network_that_is_not_slower_than_so_many_steps(run):
    slow = {**SLOW, "topology": {"kind": "star", "bandwidth": None, "latency": "250 ms"}}
    times = [ends_of(run({"kind": "sgp", "tau": tau}, **slow, max_steps=12))[-1] for tau in (0, 1, 2, 3)]
    np.testing.assert_allclose(times[0], 12 * 0.35)
    np.testing.assert_allclose(times[3], 12 * 0.1)
    assert times[0] > times[1] > times[2] > times[3]


def test_nothing_is_left_under_way(run):
    result = run({"kind": "sgp", "tau": 3})
    sent = result.summary["bytes"]["sent"]
    assert len(set(sent)) == 1
    assert "unread" not in (result.folder / "log.txt").read_text(encoding="utf-8")


# --- values ---------------------------------------------------------------------------------------------------


def test_the_push_weight_is_recorded(run):
    result = run({"kind": "sgp", "tau": 1}, max_steps=3)
    np.testing.assert_allclose(result.steps["push_weight"][result.steps["rank"] == 0], [0.5, 0.75, 0.625])


@pytest.mark.parametrize("strategy", [{"kind": "d_psgd", "graph": "complete"}, {"kind": "sgp"}])
def test_batched_execution_agrees_with_exact_execution(strategy, monkeypatch):
    monkeypatch.setattr(execution, "NUM_ALONE", 0)
    exact, batched = (
        run_sim(build(from_dict({**BASE, "world_size": 6, "strategy": strategy, "execution": kind})))
        for kind in ("exact", "batched")
    )
    assert exact.error is None
    assert batched.time == exact.time
    for leaf, twin in zip(jax.tree.leaves(exact.models), jax.tree.leaves(batched.models), strict=True):
        np.testing.assert_allclose(twin, leaf, atol=1e-6)
