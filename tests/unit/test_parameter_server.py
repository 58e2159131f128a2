"""strategies.parameter_server: rules, bytes, how a run ends, and workers that come and go, in simulation."""

from __future__ import annotations

import numpy as np
import pytest
from fault_cases import BASE

import psgdsim
from psgdsim.errors import PeerLost, RankFailed, ScenarioError
from psgdsim.scenario import from_dict
from psgdsim.strategies import parameter_server

FREE = {"kind": "star", "bandwidth": None, "latency": "0 s"}
MODES = [("bsp", "fail"), ("bsp", "drop"), ("async", "fail"), ("async", "drop")]


def scenario(sync="async", on_peer_loss="fail", **changes):
    strategy = {"kind": "parameter_server", "sync": sync, "on_peer_loss": on_peer_loss}
    return {**BASE, "strategy": strategy, "topology": FREE, **changes}


@pytest.fixture
def run(tmp_path):
    def start(*mode, **changes):
        return psgdsim.run(scenario(*mode, **changes), out=tmp_path / f"run{len(list(tmp_path.iterdir()))}")

    return start


def rows_of(result, rank):
    """Return the rows of a rank in the order of time; after a restart, steps count from 1 again."""
    rows = {name: column[result.steps["rank"] == rank] for name, column in result.steps.items()}
    order = np.argsort(rows["time"], kind="stable")
    return {name: column[order] for name, column in rows.items()}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"sync": "asynch"}, "strategy.sync: expected one of bsp, async, .*ssp; got 'asynch'; did you mean 'async'"),
        ({"on_peer_loss": "ignore"}, "strategy.on_peer_loss: expected one of fail, drop, wait; got 'ignore'"),
    ],
)
def test_what_does_not_exist_is_refused(parameters, message):
    with pytest.raises(ScenarioError, match=message):
        from_dict({**BASE, "strategy": {"kind": "parameter_server", **parameters}})


@pytest.mark.parametrize(("sync", "on_peer_loss"), MODES)
def test_only_synchronous_sgd_without_losses_is_in_lock_step(sync, on_peer_loss):
    strategy = parameter_server(sync, on_peer_loss)
    assert strategy.num_servers == 1
    assert strategy.is_lock_step == ((sync, on_peer_loss) == ("bsp", "fail"))
    assert strategy.survives_loss == (on_peer_loss == "drop")
    assert list(strategy.leaders(4)) == ([0, 1, 2, 3, 4] if strategy.is_lock_step else [4])


# --- bytes and steps ------------------------------------------------------------------------------------------


def test_bytes_of_synchronous_steps(run):
    result = run("bsp")
    size = 4 * 4  # four parameters
    assert result.summary["bytes"]["payload_total"] == 6 * 2 * 4 * size
    assert len(set(result.summary["bytes"]["sent"][:4])) == 1
    assert result.summary["staleness"] == {"mean": 0.0, "max": 0}
    assert all(list(rows_of(result, rank)["version"]) == [1, 2, 3, 4, 5, 6] for rank in range(5))


def test_bytes_of_asynchronous_steps(run):
    result = run("async")
    size = 4 * 4
    # Besides one up and one down for each of 24 updates, each worker pulls once before and pushes once for nothing.
    assert result.summary["bytes"]["payload_total"] == (24 + 4 + 24 + 4) * size
    assert sum(report == 0 for report in result.summary["bytes"]["sent"]) == 0


def test_a_step_of_the_server_is_as_many_updates_as_there_are_workers(run):
    result = run("async", compute={"kind": "exponential", "mean": "100 ms"})
    server = rows_of(result, 4)
    assert list(server["step"]) == [1, 2, 3, 4, 5, 6]
    assert list(server["version"]) == [4, 8, 12, 16, 20, 24]
    versions = result.steps["version"][result.steps["rank"] < 4]
    assert sorted(versions) == list(range(1, 25))
    counts = [len(rows_of(result, rank)["step"]) for rank in range(4)]
    assert sum(counts) == 24
    assert len(set(counts)) > 1
    for rank in range(4):
        assert list(rows_of(result, rank)["step"]) == list(range(1, counts[rank] + 1))


