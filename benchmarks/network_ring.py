"""Measure one round of a ring all-reduce of 1 MB among thousands of ranks, each of which comes at a time of its own.

A round of N ranks is 2N(N-1) messages. Where no two of them share a link, the simulator computes it as a whole; for
comparison, fewer ranks also message by message. Vectors have sizes, but no numbers: only time is simulated.

    python benchmarks/network_ring.py [--messages RANKS] [RANKS...]

Prints JSON; wall times in seconds per round, the start of the simulation left out.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from typing import Any

NBYTES = 1_000_000
ROUNDS = 3


def measure(ranks: int, *, by_messages: bool) -> dict[str, Any]:
    """Return the time of a round."""
    from psgdsim import collectives
    from psgdsim.testing.programs import sized, time_program
    from psgdsim.topologies import star

    vector, starts, begun = sized(NBYTES), [random.Random(rank).random() for rank in range(ranks)], []

    async def program(node: Any) -> None:
        for i in range(1 if by_messages else ROUNDS):
            await node.sleep(starts[node.rank])
            if not begun:
                begun.append(time.perf_counter())
            if by_messages:
                await collectives.ring_all_reduce(node, vector, tag=f"round {i}")
            else:
                await node.collective(collectives.ring_all_reduce, vector, tag=f"round {i}")

    run = time_program(program, ranks, star(bandwidth=1e10, latency=1e-4))
    wall = (time.perf_counter() - begun[0]) / (1 if by_messages else ROUNDS)
    messages = 2 * ranks * (ranks - 1)
    return {
        "ranks": ranks,
        "way": "messages" if by_messages else "as a whole",
        "messages_per_round": messages,
        "wall_s_per_round": wall,
        "messages_per_s": messages / wall,
        "virtual_s": run.time,
    }


def main() -> None:
    """Measure and print JSON."""
    from psgdsim.results import versions

    parser = argparse.ArgumentParser(description="Measure a ring all-reduce among thousands of ranks.")
    parser.add_argument("ranks", metavar="RANKS", nargs="*", type=int, default=[1024, 4096])
    parser.add_argument("--messages", metavar="RANKS", type=int, default=128, help="how many, message by message")
    arguments = parser.parse_args()
    rows = [measure(arguments.messages, by_messages=True)]
    rows += [measure(ranks, by_messages=False) for ranks in arguments.ranks]
    print(json.dumps({"cores": os.cpu_count(), "versions": versions(), "results": rows}, indent=2))


if __name__ == "__main__":
    main()
