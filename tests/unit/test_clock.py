"""real.clock: it starts at 0, pauses do not count, and it never goes back."""

from __future__ import annotations

import pytest

from psgdsim.real import clock as clock_module
from psgdsim.real.clock import Clock


@pytest.fixture
def hands(monkeypatch):
    """Return a list whose only item is what `time.monotonic` tells."""
    now = [100.0]
    monkeypatch.setattr(clock_module.time, "monotonic", lambda: now[0])
    return now


def test_it_stands_at_zero_until_started(hands):
    clock = Clock()
    hands[0] += 5
    assert clock() == 0.0
    clock.start()
    hands[0] += 2
    assert clock() == 2.0


def test_a_pause_does_not_count_but_the_wait_before_it_does(hands):
    clock = Clock()
    clock.start()
    hands[0] += 1
    clock.hold()
    hands[0] += 10
    assert clock() == 1.0
    clock.release(pause=7.0)
    assert clock() == pytest.approx(4.0)
    hands[0] += 1
    assert clock() == pytest.approx(5.0)


def test_it_never_goes_back_even_if_the_pause_was_longer_than_the_hold(hands):
    clock = Clock()
    clock.start()
    hands[0] += 1
    clock.hold()
    hands[0] += 2
    clock.release(pause=2.5)
    assert clock() == pytest.approx(1.0)
