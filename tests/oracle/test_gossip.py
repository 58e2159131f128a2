"""Gossip against synchronous SGD, against plain SGD, and against what is known of consensus."""

from __future__ import annotations

import numpy as np
import pytest
from fault_cases import BASE

import psgdsim
from psgdsim.scenario import from_dict
from psgdsim.scenario.experiment import build
from psgdsim.sim.driver import Simulation
from psgdsim.strategies.graphs import MixingGraph, directed, second_eigenvalue
from psgdsim.testing.training import APART, vector_of

FREE = {"kind": "star", "bandwidth": None, "latency": "0 s"}
SYNC = {"kind": "all_reduce", "algorithm": "broadcast"}
IRREGULAR = {"kind": "sgp", "graph": "custom", "edges": [[0, 1], [1, 2], [2, 3], [3, 4], [4, 0], [0, 2], [0, 3]]}


def train(strategy, world_size=4, scenario=BASE, **changes):
    """Run a simulation; return the parameters of every rank, `(rank, dim)`, and the rows of its steps."""
    more = {"topology": FREE, "evaluate": {"every": None}, "execution": "exact", "world_size": world_size, **changes}
    simulation = Simulation(build(from_dict({**scenario, **more, "strategy": strategy})))
    outcome = simulation.run()
    assert outcome.error is None
    models = [vector_of(node.models[0]) for node in simulation.nodes]
    return np.stack(models), [row for report in outcome.reports for row in report.rows]


# --- the limit cases ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [{"kind": "d_psgd", "mix": "after_step", "graph": "complete"}, IRREGULAR])
def test_one_rank_is_plain_sgd_bit_for_bit(strategy, tiny):
    strategy = {**strategy, "graph": "complete"}
    strategy.pop("edges", None)
    one, plain = (train(each, 1, tiny) for each in (strategy, SYNC))
    np.testing.assert_array_equal(one[0], plain[0])


@pytest.mark.parametrize(
    "strategy", [{"kind": "d_psgd", "mix": "after_step", "graph": "complete"}, {"kind": "sgp", "graph": "complete"}]
)
def test_mixing_with_all_after_the_step_is_synchronous_sgd(strategy, tiny):
    models, _ = train(strategy, 4, tiny, max_steps=10)
    sync, _ = train(SYNC, 4, tiny, max_steps=10)
    np.testing.assert_allclose(models, sync, rtol=1e-5, atol=1e-6)


def test_mixing_with_all_along_with_the_step_is_not(tiny):
    models, _ = train({"kind": "d_psgd", "graph": "complete"}, 4, tiny, max_steps=10)
    assert np.ptp(models, axis=0).max() > 1e-3  # each rank keeps the whole of its own last gradient


@pytest.mark.parametrize("mix", ["with_step", "after_step"])
@pytest.mark.parametrize("graph", [{"graph": "ring"}, {"graph": "custom", "edges": [[0, 1], [1, 2], [1, 3], [3, 4]]}])
def test_the_mean_of_all_ranks_moves_as_in_synchronous_sgd(mix, graph):
    # Gradients of a quadratic are linear, so that the mean of gradients is the gradient at the mean, but for the noise.
    models, _ = train({"kind": "d_psgd", "mix": mix, **graph}, 5)
    sync, _ = train(SYNC, 5)
    assert np.ptp(models, axis=0).max() > 0.01
    np.testing.assert_allclose(models.mean(axis=0), sync[0], atol=1e-6)


def test_pushing_both_ways_along_a_ring_is_mixing_with_both_neighbours(tiny):
    edges = [[i, (i + d) % 5] for i in range(5) for d in (1, 4)]
    pushed, rows = train({"kind": "sgp", "graph": "custom", "edges": edges}, 5, tiny)
    mixed, _ = train({"kind": "d_psgd", "mix": "after_step"}, 5, tiny)
    np.testing.assert_allclose(pushed, mixed, rtol=1e-5, atol=1e-6)
    assert [row["push_weight"] for row in rows] == pytest.approx([1.0] * len(rows), abs=1e-6)


# --- consensus ------------------------------------------------------------------------------------------------


def distance(models):
    return np.linalg.norm(models - models.mean(axis=0))


