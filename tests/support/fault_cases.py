"""What the tests of faults share: a small scenario, and ways to run programs in it."""

from __future__ import annotations

import numpy as np

from psgdsim.node import Kernel
from psgdsim.scenario import from_dict
from psgdsim.scenario.experiment import build
from psgdsim.sim.driver import Simulation
from psgdsim.strategies.base import Strategy

# A frame of 1,000,000 float32 takes about 4 s; small ones take about 1 ms.
BASE = {
    "name": "faults",
    "seed": 5,
    "world_size": 4,
    "model": {"kind": "quadratic", "dim": 4, "noise": 0.5},
    "data": {"kind": "none"},
    "batch_size": 2,
    "optimizer": {"kind": "sgd", "learning_rate": 0.1},
    "strategy": {"kind": "all_reduce", "algorithm": "ring"},
    "topology": {"kind": "star", "bandwidth": "8 Mbit/s", "latency": "1 ms"},
    "compute": {"kind": "constant", "time": "100 ms"},
    "max_steps": 6,
    "real": {"heartbeat_timeout": "2 s"},
}
BIG = np.zeros(1_000_000, np.float32)
WORK = Kernel("work", lambda: 0, kind="gradient", rows=lambda: 2)


def simulation(program=None, **changes):
    experiment = build(from_dict({**BASE, **changes}))
    if program is not None:
        object.__setattr__(experiment, "strategy", Strategy(program))
    return Simulation(experiment)


def simulate(program=None, **changes):
    return simulation(program, **changes).run()


def only(*programs):
    """Return a program that runs the n-th of some programs on rank n, and nothing on the others."""

    async def worker(node, task):
        if node.rank < len(programs):
            await programs[node.rank](node)

    return worker


def faults_of(outcome):
    return {
        report.rank: [(event.name, event.start, event.end) for event in report.events if event.kind == "fault"]
        for report in outcome.reports
        if any(event.kind == "fault" for event in report.events)
    }
