"""Machines that are slow now and then, always, or for a while."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from psgdsim.compute_times.base import ComputeTime, Draw, Probability, register_compute_time
from psgdsim.units import Duration

if TYPE_CHECKING:
    import numpy as np

Rank = Annotated[int, Field(ge=0)]
Change = Annotated[float, Field(gt=0, le=1)]


@register_compute_time("bernoulli_slowdown")
def bernoulli_slowdown(time: Duration, delay: Duration, probability: Probability) -> ComputeTime:
    """Be delayed now and then, in clusters by up to 8 times the median (Ananthanarayanan et al., OSDI 2010, NSDI 2013).

    Each computation is delayed with the same probability, independently of all others. The delay does not depend on
    the load; the rest of the time is proportional to it.

    Args:
        time: the time of one batch without delay.
        delay: what comes on top.
        probability: how often.
    """

    def start(_rank: int, rng: np.random.Generator) -> Draw:
        return lambda _now, load: time * load + (delay if rng.random() < probability else 0.0)

    return ComputeTime(start, time + probability * delay)


@register_compute_time("fixed_slow_set")
def fixed_slow_set(
    time: Duration, delay: Duration, ranks: Annotated[Sequence[Rank], Field(max_length=100_000)]
) -> ComputeTime:
    """Delay the same ranks in every computation (Tandon et al., ICML 2017, arXiv 1612.03301).

    The delay does not depend on the load; the rest of the time is proportional to it.

    Args:
        time: the time of one batch without delay.
        delay: what comes on top for the slow ranks.
        ranks: the slow ranks.

    Note:
        `mean` is that of a rank that is not slow.
    """
    slow = frozenset(ranks)

    def start(rank: int, _rng: np.random.Generator) -> Draw:
        extra = delay if rank in slow else 0.0
        return lambda _now, load: time * load + extra

    return ComputeTime(start, time, ranks=tuple(sorted(slow)))


@register_compute_time("markov")
def markov(fast: Duration, slow: Duration, to_slow: Change, to_fast: Change) -> ComputeTime:
    """Switch between a fast and a slow state after each computation, so that slow spells last (Gilbert, BSTJ 1960).

    A rank begins slow with the share of time that it is slow in the long run, `to_slow / (to_slow + to_fast)`; a slow
    spell lasts `1 / to_fast` computations on average. Times are proportional to the load.

    Args:
        fast: the time of one batch in the fast state.
        slow: the time of one batch in the slow state.
        to_slow: the probability of becoming slow after a computation in the fast state.
        to_fast: the probability of becoming fast after a computation in the slow state.
    """
    slow_share = to_slow / (to_slow + to_fast)

    def start(_rank: int, rng: np.random.Generator) -> Draw:
        is_slow = bool(rng.random() < slow_share)

        def draw(_now: float, load: float) -> float:
            nonlocal is_slow
            time = float(slow if is_slow else fast) * load
            has_changed = rng.random() < (to_fast if is_slow else to_slow)
            is_slow = is_slow != has_changed
            return time

        return draw

    return ComputeTime(start, slow_share * slow + (1 - slow_share) * fast)
