"""Random streams made many at a time are those made one by one."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from psgdsim import rng


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**63), st.sampled_from([0, 1, rng.FEW_STREAMS - 1, rng.FEW_STREAMS, 100]), st.integers(0, 2**40))
def test_many_streams_at_once_have_the_bits_of_each(seed, num, first):
    numbers = [(first + i, 3 * i) for i in range(num)]
    places = []
    for each, generator in zip(numbers, rng.streams(seed, "test", numbers), strict=True):
        one = rng.stream(seed, "test", *each)
        shard = np.arange(33, dtype=np.int32)
        generator.shuffle(shard)
        assert shard.tolist() == one.permutation(33).tolist()
        assert generator.random() == one.random()
        assert generator.integers(0, 7, dtype=np.int32) == one.integers(0, 7, dtype=np.int32)
        places.append(each)
    assert places == numbers
