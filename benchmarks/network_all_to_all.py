"""Measure the simulated network on patterns that are known beforehand, against a naive vectorised loop.

64 hosts with 1 Gbit/s each way share a backbone of 10 Gbit/s; latency 200 us. Patterns: everybody sends 1 MB to
everybody (4,032 flows), and the ring all-reduce's 126 phases, in which each host sends 1 MB on as soon as its last send
is over (8,064 flows); sizes all different (within half) or all equal.

The floor, in the same process: the least that one would write with numpy, which shares all links anew whenever a flow
enters or ends, and has no events, no programs, no accounts. Flows that end at the same instant end together in it
(`floor`), or one after the other (`floor_one_by_one`); with distinct sizes that is the same. The simulator gets all
that starts at one instant in one call.

    python benchmarks/network_all_to_all.py [--repeats N]

Prints JSON; wall times in seconds, medians over the repeats (floor and simulator take turns).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from typing import Any

import numpy as np
import simpy

HOSTS, PHASES = 64, 126
LATENCIES = (5e-5, 1e-4, 5e-5)


def topology() -> Any:
    """Return the network: uplinks, downlinks, one backbone."""
    from psgdsim.topologies import Link, Topology

    names = tuple(f"host{i}" for i in range(HOSTS))
    up, core, down = LATENCIES
    links = (
        *(Link(f"{name}.up", 1e9, up) for name in names),
        *(Link(f"{name}.down", 1e9, down) for name in names),
        Link("backbone", 1e10, core),
    )
    return Topology(names, links, lambda a, b: (a, 2 * HOSTS, HOSTS + b), "unicast", lambda _host, _up: ())


def messages(pattern: str, spread: float) -> list[tuple[int, int, int, int]]:
    """Return `(src, dst, nbytes, phase)`; a host's later phases wait for its earlier ones."""
    rng = random.Random(1)

    def size() -> int:
        return round(1e6 * (1 + spread * (rng.random() - 0.5)))

    if pattern == "ring":
        return [(i, (i + 1) % HOSTS, size(), phase) for phase in range(PHASES) for i in range(HOSTS)]
    return [(i, j, size(), 0) for i in range(HOSTS) for j in range(HOSTS) if i != j]


def naive_rates(routes: np.ndarray, capacity: np.ndarray) -> np.ndarray:
    """Fill progressively: freeze all flows of the tightest links, round by round."""
    rates, live, left = np.zeros(len(routes)), np.ones(len(routes), bool), capacity.copy()
    while live.any():
        count = np.bincount(routes[live].ravel(), minlength=len(left))
        share = np.where(count > 0, left / np.maximum(count, 1), np.inf)
        lowest = share.min()
        stops = live & (share[routes] <= lowest * (1 + 1e-9)).any(axis=1)
        rates[stops] = lowest
        left = left - lowest * np.bincount(routes[stops].ravel(), minlength=len(left))
        live &= ~stops
    return rates


def naive(todo: list[tuple[int, int, int, int]], *, one_by_one: bool = False) -> float:
    """Return when the last flow ends."""
    delay, now = sum(LATENCIES), 0.0
    capacity = np.array([1e9] * (2 * HOSTS) + [1e10])
    route = np.array([(src, HOSTS + dst, 2 * HOSTS) for src, dst, *_ in todo])
    nbits = np.array([8.0 * nbytes for _, _, nbytes, _ in todo])
    after = {(src, phase): i for i, (src, _, _, phase) in enumerate(todo) if phase}
    enters = [(delay, np.array([i for i, (*_, phase) in enumerate(todo) if phase == 0]))]
    ids, left = np.zeros(0, int), np.zeros(0)
    while len(ids) or enters:
        rates = naive_rates(route[ids], capacity)
        step = (left / rates).min() if len(ids) else np.inf
        enter = enters[0][0] - now if enters else np.inf
        step = min(step, enter)
        now, left = now + step, left - rates * step
        ends = left <= 1e-6
        if one_by_one and ends.any():
            ends[ends.argmax() + 1 :] = False
        nexts = [
            after[src, phase + 1] for i in ids[ends] for src, _, _, phase in [todo[i]] if (src, phase + 1) in after
        ]
        ids, left = ids[~ends], left[~ends]
        if nexts:
            enters.append((now + delay, np.array(nexts)))
        if enter <= step:
            ids, left = np.concatenate([ids, enters[0][1]]), np.concatenate([left, nbits[enters[0][1]]])
            del enters[0]
    return now


def by_network(todo: list[tuple[int, int, int, int]]) -> float:
    """Return the same from the simulator's network: those of a host one after the other, phase by phase."""
    from psgdsim.sim.network import Network

    env = simpy.Environment()
    network = Network(env, topology())
    after = {(src, phase): (src, dst, nbytes, phase) for src, dst, nbytes, phase in todo if phase}

    def start(sent: list[tuple[int, int, int, int]]) -> None:
        def go_on(arrived: list[int]) -> None:
            nexts = [after[key] for i in arrived if (key := (sent[i][0], sent[i][3] + 1)) in after]
            if nexts:
                start(nexts)

        srcs, dsts, nbytes, _ = zip(*sent, strict=True)
        network.send_many(srcs, dsts, nbytes, go_on)

    start([message for message in todo if message[-1] == 0])
    env.run()
    return float(env.now)


def by_flows(todo: list[tuple[int, int, int, int]]) -> float:
    """Return the same from `simulate_flows`."""
    from psgdsim.sim import simulate_flows

    network = topology()
    flows = [(network.hosts[src], network.hosts[dst], nbytes, 0.0) for src, dst, nbytes, _ in todo]
    return float(simulate_flows(network, flows).max())


def measure(pattern: str, spread: float, repeats: int) -> dict[str, Any]:
    """Return the times of one pattern."""
    todo = messages(pattern, spread)
    ways: dict[str, Any] = {"floor": naive, "network": by_network}
    if not spread:
        ways["floor_one_by_one"] = lambda todo: naive(todo, one_by_one=True)
    if pattern == "all_to_all":
        ways["simulate_flows"] = by_flows
    times: dict[str, list[float]] = {name: [] for name in ways}
    ends = {}
    for _ in range(repeats + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            ends[name] = way(todo)
            times[name].append(time.perf_counter() - start)
    median = {name: statistics.median(each[1:]) for name, each in times.items()}
    floors = [name for name in ways if name.startswith("floor")]
    ratios = {floor: {name: median[name] / median[floor] for name in ways if name not in floors} for floor in floors}
    row = {"pattern": pattern, "sizes": "distinct" if spread else "equal", "flows": len(todo)}
    error = max(abs(end / ends["floor"] - 1) for end in ends.values())
    return {**row, "wall_s": median, "ratio_to": ratios, "virtual_s": ends["network"], "relative_error": error}


def main() -> None:
    """Measure all patterns and print JSON."""
    from psgdsim.results import versions

    parser = argparse.ArgumentParser(description="Measure the simulated network against a naive numpy loop.")
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    rows = [measure(pattern, spread, repeats) for pattern in ("all_to_all", "ring") for spread in (1.0, 0.0)]
    print(json.dumps({"cores": os.cpu_count(), "versions": versions(), "repeats": repeats, "results": rows}, indent=2))


if __name__ == "__main__":
    main()
