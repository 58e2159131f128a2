"""Completion times against SimGrid (Casanova et al., JPDC 74(10), 2014), where Debian's python3-simgrid is there."""

from __future__ import annotations

import importlib.util
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from psgdsim.sim import simulate_flows

PROGRAM = Path(__file__).with_name("simgrid_program.py")
DEBIAN = Path("/usr/lib/python3/dist-packages")
PRECISION = ["surf/precision:1e-9", "maxmin/precision:1e-9"]
NO_TCP = {"bandwidth_factor": 1, "latency_factor": 1, "weight_s": 0, "gamma": None, "cross_traffic": False}


def simgrid_module() -> tuple[bool, str | None]:
    """Whether SimGrid can be used, and its file if it must be imported by path."""
    if importlib.util.find_spec("simgrid") is not None:
        return True, None
    version = f"{sys.version_info.major}{sys.version_info.minor}"
    files = sorted(DEBIAN.glob(f"simgrid.cpython-{version}-*.so"))
    return bool(files), str(files[0]) if files else None


IS_THERE, MODULE = simgrid_module()
pytestmark = pytest.mark.skipif(not IS_THERE, reason="needs SimGrid (Debian's python3-simgrid)")


def options(tcp):
    return [
        "network/model:CM02",
        f"network/bandwidth-factor:{tcp['bandwidth_factor']}",
        f"network/latency-factor:{tcp['latency_factor']}",
        f"network/weight-S:{tcp['weight_s']}",
        f"network/TCP-gamma:{tcp['gamma'] or 0}",
        f"network/crosstraffic:{int(tcp['cross_traffic'])}",
        *PRECISION,
    ]


class Tree:
    """A random tree: hosts are the nodes with an odd number, switches the others, all links alike or not."""

    def __init__(self, seed, num_hosts, shared, latencies=(1e-5, 1e-4, 5e-3)):
        self.rnd = random.Random(seed)
        self.hosts = [f"h{i}" for i in range(num_hosts)]
        self.switches = [f"s{i}" for i in range(max(1, num_hosts // 3))]
        self.up = {}
        for i, name in enumerate(self.switches[1:], 1):
            self.up[name] = self.rnd.choice(self.switches[:i])
        for name in self.hosts:
            self.up[name] = self.rnd.choice(self.switches)
        self.links = {
            name: (self.rnd.choice([12.5e6, 125e6, 250e6, 1e6 * self.rnd.randint(1, 300)]), self.rnd.choice(latencies),
                   self.rnd.random() < 0.5 if shared is None else shared)
            for name in self.up
        }  # fmt: skip

    def spec(self):
        links = [
            {"src": name, "dst": self.up[name], "bandwidth": f"{8 * bandwidth:.0f} bit/s", "latency": f"{latency!r} s",
             "duplex": "shared" if shared else "full"}
            for name, (bandwidth, latency, shared) in self.links.items()
        ]  # fmt: skip
        return {"kind": "custom", "hosts": self.hosts, "switches": self.switches, "links": links}

    def above(self, name):
        return [name, *self.above(self.up[name])] if name in self.up else []

    def way(self, src, dst):
        ups, downs = self.above(src), self.above(dst)
        return [[link, True] for link in ups if link not in downs] + [
            [link, False] for link in reversed(downs) if link not in ups
        ]

    def flows(self, num, spread):
        pairs = [(a, b) for i, a in enumerate(self.hosts) for b in self.hosts[:i]]
        pairs = self.rnd.sample(pairs, num)
        return [
            [*self.rnd.sample(pair, 2), self.rnd.randint(10_000, 20_000_000), round(self.rnd.uniform(0, spread), 6)]
            for pair in pairs
        ]

    def simgrid(self, flows, settings):
        routes = {tuple(sorted((src, dst))) for src, dst, *_ in flows}
        job = {
            "module": MODULE,
            "options": settings,
            "hosts": self.hosts,
            "links": [[name, *link] for name, link in self.links.items()],
            "routes": [[src, dst, self.way(src, dst)] for src, dst in sorted(routes)],
            "flows": flows,
        }
        ended = subprocess.run(
            [sys.executable, str(PROGRAM)],
            input=json.dumps(job),
            capture_output=True,
            text=True,
            check=True,
            timeout=200,
        )
        line = next(line for line in ended.stdout.splitlines() if line.startswith("ends:"))
        return np.array(json.loads(line.removeprefix("ends:")))


def worst_error(tree, flows, tcp):
    expected = tree.simgrid(flows, options(tcp))
    got = simulate_flows(tree.spec(), [tuple(flow) for flow in flows], tcp=tcp)
    return np.max(np.abs(got - expected) / expected)


LV08 = {"bandwidth_factor": 0.97, "latency_factor": 13.01, "weight_s": 20537, "gamma": 4194304, "cross_traffic": True}
CM02 = {**NO_TCP, "gamma": 4194304, "cross_traffic": True}


@pytest.mark.parametrize("tcp", [NO_TCP, CM02, LV08], ids=["factors 1", "cm02", "lv08"])
@pytest.mark.parametrize(("shared", "seed"), [(False, 1), (True, 2), (None, 3)], ids=["full", "shared", "mixed"])
def test_random_trees_with_435_flows(tcp, shared, seed):
    tree = Tree(seed, 30, shared)
    assert worst_error(tree, tree.flows(435, spread=2.0), tcp) < 1e-6


@pytest.mark.parametrize(("shared", "seed"), [(False, 4), (True, 5), (None, 6)], ids=["full", "shared", "mixed"])
def test_plain_fairness_where_nothing_has_latency(shared, seed):
    tree = Tree(seed, 30, shared, latencies=(0.0,))
    flows = tree.flows(435, spread=2.0)
    got = simulate_flows(tree.spec(), [tuple(flow) for flow in flows], tcp="none")
    assert got == pytest.approx(tree.simgrid(flows, options(NO_TCP)), rel=1e-6)


@pytest.mark.parametrize("tcp", [NO_TCP, LV08], ids=["factors 1", "lv08"])
def test_routes_with_latency_beside_routes_without(tcp):
    tree = Tree(5, 12, None, latencies=(0.0, 1e-4))
    assert worst_error(tree, tree.flows(60, spread=1.0), tcp) < 1e-6


def test_presets_are_the_models_of_those_names():
    tree = Tree(8, 10, None)
    flows = tree.flows(40, spread=1.0)
    for preset, model in (("lv08", "LV08"), ("cm02", "CM02")):
        got = simulate_flows(tree.spec(), [tuple(flow) for flow in flows], tcp=preset)
        assert got == pytest.approx(tree.simgrid(flows, [f"network/model:{model}", *PRECISION]), rel=1e-6)
