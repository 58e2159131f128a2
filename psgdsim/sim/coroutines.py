"""Run coroutines on SimPy's events, and bring them their messages in order.

A program awaits `wait(event)`, which yields the event to the runner here; the runner resumes the program
when the event fires. SimPy's own `Process` would do for the plain case, but it rebuilds the exceptions of failed
processes from their arguments, and cannot end a coroutine at once without losing what it was about to receive.
"""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import simpy

from psgdsim.errors import ProgramError
from psgdsim.mailbox import Mailbox
from psgdsim.node import Message, snapshot

MAX_CLOSINGS = 100
"""How many awaits in `finally` blocks are cut short before a coroutine counts as one that cannot be cancelled."""


@types.coroutine
def wait(event: simpy.Event) -> Generator[simpy.Event, Any, Any]:
    """Await a SimPy event and return its value."""
    return (yield event)


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
        is_cancelled: whether it ended because it was cancelled.
    """

    __slots__ = (
        "_callback", "_coroutine", "_env", "_must_end", "_on_end", "_waits_for", "error", "is_cancelled", "is_done",
        "result",
    )  # fmt: skip

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
        self.is_done = self.is_cancelled = False
        self._must_end = False
        self._step(coroutine.send, None)

    def _resume(self, event: simpy.Event) -> None:
        if self.is_done:  # another coroutine that the same event woke before has cancelled this one
            event.defused = True
            return
        self._waits_for = None
        if event.ok:
            self._step(self._coroutine.send, event.value)
        else:
            event.defused = True
            self._step(self._coroutine.throw, event.value)

    def _step(self, advance: Callable[[Any], Any], value: Any) -> None:
        """Advance the coroutine until it awaits an event that has not fired."""
        try:
            event = advance(value)
            while not isinstance(event, simpy.Event):
                event = self._coroutine.throw(self._foreign(event))
        except StopIteration as stop:
            self._end(stop.value, None)
        except Exception as error:  # whatever a program raises is its result
            self._end(None, error)
        else:
            if self._must_end:
                self._cut_short()
            else:
                self._wait_for(event)

    def _wait_for(self, event: simpy.Event) -> None:
        self._waits_for, self._callback = event, self._resume
        if event.callbacks is None:  # it fired before: resume at this instant, after what is due already
            self._waits_for, self._callback = self._env.timeout(0), lambda _: self._resume(event)
        self._waits_for.callbacks.append(self._callback)

    def _end(self, result: Any, error: BaseException | None) -> None:
        self.result, self.error, self.is_done = result, error, True
        on_end = self._on_end
        # These lead back to this object; whatever the coroutine has held must not wait for the garbage collector.
        del self._on_end, self._callback, self._coroutine
        on_end(self)

    def cancel(self) -> None:
        """End it now, at the place where it waits; its `finally` blocks run. Nothing happens if it has ended.

        What a `finally` block awaits is cut short, too, and takes no time. What one raises is the coroutine's error.
        """
        if self.is_done:
            return
        coroutine: Any = self._coroutine
        if coroutine.cr_running:  # it cancels itself, or what it is a part of
            self._must_end = True
            return
        if self._waits_for is not None and self._waits_for.callbacks is not None:
            self._waits_for.callbacks.remove(self._callback)
        self._cut_short()

    def _cut_short(self) -> None:
        self.is_cancelled = True
        self._end(None, self._close())

    def _close(self) -> Exception | None:
        """Close the coroutine, however many `finally` blocks await something; return the error it ended with."""
        coroutine: Any = self._coroutine
        for _ in range(MAX_CLOSINGS):
            try:
                coroutine.close()
            except Exception as error:
                if coroutine.cr_frame is None:  # it has ended: with this error
                    return error
            else:
                return None
        code = coroutine.cr_code
        return ProgramError(
            f"{code.co_filename}:{code.co_firstlineno}: program {code.co_qualname!r} cannot be cancelled: it goes on "
            f"awaiting; let GeneratorExit and CancelledError pass"
        )

    def _foreign(self, awaited: object) -> ProgramError:
        coroutine: Any = self._coroutine
        code, frame = coroutine.cr_code, coroutine.cr_frame
        line = code.co_firstlineno if frame is None else frame.f_lineno
        return ProgramError(
            f"{code.co_filename}:{line}: program {code.co_qualname!r} awaits something that yields "
            f"{type(awaited).__name__}; a program may await only what its node offers (compute, send, recv, sleep, ...)"
        )


async def gather(env: simpy.Environment, coroutines: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Run coroutines at the same time and return their results in order; the first error cancels the others."""
    if len(coroutines) == 1:
        return [await coroutines[0]]
    finished = env.event()
    jobs: list[Running] = []
    left = len(coroutines)

    def on_end(job: Running) -> None:
        nonlocal left
        left -= 1
        if (left == 0 or job.error is not None) and not finished.triggered:
            finished.succeed()

    try:
        for coroutine in coroutines:
            jobs.append(Running(env, coroutine, on_end))
        if coroutines:
            await wait(finished)
    finally:
        for job in jobs:
            job.cancel()
    for job in jobs:
        if job.error is not None:
            raise job.error
    return [job.result for job in jobs]


