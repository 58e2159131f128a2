"""Run coroutines on SimPy's events.

A program awaits `wait(event)`, whose `__await__` yields the event to the runner here; the runner resumes the program
when the event fires. SimPy's own `Process` would do for the plain case, but it rebuilds the exceptions of failed
processes from their arguments, and cannot end a coroutine at once without losing what it was about to receive.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any

import simpy

from psgdsim.errors import ProgramError


class wait:  # noqa: N801 - reads as a verb: `await wait(event)`
    """Await a SimPy event and return its value."""

    __slots__ = ("event",)

    def __init__(self, event: simpy.Event) -> None:
        self.event = event

    def __await__(self) -> Generator[simpy.Event, Any, Any]:
        return (yield self.event)


class Running:
    """A coroutine under way.

    Args:
        env: the clock.
        coroutine: what to run; its first step happens now, before this returns.
        on_end: called once, with this object, when it has returned, failed or been cancelled.

    Attributes:
        result: what it returned.
        error: what it raised, or None.
        is_done: whether it has ended.
    """

    def __init__(
        self, env: simpy.Environment, coroutine: Coroutine[Any, Any, Any], on_end: Callable[[Running], None]
    ) -> None:
        self._env = env
        self._coroutine = coroutine
        self._on_end = on_end
        self._callback: Callable[[simpy.Event], None] = self._resume
        self._waits_for: simpy.Event | None = None
        self.result: Any = None
        self.error: BaseException | None = None
        self.is_done = False
        self._step(lambda: coroutine.send(None))

    def _resume(self, event: simpy.Event) -> None:
        self._waits_for = None
        if event.ok:
            self._step(lambda: self._coroutine.send(event.value))
        else:
            event.defused = True
            error: Any = event.value
            self._step(lambda: self._coroutine.throw(error))

    def _step(self, advance: Callable[[], Any]) -> None:
        """Advance the coroutine until it awaits an event that has not fired."""
        try:
            event = advance()
            while not isinstance(event, simpy.Event):
                event = self._coroutine.throw(self._foreign(event))
        except StopIteration as stop:
            self._end(stop.value, None)
        except Exception as error:  # whatever a program raises is its result
            self._end(None, error)
        else:
            self._wait_for(event)

    def _wait_for(self, event: simpy.Event) -> None:
        self._waits_for, self._callback = event, self._resume
        if event.callbacks is None:  # it fired before: resume at this instant, after what is due already
            self._waits_for, self._callback = self._env.timeout(0), lambda _: self._resume(event)
        self._waits_for.callbacks.append(self._callback)

    def _end(self, result: Any, error: BaseException | None) -> None:
        self.result, self.error, self.is_done = result, error, True
        self._on_end(self)

    def cancel(self) -> None:
        """End it now, at the place where it waits; its `finally` blocks run. Nothing happens if it has ended."""
        if self.is_done:
            return
        if self._waits_for is not None and self._waits_for.callbacks is not None:
            self._waits_for.callbacks.remove(self._callback)
        self._coroutine.close()
        self._end(None, None)

    def _foreign(self, awaited: object) -> ProgramError:
        coroutine: Any = self._coroutine
        code, frame = coroutine.cr_code, coroutine.cr_frame
        line = code.co_firstlineno if frame is None else frame.f_lineno
        return ProgramError(
            f"{code.co_filename}:{line}: program {code.co_qualname!r} awaits something that yields "
            f"{type(awaited).__name__}; a program may await only what its node offers (compute, send, recv, sleep, ...)"
        )
