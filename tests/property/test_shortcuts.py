"""A ring all-reduce that is computed as a whole against the same one, message by message."""

from __future__ import annotations

import dataclasses
import functools
import math
import random
from collections import defaultdict

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psgdsim import collectives, scenario
from psgdsim.errors import Deadlock, ProgramError, SimulationError
from psgdsim.node import Kernel
from psgdsim.scenario.experiment import Experiment, build
from psgdsim.sim import ring
from psgdsim.sim.driver import Simulation
from psgdsim.sim.values import numbers
from psgdsim.strategies.base import Strategy
from psgdsim.topologies import Link, Topology
from psgdsim.topologies.base import TopologyPart

NETWORKS = {
    "fluid": {},
    "overhead": {"message_overhead": {"nbytes": "40 B"}},
    "tcp": {"tcp": {"gamma": 50_000, "weight_s": 3000, "bandwidth_factor": 0.9, "latency_factor": 2}},
    "ideal": {"model": "ideal"},
}
VECTOR = Kernel("vector", jnp.asarray)
WORK = Kernel("work", lambda rows: rows, "gradient", rows=lambda rows: rows)


@functools.cache
def base(num, network, trace, execution):
    """Return an experiment in which a kernel takes 1 ms per row."""
    return build(
        scenario.from_dict({
            "name": "ring", "world_size": num, "batch_size": 1, "max_steps": 1, "evaluate": {"every": None},
            "model": {"kind": "quadratic", "dim": 1}, "data": {"kind": "none"}, "strategy": {"kind": "all_reduce"},
            "optimizer": {"kind": "sgd", "learning_rate": 0.1}, "compute": {"kind": "constant", "time": "1 ms"},
            "topology": {"kind": "star", "bandwidth": None, "latency": "0 s"}, "network": NETWORKS[network],
            "trace": trace, "execution": execution,
        })
    )  # fmt: skip


def star(num, seed):
    """Links of all sorts, and some hosts whose messages have no latency at all."""
    rnd = random.Random(seed)
    names = tuple(f"h{i}" for i in range(num))

    def link(name):
        bandwidth = rnd.choice([8e5, 8e6, rnd.uniform(1e5, 1e7), math.inf])
        return Link(name, bandwidth, rnd.choice([0.0, 1e-3, rnd.random() / 500]))

    links = [link(f"{name}.{way}") for way in ("up", "down") for name in names]
    return Topology(names, tuple(links), lambda src, dst: (src, num + dst), "unicast", lambda host, is_up: (host,))


def run(program, num, topology, network="fluid", trace="steps", execution="exact"):
    """Return what a program returned on each rank, the outcome, and how many rings were computed as a whole."""
    results, courses = {}, []

    async def worker(node, _task):
        results[node.rank] = await program(node)
        await node.checkpoint(1, [])

    experiment: Experiment = dataclasses.replace(
        base(num, network, trace, execution),
        strategy=Strategy(worker),
        topology=TopologyPart(lambda _: topology, "unicast"),
    )
    simulation = Simulation(experiment)
    simulation.accounts.book, book = lambda traffic: (courses.append(traffic), book(traffic)), simulation.accounts.book
    outcome = simulation.run()
    if outcome.error is not None:
        raise outcome.error
    return [numbers(results[rank]) for rank in range(num)], outcome, len(courses)


def sums(num, length, seed, dtype="float32", num_sums=2, max_rows=20):
    """Return a program that comes to several sums at times of its own."""
    rnd, rng = random.Random(seed), np.random.default_rng(seed)
    rows = [[rnd.choice([0, rnd.randint(1, max_rows)]) for _ in range(num_sums)] for _ in range(num)]
    vectors = rng.normal(size=(num, length)) * 10.0 ** rng.integers(-3, 4, (num, 1))

    async def program(node):
        vector = await node.compute(VECTOR, vectors[node.rank], dtype)
        ends = []
        for i, work in enumerate(rows[node.rank]):
            await node.compute(WORK, work)
            vector = await node.collective(collectives.ring_all_reduce, vector, tag=f"sum {i}")
            ends.append(node.now)
        return vector, ends

    return program


def series(outcome):
    """Return what each link carried in each bin."""
    columns = defaultdict(list)
    for each in outcome.link_bins:
        columns[each.start, each.end].append((each.nbytes, each.utilisation))
    return list(columns), np.array(list(columns.values()))


