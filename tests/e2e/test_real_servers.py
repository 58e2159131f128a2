"""Real runs with a server: what holds whatever the order of messages, and processes that die or freeze."""

from __future__ import annotations

import re

import numpy as np
import pytest
from patience import HEARTBEAT_TIMEOUT
from small_scenario import SMALL

import psgdsim
from psgdsim.errors import RankFailed
from psgdsim.real import step_ends

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]


def run(tmp_path, sync="bsp", on_peer_loss="fail", kind="parameter_server", check=True, parameters=None, **changes):
    strategy = {"kind": kind, "sync": sync, "on_peer_loss": on_peer_loss, **(parameters or {})}
    scenario = {**SMALL, "strategy": strategy, "plugins": ["dying_server"], **changes}
    return psgdsim.run(scenario, mode="real", out=tmp_path / "run", check=check)


def rows_of(result, rank):
    return {name: column[result.steps["rank"] == rank] for name, column in result.steps.items()}


def log_of(result):
    return (result.folder / "log.txt").read_text(encoding="utf-8")


def test_an_asynchronous_run_counts_its_updates(tmp_path):
    result = run(tmp_path, "async")
    assert list(rows_of(result, 3)["version"]) == list(range(3, 61, 3))
    workers = result.steps["rank"] < 3
    assert sorted(result.steps["version"][workers]) == list(range(1, 61))
    for rank in range(3):
        rows = rows_of(result, rank)
        assert list(rows["step"]) == list(range(1, len(rows["step"]) + 1))
        assert np.all(np.diff(rows["version"]) > 0)
        assert np.all(rows["staleness"][1:] == np.diff(rows["version"]) - 1)
    assert list(result.evals["step"]) == [5, 10, 15, 20]
    server = rows_of(result, 3)
    ends = dict(zip(server["step"], server["time"], strict=True))
    assert [ends[step] for step in result.evals["step"]] == pytest.approx(result.evals["time"], abs=0.05)
    assert result.summary["final"]["test_accuracy"] > 0.5
    assert result.summary["staleness"]["mean"] == pytest.approx(2, abs=0.5)
    assert len(result.summary["bytes"]["sent"]) == 4