class SimJob:
    """A coroutine that a program spawned (see `node.Job`).

    Args:
        env: the clock.
        coroutine: what to run.
        siblings: all of that program that have not ended; it is among them until it has.
        fail: told of an error that nobody waits for.
    """

    def __init__(
        self,
        env: simpy.Environment,
        coroutine: Coroutine[Any, Any, Any],
        siblings: dict[SimJob, None],
        fail: Callable[[BaseException], None],
    ) -> None:
        self._siblings, self._fail = siblings, fail
        self._ended = env.event()
        self._num_waiters = 0
        self._unheard: BaseException | None = None
        siblings[self] = None
        self._running = Running(env, coroutine, self._on_end)

    def _on_end(self, running: Running) -> None:
        self._siblings.pop(self, None)
        self._unheard = running.error
        self._ended.succeed()
        self._tell()

    def _tell(self) -> None:
        """See to it that an error gets lost in no case."""
        if self._unheard is not None and not self._num_waiters:
            self._fail(self._unheard)

    def cancel(self) -> None:
        """Stop it where it waits."""
        self._running.cancel()

    async def wait(self) -> Any:
        """Return its result or raise its error."""
        self._num_waiters += 1
        try:
            if not self._running.is_done:
                await wait(self._ended)
            self._unheard = None
        finally:
            self._num_waiters -= 1
            self._tell()
        if self._running.error is not None:
            raise self._running.error
        return self._running.result


@dataclass(eq=False, slots=True)
class _Due:
    """A message that was sent and has not been delivered."""

    message: Message
    stream: deque[_Due]
    is_shared: bool
    has_arrived: bool = False


class OrderedMailbox(Mailbox):
    """A mailbox whose messages of one sender come in the order in which they were sent, as over one TCP connection.

    The network lets a small message overtake a large one; here it waits for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._streams: dict[tuple[int, Hashable], deque[_Due]] = {}
        self._dues: dict[int, _Due] = {}

    def expect(self, message: Message, stream: Hashable, *, is_shared: bool = False) -> None:
        """Take note that a message has been sent off, after all before it in that stream of its sender.

        Args:
            message: the message.
            stream: which of its sender's streams it is part of.
            is_shared: whether others receive the same object.
        """
        queue = self._streams.get((message.src, stream))
        if queue is None:
            queue = self._streams[message.src, stream] = deque()
        due = self._dues[id(message)] = _Due(message, queue, is_shared)
        queue.append(due)

    def put(self, message: Message) -> None:
        """Deliver a message, in containers of its own, and what has waited for it; or let it wait for others."""
        due = self._dues.get(id(message))
        if due is None:
            super().put(_copy(message))
            return
        due.has_arrived = True
        while due.stream and due.stream[0].has_arrived:
            first = due.stream.popleft()
            del self._dues[id(first.message)]
            super().put(_copy(first.message) if first.is_shared else first.message)

    def forget(self, src: int) -> None:
        """Expect nothing more of a rank that is gone; what waits behind a message that was lost is lost with it."""
        for key in [key for key in self._streams if key[0] == src]:
            for due in self._streams.pop(key):
                del self._dues[id(due.message)]


def _copy(message: Message) -> Message:
    return Message(message.src, message.tag, snapshot(message.payload))