def test_the_summary_counts_how_stale_gradients_were(run):
    result = run("async", compute={"kind": "exponential", "mean": "100 ms"}, max_steps=20)
    workers = result.steps["rank"] < 4
    staleness = result.steps["staleness"][workers].astype(int)
    summary = result.summary["staleness"]
    assert summary["mean"] == pytest.approx(staleness.mean())
    assert summary["max"] == staleness.max() > 4
    assert summary["histogram"] == {str(value): int((staleness == value).sum()) for value in sorted(set(staleness))}
    server = rows_of(result, 4)["staleness"]
    assert server.mean() == pytest.approx(staleness.mean(), rel=1e-12)


def test_the_server_ends_the_run_by_its_own_time(run):
    result = run("async", max_time="450 ms", max_steps=100, evaluate={"every": None})
    np.testing.assert_allclose(rows_of(result, 4)["time"], [0.1, 0.2, 0.3, 0.4, 0.5], rtol=1e-12)
    assert [round(time, 9) for time in result.evals["time"]] == [0.5]
    assert result.summary["steps"] == 5


def test_evaluations_are_of_the_servers_model_and_take_no_time(run):
    often, never = (run("async", evaluate={"every": every}) for every in ("2 steps", None))
    assert list(often.evals["step"]) == [2, 4, 6]
    np.testing.assert_allclose(often.evals["time"], [0.2, 0.4, 0.6], rtol=1e-12)
    assert often.summary["params_sha256"] == never.summary["params_sha256"]
    assert often.summary["time_s"] == never.summary["time_s"]
    assert often.summary["final"] == never.summary["final"]


@pytest.mark.parametrize(("sync", "on_peer_loss"), MODES)
def test_a_target_ends_the_run_at_once(sync, on_peer_loss, tiny, tmp_path):
    strategy = {"kind": "parameter_server", "sync": sync, "on_peer_loss": on_peer_loss}
    changes = {"strategy": strategy, "max_steps": 200, "target_accuracy": 0.3, "evaluate": {"every": "5 steps"}}
    result = psgdsim.run({**tiny, **changes}, out=tmp_path / "run")
    accuracies = result.evals["test_accuracy"]
    assert accuracies[-1] >= 0.3 > max([0.0, *accuracies[:-1]])
    assert result.summary["steps"] == result.evals["step"][-1] < 200


def test_a_schedule_counts_steps_not_updates(run):
    schedule = {"kind": "step_decay", "every_steps": 1, "factor": 1e-9}
    optimizer = {"kind": "sgd", "learning_rate": 0.1}
    one = run("async", optimizer=optimizer, max_steps=1)
    six = run("async", optimizer={**optimizer, "schedule": schedule})
    np.testing.assert_allclose(six.params["weight"], one.params["weight"], atol=1e-6)
    assert np.abs(one.params["weight"]).max() > 1e-3


@pytest.mark.parametrize(("sync", "on_peer_loss"), MODES)
def test_a_codec_with_memory_has_its_ends_on_worker_and_server(sync, on_peer_loss, run):
    codec = {"kind": "error_feedback", "codec": {"kind": "top_k", "ratio": 0.25}}
    plain, coded = (run(sync, on_peer_loss, max_steps=60, **more) for more in ({}, {"codec": codec}))
    assert coded.summary["bytes"]["payload_total"] < plain.summary["bytes"]["payload_total"]
    assert coded.summary["final"]["train_loss"] < 0.2 * coded.steps["loss"][0]


# --- workers come and go --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sync", ["bsp", "async"])
def test_a_lost_worker_ends_a_run_that_cannot_do_without(sync, run):
    with pytest.raises(PeerLost, match=r"rank 4: lost rank 1: it crashed at 0\.25 s"):
        run(sync, faults=[{"kind": "crash", "rank": 1, "at": "250 ms"}])


def test_nobody_waits_for_a_worker_that_was_dropped(run):
    dropped = run("bsp", "drop", faults=[{"kind": "crash", "rank": 3, "at": "0 s"}])
    assert [len(rows_of(dropped, rank)["step"]) for rank in range(5)] == [6, 6, 6, 0, 6]
    np.testing.assert_allclose(rows_of(dropped, 4)["time"], np.arange(1, 7) / 10, rtol=1e-12)


