"""Measure what a synchronous round costs in simulation, against the pure arithmetic of its gradients.

Parameter server (bsp) and all-reduce (ring) with real messages per node and metrics on, execution `batched`; the floor,
in the same process, is the best of: `vmap` over per-node gradients with a matmul mean, the same in chunks, and a `scan`
with a running mean (see `execution_floors.py`).

    python benchmarks/sync_sgd.py [--workers 8,64,512]

Prints JSON; wall times in seconds. Compiling is not in them.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Any

NUM_PAIRS = 2
"""Of runs; the quickest of each length count."""

STRATEGIES: dict[str, dict[str, Any]] = {
    "parameter_server": {"kind": "parameter_server", "sync": "bsp"},
    "all_reduce": {"kind": "all_reduce", "algorithm": "ring"},
}


def scenario_of(num_workers: int, strategy: dict[str, Any], steps: int) -> dict[str, Any]:
    """Return a scenario: the floor's model and batch on a star."""
    return {
        "name": "sync",
        "world_size": num_workers,
        "batch_size": 32,
        "max_steps": steps,
        "model": {"kind": "mlp", "hidden": [128, 128], "activation": "tanh"},
        "data": {
            "kind": "synthetic_classification",
            "num_samples": max(10_000, 32 * num_workers),
            "num_features": 784,
            "num_classes": 10,
        },
        "optimizer": {"kind": "sgd", "learning_rate": 0.05},
        "strategy": strategy,
        "topology": {"kind": "star", "bandwidth": "10 Gbit/s", "latency": "50 us"},
        "compute": {"kind": "constant", "time": "1 ms"},
        "evaluate": {"every": None},
        "execution": "batched",
        "trace": "steps",
    }


def round_time(num_workers: int, strategy: dict[str, Any], steps: int, **changes: Any) -> float:
    """Return the wall time of a round [s]: by how much a run of twice as many steps takes longer, over `steps`.

    So whatever a run has put off, or handed to jax, when its last step ends is part of its cost, and so are its
    records. `changes` are other keys of the scenario.
    """
    run_time(num_workers, strategy, steps, **changes)  # compiles
    pairs = [[run_time(num_workers, strategy, num, **changes) for num in (steps, 2 * steps)] for _ in range(NUM_PAIRS)]
    short, long = map(min, zip(*pairs, strict=True))
    return (long - short) / steps


def run_time(num_workers: int, strategy: dict[str, Any], steps: int, **changes: Any) -> float:
    """Return the wall time of a run [s]."""
    from psgdsim import scenario
    from psgdsim.scenario.experiment import build
    from psgdsim.sim.driver import run_sim

    experiment = build(scenario.from_dict({**scenario_of(num_workers, strategy, steps), **changes}))
    start = time.perf_counter()
    outcome = run_sim(experiment)
    if outcome.error is not None:
        raise outcome.error
    return time.perf_counter() - start


def num_steps(num_workers: int) -> int:
    """Return how many rounds the shorter of two runs has: about as many gradients, whatever the number of workers.

    Of shards of 32 rows, the order is drawn for 8 rounds at a time: both runs have whole draws.
    """
    return max(16, 10_400 // num_workers // 8 * 8)


def main() -> None:
    """Measure and print JSON."""
    from execution_floors import round_times

    from psgdsim.compilation import use_cache_on_disk
    from psgdsim.results import versions

    parser = argparse.ArgumentParser(description="Measure simulated synchronous SGD against its gradients.")
    parser.add_argument("--workers", default="8,64,512")
    use_cache_on_disk()
    rows = []
    for num in map(int, parser.parse_args().workers.split(",")):
        floors = round_times(num)
        times = {name: round_time(num, strategy, num_steps(num)) for name, strategy in STRATEGIES.items()}
        again = round_times(num)
        floors = {name: min(each, again[name]) for name, each in floors.items()}
        floor = min(floors.values())
        ratios = {name: each / floor for name, each in times.items()}
        rows.append({"workers": num, "floors_s": floors, "round_s": times, "ratio": ratios})
    print(json.dumps({"cores": os.cpu_count(), "versions": versions(), "results": rows}, indent=2))


if __name__ == "__main__":
    main()
