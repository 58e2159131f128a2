"""strategies.parameter_server: workers that are waited for, and answers that come to others than are meant."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from fault_cases import BASE

import psgdsim
from psgdsim.errors import PeerLost, RankFailed, ScenarioError
from psgdsim.scenario import from_dict
from psgdsim.scenario.experiment import build
from psgdsim.sim.driver import Simulation
from psgdsim.strategies import parameter_server
from psgdsim.strategies.server_base import PUSH, QUESTION_TAG, answer_tag

FREE = {"kind": "star", "bandwidth": None, "latency": "0 s"}
NEEDING_ALL = [
    {"sync": "bsp"},
    {"sync": "backup", "backup": 0},
    {"sync": "k_sync", "k": 4},
    {"sync": "k_async", "k": 4},
]
WAITING = [*NEEDING_ALL, {"sync": "ssp", "staleness_bound": 1}]
BACK = {"kind": "crash", "rank": 1, "at": "250 ms", "restart_after": "100 ms"}


@pytest.fixture
def run(tmp_path):
    def start(parameters, on_peer_loss="wait", **changes):
        strategy = {"kind": "parameter_server", "on_peer_loss": on_peer_loss, **parameters}
        scenario = {**BASE, "topology": FREE, "max_steps": 8, "strategy": strategy, **changes}
        return psgdsim.run(scenario, out=tmp_path / f"run{len(list(tmp_path.iterdir()))}")

    return start


def rows_of(result, rank):
    """Return the rows of a rank in the order of time; after a restart, steps count from 1 again."""
    rows = {name: column[result.steps["rank"] == rank] for name, column in result.steps.items()}
    order = np.argsort(rows["time"], kind="stable")
    return {name: column[order] for name, column in rows.items()}


# --- waiting for a worker ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parameters", NEEDING_ALL, ids=str)
def test_what_needs_all_workers_waits_until_a_lost_one_is_back(parameters, run):
    result = run(parameters, faults=[BACK])
    times = [0.1, 0.2, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95]
    np.testing.assert_allclose(rows_of(result, 4)["time"], times, rtol=1e-12)
    np.testing.assert_allclose(rows_of(result, 1)["time"], times, rtol=1e-12)
    versions, counts = np.unique(result.steps["version"][result.steps["rank"] < 4], return_counts=True)
    assert (list(versions), list(counts)) == (list(range(1, 9)), [4] * 8)


def test_an_update_that_others_suffice_for_waits_for_nobody(run):
    result = run({"sync": "k_sync", "k": 3}, faults=[{**BACK, "restart_after": "400 ms"}], max_steps=6)
    np.testing.assert_allclose(rows_of(result, 4)["version"], np.ceil(np.arange(1, 7) * 4 / 3))
    np.testing.assert_allclose(rows_of(result, 0)["time"], np.arange(1, 9) / 10, rtol=1e-12)


def test_the_clock_of_a_lost_worker_holds_the_others_back(run):
    result = run({"sync": "ssp", "staleness_bound": 1}, faults=[BACK])
    # It has pushed 2 when it is lost; the others push a third and a fourth, and wait for its third from 0.4 s on.
    np.testing.assert_allclose(rows_of(result, 0)["time"][:5], [0.1, 0.2, 0.3, 0.45, 0.55], rtol=1e-12)
    np.testing.assert_allclose(rows_of(result, 1)["time"][:4], [0.1, 0.2, 0.45, 0.55], rtol=1e-12)
    dropped = run({"sync": "ssp", "staleness_bound": 1}, "drop", faults=[BACK])
    assert rows_of(dropped, 0)["time"][3] == pytest.approx(0.4)


def test_a_worker_may_be_lost_before_it_has_begun(run):
    result = run({"sync": "bsp"}, faults=[{**BACK, "at": "0 s", "restart_after": "1 s"}], max_steps=2)
    np.testing.assert_allclose(rows_of(result, 4)["time"], [1.1, 1.2], rtol=1e-12)


def test_a_gradient_that_was_pushed_counts_though_its_worker_is_lost(run):
    # Rank 1 has pushed when it crashes, and the others are slower: the step goes on, and the next one waits.
    compute = {"kind": "fixed_slow_set", "time": "100 ms", "delay": "100 ms", "ranks": [0, 2, 3]}
    faults = [{**BACK, "at": "150 ms", "restart_after": "350 ms"}]
    result = run({"sync": "bsp"}, faults=faults, compute=compute, max_steps=2)
    np.testing.assert_allclose(rows_of(result, 4)["time"], [0.2, 0.6], rtol=1e-12)
    assert list(rows_of(result, 1)["version"]) == [2]


@pytest.mark.parametrize("parameters", WAITING, ids=str)
def test_a_worker_that_does_not_come_back_ends_the_run(parameters, run):
    fate = r"rank 1: step 3: it crashed at 0\.25 s .*, and does not come back; the others wait for it"
    with pytest.raises(RankFailed, match=fate):
        run(parameters, faults=[{"kind": "crash", "rank": 1, "at": "250 ms"}])


def test_a_worker_that_is_cut_off_for_good_ends_the_run(run):
    faults = [{"kind": "cut", "ranks": [1], "at": "250 ms"}]
    with pytest.raises(PeerLost, match=r"rank 1: lost rank 4: no heartbeat for 100 ms \(faults\.0"):
        run({"sync": "bsp"}, faults=faults, real={"heartbeat_timeout": "100 ms"})


def test_the_loss_of_all_workers_at_once_ends_the_run(run):
    with pytest.raises(PeerLost, match="rank 4: lost rank"):
        run({"sync": "bsp"}, faults=[{**BACK, "rank": rank} for rank in range(4)])


def test_nobody_is_waited_for_when_the_run_is_over(run):
    compute = {"kind": "fixed_slow_set", "time": "100 ms", "delay": "50 ms", "ranks": [1]}
    for more in ({}, {"restart_after": "1000 s"}):
        faults = [{"kind": "crash", "rank": 1, "at": "220 ms", **more}]
        result = run({"sync": "bsp"}, compute=compute, faults=faults, max_steps=1)
        assert (result.summary["status"], result.summary["steps"]) == ("completed", 1)
        assert result.summary["time_s"] == pytest.approx(0.15)


@pytest.mark.parametrize("parameters", WAITING, ids=str)
@pytest.mark.parametrize("seed", range(2))
def test_workers_that_crash_again_and_again_are_waited_for(parameters, seed, run):
    faults = [{"kind": "crash", "mtbf": "2 s", "mttr": "200 ms", "rank": rank} for rank in range(3)]
    topology = {"kind": "star", "bandwidth": "1 Mbit/s", "latency": "1 ms"}
    codec = {"kind": "error_feedback", "codec": {"kind": "top_k", "ratio": 0.5}}
    result = run(
        parameters, faults=faults, topology=topology, codec=codec, max_steps=40, seed=seed, codec_rate="1 kB/s"
    )
    assert (result.summary["status"], result.summary["steps"]) == ("completed", 40)
    assert np.nanmax(result.steps["incarnation"]) >= 2


@pytest.mark.parametrize(
    "parameters", [{"sync": "async"}, {"sync": "k_batch_sync", "k": 2}, {"sync": "staleness_aware"}]
)
def test_modes_in_which_nobody_waits_for_a_certain_worker_cannot_wait(parameters):
    message = rf"strategy\.on_peer_loss: 'wait' only with sync 'bsp', .* or 'ssp', for with '{parameters['sync']}'"
    with pytest.raises(ScenarioError, match=message):
        from_dict({**BASE, "strategy": {"kind": "parameter_server", "on_peer_loss": "wait", **parameters}})


def test_real_mode_ends_with_a_worker_that_would_be_waited_for():
    strategy = parameter_server("bsp", "wait")
    assert (strategy.survives_loss, strategy.awaits_lost, list(strategy.leaders(3))) == (False, True, [3])


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_peer_loss", ["drop", "wait"])
def test_a_worker_that_is_back_gets_no_answer_to_what_it_pushed_before(on_peer_loss, run):
    # Rank 0 pushes at 0.1 s, crashes, is back at 0.15 s at the same version, and pushes again at 0.25 s. Rank 1 makes
    # an update with the first of these at 0.2 s: the answer to that is nobody's.
    compute = {"kind": "fixed_slow_set", "time": "100 ms", "delay": "100 ms", "ranks": [1]}
    faults = [{"kind": "crash", "rank": 0, "at": "120 ms", "restart_after": "30 ms"}]
    parameters = {"sync": "k_async", "k": 2}
    result = run(parameters, on_peer_loss, world_size=2, compute=compute, faults=faults, max_steps=3)
    rows = rows_of(result, 0)
    assert (list(rows["version"]), list(rows["staleness"])) == ([2, 3], [1, 0])
    np.testing.assert_allclose(rows["time"], [0.4, 0.6], rtol=1e-12)


def test_an_answer_says_to_which_term_it_belongs():
    # As if rank 0 had crashed with a push under way, and the server had come to know of it after the next question.
    came = []

    async def worker(node, task):
        [server] = node.servers
        await node.sleep(float(node.rank))
        await node.send(server, None, tag=PUSH)
        asked = (await node.recv(server, tag=QUESTION_TAG)).payload
        if asked is None:
            return
        for term in (1, 2, 2):
            _, gradients = await node.compute(task.gradients, [asked[0]], [task.blocks(3).ids(term, 0)])
            await node.send(server, (0, gradients[0], term), tag=PUSH)
            if term == 1:
                await node.send(server, None, tag=PUSH)
                asked = (await node.recv(server, tag=QUESTION_TAG)).payload
                assert asked[1:] == (0, 2)
            else:
                came.append((await node.recv(server, tag=answer_tag(0, term))).payload[1])
        came.append((await node.recv(server, tag=answer_tag(0, 1))).payload[1])
        await node.send(server, (1, gradients[0], 2), tag=PUSH)
        assert (await node.recv(server, tag=answer_tag(1, 2))).payload is None

    mode = parameter_server("k_batch_async", k=3)
    spec = {"kind": "parameter_server", "sync": "k_batch_async", "k": 3}
    experiment = build(from_dict({**BASE, "topology": FREE, "world_size": 3, "max_steps": 1, "strategy": spec}))
    object.__setattr__(experiment, "strategy", dataclasses.replace(mode, worker=worker))
    assert Simulation(experiment).run().error is None
    assert came == [0, 1, 0]
