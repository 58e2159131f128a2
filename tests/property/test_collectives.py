"""Laws of collectives for any number of ranks, any length of vector, any root, and any subset of ranks."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psgdsim import collectives
from psgdsim.collectives.base import offsets
from psgdsim.collectives.pipelined import two_trees
from psgdsim.sim.values import Computed
from psgdsim.testing.programs import run_program, sized, time_program
from psgdsim.topologies import star

NETWORK = star(bandwidth=1e9, latency=1e-4)

SIZES = st.sampled_from([1, 2, 3, 5, 8])
GROUPS = st.permutations(range(7)).flatmap(lambda ranks: st.integers(1, 7).map(lambda num: ranks[:num]))


def vector(rank, size):
    return np.random.default_rng(rank).integers(-50, 50, size).astype(np.float32)


def total(ranks, size):
    return np.sum([vector(rank, size) for rank in ranks], axis=0)


def run(collective, ranks, size, **options):
    """Run a collective among some of seven ranks; return what each of them got, by rank."""

    async def program(node):
        if node.rank not in ranks:
            return None
        return await collective(node, Computed(vector(node.rank, size)), tag="x", ranks=ranks, **options)

    return dict(enumerate(run_program(program, 7, NETWORK).results))


ALL_REDUCES = {
    "ring": collectives.ring_all_reduce,
    "recursive doubling": collectives.recursive_doubling_all_reduce,
    "halving and doubling": collectives.halving_doubling_all_reduce,
    "tree": collectives.tree_all_reduce,
    "pipelined tree": partial(collectives.pipelined_tree_all_reduce, segments=2),
    "leaders of 3": partial(collectives.leader_all_reduce, group_size=3),
}


@pytest.mark.parametrize("name", ALL_REDUCES)
@given(ranks=GROUPS, size=SIZES)
@settings(max_examples=12)
def test_all_reduce_gives_everyone_the_sum(name, ranks, size):
    results = run(ALL_REDUCES[name], ranks, size)
    for rank in ranks:
        np.testing.assert_array_equal(np.asarray(results[rank].array), total(ranks, size))


@pytest.mark.parametrize("group_size", [1, 2, 3, 6])
@given(ranks=st.permutations(range(6)), size=SIZES)
@settings(max_examples=5)
def test_hierarchical_all_reduce_gives_everyone_the_sum(group_size, ranks, size):
    results = run(collectives.hierarchical_all_reduce, ranks, size, group_size=group_size)
    for rank in ranks:
        np.testing.assert_array_equal(np.asarray(results[rank].array), total(ranks, size))


@pytest.mark.parametrize("collective", [collectives.ring_reduce_scatter, collectives.halving_reduce_scatter])
@given(ranks=GROUPS, size=SIZES)
@settings(max_examples=15)
def test_reduce_scatter_leaves_each_its_part(collective, ranks, size):
    results, ends = run(collective, ranks, size), offsets(size, len(ranks))
    for place, rank in enumerate(ranks):
        part = total(ranks, size)[ends[place] : ends[place + 1]]
        np.testing.assert_array_equal(np.asarray(results[rank].array), part)


@given(ranks=GROUPS, size=SIZES)
@settings(max_examples=15)
def test_ring_all_gather_keeps_the_order_of_the_ranks(ranks, size):
    results = run(collectives.ring_all_gather, ranks, size)
    for rank in ranks:
        for src, gathered in zip(ranks, results[rank], strict=True):
            np.testing.assert_array_equal(np.asarray(gathered.array), vector(src, size))


@given(ranks=GROUPS, size=SIZES, data=st.data())
@settings(max_examples=20)
def test_reduce_leaves_the_sum_with_the_root_alone(ranks, size, data):
    root = data.draw(st.sampled_from(ranks))
    results = run(collectives.reduce, ranks, size, root=root)
    np.testing.assert_array_equal(np.asarray(results.pop(root).array), total(ranks, size))
    assert set(results.values()) == {None}


@pytest.mark.parametrize("collective", [collectives.broadcast, collectives.scatter_broadcast])
@given(ranks=GROUPS, size=SIZES, data=st.data())
@settings(max_examples=15)
def test_broadcast_gives_everyone_the_vector_of_the_root(collective, ranks, size, data):
    root = data.draw(st.sampled_from(ranks))
    results = run(collective, ranks, size, root=root)
    for rank in ranks:
        np.testing.assert_array_equal(np.asarray(results[rank].array), vector(root, size))


@given(num=st.integers(1, 40), nbytes=st.integers(0, 200))
@settings(max_examples=25)
def test_a_ring_sends_the_least_for_any_length(num, nbytes):
    program = partial(collectives.ring_all_reduce, vector=sized(nbytes), tag="x")
    assert sum(time_program(program, num, NETWORK).sent) == 2 * (num - 1) * nbytes


@given(size=st.integers(1, 300))
def test_the_two_trees_span_all_and_nobody_works_in_both(size):
    pairs = [two_trees(place, size) for place in range(size)]
    for which in (0, 1):
        trees = [pair[which] for pair in pairs]
        edges = {(place, child) for place, tree in enumerate(trees) for child in tree.children}
        assert edges == {(tree.parent, place) for place, tree in enumerate(trees) if tree.parent is not None}
        assert len(edges) == size - 1
        depth = 0
        reached = [place for place, tree in enumerate(trees) if tree.parent is None]
        assert len(reached) == 1
        while reached:
            depth += 1
            reached = [child for place in reached for child in trees[place].children]
        assert depth <= (size - 1).bit_length() + 1
    busy = [place for place, (first, second) in enumerate(pairs) if first.children and second.children]
    roots = [place for place, pair in enumerate(pairs) if None in (pair[0].parent, pair[1].parent)]
    assert set(busy) <= set(roots)
