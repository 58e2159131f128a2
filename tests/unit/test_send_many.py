"""Messages that are sent together: who is told what, and what becomes of a bundle when its members part."""

from __future__ import annotations

import numpy as np
import pytest
import simpy

from psgdsim.network_model import NetworkModel
from psgdsim.sim import simulate_flows
from psgdsim.sim.link_usage import LinkUsage
from psgdsim.sim.network import Network
from psgdsim.sim.occupancy import Occupancy
from psgdsim.topologies import Link, Topology, star

HOSTS = 40
RING = (range(HOSTS), [(i + 1) % HOSTS for i in range(HOSTS)], [1000] * HOSTS)
LAST = HOSTS - 1


class Run:
    """A star with 1000 B/s each way, what a batch was told, and when."""

    def __init__(self, topology=None, **model):
        self.env = simpy.Environment()
        self.topology = topology or star(bandwidth=8e3, latency=0.0).build(HOSTS)
        self.occupancy = Occupancy(len(self.topology.links))
        self.network = Network(self.env, self.topology, NetworkModel(**model), occupancy=self.occupancy)
        self.told = []

    def send_many(self, srcs, dsts, nbytes):
        self.network.send_many(srcs, dsts, nbytes, lambda arrived: self.told.append((self.env.now, arrived)))

    def at(self, time, action):
        self.env.timeout(time).callbacks.append(lambda _: action())

    def num_flows_at(self, *times):
        """Return how many flows there are at some times, after what else happens at them."""
        nums = []
        for time in times:
            self.env.run(until=time)
            nums.append(len(self.network._carrier._links.flows))
        return nums

    def usage(self, name):
        return next(each for each in self.network.usage() if each.name == name)


def test_equal_messages_are_carried_as_one_and_reported_together():
    run = Run()
    run.send_many(*RING)
    assert run.num_flows_at(0.5, 2.0) == [1, 0]
    assert run.told == [(1.0, list(range(HOSTS)))]
    assert run.usage("host0.up") == LinkUsage("host0.up", 1000.0, 1.0)


def test_messages_of_several_sizes_and_latencies_are_carried_as_several():
    links = tuple(Link(f"l{i}", 8e3, 0.25 if i == LAST else 0.0) for i in range(HOSTS))
    topology = Topology(("a", *map(str, range(HOSTS))), links, lambda _, dst: (dst - 1,), "unicast", lambda *_: ())
    run = Run(topology)
    for sizes in ([1000] * HOSTS, [1000] * LAST + [500]):
        run.send_many([0] * HOSTS, range(1, HOSTS + 1), sizes)
    assert run.num_flows_at(0.5) == [4]
    run.env.run()
    # The last link carries 1000 B and 500 B from 0.25 s on; all others 2 x 1000 B from the beginning.
    assert run.told == [(1.25, [LAST]), (1.75, [LAST]), (2.0, list(range(LAST))), (2.0, list(range(LAST)))]


def test_three_messages_enter_one_by_one():
    run = Run()
    run.send_many(range(3), range(4, 7), [1000] * 3)
    assert run.num_flows_at(0.5) == [3]
    run.env.run()
    assert run.told == [(1.0, [0, 1, 2])]


def test_a_few_messages_are_carried_as_one_until_they_meet_another():
    run = Run()
    run.send_many(range(4), range(4, 8), [1000] * 4)
    run.at(0.5, lambda: run.network.send(0, 4, 250))
    assert run.num_flows_at(0.25, 0.75, 1.1) == [1, 5, 1]
    run.env.run()
    assert run.told == [(1.0, [1, 2, 3]), (1.25, [0])]


def test_a_few_messages_that_meet_others_when_they_enter_go_one_by_one():
    run = Run()
    run.network.send(0, 4, 250)
    run.send_many(range(4), range(4, 8), [1000] * 4)
    assert run.num_flows_at(0.25, 0.75) == [5, 4]
    run.env.run()
    assert run.told == [(1.0, [1, 2, 3]), (1.25, [0])]


