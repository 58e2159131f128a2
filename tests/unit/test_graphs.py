"""strategies.graphs: who talks to whom, with which weights, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from psgdsim.strategies.graphs import (
    MixingGraph,
    check_doubly_stochastic,
    directed,
    metropolis,
    second_eigenvalue,
)

CHORDS = [(0, 1), (1, 2), (2, 3), (3, 4), (0, 2)]


def matrix_of(rows):
    matrix = np.zeros((len(rows), len(rows)))
    for rank, row in enumerate(rows):
        matrix[rank, list(row)] = list(row.values())
    return matrix


@pytest.mark.parametrize(
    ("graph", "num", "neighbours"),
    [
        (MixingGraph("ring"), 1, [()]),
        (MixingGraph("ring"), 2, [(1,), (0,)]),
        (MixingGraph("ring"), 5, [(1, 4), (0, 2), (1, 3), (2, 4), (0, 3)]),
        (MixingGraph("complete"), 3, [(1, 2), (0, 2), (0, 1)]),
        (MixingGraph("torus", dims=[2, 3]), 6, [(1, 2, 3), (0, 2, 4), (0, 1, 5), (0, 4, 5), (1, 3, 5), (2, 3, 4)]),
        (MixingGraph("torus", dims=[1, 3]), 3, [(1, 2), (0, 2), (0, 1)]),
        (MixingGraph("exponential"), 8, [tuple(sorted({(i + d) % 8 for d in (1, 2, 4, 6, 7)})) for i in range(8)]),
        (MixingGraph("custom", edges=CHORDS), 5, [(1, 2), (0, 2), (0, 1, 3), (2, 4), (3,)]),
    ],
)
def test_neighbours(graph, num, neighbours):
    assert graph.neighbours(num) == neighbours


def test_random_regular_graphs_are_regular_connected_and_the_same_for_a_seed():
    graphs = [MixingGraph("random_regular", degree=3, seed=seed).neighbours(20) for seed in (0, 0, 1)]
    assert graphs[0] == graphs[1] != graphs[2]
    assert {len(each) for each in graphs[0]} == {3}
    assert second_eigenvalue(metropolis(graphs[0])) < 0.999


def test_a_regular_graph_that_is_rarely_connected_is_drawn_again():
    assert second_eigenvalue(MixingGraph("random_regular", degree=2, seed=1).mixing(12)) < 0.999


@pytest.mark.parametrize(
    ("graph", "num"),
    [
        (MixingGraph("ring"), 7),
        (MixingGraph("torus", dims=[2, 3, 3]), 18),
        (MixingGraph("exponential"), 11),
        (MixingGraph("complete"), 9),
        (MixingGraph("random_regular", degree=4), 15),
        (MixingGraph("custom", edges=CHORDS), 5),
        (MixingGraph("custom", edges=CHORDS, weights=[0.25, 0.5, 0.125, 0.5, 0.25]), 5),
    ],
    ids=lambda value: getattr(value, "kind", value),
)
def test_weights_are_symmetric_doubly_stochastic_and_those_of_the_graph(graph, num):
    rows = graph.mixing(num)
    matrix = matrix_of(rows)
    np.testing.assert_array_equal(matrix, matrix.T)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-15)
    assert matrix.min() >= 0
    assert [tuple(other for other in row if other != rank) for rank, row in enumerate(rows)] == graph.neighbours(num)
    assert all(list(row) == sorted(row) for row in rows)
    check_doubly_stochastic(rows)


def test_metropolis_weights_look_at_the_larger_degree():
    rows = metropolis([(1,), (0, 2), (1,)])
    assert rows == [{0: 2 / 3, 1: 1 / 3}, {0: 1 / 3, 1: 1 / 3, 2: 1 / 3}, {1: 1 / 3, 2: 2 / 3}]
    assert MixingGraph("complete").mixing(4)[2] == dict.fromkeys(range(4), 0.25)


@pytest.mark.parametrize("num", [4, 8, 16, 32])
def test_the_second_eigenvalue_of_a_ring(num):
    # Lian et al., NIPS 2017: 1/3, 0.80474, 0.94925, 0.98719.
    rows = MixingGraph("ring").mixing(num)
    expected = (1 + 2 * math.cos(2 * math.pi / num)) / 3
    assert second_eigenvalue(rows) == pytest.approx(expected, rel=1e-12)
    wave = np.cos(2 * np.pi * np.arange(num) / num)
    np.testing.assert_allclose(matrix_of(rows) @ wave, expected * wave, atol=1e-15)


def test_the_second_eigenvalue_of_few_ranks():
    assert second_eigenvalue([{0: 1.0}]) == 0
    assert second_eigenvalue([{0: 0.25, 1: 0.75}, {0: 0.75, 1: 0.25}]) == pytest.approx(0.5)  # it is -0.5


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{0: 0.5, 1: 0.5}, {0: 0.25, 1: 0.75}], "those of column 0 add up to 0.75"),
        ([{0: 0.5, 1: 0.25}, {0: 0.5, 1: 0.75}], "those of row 0 add up to 0.75"),
        ([{0: 1.5, 1: -0.5}, {0: -0.5, 1: 1.5}], r"row 0 add up to 1, the least is -0\.5"),
    ],
)
def test_weights_that_change_the_mean_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        check_doubly_stochastic(rows)


@pytest.mark.parametrize(
    ("settings", "num", "message"),
    [
        ({"kind": "torus"}, 4, "graph: graph 'torus' needs dims; got none"),
        ({"kind": "ring", "dims": [4]}, 4, "dims: only graph 'torus' has dims; got graph 'ring'"),
        ({"kind": "torus", "dims": [2, 3]}, 4, "dims: expected a product of world_size, 4; got 6"),
        ({"kind": "random_regular", "degree": 3}, 5, "degree: expected 2 to 4, .* got 3 for 5 ranks"),
        ({"kind": "random_regular", "degree": 4}, 4, "degree: expected 2 to 3, .* got 4 for 4 ranks"),
        ({"kind": "custom", "edges": [(0, 1), (2, 3)]}, 4, "edges: .* rank 2 cannot be reached from rank 0"),
        ({"kind": "custom", "edges": [(0, 4)]}, 4, r"edges: .* ranks of 0 to 3, .* got \[0, 4\], edge number 1"),
        ({"kind": "custom", "edges": [(0, 1), (1, 1)]}, 2, r"edges: .* got \[1, 1\], edge number 2"),
        ({"kind": "custom", "edges": [(0, 1), (1, 0)]}, 2, r"edges: .* each pair once; got \[0, 1\], edge number 2"),
        ({"kind": "custom", "edges": [(0, 1)], "weights": [0.5, 0.5]}, 2, "weights: expected one per edge, 1; got 2"),
        ({"kind": "ring", "weights": [0.5]}, 2, "weights: expected one per edge, 0; got 1"),
        (
            {"kind": "custom", "edges": [(0, 1), (1, 2)], "weights": [0.6, 0.6]},
            3,
            "weights: expected at most 1 for all edges of a rank; those of rank 1 have more",
        ),
    ],
)
def test_graphs_that_do_not_fit_are_refused(settings, num, message):
    with pytest.raises(ValueError, match=message):
        MixingGraph(**settings).mixing(num)


@pytest.mark.parametrize(
    ("arguments", "cycle"),
    [
        (("one_peer_exponential", 1), [[()]]),
        (("one_peer_exponential", 5), [[((i + d) % 5,) for i in range(5)] for d in (1, 2, 4)]),
        (("exponential", 4), [[(1, 2), (2, 3), (0, 3), (0, 1)]]),
        (("ring", 3), [[(1,), (2,), (0,)]]),
        (("complete", 3), [[(1, 2), (0, 2), (0, 1)]]),
        (("custom", 3, [(0, 1), (1, 2), (2, 0), (1, 0)]), [[(1,), (0, 2), (0,)]]),
    ],
)
def test_directed_graphs(arguments, cycle):
    assert directed(*arguments) == cycle


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("custom", 3), "graph: graph 'custom' needs edges; got none"),
        (("ring", 3, [(0, 1)]), "edges: only graph 'custom' has edges; got graph 'ring'"),
        (("custom", 3, [(0, 1), (0, 2), (1, 0)]), "edges: expected a way from each rank to each; none from 0 to 2"),
        (("custom", 3, [(0, 1), (1, 0), (2, 0)]), "edges: expected a way from each rank to each; none from 0 to 2"),
        (("custom", 2, [(0, 1), (0, 1)]), r"edges: .* each pair once; got \[0, 1\], edge number 2"),
    ],
)
def test_directed_graphs_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        directed(*arguments)
