"""The parameter server against closed forms: time per update, staleness, stability."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

from psgdsim.testing.checks import Check, compare
from psgdsim.testing.schedules import tiny_scenario
from psgdsim.testing.server_times import OrderStatistic, ServerRun, four_errors, run_server
from psgdsim.testing.training import run_scenario

DUTTA: Final = "arXiv 1803.01113"
SIMULATED: Final = 0.005
"""How far off the numbers may be that have no closed form: they come from an independent simulation."""

NUM_UPDATES: Final = 1_200
NUM_GRADIENTS: Final = 5_600


def verify_k_sync() -> Iterator[Check]:
    """An update takes as long as the K-th fastest of N, of which each is independent of the others."""
    for n, k in ((8, 1), (8, 4), (8, 8), (16, 12)):
        law = OrderStatistic(k, n)
        got = run_server(n, NUM_UPDATES * k // n * n, sync="k_sync", k=k)
        yield compare(
            f"k_sync Exp(1) N={n} K={k} [s]", law.mean, got.time, DUTTA, four_errors(law.variation, NUM_UPDATES)
        )
        yield Check(f"k_sync Exp(1) N={n} K={k}, staleness", "0", f"{got.mean:g}", DUTTA)


def verify_k_batch_sync() -> Iterator[Check]:
    """An update takes K gradients by anybody; with Exp(1) that is Erlang's K-th event at rate N."""
    for compute, k, expected, accuracy in (
        ("exponential", 4, 0.5, 0.0),
        ("shifted", 4, 1.631, SIMULATED),
        ("shifted", 8, 2.671, SIMULATED),
    ):
        got = run_server(8, NUM_UPDATES * k, compute, sync="k_batch_sync", k=k)
        # Shifted times vary less than exponential ones.
        tolerance = four_errors(1 / math.sqrt(k), NUM_UPDATES) + accuracy
        yield compare(f"k_batch_sync {compute} N=8 K={k} [s]", expected, got.time, DUTTA, tolerance)


def verify_asynchronous_times() -> Iterator[Check]:
    """K of N at a time that nobody is stopped by; with exponential times, that makes no difference to k_sync."""
    order, updates = OrderStatistic(4, 8), NUM_GRADIENTS // 4
    # Shifted times vary less than exponential ones, half as much by themselves.
    for sync, compute, expected, tolerance in (
        ("k_async", "exponential", order.mean, four_errors(order.variation, updates)),
        ("k_async", "shifted", 1.241, four_errors(order.variation, updates) + SIMULATED),
        ("k_batch_async", "exponential", 0.5, four_errors(1.0, NUM_GRADIENTS)),
        ("k_batch_async", "shifted", 1.0, four_errors(0.5, NUM_GRADIENTS)),
        ("staleness_aware", "shifted", 1.0, four_errors(0.5, NUM_GRADIENTS)),
    ):
        got = run_server(8, NUM_GRADIENTS, compute, sync=sync, k=4)
        yield compare(f"{sync} {compute} N=8 K=4 [s]", expected, got.time, DUTTA, tolerance)


def verify_staleness() -> Iterator[Check]:
    """The mean staleness is a conservation law: it holds however fast workers are.

    What a worker's gradients have seen of updates, each tau + 1 with its own (or its share), adds up to the version of
    the model that it has read last. So the mean is off by what the N workers lack of the last version, N versions each
    on average and twice that where one looks at the end, over the number of gradients; twice as much is let pass.
    """
    num, n = NUM_GRADIENTS, 8
    allowed = 4 * n * n / num
    laws: tuple[tuple[str, dict[str, Any], float], ...] = (
        ("async", {}, n - 1),
        ("k_async", {"k": 4}, n / 4 - 1),
        ("k_async", {"k": 2}, n / 2 - 1),
        ("k_batch_async", {"k": 4}, (n - 1) / 4),
    )
    for sync, parameters, expected in laws:
        for compute in ("exponential", "pareto", "heterogeneous"):
            got = run_server(n, num, compute, sync=sync, **parameters)
            label = " ".join([sync, compute, f"N={n}", *(f"K={k}" for k in parameters.values())])
            yield compare(f"{label}, staleness", expected, got.mean, DUTTA, allowed / expected)


