"""Structured tasks: what a program gathers or spawns ends with it, and no error gets lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from psgdsim.real.connection import cancel


async def gather(coroutines: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Run coroutines at the same time and return their results in order.

    The first error cancels the others and is raised once they have ended; so does being cancelled.
    """
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    if not tasks:
        return []
    try:
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    except asyncio.CancelledError:
        await cancel(*tasks)
        raise
    await cancel(*pending)
    errors = [task.exception() for task in tasks if task in done and not task.cancelled()]
    for error in errors:
        if error is not None:
            raise error
    return [task.result() for task in tasks]


class SpawnedJob:
    """A coroutine that a program spawned (see `node.Job`).

    Args:
        task: what runs it.
        on_unheard: told of its error if nobody waits for it.
    """

    def __init__(self, task: asyncio.Task[Any], on_unheard: Callable[[BaseException], None]) -> None:
        self._task, self._on_unheard = task, on_unheard
        self._num_waiters = 0
        task.add_done_callback(self._tell_if_unheard)

    def cancel(self) -> None:
        """Stop it where it waits; nothing happens if it has ended."""
        self._task.cancel()

    async def wait(self) -> Any:
        """Return its result, or raise its error; None if it was cancelled."""
        self._num_waiters += 1
        try:
            await asyncio.wait({self._task})
        except asyncio.CancelledError:
            self._num_waiters -= 1
            self._tell_if_unheard(self._task)  # it may have failed at this very moment
            raise
        return None if self._task.cancelled() else self._task.result()

    def _tell_if_unheard(self, task: asyncio.Task[Any]) -> None:
        if not task.done() or task.cancelled() or self._num_waiters:
            return
        error = task.exception()
        if error is not None:
            self._on_unheard(error)


class Jobs:
    """The jobs of one program."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._crash: asyncio.Future[None] | None = None

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> SpawnedJob:
        """Start a job."""
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return SpawnedJob(task, self._fail)

    def _fail(self, error: BaseException) -> None:
        if self._crash is not None and not self._crash.done():
            self._crash.set_exception(error)

    async def run(self, program: Coroutine[Any, Any, None]) -> None:
        """Run a program to its end, or to the first error that nobody waits for; its jobs end with it."""
        self._crash = asyncio.get_running_loop().create_future()
        main = asyncio.create_task(program)
        try:
            await asyncio.wait({main, self._crash}, return_when=asyncio.FIRST_COMPLETED)
            await (self._crash if self._crash.done() else main)
        finally:
            await cancel(main, *self._tasks)
            self._crash.cancel()