@settings(max_examples=40)
@given(
    num=st.integers(3, 12), length=st.sampled_from([1, 2, 7, 100, 2000]), seed=st.integers(0, 10**6),
    network=st.sampled_from(sorted(NETWORKS)),
)  # fmt: skip
def test_a_ring_computed_as_a_whole_is_that_of_its_messages(num, length, seed, network):
    program, topology = sums(num, length, seed), star(num, seed)
    (values, slow, none), (twins, quick, some) = (
        run(program, num, topology, network, trace) for trace in ("full", "steps")
    )
    assert (none, some) == (0, 2)
    for (vector, ends), (twin, times) in zip(values, twins, strict=True):
        assert twin.tobytes() == vector.tobytes()
        assert times == pytest.approx(ends, rel=1e-12)
    for one, other in zip(slow.reports, quick.reports, strict=True):
        assert (other.sent_nbytes, other.payload_nbytes) == (one.sent_nbytes, one.payload_nbytes)
        assert other.seconds == pytest.approx(one.seconds, rel=1e-9, abs=1e-12)
        assert (len(one.events) > 0, other.events) == (True, [])
    for link, twin in zip(slow.links, quick.links, strict=True):
        assert (twin.name, twin.nbytes, twin.queue_max) == (link.name, link.nbytes, link.queue_max)
        assert twin.utilisation == pytest.approx(link.utilisation, rel=1e-9)
        assert twin.queue_mean == (None if link.queue_mean is None else pytest.approx(link.queue_mean, rel=1e-9))
    edges, carried = series(slow)
    others, same = series(quick)
    assert np.array(others) == pytest.approx(np.array(edges), rel=1e-12)
    assert same[..., 0] == pytest.approx(carried[..., 0], abs=1)  # whole bytes
    assert same[..., 1] == pytest.approx(carried[..., 1], rel=1e-6, abs=1e-6)  # of a last bin that may be tiny
    assert same[..., 0].sum(axis=0).tolist() == [link.nbytes for link in quick.links]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32"])
@pytest.mark.parametrize("num", [3, 8])
def test_sums_have_the_bits_that_messages_bring(num, dtype):
    program, topology = sums(num, 1000, 7, dtype, num_sums=1), star(num, 7)
    slow, quick = (run(program, num, topology, trace=trace)[0] for trace in ("full", "steps"))
    assert str(slow[0][0].dtype) == dtype
    assert {vector.tobytes() for vector, _ in (*slow, *quick)} == {slow[0][0].tobytes()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_batched_execution_sums_the_same_but_for_rounding(dtype):
    program, topology = sums(8, 1000, 7, dtype, num_sums=1), star(8, 7)
    slow, quick = (run(program, 8, topology, trace=t, execution="batched")[0] for t in ("full", "steps"))
    expected = np.asarray(slow[0][0], float)
    for vector, _ in quick:
        assert str(vector.dtype) == dtype
        assert np.abs(np.asarray(vector, float) - expected).max() <= 1e-6 * np.abs(expected).max()


def test_what_is_told_apart_in_time_is_bounded_and_what_is_carried_is_not(monkeypatch):
    program, topology = sums(9, 2000, 5), star(9, 5)
    exact = run(program, 9, topology)[1]
    monkeypatch.setattr(ring, "MAX_SPANS", 3)
    coarse = run(program, 9, topology)[1]
    assert coarse.links == exact.links
    assert (series(coarse)[1] != series(exact)[1]).any()
    assert series(coarse)[1][..., 0].sum(axis=0).tolist() == [link.nbytes for link in exact.links]


# --- where it cannot be -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shared", "num"), [(True, 4), (False, 2)])
def test_messages_that_would_share_a_link_are_simulated(shared, num):
    topology = star(num, 1)
    if shared:
        core = Link("core", 1e6, 0.0)
        topology = dataclasses.replace(
            topology,
            links=(*topology.links, core),
            route=lambda src, dst: (src, 2 * num, num + dst),
        )
    program = sums(num, 100, 1)
    (values, slow, _), (twins, quick, num_courses) = (run(program, num, topology, trace=t) for t in ("full", "steps"))
    assert num_courses == 0
    assert [ends for _, ends in values] == [ends for _, ends in twins]
    assert quick.links == slow.links


def raises(error, program, match):
    with pytest.raises(error, match=match):
        run(program, 4, star(4, 1))


async def total(node, tag="sum", length=100):
    vector = await node.compute(VECTOR, np.ones(length), "float32")
    return await node.collective(collectives.ring_all_reduce, vector, tag=tag)


def test_a_message_during_a_collective_ends_the_run():
    async def gossip(node):
        if node.rank == 0:
            await node.sleep(0.001)
            await node.send(1, None, tag="gossip")
        return await total(node)

    raises(SimulationError, gossip, r"^rank 0 sends 'gossip' while rank 1 is in collective 'sum': .*trace: full")


def test_a_message_under_way_when_a_collective_begins_ends_the_run():
    async def gossip(node):
        if node.rank == 0:
            node.spawn(node.send(1, None, tag="gossip"))
        return await total(node)

    raises(SimulationError, gossip, r"^rank 0 begins collective 'sum' while a message is on its way: .*trace: full")


def test_ranks_that_do_not_call_it_together_are_told():
    async def others(node):
        return await total(node, tag="sum" if node.rank < 2 else "other")

    async def twice(node):
        return await node.gather(total(node), total(node))

    raises(ProgramError, others, r"^rank 2: .* 'other' of float32\[100\]: expected what rank 0 has come with, 'sum'")
    raises(ProgramError, lambda node: total(node, length=100 + node.rank), r"float32\[101\]: expected .*float32\[100\]")
    raises(ProgramError, twice, r"^rank 0: collective 'sum': expected a worker that is in no other collective")


def test_a_collective_to_which_somebody_never_comes_is_a_deadlock():
    async def absent(node):
        return await (node.recv(0, tag="never") if node.rank == 3 else total(node))

    raises(Deadlock, absent, r"rank 0 \(step 1\) waits for the other workers in collective\(tag='sum'\)")