def test_a_few_messages_of_unlike_speed_go_one_by_one():
    run = Run()
    run.network.set_link(2, bandwidth=4e3)
    for _ in range(2):  # the second time by what is remembered of the first
        run.send_many(range(4), range(4, 8), [1000] * 4)
        assert run.num_flows_at(run.env.now + 0.5) == [4]
        run.env.run()
    assert run.told == [(1.0, [0, 1, 3]), (2.0, [2]), (3.0, [0, 1, 3]), (4.0, [2])]


def test_a_few_messages_that_many_others_meet_at_once_go_one_by_one():
    run = Run()
    run.send_many(range(4), range(4, 8), [1000] * 4)
    run.at(0.5, lambda: [run.network.send(0, dst, 1) for dst in range(8, 38)])
    assert run.num_flows_at(0.25, 0.5001) == [1, 34]


def test_messages_that_are_taken_apart_are_told_of_in_the_order_in_which_they_came():
    run = Run()
    run.send_many(range(4), range(4, 8), [1000] * 4)
    run.at(0.5, lambda: run.send_many([10], [11], [500]))
    run.at(0.75, lambda: run.send_many([0], [12], [125]))
    run.env.run()
    assert run.told == [(1.0, [1, 2, 3]), (1.0, [0]), (1.0, [0]), (1.125, [0])]


@pytest.mark.parametrize("num", [4, 40])
def test_sizes_may_be_an_array(num):
    run = Run(star(bandwidth=8e3, latency=0.0).build(2 * num))
    run.send_many(range(num), range(num, 2 * num), np.full(num, 1000))
    assert run.num_flows_at(0.5) == [1]


def test_what_is_remembered_of_routes_is_forgotten_when_a_link_changes():
    run = Run()
    for bandwidth, num in ((4e3, 4), (8e3, 1), (4e3, 4)):
        run.network.set_link(2, bandwidth=bandwidth)
        run.env.run()
        run.send_many(range(4), range(4, 8), [1000] * 4)
        assert run.num_flows_at(run.env.now + 0.5) == [num]
        run.env.run()


def test_another_message_slows_only_the_one_that_it_meets():
    run = Run()
    run.send_many(*RING)
    run.at(0.5, lambda: run.network.send(0, 1, 250))
    assert run.num_flows_at(0.25, 0.75, 1.1, 2.0) == [1, 3, 1, 0]
    # Message 0 has 500 B left at 0.5 s and half the rate until 1 s, when the other has carried its 250 B.
    assert run.told == [(1.0, list(range(1, HOSTS))), (1.25, [0])]
    assert run.usage("host0.up") == LinkUsage("host0.up", 1250.0, 1.25)
    assert run.usage("host7.up") == LinkUsage("host7.up", 1000.0, 1.0)


def test_a_link_that_stops_holds_up_only_what_crosses_it():
    run = Run()
    run.send_many(*RING)
    run.at(0.5, lambda: run.network.set_link(3, bandwidth=0.0))
    run.at(2.0, lambda: run.network.set_link(3, bandwidth=8e3))
    run.env.run()
    assert run.told == [(1.0, [i for i in range(HOSTS) if i != 3]), (2.5, [3])]
    assert run.usage("host3.up") == LinkUsage("host3.up", 1000.0, 1.0)


def test_a_batch_that_meets_a_stopped_link_when_it_enters():
    run = Run()
    run.network.set_link(3, bandwidth=0.0)
    run.send_many(*RING)
    run.env.run()
    assert run.told == [(1.0, [i for i in range(HOSTS) if i != 3])]


def test_slower_links_for_some_members_are_seen_when_they_enter():
    run = Run()
    for link in (3, 5, 8):
        run.network.set_link(link, bandwidth=4e3)
    run.send_many(*RING)
    assert run.num_flows_at(0.5) == [4]  # three are too few to go on as one
    run.env.run()
    assert run.told == [(1.0, [i for i in range(HOSTS) if i not in {3, 5, 8}]), (2.0, [3, 5, 8])]


