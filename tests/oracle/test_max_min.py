"""Max-min fair rates against hand calculations, and against linear programs that know nothing of filling."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.optimize import linprog

from psgdsim.sim.sharing import few_levels, maxmin


@dataclass
class Load:
    links: tuple[int, ...]
    weights: tuple[float, ...]
    ceiling: float


def few(capacities, routes, penalties, bounds):
    """The rates by the way without numpy."""
    loads = [
        Load(tuple(route), tuple(each / penalty for each in route.values()), bound * penalty)
        for route, penalty, bound in zip(routes, penalties, bounds, strict=True)
    ]
    return [level / penalty for level, penalty in zip(few_levels(loads, capacities), penalties, strict=True)]


def test_flows_on_one_link_get_equal_shares():
    assert list(maxmin([10.0], [[0]] * 5)) == [2.0] * 5


def test_two_links_and_a_flow_over_both():
    # A on L1 (capacity 1), B on L2 (capacity 2), C on both: A = C = 1/2, B = 3/2.
    assert list(maxmin([1.0, 2.0], [[0], [1], [0, 1]])) == [0.5, 1.5, 0.5]


def test_shares_are_in_inverse_proportion_to_penalties():
    assert list(maxmin([6.0], [[0], [0], [0]], penalties=[1.0, 2.0, 0.5])) == pytest.approx([12 / 7, 6 / 7, 24 / 7])


def test_a_bound_leaves_the_rest_to_the_others():
    assert list(maxmin([9.0], [[0], [0], [0]], bounds=[1.0, math.inf, math.inf])) == [1.0, 4.0, 4.0]


def test_acknowledgements_take_five_per_cent_of_the_way_back():
    # Two opposite flows on a full-duplex link: each B / 1.05. One flow on a link that both directions share: the same.
    assert list(maxmin([1.0, 1.0], [{0: 1.0, 1: 0.05}, {1: 1.0, 0: 0.05}])) == pytest.approx([1 / 1.05] * 2)
    assert list(maxmin([1.0], [{0: 1.05}])) == pytest.approx([1 / 1.05])


def test_a_flow_that_nothing_limits():
    assert list(maxmin([math.inf, 1.0], [[0], [1], []])) == [math.inf, 1.0, math.inf]


def test_a_link_without_capacity_stops_its_flows_alone():
    assert list(maxmin([0.0, 4.0], [[0], [1], [0, 1]])) == [0.0, 4.0, 0.0]


def random_case(seed):
    """Links, routes with coefficients, penalties and bounds; many ties, for ties are what goes wrong."""
    rnd = random.Random(seed)
    num_links, num_flows = rnd.randint(1, 6), rnd.randint(1, 6)
    capacities = [rnd.choice([1.0, 2.0, 3.0, rnd.uniform(0.1, 5)]) for _ in range(num_links)]
    is_weighted = seed % 2
    routes = [
        {
            link: rnd.choice([1.0, 1.05, 0.05]) if is_weighted else 1.0
            for link in rnd.sample(range(num_links), rnd.randint(1, min(3, num_links)))
        }
        for _ in range(num_flows)
    ]
    penalties = [rnd.choice([1.0, 2.0, rnd.uniform(0.1, 3)]) if is_weighted else 1.0 for _ in range(num_flows)]
    bounds = [rnd.choice([math.inf, rnd.uniform(0.05, 2)]) if is_weighted else math.inf for _ in range(num_flows)]
    return capacities, routes, penalties, bounds


def lexicographic(capacities, routes, penalties, bounds):
    """The max-min fair rates by definition: raise the lowest level as far as it goes, fix who cannot rise, repeat."""
    num = len(routes)
    usage = np.array([[route.get(link, 0.0) for route in routes] for link in range(len(capacities))])
    penalty = np.array(penalties)
    fixed: dict[int, float] = {}

    def solve(objective, floor):
        """Maximise over rates and the common level (the last variable) of the flows that are not fixed."""
        rows, limits = [np.append(row, 0.0) for row in usage], list(capacities)
        for flow in set(range(num)) - set(fixed):
            row = np.zeros(num + 1)
            row[flow], row[-1] = -penalty[flow], 1.0
            rows, limits = [*rows, row], [*limits, 0.0]
        box = [(fixed[i],) * 2 if i in fixed else (0, None if math.isinf(bounds[i]) else bounds[i]) for i in range(num)]
        found = linprog(-objective, A_ub=np.array(rows), b_ub=limits, bounds=[*box, (floor, None)], method="highs")
        assert found.status == 0, found.message
        return -found.fun

    while len(fixed) < num:
        level = solve(np.append(np.zeros(num), 1.0), 0.0)
        free = sorted(set(range(num)) - set(fixed))
        best = {i: solve(np.eye(num + 1)[i], level * (1 - 1e-9)) for i in free}
        stuck = [i for i in free if best[i] * penalty[i] <= level * (1 + 1e-6)]
        assert stuck
        # A hair less than the optimum keeps the next program feasible.
        fixed |= {i: level / penalty[i] * (1 - 1e-10) for i in stuck}
    return [fixed[i] for i in range(num)]


@pytest.mark.parametrize("start", range(0, 220, 20))
def test_random_topologies_against_linear_programs(start):
    for seed in range(start, start + 20):
        case = random_case(seed)
        expected = lexicographic(*case)
        assert list(maxmin(*case)) == pytest.approx(expected, rel=1e-6), f"seed {seed}"
        assert few(*case) == pytest.approx(expected, rel=1e-6), f"seed {seed}"


def test_both_ways_agree():
    for seed in range(1000, 1400):
        case = random_case(seed)
        assert few(*case) == pytest.approx(list(maxmin(*case)), rel=1e-11), f"seed {seed}"
