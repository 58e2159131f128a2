"""The simulated network on random traffic: against a naive loop, and against what must hold of any network."""

from __future__ import annotations

import contextlib
import math
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from psgdsim.network_model import NetworkModel
from psgdsim.sim import bundles, crowds, flow_table, fluid, simulate_flows
from psgdsim.sim.bundles import Bundle
from psgdsim.sim.fluid import FluidLinks
from psgdsim.sim.network import Network
from psgdsim.sim.paths import Paths
from psgdsim.sim.series import Series
from psgdsim.sim.sharing import maxmin
from psgdsim.topologies import Link, Topology, star

ROOT = Path(__file__).parents[2]
TCP = {"gamma": 50_000, "weight_s": 3000, "cross_traffic": True, "bandwidth_factor": 0.9, "latency_factor": 2}


@contextlib.contextmanager
def thresholds(few, smallest_crowd):
    """Make the engine change its ways with fewer flows than it would."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fluid, "FEW", few)
        patch.setattr(flow_table, "SMALL", few)
        patch.setattr(crowds, "SMALLEST", smallest_crowd)
        patch.setattr(crowds, "PATIENCE", 1000)
        patch.setattr(bundles, "SMALLEST", few)
        yield


def hosts(num, seed):
    """Up- and downlinks of different widths, and a backbone that some pairs cross and that is narrow or not."""
    rnd = random.Random(seed)
    names = tuple(f"h{i}" for i in range(num))
    latency = rnd.choice([0.0, 1e-3])
    up = [Link(f"{name}.up", rnd.choice([8e6, 8e6, 16e6, math.inf]), latency) for name in names]
    down = [Link(f"{name}.down", rnd.choice([8e6, 8e6, 24e6]), latency) for name in names]
    core = Link("core", rnd.choice([8e6, 4e7, 1e9]), rnd.choice([0.0, 2e-3]))

    def route(src, dst):
        return (src, 2 * num, num + dst) if src % 2 == dst % 2 else (src, num + dst)

    return Topology(names, (*up, *down, core), route, "native", lambda host, is_up: (host,))


def traffic(topology, num, seed, spread):
    """Messages `(src, dst, nbytes, start)`: some alike, some at the same time, often to host 0."""
    rnd = random.Random(seed)
    flows = []
    for _ in range(num):
        src, dst = rnd.sample(range(len(topology.hosts)), 2)
        dst = 0 if src and rnd.random() < 0.5 else dst
        start = rnd.choice([0.0, round(rnd.uniform(0, spread), 1), rnd.uniform(0, spread)])
        flows.append(
            (topology.hosts[src], topology.hosts[dst], rnd.choice([1000, 20_000, rnd.randint(1, 10**5)]), start)
        )
    return flows


def naive(topology, flows, tcp):
    """When each flow arrives, with all rates computed anew for every event."""
    from psgdsim.network_model import tcp_model

    capacity = [link.bandwidth for link in topology.links]
    paths = Paths(capacity, [link.latency for link in topology.links], tcp_model(tcp))
    index = topology.hosts.index
    way = [
        paths.path(
            topology.route(index(s), index(d)), topology.route(index(d), index(s)) if paths.needs_reverse else ()
        )
        for s, d, *_ in flows
    ]
    enters = [start + path.delay for (*_, start), path in zip(flows, way, strict=True)]
    left = [8 * nbytes / path.goodput for (_, _, nbytes, _), path in zip(flows, way, strict=True)]
    waiting = sorted(range(len(flows)), key=lambda i: enters[i])
    active, ends, now = [], [0.0] * len(flows), 0.0
    while active or waiting:
        rates = maxmin(
            capacity,
            [dict(zip(way[i].links, way[i].coefficients, strict=True)) for i in active],
            [way[i].penalty for i in active],
            [way[i].ceiling / way[i].penalty for i in active],
        )
        step = min([left[i] / rate for i, rate in zip(active, rates, strict=True)], default=math.inf)
        step = min(step, enters[waiting[0]] - now if waiting else math.inf)
        now += step
        for i, rate in zip(active, rates, strict=True):
            left[i] -= rate * step
        for i in [i for i in active if left[i] <= 1e-6]:
            active.remove(i)
            ends[i] = now
        while waiting and enters[waiting[0]] <= now * (1 + 1e-15):
            active.append(waiting.pop(0))
    return np.array(ends)


@pytest.mark.parametrize("tcp", ["none", TCP], ids=["plain", "tcp"])
@pytest.mark.parametrize(("few", "smallest_crowd"), [(16, 32), (3, 4), (1, 10**9), (10**9, 10**9)])
@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6), num=st.integers(1, 90), num_hosts=st.integers(2, 9), spread=st.sampled_from([0, 0.2, 2])
)
def test_engine_agrees_with_a_naive_loop(tcp, few, smallest_crowd, seed, num, num_hosts, spread):
    topology = hosts(num_hosts, seed)
    flows = traffic(topology, num, seed, spread)
    with thresholds(few, smallest_crowd):
        got = simulate_flows(topology, flows, tcp)
    assert got == pytest.approx(naive(topology, flows, tcp), rel=1e-9, abs=1e-12)


def test_crowds_form_and_end_in_what_is_tested_here(monkeypatch):
    formed, ended = [], []
    for name, calls in (("_form", formed), ("dissolve", ended)):
        method = getattr(crowds.Crowds, name)

        def note(self, link, now, method=method, calls=calls):
            result = method(self, link, now)
            calls.append(result)
            return result

        monkeypatch.setattr(crowds.Crowds, name, note)
    with thresholds(3, 4):
        for seed in range(30):
            topology = hosts(6, seed)
            simulate_flows(topology, traffic(topology, 60, seed, 0.2))
    assert formed.count(True) > 10
    assert formed.count(False) > 10
    assert len(ended) > 5


def naive_with_changes(topology, flows, changes):
    """When each flow arrives (or nan) if links change their bandwidth and flows are given up on the way."""
    capacity = [link.bandwidth for link in topology.links]
    index = topology.hosts.index
    routes = [topology.route(index(src), index(dst)) for src, dst, *_ in flows]
    enters = [flow[3] + topology.latency(route) for flow, route in zip(flows, routes, strict=True)]
    left = [8.0 * nbytes for _, _, nbytes, _ in flows]
    ends, given_up, active, now = [math.nan] * len(flows), set(), [], 0.0
    events = [(time, 0, change) for time, *change in changes] + [(time, 1, [i]) for i, time in enumerate(enters)]
    for time, kind, event in [*sorted(events, key=lambda event: event[:2]), (1e6, 2, None)]:
        while now < time:
            rates = maxmin(capacity, [routes[i] for i in active])
            times = [left[i] / rate if rate else math.inf for i, rate in zip(active, rates, strict=True)]
            step = min([time - now, *times])
            now = time if step == time - now else now + step
            left = [each - (rates[active.index(i)] * step if i in active else 0.0) for i, each in enumerate(left)]
            for i in [i for i, until in zip(active, times, strict=True) if until <= step * (1 + 1e-12)]:
                active.remove(i)
                ends[i] = now
        if kind == 1 and event[0] not in given_up:
            active.append(event[0])
        elif kind == 0 and event[0] == "link":
            capacity[event[1]] = event[2]
        elif kind == 0:
            given_up.add(event[1])
            if event[1] in active:
                active.remove(event[1])
    return np.array(ends)


@settings(max_examples=80)
@given(seed=st.integers(0, 10**6), num=st.integers(1, 60), few=st.sampled_from([3, 16]))
def test_links_that_change_and_messages_that_are_given_up(seed, num, few):
    rnd = random.Random(seed)
    topology = hosts(5, seed)
    flows = [(src, dst, nbytes, rnd.uniform(0, 0.3)) for src, dst, nbytes, _ in traffic(topology, num, seed, 0)]
    changes = [
        (rnd.uniform(0.3, 0.6), "link", rnd.randrange(10), rnd.choice([0.0, 4e6, 8e6, 2e7])) for _ in range(12)
    ] + [(rnd.uniform(0.3, 0.6), "cancel", rnd.randrange(num)) for _ in range(6)]
    env = simpy.Environment()
    with thresholds(few, 4):
        network = Network(env, topology)
        ends, sent = [math.nan] * num, {}

        def send(i, src, dst, nbytes):
            sent[i] = network.send(topology.hosts.index(src), topology.hosts.index(dst), nbytes)
            sent[i].callbacks.append(lambda _: ends.__setitem__(i, env.now))

        def change(what, which, value=None):
            if what == "link":
                network.set_link(which, bandwidth=value)
            else:
                network.cancel(sent[which])

        for i, (src, dst, nbytes, start) in enumerate(flows):
            env.timeout(start).callbacks.append(lambda _, args=(i, src, dst, nbytes): send(*args))
        for time, *what in changes:
            env.timeout(time).callbacks.append(lambda _, what=what: change(*what))
        env.run()
    expected = naive_with_changes(topology, flows, changes)
    assert ends == pytest.approx(expected, rel=1e-9, nan_ok=True)


def run_network(topology, flows, model):
    """Send messages through a run's network; return the arrivals, the network and what it carried over time."""
    env = simpy.Environment()
    network = Network(env, topology, model)
    series = Series(network.counters, 64)
    ends = [math.nan] * len(flows)
    index = topology.hosts.index

    def send(i, src, dst, nbytes):
        network.send(index(src), index(dst), nbytes).callbacks.append(lambda _: ends.__setitem__(i, env.now))

    for i, (src, dst, nbytes, start) in enumerate(flows):
        env.timeout(start).callbacks.append(lambda _, args=(i, src, dst, nbytes): send(*args))
    while (time := env.peek()) < math.inf:
        if time > series.edge:
            series.advance(time)
        env.step()
    return np.array(ends), network, series


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), num=st.integers(1, 90), tcp=st.sampled_from(["none", "lv08"]))
def test_a_run_takes_as_long_as_the_flows_that_are_known_beforehand(seed, num, tcp):
    topology = hosts(5, seed)
    flows = traffic(topology, num, seed, 0.5)
    ends, _, _ = run_network(topology, flows, NetworkModel(tcp=tcp))
    assert ends == pytest.approx(simulate_flows(topology, flows, tcp), rel=1e-12)


