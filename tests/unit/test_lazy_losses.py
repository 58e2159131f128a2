"""strategies.lag and laq: workers that are lost and come back, in simulation."""

from __future__ import annotations

import numpy as np
import pytest
from fault_cases import BASE

import psgdsim
from psgdsim import wire
from psgdsim.errors import PeerLost, ScenarioError
from psgdsim.scenario import from_dict
from psgdsim.scenario.experiment import build
from psgdsim.strategies.lazy import lag
from psgdsim.testing.watched import WatchedSimulation

FREE = {"kind": "star", "bandwidth": None, "latency": "0 s"}
WAYS = [{"kind": "lag"}, {"kind": "lag", "trigger": "server", "smoothness": 1.0, "xi": 0.01}, {"kind": "laq"}]
EAGER = {"kind": "lag", "xi": 0.0}
BACK = {"kind": "crash", "rank": 1, "at": "250 ms", "restart_after": "100 ms"}


def changed(strategy, **changes):
    return {**BASE, "topology": FREE, "strategy": {"on_peer_loss": "drop", **strategy}, **changes}


@pytest.fixture
def run(tmp_path):
    def start(strategy, **changes):
        return psgdsim.run(changed(strategy, **changes), out=tmp_path / f"run{len(list(tmp_path.iterdir()))}")

    return start


def watch(strategy, **changes):
    """Run a scenario; return the outcome, and what was sent and not received."""
    simulation = WatchedSimulation(build(from_dict(changed(strategy, **changes))))
    outcome = simulation.run()
    assert outcome.error is None
    assert simulation.unfinished() == []
    return outcome, simulation.unreceived()


def rows_of(result, rank):
    return {name: column[result.steps["rank"] == rank] for name, column in result.steps.items()}


@pytest.mark.parametrize("kind", ["lag", "laq"])
def test_nobody_is_waited_for(kind):
    with pytest.raises(ScenarioError, match=r"strategy\.on_peer_loss: expected one of fail, drop; got 'wait'"):
        from_dict({**BASE, "strategy": {"kind": kind, "on_peer_loss": "wait"}})


# --- nobody is lost -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", WAYS, ids=str)
def test_where_nobody_is_lost_only_the_beginning_and_the_end_are_other_messages(strategy, run):
    drop = run(strategy, max_steps=12)
    fail = run({**strategy, "on_peer_loss": "fail"}, max_steps=12)
    assert drop.summary["params_sha256"] == fail.summary["params_sha256"]
    assert drop.summary["time_s"] == fail.summary["time_s"]
    for name in ("rank", "step", "staleness", "uploads"):
        np.testing.assert_array_equal(drop.steps[name], fail.steps[name])
    more = np.subtract(drop.summary["bytes"]["sent"], fail.summary["bytes"]["sent"])
    assert list(more[:4]) == [wire.nbytes("begin") + wire.nbytes("end")] * 4
    assert more[4] == 4 * wire.nbytes(0)


# --- somebody is lost ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["0 s", "150 ms", "250 ms"])
def test_without_laziness_it_is_the_parameter_server_that_goes_on(at, run):
    changes = {
        "faults": [{"kind": "crash", "rank": 1, "at": at}],
        "batch_size": None,
        "global_batch_size": 10,
        "optimizer": {"kind": "momentum", "learning_rate": 0.1},
    }
    result, plain = run(EAGER, **changes), run({"kind": "parameter_server", "sync": "bsp"}, **changes)
    np.testing.assert_allclose(result.params["weight"], plain.params["weight"], rtol=1e-5)
    np.testing.assert_allclose(rows_of(result, 4)["time"], 0.12 * np.arange(1, 7), rtol=1e-12)  # 3 rows of 2.5


@pytest.mark.parametrize("strategy", WAYS, ids=str)
def test_a_worker_that_is_lost_before_it_begins_was_never_there(strategy, run):
    # Without noise all have the same gradient, of which each contributes 1 / N; and the rule divides by N^2.
    bowl = {"model": {"kind": "quadratic", "dim": 4, "curvature": [0.5, 1.0, 1.5, 2.0]}, "max_steps": 20}
    lost = run(strategy, faults=[{"kind": "crash", "rank": 3, "at": "0 s"}], **bowl)
    never = run(strategy, world_size=3, **bowl)
    uploads = rows_of(never, 3)["uploads"]
    assert 0 < uploads.sum() < 45
    np.testing.assert_array_equal(rows_of(lost, 4)["uploads"], uploads)
    np.testing.assert_allclose(lost.params["weight"], never.params["weight"], rtol=1e-4, atol=1e-6)


def test_one_that_has_come_back_is_called_in_the_next_step_and_begins_with_its_whole_gradient(run):
    result = run({"kind": "laq"}, faults=[BACK], model={"kind": "quadratic", "dim": 4}, max_steps=30)
    server, back = rows_of(result, 4), rows_of(result, 1)
    np.testing.assert_allclose(server["time"], np.arange(1, 31) / 10, rtol=1e-12)
    # It is back at 0.35 s, in the fourth step.
    assert list(back["step"]) == [1, 2, *range(5, 31)]
    assert (back["staleness"][0], back["staleness"][2]) == (0, 0)
    assert list(np.flatnonzero(back["incarnation"] == 2)) == list(range(2, 28))
    assert server["uploads"].sum() == (result.steps["staleness"][result.steps["rank"] < 4] == 0).sum() < 60