def verify_staleness_distribution() -> Iterator[Check]:
    """Exponential times leave it to chance who is next: geometric. Constant ones make it a round robin."""
    num, n = 24_000, 8
    got = run_server(n, num, sync="async")
    # Neighbours are alike: their errors are twice those of independent ones.
    variation = math.sqrt((1 - 1 / n) / (1 / n))
    yield compare("async Exp(1) N=8, P(staleness 0)", 1 / n, got.share(0), "geometric", 2 * four_errors(variation, num))
    # The kurtosis of a geometric distribution is 9 + p^2 / (1 - p).
    variation = math.sqrt(8 + 1 / (n * n) / (1 - 1 / n))
    tolerance = 2 * four_errors(variation, num)
    yield compare("async Exp(1) N=8, variance of staleness", n * (n - 1), got.variance, "geometric", tolerance)
    late = set(_after_first_round(run_server(n, 800, "constant", sync="async"), n))
    yield Check("async constant N=8, staleness but for the start", "{7}", str(late), "round robin")


def _after_first_round(run: ServerRun, n: int) -> list[int | float]:
    """Return what occurs besides the 0, 1, ..., N - 1 of the first round."""
    return [value for value, count in run.staleness.items() if count > (0 if value >= n else 1)]


def verify_backup() -> Iterator[Check]:
    """The (N - b)-th fastest of N; published for 50 workers that count and b more."""
    num = 6_000
    for backup, expected in enumerate((4.4992, 3.5188, 3.0380, 2.7236, 2.4921, 2.3103)):
        n = 50 + backup
        law = OrderStatistic(50, n)
        got = run_server(n, num // n * n, sync="backup", backup=backup)
        tolerance = four_errors(law.variation, num // 50)
        yield compare(f"backup Exp(1) N=50+{backup} [s]", expected, got.time, "arXiv 1604.00981", tolerance)


def verify_bounded_staleness() -> Iterator[Check]:
    """From the time of the slowest, bound 0, to the mean; relative to that, a clock varies most with bound 0."""
    tolerance = four_errors(OrderStatistic(8, 8).variation, NUM_GRADIENTS // 8) + SIMULATED
    for bound, expected in {0: 2.718, 1: 1.789, 2: 1.511, 4: 1.303, 8: 1.164, 16: 1.077}.items():
        for is_cached in (False, True) if bound == 1 else (False,):
            got = run_server(8, NUM_GRADIENTS, sync="ssp", staleness_bound=bound, cached_reads=is_cached)
            name = f"ssp{' cached' * is_cached} Exp(1) N=8 s={bound} [s per clock]"
            yield compare(name, expected, 8 * got.time, "Ho et al., NIPS 2013", tolerance)


def verify_stability() -> Iterator[Check]:
    """On w^2 / 2 with tau = N - 1, w shrinks up to eta = 2 sin(pi / (2 (2 tau + 1))), and grows beyond."""
    for n in (2, 4, 8):
        limit = 2 * math.sin(math.pi / (2 * (2 * n - 1)))
        ends = [_size_after(n, factor * limit) for factor in (0.95, 1.05)]
        words = ["grows" if size > 1 else "shrinks" for size in ends]
        name = f"async N={n}, 5 % below and above eta={limit:.4f}"
        yield Check(name, "shrinks, grows", ", ".join(words), "w <- w - eta w(t - tau)")


def _size_after(n: int, rate: float) -> float:
    """Return how far from its optimum, 1 at first, a parameter is after 300 steps."""
    scenario = {
        **tiny_scenario({"kind": "parameter_server", "sync": "async"}, n),
        "model": {"kind": "quadratic"},
        "optimizer": {"kind": "sgd", "learning_rate": rate},
        "max_steps": 300,
    }
    return abs(float(run_scenario(scenario).models[0]["weight"][0]))
