"""The loop over clocks that bounded staleness is held against: the rule by its events, and what it takes on average."""

from __future__ import annotations

import heapq

import numpy as np
import pytest

from psgdsim.testing.server_times import bounded_ends, bounded_time
from psgdsim.testing.verify_servers import TIMES_PER_CLOCK


def ends_by_events(times, bound):
    """Return when each computation ends: who has pushed waits, and may go on when somebody else has."""
    num_clocks, num = times.shape
    counts, ends, waiting = [0] * num, np.full(times.shape, np.nan), []
    queue = [(times[0, worker], worker) for worker in range(num)]
    heapq.heapify(queue)
    while queue:
        now, worker = heapq.heappop(queue)
        ends[counts[worker], worker] = now
        counts[worker] += 1
        waiting.append(worker)
        for each in [each for each in waiting if counts[each] - min(counts) <= bound]:
            waiting.remove(each)
            if counts[each] < num_clocks:
                heapq.heappush(queue, (now + times[counts[each], each], each))
    return ends


@pytest.mark.parametrize("bound", [0, 1, 3, 50])
@pytest.mark.parametrize("num", [1, 2, 5])
def test_the_loop_is_the_rule(num, bound):
    times = np.random.default_rng(num).pareto(1.5, (40, num))
    np.testing.assert_allclose(bounded_ends(times, bound), ends_by_events(times, bound), rtol=1e-12)


@pytest.mark.parametrize("bound", TIMES_PER_CLOCK)
def test_a_clock_takes_as_long_as_the_table_says(bound):
    # 64 runs of 3,500 clocks: the standard error is 0.1 %.
    times = np.random.default_rng(7).exponential(size=(4_000, 64, 8))
    slowest = bounded_ends(times, bound).max(axis=-1)
    per_clock = (slowest[-1] - slowest[499]) / 3_500
    assert per_clock.std() / 8 < 0.0015 * TIMES_PER_CLOCK[bound]
    assert per_clock.mean() == pytest.approx(TIMES_PER_CLOCK[bound], rel=0.004)


def test_no_bound_takes_the_mean_of_all_times():
    assert 8 * bounded_time(8, 80_000, 10_000) == pytest.approx(1.0, abs=4 / np.sqrt(80_000))