@settings(max_examples=80)
@given(
    seed=st.integers(0, 10**6),
    num=st.integers(1, 90),
    model=st.sampled_from([NetworkModel(), NetworkModel(model="fifo"), NetworkModel(model="ideal")]),
)
def test_every_link_carries_the_bytes_sent_over_it(seed, num, model):
    topology = hosts(6, seed)
    flows = traffic(topology, num, seed, 0.5)
    ends, network, _ = run_network(topology, flows, model)
    expected = [0.0] * len(topology.links)
    for src, dst, nbytes, _ in flows:
        for link in topology.route(topology.hosts.index(src), topology.hosts.index(dst)):
            expected[link] += nbytes
    usage = network.usage()
    assert [each.nbytes for each in usage] == pytest.approx(expected, rel=1e-9)
    busy = [8 * nbytes / link.bandwidth for nbytes, link in zip(expected, topology.links, strict=True)]
    assert [each.busy for each in usage] == pytest.approx(busy, rel=1e-9, abs=1e-12)
    if model.model != "ideal":
        assert all(each.busy <= max(ends) * (1 + 1e-9) for each in usage)


class Watched(FluidLinks):
    """An engine that checks itself after every sharing."""

    def share(self, now):
        super().share(now)
        loads = [0.0] * len(self._on)
        for flow in self.flows:
            for link, coefficient in zip(flow.path.links, flow.path.coefficients, strict=True):
                loads[link] += coefficient * self.rate(flow)
        used = [load / self._bandwidth[link] for link, load in enumerate(loads)]
        assert max(used) <= 1 + 1e-9, "a link carries more than it can"
        full = {link for link, part in enumerate(used) if part >= 1 - 1e-9}
        rates = {flow: self.rate(flow) for flow in self.flows}
        for flow, rate in rates.items():
            others = {link: [rates[each] for each in self.flows if link in each.path.links] for link in flow.path.links}
            fastest = {link for link, there in others.items() if link in full and rate >= max(there) * (1 - 1e-9)}
            routes = [flow.path.links]
            if isinstance(flow, Bundle):
                routes = np.split(flow.routes.links, np.cumsum(flow.routes.lengths)[:-1])
            assert all(fastest & set(route) for route in routes), "a flow has no link that stops it"


