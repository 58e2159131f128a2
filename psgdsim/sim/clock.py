"""SimPy's environment, with less to do between two events: a simulation goes through them by the million."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

import simpy
from simpy.core import EmptySchedule
from simpy.events import NORMAL


class Clock(simpy.Environment):
    """The clock of a run: SimPy's environment whose time is a plain attribute.

    Attributes:
        now: the time [s].
        agenda: what is to happen, a heap; each entry begins with its time [s].
    """

    now: float = 0.0

    def __init__(self) -> None:
        super().__init__(0.0)
        self.agenda: list[tuple[float, Any, int, simpy.Event]] = self._queue

    def step(self) -> None:
        """Let the next event happen.

        Raises:
            EmptySchedule: there is none.
            Exception: the event has failed, and nobody has taken note of that.
        """
        if not self.agenda:
            raise EmptySchedule
        time, _, _, event = heappop(self.agenda)
        self._now = self.now = time
        callbacks, event.callbacks = event.callbacks, None  # type: ignore[assignment]
        for callback in callbacks:
            callback(event)
        if not event.ok and not event.defused:
            error: Any = event.value
            raise error

    def at(self, time: float, action: Callable[[], None]) -> simpy.Event:
        """Let something happen at that very time [s]: a delay added to the present time would be rounded.

        Args:
            time: not before now.
            action: what happens; within this call if it is now.

        Returns:
            An event that fires then.
        """
        event = Signal(self)
        event.callbacks.append(lambda _: action())
        if time <= self.now:
            event.fire()
        else:
            event.has_come()
            heappush(self.agenda, (time, NORMAL, next(self._eid), event))
        return event


class Signal(simpy.Event):
    """An event that somebody makes happen within another one, not as one more at the same time.

    Whoever waits for it goes on before `fire` returns: all that it may look at must be in order before that.
    """

    def has_come(self, value: Any = None) -> None:
        """Take note that it happens, when the clock comes to it."""
        self._ok, self._value = True, value

    def fire(self, value: Any = None) -> None:
        """Let it happen now."""
        self.has_come(value)
        callbacks, self.callbacks = self.callbacks, None  # type: ignore[assignment]
        for callback in callbacks:
            callback(self)