def test_a_server_that_asks_knows_nothing_of_one_that_has_come_back(run):
    # Rank 1 changes so little that it is asked once in each of its lives; it is back in the third step.
    asking = {"kind": "lag", "trigger": "server", "smoothness": [1.0, 1e-6, 1.0, 1.0], "xi": 0.01}
    bowl = {"kind": "quadratic", "dim": 4}
    for faults, steps in (([], [1]), ([{**BACK, "at": "50 ms"}], [4])):
        rows = rows_of(run(asking, faults=faults, model=bowl, max_steps=30), 1)
        assert list(rows["step"][rows["staleness"] == 0]) == steps


def test_both_ends_begin_anew_with_the_memory_of_a_codec(run):
    # The places follow from how many payloads there were: an end that had counted more would mistake them.
    changes = {"codec": {"kind": "random_k", "ratio": 0.25}, "model": {"kind": "quadratic", "dim": 8}, "max_steps": 80}
    result = run(EAGER, faults=[{**BACK, "at": "550 ms"}], evaluate={"every": "1 step"}, **changes)
    assert np.nanmax(result.steps["incarnation"]) == 2
    assert result.summary["final"]["train_loss"] < 1e-3 * result.evals["train_loss"][0]


def test_what_was_sent_before_the_loss_counts_no_more(run):
    # Rank 0 answers at once and is lost while the others compute: the step is the mean of the others.
    compute = {"kind": "fixed_slow_set", "time": "10 ms", "delay": "90 ms", "ranks": [1, 2, 3]}
    changes = {"compute": compute, "max_steps": 1, "seed": 7}
    late = run(EAGER, faults=[{"kind": "crash", "rank": 0, "at": "50 ms"}], **changes)
    never = run(EAGER, faults=[{"kind": "crash", "rank": 0, "at": "0 s"}], **changes)
    assert rows_of(late, 4)["uploads"] == 4
    np.testing.assert_array_equal(late.params["weight"], never.params["weight"])


@pytest.mark.parametrize("strategy", WAYS, ids=str)
def test_a_run_whose_workers_are_all_lost_has_failed(strategy, run):
    faults = [{"kind": "crash", "rank": rank, "at": "250 ms", "restart_after": "1 s"} for rank in range(4)]
    with pytest.raises(PeerLost, match="rank 4: lost rank"):
        run(strategy, faults=faults)


def test_a_step_without_any_gradient_changes_nothing(run):
    # Rank 0 is back, and not called yet, when all others are lost.
    faults = [{**BACK, "rank": 0, "at": "210 ms", "restart_after": "10 ms"}]
    faults += [{"kind": "crash", "rank": rank, "at": "250 ms"} for rank in (1, 2, 3)]
    result = run(EAGER, faults=faults, evaluate={"every": "1 step"}, max_steps=4)
    assert list(rows_of(result, 4)["uploads"]) == [4, 4, 0, 1]
    losses = result.evals["train_loss"]
    assert losses[2] == losses[1] != losses[3]


@pytest.mark.parametrize("strategy", WAYS, ids=str)
@pytest.mark.parametrize("at", [f"{at} ms" for at in (480, 597, 599, 600, 601, 603)])
def test_one_that_comes_back_as_the_run_ends_ends_with_it(strategy, at):
    # The sixth and last step ends at 0.6 s and a few latencies.
    topology = {"kind": "star", "bandwidth": None, "latency": "1 ms"}
    faults = [{"kind": "crash", "rank": 1, "at": "450 ms", "restart_after": f"{int(at[:-3]) - 450} ms"}]
    outcome, unreceived = watch(strategy, faults=faults, topology=topology)
    assert len(outcome.reports[4].rows) == 6
    assert unreceived == {}


@pytest.mark.parametrize("strategy", WAYS, ids=str)
@pytest.mark.parametrize("seed", range(2))
def test_workers_that_crash_again_and_again_do_not_stop_the_others(strategy, seed, run):
    faults = [{"kind": "crash", "mtbf": "2 s", "mttr": "200 ms", "rank": rank} for rank in range(3)]
    topology = {"kind": "star", "bandwidth": "1 Mbit/s", "latency": "1 ms"}
    codec = {} if strategy["kind"] == "laq" else {"codec": {"kind": "cast", "dtype": "bfloat16"}}
    bowl = {"model": {"kind": "quadratic", "dim": 4}, "max_steps": 80, "evaluate": {"every": "1 step"}, **codec}
    result = run(strategy, faults=faults, topology=topology, seed=seed, codec_rate="1 kB/s", **bowl)
    assert (result.summary["status"], result.summary["steps"]) == ("completed", 80)
    assert np.nanmax(result.steps["incarnation"]) >= 2
    assert result.summary["final"]["train_loss"] < 1e-3 * result.evals["train_loss"][0]


def test_a_call_is_not_for_one_that_has_come_back_since_it_was_lost(run):
    # Rank 1 crashes and comes back while the server decodes the last answer: it is called before that is known.
    codec = {"codec": {"kind": "cast", "dtype": "bfloat16"}, "codec_rate": "2 kB/s"}
    topology = {"kind": "star", "bandwidth": None, "latency": "1 ms"}
    result = run(EAGER, faults=[{**BACK, "at": "175 ms", "restart_after": "1 ms"}], topology=topology, **codec)
    np.testing.assert_allclose(rows_of(result, 4)["time"][0], 0.186)
    assert list(rows_of(result, 4)["uploads"]) == [4, 3, 4, 4, 4, 4]
    assert list(rows_of(result, 1)["step"]) == [3, 4, 5, 6]


def test_real_mode_goes_on_too():
    for kept in ("fail", "drop"):
        assert lag(on_peer_loss=kept).survives_loss == (kept == "drop")
