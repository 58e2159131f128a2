"""Strategies against closed forms, published numbers and random schedules: `psgdsim verify strategies`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from psgdsim.testing import verify_accuracy as accuracy
from psgdsim.testing import verify_servers as servers
from psgdsim.testing import verify_training as training
from psgdsim.testing.checks import Check
from psgdsim.testing.pair_averages import verify_pairs
from psgdsim.testing.schedules import RandomSchedules
from psgdsim.testing.unlike_squares import verify_lazy
from psgdsim.testing.variants import Variant, built_in_variants

NUM_SCHEDULES: Final = 20
"""Random schedules of each strategy unless another number is asked for."""

NUM_UPDATES: Final = 100_000
"""Gradients that workers compute in the longest runs unless another number is asked for."""


class Sampled(NamedTuple):
    """What is compared with theory but for chance, the less the longer a run is.

    Attributes:
        verify: gradients in each run -> the checks.
        part: of the updates asked for, each run has one in so many: all to 1 %, or to find how they are distributed;
            fewer for means, whose tolerances say how many there were, and for what chance does not touch.
    """

    verify: Callable[[int], Iterator[Check]]
    part: int


SAMPLED: Final[dict[str, Sampled]] = {
    "k_sync": Sampled(servers.verify_k_sync, 8),
    "k_batch_sync": Sampled(servers.verify_k_batch_sync, 8),
    "asynchronous times": Sampled(servers.verify_asynchronous_times, 8),
    "staleness": Sampled(servers.verify_staleness, 16),
    "distribution of staleness": Sampled(servers.verify_staleness_distribution, 1),
    "backup workers": Sampled(servers.verify_backup, 8),
    "bounded staleness": Sampled(servers.verify_bounded_staleness, 1),
}
"""What is compared with theory in runs of a server without learning, by name."""

PARTS: Final[dict[str, Callable[[], Iterator[Check]]]] = {
    "stability": servers.verify_stability,
    "delay compensation": training.verify_delay_compensation,
    "accuracy of stale gradients": accuracy.verify_stale_accuracy,
    "gradient codes": training.verify_gradient_codes,
    "stochastic codes": training.verify_stochastic_codes,
    "when coding pays": training.verify_when_coding_pays,
    "local SGD": training.verify_local_sgd,
    "stationary variance": training.verify_stationary_variance,
    "gossip": training.verify_gossip,
    "averages of pairs": verify_pairs,
    "lazy gradients": verify_lazy,
}
"""What else is compared with theory, by name."""


def verify_strategies(num_schedules: int = NUM_SCHEDULES, num_updates: int = NUM_UPDATES) -> Iterator[Check]:
    """Compare times, staleness and results with theory, then run every strategy through random schedules.

    Args:
        num_schedules: of each strategy.
        num_updates: gradients that workers compute in the longest runs, whose number decides how exact means are.
    """
    for sampled in SAMPLED.values():
        yield from sampled.verify(num_updates // sampled.part)
    for part in PARTS.values():
        yield from part()
    yield from map(functools.partial(check_schedules, num=num_schedules), built_in_variants())


def check_schedules(variant: Variant, num: int) -> Check:
    """Run a strategy through the random schedules of seeds 0, 1, ...; the check names the first that fails.

    Args:
        variant: the strategy.
        num: how many schedules.
    """
    schedules = RandomSchedules.of(variant.spec, variant.world_size)
    failures = list(schedules.failures(range(num)))
    got = f"{len(failures)} failed, first: {failures[0]}" if failures else "0 failed"
    return Check(f"{variant.label}, {num} schedules", "0 failed", got, "psgdsim.testing.schedules")
