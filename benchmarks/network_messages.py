"""Measure what an uncontended message costs in the simulated network, against SimPy's own message.

One process sends messages over two links with latency, one after the other, and another receives them from a SimPy
store; that is, send -> links -> store -> receive. The floor, in the same process: put into a store and get from it,
with no network between.

    python benchmarks/network_messages.py [--messages N] [--repeats N]

Prints JSON; rates in messages per wall second, medians over the repeats.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Generator
from typing import Any

import simpy

Program = Generator[simpy.Event, Any, None]


def store(messages: int) -> None:
    """Put and get."""
    env = simpy.Environment()
    box = simpy.Store(env)

    def put() -> Program:
        for i in range(messages):
            yield box.put(i)

    def get() -> Program:
        for _ in range(messages):
            yield box.get()

    env.process(put())
    env.process(get())
    env.run()


def network(messages: int, *, receive: bool, model: str = "fluid") -> None:
    """Send over the network, and hand over to a receiver or not."""
    from psgdsim.network_model import NetworkModel
    from psgdsim.sim.network import Network
    from psgdsim.topologies import star

    env = simpy.Environment()
    links = Network(env, star(bandwidth=1e9, latency=1e-4).build(2), NetworkModel(model=model))
    box = simpy.Store(env)

    def send() -> Program:
        for i in range(messages):
            yield links.send(0, 1, 1000)
            if receive:
                box.put(i)

    def get() -> Program:
        for _ in range(messages):
            yield box.get()

    env.process(send())
    if receive:
        env.process(get())
    env.run()


def main() -> None:
    """Measure and print JSON."""
    from psgdsim.results import versions

    parser = argparse.ArgumentParser(description="Measure uncontended messages per second.")
    parser.add_argument("--messages", type=int, default=50_000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    ways: dict[str, Callable[[int], None]] = {
        "floor: SimPy store put + get": store,
        "network": lambda messages: network(messages, receive=False),
        "network, then store put + get": lambda messages: network(messages, receive=True),
        "network with model fifo": lambda messages: network(messages, receive=False, model="fifo"),
        "network with model ideal": lambda messages: network(messages, receive=False, model="ideal"),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.repeats + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way(arguments.messages)
            rates[name].append(arguments.messages / (time.perf_counter() - start))
    medians = {name: statistics.median(each[1:]) for name, each in rates.items()}
    results = {"messages": arguments.messages, "messages_per_s": medians}
    print(json.dumps({"cores": os.cpu_count(), "versions": versions(), "results": results}, indent=2))


if __name__ == "__main__":
    main()
