"""Compute times against closed forms: means, order statistics of N ranks, stationary shares, counted operations.

Samples are drawn from fixed seeds. Where a mean of n samples is compared with a closed form, the bound is Z standard
errors of that mean: the chance that a right model fails with another seed is one in 100,000 per comparison.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path

import numpy as np
import pytest

import psgdsim
from psgdsim import rng
from psgdsim.compute_times import (
    bernoulli_slowdown,
    constant,
    exponential,
    fixed_slow_set,
    load_scaled_shifted_exponential,
    lognormal,
    markov,
    pareto,
    shifted_exponential,
    trace_file,
)
from psgdsim.errors import ScenarioError
from psgdsim.results import load_run
from psgdsim.scenario import from_dict
from psgdsim.scenario.calibration import TaskOnThisMachine
from psgdsim.scenario.experiment import build

Z = 4.417
SAMPLES = 100_000
SCENARIOS = Path(__file__).parents[2] / "scenarios"


def times(model, num_ranks=1, *, samples=SAMPLES, load=1.0, seed=7):
    """Return the times of each rank [s], drawn as the simulator draws them: one stream per rank."""
    draws = [model.start(rank, rng.stream(seed, "compute", rank)) for rank in range(num_ranks)]
    return np.asarray([[draw(0.0, load) for _ in range(samples)] for draw in draws])


def assert_mean(values, expected):
    error = values.std(ddof=1) / math.sqrt(len(values))
    assert abs(values.mean() - expected) < Z * error, f"{values.mean()} +- {error}, expected {expected}"


def harmonic(n):
    return math.fsum(1 / k for k in range(1, n + 1))


def exponential_order(k, n):
    return harmonic(n) - harmonic(n - k)


def pareto_order(k, n, shape):
    gamma = math.lgamma
    return math.exp(gamma(n + 1) + gamma(n - k + 1 - 1 / shape) - gamma(n - k + 1) - gamma(n + 1 - 1 / shape))


@functools.cache
def ordered_pareto(shape):
    """Return the sorted times of 8 ranks in each round: row k - 1 has the k-th smallest."""
    return np.sort(times(pareto(1.0, shape), 8), axis=0)


# --- the closed forms themselves ------------------------------------------------------------------------------------


def test_closed_forms_have_the_published_values():
    assert [round(exponential_order(k, 8), 6) for k in (1, 4, 8)] == [0.125, 0.634524, 2.717857]
    assert [round(exponential_order(k, 16), 6) for k in (12, 16)] == [1.297396, 3.380729]
    pareto_2 = [round(pareto_order(k, 8, 2), 3) for k in range(1, 9)]
    assert pareto_2 == [1.067, 1.149, 1.253, 1.392, 1.591, 1.91, 2.546, 5.092]
    assert round(pareto_order(8, 8, 3), 3) == 2.746
    assert round(pareto_order(8, 8, 1.259), 2) == 23.48


# --- order statistics -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_ranks", [8, 16])
def test_exponential(num_ranks):
    values = np.sort(times(exponential(1.0), num_ranks), axis=0)
    for k in range(1, num_ranks + 1):
        assert_mean(values[k - 1], exponential_order(k, num_ranks))


@pytest.mark.parametrize("load", [1.0, 7.0, 0.25])
def test_load_scaled_shifted_exponential(load):
    # P(T <= t) = 1 - exp(-(mu / load) (t - a load)), a = 2 s, a mu = 0.8.
    values = np.sort(times(load_scaled_shifted_exponential(2.0, 0.8), 8, samples=20_000, load=load), axis=0)
    assert values.min() >= 2.0 * load
    for k in range(1, 9):
        assert_mean(values[k - 1], load * (2.0 + exponential_order(k, 8) * 2.0 / 0.8))


def test_shifted_exponential():
    values = np.sort(times(shifted_exponential(1.0, 1.0), 8, samples=20_000), axis=0)
    for k in range(1, 9):
        assert_mean(values[k - 1], 1.0 + exponential_order(k, 8))


@pytest.mark.parametrize(("shape", "largest"), [(2.0, 7), (3.0, 8), (1.259, 6)])
def test_pareto(shape, largest):
    # The k-th smallest of 8 has a finite variance while (9 - k) * shape > 2; beyond that see the medians.
    values = ordered_pareto(shape)
    for k in range(1, largest + 1):
        assert_mean(values[k - 1], pareto_order(k, 8, shape))


@pytest.mark.parametrize("shape", [2.0, 3.0, 1.259, 0.8])
def test_median_of_the_slowest_where_the_variance_is_infinite(shape):
    # P(max <= x) = (1 - x**-shape)**8 = 1/2; the share of samples below has the variance of a fair coin.
    median = (1 - 0.5 ** (1 / 8)) ** (-1 / shape)
    below = np.mean(ordered_pareto(shape)[-1] < median)
    assert abs(below - 0.5) < Z * 0.5 / math.sqrt(SAMPLES)


@pytest.mark.parametrize(("num_ranks", "expected"), [(8, 2.138940), (16, 2.513190)])
def test_slowest_of_lognormal_times(num_ranks, expected):
    assert_mean(times(lognormal(1.0, 0.5), num_ranks).max(axis=0), expected)


def test_bernoulli_slowdown():
    values = np.sort(times(bernoulli_slowdown(1.0, 4.0, 0.1), 8), axis=0)
    binomial = [math.comb(8, j) * 0.1**j * 0.9 ** (8 - j) for j in range(9)]
    expected = [1.0 + 4.0 * sum(binomial[8 - k + 1 :]) for k in range(1, 9)]
    assert round(expected[5], 6) == 1.152367
    for k in range(4, 9):  # the faster ones are delayed in one round of 2,000 or less
        assert_mean(values[k - 1], expected[k - 1])
    assert set(np.unique(values)) == {1.0, 5.0}


# --- means ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model",
    [
        exponential(0.3),
        shifted_exponential(0.2, 0.1),
        load_scaled_shifted_exponential(0.2, 2.0),
        pareto(0.5, 3.0),
        lognormal(2.0, 0.25),
        bernoulli_slowdown(1.0, 8.0, 0.05),
    ],
)
def test_mean_is_that_of_the_samples(model):
    assert_mean(times(model)[0], model.mean)


def test_exact_means():
    assert constant(3.0).mean == 3.0
    assert lognormal(1.0, 0.5).mean == pytest.approx(math.exp(0.125), rel=1e-15)
    assert pareto(1.0, 1.0).mean == math.inf
    assert load_scaled_shifted_exponential(2.0, 0.5).mean == 6.0
    assert fixed_slow_set(1.0, 4.0, [0]).mean == 1.0


@pytest.mark.parametrize("load", [0.5, 7.0])
@pytest.mark.parametrize(
    "model", [constant(1.5), exponential(1.0), shifted_exponential(1.0, 2.0), pareto(1.0, 2.5), lognormal(1.0, 0.5)]
)
def test_times_are_proportional_to_the_load(model, load):
    assert np.array_equal(times(model, samples=100, load=load), times(model, samples=100) * load)


@pytest.mark.parametrize("load", [0.5, 7.0])
def test_delays_do_not_depend_on_the_load(load):
    slow = times(bernoulli_slowdown(1.0, 4.0, 1.0), samples=3, load=load)
    assert slow.tolist() == [[load + 4.0] * 3]
    both = times(fixed_slow_set(1.0, 4.0, [1]), 3, samples=2, load=load)
    assert both.tolist() == [[load] * 2, [load + 4.0] * 2, [load] * 2]


# --- two states -----------------------------------------------------------------------------------------------------


def test_markov_is_slow_for_its_stationary_share_from_the_first_computation_on():
    model = markov(1.0, 5.0, 0.1, 0.3)
    first = np.asarray([times(model, samples=1, seed=seed)[0, 0] == 5.0 for seed in range(4000)])
    assert_mean(first, 0.25)
    assert model.mean == 2.0


def test_markov_spells():
    is_slow = times(markov(1.0, 5.0, 0.1, 0.3))[0] == 5.0
    # Neighbours correlate with r = 1 - 0.1 - 0.3, so a mean of n samples is as good as one of n (1 - r) / (1 + r).
    error = math.sqrt(0.25 * 0.75 / len(is_slow) * (1 + 0.6) / (1 - 0.6))
    assert abs(is_slow.mean() - 0.25) < Z * error
    ends = np.flatnonzero(np.diff(is_slow.astype(int)))
    spells = np.diff(ends)  # alternately slow and fast
    first_is_slow = bool(is_slow[ends[0] + 1])
    slow, fast = (spells[0::2], spells[1::2]) if first_is_slow else (spells[1::2], spells[0::2])
    assert_mean(slow, 1 / 0.3)
    assert_mean(fast, 1 / 0.1)


# --- traces ---------------------------------------------------------------------------------------------------------


def test_trace_file(tmp_path):
    path = tmp_path / "factors.csv"
    path.write_text("t,worker,factor\n0.5,1,2\n\n1.5,1,0.5\n0,0,3\n")
    model = trace_file(str(path), 2.0)
    slow, changing, absent = (model.start(rank, rng.stream(0, "compute", rank)) for rank in range(3))
    assert [changing(now, 1.0) for now in (0.0, 0.4999, 0.5, 1.0, 1.5, 99.0)] == [2.0, 2.0, 4.0, 4.0, 1.0, 1.0]
    assert [slow(0.0, 1.0), slow(7.0, 0.5), absent(1.0, 3.0)] == [6.0, 3.0, 6.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ":1: expected the header 't,worker,factor'; got ''"),
        ("time,rank,factor\n", ":1: expected the header 't,worker,factor'; got 'time,rank,factor'"),
        ("t,worker,factor\n1,2\n", ":2: expected 3 values, t,worker,factor; got 2"),
        ("t,worker,factor\n-1,0,1\n", ":2: t: expected a time in seconds, at least 0; got '-1'"),
        ("t,worker,factor\nnan,0,1\n", ":2: t: expected a time in seconds, at least 0; got 'nan'"),
        ("t,worker,factor\n0,0,1\n1,1.5,1\n", ":3: worker: expected a rank, 0 to 99999; got '1.5'"),
        ("t,worker,factor\n0,0,0\n", ":2: factor: expected a number more than 0; got '0'"),
        ("t,worker,factor\n0,0,inf\n", ":2: factor: expected a number more than 0; got 'inf'"),
        ("t,worker,factor\n2,0,1\n2,0,1\n", ":3: t: expected more than 2, the time of worker 0 before; got 2"),
    ],
)
def test_wrong_trace_file(tmp_path, text, message):
    path = tmp_path / "factors.csv"
    path.write_text(text)
    with pytest.raises(ScenarioError) as caught:
        trace_file(str(path), 1.0).start(0, rng.stream(0, "compute", 0))
    assert str(caught.value) == f"compute.path: {path}{message}"


def test_trace_file_that_is_missing_or_no_text(tmp_path):
    for path, reason in ((tmp_path / "none.csv", "cannot be read: No such file"), (tmp_path / "x.csv", "in UTF-8")):
        (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(ScenarioError, match=reason):
            trace_file(str(path), 1.0).start(0, rng.stream(0, "compute", 0))


def test_trace_file_in_a_run(tiny, tmp_path):
    # Each of 4 steps takes as long as the slower of the two ranks named: 5, 5, 1 and 1 times 10 ms.
    (tmp_path / "factors.csv").write_text("t,worker,factor\n0,2,5\n0.1,2,1\n")
    tiny["topology"] = {"kind": "star", "bandwidth": None, "latency": "0 s"}
    tiny["compute"] = {"kind": "trace_file", "path": str(tmp_path / "factors.csv"), "time": "10 ms"}
    assert psgdsim.run(tiny, out=tmp_path / "run").summary["time_s"] == pytest.approx(0.12, rel=1e-12)


# --- from the task and the machine ----------------------------------------------------------------------------------


def test_flops_of_a_linear_model_are_those_of_its_products(tiny):
    # Forward: rows x inputs x outputs multiply-adds; backward: as many for the weights. The rest is of lower order.
    tiny["model"] = {"kind": "softmax_regression"}
    tiny["batch_size"] = 32
    experiment = build(from_dict(tiny))
    inputs, outputs = math.prod(experiment.task.dataset.input_shape), experiment.task.dataset.num_outputs
    products = 2 * 2 * 32 * inputs * outputs
    counted = TaskOnThisMachine(experiment.task, 32, None).flops()
    assert products <= counted < 1.1 * products


def test_flops_become_a_constant_in_the_run_folder(tiny, tmp_path):
    experiment = build(from_dict(tiny))
    counted = TaskOnThisMachine(experiment.task, 8, None).flops()
    tiny["compute"] = {"kind": "flops", "rate": "1 MFLOP/s"}
    tiny["topology"] = {"kind": "star", "bandwidth": None, "latency": "0 s"}
    result = psgdsim.run(tiny, out=tmp_path / "run")
    assert result.summary["time_s"] == pytest.approx(4 * counted / 1e6, rel=1e-9)
    resolved = psgdsim.scenario.load(load_run(tmp_path / "run").folder / "scenario.yaml")
    assert resolved.compute.kind == "constant"
    assert resolved.compute.parameters["time"] == counted / 1e6


def test_measured_is_the_median_by_the_clock_without_the_first_call(tiny):
    tiny["compute"] = {"kind": "measured", "repeats": 5}
    ticks = iter([0, 1000, 1000, 1003, 1003, 1004, 1004, 1006, 1006, 1015, 1015, 1017])
    experiment = build(from_dict(tiny), clock=lambda: float(next(ticks)))
    assert experiment.scenario.compute.kind == "constant"
    assert experiment.compute.mean == 2.0  # of 3, 1, 2, 9 and 2 s


def test_measured_needs_a_clock(tiny):
    with pytest.raises(ScenarioError, match="measured times need a clock"):
        build(from_dict({**tiny, "compute": {"kind": "measured"}}))


# --- in scenarios ---------------------------------------------------------------------------------------------------


def test_a_slow_rank_must_exist(tiny):
    tiny["compute"] = {"kind": "fixed_slow_set", "time": "1 ms", "delay": "1 s", "ranks": [1, 3]}
    with pytest.raises(ScenarioError, match="compute: expected ranks of 0 to 2; got 3"):
        from_dict(tiny)


def test_a_recorded_time_stays_the_same_bit_for_bit(tmp_path):
    result = psgdsim.run(SCENARIOS / "ccdc_8nodes.yaml", seed=1, out=tmp_path / "run")
    assert result.summary["time_s"] == 14.292251075984552