@settings(max_examples=80)
@given(seed=st.integers(0, 10**6), num=st.integers(1, 90), few=st.sampled_from([3, 16]))
def test_every_flow_is_stopped_by_a_full_link_on_which_none_is_faster(seed, num, few):
    topology = hosts(5, seed)
    with thresholds(few, 4), pytest.MonkeyPatch.context() as patch:
        patch.setattr("psgdsim.sim.flows.FluidLinks", Watched)
        assert len(simulate_flows(topology, traffic(topology, num, seed, 0.3))) == num


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), num=st.integers(1, 50))
def test_the_series_adds_up_to_what_links_carried(seed, num):
    topology = hosts(5, seed)
    for model in (NetworkModel(), NetworkModel(model="fifo"), NetworkModel(model="ideal")):
        ends, network, series = run_network(topology, traffic(topology, num, seed, 0.5), model)
        edges, nbytes, used = series.bins(max(ends))
        assert 32 <= len(nbytes) <= 64
        usage = network.usage()
        assert list(nbytes.sum(axis=0)) == [round(each.nbytes) for each in usage]
        assert np.diff(edges) @ used == pytest.approx([each.busy for each in usage], rel=1e-9, abs=1e-12)
        assert nbytes.min() >= 0
        assert used.min() >= 0
        if model.model != "ideal":
            assert used.max() <= 1 + 1e-9


