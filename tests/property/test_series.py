"""What links carried over time, against a second run that stops at every edge and looks."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from psgdsim.network_model import NetworkModel
from psgdsim.sim.network import Network
from psgdsim.sim.series import Series
from psgdsim.topologies import star

END = 3.0
MODELS = [NetworkModel(), NetworkModel(tcp="lv08"), NetworkModel(model="fifo"), NetworkModel(model="ideal")]


def traffic(seed, num, model):
    """Return a clock and a network on which messages come, are given up, and links change, until `END`."""
    rnd = random.Random(seed)
    env = simpy.Environment()
    network = Network(env, star(bandwidth=8e3, latency=rnd.choice([0.0, 0.1])).build(4), model)

    def at(time, action):
        env.timeout(time).callbacks.append(lambda _: action())

    def send(src, dst, nbytes, patience):
        delivery = network.send(src, dst, nbytes)
        at(patience, lambda: network.cancel(delivery))

    def change(link, bandwidth):
        network.set_link(link, bandwidth=bandwidth)

    for _ in range(num):
        src, dst = rnd.sample(range(4), 2)
        arguments = src, dst, rnd.choice([0, 1, 500, 2000]), rnd.choice([0.3, 10.0])
        at(rnd.uniform(0, END / 2), lambda arguments=arguments: send(*arguments))
    for _ in range(num // 4):
        arguments = rnd.randrange(8), rnd.choice([0.0, 2e3, 8e3, 16e3])
        at(rnd.uniform(0, END), lambda arguments=arguments: change(*arguments))
    at(END, lambda: None)
    return env, network


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6), num=st.integers(1, 40), model=st.sampled_from(MODELS), num_bins=st.sampled_from([4, 64])
)
def test_a_bin_holds_what_was_carried_between_its_edges(seed, num, model, num_bins):
    env, network = traffic(seed, num, model)
    series = Series(network.counters, num_bins)
    while (time := env.peek()) <= END:
        if time > series.edge:
            series.advance(time)
        env.step()
    edges, nbytes, used = series.bins(END)
    assert num_bins / 2 <= len(nbytes) <= num_bins

    env, network = traffic(seed, num, model)
    readings = []
    for edge in edges[1:]:
        env.run(until=math.nextafter(edge, math.inf))
        readings.append([(each.nbytes, each.busy) for each in network.usage()])
    carried, busy = np.diff(np.array([np.zeros_like(readings[0]), *readings]), axis=0).transpose(2, 0, 1)
    assert nbytes == pytest.approx(carried, abs=1 + 1e-6)  # whole bytes
    assert nbytes.sum(0) == pytest.approx(carried.sum(0), abs=0.5 + 1e-6)
    assert used == pytest.approx(busy / np.diff(edges)[:, None], abs=1e-9)
    assert used.max() <= 1 + 1e-9 or model.model == "ideal"
