"""Flows that enter together with one size: carried as one they must do what they would do one by one."""

from __future__ import annotations

import contextlib
import math
import random

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from psgdsim.network_model import NetworkModel
from psgdsim.sim import bundles, fluid, simulate_flows
from psgdsim.sim.network import Network
from psgdsim.topologies import Link, Topology

NEVER = 10**9


@contextlib.contextmanager
def bundles_of(smallest, fewest=1):
    """Let so few flows be a bundle, and so few members stay one when it falls apart; fewer go alone or one by one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("psgdsim.sim.batches.FEWEST", fewest)
        patch.setattr(bundles, "SMALLEST", smallest)
        patch.setattr("psgdsim.sim.batches.SMALLEST", smallest)
        yield


def tree(num, seed):
    """A random tree of hosts; a cable has two links, or one that both directions share, or is part of a bus."""
    rnd = random.Random(seed)
    links = [Link("bus", rnd.choice([8e6, 4e7, 1e9]), rnd.choice([0.0, 1e-3]))]
    latency = rnd.choice([0.0, 1e-3])
    parent, cables = {}, {}
    for child in range(1, num):
        parent[child] = rnd.randrange(min(child, 1 + seed % 4))  # flat trees, and deeper ones
        kind = rnd.choice(["full", "full", "shared", "bus"])
        width = rnd.choice([8e6, 8e6, 16e6, 4e7, math.inf])
        cables[child] = (0, 0) if kind == "bus" else (len(links), len(links) + (kind == "full"))
        links += [Link(f"{kind}{child}.{i}", width, latency) for i in range({"bus": 0, "shared": 1, "full": 2}[kind])]

    def climb(host):
        return [host, *climb(parent[host])] if host else [0]

    def route(src, dst):
        up, down = climb(src), climb(dst)
        while len(up) > 1 and len(down) > 1 and up[-2] == down[-2]:
            up, down = up[:-1], down[:-1]
        return (*(cables[host][0] for host in up[:-1]), *(cables[host][1] for host in reversed(down[:-1])))

    return Topology(tuple(f"h{i}" for i in range(num)), tuple(links), route, "unicast", lambda host, up: ())


def batches(topology, num, seed):
    """Batches `(start, [(src, dst, nbytes), ...])`: patterns of equal messages, some with others among them."""
    rnd = random.Random(seed)
    hosts = range(len(topology.hosts))
    sent = []
    for _ in range(num):
        pattern = rnd.choice(["ring", "all to all", "incast", "random", "mixed"])
        pairs = {
            "ring": [(i, (i + 1) % len(hosts)) for i in hosts],
            "all to all": [(i, j) for i in hosts for j in hosts if i != j],
            "incast": [(i, 0) for i in hosts if i],
        }.get(pattern, [(rnd.choice(hosts), rnd.choice(hosts)) for _ in range(rnd.randint(1, 30))])
        size = rnd.choice([1000, 20_000])
        sizes = [rnd.choice([size, 500, rnd.randint(0, 30_000)]) if pattern == "mixed" else size for _ in pairs]
        start = rnd.choice([0.0, 0.01, round(rnd.uniform(0, 0.2), 2), rnd.uniform(0, 0.2)])
        sent.append((start, [(src, dst, nbytes) for (src, dst), nbytes in zip(pairs, sizes, strict=True)]))
    return sent


def named(topology, sent):
    """The flows of all batches, as `simulate_flows` takes them."""
    return [(topology.hosts[i], topology.hosts[j], nbytes, start) for start, each in sent for i, j, nbytes in each]


@settings(max_examples=200)
@given(
    seed=st.integers(0, 10**6),
    num=st.integers(1, 6),
    num_hosts=st.integers(2, 9),
    smallest=st.sampled_from([1, 2, 5]),
)
def test_known_flows_end_when_they_would_one_by_one(seed, num, num_hosts, smallest):
    topology = tree(num_hosts, seed)
    flows = named(topology, batches(topology, num, seed))
    with bundles_of(NEVER):
        expected = simulate_flows(topology, flows)
    with bundles_of(smallest):
        assert simulate_flows(topology, flows) == pytest.approx(expected, rel=1e-9)


class Sender:
    """A network that gets batches, one message at a time or whole, and notes what becomes of them."""

    def __init__(self, topology, sent, model, *, is_whole):
        self.env = simpy.Environment()
        self.network = Network(self.env, topology, model)
        self.ends = [[math.nan] * len(each) for _, each in sent]
        self.usages = []
        self._deliveries = {}
        for i, (start, each) in enumerate(sent):
            self._at(start, lambda i=i, each=each: (self._send_whole if is_whole else self._send)(i, each))

    def _at(self, time, action):
        self.env.timeout(time).callbacks.append(lambda _: action())

    def _send(self, i, each):
        for j, message in enumerate(each):
            self.network.send(*message).callbacks.append(lambda _, j=j: self.ends[i].__setitem__(j, self.env.now))

    def _send_whole(self, i, each):
        def note(arrived):
            assert arrived == sorted(set(arrived))
            for j in arrived:
                assert math.isnan(self.ends[i][j]), "arrives twice"
                self.ends[i][j] = self.env.now

        self.network.send_many(*(zip(*each, strict=True) if each else ([], [], [])), note)

    def apply(self, changes):
        for time, what, *arguments in changes:
            self._at(time, lambda what=what, arguments=arguments: getattr(self, what)(*arguments))

    def link(self, link, bandwidth, latency):
        self.network.set_link(link, bandwidth=bandwidth, latency=latency)

    def foreign(self, name, src, dst, nbytes):
        self._deliveries[name] = self.network.send(src, dst, nbytes)

    def cancel(self, name):
        if name in self._deliveries:
            self.network.cancel(self._deliveries[name])

    def look(self):
        self.usages.append([(each.nbytes, each.busy) for each in self.network.usage()])

    def run(self):
        self.env.run()
        self.look()
        return [time for each in self.ends for time in each]


def what_happens(topology, seed):
    """Links that change and stop, other messages that come and are given up, looks at the accounts."""
    rnd = random.Random(seed)
    links, hosts = range(len(topology.links)), range(len(topology.hosts))
    events = []
    for i in range(rnd.randint(0, 8)):
        time = rnd.uniform(0.0, 0.4)
        link, bandwidth = rnd.choice(links), rnd.choice([0.0, 4e6, 8e6, 2e7])
        events += [
            (time, "link", link, bandwidth, rnd.choice([None, 2e-3])),
            (time + rnd.uniform(0, 0.1), "link", link, 8e6, None),
            (rnd.uniform(0, 0.3), "foreign", i, rnd.choice(hosts), rnd.choice(hosts), rnd.choice([1000, 10**5])),
            (rnd.uniform(0, 0.6), "cancel", i),
            (rnd.uniform(0, 0.6), "look"),
        ]
    return events


MODELS = {
    "plain": NetworkModel(),
    "header": NetworkModel(message_overhead={"nbytes": "66 B"}),
    "processor": NetworkModel(message_overhead={"cpu": "1 ms"}),
    "tcp": NetworkModel(tcp="lv08"),
    "fifo": NetworkModel(model="fifo"),
    "ideal": NetworkModel(model="ideal"),
}


@pytest.mark.parametrize("model", MODELS)
@settings(max_examples=100)
@given(
    seed=st.integers(0, 10**6),
    num=st.integers(1, 5),
    num_hosts=st.integers(2, 7),
    smallest=st.sampled_from([1, 2, 5, NEVER]),
)
def test_batches_do_what_their_messages_do(model, seed, num, num_hosts, smallest):
    topology = tree(num_hosts, seed)
    sent, changes = batches(topology, num, seed), what_happens(topology, seed)
    one_by_one, whole = (Sender(topology, sent, MODELS[model], is_whole=is_whole) for is_whole in (False, True))
    for sender in (one_by_one, whole):
        sender.apply(changes)
    with bundles_of(smallest):
        assert whole.run() == pytest.approx(one_by_one.run(), rel=1e-9, nan_ok=True)
    for got, expected in zip(whole.usages, one_by_one.usages, strict=True):
        assert np.array(got) == pytest.approx(np.array(expected), rel=1e-9, abs=1e-3)


def formed_and_ended(monkeypatch):
    """Return lists that get the number of members of each bundle that enters, and of each flow that ends."""
    formed, ended = [], []
    add, end = fluid.FluidLinks.add_bundle, fluid.FluidLinks.end

    def note_add(self, bundle, now):
        formed.append(len(bundle.members))
        return add(self, bundle, now)

    def note_end(self, flow, now, **options):
        ended.append(len(flow.members) if isinstance(flow, bundles.Bundle) else 0)
        end(self, flow, now, **options)

    monkeypatch.setattr(fluid.FluidLinks, "add_bundle", note_add)
    monkeypatch.setattr(fluid.FluidLinks, "end", note_end)
    return formed, ended


def run_many(smallest):
    with bundles_of(smallest):
        for seed in range(40):
            topology = tree(2 + seed % 8, seed)
            Sender(topology, batches(topology, 4, seed), NetworkModel(), is_whole=True).run()


def test_bundles_form_and_fall_apart_in_what_is_tested_here(monkeypatch):
    (formed, ended), parts = formed_and_ended(monkeypatch), []
    split = bundles.Bundle.split

    def note_split(self, level):
        parts.append([len(part.members) for part in split(self, level)])
        return split(self, level)

    monkeypatch.setattr(bundles.Bundle, "split", note_split)
    run_many(2)
    whole = [num for num in ended if num > 1]
    assert sum(formed) == sum(ended), "a member is lost"
    assert len(formed) > 80
    assert len(whole) > 80
    assert len(parts) > 30
    assert any(min(each) > 1 for each in parts)
    assert any(min(each) == 1 < max(each) for each in parts)


def test_small_bundles_form_and_are_taken_apart_in_what_is_tested_here(monkeypatch):
    (formed, ended), loosened = formed_and_ended(monkeypatch), []
    loosen = fluid.FluidLinks._loosen

    def note_loosen(self, bundle):
        loosened.append(len(bundle.members))
        return loosen(self, bundle)

    monkeypatch.setattr(fluid.FluidLinks, "_loosen", note_loosen)
    run_many(NEVER)
    assert sum(formed) == sum(ended), "a member is lost"
    assert len([num for num in loosened if num > 1]) > 30
    assert any(num > 1 for num in ended), "none has stayed together"
