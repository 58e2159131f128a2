"""Workers that compute and send in turn, without learning: an asynchronous parameter server as a queueing network."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import Any

from psgdsim import rng
from psgdsim.network_model import NetworkModel
from psgdsim.topologies.base import Link, Topology


def mean_value_analysis(num_workers: int, think: float, services: Sequence[float]) -> float:
    """Return the exact throughput of workers that think, then pass some fair stations one after the other.

    Source: Reiser and Lavenberg, "Mean-value analysis of closed multichain queuing networks", JACM 27(2), 1980.

    Args:
        num_workers: how many, each with one job.
        think: the mean time between passes [s].
        services: what a pass takes at each station when alone [s].

    Returns:
        Passes per second.

    Example:
        >>> round(mean_value_analysis(8, 1.0, [0.1]), 4), round(mean_value_analysis(8, 1.0, [0.1, 0.1]), 4)
        (6.6168, 5.8039)
    """
    queues, rate = [0.0] * len(services), 0.0
    for n in range(1, num_workers + 1):
        times = [service * (1 + queue) for service, queue in zip(services, queues, strict=True)]
        rate = n / (think + sum(times))
        queues = [rate * time for time in times]
    return rate


def fifo_throughput(num_workers: int, service: float, num_passes: int, seed: int = 1) -> float:
    """Return what `async_throughput` must give on one first-come-first-served link, by a loop over the passes.

    Args:
        num_workers: how many.
        service: what a message takes on the link [s].
        num_passes: as in `async_throughput`.
        seed: as in `async_throughput`.
    """
    draws = _draws(num_workers, num_passes, seed)
    arrivals = [next(draws) for _ in range(num_workers)]
    heapq.heapify(arrivals)
    ends = [0.0]
    for _ in range(_warm_up(num_passes) + num_passes + 1):
        ends.append(max(ends[-1], heapq.heappop(arrivals)) + service)
        heapq.heappush(arrivals, ends[-1] + next(draws))
    return num_passes / (ends[-1] - ends[-1 - num_passes])


def async_throughput(
    num_workers: int, services: Sequence[float], num_passes: int, model: NetworkModel | None = None, seed: int = 1
) -> float:
    """Simulate workers that compute for Exp(1) s and then send a fixed message over some links, one after the other.

    Args:
        num_workers: how many.
        services: what a message takes on each link when alone [s].
        num_passes: how many passes to count, after a tenth as many that are not.
        model: how messages share a link; max-min fairly by default.
        seed: of the compute times.

    Returns:
        Passes per second of virtual time.
    """
    import simpy

    from psgdsim.sim.network import Network

    env = simpy.Environment()
    links = tuple(Link(f"server{i}", 8.0 / service, 0.0) for i, service in enumerate(services))
    hosts = ("workers", "server")
    network = Network(env, Topology(hosts, links, lambda _src, _dst: (), "unicast", lambda _host, _up: ()), model)
    draws = _draws(num_workers, num_passes, seed)
    ends: list[float] = []

    def compute(_: Any) -> None:
        env.timeout(next(draws)).callbacks.append(lambda _: send(0))

    def send(link: int) -> None:
        after = finish if link + 1 == len(links) else lambda _: send(link + 1)
        network.carry((link,), 1.0).callbacks.append(after)

    def finish(event: Any) -> None:
        ends.append(env.now)
        compute(event)

    for _ in range(num_workers):
        compute(None)
    warm_up = _warm_up(num_passes)
    while len(ends) <= warm_up + num_passes:
        env.step()
    return num_passes / (ends[warm_up + num_passes] - ends[warm_up])


def _draws(num_workers: int, num_passes: int, seed: int) -> Iterator[float]:
    return iter(rng.stream(seed, "queueing").exponential(size=2 * num_passes + num_workers).tolist())


def _warm_up(num_passes: int) -> int:
    return num_passes // 10
