"""The node of real mode: what a program awaits, in real time over TCP."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any, Literal, NamedTuple

from psgdsim import wire
from psgdsim.errors import PeerLost, ProgramError, RecvTimeout
from psgdsim.node import ANY, Job, Kernel, Mailbox, Message, Node, Waiter, snapshot
from psgdsim.real.connection import ConnectionEnded, Parts, Write
from psgdsim.real.jobs import Jobs, gather
from psgdsim.real.mesh import TRAINING, Mesh
from psgdsim.task import Schedule
from psgdsim.topologies.base import Multicast
from psgdsim.trace import Activity, RankLog

_IN_THREAD_NBYTES = 2**20
"""Larger payloads are packed in a thread, so that the loop stays free."""


class _Frame(NamedTuple):
    parts: Parts
    tag: str
    nbytes: int
    payload_nbytes: int


class _Sending(NamedTuple):
    write: Write
    frame: _Frame
    dst: int
    copies: int
    start: float


Meet = Callable[[int], Awaitable[bool]]
"""Meets the other ranks after a step; returns whether to go on."""


class RealNode(Node):
    """One rank over TCP.

    Args:
        mesh: its connections.
        executor: one thread, which runs the kernels.
        multicast: how the topology copies payloads; anything but `unicast` goes through the relay.
        schedule: when ranks meet and when the run ends.
        meet: meets the others; None where nobody does, as in a rehearsal.
        clock: tells the time since the start of training [s].
        phase: `REHEARSAL` or `TRAINING`; frames of the other phase never reach this node.

    Attributes:
        log: what this rank did.
        mailbox: what came for it.
        models: the models of the last checkpoint.
        jobs: what the program spawned.
        messages_sent: so far, one per receiver.
        messages_received: so far.
    """

    def __init__(
        self,
        mesh: Mesh,
        executor: Executor,
        *,
        multicast: Multicast,
        schedule: Schedule,
        meet: Meet | None = None,
        clock: Callable[[], float] = lambda: 0.0,
        phase: int = TRAINING,
    ) -> None:
        self.rank, self.world_size, self.role = mesh.rank, mesh.world_size, "worker"
        self.log = RankLog(self.rank, clock)
        self.mailbox = Mailbox()
        self.models: Sequence[Any] = ()
        self.jobs = Jobs()
        self._mesh, self._executor, self._multicast = mesh, executor, multicast
        self._schedule, self._meet, self._clock, self._phase = schedule, meet, clock, phase
        self._is_meeting = False
        self.messages_sent = self.messages_received = 0
        self._alarms = 0
        self._arrivals: dict[int, float] = {}
        self._waiting: dict[Waiter, asyncio.Future[Message]] = {}
        mesh.attach(phase, self)

    @property
    def now(self) -> float:
        """The time since the start of training, without pauses [s]."""
        return self._clock()

    @property
    def state(self) -> Literal["busy", "waiting", "meeting"]:
        """Whether it can do nothing until a message comes (`waiting`) or the others are there, too (`meeting`)."""
        if self._alarms or not self.log.is_only_waiting:
            return "busy"
        return "meeting" if self._is_meeting else "waiting"

    @property
    def waits(self) -> list[str]:
        """The receives it waits for, if it can do nothing until a message comes; otherwise nothing."""
        return [] if self.state == "busy" else [str(waiter) for waiter in self.mailbox.waiters]

    # --- kernels --------------------------------------------------------------------------------------------

    async def compute(self, kernel: Kernel, *arguments: Any) -> Any:
        """Run a kernel in the compute thread; one at a time."""
        activity: Activity = "encode" if kernel.kind == "codec" else "compute"
        loop = asyncio.get_running_loop()
        with self.log.during(activity):
            start, result = await loop.run_in_executor(self._executor, self._call, kernel, arguments)
        self.log.add_event(activity, kernel.name, start)
        return result

    def _call(self, kernel: Kernel, arguments: tuple[Any, ...]) -> tuple[float, Any]:
        import jax

        start = self._clock()
        wait_for: Any = jax.block_until_ready
        return start, wait_for(kernel.function(*arguments))

    async def read(self, value: Any) -> Any:
        """Return the numbers behind a value."""
        self._alarms += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, numbers, value)
        finally:
            self._alarms -= 1

    # --- messages -------------------------------------------------------------------------------------------

    async def send(self, dst: int, payload: Any, *, tag: str) -> None:
        """Send one frame to one rank."""
        self._check_peer(dst)
        await self._finish(self._begin(dst, self._pack(payload, tag)))

    async def multicast(self, dsts: Sequence[int], payload: Any, *, tag: str) -> None:
        """Send one frame per rank, or one to the relay, as the topology says."""
        for dst in dsts:
            self._check_peer(dst)
        if len(set(dsts)) < len(dsts):
            raise ProgramError(f"rank {self.rank} multicasts to {list(dsts)}; expected each rank at most once")
        if not dsts:
            return
        if self._multicast == "unicast":
            frame = self._pack(payload, tag)
            sendings = [self._begin(dst, frame) for dst in dsts]
            await self.gather(*(self._finish(sending) for sending in sendings))
        else:
            frame = self._pack(payload, tag, self._mesh.group(dsts))
            await self._finish(self._begin(dsts[0], frame, copies=len(dsts)))

    def _pack(self, payload: Any, tag: str, group: int = 0) -> _Frame:
        wire.check_tag(tag)
        nbytes, payload_nbytes = wire.nbytes(payload), wire.tensor_nbytes(payload)
        pack = partial(wire.pack_parts, snapshot(payload), src=self.rank, tag=tag, group=group, phase=self._phase)
        is_large = payload_nbytes > _IN_THREAD_NBYTES
        parts: Parts = asyncio.get_running_loop().run_in_executor(None, pack) if is_large else pack()
        return _Frame(parts, tag, nbytes, payload_nbytes)

    def _begin(self, dst: int, frame: _Frame, *, copies: int = 0) -> _Sending:
        """Take a frame's place among all that goes to `dst` (with copies: to the relay), even while it is packed."""
        try:
            send = self._mesh.send_group if copies else partial(self._mesh.send, dst)
            write = send(frame.parts, self._phase)
        except ConnectionEnded as error:
            raise PeerLost(self.rank, dst, str(error)) from None
        self.log.count_sent(frame.nbytes, frame.payload_nbytes, copies=copies)
        self.messages_sent += copies or 1
        return _Sending(write, frame, dst, copies, self._clock())

    async def _finish(self, sending: _Sending) -> None:
        write, frame, dst, copies, start = sending
        with self.log.during("transfer"):
            try:
                await write.wait()
            except ConnectionEnded as error:
                raise PeerLost(self.rank, dst, str(error)) from None
            except asyncio.CancelledError:
                self.messages_sent -= 0 if write.has_begun else copies or 1
                raise
        self.log.add_event("send", frame.tag, start, peer=-1 if copies else dst, nbytes=frame.nbytes)

    def _check_peer(self, dst: int) -> None:
        if dst == self.rank or not 0 <= dst < self.world_size:
            expected = f"expected another of 0 to {self.world_size - 1}"
            raise ProgramError(f"rank {self.rank} sends to rank {dst}; {expected}")

    async def recv(self, src: int | None = ANY, *, tag: str, timeout: float | None = None) -> Message:
        """Take a message that has come, or wait for one."""
        message = self.mailbox.take(src, tag)
        if message is not None:
            return message
        self._check_alive(src)
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        waiter = Waiter(src, tag, future.set_result)
        self.mailbox.wait(waiter)
        self._waiting[waiter] = future
        self._alarms += timeout is not None
        try:
            with self.log.during("wait"):
                done, _ = await asyncio.wait({future}, timeout=timeout)
        except asyncio.CancelledError:
            if future.done() and future.exception() is None:  # it came at the same moment: it is for another
                self.mailbox.put_back(future.result())
            raise
        finally:
            self._alarms -= timeout is not None
            self.mailbox.cancel(waiter)
            del self._waiting[waiter]
        if not done:
            raise RecvTimeout(self.rank, "any rank" if src is ANY else src, tag, timeout or 0.0)
        return future.result()

    def _check_alive(self, src: int | None) -> None:
        for peer, cause in self._mesh.lost.items():
            if src in (ANY, peer):
                raise PeerLost(self.rank, peer, cause)

    # --- what the mesh tells (see `mesh.Receiver`) ----------------------------------------------------------

    def begin(self, header: wire.Header) -> None:
        """Note that a frame's body is arriving."""
        self.log.enter("transfer")
        self._arrivals[id(header)] = self._clock()

    def end(self) -> None:
        """Note that a frame's body has arrived, or that it never will."""
        self.log.leave("transfer")

    def deliver(self, header: wire.Header, payload: Any) -> None:
        """Take a frame."""
        start = self._arrivals.pop(id(header))
        self.messages_received += 1
        self.log.add_event("receive", header.tag, start, peer=header.src, nbytes=header.nbytes)
        self.mailbox.put(Message(header.src, header.tag, payload))

    def lose(self, peer: int, cause: str) -> None:
        """Fail the receives that wait for a peer that is gone."""
        for waiter, future in list(self._waiting.items()):
            if waiter.src in (ANY, peer) and not future.done():
                self.mailbox.cancel(waiter)
                future.set_exception(PeerLost(self.rank, peer, cause))

    # --- the rest -------------------------------------------------------------------------------------------

    async def sleep(self, seconds: float) -> None:
        """Do nothing for a while."""
        self._alarms += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self._alarms -= 1

    async def gather(self, *coroutines: Coroutine[Any, Any, Any]) -> list[Any]:
        """Run coroutines at the same time."""
        return await gather(coroutines)

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> Job:
        """Start a coroutine beside this one; an error that nobody waits for ends the program."""
        return self.jobs.start(coroutine)

    def record(self, **values: Any) -> None:
        """Add numbers to the row of the step under way."""
        self.log.record(values)

    async def checkpoint(self, step: int, models: Sequence[Any]) -> bool:
        """End a step, and meet the others where the schedule says so."""
        self.log.close_step(step)
        self.models = models
        if self._meet is None or not self._schedule.is_meeting(step):
            return step < self._schedule.last_step
        self._is_meeting = True
        try:
            with self.log.during("wait"):
                return await self._meet(step)
        finally:
            self._is_meeting = False


def numbers(value: Any) -> Any:
    """Return a pytree with its arrays as numpy arrays."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    import jax
    import numpy as np

    return jax.tree.map(lambda leaf: np.asarray(leaf) if hasattr(leaf, "dtype") else leaf, value)
