"""When a parameter server updates: times and staleness against closed forms, corrections and limits against SGD."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from fault_cases import BASE

import psgdsim
from psgdsim.scenario import from_dict
from psgdsim.scenario.experiment import build
from psgdsim.sim.driver import Simulation
from psgdsim.strategies.delay_compensation import adaptive, constant

FREE = {"kind": "star", "bandwidth": None, "latency": "0 s"}
COMPUTE = {
    "exponential": {"kind": "exponential", "mean": "1 s"},
    "shifted": {"kind": "shifted_exponential", "shift": "1 s", "mean": "1 s"},
    "pareto": {"kind": "pareto", "scale": "1 s", "shape": 2.5},
    "heterogeneous": {"kind": "fixed_slow_set", "time": "1 s", "delay": "7 s", "ranks": [0, 1]},
}


class Remembered:
    """Computes what each kernel returns once: values do not decide when things happen."""

    def __init__(self, execution):
        self._execution, self._known = execution, {}

    def call(self, kernel, arguments):
        if kernel.name not in self._known:
            self._known[kernel.name] = self._execution.call(kernel, arguments)
        return self._known[kernel.name]

    def flush(self):
        pass


def timing(num, gradients, compute="exponential", **parameters):
    """Return the time per update, the mean staleness and how many gradients had which, of so many gradients."""
    scenario = {
        **BASE,
        "world_size": num,
        "model": {"kind": "quadratic", "dim": 1},
        "topology": FREE,
        "compute": COMPUTE[compute],
        "max_steps": gradients // num,
        "strategy": {"kind": "parameter_server", **parameters},
        "evaluate": {"every": None},
        "execution": "exact",
        "trace": "off",
    }
    simulation = Simulation(build(from_dict(scenario)))
    simulation.execution = Remembered(simulation.execution)
    outcome = simulation.run()
    assert outcome.error is None
    counts = sum((Counter(report.staleness) for report in outcome.reports[:num]), Counter())
    mean = sum(value * count for value, count in counts.items()) / counts.total()
    return outcome.time / outcome.reports[num].rows[-1]["version"], mean, counts


def order_statistic(k, num):
    """Return the mean of the k-th smallest of so many times from Exp(1)."""
    return sum(1 / i for i in range(num - k + 1, num + 1))


# --- time per update (Dutta et al., AISTATS 2018, section 3; shifted exponential: simulated independently) ------------
# The tolerances are about four standard errors of the mean over the updates made here: 1e5 would take minutes.


@pytest.mark.parametrize(("num", "k"), [(8, 1), (8, 4), (8, 8), (16, 12)])
def test_k_sync_takes_the_time_of_the_kth_fastest(num, k):
    time, staleness, _ = timing(num, 10_000, sync="k_sync", k=k)
    assert time == pytest.approx(order_statistic(k, num), rel=0.05)
    assert staleness == 0


@pytest.mark.parametrize(
    ("k", "compute", "expected"), [(4, "exponential", 0.5), (4, "shifted", 1.631), (8, "shifted", 2.671)]
)
def test_k_batch_sync_takes_the_time_of_k_batches_by_anybody(k, compute, expected):
    time, staleness, _ = timing(8, 16_000, compute, sync="k_batch_sync", k=k)
    assert time == pytest.approx(expected, rel=0.03)
    assert staleness == 0


@pytest.mark.parametrize(
    ("sync", "compute", "expected"),
    [
        ("k_async", "exponential", 0.6345),
        ("k_async", "shifted", 1.241),
        ("k_batch_async", "exponential", 0.5),
        ("k_batch_async", "shifted", 1.0),
        ("staleness_aware", "shifted", 1.0),
    ],
)
def test_asynchronous_updates_take_the_time_of_their_gradients(sync, compute, expected):
    time, _, _ = timing(8, 20_000, compute, sync=sync, k=4)
    assert time == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("backup", range(6))
def test_backup_workers_cut_off_the_slowest(backup):
    # Chen et al., 2016: the (N - b)-th fastest of N; published for 50 workers that count and b more.
    expected = [4.4992, 3.5188, 3.0380, 2.7236, 2.4921, 2.3103][backup]
    assert order_statistic(50, 50 + backup) == pytest.approx(expected, abs=1e-4)
    time, _, _ = timing(50 + backup, 10_000, sync="backup", backup=backup)
    assert time == pytest.approx(expected, rel=0.08)


@pytest.mark.parametrize(
    ("bound", "is_cached", "expected"),
    [
        (0, False, 2.718),
        (1, False, 1.789),
        (2, False, 1.511),
        (4, False, 1.303),
        (8, False, 1.164),
        (16, False, 1.077),
        (1, True, 1.789),
        (4, True, 1.303),
    ],
)
def test_bounded_staleness_takes_between_the_slowest_and_the_mean(bound, is_cached, expected):
    time, _, _ = timing(8, 16_000, sync="ssp", staleness_bound=bound, cached_reads=is_cached)
    assert 8 * time == pytest.approx(expected, rel=0.04)


# --- staleness ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compute", ["exponential", "pareto", "heterogeneous"])
@pytest.mark.parametrize(
    ("sync", "k", "expected"), [("async", None, 7), ("k_async", 4, 1), ("k_batch_async", 4, 1.75), ("k_async", 2, 3)]
)
def test_the_mean_staleness_is_conserved_however_fast_workers_are(sync, k, expected, compute):
    # Exact but for the edges: the first are less stale, those under way at the end not counted; 8 * 7 / 20,000 in all.
    _, mean, counts = timing(8, 20_000, compute, sync=sync, **({} if k is None else {"k": k}))
    assert counts.total() >= 19_992
    assert mean == pytest.approx(expected, abs=0.01)


def test_the_staleness_of_exponential_times_is_geometric():
    # Standard errors at 1e5 gradients: 0.0011 of P(0), 0.6 of the variance as neighbours are alike.
    _, _, counts = timing(8, 100_000, sync="async")
    mean = sum(value * count for value, count in counts.items()) / counts.total()
    variance = sum((value - mean) ** 2 * count for value, count in counts.items()) / counts.total()
    assert mean == pytest.approx(7, abs=0.002)
    assert counts[0] / counts.total() == pytest.approx(1 / 8, abs=0.005)
    assert variance == pytest.approx(56, rel=0.05)


# --- limits ---------------------------------------------------------------------------------------------------------

OPTIMIZER = {"kind": "momentum", "learning_rate": 0.02}


def final(tmp_path, name, parameters, **changes):
    scenario = {
        **BASE,
        "world_size": 4,
        "topology": FREE,
        "compute": {"kind": "shifted_exponential", "shift": "10 ms", "mean": "30 ms"},
        "max_steps": 12,
        "optimizer": OPTIMIZER,
        "execution": "exact",
        **changes,
    }
    strategy = {"strategy": {"kind": "parameter_server", **parameters}}
    return psgdsim.run({**scenario, **strategy}, out=tmp_path / name)


@pytest.mark.parametrize(
    ("parameters", "limit"),
    [
        ({"sync": "k_sync", "k": 4}, "bsp"),
        ({"sync": "backup", "backup": 0}, "bsp"),
        ({"sync": "k_async", "k": 4}, "bsp"),
        ({"sync": "k_async", "k": 1}, "async"),
        ({"sync": "k_batch_async", "k": 1}, "async"),
        ({"sync": "ssp", "staleness_bound": 10**6}, "async"),
        ({"sync": "async", "delay_compensation": {"kind": "constant", "lambda0": 0.0}}, "async"),
        ({"sync": "async", "delay_compensation": {"kind": "adaptive", "lambda0": 0.0}}, "async"),
    ],
    ids=str,
)
def test_limits_end_with_the_same_bits_at_the_same_time(parameters, limit, tmp_path):
    one, other = final(tmp_path, "one", parameters), final(tmp_path, "other", {"sync": limit})
    np.testing.assert_array_equal(one.params["weight"], other.params["weight"])
    assert one.summary["time_s"] == other.summary["time_s"]
    assert one.summary["staleness"]["mean"] == other.summary["staleness"]["mean"]


@pytest.mark.parametrize("is_cached", [False, True])
def test_no_staleness_takes_the_time_of_bsp(is_cached, tmp_path):
    parameters = {"sync": "ssp", "staleness_bound": 0, "cached_reads": is_cached}
    times = [final(tmp_path, str(i), each).summary["time_s"] for i, each in enumerate((parameters, {"sync": "bsp"}))]
    assert times[0] == times[1]


@pytest.mark.parametrize(
    "parameters",
    [
        {"sync": "k_sync", "k": 1},
        {"sync": "k_batch_sync", "k": 1},
        {"sync": "k_batch_async", "k": 1},
        {"sync": "staleness_aware"},
        {"sync": "ssp", "staleness_bound": 2},
        {"sync": "ssp", "staleness_bound": 2, "cached_reads": True},
        {"sync": "async", "delay_compensation": {"kind": "adaptive"}},
    ],
    ids=str,
)
def test_one_worker_is_plain_sgd(parameters, tmp_path):
    # Without momentum: a copy of the model has no share in the server's.
    changes = {"world_size": 1, "optimizer": {"kind": "sgd", "learning_rate": 0.1}}
    runs = [final(tmp_path, str(i), each, **changes) for i, each in enumerate((parameters, {"sync": "bsp"}))]
    np.testing.assert_array_equal(*(run.params["weight"] for run in runs))


def test_up_to_one_update_old_gradients_count_whole(tmp_path):
    changes = {"world_size": 2, "compute": {"kind": "constant", "time": "10 ms"}}
    aware, plain = (
        final(tmp_path, name, {"sync": name}, **changes).params["weight"] for name in ("staleness_aware", "async")
    )
    np.testing.assert_allclose(aware, plain, rtol=1e-6)


def test_a_gradient_counts_for_one_over_its_age(tmp_path):
    # Two parameters without noise and equal speeds: tau is 0, 1, 2, 3 in the first round and 3 ever after.
    changes = {
        "model": {"kind": "quadratic", "dim": 2},
        "compute": {"kind": "constant", "time": "10 ms"},
        "optimizer": {"kind": "sgd", "learning_rate": 0.1},
    }
    result = final(tmp_path, "run", {"sync": "staleness_aware"}, **changes)
    models = [1.0]
    for update in range(48):
        tau = min(update, 3)
        models.append(models[-1] - 0.1 * models[update - tau] / max(1, tau))
    np.testing.assert_allclose(result.params["weight"], models[-1], rtol=1e-5)


# --- stability and delay compensation -------------------------------------------------------------------------------


@pytest.mark.parametrize("num", [2, 4, 8])
def test_asynchronous_sgd_is_stable_up_to_its_limit(num, tmp_path):
    # On w^2 / 2 with tau = N - 1: eta < 2 sin(pi / (2 (2 tau + 1))).
    limit = 2 * math.sin(math.pi / (2 * (2 * num - 1)))
    sizes = []
    for factor in (0.95, 1.05):
        changes = {
            "world_size": num,
            "model": {"kind": "quadratic"},
            "compute": {"kind": "constant", "time": "10 ms"},
            "optimizer": {"kind": "sgd", "learning_rate": factor * limit},
            "max_steps": 300,
        }
        sizes.append(abs(float(final(tmp_path, str(factor), {"sync": "async"}, **changes).params["weight"][0])))
    assert sizes[0] < 0.05
    assert sizes[1] > 20


def test_compensation_with_the_true_curvature_is_sequential_sgd():
    # Zheng et al., ICML 2017: on a w^2 / 2, lambda = a / g^2 makes the outer product the Hessian, whatever the delay.
    generator = np.random.default_rng(1)
    a, eta = 0.7, np.float64(0.1)
    models = [np.float64(3.0)]
    for _ in range(60):
        read = models[int(generator.integers(max(0, len(models) - 8), len(models)))]
        gradient, _ = constant(a / (a * read) ** 2).correct(a * read, models[-1], read, ())
        models.append(models[-1] - eta * gradient)
    np.testing.assert_allclose(models[-1], 3.0 * (1 - eta * a) ** 60, rtol=1e-12)


@pytest.mark.parametrize(
    ("spec", "rule"),
    [({"kind": "constant", "lambda0": 0.5}, constant(0.5)), ({"kind": "adaptive", "lambda0": 0.5}, adaptive(0.5))],
    ids=["constant", "adaptive"],
)
def test_compensated_gradients_replayed_one_by_one_end_alike(spec, rule, tmp_path):
    changes = {"model": {"kind": "quadratic"}, "optimizer": {"kind": "sgd", "learning_rate": 0.1}}
    parameters = {"sync": "async", "delay_compensation": spec}
    result = final(tmp_path, "run", parameters, **changes)
    columns = [result.steps[name][result.steps["rank"] < 4] for name in ("version", "rank", "staleness")]
    models, memories = [np.float32(1.0)], dict.fromkeys(range(4), np.float32(0.0))
    for version, rank, staleness in sorted(zip(*columns, strict=True)):
        read = models[int(version - 1 - staleness)]
        gradient, memories[rank] = rule.correct(read, models[-1], read, memories[rank])
        models.append(models[-1] - np.float32(0.1) * gradient)
    assert result.summary["staleness"]["max"] > 3
    np.testing.assert_allclose(result.params["weight"], models[-1], rtol=1e-5)
    plain = final(tmp_path, "plain", {"sync": "async"}, **changes)
    assert abs(result.params["weight"] - plain.params["weight"]) > 1e-4
