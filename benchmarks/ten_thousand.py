"""Measure one synchronous round of 10,000 virtual workers, and a few of them: wall time and memory.

A perceptron 784-128-128-10, 32 rows per worker, a parameter server on a star whose links messages share fairly; metrics
on. Gradients take all workers the same time, or each its own (`--compute`). Every run is in a process of its own, and
everything is in its time but loading the data: compiling (`compile_s` of it), simulating, and collecting what happened.

    python benchmarks/ten_thousand.py [--workers 10000] [--rounds 4] [--compute constant|exponential|both]

Prints JSON; wall times in seconds. `later_round_s` is what each round after the first adds. `peak_mb` is the largest
resident memory of the process, of which `data_mb` are the training rows.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from sync_sgd import STRATEGIES, scenario_of

COMPUTE: dict[str, dict[str, Any]] = {
    "constant": {"kind": "constant", "time": "1 ms"},
    "exponential": {"kind": "exponential", "mean": "1 ms"},
}


def run(num_workers: int, rounds: int, compute: str) -> dict[str, float]:
    """Run a scenario; return its times [s] and the memory it took [MB]."""
    from psgdsim import scenario
    from psgdsim.compilation import compile_clock, use_cache_on_disk
    from psgdsim.scenario.experiment import build
    from psgdsim.sim.driver import run_sim

    use_cache_on_disk()
    clock = compile_clock()
    changes = {"compute": COMPUTE[compute]}
    experiment = build(scenario.from_dict(scenario_of(num_workers, STRATEGIES["parameter_server"], rounds) | changes))
    start, compiled_before = time.perf_counter(), clock.seconds
    outcome = run_sim(experiment)
    end = time.perf_counter()
    if outcome.error is not None:
        raise outcome.error
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS, in KiB elsewhere
    return {
        "run_s": end - start,
        "compile_s": clock.seconds - compiled_before,
        "virtual_s": outcome.time,
        "peak_mb": peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6,
        "data_mb": experiment.task.dataset.train_inputs.nbytes / 1e6,
    }


def measure(num_workers: int, rounds: int, compute: str) -> dict[str, Any]:
    """Return the times of one round and of several."""
    first, several = (_in_a_process(num_workers, num, compute) for num in (1, rounds))
    return {
        "workers": num_workers,
        "compute": compute,
        "one_round": first,
        f"{rounds}_rounds": several,
        "later_round_s": (several["run_s"] - first["run_s"]) / (rounds - 1),
    }


def _in_a_process(*arguments: Any) -> dict[str, float]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(run, *arguments).result()


def main() -> None:
    """Measure and print JSON."""
    from psgdsim.results import versions

    parser = argparse.ArgumentParser(description="Measure synchronous rounds of 10,000 virtual workers.")
    parser.add_argument("--workers", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--compute", choices=[*COMPUTE, "both"], default="constant")
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error(f"--rounds: expected at least 2; got {arguments.rounds}")
    kinds = COMPUTE if arguments.compute == "both" else [arguments.compute]
    rows = [measure(arguments.workers, arguments.rounds, kind) for kind in kinds]
    print(json.dumps({"cores": os.cpu_count(), "versions": versions(), "results": rows}, indent=2))


if __name__ == "__main__":
    main()
