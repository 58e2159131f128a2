"""SimPy's environment, with less to do between two events: a simulation goes through them by the million."""

from __future__ import annotations

from heapq import heappop
from typing import Any

import simpy
from simpy.core import EmptySchedule


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


class Signal(simpy.Event):
    """An event that somebody makes happen within another one, not as one more at the same time.

    Whoever waits for it goes on before `fire` returns: all that it may look at must be in order before that.
    """

    def fire(self, value: Any = None) -> None:
        """Let it happen now."""
        self._ok, self._value = True, value
        callbacks, self.callbacks = self.callbacks, None  # type: ignore[assignment]
        for callback in callbacks:
            callback(self)
