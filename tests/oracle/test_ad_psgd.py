"""Asynchronous gossip against what is known of averages of random pairs, and against plain SGD."""

from __future__ import annotations

import sys

import jax
import numpy as np
import pytest
from fault_cases import BASE

from psgdsim.compute_times import ComputeTime, register_compute_time
from psgdsim.scenario import from_dict
from psgdsim.scenario.experiment import build
from psgdsim.sim.driver import run_sim
from psgdsim.strategies.ad_psgd import Active, Passive

FREE = {"kind": "star", "bandwidth": None, "latency": "0 s"}
# Noise sets the ranks apart in the first step; after it, the learning rate is so small that they only average.
APART = {
    "optimizer": {
        "kind": "sgd",
        "learning_rate": 0.1,
        "schedule": {"kind": "step_decay", "every_steps": 1, "factor": 1e-12},
    },
    "batch_size": 1,
    "evaluate": {"every": None},
}


@register_compute_time("first_even_then_odd_of_a_test")
def first_even_then_odd() -> ComputeTime:
    """Let even ranks make their first step before odd ones make theirs; then all step at random, memoryless times."""

    def start(rank, generator):
        return lambda now, _load: 0.1 + 0.05 * (rank % 2) if now == 0 else 0.1 + float(generator.exponential(1.0))

    return ComputeTime(start, 1.1)


@pytest.fixture
def watch(monkeypatch):
    """Return a function that runs a simulation and returns, for each average, the pair and where all ranks were."""

    def run(strategy, num, dim=4, **changes):
        gossipers, averages = {}, []

        def where():
            rows = [jax.tree.leaves(gossipers[rank].state.params) for rank in range(num)]
            return np.stack([np.concatenate([np.ravel(leaf.numbers) for leaf in row]) for row in rows])

        def watched(kind):
            class Watched(kind):
                async def run(self):
                    gossipers[self._node.rank] = self
                    await super().run()

            return Watched

        class WatchedActive(watched(Active)):
            async def _average(self, partner):
                averages.append((self._node.rank, partner, where()))
                await super()._average(partner)

        module = sys.modules[Active.__module__]  # the package's attribute of that name is the function
        monkeypatch.setattr(module, "Active", WatchedActive)
        monkeypatch.setattr(module, "Passive", watched(Passive))
        scenario = {
            **BASE,
            "topology": FREE,
            "execution": "exact",
            "model": {"kind": "quadratic", "dim": dim, "noise": 50.0},
            "compute": {"kind": "first_even_then_odd_of_a_test"},
            **APART,
            **changes,
            "world_size": num,
            "strategy": strategy,
        }
        outcome = run_sim(build(from_dict(scenario)))
        assert outcome.error is None
        assert [report.unread for report in outcome.reports] == [0] * num
        return averages, where()

    return run


def square(places):
    return float(((places - places.mean(axis=0)) ** 2).sum())


@pytest.mark.parametrize(("num", "expected"), [(4, 0.6667), (8, 0.8571), (16, 0.9333)])
def test_an_average_on_the_complete_graph_shrinks_the_square_distance(num, expected, watch):
    # 1 - 1 / (N - 1), where ranks lie at random; in 1,000 dimensions what is lost deviates by sqrt(2 / 1000).
    averages, _ = watch({"kind": "ad_psgd", "graph": "complete"}, num, 1000, max_steps=3)
    first = num // 2  # before, all active ranks have averaged once while nobody had moved
    assert square(averages[first - 1][2]) < 1e-6 * square(averages[first][2])
    lost = 1 - square(averages[first + 1][2]) / square(averages[first][2])
    assert lost == pytest.approx(1 - expected, rel=0.15)


@pytest.mark.parametrize("graph", ["ring", "complete"])
def test_each_average_is_that_of_its_pair_and_keeps_the_sum(graph, watch):
    averages, last = watch({"kind": "ad_psgd", "graph": graph}, 6, max_steps=12)
    places = [where for *_, where in averages] + [last]
    for (rank, partner, before), after in list(zip(averages, places[1:], strict=True))[3:]:
        expected = before.copy()
        expected[[rank, partner]] = (before[rank] + before[partner]) / 2
        np.testing.assert_allclose(after, expected, atol=1e-5)
    np.testing.assert_allclose(places[-1].sum(axis=0), places[3].sum(axis=0), rtol=1e-5, atol=1e-5)
    assert square(places[-1]) < 0.2 * square(places[3])


@pytest.mark.parametrize("graph", ["ring", "complete"])
def test_pairs_are_drawn_so_that_distances_shrink_as_they_should(graph, watch):
    num = 8
    averages, _ = watch({"kind": "ad_psgd", "graph": graph}, num, max_steps=300)
    pairs = [(rank, partner) for rank, partner, _ in averages]
    edges = sorted(set(pairs))
    assert len(edges) == (num if graph == "ring" else num * num // 4)
    # With all edges alike: E V' = V - mean over the edges of |x_i - x_j|^2 / 2; each difference has the mean 0.
    places, surprises = np.random.default_rng(1).standard_normal((num, 1)), []
    largest = 1 - (1 - np.cos(2 * np.pi / num)) / num if graph == "ring" else 1 - 1 / num
    for rank, partner in pairs:
        places -= places.mean(axis=0)
        places /= np.sqrt(square(places))
        expected = 1 - np.mean([square(places[[i, j]]) for i, j in edges])
        assert expected <= largest + 1e-12
        places[[rank, partner]] = places[[rank, partner]].mean(axis=0)
        surprises.append(square(places) - expected)
    assert abs(np.mean(surprises)) < 4 * np.std(surprises) / np.sqrt(len(surprises))


def test_one_rank_is_plain_sgd_bit_for_bit(tiny):
    one, plain = (
        run_sim(build(from_dict({**tiny, "world_size": 1, "execution": "exact", "strategy": strategy}))).models
        for strategy in ({"kind": "ad_psgd"}, {"kind": "all_reduce", "algorithm": "ring"})
    )
    for leaf, other in zip(jax.tree.leaves(one), jax.tree.leaves(plain), strict=True):
        np.testing.assert_array_equal(leaf, other)
