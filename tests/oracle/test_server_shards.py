"""A parameter server in shards and beside workers: the parameters of one server, and closed forms of its times."""

from __future__ import annotations

import numpy as np
import pytest
from fault_cases import BASE

import psgdsim

LATENCY, BANDWIDTH, COMPUTE = 1e-3, 8e6, 0.1
STEPS = 3


@pytest.fixture
def run(tmp_path):
    def start(servers=1, **changes):
        strategy = {"strategy": {"kind": "parameter_server", "servers": servers}}
        scenario = {**BASE, "max_steps": STEPS, **strategy, **changes}
        return psgdsim.run(scenario, out=tmp_path / f"run{len(list(tmp_path.iterdir()))}")

    return start


OPTIMIZERS = [
    {"kind": "sgd", "learning_rate": 0.1, "weight_decay": 0.01},
    {"kind": "momentum", "learning_rate": 0.05, "nesterov": True},
]


def train_all(tiny, tmp_path, **changes):
    """Return what comes of one server, of two and of five."""
    scenario = {**tiny, "max_steps": 5, "execution": "exact", **changes}
    return [
        psgdsim.run({**scenario, "strategy": {"kind": "parameter_server", "servers": s}}, out=tmp_path / str(s))
        for s in (1, 2, 5)
    ]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda optimizer: optimizer["kind"])
@pytest.mark.parametrize("rows", [{"batch_size": 8}, {"batch_size": None, "global_batch_size": 25}], ids=str)
def test_shards_are_one_server_bit_for_bit(optimizer, rows, tiny, tmp_path):
    one, *many = train_all(tiny, tmp_path, optimizer=optimizer, **rows)
    assert len(one.params) > 1
    for run in many:
        assert run.params.keys() == one.params.keys()
        for name, values in one.params.items():
            np.testing.assert_array_equal(run.params[name], values)
        np.testing.assert_array_equal(*(each.steps["loss"][each.steps["rank"] < 3] for each in (run, one)))


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_shards_are_one_server_but_for_how_roots_are_rounded(kind, tiny, tmp_path):
    # Compiled for vectors of other lengths, the root and the quotient may be off in the last bit.
    schedule = {"kind": "cosine", "total_steps": 9}
    one, *many = train_all(tiny, tmp_path, optimizer={"kind": kind, "learning_rate": 0.01, "schedule": schedule})
    for run in many:
        for name, values in one.params.items():
            np.testing.assert_allclose(run.params[name], values, rtol=1e-5, atol=1e-7)


def test_a_codec_that_rounds_each_value_by_itself_does_not_see_the_cuts(tiny, tmp_path):
    one, *many = train_all(tiny, tmp_path, codec={"kind": "cast", "dtype": "bfloat16"})
    for run in many:
        for name, values in one.params.items():
            np.testing.assert_array_equal(run.params[name], values)


def test_shards_shorten_their_gradients_by_themselves(run):
    # A bowl without noise: the gradient is w, of norm 2; each of two shards has half of its square.
    model = {"kind": "quadratic", "dim": 4}
    optimizer = {"kind": "sgd", "learning_rate": 0.5, "clip_norm": 1.0}
    one, two = (run(servers, model=model, optimizer=optimizer, max_steps=1) for servers in (1, 2))
    np.testing.assert_allclose(one.params["weight"], 1 - 0.5 / 2, rtol=1e-6)
    np.testing.assert_allclose(two.params["weight"], 1 - 0.5 / np.sqrt(2), rtol=1e-6)


# --- times ------------------------------------------------------------------------------------------------------------


def step_time(result):
    """Return the time of a step besides computing [s]."""
    return result.summary["time_s"] / STEPS - COMPUTE


def frame_time(result, num, servers):
    """Return how long one worker's frame to one server takes at full bandwidth [s]; answers are as long."""
    sent = result.summary["bytes"]["sent"]
    assert len(set(sent[:num])) == len(set(sent[num:])) == 1
    assert sent[0] * num == sent[num] * servers
    return sent[0] / STEPS / servers * 8 / BANDWIDTH


@pytest.mark.parametrize(("num", "servers"), [(4, 1), (4, 2), (8, 2), (8, 4), (4, 4), (4, 8), (2, 8)])
def test_a_step_takes_as_long_as_the_busier_end_needs(num, servers, run):
    # 2 (alpha + N m / (s B)), and no less than 2 (alpha + m / B): with the headers, m / s is one frame.
    result = run(servers, world_size=num, model={"kind": "quadratic", "dim": 64})
    frame = frame_time(result, num, servers)
    assert step_time(result) == pytest.approx(2 * (LATENCY + max(num, servers) * frame), rel=1e-9)


@pytest.mark.parametrize("num", [2, 4, 8])
def test_a_server_beside_a_worker_has_one_message_less_on_its_link(num, run):
    # 2 (alpha + (N - 1) m / B): the worker beside it pushes and pulls over no link.
    model, beside = {"kind": "quadratic", "dim": 64}, {"hosts": {"servers": "beside"}}
    own, result = (run(1, world_size=num, model=model, **hosts) for hosts in ({}, beside))
    assert result.summary["bytes"]["sent"] == own.summary["bytes"]["sent"]
    np.testing.assert_array_equal(result.params["weight"], own.params["weight"])
    expected = 2 * (LATENCY + (num - 1) * frame_time(result, num, 1))
    assert step_time(result) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("num", [2, 4, 8])
def test_a_shard_beside_each_worker_takes_the_bandwidth_of_a_ring(num, run):
    # Each host's link carries the N - 1 parts of the others each way: (N - 1) / N m, twice.
    result = run(num, world_size=num, model={"kind": "quadratic", "dim": 64}, hosts={"servers": "beside"})
    expected = 2 * (LATENCY + (num - 1) * frame_time(result, num, num))
    assert step_time(result) == pytest.approx(expected, rel=1e-9)
