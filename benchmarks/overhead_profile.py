"""Find out where the time of a simulated round goes beyond its gradients.

Synchronous SGD of 512 workers with a parameter server and with a ring all-reduce, and a model so small that its
arithmetic takes no time to speak of. Three runs of each, all without their first quarter, in which much is compiled:
one for the time of a worker's round, one that counts what happens in it, and one in which a timer looks every
millisecond of processor time where the main thread is. What that finds is shared out over parts of the code by the
innermost function of psgdsim, or as `running batches` while calls that were put off are run.

    python benchmarks/overhead_profile.py [--workers 512] [--rounds 60]

Prints JSON: microseconds and counts per worker and round; `each_us` is what one message costs (network and messages
together), one kernel call (noting it down), one flush (running its batches) and one event (the loop and what
coroutines it wakes). Workers are carried on as one: a wave is one message of each of them, and an event, a call or a
flush is mostly one for all. A ring is simulated as a whole, so that it has no messages.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any
from unittest import mock

from sync_sgd import STRATEGIES, scenario_of

TINY: dict[str, Any] = {"model": {"kind": "mlp", "hidden": [2], "activation": "tanh"}, "batch_size": 1}
PERIOD = 0.001
"""Between two looks [s of processor time]."""

NETWORK, MESSAGES, PROGRAMS = "network", "mailbox and messages", "programs"
NOTING, RUNNING = "execution: noting down", "execution: running batches"
STEPS, EVENTS, OTHERS = "log and steps", "events", "others"

PARTS: dict[str, str] = {
    "sim/node.py compute": EVENTS,
    "sim/node.py checkpoint": STEPS,
    "sim/node.py end_step": STEPS,
    "sim/node.py _close": STEPS,
    "sim/node.py record": STEPS,
    "sim/node.py": MESSAGES,
    **dict.fromkeys([f"sim/lockstep.py {name}" for name in ("checkpoint", "end_step", "record", "reports")], STEPS),
    "sim/lockstep.py compute": EVENTS,
    **dict.fromkeys(("sim/lockstep.py", "sim/wave.py"), MESSAGES),
    "sim/coroutines.py put": MESSAGES,
    "sim/coroutines.py take": MESSAGES,
    "sim/coroutines.py expect": MESSAGES,
    "sim/coroutines.py": EVENTS,
    "sim/driver.py deliver": MESSAGES,
    "sim/driver.py checkpoint": STEPS,
    "sim/driver.py evaluate": STEPS,
    "sim/driver.py": EVENTS,
    **dict.fromkeys(("mailbox.py", "node.py", "wire/", "sim/post.py", "sim/sizes.py"), MESSAGES),
    **dict.fromkeys(
        ("strategies/", "collectives/", "task.py", "coding.py", "schedule.py", "data/", "per_rank.py"), PROGRAMS
    ),
    **dict.fromkeys(("sim/execution/", "sim/values.py", "sim/verdicts.py"), NOTING),
    **dict.fromkeys(("trace.py", "sim/step_ends.py", "sim/last_loss.py", "sim/evaluations.py", "sim/faults.py"), STEPS),
    **dict.fromkeys(("sim/clock.py", "sim/processor.py", "sim/kernel_times.py", "compute_times/"), EVENTS),
    "sim/": NETWORK,
}
"""What a function belongs to: the first entry that its file, and then its name, begin with."""

FLUSHES = {f"sim/execution/batched.py {name}" for name in ("flush", "finish", "_run_older")}
"""The functions within which batches are run."""


def run(strategy: dict[str, Any], num_workers: int, rounds: int, at_mark: Callable[[int], None]) -> float:
    """Run a scenario; return the time of a worker's round after the first quarter [s].

    Args:
        strategy: the strategy.
        num_workers: the number of workers.
        rounds: how many rounds.
        at_mark: called with 1 when the first quarter is over, and with 0 at the end.
    """
    from psgdsim import scenario
    from psgdsim.scenario.experiment import build
    from psgdsim.sim.driver import run_sim

    small = scenario_of(num_workers, strategy, rounds) | TINY
    small["data"] = {**small["data"], "num_features": 4}
    first, ends = rounds // 4, list[float]()

    def note(*_: Any) -> None:
        ends.append(time.perf_counter())
        if len(ends) in (first, rounds):
            at_mark(int(len(ends) == first))

    outcome = run_sim(build(scenario.from_dict(small)), note)
    if outcome.error is not None:
        raise outcome.error
    return (ends[-1] - ends[first - 1]) / (rounds - first) / num_workers


# --- counting ---------------------------------------------------------------------------------------------------------


@contextmanager
def counting(counts: Counter[str]) -> Iterator[None]:
    """Count what happens while a block runs."""
    from psgdsim.sim.clock import Clock
    from psgdsim.sim.execution.batched import Batched
    from psgdsim.sim.execution.compiled import Compiled
    from psgdsim.sim.execution.waves import Runner
    from psgdsim.sim.network import Network
    from psgdsim.sim.post import Post

    def counted(name: str, method: Callable[..., Any], rows: str = "") -> Callable[..., Any]:
        def call(owner: Any, *arguments: Any, **keywords: Any) -> Any:
            counts[name] += 1
            if rows:
                counts[rows] += len(arguments[0])
            return method(owner, *arguments, **keywords)

        return call

    whats = [
        (Clock, "step", "events", ""),
        (Post, "send", "messages", ""),
        (Network, "send_many", "waves", "messages"),
        (Batched, "call", "kernel calls", ""),
        (Runner, "run", "flushes", "rows"),
        (Compiled, "call", "compiled calls", ""),
    ]
    with ExitStack() as stack:
        for owner, method, name, rows in whats:
            stack.enter_context(mock.patch.object(owner, method, counted(name, getattr(owner, method), rows)))
        yield


def count(strategy: dict[str, Any], num_workers: int, rounds: int) -> dict[str, float]:
    """Return how often things happen in a worker's round."""
    counts, before = Counter[str](), Counter[str]()

    def at_mark(begins: int) -> None:
        if begins:
            before.update(counts)
        else:
            counts.subtract(before)

    with counting(counts):
        run(strategy, num_workers, rounds, at_mark)
    return {name: number / num_workers / (rounds - rounds // 4) for name, number in counts.items()}


# --- looking where the time goes --------------------------------------------------------------------------------------


def part_of(frame: FrameType | None) -> str:
    """Return the part of the code that a frame belongs to."""
    part = OTHERS
    while frame is not None:
        _, found, file = frame.f_code.co_filename.replace(os.sep, "/").rpartition("/psgdsim/")
        if found:
            where = f"{file} {frame.f_code.co_name}"
            if where in FLUSHES:
                return RUNNING
            if part == OTHERS:
                part = next((name for start, name in PARTS.items() if where.startswith(start)), OTHERS)
        frame = frame.f_back
    return part


class Sampler:
    """Look where the main thread is, time and again.

    Attributes:
        seconds: how long it was in each part; each look counts for the time since the one before, for while compiled
            code runs nobody can look.
    """

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._last = 0.0

    def at_mark(self, begins: int) -> None:
        """Begin or end."""
        self._last = time.perf_counter()
        if begins:
            signal.signal(signal.SIGPROF, self._look)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGPROF])
        signal.setitimer(signal.ITIMER_PROF, *(2 * [PERIOD * begins]))

    def _look(self, _signum: int, frame: FrameType | None) -> None:
        now = time.perf_counter()
        self.seconds[part_of(frame)] += now - self._last  # type: ignore[assignment]
        self._last = time.perf_counter()


