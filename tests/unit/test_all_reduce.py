"""The strategy `all_reduce`: all algorithms train the same model, and wrong settings are named."""

from __future__ import annotations

import numpy as np
import pytest

import psgdsim
from psgdsim.errors import CodecError, ScenarioError, StrategyError

ALGORITHMS = {
    "ring": {},
    "recursive_doubling": {},
    "halving_doubling": {},
    "tree": {},
    "pipelined_tree": {"segments": 3},
    "hierarchical": {"group_size": 2},
    "leaders": {"group_size": 3},
}


def run(scenario, folder, **settings):
    scenario["strategy"] = {"kind": "all_reduce", **settings}
    return psgdsim.run(scenario, out=folder)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_all_algorithms_train_the_same_model(algorithm, tiny, tmp_path):
    tiny["world_size"], tiny["max_steps"] = 4, 2
    plain = run(tiny, tmp_path / "plain", algorithm="broadcast")
    other = run(tiny, tmp_path / "other", algorithm=algorithm, **ALGORITHMS[algorithm])
    for name, array in plain.params.items():
        np.testing.assert_allclose(other.params[name], array, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "key", "message"),
    [
        ({"algorithm": "hierarchical"}, "strategy", "required with algorithm 'hierarchical'"),
        (
            {"algorithm": "hierarchical", "group_size": 4},
            "strategy.group_size",
            "expected a divisor of world_size (6), such as 3 or 6; got 4",
        ),
        ({"algorithm": "leaders", "group_size": 7}, "strategy.group_size", "expected at most world_size (6); got 7"),
        ({"algorithm": "leaders", "group_size": 0}, "strategy.group_size", "expected at least 1; got 0"),
        (
            {"group_size": 2},
            "strategy.group_size",
            "only algorithms hierarchical and leaders have groups; got algorithm 'ring'",
        ),
        ({"segments": 2}, "strategy.segments", "only algorithm 'pipelined_tree' has segments; got algorithm 'ring'"),
        ({"accumulation": 0}, "strategy.accumulation", "expected at least 1; got 0"),
        (
            {"accumulation": 2, "redundancy": 2},
            "strategy.accumulation",
            "expected at most one of redundancy, accumulation, bucket_size; got redundancy and accumulation",
        ),
        ({"bucket_size": "1 KiB", "accumulation": 2}, "strategy.bucket_size", "got accumulation and bucket_size"),
        ({"bucket_size": "0 B"}, "strategy.bucket_size", "expected more than 0; got '0 B'"),
        ({"bucket_size": 1024}, "strategy.bucket_size", "expected a size with its unit, such as '25 MiB'"),
        (
            {"bucket_size": "1 KiB", "double_buffer": True},
            "strategy.double_buffer",
            "expected false with bucket_size; got true",
        ),
        (
            {"double_buffer": True, "algorithm": "broadcast"},
            "strategy.double_buffer",
            "expected an algorithm that adds up gradients on the way; got 'broadcast'",
        ),
        (
            {"bucket_size": "1 KiB", "algorithm": "broadcast"},
            "strategy.bucket_size",
            "expected an algorithm that adds up gradients on the way; got 'broadcast'",
        ),
    ],
)
def test_wrong_settings_are_one_clear_error(settings, key, message, tiny, tmp_path):
    tiny["world_size"] = 6
    with pytest.raises(ScenarioError) as caught:
        run(tiny, tmp_path / "run", **settings)
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).startswith(key)
    assert message in str(caught.value)


def test_more_micro_batches_than_rows_are_one_clear_error(tiny, tmp_path):
    with pytest.raises(StrategyError, match=r"accumulation: expected at most .* rank 0 has rows per step, 8; got 9"):
        run(tiny, tmp_path / "run", accumulation=9)


@pytest.mark.parametrize("settings", [{"bucket_size": "1 B"}, {"double_buffer": True}])
def test_an_update_that_is_not_finite_is_named_by_step_and_leaf(settings, tiny, tmp_path):
    tiny |= {"world_size": 2, "batch_size": 1, "epochs": 1, "max_steps": None, "plugins": ["overflowing"]}
    tiny |= {"data": {"kind": "none", "num_samples": 32}, "model": {"kind": "overflowing_of_a_test"}}
    with pytest.raises(CodecError, match=r"rank [01], step (\d|1[0-6]): the update of wild has NaN or infinity in it"):
        run(tiny | {"codec": {"kind": "cast", "dtype": "bfloat16"}}, tmp_path / "run", **settings)
