"""TernGrad in an all-reduce: signs that are added up, times the largest scale of all ranks."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from psgdsim.codecs import error_feedback, terngrad
from psgdsim.errors import ScenarioError
from psgdsim.scenario import from_dict
from psgdsim.testing.schedules import tiny_scenario

NUM = 4


def updates(size=50):
    generator = np.random.default_rng(3)
    return [(1 + rank) * generator.standard_normal(size).astype(np.float32) for rank in range(NUM)]


def add_up(codec, parts, seed):
    """Return the sum as each rank gets it, and the shared scale."""
    rounds, finish = codec.reduction.rounds, codec.reduction.finish
    state = codec.init(parts[0])
    scales = [rounds[0](part, state, (), jax.random.key(seed)) for part in parts]
    largest = jax.tree.map(lambda *each: np.max(each, axis=0), *scales)
    keys = [jax.random.fold_in(jax.random.key(seed), rank) for rank in range(NUM)]
    signs = [rounds[1](part, state, (largest,), key) for part, key in zip(parts, keys, strict=True)]
    assert {leaf.dtype for leaf in jax.tree.leaves(signs)} == {np.dtype(np.int8)}
    total = jax.tree.map(lambda *each: sum(each), *signs)
    return np.asarray(finish(parts[0], state, (largest, total), NUM)[0]), float(np.max(jax.tree.leaves(largest)))


def test_the_sum_is_a_small_integer_times_the_largest_scale():
    parts = updates()
    total, scale = add_up(terngrad(clip=None), parts, 0)
    assert scale == max(np.abs(part).max() for part in parts)
    counts = total / np.float32(scale)
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-6)
    assert 0 < np.abs(counts).max() <= NUM


def test_it_is_unbiased_with_the_variance_of_the_shared_scale():
    parts, draws = updates(), 4000
    totals = np.stack(jax.vmap(lambda seed: _sum_of(parts, seed))(np.arange(draws)))
    scale, exact = max(np.abs(part).max() for part in parts), np.sum(parts, axis=0)
    variance = sum(scale * np.abs(part) - part**2 for part in parts)
    z = (totals.mean(axis=0) - exact) / np.sqrt(variance / draws)
    assert np.abs(z).max() < 5
    assert totals.var(axis=0).sum() == pytest.approx(variance.sum(), rel=0.02)


def _sum_of(parts, seed):
    codec = terngrad(clip=None)
    state = codec.init(parts[0])
    largest = [np.asarray([max(np.abs(part).max() for part in parts)], np.float32)]
    keys = [jax.random.fold_in(jax.random.key(seed), rank) for rank in range(NUM)]
    signs = [codec.reduction.rounds[1](part, state, (largest,), key) for part, key in zip(parts, keys, strict=True)]
    return codec.reduction.finish(parts[0], state, (largest, jax.tree.map(lambda *each: sum(each), *signs)), NUM)[0]


def test_combinators_keep_how_it_is_added():
    reduction = error_feedback(terngrad()).reduction
    assert (reduction.largest, reduction.max_ranks) == ({0}, 127)


def test_more_ranks_than_eight_bits_can_count_are_refused():
    scenario = {**tiny_scenario({"kind": "all_reduce"}, 127), "codec": {"kind": "terngrad"}, "batch_size": 1}
    assert from_dict(scenario).world_size == 127
    with pytest.raises(ScenarioError, match=r"'ring' adds payloads of this codec for at most 127 ranks"):
        from_dict({**scenario, "world_size": 128})
