"""Gradient coding: the exact gradient from every set of survivors, and the step times of the theory."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from fault_cases import BASE

import psgdsim
from psgdsim import rng
from psgdsim.compute_times import ComputeTime, register_compute_time
from psgdsim.scenario import from_dict
from psgdsim.scenario.experiment import build
from psgdsim.sim.driver import run_sim
from psgdsim.strategies.gradient_codes import make_code

FREE = {"kind": "star", "bandwidth": None, "latency": "0 s"}
SYNC = {"kind": "parameter_server"}
SETTINGS = [
    ("cyclic_repetition", 6, 2),
    ("cyclic_repetition", 5, 1),
    ("cyclic_repetition", 10, 3),
    ("cyclic_repetition", 4, 3),
    ("fractional_repetition", 6, 2),
    ("fractional_repetition", 8, 1),
    ("fractional_repetition", 9, 2),
]


def coded(stragglers, code="cyclic_repetition"):
    return {"kind": "gradient_coding", "stragglers": stragglers, "code": code}


def simulate(strategy, scenario=BASE, **changes):
    more = {"topology": FREE, "evaluate": {"every": None}, "execution": "exact", "strategy": strategy}
    outcome = run_sim(build(from_dict({**scenario, **more, **changes})))
    assert outcome.error is None
    return outcome


# --- the codes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "num", "stragglers"), SETTINGS)
def test_every_set_of_survivors_gives_the_sum_over_all_blocks(name, num, stragglers):
    code = make_code(name, num, stragglers)
    gradients = np.random.default_rng(1).standard_normal((num, 5))
    sums = [sum(weight * gradients[block] for block, weight in code.row(worker).items()) for worker in range(num)]
    for survivors in itertools.combinations(range(num), num - stragglers):
        weights = code.weights(survivors)
        assert set(weights) <= set(survivors)
        decoded = sum(weight * sums[worker] for worker, weight in weights.items())
        bound = 1e-9 * max(map(abs, weights.values()))  # the linear systems are solved in float64
        np.testing.assert_allclose(decoded, gradients.sum(axis=0), rtol=0, atol=bound)


@pytest.mark.parametrize(("num", "stragglers"), [(6, 2), (5, 1), (10, 3)])
def test_one_straggler_more_is_too_many_for_a_cyclic_code(num, stragglers):
    code = make_code("cyclic_repetition", num, stragglers)
    for survivors in itertools.combinations(range(num), num - stragglers - 1):
        assert code.weights(survivors) is None


def test_repetition_needs_one_of_each_group_and_no_more():
    code = make_code("fractional_repetition", 6, 2)
    for survivors in itertools.combinations(range(6), 2):
        assert (code.weights(survivors) is None) == (len({worker // 3 for worker in survivors}) < 2)


# --- training -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [{"batch_size": 8}, {"batch_size": None, "global_batch_size": 41}])
@pytest.mark.parametrize("strategy", [coded(0), coded(2), coded(2, "fractional_repetition"), coded(1)])
def test_whoever_straggles_the_steps_are_those_of_synchronous_sgd(strategy, rows, tiny):
    changes = {**rows, "world_size": 6, "max_steps": 8, "compute": {"kind": "exponential", "mean": "10 ms"}}
    models, sync = (simulate(each, tiny, **changes).models[0] for each in (strategy, SYNC))
    for one, other in zip(leaves(models), leaves(sync), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=3e-6)


def leaves(tree):
    import jax

    return jax.tree.leaves(tree)


def test_repeated_sums_are_the_same_bits_whoever_straggles(tiny):
    slow = [{"kind": "fixed_slow_set", "time": "10 ms", "delay": "1 s", "ranks": ranks} for ranks in ([0, 4], [1, 2])]
    models = [
        simulate(coded(2, "fractional_repetition"), tiny, world_size=6, compute=compute).models for compute in slow
    ]
    for one, other in zip(*map(leaves, models), strict=True):
        np.testing.assert_array_equal(one, other)


def test_one_worker_is_plain_sgd(tiny):
    one, plain = (simulate(each, tiny, world_size=1).models for each in (coded(0), SYNC))
    for leaf, other in zip(leaves(one), leaves(plain), strict=True):
        np.testing.assert_array_equal(leaf, other)


# --- time -----------------------------------------------------------------------------------------------------


@register_compute_time("additive_tail_of_a_test")
def additive_tail() -> ComputeTime:
    """Take 0.1 s per block of a step, and an exponential tail of mean 1 s that does not depend on the load."""

    def start(_rank, generator):
        return lambda _now, load: 0.1 * load + float(generator.exponential(1.0))

    return ComputeTime(start, 1.1)


@pytest.mark.parametrize(("name", "stragglers"), [("cyclic_repetition", 2), ("fractional_repetition", 2)])
def test_a_step_lasts_until_all_but_s_are_there(name, stragglers):
    # Everybody begins anew in every step, so each worker draws once per step: the order statistics of these draws.
    compute = {"kind": "additive_tail_of_a_test"}
    outcome = simulate(coded(stragglers, name), world_size=6, compute=compute, max_steps=40)
    draws = np.array([rng.stream(BASE["seed"], "compute", rank).exponential(1.0, 40) for rank in range(6)])
    steps = 0.1 * (stragglers + 1) + np.sort(draws, axis=0)[5 - stragglers]
    np.testing.assert_allclose([row["time"] for row in outcome.reports[6].rows], np.cumsum(steps), rtol=1e-9)


@pytest.mark.parametrize(
    ("stragglers", "expected", "scaled"), [(0, 3.698, 3.698), (1, 2.798, 5.395), (3, 2.164, 7.458)]
)
def test_when_coding_pays(stragglers, expected, scaled):
    # E = (s + 1) c + (H_n - H_s) / mu; if the tail grows with the load, too, (s + 1) (c + (H_n - H_s) / mu).
    # 200 steps of a maximum whose deviation is about 1.2 s: 5 % are 2 to 3 deviations of the mean.
    compute = {"kind": "additive_tail_of_a_test"}
    more = {"world_size": 20, "max_steps": 200, "batch_size": 1}
    outcome = simulate(coded(stragglers, "fractional_repetition"), compute=compute, **more)
    assert outcome.time / 200 == pytest.approx(expected, rel=0.05)
    compute = {"kind": "shifted_exponential", "shift": "100 ms", "mean": "1 s"}
    outcome = simulate(coded(stragglers, "fractional_repetition"), compute=compute, **more)
    assert outcome.time / 200 == pytest.approx(scaled, rel=0.05)


def test_results_reach_the_run_folder(tiny, tmp_path):
    compute = {"kind": "fixed_slow_set", "time": "10 ms", "delay": "1 s", "ranks": [4]}
    scenario = {**tiny, "world_size": 6, "strategy": coded(1), "compute": compute}
    result = psgdsim.run(scenario, out=tmp_path / "run")
    steps = result.steps
    assert list(steps["is_used"][steps["rank"] < 6]) == list(steps["rank"][steps["rank"] < 6] != 4)
    assert np.isnan(steps["loss"][steps["rank"] == 4]).all()
    assert steps["amplification"][steps["rank"] == 6].min() >= 1
    assert steps["amplification"][steps["rank"] == 6].max() < 1e3