def profile(strategy: dict[str, Any], num_workers: int, rounds: int) -> dict[str, float]:
    """Return the share of each part in the main thread's time."""
    sampler = Sampler()
    run(strategy, num_workers, rounds, sampler.at_mark)
    total = sum(sampler.seconds.values())
    return {name: seconds / total for name, seconds in sampler.seconds.most_common()}


def measure(name: str, num_workers: int, rounds: int) -> dict[str, Any]:
    """Return where the time of one strategy goes."""
    strategy = STRATEGIES[name]
    counts = count(strategy, num_workers, rounds)  # the first run also compiles
    total = 1e6 * run(strategy, num_workers, rounds, lambda _: None)
    parts = {part: total * share for part, share in profile(strategy, num_workers, rounds).items()}
    costs = {
        "messages": parts.get(NETWORK, 0.0) + parts.get(MESSAGES, 0.0),
        "kernel calls": parts.get(NOTING, 0.0),
        "flushes": parts.get(RUNNING, 0.0),
        "events": parts.get(EVENTS, 0.0),
    }
    each = {what: cost / counts[what] for what, cost in costs.items() if counts.get(what)}
    return {
        "strategy": name,
        "workers": num_workers,
        "rounds": rounds,
        "worker_round_us": total,
        "counts": counts,
        "parts_us": parts,
        "each_us": each,
    }


def main() -> None:
    """Measure and print JSON."""
    # Threads that are started from here on do not take the timer's signal: the main thread is to look.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPROF])
    from psgdsim.compilation import use_cache_on_disk
    from psgdsim.results import versions

    parser = argparse.ArgumentParser(description="Find out where the time of a simulated round goes.")
    parser.add_argument("--workers", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=60)
    arguments = parser.parse_args()
    use_cache_on_disk()
    rows = [measure(name, arguments.workers, arguments.rounds) for name in STRATEGIES]
    print(json.dumps({"cores": os.cpu_count(), "versions": versions(), "results": rows}, indent=2))


if __name__ == "__main__":
    main()