def test_a_flow_that_a_change_does_not_reach_ends_at_the_same_time_to_the_last_bit():
    topology = star(bandwidth=1e7, latency=1e-4).build(60)
    alone = simulate_flows(topology, [("host0", "host1", 123_457, 0.1)])[0]
    rnd = random.Random(3)
    others = [
        (f"host{rnd.randint(2, 30)}", f"host{rnd.randint(31, 59)}", 10_000, rnd.uniform(0, 0.2)) for _ in range(200)
    ]
    together = simulate_flows(topology, [("host0", "host1", 123_457, 0.1), *others])
    assert together[0] == alone
    assert max(together) > alone


def test_the_order_in_which_flows_are_named_does_not_matter_when_they_start_apart():
    topology = hosts(6, 5)
    flows = [(s, d, n, i * 0.0101) for i, (s, d, n, _) in enumerate(traffic(topology, 80, 5, 0))]
    order = random.Random(1).sample(range(80), 80)
    ends = simulate_flows(topology, flows)
    assert list(simulate_flows(topology, [flows[i] for i in order])) == [ends[i] for i in order]


PROGRAM = """
import hashlib, random
from psgdsim.sim import simulate_flows
from psgdsim.topologies import star
rnd = random.Random(1)
pairs = [(f"host{rnd.randint(0, 4)}", f"host{rnd.randint(5, 9)}") for _ in range(300)]
flows = [(src, dst, rnd.randint(1, 10**6), rnd.random()) for src, dst in pairs]
ends = simulate_flows(star(bandwidth=1e8, latency=1e-4).build(10), flows)
print(hashlib.sha256(ends.tobytes()).hexdigest())
"""


def test_times_do_not_depend_on_the_process():
    hashes = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM], cwd=ROOT, env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(hashes) == 1
