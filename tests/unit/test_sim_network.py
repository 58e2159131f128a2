"""What a network does besides carrying: overheads, copies, changes, messages that are given up, accounts."""

from __future__ import annotations

import math

import pytest
import simpy

from psgdsim.errors import PsgdsimError
from psgdsim.network_model import NetworkModel
from psgdsim.sim import simulate_flows
from psgdsim.sim.link_usage import LinkUsage, utilisation
from psgdsim.sim.network import Network
from psgdsim.topologies import star

MODELS = ["fluid", "fifo", "ideal"]


class Run:
    """A star of four hosts with 1000 B/s each way, and when messages arrived in it."""

    def __init__(self, model=None, latency=0.0, **settings):
        self.env = simpy.Environment()
        topology = star(bandwidth=8e3, latency=latency, multicast="native").build(4)
        self.network = Network(self.env, topology, NetworkModel(model=model or "fluid", **settings))
        self.ends = {}

    def at(self, time, action):
        self.env.timeout(time).callbacks.append(lambda _: action())

    def note(self, name, delivery):
        delivery.callbacks.append(lambda _: self.ends.setdefault(name, self.env.now))
        return delivery

    def finish(self):
        self.env.run()
        return self.ends

    def usage(self):
        return {each.name: each for each in self.network.usage() if each.nbytes}


@pytest.mark.parametrize(("model", "end"), [("fluid", 1.1), ("fifo", 2.2), ("ideal", 1.1)])
def test_headers_are_carried(model, end):
    run = Run(model, message_overhead={"nbytes": "100 B"})
    run.note("one", run.network.send(0, 1, 1000))
    assert run.finish() == {"one": pytest.approx(end)}
    assert {name: each.nbytes for name, each in run.usage().items()} == {"host0.up": 1100, "host1.down": 1100}


def test_processors_take_one_message_after_the_other():
    # o = 0.25 s at either end: host 0's second message leaves at 0.5 s, host 1 is done with its first at 1 s.
    run = Run(latency=0.5, message_overhead={"cpu": "250 ms"})
    run.note("to 1", run.network.send(0, 1, 0))
    run.note("to 2", run.network.send(0, 2, 0))
    run.note("also to 1", run.network.send(3, 1, 0))
    assert run.finish() == {"to 1": 1.0, "to 2": 1.25, "also to 1": 1.25}


@pytest.mark.parametrize(("model", "end"), [("fluid", 1.5), ("fifo", 2.5), ("ideal", 1.5)])
def test_a_multicast_arrives_everywhere_at_once(model, end):
    run = Run(model, latency=0.5)
    run.note("all", run.network.multicast(0, [1, 2, 3], 1000))
    assert run.finish() == {"all": end}
    assert {name: each.nbytes for name, each in run.usage().items()} == {
        "host0.up": 1000, "host1.down": 1000, "host2.down": 1000, "host3.down": 1000,
    }  # fmt: skip


def test_copies_of_a_multicast_wait_in_queues_of_their_own():
    run = Run("fifo")
    run.note("other", run.network.send(3, 1, 3000))  # is on host 1's downlink from 3 s to 6 s
    run.at(2.5, lambda: run.note("all", run.network.multicast(0, [1, 2], 1000)))
    assert run.finish() == {"other": 6.0, "all": 7.0}


@pytest.mark.parametrize("model", MODELS)
def test_a_message_to_nobody_arrives_at_once(model):
    run = Run(model)
    run.note("none", run.network.multicast(0, [], 1000))
    assert run.finish() == {"none": 0.0}


@pytest.mark.parametrize("model", MODELS)
def test_a_message_that_is_given_up_never_arrives(model):
    run = Run(model, latency=0.5)
    lost = run.note("lost", run.network.send(0, 1, 1000))
    kept = run.note("kept", run.network.send(2, 3, 1000))
    run.at(0.75, lambda: run.network.cancel(lost))
    run.at(9.0, lambda: (run.network.cancel(lost), run.network.cancel(kept)))
    assert set(run.finish()) == {"kept"}


def test_a_flow_that_is_given_up_leaves_its_share_to_the_others():
    run = Run()
    lost = run.network.send(0, 1, 1000)
    run.note("kept", run.network.send(2, 1, 1000))
    run.at(1.0, lambda: run.network.cancel(lost))
    assert run.finish() == {"kept": 1.5}
    assert run.usage()["host0.up"] == LinkUsage("host0.up", 500.0, 0.5)
    assert run.usage()["host1.down"] == LinkUsage("host1.down", 1500.0, 1.5)


def test_a_queued_message_that_is_given_up_lets_the_next_one_pass():
    run = Run("fifo")
    first = run.network.send(0, 1, 1000)
    second = run.network.send(0, 1, 1000)
    run.note("third", run.network.send(0, 1, 1000))
    run.at(0.5, lambda: (run.network.cancel(first), run.network.cancel(second)))
    assert run.finish() == {"third": 2.5}
    assert run.usage()["host0.up"] == LinkUsage("host0.up", 1500.0, 1.5)


