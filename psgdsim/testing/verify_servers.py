"""The parameter server against closed forms: time per update, staleness, stability.

`num` is how many gradients, about, workers compute in each run: tolerances are standard errors of so many.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

from psgdsim.testing.checks import Check, compare
from psgdsim.testing.schedules import tiny_scenario
from psgdsim.testing.server_times import OrderStatistic, ServerRun, bounded_time, four_errors, run_server
from psgdsim.testing.training import run_scenario

DUTTA: Final = "arXiv 1803.01113"
SIMULATED: Final = 0.005
"""How far off the numbers may be that have no closed form: they come from an independent simulation."""

TIMES_PER_CLOCK: Final = {0: OrderStatistic(8, 8).mean, 1: 1.7923, 2: 1.5095, 4: 1.2960, 8: 1.1607, 16: 1.0839}
"""What a clock takes of 8 workers with times from Exp(1) [s], by the bound of their staleness.

With 0 it waits for the slowest. The others are means of 256 runs of `bounded_ends`, each of 100,000 clocks after 2,000
to begin with: their standard errors are 0.01 %. Shorter simulations by others have 1.789, 1.511, 1.303, 1.164 and
1.077, each good for 0.5 %; the third and the last one are 0.54 % and 0.64 % off.
"""

ENOUGH: Final = 100_000
"""From so many gradients on, the time per clock must be right to 1 %, about two standard errors of as many."""


def verify_k_sync(num: int) -> Iterator[Check]:
    """An update takes as long as the K-th fastest of N, of which each is independent of the others."""
    for n, k in ((8, 1), (8, 4), (8, 8), (16, 12)):
        law, updates = OrderStatistic(k, n), num // n
        got = run_server(n, updates * k // n * n, sync="k_sync", k=k)
        yield compare(f"k_sync Exp(1) N={n} K={k} [s]", law.mean, got.time, DUTTA, four_errors(law.variation, updates))
        yield Check(f"k_sync Exp(1) N={n} K={k}, staleness", "0", f"{got.mean:g}", DUTTA)


def verify_k_batch_sync(num: int) -> Iterator[Check]:
    """An update takes K gradients by anybody; with Exp(1) that is Erlang's K-th event at rate N."""
    updates = num // 8
    for compute, k, expected, accuracy in (
        ("exponential", 4, 0.5, 0.0),
        ("shifted", 4, 1.631, SIMULATED),
        ("shifted", 8, 2.671, SIMULATED),
    ):
        got = run_server(8, updates * k // 8 * 8, compute, sync="k_batch_sync", k=k)
        # Shifted times vary less than exponential ones.
        tolerance = four_errors(1 / math.sqrt(k), updates) + accuracy
        yield compare(f"k_batch_sync {compute} N=8 K={k} [s]", expected, got.time, DUTTA, tolerance)


def verify_asynchronous_times(num: int) -> Iterator[Check]:
    """K of N at a time that nobody is stopped by; with exponential times, that makes no difference to k_sync."""
    order, updates = OrderStatistic(4, 8), num // 4
    # Shifted times vary less than exponential ones, half as much by themselves.
    for sync, compute, expected, tolerance in (
        ("k_async", "exponential", order.mean, four_errors(order.variation, updates)),
        ("k_async", "shifted", 1.241, four_errors(order.variation, updates) + SIMULATED),
        ("k_batch_async", "exponential", 0.5, four_errors(1.0, num)),
        ("k_batch_async", "shifted", 1.0, four_errors(0.5, num)),
        ("staleness_aware", "shifted", 1.0, four_errors(0.5, num)),
    ):
        got = run_server(8, num // 8 * 8, compute, sync=sync, k=4)
        yield compare(f"{sync} {compute} N=8 K=4 [s]", expected, got.time, DUTTA, tolerance)


def verify_staleness(num: int) -> Iterator[Check]:
    """The mean staleness is a conservation law: it holds however fast workers are.

    What a worker's gradients have seen of updates, each tau + 1 with its own (or its share), adds up to the version of
    the model that it has read last. So the mean is off by what the N workers lack of the last version, N versions each
    on average and twice that where one looks at the end, over the number of gradients; twice as much is let pass.
    """
    n = 8
    allowed = 4 * n * n / num
    laws: tuple[tuple[str, dict[str, Any], float], ...] = (
        ("async", {}, n - 1),
        ("k_async", {"k": 4}, n / 4 - 1),
        ("k_async", {"k": 2}, n / 2 - 1),
        ("k_batch_async", {"k": 4}, (n - 1) / 4),
    )
    for sync, parameters, expected in laws:
        for compute in ("exponential", "pareto", "heterogeneous"):
            got = run_server(n, num // n * n, compute, sync=sync, **parameters)
            label = " ".join([sync, compute, f"N={n}", *(f"K={k}" for k in parameters.values())])
            yield compare(f"{label}, staleness", expected, got.mean, DUTTA, allowed / expected)


def verify_staleness_distribution(num: int) -> Iterator[Check]:
    """Exponential times leave it to chance who is next: geometric. Constant ones make it a round robin."""
    n = 8
    got = run_server(n, num // n * n, sync="async")
    yield compare("async Exp(1) N=8 [s]", 1 / n, got.time, "Poisson", four_errors(1.0, num))
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


def verify_backup(num: int) -> Iterator[Check]:
    """The (N - b)-th fastest of N; published for 50 workers that count and b more."""
    for backup, expected in enumerate((4.4992, 3.5188, 3.0380, 2.7236, 2.4921, 2.3103)):
        n = 50 + backup
        law = OrderStatistic(50, n)
        got = run_server(n, num // n * n, sync="backup", backup=backup)
        tolerance = four_errors(law.variation, num // 50)
        yield compare(f"backup Exp(1) N=50+{backup} [s]", expected, got.time, "arXiv 1604.00981", tolerance)


def verify_bounded_staleness(num: int) -> Iterator[Check]:
    """From the time of the slowest, bound 0, to the mean; and exactly what a loop finds with the same times."""
    n, gradients = 8, num // 8 * 8
    tolerance = 0.01 if num >= ENOUGH else four_errors(OrderStatistic(n, n).variation, num // n)
    for bound, expected in TIMES_PER_CLOCK.items():
        got = n * run_server(n, gradients, sync="ssp", staleness_bound=bound).time
        name = f"ssp Exp(1) N={n} s={bound} [s per clock]"
        yield compare(name, expected, got, "Ho et al., NIPS 2013", tolerance)
        yield compare(f"{name}, these times", n * bounded_time(n, gradients, bound), got, "loop over clocks")
    few = gradients // 16 // n * n
    cached = run_server(n, few, sync="ssp", staleness_bound=1, cached_reads=True).time
    name = f"ssp cached Exp(1) N={n} s=1 [s per clock], these times"
    yield compare(name, n * bounded_time(n, few, 1), n * cached, "loop over clocks")


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
