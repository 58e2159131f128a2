"""Collectives in virtual time against closed forms, and their results and bytes against what they must be."""

from __future__ import annotations

import numpy as np
import pytest

from psgdsim import collectives, wire
from psgdsim.scenario import from_dict
from psgdsim.scenario.experiment import build
from psgdsim.sim.driver import Simulation
from psgdsim.sim.values import Value
from psgdsim.strategies.base import Strategy


def simulate(world_size, program, *, multicast="unicast", bandwidth="10 Gbit/s", latency="50 us"):
    """Run one program on every rank; return the outcomes of all and the simulation."""
    experiment = build(
        from_dict(
            {
                "name": "collective",
                "world_size": world_size,
                "model": {"kind": "quadratic", "dim": 1},
                "data": {"kind": "none"},
                "batch_size": 1,
                "optimizer": {"kind": "sgd", "learning_rate": 0.1},
                "strategy": {"kind": "all_reduce"},
                "topology": {"kind": "star", "bandwidth": bandwidth, "latency": latency, "multicast": multicast},
                "max_steps": 1,
            }
        )
    )
    results = {}

    async def worker(node, task):
        results[node.rank] = await program(node)
        node.record(end=node.now)
        await node.checkpoint(1, [])

    object.__setattr__(experiment, "strategy", Strategy(worker))
    simulation = Simulation(experiment)
    outcome = simulation.run()
    assert outcome.error is None, outcome.error
    return [results[rank] for rank in range(world_size)], outcome


def vector(rank, size):
    return Value(np.random.default_rng(rank).integers(-50, 50, size).astype(np.float32))


@pytest.mark.parametrize(("num", "size"), [(1, 5), (2, 8), (3, 7), (4, 1), (5, 3), (8, 64), (16, 1000)])
def test_ring_all_reduce_sums_exactly_and_sends_the_least(num, size):
    sums, outcome = simulate(num, lambda node: collectives.ring_all_reduce(node, vector(node.rank, size), tag="x"))
    expected = np.sum([vector(rank, size).array for rank in range(num)], axis=0)
    for total in sums:
        np.testing.assert_array_equal(np.asarray(total.array), expected)  # integers in floats: exact
    assert sum(report.payload_nbytes for report in outcome.reports) == 2 * (num - 1) * size * 4
    assert all(report.unread == 0 for report in outcome.reports)


@pytest.mark.parametrize(("num", "size"), [(2, 1000), (4, 1000), (16, 1600), (16, 160_000)])
def test_ring_all_reduce_takes_the_time_of_the_alpha_beta_model(num, size):
    _, outcome = simulate(num, lambda node: collectives.ring_all_reduce(node, vector(node.rank, size), tag="x"))
    frame = wire.nbytes(np.zeros(size // num, np.float32))
    expected = 2 * (num - 1) * (50e-6 + frame * 8 / 10e9)
    assert outcome.time == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("num", [2, 5, 16])
@pytest.mark.parametrize(("multicast", "share"), [("unicast", 1), ("native", 1), ("relay", 1)])
def test_broadcast_of_all_to_all_takes_the_time_of_the_alpha_beta_model(num, multicast, share):
    payload = vector(0, 10_000)
    results, outcome = simulate(num, lambda node: collectives.all_gather(node, payload, tag="x"), multicast=multicast)
    frame = wire.nbytes(payload) * 8 / 10e9
    # Every downlink carries N-1 frames; a relay first takes the upload.
    expected = 50e-6 + (num - 1) * frame + (frame if multicast == "relay" else 0)
    assert outcome.time == pytest.approx(expected, rel=1e-12)
    sent = (num - 1 if multicast == "unicast" else 1) * wire.nbytes(payload)
    assert [report.sent_nbytes for report in outcome.reports] == [sent] * num
    relayed = 0 if multicast == "unicast" else (num - 1) * wire.nbytes(payload)
    assert [report.relay_nbytes for report in outcome.reports] == [relayed] * num
    assert all(len(result) == num for result in results)


# alpha = 50 us, B = 1.25e9 B/s, N = 16 (Thakur et al.'s ring formula): the message's own bytes, headers apart.
@pytest.mark.parametrize(("nbytes", "seconds"), [(4_000, 1.506e-3), (400_000, 2.100e-3), (100_000_000, 0.15150)])
def test_published_ring_times(nbytes, seconds):
    frame = nbytes / 16
    assert 2 * 15 * (50e-6 + frame / 1.25e9) == pytest.approx(seconds, rel=1e-3)
