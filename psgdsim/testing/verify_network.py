"""The simulated network against closed forms and published numbers: `psgdsim verify network`."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any, Final

from psgdsim import collectives
from psgdsim.network_model import NetworkModel
from psgdsim.testing.alpha_beta import LAWS, NUM_SERVERS, Program, two_levels
from psgdsim.testing.checks import Check, compare
from psgdsim.testing.programs import ProgramRun, sized, time_program
from psgdsim.testing.verify_sharing import verify_sharing

ALPHA: Final = 50e-6
BANDWIDTH: Final = 1.25e9
"""The setting of the published numbers: 50 us, and 1.25e9 B/s or 10 Gbit/s."""

ALL_REDUCES: Final = list(LAWS)[:6]
"""The laws whose times are published for three sizes."""

SIZES: Final = {"4 kB": 4_000, "400 kB": 400_000, "100 MB": 100_000_000}


def verify_network() -> Iterator[Check]:
    """Compare the simulated network with closed forms: collectives, crossovers, fair sharing, TCP, queueing.

    Collectives are the very programs that strategies run, with messages of so many bytes and no headers.
    """
    yield from _verify_times()
    yield from _verify_bytes()
    yield from _verify_folding()
    yield from _verify_hierarchy()
    yield from _verify_crossovers()
    yield from verify_sharing()


def run_law(name: str, num_ranks: int, nbytes: int) -> ProgramRun:
    """Run a collective of `LAWS` on a star with the published latency and bandwidth.

    Args:
        name: in `LAWS`.
        num_ranks: the law's `p`.
        nbytes: of the vector.
    """
    return _run(LAWS[name].program, num_ranks + NUM_SERVERS.get(name, 0), nbytes)


def _run(program: Program, num_ranks: int, nbytes: int, model: NetworkModel | None = None) -> ProgramRun:
    from psgdsim.topologies import star

    vector, network = sized(nbytes), star(bandwidth=8 * BANDWIDTH, latency=ALPHA)
    return time_program(lambda node: program(node, vector, tag="x"), num_ranks, network, model)


def _verify_times() -> Iterator[Check]:
    for size, nbytes in SIZES.items():
        for name in ALL_REDUCES:
            law = LAWS[name]
            expected = law.time(16, ALPHA, nbytes / BANDWIDTH)
            yield compare(f"{name} N=16 {size} [s]", expected, run_law(name, 16, nbytes).time, law.source)
    for name in [name for name in LAWS if name not in ALL_REDUCES]:
        expected = LAWS[name].time(16, ALPHA, SIZES["400 kB"] / BANDWIDTH)
        got = run_law(name, 16, SIZES["400 kB"]).time
        yield compare(f"{name} N=16 400 kB [s]", expected, got, LAWS[name].source)


def _verify_bytes() -> Iterator[Check]:
    nbytes = SIZES["400 kB"]
    for name, law in LAWS.items():
        got = sum(run_law(name, 16, nbytes).sent)
        yield Check(f"{name} N=16 400 kB [byte]", f"{law.copies(16) * nbytes:.0f}", str(got), law.source)
    for nbytes in (1, 10):
        got = sum(_run(collectives.ring_all_reduce, 7, nbytes).sent)
        yield Check(f"ring all-reduce N=7 {nbytes} B [byte]", str(2 * 6 * nbytes), str(got), "2 (N-1) m")


def _verify_folding() -> Iterator[Check]:
    """Where messages do not feel each other, folding onto 2^k ranks adds exactly 2 (alpha + m/B)."""
    nbytes, ideal = SIZES["400 kB"], NetworkModel(model="ideal")
    for name in ("recursive doubling", "halving and doubling"):
        law = LAWS[name]
        for num_ranks, core in ((6, 4), (11, 8)):
            t = nbytes / BANDWIDTH
            got = _run(law.program, num_ranks, nbytes, ideal)
            label = f"{name} N={num_ranks} 400 kB"
            yield compare(f"{label} [s]", law.time(core, ALPHA, t) + 2 * (ALPHA + t), got.time, law.source)
            copies = law.copies(core) + 2 * (num_ranks - core)
            yield Check(f"{label} [byte]", f"{copies * nbytes:.0f}", str(sum(got.sent)), law.source)


def _verify_hierarchy() -> Iterator[Check]:
    """Groups of q = 4, and G = 4 of them; ten times the latency and a tenth of the bandwidth between groups."""
    q, groups, nbytes = 4, 4, SIZES["400 kB"]
    t1, t2 = nbytes / BANDWIDTH, 10 * nbytes / BANDWIDTH
    a1, a2 = ALPHA, 10 * ALPHA
    network = two_levels(groups, q, (a1, 8 * BANDWIDTH), (a2, 0.8 * BANDWIDTH))
    vector = sized(nbytes)
    lanes = 2 * (q - 1) * (a1 + t1 / q) + 2 * (groups - 1) * (a2 + t2 / (q * groups))
    leaders = 2 * math.log2(q) * (a1 + t1) + 2 * (groups - 1) * (a2 + t2 / groups)
    cases: list[tuple[str, Any, float, str]] = [
        ("hierarchical", collectives.hierarchical_all_reduce, lanes, "arXiv 1811.05233"),
        ("leaders", collectives.leader_all_reduce, leaders, "arXiv 1807.11205"),
    ]
    for name, collective, expected, source in cases:
        program = functools.partial(collective, vector=vector, tag="x", group_size=q)
        got = time_program(program, groups * q, network)
        yield compare(f"{name} 4 groups of 4, 400 kB [s]", expected, got.time, source)
        yield Check(f"{name} 4 groups of 4, 400 kB [byte]", str(30 * nbytes), str(sum(got.sent)), source)


def _verify_crossovers() -> Iterator[Check]:
    alpha_bytes = ALPHA * BANDWIDTH
    for n in (4, 8, 16):
        expected = alpha_bytes * n * (n - 2) / (n * n - n + 1)
        got = crossover("parameter server", "ring all-reduce", n)
        yield compare(f"parameter server = ring N={n} at m [byte]", expected, got, "equal times", 1e-9)
    for n, expected_name in ((26, "ring all-reduce"), (27, "parameter server")):
        names = ("ring all-reduce", "parameter server")
        got_name = min(names, key=lambda name, n=n: run_law(name, n, 60_000).time)  # type: ignore[misc]
        yield Check(f"faster at N={n}, m=60 kB, alpha B=62.5 kB", expected_name, got_name, "equal times")
    for n in (8, 16):
        lg = math.log2(n)
        expected = alpha_bytes * (2 * (n - 1) - lg) / (lg - 2 * (n - 1) / n)
        got = crossover("recursive doubling", "ring all-reduce", n)
        yield compare(f"recursive doubling = ring N={n} at m [byte]", expected, got, "equal times", 1e-9)


def crossover(first: str, second: str, num_ranks: int) -> float:
    """Return the size at which two collectives take the same simulated time [byte].

    Times are linear in the size, so two sizes tell all.

    Args:
        first: in `LAWS`.
        second: likewise.
        num_ranks: the laws' `p`; divides both sizes.
    """
    small, large = 1_000 * num_ranks, 1_000_000 * num_ranks
    ahead = [run_law(first, num_ranks, m).time - run_law(second, num_ranks, m).time for m in (small, large)]
    return small + (large - small) * ahead[0] / (ahead[0] - ahead[1])