@pytest.mark.parametrize(
    ("sync", "parameters"),
    [
        ("backup", {"backup": 1}),
        ("k_sync", {"k": 2}),
        ("k_batch_sync", {"k": 2}),
        ("k_async", {"k": 2}),
        ("k_batch_async", {"k": 2}),
        ("staleness_aware", {}),
        ("ssp", {"staleness_bound": 1}),
        ("ssp", {"staleness_bound": 1, "cached_reads": True}),
        ("async", {"delay_compensation": {"kind": "adaptive"}}),
    ],
    ids=str,
)
@pytest.mark.parametrize("on_peer_loss", ["fail", "drop"])
def test_each_gradient_that_is_used_has_a_row(sync, parameters, on_peer_loss, tmp_path):
    codec = {"kind": "error_feedback", "codec": {"kind": "top_k", "ratio": 0.5}}
    result = run(tmp_path, sync, on_peer_loss, parameters=parameters, codec=codec)
    num = parameters.get("k", 2 if sync == "backup" else 1)
    last = -(-60 // num)
    assert rows_of(result, 3)["version"][-1] == last
    workers = result.steps["rank"] < 3
    versions, counts = np.unique(result.steps["version"][workers], return_counts=True)
    assert (list(versions), set(counts)) == (list(range(1, last + 1)), {num})
    if sync in ("backup", "k_sync", "k_batch_sync"):
        assert not result.steps["staleness"].any()
    assert result.evals["train_loss"][-1] < result.evals["train_loss"][0]


def test_shards_make_every_step_together(tmp_path):
    codec = {"kind": "error_feedback", "codec": {"kind": "top_k", "ratio": 0.5}}
    result = run(tmp_path, parameters={"servers": 2}, codec=codec)
    assert [list(rows_of(result, rank)["version"]) for rank in range(5)] == [list(range(1, 21))] * 5
    assert list(result.evals["step"]) == [5, 10, 15, 20]
    assert result.evals["train_loss"][-1] < result.evals["train_loss"][0]
    sent = result.summary["bytes"]["sent"]
    assert len(sent) == 5
    assert len(set(sent[:3])) == 1


def test_models_beyond_what_is_kept_are_evaluated_at_once(tmp_path):
    steps = step_ends.MAX_SNAPSHOTS + 6
    result = run(tmp_path, "async", max_steps=steps, evaluate={"every": "1 step"})
    assert list(result.evals["step"]) == list(range(1, steps + 1))
    assert np.all(np.diff(result.evals["time"]) >= 0)
    losses = result.evals["train_loss"]
    assert losses[-1] < losses[0]


def test_a_target_ends_an_asynchronous_run(tmp_path):
    result = run(tmp_path, "async", max_steps=400, target_accuracy=0.7)
    accuracies = result.evals["test_accuracy"]
    assert accuracies[-1] >= 0.7 > max([0.0, *accuracies[:-1]])
    assert result.summary["steps"] == result.evals["step"][-1] < 400
    assert result.summary["ended_by"] == "target_accuracy"


def test_time_ends_an_asynchronous_run(tmp_path):
    result = run(tmp_path, "async", max_steps=10**9, max_time="300 ms", evaluate={"every": None})
    times = rows_of(result, 3)["time"]
    assert times[-1] >= 0.3
    assert len(times) == 1 or times[-2] < 0.3
    assert list(result.evals["step"]) == [result.summary["steps"]]
    assert result.summary["ended_by"] == "max_time"


@pytest.mark.parametrize("sync", ["bsp", "async"])
@pytest.mark.parametrize(("stop", "timeout"), [("SIGKILL", HEARTBEAT_TIMEOUT), ("SIGSTOP", "10 s")])
def test_the_run_goes_on_without_a_worker_that_is_lost(sync, stop, timeout, tmp_path):
    result = run(
        tmp_path,
        sync,
        "drop",
        kind="dying_parameter_server",
        parameters={"stop": stop},
        real={"heartbeat_timeout": timeout},
    )
    assert (result.summary["status"], result.summary["steps"]) == ("completed", 20)
    assert "rank 1 is lost: " in log_of(result)
    assert len(rows_of(result, 1)["step"]) == 0
    assert list(rows_of(result, 3)["step"]) == list(range(1, 21))
    assert list(result.evals["step"]) == [5, 10, 15, 20]


@pytest.mark.parametrize(("quorum", "clients"), [(0.5, [3, 2, 2, 2]), (0.9, [3, 0, 2, 2])])
def test_rounds_go_on_without_a_client_that_is_lost(quorum, clients, tmp_path):
    strategy = {"kind": "dying_fedavg", "quorum": quorum}
    evaluate = {"every": "1 step"}
    result = run(tmp_path, strategy=strategy, batch_size=100, max_steps=4, evaluate=evaluate)
    assert (result.summary["status"], result.summary["steps"]) == ("completed", 4)
    assert "rank 1 is lost: " in log_of(result)
    # Its second update is missing: that is enough for a quorum of half of the three, and not for one of nine tenths.
    assert list(rows_of(result, 3)["clients"]) == clients
    assert list(rows_of(result, 0)["version"]) == [1, 2, 3, 4]
    losses = result.evals["train_loss"]
    assert (losses[1] == losses[0]) == (clients[1] == 0)
    assert losses[3] < losses[2] < losses[0]


@pytest.mark.parametrize("parameters", [{}, {"trigger": "server"}, {"which": "laq"}], ids=str)
def test_steps_go_on_without_the_gradient_of_a_worker_that_is_lost(parameters, tmp_path):
    result = run(tmp_path, strategy={"kind": "dying_lazy", **parameters})
    assert (result.summary["status"], result.summary["steps"]) == ("completed", 20)
    assert "rank 1 is lost: " in log_of(result)
    uploads = rows_of(result, 3)["uploads"]
    assert (uploads[0], uploads.max(), uploads[1:].max()) == (3, 3, 2)
    assert list(rows_of(result, 0)["step"]) == list(range(1, 21))
    losses = result.evals["train_loss"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(("sync", "on_peer_loss"), [("bsp", "fail"), ("async", "fail"), ("bsp", "wait")])
def test_a_run_that_cannot_do_without_ends_with_the_worker(sync, on_peer_loss, tmp_path):
    result = run(tmp_path, sync, on_peer_loss, kind="dying_parameter_server", check=False)
    assert isinstance(result.error, RankFailed)
    assert re.match(r"rank 1: training.*: its process was killed by signal 9 \(SIGKILL\)", str(result.error))


def test_a_run_ends_with_one_of_its_shards(tmp_path):
    parameters = {"who": "server", "servers": 2}
    result = run(tmp_path, kind="dying_parameter_server", parameters=parameters, check=False)
    assert isinstance(result.error, RankFailed)
    assert re.match(r"rank 4 \(server\): training.*: its process was killed by signal 9", str(result.error))


def test_a_run_ends_with_its_server(tmp_path):
    result = run(tmp_path, "async", "drop", kind="dying_parameter_server", parameters={"who": "server"}, check=False)
    assert isinstance(result.error, RankFailed)
    assert re.match(r"rank 3 \(server\): training.*: its process was killed by signal 9", str(result.error))
