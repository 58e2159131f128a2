"""Measure what simulating costs beyond the arithmetic that it simulates.

For each scenario: the wall time of one simulated step, all ranks together, against the floor, which is the gradients of
the same ranks on the same samples with the same compiled function, one after the other and nothing else, in the same
process. Simulation in `exact` execution cannot beat the floor; what is above it is encoding, summing and applying on
every rank, and the simulator itself.

    python benchmarks/sim_overhead.py [--steps N] [--repeats N] [FILE...]

Prints JSON; times in seconds, medians over the repeats (the floor and the simulation take turns).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SCENARIOS = Path(__file__).parents[1] / "scenarios"
DEFAULT = [SCENARIOS / "plain_8nodes.yaml", SCENARIOS / "ring_8nodes.yaml"]


def simulated_step(experiment: Any) -> float:
    """Return the wall time of one simulated step [s]; compilation, start and evaluation at the end left out."""
    from psgdsim.sim.driver import run_sim

    ends: list[float] = []
    outcome = run_sim(experiment, lambda *_args, **_values: ends.append(time.perf_counter()))
    if outcome.error is not None:
        raise outcome.error
    return (ends[-1] - ends[0]) / (len(ends) - 1)


def floor_step(experiment: Any) -> float:
    """Return the wall time of the gradients of one step of all ranks [s]."""
    import jax

    task, ranks = experiment.task, range(experiment.world_size)
    blocks = task.blocks(experiment.world_size)
    params = task.init.function(0, None).params
    ids = {step: [blocks.ids(step, rank) for rank in ranks] for step in task.steps()}
    start = time.perf_counter()
    for step in task.steps():
        jax.block_until_ready([task.gradients.function([params], [ids[step][rank]]) for rank in ranks])
    return (time.perf_counter() - start) / len(ids)


def measure(path: Path, steps: int, repeats: int) -> dict[str, Any]:
    """Return the times of one scenario."""
    from psgdsim import scenario
    from psgdsim.scenario.experiment import build

    changes = [f"max_steps={steps}", "epochs=null", "evaluate.every=null"]
    experiment = build(scenario.load(path, overrides=changes))
    measures: list[Callable[[Any], float]] = [simulated_step, floor_step]
    for each in measures:
        each(experiment)  # compiles
    simulated, floor = (
        statistics.median(times)
        for times in zip(*([each(experiment) for each in measures] for _ in range(repeats)), strict=True)
    )
    return {
        "scenario": experiment.scenario.name,
        "world_size": experiment.world_size,
        "steps": steps,
        "repeats": repeats,
        "simulated_step_s": simulated,
        "floor_step_s": floor,
        "ratio": simulated / floor,
    }


def main() -> None:
    """Measure the scenarios named on the command line and print JSON."""
    from psgdsim.results import versions

    parser = argparse.ArgumentParser(description="Measure what simulating costs beyond the arithmetic.")
    parser.add_argument("files", metavar="FILE", nargs="*", type=Path, default=DEFAULT)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    rows = [measure(path, arguments.steps, arguments.repeats) for path in arguments.files]
    print(json.dumps({"cores": os.cpu_count(), "versions": versions(), "results": rows}, indent=2))


if __name__ == "__main__":
    main()
