"""Fair sharing, TCP's corrections and queues in the simulated network, against closed forms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from psgdsim import rng
from psgdsim.network_model import NetworkModel
from psgdsim.testing.checks import Check, compare
from psgdsim.testing.queueing import async_throughput, fifo_throughput, mean_value_analysis

SIMGRID = "SimGrid's own test"
NUM_PASSES = 40_000

Flow = tuple[str, str, float, float]


def verify_sharing() -> Iterator[Check]:
    """Compare flows and queues with what is known of them."""
    yield from _verify_shares()
    yield from _verify_random_networks()
    yield from _verify_tcp()
    yield from _verify_queues()


def _ends(hosts: str, links: Sequence[dict[str, Any]], flows: Sequence[Flow], tcp: Any = "none") -> list[float]:
    """Return when flows end in a network of hosts with names of one letter."""
    from psgdsim.sim import simulate_flows

    network = {"kind": "custom", "hosts": list(hosts), "links": list(links)}
    return [float(end) for end in simulate_flows(network, flows, tcp)]


def _link(src: str, dst: str, bandwidth: str, latency: str = "0 s", duplex: str = "full") -> dict[str, Any]:
    return {"src": src, "dst": dst, "bandwidth": bandwidth, "latency": latency, "duplex": duplex}


def _verify_shares() -> Iterator[Check]:
    """Bandwidths are so that 1 unit is 8 kbit/s = 1 kB/s."""
    source = "max-min fairness"
    one = [_link("a", "b", "8 kbit/s")]
    for n in (1, 7):
        ends = _ends("ab", one, [("a", "b", 1000, 0.0)] * n)
        yield compare(f"{n} equal flows of 1 kB on 1 kB/s, last end [s]", float(n), max(ends), source)
    # Rates 1/2, 3/2 and 1/2 are the only ones at which these three end together, after 1 s.
    two = [_link("a", "b", "8 kbit/s"), _link("b", "c", "16 kbit/s")]
    ends = _ends("abc", two, [("a", "b", 500, 0.0), ("b", "c", 1500, 0.0), ("a", "c", 500, 0.0)])
    for name, rate, end in zip("ABC", (0.5, 1.5, 0.5), ends, strict=True):
        yield compare(f"rate of {name}: A on L1=1, B on L2=2, C on both", rate, rate / end, source)
    ends = _ends("ab", one, [("a", "b", 3000, 0.0), ("a", "b", 5000, 0.0)])
    yield compare("3 kB beside 5 kB on 1 kB/s end [s]", 6.0, ends[0], "2 s1/B")
    yield compare("5 kB beside 3 kB on 1 kB/s end [s]", 8.0, ends[1], "(s1 + s2)/B")
    star = [_link(host, "z", "1 Gbit/s", "25 us") for host in "abcdefgh"] + [_link("z", "y", "8 Mbit/s", "225 us")]
    ends = _ends("abcdefghyz", star, [(host, "y", 1000, 0.0) for host in "abcdefgh"])
    for when, end in (("first", min(ends)), ("last", max(ends))):
        yield compare(f"incast of 8 x 1 kB into 1 MB/s, {when} end [s]", 250e-6 + 8e-3, end, "alpha + N S/B")


def _verify_random_networks() -> Iterator[Check]:
    """Every flow has a bottleneck, no link is overloaded, and what was sent is what links have carried."""
    from psgdsim.sim.sharing import maxmin

    generator = rng.stream(1, "verify sharing")
    unstopped = overloaded = 0
    for _ in range(50):
        capacities = generator.uniform(1.0, 10.0, 8)
        routes = [list(generator.choice(8, generator.integers(1, 5), replace=False)) for _ in range(20)]
        rates = maxmin(capacities, routes)
        loads = [sum(rates[f] for f, route in enumerate(routes) if link in route) for link in range(8)]
        full = [load > capacity * (1 - 1e-9) for load, capacity in zip(loads, capacities, strict=True)]
        overloaded += sum(load > capacity * (1 + 1e-9) for load, capacity in zip(loads, capacities, strict=True))
        fastest = [max((rates[f] for f, route in enumerate(routes) if k in route), default=0.0) for k in range(8)]
        for rate, route in zip(rates, routes, strict=True):
            unstopped += not any(full[link] and rate > fastest[link] * (1 - 1e-9) for link in route)
    source = "Bertsekas and Gallager, 6.5.2"
    yield Check("50 random networks, flows without bottleneck", "0", str(unstopped), source)
    yield Check("50 random networks, links overloaded", "0", str(overloaded), source)
    sent, carried = _sent_and_carried()
    yield compare("100 random messages, carried by links [byte]", sent, carried, "conservation")


def _sent_and_carried() -> tuple[float, float]:
    """Send random messages over a star; return their bytes on both links of each, and what the links report."""
    import simpy

    from psgdsim.sim.network import Network
    from psgdsim.topologies import star

    generator = rng.stream(2, "verify sharing")
    env = simpy.Environment()
    network = Network(env, star(bandwidth=8e6, latency=1e-3).build(10))
    sent = 0.0
    for start in sorted(generator.uniform(0, 1, 100)):
        env.run(until=start)
        src, dst = (int(host) for host in generator.choice(10, 2, replace=False))
        nbytes = float(generator.integers(1, 100_000))
        sent += 2 * nbytes
        network.send(src, dst, nbytes)
    env.run()
    return sent, sum(link.nbytes for link in network.usage())


def _verify_tcp() -> Iterator[Check]:
    shared = [_link("a", "b", "1 Mbit/s", "10 ms", "shared")]
    end = _ends("ab", shared, [("a", "b", 100_000, 0.0)], "lv08")[0]
    yield compare("LV08, 100 kB, 10 ms, 1 Mbit/s shared [s]", 0.996079, end, SIMGRID, 1e-6)
    expected = 13.01 * 10e-3 + 100_000 / (0.97 * 125_000)
    ends = _ends("ab", [_link("a", "b", "1 Mbit/s", "10 ms")], [("a", "b", 100_000, 0.0)], "lv08")
    yield compare("LV08, the same, full duplex [s]", expected, ends[0], "13.01 alpha + m/(0.97 B)")
    no_cross = {"bandwidth_factor": 1.0, "latency_factor": 1.0, "weight_s": 0.0, "cross_traffic": False}
    for latency, seconds in {"0 s": 1.0, "10 us": 1.000010, "1 ms": 4.769372, "100 ms": 476.937158}.items():
        fast = [_link("a", "b", "80 Gbit/s", latency)]
        end = _ends("ab", fast, [("a", "b", 1e10, 0.0)], {**no_cross, "gamma": 4194304.0})[0]
        yield compare(f"CM02, 10 GB at 80 Gbit/s, alpha {latency} [s]", seconds, end, SIMGRID, 1e-6)
    end = _ends("ab", [_link("a", "b", "80 Gbit/s", "1 ms")], [("a", "b", 1e10, 0.0)], {**no_cross, "gamma": None})[0]
    yield compare("the same without gamma, alpha 1 ms [s]", 1.001, end, SIMGRID, 1e-6)


def _verify_queues() -> Iterator[Check]:
    """Workers that compute for Exp(1) s, then send 0.1 s worth of bytes (and receive as many)."""
    source, tolerance = "mean value analysis", 0.005
    for services, kind in (((0.1,), "push"), ((0.1, 0.1), "push and pull")):
        for n in (1, 8, 16):
            expected = mean_value_analysis(n, 1.0, services)
            got = async_throughput(n, services, NUM_PASSES)
            yield compare(f"async server, {kind}, N={n} [1/s]", expected, got, source, tolerance)
    got = async_throughput(32, (0.1,), NUM_PASSES // 4)
    yield compare("async server, push, N=32, saturated [1/s]", 10.0, got, "1/s", tolerance)
    expected = fifo_throughput(8, 0.1, NUM_PASSES)
    got = async_throughput(8, (0.1,), NUM_PASSES, NetworkModel(model="fifo"))
    yield compare("async server, push, N=8, queue instead [1/s]", expected, got, "loop over passes", 1e-9)
