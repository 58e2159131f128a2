"""The clock of a run lets things happen in the very order of SimPy's environment."""

from __future__ import annotations

import pytest
import simpy
from hypothesis import given
from hypothesis import strategies as st
from simpy.events import EventPriority

from psgdsim.sim.clock import Clock

DELAYS = st.sampled_from([0.0, 0.0, 0.5, 1.0, 1.0, 1e-30])
CONSEQUENCES = st.lists(st.tuples(st.sampled_from([0, 1, 1, 1, 2]), DELAYS), max_size=3)


def order(env: simpy.Environment, plan: list[list[tuple[int, float]]]) -> list[tuple[float, int]]:
    """Return when events happen, and which; each plans those of the next entry of the plan."""
    happened: list[tuple[float, int]] = []
    entries = iter(enumerate(plan))

    def plan_next(_: simpy.Event | None) -> None:
        number, consequences = next(entries, (0, []))
        for place, (priority, delay) in enumerate(consequences):
            event = simpy.Event(env)
            event._ok, event._value = True, 3 * number + place
            event.callbacks += [lambda event: happened.append((env.now, event.value)), plan_next]
            env.schedule(event, EventPriority(priority), delay)

    plan_next(None)
    env.run()
    return happened


@given(st.lists(CONSEQUENCES, min_size=1, max_size=60))
def test_events_happen_in_the_order_of_simpy(plan):
    assert order(Clock(), plan) == order(simpy.Environment(), plan)


def test_an_event_that_fails_unheard_raises():
    env = Clock()
    env.event().fail(ValueError("nobody waits for this"))
    with pytest.raises(ValueError, match="nobody waits for this"):
        env.run()


def test_the_next_event_is_known_and_at_the_end_there_is_none():
    env = Clock()
    env.timeout(2.0)
    assert (env.peek(), env.now) == (2.0, 0.0)
    env.step()
    assert (env.peek(), env.now) == (float("inf"), 2.0)
