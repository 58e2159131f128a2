"""Partitions: every row in exactly one block, and the mix of classes that each promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from psgdsim.data import dirichlet, iid, label_shards, partitions
from psgdsim.errors import ScenarioError

PARTITIONS = {
    "iid": iid(),
    "one_shard": label_shards(shards_per_block=1),
    "two_shards": label_shards(),
    "dirichlet_skewed": dirichlet(alpha=1e-6),
    "dirichlet_0.1": dirichlet(alpha=0.1),
    "dirichlet_even": dirichlet(alpha=1e6),
}
SHARDS = {"one_shard": 1, "two_shards": 2}


def split(partition, targets, num_blocks, seed=0):
    return partition.split(np.asarray(targets, np.int32), num_blocks, np.random.default_rng(seed))


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(PARTITIONS)),
    labels=st.lists(st.integers(0, 9), min_size=1, max_size=120),
    num_blocks=st.integers(1, 20),
    seed=st.integers(0, 2**32),
)
def test_every_id_is_in_exactly_one_block_and_no_block_is_empty(name, labels, num_blocks, seed):
    num_blocks = max(1, min(num_blocks, len(labels) // SHARDS.get(name, 1)))
    if len(labels) < num_blocks * SHARDS.get(name, 1):
        return
    blocks = split(PARTITIONS[name], labels, num_blocks, seed)
    assert len(blocks) == num_blocks
    assert all(len(block) and block.dtype == np.int32 and (np.diff(block) > 0).all() for block in blocks)
    assert sorted(np.concatenate(blocks).tolist()) == list(range(len(labels)))
    again = split(PARTITIONS[name], labels, num_blocks, seed)
    assert all((one == other).all() for one, other in zip(blocks, again, strict=True))


@pytest.mark.parametrize("name", ["iid", "dirichlet_skewed", "dirichlet_0.1", "dirichlet_even"])
def test_blocks_have_equal_sizes(name):
    blocks = split(PARTITIONS[name], np.arange(1003) % 7, 10)
    assert sorted(map(len, blocks)) == [100] * 7 + [101] * 3


def test_iid_depends_on_the_seed_and_takes_regression_targets():
    targets = np.zeros((50, 2), np.float32)
    one, other = (iid().split(targets, 5, np.random.default_rng(seed)) for seed in (0, 1))
    assert any((a != b).any() for a, b in zip(one, other, strict=True))


def test_label_shards_as_in_the_fedavg_paper():
    """100 blocks of 2 shards over 10 equal classes: a shard lies in one class, a block has 600 rows."""
    targets = np.random.default_rng(5).permutation(np.repeat(np.arange(10), 6000))
    blocks = split(label_shards(shards_per_block=2), targets, 100)
    assert {len(block) for block in blocks} == {600}
    classes = [len(np.unique(targets[block])) for block in blocks]
    assert set(classes) <= {1, 2}
    assert classes.count(2) > 75  # two random shards are of one class with probability 19/199


def mixes(alpha, num_blocks=200, rows=40_000, seed=0):
    targets = np.arange(rows) % 10
    blocks = split(dirichlet(alpha), targets, num_blocks, seed)
    return np.array([np.bincount(targets[block], minlength=10) / len(block) for block in blocks])


def test_dirichlet_mixes_have_the_variance_of_the_distribution():
    """Var q_c = p (1 - p) / (alpha + 1); drawing n rows from q adds (p (1 - p) - Var q_c) / n."""
    early = np.concatenate([mixes(10.0, num_blocks=100, seed=seed)[:20] for seed in range(10)])
    spread = 0.1 * 0.9 / 11
    assert early.var() == pytest.approx(spread + (0.09 - spread) / 400, rel=0.1)


def test_dirichlet_goes_from_one_class_per_block_to_the_same_mix():
    skewed, even = mixes(1e-6), mixes(1e6)
    assert np.median(skewed.max(axis=1)) == 1.0
    np.testing.assert_allclose(even[:100], 0.1, atol=0.1)  # the last blocks take what is left
    assert mixes(0.1).max(axis=1).mean() > mixes(10.0).max(axis=1).mean()


def test_dirichlet_follows_the_mix_of_the_data():
    targets = np.repeat([0, 7], [900, 100])
    blocks = split(dirichlet(alpha=1e6), targets, 5)
    shares = [(targets[block] == 7).mean() for block in blocks]
    np.testing.assert_allclose(shares, 0.1, atol=0.07)


@pytest.mark.parametrize("name", ["two_shards", "dirichlet_0.1"])
@pytest.mark.parametrize("targets", [np.zeros(10, np.float32), np.zeros((10, 1), np.float32)])
def test_regression_targets_cannot_be_dealt_by_class(name, targets):
    with pytest.raises(ScenarioError, match="no classes; use 'iid'"):
        PARTITIONS[name].split(targets, 2, np.random.default_rng(0))


@pytest.mark.parametrize("name", sorted(PARTITIONS))
def test_too_few_rows_are_refused(name):
    with pytest.raises(ScenarioError, match=r"training rows.*the data has 3"):
        split(PARTITIONS[name], [0, 1, 2], 4)


@pytest.mark.parametrize(
    ("name", "parameter", "bad"), [("dirichlet", "alpha", 0), ("label_shards", "shards_per_block", 0)]
)
def test_bounds_are_in_the_signature(name, parameter, bad):
    annotation = next(p.annotation for p in partitions[name].parameters if p.name == parameter)
    with pytest.raises(ValidationError):
        TypeAdapter(annotation).validate_python(bad)
    assert TypeAdapter(annotation).validate_python(1) == 1