@pytest.mark.parametrize(
    "graph", [{"graph": "torus", "dims": [3, 4]}, {"graph": "random_regular", "degree": 3}, {"graph": "exponential"}]
)
def test_no_step_shrinks_the_distance_by_less_than_the_second_eigenvalue(graph):
    settings = dict(graph)
    factor = second_eigenvalue(MixingGraph(settings.pop("graph"), **settings).mixing(12))
    distances = [distance(train({"kind": "d_psgd", **graph}, 12, **APART, max_steps=steps)[0]) for steps in (1, 2, 3)]
    assert distances[1] <= factor * distances[0] * (1 + 1e-5)
    assert distances[2] <= factor * distances[1] * (1 + 1e-5)


@pytest.mark.parametrize("num", [8, 16])
def test_one_step_before_two_to_the_k_ranks_have_the_exact_mean_they_are_apart(num):
    assert distance(train({"kind": "sgp"}, num, **APART, max_steps=num.bit_length() - 2)[0]) > 1


def test_six_ranks_do_not():
    models, _ = train({"kind": "sgp"}, 6, **APART, max_steps=3)
    assert distance(models) > 0.1


def test_uneven_graphs_have_the_mean_too_because_of_the_weights():
    sync, _ = train(SYNC, 5, **APART, max_steps=1)
    models, rows = train(IRREGULAR, 5, **APART, max_steps=60)
    np.testing.assert_allclose(models, np.broadcast_to(sync[0], models.shape), atol=1e-5)
    weights = np.array([row["push_weight"] for row in rows]).reshape(5, 60)
    np.testing.assert_allclose(weights.sum(axis=0), 5, rtol=1e-6)
    assert np.ptp(weights[:, -1]) > 0.5  # without them, the ranks would count unequally


@pytest.mark.parametrize("tau", [1, 3])
def test_late_shares_lead_to_the_same_mean(tau):
    sync, _ = train(SYNC, 8, **APART, max_steps=1)
    models, rows = train({"kind": "sgp", "tau": tau}, 8, **APART, max_steps=200)
    np.testing.assert_allclose(models, np.broadcast_to(sync[0], models.shape), atol=2e-4)
    weights = np.array([row["push_weight"] for row in rows]).reshape(8, 200).sum(axis=0)
    np.testing.assert_allclose(weights[:tau], 8 * 0.5 ** np.arange(1, tau + 1), rtol=1e-6)
    assert weights[-1] == pytest.approx(16 / (2 + tau), rel=1e-5)  # what is under way: half as much, tau times


@pytest.mark.parametrize("tau", [0, 1, 2, 5])
@pytest.mark.parametrize("strategy", [{"kind": "sgp"}, {"kind": "sgp", "graph": "exponential"}, IRREGULAR])
def test_weights_with_those_under_way_add_up_to_the_number_of_ranks(strategy, tau):
    num, steps = 5, 12
    _, rows = train({**strategy, "tau": tau}, num, **APART, max_steps=steps)
    weights = np.array([row["push_weight"] for row in rows]).reshape(num, steps).T
    sent = []
    for step, before in enumerate([np.ones(num), *weights[:-1]]):
        cycle = directed(strategy.get("graph", "one_peer_exponential"), num, strategy.get("edges"))
        num_dsts = np.array([len(dsts) for dsts in cycle[step % len(cycle)]])
        sent.append((before * num_dsts / (1 + num_dsts)).sum())
    for step in range(steps):
        under_way = sum(sent[max(0, step - tau + 1) : step + 1])
        assert weights[step].sum() + under_way == pytest.approx(num, rel=1e-6)


def test_gossip_learns_what_synchronous_sgd_learns(tiny, tmp_path):
    scenario = {**tiny, "world_size": 8, "max_steps": 60, "execution": "exact"}
    scenario |= {"optimizer": {"kind": "sgd", "learning_rate": 0.3}, "evaluate": {"every": None}}
    accuracies = [
        psgdsim.run({**scenario, "strategy": {"kind": kind}}, out=tmp_path / kind).summary["final"]["test_accuracy"]
        for kind in ("all_reduce", "d_psgd", "sgp")
    ]
    assert min(accuracies) > 0.7
    assert accuracies[0] - min(accuracies) < 0.1
