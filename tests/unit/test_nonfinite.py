"""Updates with NaN or infinity in them end a run with an error that names them, or are left out and counted."""

from __future__ import annotations

import numpy as np
import pytest
from patience import PATIENT

import psgdsim
from psgdsim.errors import CodecError


def run(tmp_path, mode="sim", **changes):
    scenario = {
        "name": "nonfinite",
        "seed": 1,
        "world_size": 2,
        "model": {"kind": "overflowing_of_a_test"},
        "data": {"kind": "none", "num_samples": 32},
        "batch_size": 1,
        "optimizer": {"kind": "sgd", "learning_rate": 0.1},
        "strategy": {"kind": "parameter_server"},
        "codec": {"kind": "cast", "dtype": "bfloat16"},
        "topology": {"kind": "star", "bandwidth": None, "latency": "0 s"},
        "plugins": ["overflowing"],
        "epochs": 1,
        "evaluate": {"every": None},
        **changes,
    }
    return psgdsim.run(scenario, mode=mode, out=tmp_path / mode)


@pytest.mark.parametrize("execution", ["exact", "batched"])
def test_the_error_names_rank_step_and_leaf(execution, tmp_path):
    with pytest.raises(CodecError, match=r"rank [01], step \d+: the update of wild has NaN or infinity in it"):
        run(tmp_path, execution=execution)


@pytest.mark.parametrize("execution", ["exact", "batched"])
def test_updates_that_are_skipped_are_counted(execution, tmp_path):
    result = run(tmp_path, execution=execution, on_nonfinite="skip")
    assert result.summary["skipped_updates"] == 2  # the rows 0 and 16, each once
    assert result.summary["status"] == "completed"


@pytest.mark.parametrize(
    ("strategy", "codec"),
    [
        ({"kind": "all_reduce"}, {"kind": "power_sgd", "rank": 1}),
        ({"kind": "all_reduce"}, {"kind": "error_feedback", "codec": {"kind": "power_sgd", "rank": 1}}),
        ({"kind": "laq"}, {"kind": "identity"}),
    ],
)
def test_sums_in_rounds_and_lazy_gradients_look_too(strategy, codec, tmp_path):
    result = run(tmp_path, strategy=strategy, codec=codec, on_nonfinite="skip")
    assert result.summary["skipped_updates"] == 2
    with pytest.raises(CodecError, match="the update of wild has NaN or infinity in it"):
        run(tmp_path / "fail", strategy=strategy, codec=codec)


@pytest.mark.parametrize("execution", ["exact", "batched"])
def test_what_is_too_large_for_a_codec_is_found_and_leaves_its_memory_whole(execution, tmp_path):
    changes = {
        "model": {"kind": "quadratic", "dim": 4, "noise": 1e6},
        "codec": {"kind": "error_feedback", "codec": {"kind": "cast", "dtype": "float16"}},
        "execution": execution,
    }
    with pytest.raises(CodecError, match=r"the update has values that are too large for the codec"):
        run(tmp_path, **changes)
    result = run(tmp_path / "skip", on_nonfinite="skip", **changes)
    assert result.summary["skipped_updates"] > 0
    assert all(np.isfinite(array).all() for array in result.params.values())


def test_updates_that_are_finite_are_not_counted(tmp_path):
    result = run(tmp_path, model={"kind": "quadratic", "dim": 4}, on_nonfinite="skip")
    assert "skipped_updates" not in result.summary


@pytest.mark.real
@pytest.mark.timeout(120)
def test_real_mode_skips_and_counts_the_same(tmp_path):
    changes = {"on_nonfinite": "skip", "execution": "exact", **PATIENT}
    sim, real = (run(tmp_path, mode, **changes).summary for mode in ("sim", "real"))
    assert real["skipped_updates"] == sim["skipped_updates"] == 2
    assert real["params_sha256"] == sim["params_sha256"]


@pytest.mark.real
@pytest.mark.timeout(120)
def test_real_mode_fails_with_the_same_error(tmp_path):
    with pytest.raises(Exception, match=r"step \d+: the update of wild has NaN or infinity in it"):
        run(tmp_path, "real", **PATIENT)