@pytest.mark.parametrize(("model", "end"), [("fluid", 3.5), ("fifo", 4.5)])
def test_a_link_that_is_down_for_a_while(model, end):
    run = Run(model)
    run.note("one", run.network.send(0, 1, 1000))
    run.at(0.5, lambda: run.network.set_link(0, bandwidth=0.0))
    run.at(3.0, lambda: run.network.set_link(0, bandwidth=8e3))
    assert run.finish() == {"one": end}
    assert run.usage()["host0.up"] == LinkUsage("host0.up", 1000.0, pytest.approx(1.0))


@pytest.mark.parametrize(("model", "end"), [("fluid", 2.5), ("fifo", 3.5)])
def test_a_link_that_slows_down_under_way(model, end):
    run = Run(model)
    run.note("one", run.network.send(0, 1, 1000))
    run.at(0.5, lambda: run.network.set_link(0, bandwidth=2e3))
    assert run.finish() == {"one": end}
    assert run.usage()["host0.up"].busy == pytest.approx(2.5)


@pytest.mark.parametrize("model", MODELS)
def test_a_link_that_stays_down_carries_nothing(model):
    run = Run(model)
    run.network.set_link(0, bandwidth=0.0)
    run.note("never", run.network.send(0, 1, 1000))
    run.note("another way", run.network.send(2, 1, 1000))
    assert set(run.finish()) == {"another way"}


def test_an_ideal_message_waits_for_a_link_that_is_down_when_it_starts():
    run = Run("ideal", latency=0.5)
    run.network.set_link(0, bandwidth=0.0)
    run.note("one", run.network.send(0, 1, 1000))
    lost = run.note("lost", run.network.send(0, 1, 1000))
    run.at(2.0, lambda: run.network.cancel(lost))
    run.at(3.0, lambda: run.network.set_link(0, bandwidth=8e3))
    assert run.finish() == {"one": 4.5}


def test_latency_applies_to_messages_that_start_after_its_change():
    run = Run(latency=0.5)
    run.note("before", run.network.send(0, 1, 0))
    run.network.set_link(0, latency=1.0)
    run.note("after", run.network.send(0, 1, 0))
    assert run.finish() == {"before": 0.5, "after": 1.25}


def test_utilisation_is_busy_time_over_time():
    assert utilisation([LinkUsage("a", 10.0, 2.0), LinkUsage("b", 0.0, 0.0)], 8.0) == {"a": 0.25, "b": 0.0}


def test_acknowledgements_and_headers_keep_links_busy_but_are_no_payload():
    env = simpy.Environment()
    tcp = {"bandwidth_factor": 0.5, "cross_traffic": 0.1}
    network = Network(env, star(bandwidth=8e3, latency=0.0).build(2), NetworkModel(tcp=tcp))
    network.send(0, 1, 1000)
    env.run()
    assert env.now == 2.0
    assert [(each.nbytes, each.busy) for each in network.usage()] == [
        (1000.0, 2.0), (0.0, pytest.approx(0.2)), (0.0, pytest.approx(0.2)), (1000.0, 2.0),
    ]  # fmt: skip


CABLE = {"src": "a", "dst": "b", "bandwidth": "8 kbit/s", "latency": "100 ms"}
NETWORK = {"kind": "custom", "hosts": ["a", "b"], "links": [CABLE]}


def test_flows_over_a_spec_a_part_and_a_network():
    part = star(bandwidth=8e3, latency=0.1)
    flows = [("host0", "host1", 1000, 0.5)]
    assert list(simulate_flows(part, flows, num_hosts=2)) == [1.6]
    assert list(simulate_flows(part.build(2), flows)) == [1.6]
    assert list(simulate_flows(NETWORK, [("a", "b", 1000, 0.5)])) == [1.6]
    assert len(simulate_flows(NETWORK, [])) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((NETWORK, [("a", "x", 1, 0.0)]), "flow 0: no host is called 'x'; valid: a, b"),
        ((NETWORK, [("a", "b", 1, 0.0), ("a", "b", -1, 0.0)]), "flow 1: expected a size"),
        ((NETWORK, [("a", "b", 1, math.nan)]), "flow 0: expected a size"),
        ((NETWORK, [], "lv8"), "did you mean 'lv08'"),
        ((NETWORK, [], {"gama": 1}), "tcp.gama: Extra inputs"),
        (({"kind": "custm"}, []), "did you mean 'custom'"),
        (({**NETWORK, "links": [{**CABLE, "bandwidth": "8 kbps"}]}, []), "write '8 kbit/s'"),
        (({"kind": "star", "bandwidth": None, "latency": "0 s"}, []), "num_hosts: required"),
    ],
)
def test_mistakes_in_flows(arguments, message):
    with pytest.raises(PsgdsimError) as error:
        simulate_flows(*arguments)
    assert message in str(error.value)
