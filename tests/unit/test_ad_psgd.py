"""strategies.ad_psgd: graphs, bytes, who waits for whom, and ranks that have ended their steps, in simulation."""

from __future__ import annotations

import numpy as np
import pytest
from fault_cases import BASE

import psgdsim
from psgdsim.errors import PeerLost, ScenarioError
from psgdsim.scenario import from_dict
from psgdsim.sim import execution

FREE = {"kind": "star", "bandwidth": None, "latency": "0 s"}


@pytest.fixture
def run(tmp_path):
    def start(strategy=None, **changes):
        scenario = {**BASE, "topology": FREE, "execution": "exact", **changes}
        scenario["strategy"] = {"kind": "ad_psgd", **(strategy or {})}
        return psgdsim.run(scenario, out=tmp_path / f"run{len(list(tmp_path.iterdir()))}")

    return start


def column(result, name, rank):
    return result.steps[name][result.steps["rank"] == rank]


@pytest.mark.parametrize(
    ("strategy", "changes", "message"),
    [
        ({"graph": "torus"}, {}, "strategy.graph: expected one of ring, complete, custom; got 'torus'"),
        ({"graph": "ring"}, {"world_size": 5}, "strategy.graph: graph 'ring' needs an even world_size, .* got 5"),
        ({"graph": "custom"}, {}, "strategy.graph: graph 'custom' needs edges; got none"),
        ({"edges": [[0, 1]]}, {}, "strategy.edges: only graph 'custom' has edges; got graph 'ring'"),
        (
            {"graph": "custom", "edges": [[0, 1], [1, 2], [2, 3], [3, 1]]},
            {},
            r"strategy.edges: expected each to join an active rank and a passive one, .* got one through \[2, 3\]",
        ),
        ({"graph": "custom", "edges": [[0, 1], [2, 3]]}, {}, "strategy.edges: expected a connected graph"),
        (
            {},
            {"codec": {"kind": "top_k", "ratio": 0.5}},
            "codec: ad_psgd sends parameters, .* expected codec 'identity'",
        ),
    ],
)
def test_what_cannot_be_is_refused(strategy, changes, message):
    with pytest.raises(ScenarioError, match=message):
        from_dict({**BASE, **changes, "strategy": {"kind": "ad_psgd", **strategy}})


@pytest.mark.parametrize(
    ("strategy", "num", "asked"),
    [
        ({}, 4, {0: {1, 3}, 2: {1, 3}}),
        ({}, 2, {0: {1}}),
        ({"graph": "complete"}, 5, {0: {1, 3}, 2: {1, 3}, 4: {1, 3}}),
        ({"graph": "custom", "edges": [[1, 0], [1, 2], [3, 2]]}, 4, {0: {1}, 2: {1, 3}}),
    ],
)
def test_active_ranks_ask_their_neighbours(strategy, num, asked, run):
    result = run(strategy, world_size=num, max_steps=12)
    partners = {rank: set(column(result, "partner", rank)) for rank in asked}
    assert partners == asked
    assert all(np.isnan(column(result, "partner", rank)).all() for rank in set(range(num)) - set(asked))
    report = result.summary["bytes"]
    assert report["payload_total"] == len(asked) * 12 * 2 * 16


def test_bytes_are_those_of_the_formula_and_the_headers(run):
    short, long = (run(world_size=2, max_steps=steps).summary["bytes"] for steps in (5, 15))
    assert (short["payload_total"], long["payload_total"]) == (5 * 2 * 16, 15 * 2 * 16)
    asked, lent = ((long["sent"][rank] - short["sent"][rank]) / 10 - 16 for rank in (0, 1))
    assert 0 < lent < 128
    assert lent < asked < 256  # the wish has a header, too
    assert long["sent"][1] == 15 * (lent + 16)
    assert 0 < long["sent"][0] - 15 * (asked + 16) < 128  # that it has made all its steps


def test_an_average_costs_a_message_each_way_and_the_mean_returns_meanwhile(run):
    topology = {"kind": "star", "bandwidth": "8 Mbit/s", "latency": "1 ms"}
    result = run(world_size=2, topology=topology, model={"kind": "quadratic", "dim": 1000})
    # Parameters of 4,000 byte take 4 ms, headers less than 0.1 ms each.
    steps = np.diff(column(result, "time", 0))
    assert steps.min() > 0.1 + 0.004 + 2 * 0.001
    assert steps.max() < 0.1 + 0.004 + 2 * 0.001 + 2e-4


@pytest.mark.parametrize("slow", [0, 1])
def test_nobody_waits_for_a_rank_that_computes(slow, run):
    compute = {"kind": "fixed_slow_set", "time": "100 ms", "delay": "900 ms", "ranks": [slow]}
    result = run({"graph": "complete"}, compute=compute)
    for rank in range(4):
        step = 1.0 if rank == slow else 0.1
        np.testing.assert_allclose(column(result, "time", rank), step * np.arange(1, 7), rtol=1e-9)


def test_whoever_has_made_its_steps_is_still_averaged_with(run):
    compute = {"kind": "fixed_slow_set", "time": "100 ms", "delay": "900 ms", "ranks": [0]}
    result = run(world_size=2, compute=compute, max_steps=8)
    assert column(result, "time", 1)[-1] == pytest.approx(0.8)
    assert list(column(result, "partner", 0)) == [1] * 8
    assert result.summary["time_s"] == pytest.approx(8.0)
    assert "unread" not in (result.folder / "log.txt").read_text(encoding="utf-8")
    assert list(column(result, "staleness", 0)) == [1] * 8
    assert list(column(result, "staleness", 1)) == [0] * 8


def test_staleness_is_how_often_a_model_was_averaged_meanwhile(run):
    compute = {"kind": "fixed_slow_set", "time": "100 ms", "delay": "350 ms", "ranks": [1]}
    result = run(world_size=2, compute=compute, max_steps=8)
    assert list(column(result, "staleness", 1)) == [4, 4, 0, 0, 0, 0, 0, 0]


def test_time_ends_a_run_and_leaves_nothing_under_way(run):
    compute = {"kind": "exponential", "mean": "50 ms"}
    result = run({"graph": "complete"}, world_size=6, compute=compute, max_steps=10**6, max_time="2 s")
    assert result.summary["status"] == "completed"
    assert all(column(result, "time", rank)[-2] < 2 <= column(result, "time", rank)[-1] for rank in range(6))
    assert "unread" not in (result.folder / "log.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("rank", [0, 1])
def test_the_loss_of_a_rank_ends_the_run(rank, run):
    with pytest.raises(PeerLost, match=rf"lost rank {rank}: it crashed at 0\.25 s"):
        run(faults=[{"kind": "crash", "rank": rank, "at": "250 ms"}])


def test_batched_execution_agrees_with_exact_execution(run, monkeypatch):
    monkeypatch.setattr(execution, "NUM_ALONE", 0)
    changes = {"world_size": 6, "compute": {"kind": "exponential", "mean": "50 ms"}, "max_steps": 8}
    exact, batched = (run(**changes, execution=kind) for kind in ("exact", "batched"))
    assert batched.summary["time_s"] == exact.summary["time_s"]
    np.testing.assert_allclose(batched.params["weight"], exact.params["weight"], rtol=1e-5)
