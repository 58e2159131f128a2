"""Asynchronous gossip against what is known of averages of random pairs, and against plain SGD."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from psgdsim.scenario import from_dict
from psgdsim.scenario.experiment import build
from psgdsim.sim.driver import run_sim
from psgdsim.testing.pair_averages import Watch, square_distance


@pytest.mark.parametrize("graph", ["ring", "complete"])
def test_each_average_is_that_of_its_pair_and_keeps_the_sum(graph):
    watch = Watch(graph, 6, 4, 12)
    assert watch.num_unread == 0
    places = [average.places for average in watch.averages] + [watch.last]
    assert square_distance(places[2]) < 1e-6 * square_distance(places[3])  # nobody has moved before
    for (rank, partner, before), after in list(zip(watch.averages, places[1:], strict=True))[3:]:
        expected = before.copy()
        expected[[rank, partner]] = (before[rank] + before[partner]) / 2
        np.testing.assert_allclose(after, expected, atol=1e-5)
    np.testing.assert_allclose(places[-1].sum(axis=0), places[3].sum(axis=0), rtol=1e-5, atol=1e-5)
    assert square_distance(places[-1]) < 0.2 * square_distance(places[3])


@pytest.mark.parametrize("graph", ["ring", "complete"])
def test_pairs_are_drawn_so_that_distances_shrink_as_they_should(graph):
    num = 8
    pairs = [(rank, partner) for rank, partner, _ in Watch(graph, num, 4, 300).averages]
    edges = sorted(set(pairs))
    assert len(edges) == (num if graph == "ring" else num * num // 4)
    # With all edges alike: E V' = V - mean over the edges of |x_i - x_j|^2 / 2; each difference has the mean 0.
    places, surprises = np.random.default_rng(1).standard_normal((num, 1)), []
    largest = 1 - (1 - np.cos(2 * np.pi / num)) / num if graph == "ring" else 1 - 1 / num
    for rank, partner in pairs:
        places -= places.mean(axis=0)
        places /= np.sqrt(square_distance(places))
        expected = 1 - np.mean([square_distance(places[[i, j]]) for i, j in edges])
        assert expected <= largest + 1e-12
        places[[rank, partner]] = places[[rank, partner]].mean(axis=0)
        surprises.append(square_distance(places) - expected)
    assert abs(np.mean(surprises)) < 4 * np.std(surprises) / np.sqrt(len(surprises))


def test_one_rank_is_plain_sgd_bit_for_bit(tiny):
    one, plain = (
        run_sim(build(from_dict({**tiny, "world_size": 1, "execution": "exact", "strategy": strategy}))).models
        for strategy in ({"kind": "ad_psgd"}, {"kind": "all_reduce", "algorithm": "ring"})
    )
    for leaf, other in zip(jax.tree.leaves(one), jax.tree.leaves(plain), strict=True):
        np.testing.assert_array_equal(leaf, other)
