"""Ranks that crash, and what the programs of the others see of it."""

from __future__ import annotations

import pytest
from fault_cases import BASE, BIG, faults_of, only, simulate, simulation

import psgdsim
from psgdsim.errors import PeerLost

# --- crash ----------------------------------------------------------------------------------------------------


def test_a_receive_from_a_crashed_rank_fails_at_that_moment():
    seen = []

    async def receive(node):
        with pytest.raises(PeerLost) as lost:
            await node.recv(1, tag="never")
        seen.append((node.now, lost.value.rank, lost.value.peer, lost.value.cause))
        with pytest.raises(PeerLost):
            await node.recv(1, tag="never")

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


@pytest.mark.parametrize("multicast", ["native", "relay"])
def test_a_multicast_under_way_is_not_for_the_next_incarnation(multicast):
    received = []

    async def send(node):
        await node.multicast([1, 2], BIG, tag="big")
        await node.multicast([1, 2], 7, tag="small")

    async def receive(node):
        if node.now == 0:
            await node.recv(0, tag="big")
        received.append((node.rank, (await node.recv(0, tag="small")).payload))

    topology = {**BASE["topology"], "multicast": multicast}
    faults = [{"kind": "crash", "rank": 2, "at": "2 s", "restart_after": "500 ms"}]
    outcome = simulate(only(send, receive, receive), faults=faults, topology=topology)
    assert outcome.error is None
    assert sorted(received) == [(1, 7), (2, 7)]
    assert outcome.reports[2].unread == 0


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
    simulated.evaluate = lambda step, time: None
    outcome = simulated.run()
    assert outcome.error is None
    assert [len(report.rows) for report in outcome.reports] == [3, 3, 1, 3]
