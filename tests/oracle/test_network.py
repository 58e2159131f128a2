"""The simulated network against closed forms (Hockney's alpha-beta model, max-min fairness)."""

from __future__ import annotations

import math

import pytest
import simpy

from psgdsim.sim.network import Network
from psgdsim.sim.sharing import maxmin
from psgdsim.topologies import Link, Topology, star


def line(*capacities):
    """Links in a row, without latency; routes are given by hand."""
    links = tuple(Link(f"l{i}", capacity, 0.0) for i, capacity in enumerate(capacities))
    return Topology(("a", "b"), links, lambda src, dst: (), "unicast", lambda host, up: ())


def finish_times(topology, messages):
    """Run messages `(links, nbytes, start)` and return when each has arrived."""
    env = simpy.Environment()
    network = Network(env, topology)
    ends = [math.nan] * len(messages)

    def start(i, links, nbytes):
        def note(_):
            ends[i] = env.now

        network.carry(links, nbytes).callbacks.append(note)

    for i, (links, nbytes, at) in enumerate(messages):
        env.timeout(at).callbacks.append(lambda _, i=i, links=links, nbytes=nbytes: start(i, links, nbytes))
    env.run()
    return ends


def test_flows_on_one_link_get_equal_shares():
    assert list(maxmin([10.0], [(0,)] * 5)) == [2.0] * 5


def test_two_links_and_a_flow_over_both():
    # A on L1 (capacity 1), B on L2 (capacity 2), C on both: A = C = 1/2, B = 3/2.
    assert list(maxmin([1.0, 2.0], [(0,), (1,), (0, 1)])) == [0.5, 1.5, 0.5]


def test_two_sizes_started_together():
    # s1 < s2 on one link of 8 bit/s = 1 B/s end at 2 s1 / B and (s1 + s2) / B.
    assert finish_times(line(8.0), [((0,), 3, 0.0), ((0,), 5, 0.0)]) == [6.0, 8.0]


def test_staggered_flows():
    # 4 B alone for 2 s, then shared: the first has 2 B left, gone at 2 + 4 = 6 s; the second then has 2 B, gone at 8 s.
    assert finish_times(line(8.0), [((0,), 4, 0.0), ((0,), 4, 2.0)]) == [6.0, 8.0]


@pytest.mark.parametrize("num", [1, 2, 7, 40])
def test_incast_ends_at_latency_plus_all_bytes_over_capacity(num):
    topology = star(bandwidth=8e6, latency=0.25).build(num + 1)
    ends = finish_times(topology, [(topology.route(i, num), 1000, 0.0) for i in range(num)])
    assert ends == pytest.approx([0.25 + num * 1e-3] * num, rel=1e-12)


def test_a_message_alone_takes_latency_plus_size_over_bandwidth():
    topology = star(bandwidth=100e6, latency=200e-6).build(2)
    ends = finish_times(topology, [(topology.route(0, 1), 12_500, 1.0)])
    assert ends == [pytest.approx(1.0 + 200e-6 + 1e-3, rel=1e-12)]


def test_both_directions_are_independent():
    topology = star(bandwidth=8e3, latency=0.0).build(2)
    ends = finish_times(topology, [(topology.route(0, 1), 1000, 0.0), (topology.route(1, 0), 1000, 0.0)])
    assert ends == [1.0, 1.0]


def test_no_limit_means_only_latency():
    topology = star(bandwidth=None, latency=0.5).build(2)
    assert finish_times(topology, [(topology.route(0, 1), 10**9, 0.0)]) == [0.5]


def test_a_native_multicast_loads_each_link_once():
    topology = star(bandwidth=8e3, latency=0.0, multicast="native").build(4)
    tree = topology.tree(0, [1, 2, 3])
    assert len(tree) == 4
    # Beside it host 1 receives 500 B more: its downlink is shared until those are through, and the multicast waits.
    ends = finish_times(topology, [(tree, 1000, 0.0), (topology.route(2, 1), 500, 0.0)])
    assert ends == [1.5, 1.0]
