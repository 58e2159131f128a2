"""Strategies that are the same in a limit end with the same parameters, in float64.

The built-in models are float32 by their definition, so that jax's x64 mode alone changes nothing; the model here is
not. The kernels of a task keep what they are given, but weights of sums and the learning rate are rounded to float32:
with four workers of equal rows all weights are powers of two, and the rate is the same on both sides.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psgdsim.models.base import Model, register_model
from psgdsim.testing.schedules import tiny_scenario
from psgdsim.testing.training import run_scenario

TOLERANCE = 1e-12
"""Some ten steps on weights of about 1, each of a few roundings by 2^-53, 1e-16; far below float32's 1e-7."""


@register_model("double_quartic_of_a_test")
def double_quartic() -> Model:
    """Minimise a convex function that is no quadratic, other for each row, in float64."""

    def goal(ids):
        return jnp.sin(jnp.asarray(ids, jnp.float64)[:, None] * jnp.arange(1.0, 5.0, dtype=jnp.float64))

    def apply(params, ids):
        offset = params["weight"] - goal(ids)
        return jnp.sum(0.5 * offset**2 + 0.1 * offset**4, axis=1)

    return Model(lambda *_: {"weight": jnp.ones(4, jnp.float64)}, apply, loss=lambda outputs, _targets: outputs)


def server(sync, **parameters):
    return {"kind": "parameter_server", "sync": sync, **parameters}


def local(kind="local_sgd", period=3, **parameters):
    return {"kind": kind, "period": period, **parameters}


SYNC = server("bsp")
LATE = server("async")
ALGORITHMS = ["broadcast", "ring", "recursive_doubling", "halving_doubling", "tree", "pipelined_tree"]
MOMENTUM = {"optimizer": {"kind": "momentum", "learning_rate": 0.05, "momentum": 0.6}}

CASES = {
    **{f"{name} = sync": ({"kind": "all_reduce", "algorithm": name}, SYNC, {}) for name in ALGORITHMS},
    "hierarchical = sync": ({"kind": "all_reduce", "algorithm": "hierarchical", "group_size": 2}, SYNC, {}),
    "leaders = sync": ({"kind": "all_reduce", "algorithm": "leaders", "group_size": 2}, SYNC, {}),
    "backup 0 = sync": (server("backup", backup=0), SYNC, MOMENTUM),
    "k_sync N = sync": (server("k_sync", k=4), SYNC, MOMENTUM),
    "k_async N = sync": (server("k_async", k=4), SYNC, MOMENTUM),
    "k_async 1 = async": (server("k_async", k=1), LATE, MOMENTUM),
    "k_batch_async 1 = async": (server("k_batch_async", k=1), LATE, MOMENTUM),
    "unbounded ssp = async": (server("ssp", staleness_bound=10**6), LATE, MOMENTUM),
    "lambda 0 = async": (server("async", delay_compensation={"kind": "constant", "lambda0": 0.0}), LATE, MOMENTUM),
    "local steps 1 = sync": (local(period=1), SYNC, {}),
    "averaged momentum, local steps 1 = sync": (local(period=1, buffers="average"), SYNC, MOMENTUM),
    "slow_mo 1, 0 = local": (local("slow_mo", slow_momentum=0.0), local(buffers="reset"), MOMENTUM),
    "slow_mo of step 1 = momentum": (
        local("slow_mo", 1, slow_momentum=0.5),
        SYNC,
        ({}, {"optimizer": {"kind": "momentum", "learning_rate": 0.1, "momentum": 0.5}}),
    ),
    "diloco 1, 0 = local": (local("diloco", outer_learning_rate=1.0, outer_momentum=0.0), local(), MOMENTUM),
    "bmuf = slow_mo": (
        local("bmuf", block_momentum=0.5, block_learning_rate=0.75),
        local("slow_mo", slow_momentum=0.5, slow_learning_rate=0.75),
        {"optimizer": {"kind": "sgd", "learning_rate": 0.125}},  # slow_mo divides by the rate and multiplies again
    ),
    "d_psgd with all, after the step = sync": (
        {"kind": "d_psgd", "graph": "complete", "mix": "after_step"},
        SYNC,
        {},
    ),
    "sgp with all = sync": ({"kind": "sgp", "graph": "complete"}, SYNC, {}),
    "lag, xi 0 = sync": ({"kind": "lag", "xi": 0.0}, SYNC, {}),
    "fedavg of all, one epoch, all rows at once = sync": (
        {"kind": "fedavg", "client_fraction": 1.0, "local_epochs": 1, "full_batch": True},
        SYNC,
        {"data": {"kind": "none", "num_samples": 32}, "batch_size": 8},
    ),
    "top_k of all = sync": (SYNC, SYNC, ({"codec": {"kind": "top_k", "ratio": 1.0}}, {})),
    "ef21 of the identity = sync": (SYNC, SYNC, ({"codec": {"kind": "ef21", "codec": {"kind": "identity"}}}, {})),
    "one shard per parameter = sync": (server("bsp", servers=4), SYNC, MOMENTUM),
    "buckets = sync": ({"kind": "all_reduce", "bucket_size": "1 B"}, SYNC, {}),
    "micro-batches = sync": ({"kind": "all_reduce", "accumulation": 2}, SYNC, {}),
    "coded, s 0 = sync": ({"kind": "gradient_coding", "stragglers": 0}, SYNC, MOMENTUM),
    "repeated, s 1 = sync": (
        {"kind": "gradient_coding", "stragglers": 1, "code": "fractional_repetition"},
        SYNC,
        MOMENTUM,
    ),
}


def train(strategy, changes):
    scenario = {
        **tiny_scenario(strategy, 4),
        "model": {"kind": "double_quartic_of_a_test"},
        "compute": {"kind": "shifted_exponential", "shift": "10 ms", "mean": "30 ms"},
        "max_steps": 10,
        **changes,
    }
    [model] = run_scenario(scenario).models
    assert model["weight"].dtype == np.float64
    return model["weight"]


@pytest.mark.parametrize("case", CASES)
def test_both_end_alike(case):
    one, other, changes = CASES[case]
    pair = changes if isinstance(changes, tuple) else (changes, changes)
    with jax.enable_x64(True):
        weights = [train(*each) for each in zip((one, other), pair, strict=True)]
    np.testing.assert_allclose(*weights, rtol=TOLERANCE, atol=TOLERANCE)
