"""Which ranks hold which block."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psgdsim.data import Assignment, assign
from psgdsim.data.assignment import MAX_BLOCKS, cyclic, duplicate, subsets


def test_subsets_are_all_r_subsets_in_lexicographic_order():
    assert subsets(4, 2).holders == ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
    assert subsets(3, 1).holders == ((0,), (1,), (2,))
    assert subsets(3, 3).holders == ((0, 1, 2),)


def test_duplicate_groups_consecutive_ranks():
    assert duplicate(6, 2).holders == ((0, 1), (2, 3), (4, 5))
    assert duplicate(4, 4).holders == ((0, 1, 2, 3),)


def test_cyclic_wraps_around():
    assert cyclic(4, 3).holders == ((0, 1, 2), (1, 2, 3), (0, 2, 3), (0, 1, 3))
    assert cyclic(4, 3).blocks_of(0) == (0, 2, 3)


def test_owner_and_blocks_of():
    assignment = Assignment(((1, 2), (0, 2)))
    assert [assignment.owner(block) for block in (0, 1)] == [1, 0]
    assert [assignment.blocks_of(rank) for rank in range(4)] == [(1,), (0,), (0, 1), ()]
    assert assignment.num_blocks == 2
    assert assignment == Assignment(((1, 2), (0, 2)))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["subsets", "duplicate", "cyclic"]), st.integers(1, 9), st.data())
def test_every_block_has_r_holders_and_every_rank_the_same_load(name, world_size, data):
    divides = name == "duplicate"
    redundancy = data.draw(st.sampled_from([r for r in range(1, world_size + 1) if not divides or world_size % r == 0]))
    assignment = assign(name, world_size, redundancy)
    assert all(len(set(ranks)) == redundancy and list(ranks) == sorted(ranks) for ranks in assignment.holders)
    loads = Counter(rank for ranks in assignment.holders for rank in ranks)
    per_rank = {
        "subsets": math.comb(world_size - 1, redundancy - 1),
        "duplicate": 1,
        "cyclic": redundancy,
    }[name]
    assert loads == dict.fromkeys(range(world_size), per_rank)
    for rank in range(world_size):
        held = tuple(block for block, ranks in enumerate(assignment.holders) if rank in ranks)
        assert assignment.blocks_of(rank) == held


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: subsets(4, 0), ["redundancy", "1..4", "got 0"]),
        (lambda: cyclic(4, 5), ["redundancy", "1..4", "got 5"]),
        (lambda: subsets(0, 1), ["world_size", "got 0"]),
        (lambda: duplicate(6, 4), ["divisor", "6", "got 4", "1, 2, 3, 6"]),
        (lambda: subsets(30, 15), ["subsets", str(MAX_BLOCKS)]),
        (lambda: subsets(20_000, 10_000), ["subsets", str(MAX_BLOCKS)]),
        (lambda: subsets(10**9, 5 * 10**8), ["subsets", str(MAX_BLOCKS)]),
        (lambda: subsets(10**9, 10**9), ["subsets", "1000000000 ranks"]),
        (lambda: cyclic(50_000, 40_000), ["cyclic", "40000 ranks"]),
        (lambda: assign("cycilc", 4, 2), ["'cycilc'", "did you mean 'cyclic'?"]),
    ],
)
def test_impossible_assignments_say_what_to_change(call, words):
    with pytest.raises(ValueError) as caught:
        call()
    assert all(word in str(caught.value) for word in words)
