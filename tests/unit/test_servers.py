"""Servers beside workers, in simulation: ranks and hosts, who leads, how steps and runs end."""

from __future__ import annotations

import json

import matplotlib as mpl
import numpy as np
import pytest
from fault_cases import BASE

import psgdsim
from psgdsim import report
from psgdsim.errors import Deadlock, RankFailed, ScenarioError
from psgdsim.node import Kernel
from psgdsim.scenario import from_dict
from psgdsim.scenario.experiment import build, network
from psgdsim.sim.driver import Simulation
from psgdsim.strategies.base import Strategy
from psgdsim.topologies.placement import HostKind, Hosts

PARAMETER_SERVER = {"strategy": {"kind": "parameter_server"}}
PARAMS = Kernel("params", lambda value: {"weight": np.full(4, value, np.float32)})


def simulate(worker, server=None, num_servers=1, progress=None, **changes):
    """Run programs of one's own on three workers and some servers."""
    experiment = build(from_dict({**BASE, **PARAMETER_SERVER, "world_size": 3, **changes}))
    programs = {"worker": worker, "server": server or worker, "num_servers": num_servers}
    strategy = Strategy(**programs, is_lock_step=server is None, is_replicated=False)
    topology = Hosts().place(experiment.scenario.topology.build(), num_servers)
    for name, value in (("strategy", strategy), ("topology", topology)):
        object.__setattr__(experiment, name, value)
    return Simulation(experiment, progress).run()


def simulate_free(worker, progress=None, **changes):
    """Run workers that all lead, freely."""
    experiment = build(from_dict({**BASE, **changes}))
    object.__setattr__(experiment, "strategy", Strategy(worker, is_lock_step=False, is_replicated=False))
    return Simulation(experiment, progress).run()


# --- ranks and hosts ------------------------------------------------------------------------------------------


def test_servers_come_after_the_workers():
    seen = []

    async def worker(node, task):
        seen.append((node.rank, node.role, node.world_size, list(node.servers)))
        await node.checkpoint(6, [await node.compute(PARAMS, 0)])

    outcome = simulate(worker, num_servers=2)
    assert outcome.error is None
    assert seen == [
        (0, "worker", 3, [3, 4]),
        (1, "worker", 3, [3, 4]),
        (2, "worker", 3, [3, 4]),
        (3, "server", 3, [3, 4]),
        (4, "server", 3, [3, 4]),
    ]
    assert [report.rank for report in outcome.reports] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("server", "num_servers"), [(None, 1), (simulate, 0), (simulate, -1)])
def test_a_server_program_and_servers_come_together(server, num_servers):
    with pytest.raises(ValueError, match=r"num_servers: expected .* server program; got"):
        Strategy(simulate, server=server, num_servers=num_servers)


def test_each_server_lives_on_a_host_of_its_own():
    hosts = Hosts(ranks_per_host=2, kinds=[HostKind(count=2, speed=2.0), HostKind(count=1, speed=0.5)])
    part = from_dict(BASE).topology.build()
    topology = hosts.place(part, 2).build(5)
    assert [topology.host_of(rank) for rank in range(5)] == [0, 0, 1, 2, 3]
    assert [topology.speed(rank) for rank in range(5)] == [2.0, 2.0, 2.0, 0.5, 1.0]
    assert len(topology.hosts) == 4
    assert [hosts.place(part).build(5).host_of(rank) for rank in range(5)] == [0, 0, 1, 1, 2]


def test_the_network_has_a_host_for_the_server():
    scenario = from_dict({**BASE, **PARAMETER_SERVER})
    assert (scenario.num_ranks, scenario.num_servers) == (5, 1)
    assert len(network(scenario).build(scenario.num_ranks).hosts) == 5
    assert from_dict(BASE).num_ranks == 4


def test_a_network_without_room_for_the_server_is_refused():
    topology = {
        "kind": "custom",
        "hosts": ["a", "b", "c", "d"],
        "links": [{"src": "a", "dst": name, "bandwidth": None, "latency": "1 ms"} for name in "bcd"],
    }
    from_dict({**BASE, "topology": topology})
    room = r"topology: expected room for 5 hosts \(4 ranks, 1 per host and 1 server\); there is room for 4"
    with pytest.raises(ScenarioError, match=room):
        from_dict({**BASE, **PARAMETER_SERVER, "topology": topology})


def test_a_fault_may_happen_to_the_server():
    from_dict({**BASE, **PARAMETER_SERVER, "faults": [{"kind": "slow", "rank": 4, "factor": 2, "at": "1 s"}]})
    with pytest.raises(ScenarioError, match="expected ranks of 0 to 4; got 5"):
        from_dict({**BASE, **PARAMETER_SERVER, "faults": [{"kind": "slow", "rank": 5, "factor": 2, "at": "1 s"}]})


