"""The order of samples: laws that hold for all shards, counts and seeds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psgdsim import rng
from psgdsim.data import SampleOrder, split_rows
from psgdsim.per_rank import PerRank

LENGTHS = st.integers(1, 12) | st.sampled_from([85, 128, 129, 256, 257])
"""Shards of which one draw holds many passes, three, two or one."""

SIZES = st.lists(st.tuples(LENGTHS, st.integers(0, 80)), min_size=1, max_size=4)


def make(sizes, seed):
    starts = np.cumsum([0] + [length for length, _ in sizes])
    shards = [np.arange(start, start + length) for start, (length, _) in zip(starts, sizes, strict=False)]
    return SampleOrder(shards, [count for _, count in sizes], seed), shards


@settings(max_examples=60, deadline=None)
@given(SIZES, st.integers(0, 2**63), st.integers(1, 12))
def test_every_pass_covers_the_shard_once(sizes, seed, steps):
    order, shards = make(sizes, seed)
    for block, (length, count) in enumerate(sizes):
        taken = [order.ids(step, block) for step in range(1, steps + 1)]
        assert all(ids.shape == (count,) and ids.dtype == np.int32 for ids in taken)
        stream = np.concatenate(taken)
        for start in range(0, len(stream) - length + 1, length):
            assert sorted(stream[start : start + length].tolist()) == shards[block].tolist()
        rest = stream[len(stream) - len(stream) % length :]
        assert len(np.unique(rest)) == len(rest)


@settings(max_examples=40, deadline=None)
@given(SIZES, st.integers(0, 2**63), st.lists(st.integers(1, 40), min_size=1, max_size=12))
def test_ids_do_not_depend_on_what_was_asked_before(sizes, seed, steps):
    order, _ = make(sizes, seed)
    for step in steps:
        for block in reversed(range(len(sizes))):
            fresh, _ = make(sizes, seed)
            assert (order.ids(step, block) == fresh.ids(step, block)).all()


def test_passes_blocks_and_seeds_are_shuffled_apart():
    shards = [np.arange(50), np.arange(50)]
    order, other = SampleOrder(shards, [50, 50], seed=1), SampleOrder(shards, [50, 50], seed=2)
    assert (order.ids(1, 0) != order.ids(2, 0)).any()
    assert (order.ids(1, 0) != order.ids(1, 1)).any()
    assert (order.ids(1, 0) != other.ids(1, 0)).any()


def test_the_order_is_the_same_in_every_version_of_the_program():
    order = SampleOrder([np.array([10, 11, 12, 13, 14])], rows=[3], seed=1)
    assert [order.ids(step, 0).tolist() for step in (1, 2, 90)] == [[10, 12, 14], [13, 11, 12], [10, 13, 14]]


def test_a_long_shard_is_drawn_pass_by_pass():
    order = SampleOrder([np.arange(200)], rows=[200], seed=1)
    for number in range(3):
        assert (order.ids(number + 1, 0) == rng.stream(1, "order", 0, number).permutation(200)).all()


@settings(max_examples=40, deadline=None)
@given(SIZES, st.integers(0, 80), st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_all_ranks_at_once_get_what_each_gets_alone(sizes, count, steps):
    sizes = [(length, count) for length, _ in sizes]
    blocks = PerRank(range(len(sizes)))
    together, _ = make(sizes, 3)
    alone, _ = make(sizes, 3)
    for step in steps:
        for block, ids in enumerate(together.ids(step, blocks).items):
            assert (ids == alone.ids(step, block)).all()


def test_who_asks_again_gets_the_same_array_and_nobody_can_change_it():
    order = SampleOrder([np.arange(6)], rows=[3], seed=1)
    first = order.ids(1, 0)
    assert order.ids(1, 0) is first
    with pytest.raises(ValueError, match="read-only"):
        first[:] = -1


@pytest.mark.parametrize(
    ("shards", "rows", "words"),
    [
        ([np.arange(3)], [1, 2], "each of the 1 blocks; got 2"),
        ([np.arange(0)], [1], "block 0: cannot take 1 rows per step of its 0 rows"),
        ([np.arange(3), np.arange(3)], [1, -1], "block 1: cannot take -1"),
    ],
)
def test_impossible_orders_are_refused(shards, rows, words):
    with pytest.raises(ValueError, match=words):
        SampleOrder(shards, rows, seed=1)


@pytest.mark.parametrize(("step", "block"), [(0, 0), (-1, 0), (1, 1), (1, -1)])
def test_steps_and_blocks_that_do_not_exist_are_refused(step, block):
    with pytest.raises(ValueError, match=r"expected step >= 1 and block in 0\.\.0"):
        SampleOrder([np.arange(3)], [1], seed=1).ids(step, block)


@given(st.integers(0, 10_000), st.integers(1, 300))
def test_split_rows_is_as_equal_as_possible_larger_first(total, parts):
    counts = split_rows(total, parts)
    assert sum(counts) == total
    assert len(counts) == parts
    assert counts[0] - counts[-1] in (0, 1)
    assert list(counts) == sorted(counts, reverse=True)


@pytest.mark.parametrize(("total", "parts"), [(-1, 2), (3, 0)])
def test_split_rows_refuses_nonsense(total, parts):
    with pytest.raises(ValueError, match=f"got {total} and {parts}"):
        split_rows(total, parts)
