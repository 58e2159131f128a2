"""Coded shuffles: loads as exact rationals, sums as from one process, and packets that are lost or wrong."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import jax
import numpy as np
import pytest

import psgdsim
from psgdsim.errors import Deadlock, ScenarioError, StrategyError
from psgdsim.scenario import from_dict
from psgdsim.scenario.experiment import build
from psgdsim.sim.driver import Simulation, run_sim
from psgdsim.sim.values import Computed
from psgdsim.strategies.coded_placement import ccdc, cdc, expected_load, uncoded_sends

SETTINGS = [(k, r) for k in range(2, 7) for r in range(1, k)]


def scenario(world_size, strategy, **changes):
    return {
        "name": "coded",
        "seed": 3,
        "world_size": world_size,
        "model": {"kind": "softmax_regression"},
        "data": {"kind": "synthetic_classification", "num_samples": 400, "num_features": 5, "num_classes": 3},
        "global_batch_size": 60,
        "optimizer": {"kind": "sgd", "learning_rate": 0.5},
        "strategy": {"kind": "coded_shuffle", **strategy},
        "topology": {"kind": "star", "bandwidth": "100 Mbit/s", "latency": "200 us", "multicast": "native"},
        "max_steps": 2,
        **changes,
    }


def simulate(*arguments, **changes):
    return run_sim(build(from_dict(scenario(*arguments, **changes))))


@pytest.mark.parametrize(("k", "r"), SETTINGS)
def test_every_missing_value_is_wanted_by_one_and_known_to_all_others_of_its_group(k, r):
    for placement in (ccdc(k, r), cdc(k, r)):
        for group in placement.groups:
            for needs in group.rounds:
                for member, (block, _) in zip(group.members, needs, strict=True):
                    assert member not in placement.blocks[block].holders
                    assert set(group.others(member)) <= set(placement.blocks[block].holders)


@pytest.mark.parametrize(("k", "r"), SETTINGS)
def test_ccdc_delivers_every_missing_value_exactly_once(k, r):
    placement = ccdc(k, r)
    missing = sorted(
        (block, rank) for block, b in enumerate(placement.blocks) for rank in range(k) if rank not in b.holders
    )
    delivered = sorted(
        (block, function)
        for group in placement.groups
        for needs in group.rounds
        for member, (block, function) in zip(group.members, needs, strict=True)
        if function == member
    )
    assert delivered == missing
    assert placement.num_jobs == math.comb(k, r + 1)


@pytest.mark.parametrize(("k", "r"), SETTINGS)
def test_uncoded_sends_make_every_job_whole_at_every_rank(k, r):
    placement = ccdc(k, r)
    for rank in range(k):
        held = set(placement.held_by(rank))
        arrived = [
            block
            for src in range(k)
            if src != rank
            for item in uncoded_sends(placement, src, rank)
            for block in item.blocks
        ]
        assert sorted([*held, *arrived]) == list(range(len(placement.blocks)))


# (K, r) -> L from the reference table of the ISIT paper's formula, worked out by hand.
LOADS = {(4, 2): "3/4", (4, 3): "1/3", (5, 2): "9/10", (6, 2): "1", (6, 3): "2/3", (6, 5): "1/5"}


@pytest.mark.parametrize(("k", "r"), LOADS)
def test_measured_load_of_ccdc_is_the_exact_rational(k, r):
    experiment = build(from_dict(scenario(k, {"code": "ccdc", "redundancy": r}, max_steps=1)))
    outcome = run_sim(experiment)
    assert outcome.error is None
    coded = experiment.strategy.summarize(k, [row for report in outcome.reports for row in report.rows])["coded"]
    assert coded["load_shuffle"] == coded["load_expected"] == LOADS[k, r]
    assert coded["jobs"] == math.comb(k, r + 1)


@pytest.mark.parametrize(("k", "r", "ratio"), [(4, 2, Fraction(3, 5)), (6, 3, Fraction(1, 2))])
def test_gain_over_combining_without_coding(k, r, ratio):
    assert expected_load("ccdc", k, r) / expected_load("combine", k, r) == ratio
    experiment = build(from_dict(scenario(k, {"code": "combine", "redundancy": r}, max_steps=1)))
    outcome = run_sim(experiment)
    coded = experiment.strategy.summarize(k, [row for report in outcome.reports for row in report.rows])["coded"]
    assert coded["load_shuffle"] == str(Fraction(2 * k - r - 1, k))


# The `ccdc` codec of EngineerDDP/Parallel-SGD: useful packets of D/r values per step (it sent 80 at K=5, r=3; 20 do).
@pytest.mark.parametrize(("k", "r", "packets"), [(5, 2, 30), (5, 3, 20), (4, 2, 12), (5, 4, 5)])
def test_cdc_all_gather_sends_the_useful_packets_of_that_platform(k, r, packets):
    experiment = build(from_dict(scenario(k, {"code": "cdc_all_gather", "redundancy": r}, max_steps=1)))
    outcome = run_sim(experiment)
    rows = [row for report in outcome.reports for row in report.rows]
    coded = experiment.strategy.summarize(k, rows)["coded"]
    assert coded["packets_per_step"] == str(packets)
    dense = rows[0]["value_nbytes"]
    assert Fraction(sum(row["shuffle_nbytes"] for row in rows), dense) == Fraction(packets, r)
    assert coded["load_shuffle"] == coded["load_expected"]


@pytest.mark.parametrize("code", ["ccdc", "combine", "cdc_all_gather"])
@pytest.mark.parametrize(("k", "r"), [(1, 1), (2, 1), (3, 1), (3, 2), (4, 2), (4, 3), (5, 2), (4, 4)])
def test_every_code_trains_as_synchronous_sgd_does(code, k, r):
    # With all training rows in every step, each code's step is one of full-batch gradient descent.
    rows = build(from_dict(scenario(1, {"redundancy": 1}))).task.dataset.train_inputs.shape[0]
    whole = simulate(1, {"redundancy": 1}, global_batch_size=rows, max_steps=3)
    jobs = ccdc(k, r).num_jobs if code != "cdc_all_gather" else 1
    coded = simulate(k, {"code": code, "redundancy": r, "seeds": [0] * jobs}, global_batch_size=rows, max_steps=3)
    assert coded.error is None
    assert len({report.digest for report in coded.reports}) == 1
    assert all(report.unread == 0 for report in coded.reports)
    for model in coded.models:
        for a, b in zip(jax.tree.leaves(model), jax.tree.leaves(whole.models[0]), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


def test_full_redundancy_exchanges_nothing():
    outcome = simulate(4, {"code": "ccdc", "redundancy": 4})
    assert [report.sent_nbytes for report in outcome.reports] == [0] * 4


def test_one_model_at_full_redundancy_but_one_sends_d_over_k_minus_one_and_then_d():
    k = 5
    outcome = simulate(k, {"code": "ccdc", "redundancy": k - 1}, max_steps=1)
    row = outcome.reports[0].rows[0]
    padded = row["value_nbytes"] * k
    checksums = k * 4 * (k - 1)
    assert sum(report.payload_nbytes for report in outcome.reports) == padded // (k - 1) + padded + checksums


def tamper(monkeypatch, tag, change):
    """Let `change` rewrite (or, by returning None, swallow) the first delivered message with a tag that begins so."""
    original = Simulation.deliver
    left = [1]

    def deliver(self, dst, message):
        if message.tag.startswith(tag) and left[0]:
            left[0] -= 1
            message = change(message)
            if message is None:
                return
        original(self, dst, message)

    monkeypatch.setattr(Simulation, "deliver", deliver)


def flip_a_bit(message):
    packet = np.array(message.payload["packet"].array)
    packet.reshape(-1)[0] ^= np.uint32(1 << 20)
    message.payload["packet"] = Computed(jax.numpy.asarray(packet))
    return message


@pytest.mark.parametrize("code", ["ccdc", "cdc_all_gather"])
def test_a_corrupted_packet_is_named_and_never_summed(monkeypatch, code):
    tamper(monkeypatch, "packet 1 ", flip_a_bit)
    outcome = simulate(4, {"code": code, "redundancy": 2})
    assert isinstance(outcome.error, StrategyError)
    assert "the packet from rank" in str(outcome.error)
    assert "is corrupted" in str(outcome.error)


def test_a_lost_packet_stops_the_run_and_is_named(monkeypatch):
    tamper(monkeypatch, "packet 2 ", lambda message: None)
    outcome = simulate(4, {"code": "ccdc", "redundancy": 2})
    assert isinstance(outcome.error, Deadlock)
    assert "recv(tag='packet 2 " in str(outcome.error)


def test_replicas_that_differ_are_named(monkeypatch):
    experiment = build(from_dict(scenario(4, {"code": "ccdc", "redundancy": 3})))
    function = experiment.task.gradients.function
    calls = itertools.count()

    def gradients(models, blocks):
        losses, values = function(models, blocks)
        if next(calls) == 2:  # rank 2 rounds one number differently
            values[0] = jax.tree.map(lambda leaf: leaf.at[(0,) * leaf.ndim].multiply(1 + 1e-6), values[0])
        return losses, values

    object.__setattr__(experiment.task.gradients, "function", gradients)
    outcome = run_sim(experiment)
    assert isinstance(outcome.error, StrategyError)
    assert "hold replicas that differ" in str(outcome.error)
    assert "rank 2" in str(outcome.error) or "ranks 2 " in str(outcome.error) or " and 2 " in str(outcome.error)


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        ({"redundancy": 5}, "expected 1 to world_size"),
        ({"redundancy": 2, "learning_rates": [0.1]}, "expected one per model, 4"),
        ({"redundancy": 2, "seeds": [1, 2]}, "expected one per model, 4"),
    ],
)
def test_what_cannot_run_is_a_scenario_error(strategy, words):
    with pytest.raises(ScenarioError, match=words):
        from_dict(scenario(4, strategy))


def test_jobs_train_with_their_own_learning_rates(tmp_path):
    rates = [0.01, 0.1, 0.5, 1.0]
    result = psgdsim.run(scenario(4, {"redundancy": 2, "learning_rates": rates}, max_steps=8), out=tmp_path / "run")
    losses = [model["train_loss"] for model in result.summary["models"]]
    assert losses == sorted(losses, reverse=True)
    assert len(set(losses)) == 4
