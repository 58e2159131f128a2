"""When a parameter server updates: corrections and limits against SGD; times and staleness: `psgdsim verify`."""

from __future__ import annotations

import numpy as np
import pytest
from fault_cases import BASE

import psgdsim
from psgdsim.strategies.delay_compensation import adaptive, constant

FREE = {"kind": "star", "bandwidth": None, "latency": "0 s"}

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
    ("parameters", "optimizer"),
    [
        ({"sync": "k_sync", "k": 1}, OPTIMIZER),
        ({"sync": "k_batch_sync", "k": 1}, OPTIMIZER),
        ({"sync": "k_batch_async", "k": 1}, OPTIMIZER),
        ({"sync": "staleness_aware"}, OPTIMIZER),
        ({"sync": "ssp", "staleness_bound": 2}, OPTIMIZER),
        ({"sync": "async", "delay_compensation": {"kind": "adaptive"}}, OPTIMIZER),
        # A copy takes the worker's own updates but those after which it pulls: a momentum of its own misses these, so
        # that only an optimizer without memory takes the copy where the server's model is.
        ({"sync": "ssp", "staleness_bound": 2, "cached_reads": True}, {"kind": "sgd", "learning_rate": 0.1}),
    ],
    ids=str,
)
def test_one_worker_is_plain_sgd_bit_for_bit(parameters, optimizer, tmp_path):
    # One gradient at the present parameters per update: the server does the very operations of bsp, in that order.
    changes = {"world_size": 1, "optimizer": optimizer}
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


# --- delay compensation ---------------------------------------------------------------------------------------------


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