def test_members_that_cross_a_link_twice():
    # As many messages over one link twice as over another once: 16 x 100 B through 1000 B/s, twice and once.
    links = (Link("twice", 8e3, 0.0), Link("once", 8e3, 0.0))
    run = Run(Topology(("a", "b", "c"), links, lambda _, dst: (0, 0) if dst == 1 else (1,), "unicast", lambda *_: ()))
    run.send_many([0] * 32, [1] * 16 + [2] * 16, [100] * 32)
    run.env.run()
    assert run.told == [(1.6, list(range(16, 32))), (3.2, list(range(16)))]
    assert run.usage("twice") == LinkUsage("twice", 3200.0, 3.2)


def test_members_that_share_a_link_go_on_together():
    # 32 messages to each of two hosts: 1600 B each, 1000 B of which are there when one's link becomes wider.
    run = Run(star(bandwidth=8e3, latency=0.0).build(66))
    senders = range(64)
    run.send_many(senders, [64 + i % 2 for i in senders], [50 for _ in senders])
    run.at(1.0, lambda: run.network.set_link(66 + 64, bandwidth=16e3))
    assert run.num_flows_at(0.5, 1.25) == [1, 2]
    run.env.run()
    assert [arrived for _, arrived in run.told] == [list(senders[::2]), list(senders[1::2])]
    assert [time for time, _ in run.told] == pytest.approx([1.0 + 600 / 2000, 1.6])


@pytest.mark.parametrize(
    ("model", "ends"),
    [
        ({}, {0: 1.0, 1: 0.0, 2: 0.0}),
        ({"model": "fifo"}, {0: 2.0, 1: 0.0, 2: 0.0}),
        ({"model": "ideal"}, {0: 1.0, 1: 0.0, 2: 0.0}),
        ({"message_overhead": {"nbytes": "100 B"}}, {0: 1.1, 1: 0.1, 2: 0.0}),
    ],
)
def test_empty_messages_and_messages_to_oneself(model, ends):
    run = Run(**model)
    run.send_many([0, 2, 4], [1, 3, 4], [1000, 0, 1000])
    run.env.run()
    assert {i: time for time, arrived in run.told for i in arrived} == pytest.approx(ends)


def test_processors_take_one_message_of_a_batch_after_the_other():
    run = Run(message_overhead={"cpu": "250 ms"})
    run.send_many([0] * LAST, range(1, HOSTS), [0] * LAST)
    run.env.run()
    assert run.told[:3] == [(0.5, [0]), (0.75, [1]), (1.0, [2])]


def test_every_member_counts_on_its_links():
    run = Run()
    run.send_many(*RING)
    run.send_many([0] * HOSTS, [1] * HOSTS, [1000] * HOSTS)
    run.env.run()
    assert run.env.now == HOSTS + 1
    assert run.occupancy.until(run.env.now)[0] == (HOSTS + 1, HOSTS + 1)


def test_a_change_of_latency_is_seen_by_the_same_batch_later():
    run = Run()
    run.send_many(*RING)
    run.network.set_link(0, latency=0.5)
    run.send_many(*RING)
    run.env.run()
    # Message 0 of the first batch is alone until 0.5 s, that of the second from 1.5 s on; all others share their links.
    assert sorted(run.told) == [(1.5, [0]), (2.0, list(range(HOSTS))), (2.0, list(range(1, HOSTS)))]


def test_nothing_to_send_tells_nobody():
    run = Run()
    run.send_many([], [], [])
    run.env.run()
    assert run.told == []


def test_columns_of_different_length_are_refused():
    with pytest.raises(ValueError, match="expected as many receivers and sizes as senders, 2; got 1 and 3"):
        Run().send_many([0, 1], [2], [1, 2, 3])


def test_known_flows_that_start_alike_end_alike_and_apart():
    part = star(bandwidth=8e3, latency=0.5)
    ring = [(f"host{i}", f"host{(i + 1) % HOSTS}", 1000, 1.0) for i in range(HOSTS)]
    assert list(simulate_flows(part, ring, num_hosts=HOSTS)) == [2.5] * HOSTS
    ends = simulate_flows(part, [("host0", "host1", 500, 1.0), *ring], num_hosts=HOSTS)
    assert list(ends) == [2.5, 3.0, *[2.5] * LAST]
