"""Gradient coding over TCP: the gradient is exact whoever comes first, so the parameters are those of a simulation."""

from __future__ import annotations

import numpy as np
import pytest
from small_scenario import SMALL

import psgdsim

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

CODED = {**SMALL, "world_size": 4, "execution": "exact"}


@pytest.mark.parametrize(
    ("code", "stragglers"), [("fractional_repetition", 1), ("fractional_repetition", 3), ("cyclic_repetition", 2)]
)
def test_both_modes_end_with_the_same_parameters(code, stragglers, tmp_path):
    strategy = {"kind": "gradient_coding", "code": code, "stragglers": stragglers}
    sim, real = (
        psgdsim.run({**CODED, "strategy": strategy}, mode=mode, out=tmp_path / mode) for mode in ("sim", "real")
    )
    assert (real.summary["status"], real.summary["steps"]) == ("completed", 20)
    if code == "fractional_repetition":  # sums of the same gradients in the same order
        assert real.summary["params_sha256"] == sim.summary["params_sha256"]
    for name, values in sim.params.items():
        np.testing.assert_allclose(real.params[name], values, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(real.evals["train_loss"], sim.evals["train_loss"], rtol=1e-4)
    steps = real.steps
    for rank in range(4):
        assert list(steps["step"][steps["rank"] == rank]) == list(range(1, 21))
    used = np.array([steps["is_used"][steps["rank"] == rank] for rank in range(4)]).sum(axis=0)
    expected = 4 // (stragglers + 1) if code == "fractional_repetition" else 4 - stragglers
    assert list(used) == [expected] * 20
    size = 4 * (64 + 1) * 10
    assert real.summary["bytes"]["sent"][4] >= 19 * 4 * size
    # Up go the sums that were used at least, and those of all workers at most.
    assert 20 * (4 - stragglers) * size <= real.summary["bytes"]["payload_total"] - 19 * 4 * size <= 20 * 4 * size


@pytest.mark.parametrize("code", [{}, {"code": "stochastic", "copies": 2}, {"code": "bernoulli", "copies": 2}], ids=str)
def test_a_run_without_stragglers_sends_the_same_bytes_in_both_modes(code, tmp_path):
    strategy = {"kind": "gradient_coding", "stragglers": 0, **code}
    sim, real = (
        psgdsim.run({**CODED, "strategy": strategy}, mode=mode, out=tmp_path / mode) for mode in ("sim", "real")
    )
    assert real.summary["params_sha256"] == sim.summary["params_sha256"]
    assert real.summary["bytes"]["sent"] == sim.summary["bytes"]["sent"]