def test_the_workers_compute_times_do_not_depend_on_servers(tmp_path):
    compute = {"kind": "exponential", "mean": "100 ms"}
    topology = {"kind": "star", "bandwidth": None, "latency": "0 s"}
    runs = [
        psgdsim.run({**BASE, "compute": compute, "topology": topology, **more}, out=tmp_path / str(len(more)))
        for more in ({}, PARAMETER_SERVER)
    ]
    first, second = (run.steps["compute_s"][run.steps["rank"] < 4] for run in runs)
    np.testing.assert_allclose(first, second, rtol=1e-9)


def test_tables_summary_and_timeline_have_the_server(tmp_path):
    run = psgdsim.run({**BASE, **PARAMETER_SERVER}, out=tmp_path / "run")
    assert (run.summary["world_size"], run.summary["num_servers"], run.summary["steps"]) == (4, 1, 6)
    assert len(run.summary["bytes"]["sent"]) == 5
    assert sorted(set(run.steps["rank"])) == [0, 1, 2, 3, 4]
    events = json.loads((run.folder / "trace.json").read_text())["traceEvents"]
    names = [event["args"]["name"] for event in events if event["name"] == "process_name"]
    assert names == ["rank 0", "rank 1", "rank 2", "rank 3", "rank 4 (server)"]


def test_a_deadlock_names_the_server():
    async def worker(node, task):
        if node.role == "server":
            await node.recv(tag="never")

    error = simulate(worker).error
    assert isinstance(error, Deadlock)
    assert "rank 3 (server) (step 1) waits for recv(tag='never') from any rank" in str(error)


# --- lock step ------------------------------------------------------------------------------------------------


def test_in_lock_step_servers_meet_the_workers():
    times = []

    async def worker(node, task):
        await node.sleep(1 + node.rank)
        await node.checkpoint(6, [await node.compute(PARAMS, 0)])
        times.append((node.rank, node.now))

    outcome = simulate(worker, evaluate={"every": None})
    assert outcome.error is None
    assert sorted(times) == [(rank, 4.0) for rank in range(4)]
    assert [(row["time"], row["step"]) for row in outcome.evals] == [(4.0, 6)]


# --- a run that a server leads --------------------------------------------------------------------------------


def counting(seconds):
    """Return a server that makes a step every so many seconds, with models of the step's number."""

    async def server(node, task):
        step = 1
        while True:
            await node.sleep(seconds)
            if not await node.checkpoint(step, [await node.compute(PARAMS, step)]):
                break
            step += 1
        for rank in range(node.world_size):
            await node.send(rank, None, tag="stop")

    return server


async def until_stopped(node, task):
    """Make a step a second until a server says stop."""
    stop = node.spawn(node.recv(node.servers[0], tag="stop"))
    for step in (1, 2, 3):
        await node.sleep(1)
        node.record(loss=float(step))
        node.end_step(step)
    await stop.wait()


def test_a_server_ends_the_run_by_its_own_steps():
    outcome = simulate(until_stopped, counting(2), evaluate={"every": "2 steps"})
    assert outcome.error is None
    assert [(row["step"], row["time"]) for row in outcome.reports[3].rows] == [(i, 2.0 * i) for i in range(1, 7)]
    assert [[row["step"] for row in report.rows] for report in outcome.reports[:3]] == [[1, 2, 3]] * 3
    assert [(row["time"], row["step"]) for row in outcome.evals] == [(4.0, 2), (8.0, 4), (12.0, 6)]
    assert outcome.models[0]["weight"].tolist() == [6.0] * 4


def test_max_time_is_the_servers():
    outcome = simulate(until_stopped, counting(2), max_time="5 s", evaluate={"every": None})
    assert [row["time"] for row in outcome.reports[3].rows] == [2.0, 4.0, 6.0]
    assert [(row["time"], row["step"]) for row in outcome.evals] == [(6.0, 3)]


def test_progress_is_the_servers_with_the_loss_of_rank_0():
    told = []
    outcome = simulate(until_stopped, counting(2), progress=lambda *values: told.append(values[:4]), max_steps=2)
    assert outcome.error is None
    assert told == [(2.0, 1, 2, 1.0), (4.0, 2, 2, 3.0)]


def test_a_run_without_its_server_has_failed():
    outcome = simulate(until_stopped, counting(2), faults=[{"kind": "crash", "rank": 3, "at": "5 s"}])
    assert isinstance(outcome.error, RankFailed)
    assert str(outcome.error).startswith("rank 3 (server): step 3: it crashed at 5 s (faults.0: ")


def test_nobody_is_waited_for_who_comes_back_after_the_end():
    faults = [{"kind": "crash", "rank": 1, "at": "1500 ms", "restart_after": "1000 s"}]

    async def server(node, task):
        await node.sleep(2)
        await node.checkpoint(6, [await node.compute(PARAMS, 0)])
        for rank in (0, 2):
            await node.send(rank, None, tag="stop")

    outcome = simulate(until_stopped, server, faults=faults)
    assert outcome.error is None
    assert outcome.time == 3.0


