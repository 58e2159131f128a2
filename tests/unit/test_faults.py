"""Faults: who crashes, slows down or is cut off when, and what the programs see of it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest

import psgdsim
from psgdsim.errors import Deadlock, PeerLost, ScenarioError
from psgdsim.node import Kernel
from psgdsim.scenario import dump, from_dict, loads
from psgdsim.scenario.experiment import build
from psgdsim.scenario.faults import crash, cut, slow
from psgdsim.sim.driver import Simulation
from psgdsim.strategies.base import Strategy

# A frame of 1,000,000 float32 takes about 4 s; small ones take about 1 ms.
BASE = {
    "name": "faults",
    "seed": 5,
    "world_size": 4,
    "model": {"kind": "quadratic", "dim": 4, "noise": 0.5},
    "data": {"kind": "none"},
    "batch_size": 2,
    "optimizer": {"kind": "sgd", "learning_rate": 0.1},
    "strategy": {"kind": "all_reduce", "algorithm": "ring"},
    "topology": {"kind": "star", "bandwidth": "8 Mbit/s", "latency": "1 ms"},
    "compute": {"kind": "constant", "time": "100 ms"},
    "max_steps": 6,
    "real": {"heartbeat_timeout": "2 s"},
}
BIG = np.zeros(1_000_000, np.float32)
WORK = Kernel("work", lambda: 0, kind="gradient", rows=lambda: 2)


def simulation(program=None, **changes):
    experiment = build(from_dict({**BASE, **changes}))
    if program is not None:
        object.__setattr__(experiment, "strategy", Strategy(program))
    return Simulation(experiment)


def simulate(program=None, **changes):
    return simulation(program, **changes).run()


def only(*programs):
    """Return a program that runs the n-th of some programs on rank n, and nothing on the others."""

    async def worker(node, task):
        if node.rank < len(programs):
            await programs[node.rank](node)

    return worker


def faults_of(outcome):
    return {
        report.rank: [(event.name, event.start, event.end) for event in report.events if event.kind == "fault"]
        for report in outcome.reports
        if any(event.kind == "fault" for event in report.events)
    }


# --- crash ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("src", [1, None])
def test_a_receive_from_a_crashed_rank_fails_at_that_moment(src):
    seen = []

    async def receive(node):
        with pytest.raises(PeerLost) as lost:
            await node.recv(src, tag="never")
        seen.append((node.now, lost.value.rank, lost.value.peer, lost.value.cause))
        with pytest.raises(PeerLost):
            await node.recv(src, tag="never")

    async def sleep(node):
        await node.sleep(10)

    outcome = simulate(only(receive, sleep), faults=[{"kind": "crash", "rank": 1, "at": "2 s"}])
    assert outcome.error is None
    assert seen == [(2.0, 0, 1, "it crashed at 2 s (faults.0: crash of rank 1 at 2 s)")]
    assert faults_of(outcome) == {1: [("crash", 2.0, 2.0)]}


def test_a_receive_from_another_rank_does_not_mind_a_crash():
    async def receive(node):
        assert (await node.recv(2, tag="later")).payload == 7

    async def sleep(node):
        await node.sleep(10)

    async def send(node):
        await node.sleep(3)
        await node.send(0, 7, tag="later")

    assert simulate(only(receive, sleep, send), faults=[{"kind": "crash", "rank": 1, "at": "2 s"}]).error is None


def test_what_has_arrived_before_a_crash_may_still_be_received():
    async def receive(node):
        await node.sleep(3)
        assert (await node.recv(1, tag="early")).payload == 7
        with pytest.raises(PeerLost):
            await node.recv(1, tag="early")

    async def send(node):
        await node.send(0, 7, tag="early")
        await node.sleep(10)

    assert simulate(only(receive, send), faults=[{"kind": "crash", "rank": 1, "at": "2 s"}]).error is None


def test_messages_on_their_way_from_a_crashed_rank_are_lost():
    failed = []

    async def receive(node):
        with pytest.raises(PeerLost):
            await node.recv(1, tag="big")
        failed.append(node.now)

    async def send(node):
        await node.send(0, BIG, tag="big")

    faults = [{"kind": "crash", "rank": 1, "at": "2 s", "restart_after": "30 s"}]
    outcome = simulate(only(receive, send), faults=faults)
    assert failed == [2.0]
    # The second incarnation sends it again, and nobody takes it.
    assert [report.unread for report in outcome.reports] == [1, 0, 0, 0]
    carried = {link.name: link.nbytes for link in outcome.links}
    frame = outcome.reports[1].sent_nbytes / 2
    assert carried["host1.up"] == pytest.approx(frame + (2 - 1e-3) * 1e6, abs=1)


def test_a_receive_with_a_timeout_fails_as_soon_as_the_rank_is_lost():
    times = []

    async def receive(node):
        with pytest.raises(PeerLost):
            await node.recv(1, tag="never", timeout=10)
        times.append(node.now)

    async def sleep(node):
        await node.sleep(10)

    assert simulate(only(receive, sleep), faults=[{"kind": "crash", "rank": 1, "at": "2 s"}]).error is None
    assert times == [2.0]


def test_a_send_to_a_crashed_rank_fails_also_when_it_is_under_way():
    times = []

    async def send(node):
        for _ in range(2):
            with pytest.raises(PeerLost) as lost:
                await node.send(1, BIG, tag="big")
            times.append((node.now, lost.value.peer))

    async def sleep(node):
        await node.sleep(10)

    outcome = simulate(only(send, sleep), faults=[{"kind": "crash", "rank": 1, "at": "2 s"}])
    assert outcome.error is None
    assert times == [(2.0, 1), (2.0, 1)]
    assert outcome.time == 0.0


@pytest.mark.parametrize("multicast", ["native", "relay"])
def test_a_copied_multicast_reaches_those_that_are_left(multicast):
    received = []

    async def send(node):
        await node.sleep(3)
        await node.multicast([1, 2, 3], 7, tag="news")

    async def receive(node):
        received.append((node.rank, (await node.recv(0, tag="news")).payload))

    topology = {**BASE["topology"], "multicast": multicast}
    faults = [{"kind": "crash", "rank": 2, "at": "2 s"}]
    outcome = simulate(only(send, receive, receive, receive), faults=faults, topology=topology)
    assert outcome.error is None
    assert received == [(1, 7), (3, 7)]


@pytest.mark.parametrize("multicast", ["native", "relay"])
def test_a_receiver_that_crashes_does_not_stop_a_multicast_under_way(multicast):
    received = []

    async def send(node):
        await node.multicast([1, 2], BIG, tag="big")

    async def receive(node):
        await node.recv(0, tag="big")
        received.append(node.rank)

    topology = {**BASE["topology"], "multicast": multicast}
    outcome = simulate(
        only(send, receive, receive), faults=[{"kind": "crash", "rank": 2, "at": "2 s"}], topology=topology
    )
    assert outcome.error is None
    assert received == [1]


@pytest.mark.parametrize("multicast", ["native", "relay", "unicast"])
def test_a_crash_of_the_sender_ends_its_multicast(multicast):
    seen = []

    async def send(node):
        await node.multicast([1, 2], BIG, tag="big")

    async def receive(node):
        try:
            await node.recv(0, tag="big")
        except PeerLost as error:
            seen.append((node.rank, node.now, error.peer))

    topology = {**BASE["topology"], "multicast": multicast}
    outcome = simulate(
        only(send, receive, receive), faults=[{"kind": "crash", "rank": 0, "at": "2 s"}], topology=topology
    )
    assert outcome.error is None
    assert seen == [(1, 2.0, 0), (2, 2.0, 0)]


def test_a_program_starts_again_from_the_beginning_as_a_new_incarnation():
    log = []

    async def first(node):
        with pytest.raises(PeerLost):
            await node.recv(1, tag="hello")
        await node.sleep(1.5)  # it is back by now
        log.append((node.now, (await node.recv(1, tag="hello")).payload))
        await node.send(1, 8, tag="answer")

    async def second(node):
        log.append(("start", node.now))
        if node.now == 0:
            job = node.spawn(node.sleep(100))
            await node.send(0, 6, tag="unread")
            await node.sleep(50)
            await job.wait()
        await node.send(0, 7, tag="hello")
        log.append((await node.recv(0, tag="answer")).payload)

    faults = [{"kind": "crash", "rank": 1, "at": "2 s", "restart_after": "1 s"}]
    outcome = simulate(only(first, second), faults=faults)
    assert outcome.error is None
    assert log == [("start", 0.0), ("start", 3.0), (3.5, 7), 8]
    assert faults_of(outcome) == {1: [("crash", 2.0, 3.0)]}


def test_steps_after_a_restart_say_so():
    async def worker(node, task):
        for step in (1, 2):
            await node.sleep(1)
            if not await node.checkpoint(step, []):
                return

    faults = [{"kind": "crash", "rank": 1, "at_step": 2, "restart_after": "1 s"}]
    outcome = simulate(worker, faults=faults, evaluate={"every": None}, max_steps=100)
    assert [(row["step"], row["time"], row.get("incarnation")) for row in outcome.reports[1].rows] == [
        (1, 1.0, None),
        (1, 3.0, 2),
        (2, 4.0, 2),
    ]


def test_a_synchronous_strategy_ends_with_an_error_that_names_rank_and_fault(tmp_path):
    scenario = {**BASE, "faults": [{"kind": "crash", "rank": 3, "at_step": 4, "restart_after": "1 s"}]}
    with pytest.raises(PeerLost, match=r"lost rank 3: it crashed at .* s \(faults\.0: crash of rank 3 at step 4\)"):
        psgdsim.run(scenario, out=tmp_path / "run")
    summary = psgdsim.load_run(tmp_path / "run").summary
    assert (summary["status"], summary["steps"]) == ("failed", 3)
    assert summary["error"]["type"] == "PeerLost"
    assert "faults.0: crash of rank 3 at step 4" in summary["error"]["message"]


def test_a_rank_that_has_ended_cannot_crash():
    async def program(node):
        await node.sleep(1)

    outcome = simulate(only(program, program), faults=[{"kind": "crash", "rank": 1, "at": "1500 ms"}])
    assert (outcome.error, faults_of(outcome)) == (None, {})


def test_those_that_are_left_meet_at_the_barrier():
    async def worker(node, task):
        for step in task.steps():
            await node.sleep(1)
            if not await node.checkpoint(step, []):
                return

    simulated = simulation(
        worker, faults=[{"kind": "crash", "rank": 2, "at": "1500 ms"}], max_steps=3, evaluate={"every": "1 step"}
    )
    simulated._evaluate = lambda step: None
    outcome = simulated.run()
    assert outcome.error is None
    assert [len(report.rows) for report in outcome.reports] == [3, 3, 1, 3]


# --- slow -----------------------------------------------------------------------------------------------------


def test_a_slow_rank_computes_longer_from_that_moment_on():
    ends = []

    async def work(node):
        for _ in range(3):
            await node.compute(WORK)
            ends.append(round(node.now, 9))

    # 100 ms each: half of the first at a quarter of the speed; of the second 25 ms, then full speed again.
    outcome = simulate(only(work), faults=[{"kind": "slow", "rank": 0, "at": "50 ms", "for": "300 ms", "factor": 4}])
    assert ends == [0.25, 0.425, 0.525]
    assert faults_of(outcome)[0] == [("4x slower", 0.05, 0.35)]
    assert outcome.reports[0].seconds["compute"] == pytest.approx(0.525)


def test_slow_downs_multiply_and_end_apart():
    ends = []

    async def work(node):
        for _ in range(2):
            await node.compute(WORK)
            ends.append(round(node.now, 9))

    faults = [
        {"kind": "slow", "rank": 0, "at": "0 s", "for": "300 ms", "factor": 2},
        {"kind": "slow", "rank": 0, "at": "0 s", "for": "600 ms", "factor": 3},
    ]
    simulate(only(work), faults=faults)
    # 300 ms at 1/6 make 50 ms of work, 300 ms at 1/3 make 100 ms, the rest goes at full speed.
    assert ends == [0.45, 0.65]


def test_a_slow_down_begins_with_a_step():
    outcome = simulate(faults=[{"kind": "slow", "rank": 2, "at_step": 3, "factor": 5}])
    compute = [row["compute_s"] for row in outcome.reports[2].rows]
    assert compute == pytest.approx([0.1, 0.1, 0.5, 0.5, 0.5, 0.5])
    assert [row["compute_s"] for row in outcome.reports[1].rows] == pytest.approx([0.1] * 6)


# --- cut ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["fluid", "fifo", "ideal"])
@pytest.mark.parametrize("cut_of", [{"ranks": [0]}, {"links": "host0.*"}, {"links": ["host1.down", "host0.up"]}])
def test_messages_wait_for_a_cut_to_heal(model, cut_of):
    times = []

    async def send(node):
        await node.sleep(1.5)
        await node.send(1, 7, tag="x")

    async def receive(node):
        assert (await node.recv(0, tag="x")).payload == 7
        times.append(node.now)

    faults = [{"kind": "cut", "at": "1 s", "for": "1500 ms", **cut_of}]
    outcome = simulate(only(send, receive), faults=faults, network={"model": model})
    assert outcome.error is None
    assert times[0] == pytest.approx(2.5, abs=2e-3)
    assert times[0] >= 2.5


def test_a_cut_stops_a_message_in_the_middle_and_it_goes_on_where_it_was():
    async def send(node):
        await node.send(1, BIG, tag="big")

    async def receive(node):
        await node.recv(0, tag="big")
        times.append(node.now)

    times = []
    simulate(only(send, receive))
    simulate(only(send, receive), faults=[{"kind": "cut", "ranks": [0], "at": "1 s", "for": "1500 ms"}])
    assert times[1] == pytest.approx(times[0] + 1.5)


def test_messages_pass_on_either_side_of_a_partition():
    times = {}

    async def worker(node, task):
        await node.sleep(1.5)
        peer = node.rank ^ 1
        await node.gather(node.send(peer, 7, tag="x"), node.recv(peer, tag="x"))
        times[node.rank] = node.now

    simulate(worker, faults=[{"kind": "cut", "ranks": [0, 1], "at": "1 s", "for": "1500 ms"}])
    assert all(time < 1.51 for time in times.values())
    assert len(times) == 4


def test_a_cut_longer_than_the_heartbeat_timeout_parts_ranks_for_good():
    seen = []

    async def worker(node, task):
        if node.rank > 1:
            await node.sleep(10)
            return
        with pytest.raises(PeerLost) as lost:
            await node.recv(3 - node.rank, tag="never")
        seen.append((node.now, node.rank, lost.value.peer, lost.value.cause))
        with pytest.raises(PeerLost):
            await node.send(3 - node.rank, 7, tag="x")
        await node.send(1 - node.rank, 7, tag="x")
        await node.sleep(5)
        with pytest.raises(PeerLost):
            await node.recv(3 - node.rank, tag="never")

    outcome = simulate(worker, faults=[{"kind": "cut", "ranks": [0, 1], "at": "1 s", "for": "5 s"}])
    assert outcome.error is None
    cause = "no heartbeat for 2 s (faults.0: cut of ranks 0, 1 at 1 s)"
    assert seen == [(3.0, rank, 3 - rank, cause) for rank in range(2)]


def test_a_message_in_a_cut_that_does_not_heal_is_given_up_with_its_connection():
    seen = []

    async def send(node):
        with pytest.raises(PeerLost):
            await node.send(1, BIG, tag="big")
        seen.append(node.now)

    outcome = simulate(only(send), faults=[{"kind": "cut", "links": "host1.down", "at": "1 s"}])
    assert outcome.error is None
    assert seen == [3.0]


@pytest.mark.parametrize("multicast", ["native", "relay"])
def test_a_multicast_goes_on_without_those_that_were_cut_off(multicast):
    received, lost = [], []

    async def send(node):
        await node.multicast([1, 2], BIG, tag="big")

    async def receive(node):
        try:
            await node.recv(0, tag="big")
            received.append(node.rank)
        except PeerLost:
            lost.append(node.rank)

    outcome = simulate(
        only(send, receive, receive),
        faults=[{"kind": "cut", "ranks": [2], "at": "1 s"}],
        topology={**BASE["topology"], "multicast": multicast},
    )
    assert outcome.error is None
    assert (received, lost) == ([1], [2])


def test_a_rank_that_cannot_reach_the_relay_loses_everybody():
    seen = []

    async def send(node):
        with pytest.raises(PeerLost) as lost:
            await node.multicast([1, 2], BIG, tag="big")
        seen.append((node.now, lost.value.cause))

    simulate(
        only(send),
        faults=[{"kind": "cut", "ranks": [0], "at": "1 s"}],
        topology={**BASE["topology"], "multicast": "relay"},
    )
    assert seen[0][0] == 3.0
    assert seen[0][1].startswith("the relay is gone: no heartbeat for 2 s")


def test_a_restarted_rank_reaches_those_that_it_had_lost():
    got = []

    async def receive(node):
        for _ in range(2):
            try:
                got.append((await node.recv(1, tag="x")).payload)
            except PeerLost:
                await node.sleep(20)

    async def send(node):
        await node.sleep(3.5)
        await node.send(0, 7, tag="x")

    faults = [
        {"kind": "cut", "ranks": [1], "at": "1 s", "for": "4 s"},
        {"kind": "crash", "rank": 1, "at": "3200 ms", "restart_after": "10 s"},
    ]
    simulate(only(receive, send), faults=faults)
    assert got == [7]


# --- rates ----------------------------------------------------------------------------------------------------


def test_rates_are_drawn_from_the_seed_for_each_rank_on_its_own():
    async def work(node, task):
        await node.sleep(400)

    faults = [{"kind": "slow", "mtbf": "10 s", "mttr": "2 s", "factor": 2}]
    spans = faults_of(simulate(work, faults=faults))
    assert spans == faults_of(simulate(work, faults=faults))
    assert spans != faults_of(simulate(work, faults=faults, seed=6))
    assert spans[0][0] != spans[1][0]
    lengths = [end - start for events in spans.values() for _, start, end in events]
    assert 80 <= len(lengths) <= 190  # 4 ranks x 400 s / 12 s
    assert np.mean(lengths) == pytest.approx(2, rel=0.35)


def test_faults_without_end_do_not_keep_a_stuck_run_alive():
    async def worker(node, task):
        await node.recv((node.rank + 1) % 4, tag="never")

    faults = [{"kind": "slow", "mtbf": "1 s", "mttr": "1 s", "factor": 2}]
    error = simulate(worker, faults=faults).error
    assert isinstance(error, Deadlock)
    assert "rank 3 (step 1) waits for recv(tag='never') from rank 0" in str(error)


# --- what a scenario may say ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: crash(rank=1), "at: expected one of at, at_step and mtbf; got none of them"),
        (lambda: crash(rank=1, at=1.0, at_step=2), "got at and at_step"),
        (lambda: crash(at=1.0), "rank: required"),
        (lambda: crash(rank=1, at=1.0, mttr=1.0), "mttr: goes with mtbf; with at, give restart_after"),
        (lambda: slow(factor=2.0, rank=1, mtbf=1.0, for_=1.0, mttr=1.0), "either mttr or for; got both"),
        (lambda: cut(at=1.0), "links: expected either links or ranks; got neither"),
        (lambda: cut(links="*", ranks=(1,), at=1.0), "got both"),
    ],
)
def test_what_does_not_fit_together_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"kind": "crash", "rank": 4, "at": "1 s"}, "faults.0.rank: expected ranks of 0 to 3; got 4"),
        ({"kind": "cut", "ranks": [1, 9], "at": "1 s"}, "faults.0.ranks: expected ranks of 0 to 3; got 9"),
        ({"kind": "cut", "ranks": [0, 1, 2, 3], "at": "1 s"}, "so that there is a rest; got all of them"),
        ({"kind": "cut", "links": "host9.*", "at": "1 s"}, "faults.0.links: no link is called 'host9.*'; did you"),
        ({"kind": "slow", "rank": 1, "factor": 0, "at": "1 s"}, "faults.0.factor: expected more than 0; got 0"),
        (
            {"kind": "slow", "rank": 1, "factor": 2, "at": "1 s", "for": 3},
            "faults.0.for: expected a time with its unit",
        ),
        ({"kind": "crsh", "rank": 1}, "no fault is called 'crsh'; did you mean 'crash'"),
    ],
)
def test_a_scenario_with_a_wrong_fault_says_what_is_wrong(fault, message):
    with pytest.raises(ScenarioError) as caught:
        from_dict({**BASE, "faults": [fault]})
    assert message in str(caught.value)


def test_a_partition_must_not_divide_a_host():
    with pytest.raises(ScenarioError, match="whole hosts; got rank 2 without rank 3, which is on host1, too"):
        from_dict({**BASE, "hosts": {"ranks_per_host": 2}, "faults": [{"kind": "cut", "ranks": [2], "at": "1 s"}]})


def test_faults_survive_a_round_trip():
    faults = [
        {"kind": "crash", "mtbf": "1 h", "mttr": "30 s"},
        {"kind": "slow", "rank": 1, "at_step": 3, "for": "1 s", "factor": 4},
        {"kind": "cut", "links": ["host1.up", "host2.*"], "at": "2 s"},
    ]
    scenario = from_dict({**BASE, "faults": faults})
    assert loads(dump(scenario)) == scenario
    assert scenario.faults[1].document()["for"] == "1 s"


@pytest.mark.parametrize("key", ["faults", "changes"])
def test_real_mode_refuses_what_it_cannot_carry_out(key, tmp_path):
    event = {
        "faults": {"kind": "slow", "rank": 1, "at": "1 s", "factor": 4},
        "changes": {"kind": "jitter", "mean": "1 ms"},
    }[key]
    with pytest.raises(ScenarioError, match=f"^{key}: real mode cannot carry these out; got 1 in scenario 'faults'"):
        psgdsim.run({**BASE, key: [event]}, mode="real", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- determinism ----------------------------------------------------------------------------------------------

EVERYTHING = {
    **BASE,
    "faults": [
        {"kind": "slow", "mtbf": "300 ms", "mttr": "100 ms", "factor": 3},
        {"kind": "cut", "ranks": [2], "mtbf": "500 ms", "mttr": "50 ms"},
        {"kind": "cut", "links": "host1.*", "at_step": 2, "for": "50 ms"},
    ],
    "changes": [
        {"kind": "jitter", "mean": "1 ms"},
        {"kind": "loss", "probability": 0.02},
        {
            "kind": "background",
            "from": "host0",
            "to": "host3",
            "size": "2 kB",
            "rate": "2 Mbit/s",
            "arrivals": "poisson",
        },
        {"kind": "periodic", "links": "host2.*", "period": "200 ms", "low": 0.1, "shape": "sine"},
    ],
}
DIGEST = """
import hashlib, json, sys, tempfile, psgdsim
with tempfile.TemporaryDirectory() as folder:
    result = psgdsim.run(json.loads(sys.argv[1]), out=folder + "/run")
    names = ("trace.json", "steps.csv", "links.csv")
    print(hashlib.sha256(b"".join((result.folder / name).read_bytes() for name in names)).hexdigest())
"""


def test_same_seed_gives_the_same_trace_in_other_processes():
    outputs = {
        subprocess.run(
            [sys.executable, "-c", DIGEST, json.dumps(EVERYTHING)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert len(outputs.pop()) == 2 * hashlib.sha256().digest_size


def test_faults_change_times_but_not_what_is_learned(tmp_path):
    disturbed = psgdsim.run(EVERYTHING, out=tmp_path / "disturbed").summary
    healthy = psgdsim.run({**EVERYTHING, "faults": [], "changes": []}, out=tmp_path / "healthy").summary
    assert disturbed["params_sha256"] == healthy["params_sha256"]
    assert disturbed["bytes"] == healthy["bytes"]
    assert disturbed["time_s"] > healthy["time_s"]