def test_a_worker_that_has_come_back_asks_for_the_model_and_goes_on(run):
    faults = [{"kind": "crash", "rank": 1, "at": "250 ms", "restart_after": "100 ms"}]
    result = run("async", "drop", faults=faults, max_steps=8)
    back = rows_of(result, 1)
    assert list(back["step"][:4]) == [1, 2, 1, 2]
    assert list(back["incarnation"][2:]) == [2] * (len(back["step"]) - 2)
    np.testing.assert_allclose(back["time"][:4], [0.1, 0.2, 0.45, 0.55], rtol=1e-12)
    # It computes with the model of its return, so that its gradient is no staler than those of the others.
    assert back["staleness"][2] <= 4
    assert list(rows_of(result, 4)["version"])[-1] == 32
    versions = result.steps["version"][result.steps["rank"] < 4]
    assert len(set(versions)) == len(versions) == 32


def test_a_synchronous_worker_that_has_come_back_is_waited_for_again(run):
    faults = [{"kind": "crash", "rank": 1, "at": "250 ms", "restart_after": "100 ms"}]
    result = run("bsp", "drop", faults=faults, max_steps=8)
    np.testing.assert_allclose(rows_of(result, 1)["time"], [0.1, 0.2, 0.45, 0.55, 0.65, 0.75, 0.85], rtol=1e-12)
    np.testing.assert_allclose(rows_of(result, 4)["time"], [0.1, 0.2, 0.3, 0.45, 0.55, 0.65, 0.75, 0.85], rtol=1e-12)


@pytest.mark.parametrize("sync", ["bsp", "async"])
def test_a_partition_that_lasts_leaves_those_on_the_servers_side(sync, run):
    faults = [{"kind": "cut", "ranks": [0], "at": "250 ms"}]
    result = run(sync, "drop", faults=faults, real={"heartbeat_timeout": "100 ms"}, max_steps=12)
    assert result.summary["status"] == "completed"
    assert len(rows_of(result, 0)["step"]) == 2
    assert result.summary["steps"] == 12


@pytest.mark.parametrize("sync", ["bsp", "async"])
def test_a_run_whose_workers_are_all_lost_has_failed(sync, run):
    with pytest.raises(PeerLost, match="rank 4: lost rank"):
        run(sync, "drop", faults=[{"kind": "crash", "rank": rank, "at": "250 ms"} for rank in range(4)])


@pytest.mark.parametrize("sync", ["bsp", "async"])
def test_a_run_whose_server_is_lost_has_failed(sync, run):
    faults = [{"kind": "crash", "rank": 4, "at": "250 ms", "restart_after": "1 s"}]
    with pytest.raises(RankFailed, match=r"rank 4 \(server\): step 3: it crashed at 0\.25 s"):
        run(sync, "drop", faults=faults)


def test_a_worker_that_is_lost_while_it_is_told_to_end_does_no_harm(run):
    compute = {"kind": "fixed_slow_set", "time": "100 ms", "delay": "250 ms", "ranks": [3]}
    faults = [{"kind": "crash", "rank": 3, "at": "250 ms"}]
    result = run("async", "drop", compute=compute, faults=faults, max_steps=1)
    assert result.summary["status"] == "completed"
    assert [len(rows_of(result, rank)["step"]) for rank in range(5)] == [2, 1, 1, 0, 1]


@pytest.mark.parametrize("sync", ["bsp", "async"])
@pytest.mark.parametrize("seed", range(3))
def test_workers_that_crash_again_and_again_do_not_stop_the_others(sync, seed, run):
    faults = [{"kind": "crash", "mtbf": "2 s", "mttr": "200 ms", "rank": rank} for rank in range(4)]
    topology = {"kind": "star", "bandwidth": "1 Mbit/s", "latency": "1 ms"}
    codec = {"kind": "error_feedback", "codec": {"kind": "top_k", "ratio": 0.5}}
    result = run(
        sync, "drop", faults=faults, topology=topology, codec=codec, max_steps=60, seed=seed, codec_rate="1 kB/s"
    )
    assert (result.summary["status"], result.summary["steps"]) == ("completed", 60)
    assert np.nanmax(result.steps["incarnation"]) >= 2
    versions = result.steps["version"][(result.steps["rank"] < 4)]
    assert sync == "bsp" or len(set(versions)) == len(versions) <= 240
