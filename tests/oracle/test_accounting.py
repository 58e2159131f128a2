"""Accounts against what must hold whatever happens: bytes are conserved, seconds add up, links are within capacity."""

from __future__ import annotations

import csv
import itertools

import numpy as np
import pytest

import psgdsim
from psgdsim.node import Kernel
from psgdsim.scenario import from_dict
from psgdsim.scenario.experiment import build
from psgdsim.sim.driver import Simulation
from psgdsim.strategies.base import Strategy

STAR = {"kind": "star", "bandwidth": "8 Mbit/s", "latency": "1 ms"}
BASE = {
    "name": "accounts",
    "seed": 5,
    "world_size": 8,
    "model": {"kind": "quadratic", "dim": 500, "noise": 0.5},
    "data": {"kind": "none"},
    "batch_size": 2,
    "optimizer": {"kind": "sgd", "learning_rate": 0.1},
    "strategy": {"kind": "all_reduce", "algorithm": "broadcast"},
    "topology": STAR,
    "compute": {"kind": "exponential", "mean": "10 ms"},
    "max_steps": 6,
}
DISTURBANCES = {
    "changes": [
        {"kind": "jitter", "mean": "2 ms"},
        {"kind": "loss", "probability": 0.01},
        {"kind": "periodic", "links": "*", "period": "50 ms", "low": 0.2, "shape": "sine"},
        {"kind": "bandwidth_trace", "rows": [["20 ms", "*", "4 Mbit/s"], ["60 ms", "*", "16 Mbit/s"]]},
    ],
    "faults": [
        {"kind": "slow", "mtbf": "100 ms", "mttr": "50 ms", "factor": 3},
        {"kind": "cut", "ranks": [2], "at": "35 ms", "for": "20 ms"},
        {"kind": "cut", "links": "*", "at_step": 3, "for": "20 ms"},
    ],
}


WORK = Kernel("work", lambda: 0, kind="gradient", rows=lambda: 2)
PAYLOAD = np.zeros(500, np.float32)


async def broadcast(node, task):
    """Send to all others in every step, as synchronous SGD does; nothing is learned."""
    others = [rank for rank in range(node.world_size) if rank != node.rank]
    for step in task.steps():
        await node.compute(WORK)
        tag = f"step {step}"
        await node.gather(node.multicast(others, PAYLOAD, tag=tag), *(node.recv(rank, tag=tag) for rank in others))
        if not await node.checkpoint(step, []):
            return


async def ring(node, task):
    """Send to the next rank, and one further, in every step."""
    for step in task.steps():
        await node.compute(WORK)
        steps = [
            each
            for distance in (1, 3)
            for each in (
                node.send((node.rank + distance) % 8, PAYLOAD, tag=f"step {step}"),
                node.recv((node.rank - distance) % 8, tag=f"step {step}"),
            )
        ]
        await node.gather(*steps)
        if not await node.checkpoint(step, []):
            return


def simulation(program=broadcast, **changes):
    experiment = build(from_dict({**BASE, **changes}))
    object.__setattr__(experiment, "strategy", Strategy(program))
    return Simulation(experiment)


def simulate(program=broadcast, **changes):
    outcome = simulation(program, **changes).run()
    assert outcome.error is None
    return outcome


def total(outcome, kind):
    return sum(event.nbytes for report in outcome.reports for event in report.events if event.kind == kind)


@pytest.mark.parametrize("disturbances", [{}, DISTURBANCES], ids=["healthy", "disturbed"])
@pytest.mark.parametrize("model", ["fluid", "fifo", "ideal"])
@pytest.mark.parametrize("multicast", ["native", "relay", "unicast"])
def test_up_goes_what_is_sent_and_down_comes_what_is_received(multicast, model, disturbances):
    outcome = simulate(topology={**STAR, "multicast": multicast}, network={"model": model}, **disturbances)
    up, down = (sum(link.nbytes for link in outcome.links if link.name.endswith(way)) for way in (".up", ".down"))
    assert up == total(outcome, "send") == sum(report.sent_nbytes for report in outcome.reports)
    assert down == total(outcome, "receive")
    assert down / up == (1 if multicast == "unicast" else 7)


@pytest.mark.parametrize(
    "topology",
    [
        {"kind": "tree", "fan_out": 2, "levels": 3, "bandwidth": "8 Mbit/s", "latency": "1 ms"},
        {"kind": "torus", "dims": [2, 4], "bandwidth": "8 Mbit/s", "latency": "1 ms"},
        {"kind": "full_mesh", "bandwidth": "8 Mbit/s", "latency": "1 ms"},
    ],
    ids=lambda topology: topology["kind"],
)
@pytest.mark.parametrize("disturbances", [{}, DISTURBANCES], ids=["healthy", "disturbed"])
def test_links_carry_what_is_sent_over_the_routes_that_cross_them(topology, disturbances):
    scenario = {"topology": topology, **disturbances}
    network = build(from_dict({**BASE, **scenario})).topology.build(8)
    outcome = simulate(ring, **scenario)
    expected = dict.fromkeys((link.name for link in network.links), 0)
    for report in outcome.reports:
        for event in report.events:
            if event.kind == "send":
                for link in network.route(report.rank, event.peer):
                    expected[network.links[link].name] += event.nbytes
    assert {link.name: link.nbytes for link in outcome.links} == expected
    assert sum(expected.values()) > 0


