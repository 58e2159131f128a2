"""Measure one round of a parameter server with 10,000 ranks in one star: every rank sends 1 MB, then gets 1 MB back.

20,000 flows through the server's 10 Gbit/s; each rank starts after a time of its own (exponential, mean 1 s), so that
no two flows end together. The floor, in the same process: as many timeouts in SimPy as the round has sends.

    python benchmarks/network_star_10k.py [RANKS...]

Prints JSON; wall times in seconds, and the memory that the network and the flows take at their peak, in MB per 1,000
ranks (as `tracemalloc` counts it, in a run of its own).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
import tracemalloc
from collections.abc import Generator
from typing import Any

import simpy

NBYTES = 1_000_000
Program = Generator[simpy.Event, Any, None]


def round_trip(ranks: int) -> float:
    """Return the virtual time of the round."""
    from psgdsim.sim.network import Network
    from psgdsim.topologies import star

    env = simpy.Environment()
    network = Network(env, star(bandwidth=1e10, latency=1e-4).build(ranks + 1))
    rng = random.Random(1)
    has_all, arrived = env.event(), 0

    def worker(rank: int, start: float) -> Program:
        nonlocal arrived
        yield env.timeout(start)
        yield network.send(rank, ranks, NBYTES)
        arrived += 1
        if arrived == ranks:
            has_all.succeed()

    def server() -> Program:
        yield has_all
        yield env.all_of([network.send(ranks, rank, NBYTES + rank) for rank in range(ranks)])

    for rank in range(ranks):
        env.process(worker(rank, rng.expovariate(1.0)))
    env.process(server())
    env.run()
    return float(env.now)


def timeouts(ranks: int) -> None:
    """Let 20,000 timeouts pass, two per rank."""
    env = simpy.Environment()

    def worker(start: float) -> Program:
        yield env.timeout(start)
        yield env.timeout(1.0)

    rng = random.Random(1)
    for _ in range(ranks):
        env.process(worker(rng.expovariate(1.0)))
    env.run()


def measure(ranks: int) -> dict[str, Any]:
    """Return the time and the memory of one round."""
    start = time.perf_counter()
    virtual = round_trip(ranks)
    middle = time.perf_counter()
    timeouts(ranks)
    end = time.perf_counter()
    tracemalloc.start()
    round_trip(ranks)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {
        "ranks": ranks,
        "flows": 2 * ranks,
        "wall_s": middle - start,
        "floor_s": end - middle,
        "virtual_s": virtual,
        "peak_mb": peak / 1e6,
        "peak_mb_per_1000_ranks": peak / 1e3 / ranks,
    }


def main() -> None:
    """Measure and print JSON."""
    from psgdsim.results import versions

    parser = argparse.ArgumentParser(description="Measure one round of a parameter server in one star.")
    parser.add_argument("ranks", metavar="RANKS", nargs="*", type=int, default=[1000, 10_000])
    rows = [measure(ranks) for ranks in parser.parse_args().ranks]
    print(json.dumps({"cores": os.cpu_count(), "versions": versions(), "results": rows}, indent=2))


if __name__ == "__main__":
    main()
