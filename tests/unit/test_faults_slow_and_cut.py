"""Ranks that are slow for a while, and cuts that heal or do not."""

from __future__ import annotations

import numpy as np
import pytest
from fault_cases import BASE, BIG, WORK, faults_of, only, simulate

from psgdsim.errors import Deadlock, PeerLost

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