def test_a_native_multicast_crosses_each_link_of_its_tree_once_where_routes_have_equal_cost():
    topology = {"kind": "fat_tree", "k": 4, "bandwidth": "8 Mbit/s", "latency": "1 ms", "multicast": "native"}
    experiment = build(from_dict({**BASE, "world_size": 16, "topology": topology, "max_steps": 1}))

    async def worker(node, task):
        if node.rank == 0:
            await node.multicast(list(range(1, 16)), PAYLOAD, tag="x")
        else:
            await node.recv(0, tag="x")

    object.__setattr__(experiment, "strategy", Strategy(worker))
    outcome = Simulation(experiment).run()
    assert outcome.error is None
    network = experiment.topology.build(16)
    entered = [link.dst for link, report in zip(network.links, outcome.links, strict=True) if report.nbytes]
    assert len(entered) == len(set(entered))  # no switch gets it twice
    assert {report.nbytes for report in outcome.links} == {0, outcome.reports[0].sent_nbytes}
    assert set(network.hosts[1:]) <= set(entered)


def test_headers_are_carried_but_not_sent():
    plain, padded = (simulate(network={"message_overhead": {"nbytes": f"{nbytes} B"}}) for nbytes in (0, 100))
    num = sum(event.kind == "send" for report in plain.reports for event in report.events)
    assert total(padded, "send") == total(plain, "send")
    carried = [sum(link.nbytes for link in outcome.links) for outcome in (plain, padded)]
    assert carried[1] - carried[0] == 2 * 100 * num


@pytest.mark.parametrize("model", ["fluid", "fifo"])
def test_no_link_is_used_beyond_its_capacity(model):
    for disturbances in ({}, {**DISTURBANCES, "changes": DISTURBANCES["changes"][:3]}):
        outcome = simulate(network={"model": model}, **disturbances)
        for link in outcome.links:
            assert 0 < link.utilisation <= 1 + 1e-9
            # At 8 Mbit/s at most; a slower link is busy for longer with the same bytes.
            assert link.utilisation * outcome.time >= 8 * link.nbytes / 8e6 * (1 - 1e-9)


@pytest.mark.parametrize("disturbances", [{}, DISTURBANCES], ids=["healthy", "disturbed"])
@pytest.mark.parametrize("multicast", ["native", "relay", "unicast"])
def test_the_seconds_of_each_rank_and_step_add_up(multicast, disturbances):
    outcome = simulate(topology={**STAR, "multicast": multicast}, **disturbances)
    for report in outcome.reports:
        assert sum(report.seconds.values()) == pytest.approx(outcome.time, rel=1e-9)
        assert min(report.seconds.values()) >= 0
        for before, row in itertools.pairwise([{"time": 0.0}, *report.rows]):
            spent = sum(row[f"{name}_s"] for name in report.seconds)
            assert spent == pytest.approx(row["time"] - before["time"], rel=1e-9, abs=1e-12)


def test_seconds_add_up_when_a_rank_is_down_for_a_while():
    async def worker(node, task):
        await node.gather(*(node.compute(WORK) for _ in range(20)))
        await node.checkpoint(1, [])

    crash = {"kind": "crash", "rank": 3, "at": "20 ms", "restart_after": "1 s"}
    outcome = simulate(worker, faults=[crash], max_steps=100, evaluate={"every": None})
    assert outcome.reports[3].rows[-1]["time"] == outcome.time > 1.02
    for report in outcome.reports:
        assert sum(report.seconds.values()) == pytest.approx(outcome.time, rel=1e-9)


def test_the_run_folder_has_all_links_and_the_summary_the_busiest(tmp_path):
    scenario = {
        **BASE,
        "world_size": 16,
        "changes": [{"kind": "background", "from": "host1", "to": "host2", "size": "10 kB", "interval": "20 ms"}],
    }
    result = psgdsim.run(scenario, out=tmp_path / "run")
    with (tmp_path / "run" / "links.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [f"host{i}.{way}" for way in ("up", "down") for i in range(16)]
    links = result.summary["links"]
    assert len(links) == 20
    assert list(links)[:2] in (["host1.up", "host2.down"], ["host2.down", "host1.up"])
    shares = [link["utilisation"] for link in links.values()]
    assert shares == sorted(shares, reverse=True)
    by_name = {row["name"]: row for row in rows}
    for name, link in links.items():
        assert link == {"nbytes": int(by_name[name]["nbytes"]), "utilisation": float(by_name[name]["utilisation"])}
        assert link["utilisation"] == pytest.approx(link["nbytes"] / 1e6 / result.summary["time_s"])