def test_one_who_comes_back_too_late_to_be_told_does_not_keep_the_run():
    faults = [{"kind": "crash", "rank": 1, "at": "1500 ms", "restart_after": "1 s"}]

    async def server(node, task):
        await node.sleep(2)
        await node.checkpoint(6, [await node.compute(PARAMS, 0)])
        for rank in (0, 2):
            await node.send(rank, None, tag="stop")
        await node.sleep(2)

    outcome = simulate(until_stopped, server, faults=faults)
    assert outcome.error is None
    assert [row.get("incarnation") for row in outcome.reports[1].rows] == [None, 2, 2, 2]


def test_a_worker_whom_the_server_forgets_is_a_deadlock():
    async def server(node, task):
        await node.checkpoint(6, [await node.compute(PARAMS, 0)])
        await node.send(0, None, tag="stop")

    error = simulate(until_stopped, server).error
    assert isinstance(error, Deadlock)
    assert "rank 0" not in str(error)
    assert "rank 1 (step 4) waits for recv(tag='stop') from rank 3" in str(error)


def test_a_fault_may_begin_with_a_workers_own_step():
    faults = [{"kind": "crash", "rank": 1, "at_step": 3, "restart_after": "5 s"}]
    outcome = simulate(until_stopped, counting(2), faults=faults)
    assert [row["time"] for row in outcome.reports[1].rows] == [1.0, 2.0, 8.0, 9.0, 10.0]


# --- workers that run freely, without a server ----------------------------------------------------------------


def stepping(seconds_of):
    async def worker(node, task):
        for step in task.steps():
            await node.sleep(seconds_of(node.rank))
            if not await node.checkpoint(step, [await node.compute(PARAMS, 10 * node.rank + step)]):
                break

    return worker


def test_free_workers_decide_by_their_own_steps_and_wait_only_at_the_end():
    ended = []

    async def worker(node, task):
        await stepping(lambda rank: 1 + rank)(node, task)
        ended.append((node.rank, node.now))

    outcome = simulate_free(worker, max_steps=2, evaluate={"every": "1 step"})
    assert outcome.error is None
    assert [[row["time"] for row in report.rows] for report in outcome.reports] == [
        [1.0, 2.0],
        [2.0, 4.0],
        [3.0, 6.0],
        [4.0, 8.0],
    ]
    assert sorted(ended) == [(rank, 8.0) for rank in range(4)]
    assert [(row["time"], row["step"]) for row in outcome.evals] == [(1.0, 1), (2.0, 2)]
    assert outcome.models[0]["weight"].tolist() == [2.0] * 4


def test_free_workers_end_by_their_own_time():
    outcome = simulate_free(stepping(lambda rank: 1 + rank), max_time="3 s", max_steps=100, evaluate={"every": None})
    assert [report.rows[-1]["time"] for report in outcome.reports] == [3.0, 4.0, 3.0, 4.0]
    assert [(row["time"], row["step"]) for row in outcome.evals] == [(3.0, 3)]


def test_a_target_that_one_reaches_ends_all_free_workers(tiny):
    seen = []

    async def worker(node, task):
        state = await node.compute(task.init, 0, None)
        for step in task.steps():
            await node.sleep(1 + node.rank)
            if not await node.checkpoint(step, [state.params]):
                break
            seen.append((node.rank, step))

    experiment = build(from_dict({**tiny, "target_accuracy": 0.01, "evaluate": {"every": "3 steps"}, "max_steps": 100}))
    object.__setattr__(experiment, "strategy", Strategy(worker, is_lock_step=False))
    outcome = Simulation(experiment).run()
    assert outcome.error is None
    assert seen == [(0, 1), (1, 1), (0, 2), (2, 1)]
    assert [report.rows[-1]["time"] for report in outcome.reports] == [3.0, 4.0, 6.0]
    assert [(row["time"], row["step"]) for row in outcome.evals] == [(3.0, 3)]


def test_the_first_that_is_up_is_evaluated():
    faults = [{"kind": "crash", "rank": 0, "at": "1500 ms"}]
    outcome = simulate_free(stepping(lambda rank: 1), faults=faults, max_steps=3, evaluate={"every": "1 step"})
    assert outcome.error is None
    assert [row["step"] for row in outcome.evals] == [1, 2, 3]
    assert outcome.models[0]["weight"].tolist() == [13.0] * 4


def test_bytes_over_accuracy_are_those_that_free_ranks_had_sent_by_then(tiny, tmp_path):
    mpl.use("Agg")
    compute = {"kind": "fixed_slow_set", "time": "2 ms", "delay": "20 ms", "ranks": [2]}
    scenario = {**tiny, "strategy": {"kind": "parameter_server", "sync": "async"}, "compute": compute}
    result = psgdsim.run({**scenario, "evaluate": {"every": "2 steps"}}, out=tmp_path / "run")
    [line, *_] = report.plot_accuracy({"async": result}, x="bytes").lines
    steps, expected = result.steps, []
    for time in result.evals["time"]:
        ended = steps["time"] <= time
        expected.append(sum(max([0, *steps["bytes"][ended & (steps["rank"] == rank)]]) for rank in range(4)) / 1e6)
    np.testing.assert_allclose(line.get_xdata(), expected)
    assert 0 < expected[0] < expected[1] < result.summary["bytes"]["total"] / 1e6
