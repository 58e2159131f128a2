"""Batched execution computes what exact execution computes, but for rounding; times and bytes are the very same."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from psgdsim import scenario
from psgdsim.compilation import compile_clock
from psgdsim.scenario.experiment import build
from psgdsim.sim import execution
from psgdsim.sim.driver import run_sim
from psgdsim.trace import Outcome

TOLERANCE = 1e-5
"""Largest difference of a parameter, relative to the largest parameter."""

STRATEGIES: dict[str, dict[str, Any]] = {
    "ring": {"kind": "all_reduce", "algorithm": "ring"},
    "tree": {"kind": "all_reduce", "algorithm": "tree"},
    "halving_doubling": {"kind": "all_reduce", "algorithm": "halving_doubling"},
    "broadcast": {"kind": "all_reduce", "algorithm": "broadcast"},
    "broadcast_redundant": {"kind": "all_reduce", "algorithm": "broadcast", "redundancy": 2},
    "ccdc": {"kind": "coded_shuffle", "code": "ccdc", "redundancy": 2},
    "parameter_server": {"kind": "parameter_server", "sync": "bsp"},
    "parameter_server_async": {"kind": "parameter_server", "sync": "async"},
}
CODECS: dict[str, dict[str, Any]] = {
    "identity": {"kind": "identity"},
    "cast": {"kind": "cast", "dtype": "bfloat16"},
    "top_k": {"kind": "error_feedback", "codec": {"kind": "top_k", "ratio": 0.25}},
}


def outcome(kind: str, **changes: Any) -> Outcome:
    """Run a small scenario."""
    base = {
        "name": "execution",
        "world_size": 4,
        "batch_size": 8,
        "max_steps": 12,
        "model": {"kind": "mlp", "hidden": [16]},
        "data": {"kind": "synthetic_classification", "num_samples": 200, "num_features": 6, "num_classes": 3},
        "optimizer": {"kind": "adam", "learning_rate": 0.01},
        "topology": {"kind": "star", "bandwidth": "100 Mbit/s", "latency": "50 us"},
        "compute": {"kind": "exponential", "mean": "1 ms"},
        "evaluate": {"every": "5 steps"},
    }
    found = run_sim(build(scenario.from_dict({**base, "execution": kind, **changes})))
    if found.error is not None:
        raise found.error
    return found


def same_but_for_rounding(exact: Outcome, batched: Outcome) -> None:
    """Hold two outcomes against each other."""
    assert batched.time == exact.time
    for one, other in zip(exact.reports, batched.reports, strict=True):
        assert (other.sent_nbytes, other.payload_nbytes) == (one.sent_nbytes, one.payload_nbytes)
        assert [row["time"] for row in other.rows] == [row["time"] for row in one.rows]
        for row, twin in zip(one.rows, other.rows, strict=True):
            if "loss" in row:
                assert twin["loss"] == pytest.approx(row["loss"], rel=1e-4)
    for leaf, twin in zip(jax.tree.leaves(exact.models), jax.tree.leaves(batched.models), strict=True):
        assert np.abs(leaf - twin).max() <= TOLERANCE * max(1e-30, np.abs(leaf).max())
    assert [row["step"] for row in batched.evals] == [row["step"] for row in exact.evals]
    for row, twin in zip(exact.evals, batched.evals, strict=True):
        assert twin["test_loss"] == pytest.approx(row["test_loss"], rel=1e-4)


PAIRS = [
    ("ring", "identity"),
    ("tree", "identity"),
    ("halving_doubling", "identity"),
    ("broadcast", "top_k"),
    ("broadcast_redundant", "cast"),
    ("ccdc", "identity"),
    ("parameter_server", "identity"),
    ("parameter_server", "top_k"),
    ("parameter_server_async", "identity"),
    ("parameter_server_async", "top_k"),
]


@pytest.mark.parametrize(("strategy", "codec"), PAIRS)
def test_batched_execution_agrees_with_exact_execution(
    strategy: str, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "NUM_ALONE", 0)
    changes = {"strategy": STRATEGIES[strategy], "codec": CODECS[codec]}
    same_but_for_rounding(outcome("exact", **changes), outcome("batched", **changes))


def test_a_short_run_makes_its_calls_one_by_one_with_the_same_result() -> None:
    changes = {"strategy": STRATEGIES["parameter_server_async"]}
    same_but_for_rounding(outcome("exact", **changes), outcome("batched", **changes))


def test_a_synchronous_round_compiles_once_however_many_rounds_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "NUM_ALONE", 0)
    monkeypatch.setattr(execution, "MAX_GRADIENTS", 16)
    clock, counts = compile_clock(), []
    for steps in (16, 48):
        before = clock.num_programs
        outcome("batched", strategy=STRATEGIES["parameter_server"], max_steps=steps, evaluate={"every": None})
        counts.append(clock.num_programs - before)
    assert counts[1] <= counts[0]
