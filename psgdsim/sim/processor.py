"""A rank's processor: one computation after the other, at a speed that may change meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import simpy

from psgdsim.sim.clock import Signal
from psgdsim.sim.coroutines import wait


class Processor:
    """Run computations in the order in which they come.

    Args:
        env: the clock.
    """

    def __init__(self, env: simpy.Environment) -> None:
        self._env = env
        self._queue: deque[tuple[Callable[[float], float], Signal]] = deque()
        self._factor = 1.0
        self._left = self._since = 0.0
        self._timer: simpy.Event | None = None
        self._done: Signal | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being computed."""
        return self._done is None

    async def run(self, seconds: Callable[[float], float]) -> None:
        """Compute for a while; if this is cancelled, the computation is given up and the next begins.

        Args:
            seconds: when the computation begins [s] -> how long it takes at full speed [s].
        """
        done = Signal(self._env)
        if self._done is not None:
            self._queue.append((seconds, done))
        elif not self._begin(seconds, done):
            return
        try:
            await wait(done)
        except GeneratorExit:
            self._give_up(done)
            raise

    def _give_up(self, done: Signal) -> None:
        if self._done is done:
            self._next()
        else:
            self._queue = deque(entry for entry in self._queue if entry[1] is not done)

    def _begin(self, seconds: Callable[[float], float], done: Signal) -> bool:
        """Begin a computation; return False if it takes no time."""
        now = float(self._env.now)
        self._left, self._since = seconds(now), now
        if self._left == 0:
            return False
        self._done = done
        self._set_timer()
        return True

    def _set_timer(self) -> None:
        self._timer = self._env.timeout(self._left * self._factor)
        self._timer.callbacks.append(self._end)

    def _end(self, timer: simpy.Event) -> None:
        done = self._done
        if timer is not self._timer or done is None:
            return
        self._next()
        done.fire()

    def _next(self) -> None:
        """Go on with what has waited longest."""
        self._done = self._timer = None
        while self._queue and self._done is None:
            seconds, done = self._queue.popleft()
            if not self._begin(seconds, done):
                done.succeed()  # not at once: others are still to begin

    def slow_down(self, factor: float) -> None:
        """Take so many times longer from now on, for what is under way, too; 1 is full speed."""
        if self._done is not None:
            now = float(self._env.now)
            self._left = max(0.0, self._left - (now - self._since) / self._factor)
            self._since = now
        self._factor = factor
        if self._done is not None:
            self._set_timer()

    def stop(self) -> None:
        """Drop all computations; none of their events fires."""
        self._queue.clear()
        self._done = self._timer = None
