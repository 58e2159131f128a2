"""The model `ideal` where links stop and go: what has started arrives, and nothing else starts."""

from __future__ import annotations

import pytest
import simpy
from fault_cases import simulate

from psgdsim.network_model import NetworkModel
from psgdsim.sim.network import Network
from psgdsim.topologies import star

BACKGROUND = {"kind": "background", "from": "host0", "to": "host1", "size": "1 kB", "interval": "400 ms"}


class Run:
    """A star of two hosts with 1000 B/s each way; what is sent before virtual time begins."""

    def __init__(self):
        self.env = simpy.Environment()
        self.network = Network(self.env, star(bandwidth=8e3, latency=0.0).build(2), NetworkModel(model="ideal"))
        self.ends = []

    def send(self, nbytes):
        delivery = self.network.send(0, 1, nbytes)
        delivery.callbacks.append(lambda _: self.ends.append(self.env.now))
        return delivery

    def at(self, time, action):
        self.env.timeout(time).callbacks.append(lambda _: action())

    def uplink(self):
        usage = self.network.usage()[0]
        return usage.nbytes, usage.busy


@pytest.mark.parametrize("bandwidth", [0.0, 1e3, float("inf")])
def test_a_message_under_way_keeps_the_bandwidth_it_started_with(bandwidth):
    run = Run()
    run.send(1000)
    run.at(0.5, lambda: run.network.set_link(0, bandwidth=bandwidth))
    run.env.run()
    assert run.ends == [1.0]
    assert run.uplink() == (1000, 1.0)


def test_messages_that_wait_for_a_link_start_when_all_their_links_go():
    run = Run()
    first, second = run.network.topology.route(0, 1)
    run.network.set_link(first, bandwidth=0.0)
    run.network.set_link(second, bandwidth=0.0)
    run.send(1000)
    given_up = run.send(1000)
    run.at(1.0, lambda: run.network.set_link(first, bandwidth=4e3))
    run.at(1.5, lambda: run.network.cancel(given_up))
    run.at(2.0, lambda: run.network.set_link(second, bandwidth=16e3))
    run.env.run()
    assert run.ends == [4.0]
    assert run.uplink() == (1000, 2.0)


@pytest.mark.parametrize("model", ["fluid", "fifo", "ideal"])
def test_background_traffic_does_not_cross_a_link_that_is_down(model):
    """Messages of 1 ms start at 0, 400 and 800 ms; the link is down from 200 to 900 ms."""

    def carried(until):
        async def program(node, task):
            await node.sleep(until)

        down = {"kind": "link_down", "links": "host0.up", "at": "200 ms", "for": "700 ms"}
        outcome = simulate(program, changes=[down, BACKGROUND], network={"model": model})
        return next(link.nbytes for link in outcome.links if link.name == "host0.up")

    assert [carried(until) for until in (0.1, 0.85, 0.95)] == pytest.approx([1000, 1000, 3000])


def test_a_message_for_several_goes_on_without_the_rank_that_stays_unreachable():
    times = {}

    async def worker(node, task):
        if node.rank == 0:
            await node.sleep(0.5)
            await node.multicast([1, 2, 3], 7, tag="x")
        elif node.rank < 3:
            await node.recv(0, tag="x")
            times[node.rank] = node.now

    faults = [{"kind": "cut", "links": "host3.*", "at": "100 ms", "for": "1 h"}]
    topology = {"kind": "star", "bandwidth": "8 Mbit/s", "latency": "1 ms", "multicast": "native"}
    simulate(worker, faults=faults, topology=topology, network={"model": "ideal"})
    # The heartbeat timeout is 2 s: until then nobody knows that rank 3 is gone.
    assert times == {1: pytest.approx(2.1, abs=5e-3), 2: pytest.approx(2.1, abs=5e-3)}
