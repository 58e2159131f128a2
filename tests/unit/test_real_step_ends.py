"""real.step_ends: who meets whom after a step, what is evaluated when, and what ends a rank that runs freely."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager

import pytest

from psgdsim.real import step_ends
from psgdsim.real.step_ends import Album, Alone, Snapshot, Together
from psgdsim.schedule import Schedule


class Node:
    """A node that notes what it was while it waited."""

    def __init__(self, now=0.0):
        self.now, self.models, self.was = now, ["model"], []

    @contextmanager
    def meeting(self):
        self.was.append("meeting")
        yield

    @contextmanager
    def busy(self):
        self.was.append("busy")
        yield


def album(accuracy=0.5, is_urgent=False):
    told = []

    async def evaluate(models):
        return [{"test_accuracy": accuracy}, {"test_accuracy": None}]

    async def tell(step, time, rows):
        told.append((step, time, len(rows)))

    return Album(evaluate, tell, is_urgent=is_urgent), told


def schedule(**more):
    return Schedule(1, **{"last_step": 6, **more})


def decide(ends, step, now=0.0):
    node = Node(now)
    return asyncio.run(ends.decide(node, step)), node.was


def test_in_lock_step_ranks_meet_where_the_schedule_says_so():
    met = []

    async def meet(step):
        met.append(step)
        return step < 5

    ends = Together(schedule(evaluate_every=2), meet)
    assert [decide(ends, step) for step in (1, 2, 6)] == [(True, []), (True, ["meeting"]), (False, ["meeting"])]
    assert met == [2, 6]


def test_models_are_kept_up_to_a_number_and_evaluated_in_order(monkeypatch):
    monkeypatch.setattr(step_ends, "MAX_SNAPSHOTS", 2)

    async def main():
        pictures, told = album()
        found = [await pictures.take(Snapshot(step, float(step), [])) for step in (1, 2, 3)]
        assert (found, told) == ([None, None, 0.5], [(3, 3.0, 2)])
        await pictures.develop_all()
        assert told == [(3, 3.0, 2), (1, 1.0, 2), (2, 2.0, 2)]
        assert await pictures.take(Snapshot(4, 4.0, [])) is None

    asyncio.run(main())


@pytest.mark.parametrize(("step", "goes_on", "kept"), [(1, True, []), (2, True, [2]), (6, False, [6])])
def test_a_rank_that_leads_alone_keeps_what_is_evaluated(step, goes_on, kept):
    pictures, told = album()
    ends = Alone(schedule(evaluate_every=2), pictures, None)
    assert decide(ends, step)[0] == goes_on
    asyncio.run(pictures.develop_all())
    assert [step for step, *_ in told] == kept


def test_the_last_models_are_evaluated_whenever_the_run_ends():
    pictures, told = album()
    assert decide(Alone(schedule(max_time=3.0), pictures, None), 1, now=3.5) == (False, ["busy"])
    asyncio.run(pictures.develop_all())
    assert told == [(1, 3.5, 2)]


@pytest.mark.parametrize(("accuracy", "goes_on"), [(0.5, True), (0.9, False)])
def test_a_target_is_judged_at_once(accuracy, goes_on):
    pictures, told = album(accuracy, is_urgent=True)
    ends = Alone(schedule(evaluate_every=2, target_accuracy=0.8), pictures, None)
    assert decide(ends, 2) == (goes_on, ["busy"])
    assert told == [(2, 0.0, 2)]


def test_those_that_lead_together_meet_at_the_end_and_say_why():
    met = []

    async def meet(step, is_reached):
        met.append((step, is_reached))

    first = Alone(schedule(evaluate_every=2, target_accuracy=0.8), album(0.9, is_urgent=True)[0], meet)
    second = Alone(schedule(evaluate_every=2, target_accuracy=0.8), None, meet)
    assert decide(second, 2) == (True, [])
    assert decide(first, 2) == (False, ["busy", "meeting"])
    second.must_end = True
    assert decide(second, 3) == (False, ["meeting"])
    assert met == [(2, True), (3, False)]
