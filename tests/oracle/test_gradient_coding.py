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
from psgdsim.strategies.gradient_codes_approximate import BernoulliCode, StochasticCode

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


# --- codes that are not exact ---------------------------------------------------------------------------------


def parts_of(code, gradients):
    """Return what each worker sends, `(worker, dim)`."""
    return np.stack([sum(c * gradients[b] for b, c in code.row(worker).items()) for worker in range(code.num)])


def test_independent_stragglers_leave_the_mean_and_a_known_variance():
    # 12 blocks, 3 copies, each worker missing with probability 0.2: p / (1 - p) * sum_j |u_j|^2 (Bitar et al., 2019).
    code = StochasticCode(12, 0, 3, probability=0.2)
    gradients = np.random.default_rng(1).standard_normal((12, 5))
    parts, [weight] = parts_of(code, gradients), set(code.weights(range(12)).values())
    there = np.random.default_rng(2).random((400_000, 12)) < 0.8
    estimates = weight * (there @ parts)
    error = estimates.std(axis=0) / np.sqrt(len(estimates))
    assert (abs(estimates.mean(axis=0) - gradients.sum(axis=0)) < 4 * error).all()
    assert estimates.var(axis=0).sum() == pytest.approx(0.2 / 0.8 * (parts**2).sum(), rel=0.02)


@pytest.mark.parametrize(("num", "stragglers", "copies"), [(12, 2, 3), (7, 3, 2), (6, 1, 6), (5, 2, 1)])
def test_a_known_number_of_stragglers_leaves_the_mean_and_a_known_variance(num, stragglers, copies):
    code = make_code("stochastic", num, stragglers, copies=copies)
    gradients = np.random.default_rng(3).standard_normal((num, 4))
    parts, estimates = parts_of(code, gradients), []
    for survivors in itertools.combinations(range(num), num - stragglers):
        estimates.append(sum(weight * parts[worker] for worker, weight in code.weights(survivors).items()))
    np.testing.assert_allclose(np.mean(estimates, axis=0), gradients.sum(axis=0), rtol=1e-12, atol=1e-12)
    variance = num * stragglers / (num - stragglers) * parts.var(axis=0, ddof=1)
    np.testing.assert_allclose(np.var(estimates, axis=0), variance, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("num", "copies", "together"), [(12, 3, 1), (13, 4, 1), (12, 1, 0), (6, 3, 2), (5, 5, 5)])
def test_blocks_are_spread_so_that_few_are_together_on_many_workers(num, copies, together):
    code = StochasticCode(num, 1, copies)
    holders = np.array([[block in code.row(worker) for block in range(num)] for worker in range(num)]).astype(int)
    counts = holders.T @ holders
    assert set(np.diag(counts)) == {copies}
    assert (counts - np.diag(np.diag(counts))).max() == together


@pytest.mark.parametrize(("num", "copies"), [(10, 3), (12, 1), (8, 8), (40, 4)])
def test_random_blocks_are_decoded_as_nearly_as_can_be(num, copies):
    code = BernoulliCode(num, 2, copies, seed=4)
    rows = np.array([[code.row(worker).get(block, 0.0) for block in range(num)] for worker in range(num)])
    assert rows.any(axis=0).all()
    assert rows.any(axis=1).all()
    assert rows.sum() == pytest.approx(num * copies, rel=0.5)
    for seed in range(20):
        survivors = sorted(np.random.default_rng(seed).permutation(num)[2:].tolist())
        weights = code.weights(survivors)
        assert list(weights) == survivors
        inverse = np.linalg.pinv(rows[survivors].T)
        best = ((rows[survivors].T @ (inverse @ np.ones(num)) - 1) ** 2).sum()
        assert code.error(weights) == pytest.approx(best, abs=1e-6)
        assert max(map(abs, weights.values())) < 1e3
        assert best < 1e-9 or copies < num


def test_exact_codes_have_no_error():
    for name in ("cyclic_repetition", "fractional_repetition"):
        code = make_code(name, 6, 2)
        assert code.is_exact
        assert code.error(code.weights([0, 2, 3, 5])) < 1e-18
    code = make_code("stochastic", 6, 2)
    assert not code.is_exact
    # Offsets 0, 1, 3: by hand, the counts of the blocks are 6/4 * (1, 1/3, 2/3, 1, 1/3, 2/3) in some order.
    assert code.error(dict.fromkeys(range(6), 1.5)) == pytest.approx(6 * 0.25)


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


@pytest.mark.parametrize(("code", "copies"), [("stochastic", 1), ("stochastic", 3), ("bernoulli", 6)])
def test_without_stragglers_the_steps_are_those_of_synchronous_sgd(code, copies, tiny):
    strategy = {**coded(0, code), "copies": copies}
    models, sync = (simulate(each, tiny, world_size=6, max_steps=8).models[0] for each in (strategy, SYNC))
    for one, other in zip(leaves(models), leaves(sync), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=3e-6)


def test_one_copy_of_each_block_ignores_stragglers(tiny):
    compute = {"kind": "fixed_slow_set", "time": "10 ms", "delay": "1 s", "ranks": [1, 4]}
    changes = {"world_size": 6, "compute": compute}
    models = simulate({**coded(2, "stochastic"), "copies": 1}, tiny, **changes).models[0]
    task = build(from_dict({**tiny, **changes})).task
    state, blocks = task.init.function(0, None), task.blocks(6)
    for step in task.steps():
        ids = [blocks.ids(step, rank) for rank in (0, 2, 3, 5)]
        _, gradients = task.gradients.function([state.params] * 4, ids)
        state = task.apply.function(state, task.weighted_sum.function([0.25] * 4, gradients))
    for one, two in zip(leaves(models), leaves(state.params), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("code", ["stochastic", "bernoulli"])
def test_gradients_that_are_not_exact_train_nearly_as_well(code, tiny, tmp_path):
    changes = {"world_size": 8, "max_steps": 60, "compute": {"kind": "exponential", "mean": "10 ms"}}
    changes |= {"optimizer": {"kind": "sgd", "learning_rate": 0.3}, "execution": "exact"}
    strategy = {**coded(2, code), "copies": 3}
    result, sync = (
        psgdsim.run({**tiny, **changes, "strategy": each}, out=tmp_path / each["kind"]) for each in (strategy, SYNC)
    )
    assert sync.summary["final"]["test_accuracy"] - result.summary["final"]["test_accuracy"] < 0.1
    errors = result.steps["decoding_error"][result.steps["rank"] == 8]
    assert 0 < errors.mean() < 2


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


def test_results_reach_the_run_folder(tiny, tmp_path):
    compute = {"kind": "fixed_slow_set", "time": "10 ms", "delay": "1 s", "ranks": [4]}
    scenario = {**tiny, "world_size": 6, "strategy": coded(1), "compute": compute}
    result = psgdsim.run(scenario, out=tmp_path / "run")
    steps = result.steps
    assert list(steps["is_used"][steps["rank"] < 6]) == list(steps["rank"][steps["rank"] < 6] != 4)
    assert np.isnan(steps["loss"][steps["rank"] == 4]).all()
    assert steps["amplification"][steps["rank"] == 6].min() >= 1
    assert steps["amplification"][steps["rank"] == 6].max() < 1e3
