"""Measure what an asynchronous update costs in simulation, against a `lax.scan` over a known order of arrival.

An asynchronous parameter server with real messages and metrics, execution `batched`. In the same process: the floor (a
scan over updates whose order is known beforehand; see `execution_floors.py`), and two plain ways to write it, a SimPy
process per worker that calls jitted functions as it goes (see `simpy_floors.py`): `bare`, without messages and records,
and `plain`, with a server, a link that messages cross one after the other, and a record of each update. The last row is
a model of 650 parameters.

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


def measure(num: int, sizes: tuple[int, ...], num_updates: int) -> dict[str, Any]:
    """Return the times for a number of workers."""
    from execution_floors import update_time
    from simpy_floors import Bare, Plain

    floor = update_time(num, sizes=sizes)
    simulated = simulated_update(num, num_updates, is_small=sizes == SMALL)
    bare, plain = (each(num, sizes).update_time(4000) for each in (Bare, Plain))
    return {
        "workers": num,
        "layers": sizes,
        "floor_s": floor,
        "update_s": simulated,
        "bare_simpy_s": bare,
        "plain_simpy_s": plain,
        "ratio": simulated / floor,
        "times_as_fast_as_bare_simpy": bare / simulated,
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
