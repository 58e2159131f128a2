"""What links carried over time, in bins, and how many messages were on them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import simpy

from psgdsim.network_model import NetworkModel
from psgdsim.sim.carriers import Message
from psgdsim.sim.fifo import FifoCarrier
from psgdsim.sim.network import Network
from psgdsim.sim.occupancy import Occupancy
from psgdsim.sim.paths import Paths, hops
from psgdsim.sim.series import Series, num_bins_for
from psgdsim.topologies import star

MODELS = ["fluid", "fifo", "ideal"]


class Run:
    """A star of three hosts with 1000 B/s each way, its series and the messages on its links."""

    def __init__(self, model="fluid", num_bins=256, latency=0.0):
        self.env = simpy.Environment()
        topology = star(bandwidth=8e3, latency=latency).build(3)
        self.occupancy = Occupancy(len(topology.links))
        self.network = Network(self.env, topology, NetworkModel(model=model), occupancy=self.occupancy)
        self.series = Series(self.network.counters, num_bins)
        self.names = [link.name for link in topology.links]

    def at(self, time, action):
        self.env.timeout(time).callbacks.append(lambda _: action())

    def finish(self, end):
        """Run until all has happened, and on to a time; return what a link carried in each bin and when bins begin."""
        self.at(end, lambda: None)
        while (time := self.env.peek()) < math.inf:
            if time > self.series.edge:
                self.series.advance(time)
            self.env.step()
        return self.series.bins(self.env.now)

    def link(self, name, end):
        edges, nbytes, used = self.finish(end)
        at = self.names.index(name)
        return edges, nbytes[:, at], used[:, at]


def carried(edges, nbytes, start, end):
    """Return the bytes in the bins from one edge to another."""
    return nbytes[(edges[:-1] >= start) & (edges[1:] <= end)].sum()


@pytest.mark.parametrize("model", MODELS)
def test_a_message_is_in_the_bins_in_which_it_is_carried(model):
    run = Run(model)
    run.at(1.0, lambda: run.network.send(0, 1, 2000))
    edges, nbytes, used = run.link("host0.up", 8.0)
    assert len(edges) == 257
    assert set(np.diff(edges)) == {2.0**-5}
    assert set(nbytes[32:96]) == {31, 32}  # of 31.25
    assert used[32:96] == pytest.approx(1.0)
    assert nbytes.sum() == 2000
    assert used[:32].max() == used[96:].max() == 0


def test_a_link_that_changes_is_full_at_the_bandwidth_that_it_has():
    run = Run()
    run.network.send(0, 1, 3000)
    run.at(1.0, lambda: run.network.set_link(0, bandwidth=4e3))
    run.at(2.0, lambda: run.network.set_link(0, bandwidth=0.0))
    run.at(3.0, lambda: run.network.set_link(0, bandwidth=8e3))
    edges, nbytes, used = run.link("host0.up", 8.0)
    sums = [carried(edges, nbytes, start, start + 1) for start in range(8)]
    assert sums == [1000, 500, 0, 1000, 500, 0, 0, 0]
    assert [used[edges[:-1] == time][0] for time in (0.5, 1.5, 2.5, 3.5, 4.25, 6.0)] == [1, 1, 0, 1, 1, 0]
    down = run.series.bins(8.0)[2][:, run.names.index("host1.down")]
    assert [down[edges[:-1] == time][0] for time in (0.5, 1.5, 2.5, 3.5)] == [1, 0.5, 0, 1]


@pytest.mark.parametrize("model", MODELS)
def test_what_is_given_up_stays_counted_where_it_was_carried(model):
    run = Run(model)
    lost = run.network.send(0, 1, 3000)
    run.at(1.5, lambda: run.network.cancel(lost))
    edges, nbytes, used = run.link("host0.up", 8.0)
    assert (carried(edges, nbytes, 0, 1.5), nbytes.sum()) == (1500, 1500)
    assert used[edges[:-1] < 1.5] == pytest.approx(1.0)
    assert run.network.usage()[0].nbytes == 1500


def test_ideal_messages_that_start_late_are_carried_after_their_latency():
    run = Run("ideal", latency=0.5)
    run.network.send(0, 1, 1000)
    run.network.send(0, 2, 1000)
    edges, nbytes, used = run.link("host0.up", 4.0)
    assert [carried(edges, nbytes, start, start + 0.5) for start in (0, 0.5, 1, 1.5, 2)] == [0, 1000, 1000, 0, 0]
    assert used.max() == pytest.approx(2)  # they do not feel each other


def test_bins_are_never_more_and_at_least_half_as_many():
    for end in (1e-9, 1e-3, 0.1, 1.0, 1.5, 1.9, 77.0, 1e6):
        run = Run(num_bins=16)
        run.network.send(0, 1, 1)
        edges, nbytes, _ = run.link("host0.up", end)
        assert edges[-1] == pytest.approx(max(end, 0.001))
        assert 8 < len(edges) <= 17 or end == 1e-9
        assert nbytes.sum() == 1


def test_each_edge_is_read_once_when_time_passes_it():
    times = []

    def read(time):
        times.append(time)
        return [(800.0 * time, 0.25 * time)]

    series = Series(read, 4)
    edges = []
    for time in (1.0, 1.1, 1.75, 2.25):
        series.advance(time)
        edges.append(series.edge)
    assert edges == [1.0, 1.5, 2.0, 3.0]
    assert times == [0.25, 0.5, 0.75, 1.0, 1.5, 2.0]
    edges, nbytes, used = series.bins(2.5)
    assert list(edges) == [0, 1.0, 2.0, 2.5]
    assert list(nbytes[:, 0]) == [100, 100, 50]
    assert used == pytest.approx(0.25)


def test_bytes_are_whole_and_add_up_to_the_rounded_total():
    series = Series(lambda time: [(8 * 10.3 * time, 0.0)], 16)
    series.advance(0.9)
    edges, nbytes, _ = series.bins(0.9)
    assert nbytes.sum() == round(10.3 * 0.9)
    assert np.cumsum(nbytes[:, 0]) == pytest.approx(np.rint(10.3 * edges[1:]))


def test_nothing_is_used_where_no_time_has_passed():
    edges, nbytes, used = Series(lambda _: [(80.0, 0.0)], 16).bins(0.0)
    assert (list(edges), nbytes.tolist(), used.tolist()) == ([0, 0], [[10]], [[0]])


def test_an_odd_number_of_bins_is_refused():
    with pytest.raises(ValueError, match="num_bins: expected an even number of at least 2; got 3"):
        Series(lambda _: [], 3)


def test_there_are_fewer_bins_with_more_links():
    assert [num_bins_for(num) for num in (0, 1, 512, 513, 2000, 10**5)] == [256, 256, 256, 254, 64, 16]


# --- messages on links ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "mean", "most"),
    # fluid: 1500 B share the uplink until 1 s, then 1000 B more of one; fifo: the second waits until 0.5 s.
    [("fluid", (2 * 1.0 + 1 * 0.5) / 2, 2), ("fifo", (2 * 0.5 + 1 * 1.0) / 2, 2)],
)
def test_messages_that_share_a_link_or_wait_for_it_are_counted(model, mean, most):
    run = Run(model)
    run.network.send(0, 1, 500)
    run.network.send(0, 2, 1000)
    run.finish(2.0)
    queues = dict(zip(run.names, run.occupancy.until(2.0), strict=True))
    assert queues["host0.up"] == (mean, most)
    assert queues["host1.up"] == (0, 0)


def test_a_message_that_is_given_up_waits_no_longer():
    run = Run("fifo")
    run.network.send(0, 1, 1000)
    lost = [run.network.send(0, 1, 1000), run.network.send(0, 2, 1000)]
    run.at(0.5, lambda: [run.network.cancel(each) for each in lost])
    run.finish(2.0)
    assert run.occupancy.until(2.0)[0] == ((3 * 0.5 + 1 * 0.5) / 2, 3)


def test_all_copies_of_a_message_that_is_given_up_leave_a_queue():
    """Two branches of a multicast meet on link 2, from 1 s until the message is given up at 2 s."""
    env, occupancy = simpy.Environment(), Occupancy(3)
    bandwidth, latency = [8e3, 8e3, 1.0], [0.0, 0.0, 0.0]
    carrier = FifoCarrier(env, bandwidth, latency, lambda _: None, occupancy)
    message = Message(Paths(bandwidth, latency).path([0, 1, 2]), 8e3, None, hops([[0, 2], [1, 2]]))
    carrier.start(message)
    env.run(until=2.0)
    carrier.give_up(message)
    env.run(until=4.0)
    assert occupancy.until(4.0) == [(1 / 4, 1), (1 / 4, 1), (2 / 4, 2)]


def test_a_number_that_lasts_for_no_time_does_not_count():
    occupancy = Occupancy(2)
    occupancy.enter([0, 1], 1.0)
    occupancy.enter([0], 2.0)
    occupancy.leave([0], 2.0)
    occupancy.leave([0, 1], 3.0)
    assert occupancy.until(4.0) == [(0.5, 1), (0.5, 1)]
    assert Occupancy(1).until(0.0) == [(0.0, 0)]
