"""Measure what starting costs: the command's help, and a scenario until its first step has ended.

The help is a process of its own, its processor time without that of a Python that does nothing. The first step is
that of `ccdc_8nodes` in the simulator, in a process of its own, from its start on: imports, data, compiling, one step.
The cache of compiled programs is warm (a first process fills it).

    python benchmarks/start_up.py [--repeats N]

Prints JSON; seconds, the best of the repeats.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SCENARIO = Path(__file__).parents[1] / "scenarios" / "ccdc_8nodes.yaml"

FIRST_STEP = """
import os, sys
import psgdsim
psgdsim.run(sys.argv[1], out=sys.argv[2], progress=lambda *_args, **_values: os._exit(0))
sys.exit("no step has ended")
"""


def cpu_of(*arguments: str) -> float:
    """Return the processor time of a Python process [s]."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def first_step() -> tuple[float, float]:
    """Return the wall time and the processor time of a process that ends with the scenario's first step [s]."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        cpu = cpu_of("-c", FIRST_STEP, str(SCENARIO), str(Path(folder) / "run"))
        return time.perf_counter() - start, cpu


def main() -> None:
    """Measure and print JSON."""
    from psgdsim.results import versions

    parser = argparse.ArgumentParser(description="Measure what starting costs.")
    parser.add_argument("--repeats", type=int, default=5)
    repeats = range(parser.parse_args().repeats)
    python = min(cpu_of("-c", "pass") for _ in repeats)
    help_s = min(cpu_of("-m", "psgdsim", "--help") for _ in repeats)
    first_step()
    walls, cpus = zip(*[first_step() for _ in repeats], strict=True)
    about = {"cores": os.cpu_count(), "versions": versions()}
    found = {
        "python_cpu_s": python,
        "help_cpu_s": help_s,
        "help_beyond_python_cpu_s": help_s - python,
        "scenario": SCENARIO.name,
        "first_step_wall_s": min(walls),
        "first_step_cpu_s": min(cpus),
    }
    print(json.dumps({**about, "results": found}, indent=2))


if __name__ == "__main__":
    main()
