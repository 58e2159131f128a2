"""Measure what an asynchronous update costs in simulation, against a `lax.scan` over a known order of arrival.

An asynchronous parameter server with real messages and metrics, execution `batched`. In the same process: the floor (a
scan over updates whose order is known beforehand; see `execution_floors.py`), and the plain way to write it, a SimPy
process per worker that calls jitted functions as it goes. The last row is a model of 650 parameters.

    python benchmarks/async_sgd.py [--workers 8,64,512]

Prints JSON; wall times in seconds. Compiling is not in them.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Any

from sync_sgd import scenario_of

SMALL = (64, 10)


def simulated_update(num_workers: int, num_updates: int, *, is_small: bool = False) -> float:
    """Return the wall time of an update [s]: by how much a run twice as long takes longer, with all that it put off."""
    from psgdsim import scenario
    from psgdsim.scenario.experiment import build
    from psgdsim.sim.driver import run_sim

    num_steps = max(8, num_updates // num_workers)
    spec = scenario_of(num_workers, {"kind": "parameter_server", "sync": "async"}, num_steps)
    spec["compute"] = {"kind": "exponential", "mean": "1 ms"}
    if is_small:
        spec["model"] = {"kind": "softmax_regression"}
        spec["data"]["num_features"] = SMALL[0]
    times = []
    for _ in range(3):  # compiles, and then a short and a long run
        spec["max_steps"] = num_steps * (2 if len(times) == 2 else 1)
        experiment = build(scenario.from_dict(spec))
        start = time.perf_counter()
        outcome = run_sim(experiment)
        times.append(time.perf_counter() - start)
        if outcome.error is not None:
            raise outcome.error
    return (times[2] - times[1]) / num_steps / num_workers


def plain_update(num_workers: int, num_updates: int, sizes: tuple[int, ...]) -> float:
    """Return the same of a SimPy process per worker that calls jitted functions as it goes."""
    import jax
    import numpy as np
    import simpy
    from execution_floors import RATE, ROWS, data, gradient, init

    inputs, targets = data(features=sizes[0])
    compute = jax.jit(gradient)
    apply = jax.jit(lambda params, one: jax.tree.map(lambda p, g: p - RATE * g, params, one))
    generator = np.random.default_rng(1)
    env, state, losses = simpy.Environment(), {"params": init(sizes)}, []

    def worker() -> Any:
        while True:
            params = state["params"]
            yield env.timeout(generator.exponential(1e-3))
            loss, one = compute(params, inputs, targets, generator.integers(0, 10_000, ROWS))
            state["params"] = apply(state["params"], one)
            losses.append(loss)
            yield env.timeout(2e-4)

    for _ in range(num_workers):
        env.process(worker())
    start = 0.0
    while len(losses) < num_updates:
        env.step()
        if len(losses) == num_updates // 2 and not start:
            jax.block_until_ready(state["params"])
            start = time.perf_counter()
    jax.block_until_ready(state["params"])
    return (time.perf_counter() - start) / (num_updates - num_updates // 2)


def measure(num: int, sizes: tuple[int, ...], num_updates: int) -> dict[str, Any]:
    """Return the times for a number of workers."""
    from execution_floors import update_time

    floor = update_time(num, sizes=sizes)
    simulated = simulated_update(num, num_updates, is_small=sizes == SMALL)
    plain = plain_update(num, min(num_updates, 2000), sizes)
    return {
        "workers": num,
        "layers": sizes,
        "floor_s": floor,
        "update_s": simulated,
        "plain_simpy_s": plain,
        "ratio": simulated / floor,
        "times_as_fast_as_plain_simpy": plain / simulated,
        "updates_per_s": 1 / simulated,
    }


def main() -> None:
    """Measure and print JSON."""
    from execution_floors import SIZES

    from psgdsim.compilation import use_cache_on_disk
    from psgdsim.results import versions

    parser = argparse.ArgumentParser(description="Measure simulated asynchronous SGD against a scan.")
    parser.add_argument("--workers", default="8,64,512")
    use_cache_on_disk()
    rows = [measure(num, SIZES, 32_768) for num in map(int, parser.parse_args().workers.split(","))]
    rows.append(measure(64, SMALL, 65_536))
    print(json.dumps({"cores": os.cpu_count(), "versions": versions(), "results": rows}, indent=2))


if __name__ == "__main__":
    main()
