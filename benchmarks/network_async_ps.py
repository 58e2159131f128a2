"""Measure how many contended transfers per second the simulated network carries under an asynchronous server.

N workers compute for an exponential time of mean 1 s and send 100 MB to a server whose link of 8 Gbit/s they share
fairly (0.1 s alone), `push`, or fetch as much from it afterwards, `push and pull`; nothing is learned. The server is
saturated from 11 workers on. The floor, in the same process: the same workers in SimPy with links that are never shared
(a timeout of 0.1 s instead of each transfer).

    python benchmarks/network_async_ps.py [--transfers N] [--repeats N]

Prints JSON; rates in transfers per wall second, medians over the repeats.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Generator
from typing import Any

import simpy

COMPUTE, NBYTES, BANDWIDTH = 1.0, 100_000_000, 8e9


def simulate(workers: int, transfers: int, *, pulls: bool, shared: bool) -> float:
    """Return the virtual time that the transfers take."""
    from psgdsim.sim.network import Network
    from psgdsim.topologies import star

    env = simpy.Environment()
    network = Network(env, star(bandwidth=BANDWIDTH, latency=0.0).build(workers + 1))
    rng = random.Random(1)
    left = transfers

    def worker(rank: int) -> Generator[simpy.Event, Any, None]:
        nonlocal left
        while left > 0:
            yield env.timeout(rng.expovariate(1 / COMPUTE))
            for src, dst in [(rank, workers), (workers, rank)][: 1 + pulls]:
                left -= 1
                yield network.send(src, dst, NBYTES) if shared else env.timeout(8 * NBYTES / BANDWIDTH)

    for rank in range(workers):
        env.process(worker(rank))
    env.run()
    return float(env.now)


def measure(workers: int, transfers: int, repeats: int, *, pulls: bool) -> dict[str, Any]:
    """Return the rates for one number of workers."""
    rates: dict[bool, list[float]] = {True: [], False: []}
    virtual = {}
    for _ in range(repeats + 1):
        for shared in (True, False):
            start = time.perf_counter()
            virtual[shared] = simulate(workers, transfers, pulls=pulls, shared=shared)
            rates[shared].append(transfers / (time.perf_counter() - start))
    median = {shared: statistics.median(each[1:]) for shared, each in rates.items()}
    return {
        "workers": workers,
        "program": "push and pull" if pulls else "push",
        "transfers": transfers,
        "transfers_per_s": median[True],
        "floor_per_s": median[False],
        "ratio": median[False] / median[True],
        "virtual_transfers_per_s": transfers / virtual[True],
    }


def main() -> None:
    """Measure 8, 64 and 1,000 workers and print JSON."""
    from psgdsim.results import versions

    parser = argparse.ArgumentParser(description="Measure contended transfers per second.")
    parser.add_argument("--transfers", type=int, default=30_000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    rows = [
        measure(workers, arguments.transfers, arguments.repeats, pulls=pulls)
        for pulls in (False, True)
        for workers in (8, 64, 1000)
    ]
    print(json.dumps({"cores": os.cpu_count(), "versions": versions(), "results": rows}, indent=2))


if __name__ == "__main__":
    main()
