"""The strategy `all_reduce`: all algorithms train the same model, and wrong settings are named."""

from __future__ import annotations

import numpy as np
import pytest

import psgdsim
from psgdsim.errors import ScenarioError

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
    ],
)
def test_wrong_settings_are_one_clear_error(settings, key, message, tiny, tmp_path):
    tiny["world_size"] = 6
    with pytest.raises(ScenarioError) as caught:
        run(tiny, tmp_path / "run", **settings)
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).startswith(key)
    assert message in str(caught.value)
