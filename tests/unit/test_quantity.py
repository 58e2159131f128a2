"""data.quantity_skew: every row in exactly one block, and how unequal the blocks are."""

from __future__ import annotations

import numpy as np
import pytest

from psgdsim.data import quantity_skew
from psgdsim.errors import ScenarioError


def sizes(alpha, rows=1000, num_blocks=10, seed=0):
    blocks = quantity_skew(alpha).split(np.zeros(rows, np.int32), num_blocks, np.random.default_rng(seed))
    assert all(block.dtype == np.int32 and (np.diff(block) > 0).all() for block in blocks)
    assert sorted(np.concatenate(blocks).tolist()) == list(range(rows))
    return sorted(map(len, blocks))


@pytest.mark.parametrize("seed", range(20))
def test_sizes_go_from_equal_to_all_in_one_block(seed):
    assert sizes(1e6, seed=seed)[0] >= 98
    assert sizes(1e-6, seed=seed) == [1] * 9 + [991]
    assert sizes(1.0, seed=seed)[-1] >= 130


@pytest.mark.parametrize("rows", [10, 11, 25])
def test_no_block_is_empty(rows):
    for seed in range(20):
        assert sizes(0.1, rows=rows, seed=seed)[0] >= 1


def test_the_shares_are_those_of_a_dirichlet_distribution():
    # Of K = 10 shares each has the variance (K - 1) / (K^2 (K alpha + 1)): 0.00818 for alpha = 1; 400 draws, 5%.
    shares = np.concatenate([(np.array(sizes(1.0, rows=10_010, seed=seed)) - 1) / 10_000 for seed in range(400)])
    assert shares.var() == pytest.approx(9 / (100 * 11), rel=0.05)


def test_fewer_rows_than_blocks_are_refused():
    with pytest.raises(ScenarioError, match=r"expected at least 10 training rows \(one per block\); the data has 9"):
        sizes(1.0, rows=9)
