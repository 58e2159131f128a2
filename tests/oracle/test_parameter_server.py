"""The parameter server against plain SGD, all-reduce and the law of throughput; staleness: `psgdsim verify`."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from fault_cases import BASE

import psgdsim
from psgdsim.scenario import from_dict
from psgdsim.scenario.experiment import build

FREE = {"kind": "star", "bandwidth": None, "latency": "0 s"}


def strategy(sync, on_peer_loss="fail"):
    return {"strategy": {"kind": "parameter_server", "sync": sync, "on_peer_loss": on_peer_loss}}


def train(scenario, gradients_of):
    """Return the parameters of plain SGD on the gradients that a generator asks for.

    The generator is given the parameters so far and a function `(params, step, block)` -> gradient, and yields one
    gradient per update.
    """
    task = build(from_dict(scenario)).task
    blocks = task.blocks(scenario["world_size"])
    states = [task.init.function(0, None)]

    def gradient(params, step, block):
        return task.gradients.function([params], [blocks.ids(step, block)])[1][0]

    for update in gradients_of(states, gradient):
        states.append(task.apply.function(states[-1], update))
    return jax.tree.map(np.asarray, states[-1].params)


def mean(gradients, rows=None):
    return jax.tree.map(lambda *leaves: np.average(np.stack(leaves), axis=0, weights=rows), *gradients)


@pytest.mark.parametrize("rows", [{"batch_size": 8}, {"batch_size": None, "global_batch_size": 25}])
def test_synchronous_steps_are_those_of_all_reduce(tiny, rows, tmp_path):
    scenario = {**tiny, **rows, "max_steps": 10, "optimizer": {"kind": "adam", "learning_rate": 0.01}}
    broadcast = {"strategy": {"kind": "all_reduce", "algorithm": "broadcast"}}
    runs = [
        psgdsim.run({**scenario, **more}, out=tmp_path / f"{i}") for i, more in enumerate((strategy("bsp"), broadcast))
    ]
    server, other = (run.params for run in runs)
    assert server.keys() == other.keys()
    for name, values in server.items():
        np.testing.assert_allclose(values, other[name], rtol=1e-5, atol=1e-6)
    losses = [run.steps["loss"][run.steps["rank"] < 3] for run in runs]
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.parametrize(("sync", "on_peer_loss"), [("bsp", "fail"), ("bsp", "drop"), ("async", "fail")])
def test_one_worker_is_plain_sgd_bit_for_bit(tiny, sync, on_peer_loss, tmp_path):
    scenario = {**tiny, "world_size": 1, "max_steps": 8, "optimizer": {"kind": "momentum", "learning_rate": 0.05}}

    def one_after_the_other(states, gradient):
        for step in range(1, 9):
            yield gradient(states[-1].params, step, 0)

    plain = train(scenario, one_after_the_other)
    result = psgdsim.run({**scenario, **strategy(sync, on_peer_loss)}, out=tmp_path / "run")
    for path, values in jax.tree_util.tree_leaves_with_path(plain):
        name = "/".join(str(getattr(key, "key", getattr(key, "idx", None))) for key in path)
        np.testing.assert_array_equal(result.params[name], values)
    assert not result.steps["staleness"].any()


@pytest.mark.parametrize("lost", [0, 3])
@pytest.mark.parametrize("rows", [(2, 2, 2, 2), (3, 3, 2, 2)])
def test_what_is_left_of_a_step_is_averaged_by_rows(rows, lost, tmp_path):
    scenario = {**BASE, "topology": FREE, "batch_size": None, "global_batch_size": sum(rows), **strategy("bsp", "drop")}
    faults = [{"kind": "crash", "rank": lost, "at": "250 ms"}]
    # The more rows a rank has, the longer it computes: it is lost in the third step all the same.
    result = psgdsim.run({**scenario, "faults": faults}, out=tmp_path / "run")

    def by_step(states, gradient):
        for step in range(1, 7):
            present = [block for block in range(4) if step <= 2 or block != lost]
            gradients = [gradient(states[-1].params, step, block) for block in present]
            yield mean(gradients, [rows[block] for block in present])

    np.testing.assert_allclose(result.params["weight"], train(scenario, by_step)["weight"], rtol=1e-5)


def test_the_mean_of_a_worker_that_is_waited_for_is_that_of_all(tmp_path):
    scenario = {**BASE, "topology": FREE, **strategy("bsp", "wait")}
    faults = [{"kind": "crash", "rank": 1, "at": "250 ms", "restart_after": "1 s"}]
    result = psgdsim.run({**scenario, "faults": faults}, out=tmp_path / "run")

    def by_step(states, gradient):
        for step in range(1, 7):  # back after two steps, it begins again with the rows of its first
            steps = [step, step if step <= 2 else step - 2, step, step]
            yield mean([gradient(states[-1].params, each, block) for block, each in enumerate(steps)])

    np.testing.assert_allclose(result.params["weight"], train(scenario, by_step)["weight"], rtol=1e-6)


def test_asynchronous_updates_replayed_one_by_one_end_with_the_same_bits(tmp_path):
    compute = {"compute": {"kind": "exponential", "mean": "100 ms"}}
    scenario = {**BASE, **compute, "max_steps": 10, **strategy("async")}
    result = psgdsim.run(scenario, out=tmp_path / "run")
    columns = [result.steps[name][result.steps["rank"] < 4] for name in ("version", "rank", "step", "staleness")]
    updates = sorted(zip(*columns, strict=True))
    assert [version for version, *_ in updates] == list(range(1, 41))

    def by_version(states, gradient):
        for version, rank, step, staleness in updates:
            read = int(version - 1 - staleness)
            yield gradient(states[read].params, int(step), int(rank))

    np.testing.assert_array_equal(result.params["weight"], train(scenario, by_version)["weight"])


# --- time -----------------------------------------------------------------------------------------------------


def throughput(num, think, *services):
    """Return the updates per second of workers that think and then queue at stations (mean value analysis).

    Source: Reiser and Lavenberg, J. ACM 27(2), 1980; exact for stations that all present share fairly.
    """
    queues = [0.0] * len(services)
    rate = 0.0
    for count in range(1, num + 1):
        times = [service * (1 + queue) for service, queue in zip(services, queues, strict=True)]
        rate = count / (think + sum(times))
        queues = [rate * time for time in times]
    return rate


def test_the_closed_form_of_the_throughput():
    rates = [throughput(num, 1.0, 0.1, 0.1) for num in (1, 2, 4, 8, 12, 16)]
    np.testing.assert_allclose(rates, [0.8333, 1.6438, 3.1817, 5.8039, 7.6176, 8.6155], atol=1e-4)


@pytest.mark.parametrize("num", [4, 8])
def test_the_throughput_is_that_of_two_stations_shared_fairly(num, tmp_path):
    scenario = {
        **BASE,
        **strategy("async"),
        "world_size": num,
        "model": {"kind": "quadratic", "dim": 4096},
        "topology": {"kind": "star", "bandwidth": "1.3 Mbit/s", "latency": "0 s"},
        "compute": {"kind": "exponential", "mean": "1 s"},
        "max_steps": 4000 // num,
        "evaluate": {"every": None},
    }
    result = psgdsim.run(scenario, out=tmp_path / "run")
    updates = num * result.summary["steps"]
    up = result.summary["bytes"]["sent"][0] / (np.sum(result.steps["rank"] == 0) + 1) * 8 / 1.3e6
    down = result.summary["bytes"]["sent"][num] / updates * 8 / 1.3e6
    assert updates / result.summary["time_s"] == pytest.approx(throughput(num, 1.0, up, down), rel=0.03)


def test_a_synchronous_step_takes_as_long_as_all_messages_need_at_the_server(tmp_path):
    scenario = {**BASE, **strategy("bsp"), "model": {"kind": "quadratic", "dim": 4096}}
    result = psgdsim.run(scenario, out=tmp_path / "run")
    sent = result.summary["bytes"]["sent"]
    step = 0.1 + 2 * 1e-3 + (sum(sent[:4]) + sent[4]) / 6 * 8 / 8e6
    np.testing.assert_allclose(result.steps["time"][result.steps["rank"] == 4], step * np.arange(1, 7), rtol=1e-9)
