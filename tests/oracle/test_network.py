"""The simulated network against closed forms: alpha-beta, max-min fairness, queueing theory, SimGrid's examples."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import simpy

from psgdsim.network_model import NetworkModel
from psgdsim.sim import simulate_flows
from psgdsim.sim.network import Network
from psgdsim.topologies import Link, Topology, star

ALPHA, BYTES_PER_S = 50e-6, 1.25e9


def line(*capacities, latency=0.0):
    """Links in a row; routes are given by hand."""
    links = tuple(Link(f"l{i}", capacity, latency) for i, capacity in enumerate(capacities))
    return Topology(("a", "b"), links, lambda src, dst: (), "unicast", lambda host, up: ())


def cable(bandwidth, latency, duplex="full"):
    """Two hosts and one link, as a scenario would write it."""
    link = {"src": "a", "dst": "b", "bandwidth": bandwidth, "latency": latency, "duplex": duplex}
    return {"kind": "custom", "hosts": ["a", "b"], "links": [link]}


def finish_times(topology, messages, model=None):
    """Run messages `(links, nbytes, start)` and return when each has arrived."""
    env = simpy.Environment()
    network = Network(env, topology, model)
    ends = [math.nan] * len(messages)

    def start(i, links, nbytes):
        def note(_):
            ends[i] = env.now

        network.carry(links, nbytes).callbacks.append(note)

    for i, (links, nbytes, at) in enumerate(messages):
        env.timeout(at).callbacks.append(lambda _, i=i, links=links, nbytes=nbytes: start(i, links, nbytes))
    env.run()
    return ends


# --- fair sharing, section by section ------------------------------------------------------------------------------


def test_two_sizes_started_together():
    # s1 < s2 on one link of 8 bit/s = 1 B/s end at 2 s1 / B and (s1 + s2) / B.
    assert finish_times(line(8.0), [((0,), 3, 0.0), ((0,), 5, 0.0)]) == [6.0, 8.0]


def test_staggered_flows():
    # 4 B alone for 2 s, then shared: the first has 2 B left, gone at 2 + 4 = 6 s; the second then has 2 B, gone at 8 s.
    assert finish_times(line(8.0), [((0,), 4, 0.0), ((0,), 4, 2.0)]) == [6.0, 8.0]


def test_a_flow_over_two_links_and_one_on_each():
    # A on 1 B/s, B on 2 B/s, C on both: rates 1/2, 3/2, 1/2. B ends at 2 s; A and C still halve the first link.
    assert finish_times(line(8.0, 16.0), [((0,), 2, 0.0), ((1,), 3, 0.0), ((0, 1), 2, 0.0)]) == [4.0, 2.0, 4.0]


@pytest.mark.parametrize("num", [1, 2, 7, 40, 300])
def test_incast_ends_at_latency_plus_all_bytes_over_capacity(num):
    topology = star(bandwidth=8e6, latency=0.25).build(num + 1)
    ends = finish_times(topology, [(topology.route(i, num), 1000, 0.0) for i in range(num)])
    assert ends == pytest.approx([0.25 + num * 1e-3] * num, rel=1e-12)
    assert len(set(ends)) == 1


def test_a_message_alone_takes_latency_plus_size_over_bandwidth():
    topology = star(bandwidth=100e6, latency=200e-6).build(2)
    ends = finish_times(topology, [(topology.route(0, 1), 12_500, 1.0)])
    assert ends == [pytest.approx(1.0 + 200e-6 + 1e-3, rel=1e-12)]


def test_both_directions_are_independent():
    topology = star(bandwidth=8e3, latency=0.0).build(2)
    ends = finish_times(topology, [(topology.route(0, 1), 1000, 0.0), (topology.route(1, 0), 1000, 0.0)])
    assert ends == [1.0, 1.0]


def test_directions_of_a_shared_link_share_it():
    flows = [("a", "b", 1000, 0.0), ("b", "a", 1000, 0.0)]
    assert list(simulate_flows(cable("8 kbit/s", "0 s", "shared"), flows)) == [2.0, 2.0]
    assert list(simulate_flows(cable("8 kbit/s", "0 s", "full"), flows)) == [1.0, 1.0]


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


def test_a_host_that_sends_to_itself_needs_no_time():
    assert list(simulate_flows(cable("8 kbit/s", "1 s"), [("a", "a", 10**6, 2.0)])) == [2.0]


# --- collectives in the alpha-beta model (Thakur, Rabenseifner, Gropp 2005), N = 16 ----------------------------------


def phases(num_hosts, steps, model="fluid"):
    """Run steps one after the other, each a list of `(src, dst, nbytes)` that go at once; return when all is done."""
    env = simpy.Environment()
    network = Network(env, star(bandwidth=8 * BYTES_PER_S, latency=ALPHA).build(num_hosts), NetworkModel(model=model))

    def program():
        for step in steps:
            yield env.all_of([network.send(*message) for message in step])

    env.process(program())
    env.run()
    return env.now


def ring(p, m):
    return [[(i, (i + 1) % p, m / p) for i in range(p)]] * (2 * (p - 1))


def recursive_doubling(p, m):
    return [[(i, i ^ k, m) for i in range(p)] for k in powers(p)]


def halving_doubling(p, m):
    halving = [[(i, i ^ k, m * k / p) for i in range(p)] for k in reversed(powers(p))]
    return halving + halving[::-1]


def binomial_tree(p, m):
    reduce = [[(i + k, i, m) for i in range(0, p, 2 * k)] for k in powers(p)]
    return reduce + [[(dst, src, m) for src, dst, _ in step] for step in reversed(reduce)]


def parameter_server(p, m):
    return [[(i, p, m) for i in range(p)], [(p, i, m) for i in range(p)]]


def all_to_all(p, m):
    return [[(i, j, m) for i in range(p) for j in range(p) if i != j]]


def powers(p):
    return [2**k for k in range(p.bit_length() - 1)]


@pytest.mark.parametrize("model", ["fluid", "ideal"])
@pytest.mark.parametrize(
    ("steps", "nbytes", "seconds"),
    [
        (ring, 4e3, 1.506e-3),
        (recursive_doubling, 4e3, 2.13e-4),
        (halving_doubling, 4e3, 4.06e-4),
        (binomial_tree, 4e3, 4.26e-4),
        (ring, 400e3, 2.100e-3),
        (recursive_doubling, 400e3, 1.480e-3),
        (halving_doubling, 400e3, 1.000e-3),
        (binomial_tree, 400e3, 2.960e-3),
        (ring, 100e6, 0.15150),
        (recursive_doubling, 100e6, 0.32020),
        (halving_doubling, 100e6, 0.15040),
        (binomial_tree, 100e6, 0.64040),
    ],
)
def test_collectives_of_disjoint_messages(steps, nbytes, seconds, model):
    assert phases(17, steps(16, nbytes), model) == pytest.approx(seconds, rel=2e-3)  # published to 3 digits


@pytest.mark.parametrize(
    ("steps", "nbytes", "seconds"),
    [
        (parameter_server, 4e3, 2.02e-4),
        (parameter_server, 400e3, 1.034e-2),
        (parameter_server, 100e6, 2.56010),
        (all_to_all, 100e6, 1.20005),
    ],
)
def test_collectives_of_messages_that_meet(steps, nbytes, seconds):
    assert phases(17, steps(16, nbytes)) == pytest.approx(seconds, rel=2e-3)


def test_collectives_to_the_last_digit():
    p, m, beta = 16, 400e3, 1 / BYTES_PER_S
    assert phases(p, ring(p, m)) == pytest.approx(30 * ALPHA + 30 / 16 * m * beta, rel=1e-12)
    assert phases(p, recursive_doubling(p, m)) == pytest.approx(4 * (ALPHA + m * beta), rel=1e-12)
    assert phases(p, halving_doubling(p, m)) == pytest.approx(8 * ALPHA + 30 / 16 * m * beta, rel=1e-12)
    assert phases(p, binomial_tree(p, m)) == pytest.approx(8 * (ALPHA + m * beta), rel=1e-12)
    assert phases(p + 1, parameter_server(p, m)) == pytest.approx(2 * (ALPHA + p * m * beta), rel=1e-12)
    assert phases(p, all_to_all(p, m)) == pytest.approx(ALPHA + 15 * m * beta, rel=1e-12)


def test_parameter_server_and_ring_change_places_between_26_and_27_workers():
    # alpha B = 62.5 kB and m = 60 kB: the ring is faster up to N = 26, the server from 27 on.
    for workers, server_wins in ((26, False), (27, True)):
        server, around = phases(workers + 1, parameter_server(workers, 60e3)), phases(workers, ring(workers, 60e3))
        assert (server < around) == server_wins


# --- an asynchronous server is a machine-repair model: mean value analysis --------------------------------------------


def throughput(workers, stations, *, model="fluid", cycles=60_000, draw="uniform"):
    """Cycles per second of workers that compute for 1 s on average, then cross links that need 0.1 s alone."""
    env = simpy.Environment()
    network = Network(env, line(*[8e9] * stations), NetworkModel(model=model))
    rng = random.Random(7)
    left = cycles

    def worker():
        nonlocal left
        while left > 0:
            left -= 1
            yield env.timeout(rng.uniform(0, 2) if draw == "uniform" else rng.expovariate(1))
            for station in range(stations):
                yield network.carry((station,), 10**8)

    for _ in range(workers):
        env.process(worker())
    env.run()
    return cycles / env.now


def mean_value_analysis(workers, stations):
    """Exact for fair sharing whatever the distributions are, as long as messages have one size."""
    queues = [0.0] * stations
    rate = 0.0
    for num in range(1, workers + 1):
        times = [0.1 * (1 + queue) for queue in queues]
        rate = num / (1 + sum(times))
        queues = [rate * time for time in times]
    return rate


def test_mean_value_analysis_gives_the_published_numbers():
    up = [mean_value_analysis(num, 1) for num in (1, 4, 8, 11, 16, 32)]
    assert up == pytest.approx([0.9091, 3.5334, 6.6168, 8.3677, 9.7770, 10.000], abs=1e-4)
    both = [mean_value_analysis(num, 2) for num in (1, 2, 4, 8, 12, 16, 32)]
    assert both == pytest.approx([0.8333, 1.6438, 3.1817, 5.8039, 7.6176, 8.6155, 9.5652], abs=1e-4)


@pytest.mark.parametrize("workers", [1, 4, 8, 16, 32])
def test_asynchronous_server_on_a_fair_uplink(workers):
    assert throughput(workers, 1) == pytest.approx(mean_value_analysis(workers, 1), rel=0.005)


@pytest.mark.parametrize("workers", [2, 8, 16])
def test_asynchronous_server_on_fair_links_both_ways(workers):
    assert throughput(workers, 2) == pytest.approx(mean_value_analysis(workers, 2), rel=0.005)


def test_the_distribution_of_compute_times_does_not_matter():
    assert throughput(8, 1, draw="exponential") == pytest.approx(6.6168, rel=0.005)


def first_come_first_served(workers, service):
    """Cycles per second on a link of whole messages, by the Markov chain of how many each departure leaves behind."""
    arrives = 1 - math.exp(-service)  # while one message is carried
    chain = np.zeros((workers, workers))
    for left in range(workers):
        computing = workers - max(left, 1)
        for new in range(computing + 1):
            odds = math.comb(computing, new) * arrives**new * (1 - arrives) ** (computing - new)
            chain[left, max(left, 1) - 1 + new] += odds
    empty = np.linalg.matrix_power(chain, 5000)[0, 0]
    return 1 / (service + empty / workers)


def test_first_come_first_served_is_told_apart():
    expected = first_come_first_served(8, 0.1)
    assert expected == pytest.approx(6.83, rel=0.005)
    assert expected > 1.03 * mean_value_analysis(8, 1)
    assert throughput(8, 1, model="fifo", draw="exponential") == pytest.approx(expected, rel=0.005)


@pytest.mark.parametrize("workers", [6, 12, 13, 40])
def test_throughput_saturates(workers):
    # X <= min(N / (Z + sum s), 1 / max s); the knee is at N* = (Z + sum s) / max s = 12.
    bound = min(workers / 1.2, 10.0)
    got = throughput(workers, 2, cycles=20_000)
    assert 0.7 * bound < got <= bound * 1.005


# --- TCP as SimGrid has it ----------------------------------------------------------------------------------------


def test_lv08_on_a_link_that_both_directions_share():
    ends = simulate_flows(cable("1 Mbit/s", "10 ms", "shared"), [("a", "b", 100_000, 0.0)], tcp="lv08")
    assert ends[0] == pytest.approx(13.01 * 0.01 + 1e5 / (0.97 * 125e3 / 1.05), rel=1e-12)
    assert ends[0] == pytest.approx(0.996079, abs=5e-7)


def test_lv08_on_a_full_duplex_link():
    one = simulate_flows(cable("1 Mbit/s", "10 ms"), [("a", "b", 100_000, 0.0)], tcp="lv08")
    assert one[0] == pytest.approx(0.1301 + 1e5 / (0.97 * 125e3), rel=1e-12)
    both = simulate_flows(cable("1 Mbit/s", "10 ms"), [("a", "b", 1e5, 0.0), ("b", "a", 1e5, 0.0)], tcp="lv08")
    assert list(both) == pytest.approx([0.1301 + 1e5 / (0.97 * 125e3 / 1.05)] * 2, rel=1e-12)


@pytest.mark.parametrize(
    ("latency", "seconds"), [("0 s", 1.0), ("10 us", 1.00001), ("1 ms", 4.769372), ("100 ms", 476.937158)]
)
def test_cm02_window(latency, seconds):
    ends = simulate_flows(cable("80 Gbit/s", latency), [("a", "b", 10**10, 0.0)], tcp="cm02")
    assert ends[0] == pytest.approx(seconds, abs=5e-7)


def test_no_window():
    no_window = {"gamma": None}
    ends = simulate_flows(cable("80 Gbit/s", "1 ms"), [("a", "b", 10**10, 0.0)], tcp=no_window)
    assert ends[0] == pytest.approx(1.001, rel=1e-12)


def test_the_network_of_a_run_makes_the_same_corrections():
    env = simpy.Environment()
    network = Network(env, star(bandwidth=1e6, latency=0.01).build(2), NetworkModel(tcp="lv08"))
    ends = {}
    for src, dst in ((0, 1), (1, 0)):
        network.send(src, dst, 100_000).callbacks.append(lambda _, src=src: ends.setdefault(src, env.now))
    env.run()
    assert list(ends.values()) == pytest.approx([0.1301 + 1e5 / (0.97 * 125e3 / 1.05)] * 2, rel=1e-12)


# --- whole messages, one after the other ------------------------------------------------------------------------------


def test_fifo_stores_and_forwards():
    # 1000 B over two links of 1000 B/s with 1 s of latency each: 1 + 1 + 1 + 1 s; the next message is 1 s behind.
    model = NetworkModel(model="fifo")
    messages = [((0, 1), 1000, 0.0), ((0, 1), 1000, 0.0)]
    assert finish_times(line(8e3, 8e3, latency=1.0), messages, model) == [4.0, 5.0]


def test_fifo_serves_in_the_order_of_arrival():
    messages = [((0,), 1000, 0.0), ((0,), 5000, 0.1), ((0,), 1000, 0.2)]
    assert finish_times(line(8e3), messages, NetworkModel(model="fifo")) == [1.0, 6.0, 7.0]


def test_ideal_messages_do_not_meet():
    messages = [((0, 1), 1000, 0.0), ((0, 1), 1000, 0.0), ((1,), 1000, 0.0)]
    ends = finish_times(line(8e3, 16e3, latency=0.5), messages, NetworkModel(model="ideal"))
    assert ends == [2.0, 2.0, 1.0]
