"""The node of real mode: what a program awaits, in real time over TCP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

from psgdsim import trees, wire
from psgdsim.errors import PeerLost, ProgramError, RecvTimeout
from psgdsim.mailbox import Loss, Mailbox, Waiter
from psgdsim.node import ANY, Job, Kernel, Message, Node
from psgdsim.real.connection import ConnectionEnded
from psgdsim.real.frames import Frame, Sending, pack
from psgdsim.real.jobs import Jobs, gather
from psgdsim.real.mesh import TRAINING, Mesh
from psgdsim.real.step_ends import StepEnds
from psgdsim.schedule import Schedule
from psgdsim.topologies.base import Multicast
from psgdsim.trace import Activity, RankLog


class RealNode(Node):
    """One rank over TCP.

    Args:
        mesh: its connections.
        executor: one thread, which runs the kernels.
        multicast: how the topology copies payloads; anything but `unicast` goes through the relay.
        schedule: when the run ends.
        num_servers: how many of the ranks, the last, are servers.
        ends: decides whether to go on after a step; if None, the schedule's last step alone does, as in a rehearsal.
        clock: tells the time since the start of training [s].
        start_log: makes its log, given rank and clock.
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
        num_servers: int = 0,
        ends: StepEnds | None = None,
        clock: Callable[[], float] = lambda: 0.0,
        start_log: Callable[[int, Callable[[], float]], RankLog] = RankLog,
        phase: int = TRAINING,
    ) -> None:
        self.rank, self.num_servers = mesh.rank, num_servers
        self.world_size = mesh.num_ranks - num_servers
        self.log = start_log(self.rank, clock)
        self.mailbox = Mailbox()
        self.models: Sequence[Any] = ()
        self.jobs = Jobs()
        self._mesh, self._executor, self._multicast = mesh, executor, multicast
        self._schedule, self._ends, self._clock, self._phase = schedule, ends, clock, phase
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
        """Run a kernel in the compute thread, one at a time; a concurrent one in another."""
        activity: Activity = "encode" if kernel.kind == "codec" else "compute"
        loop = asyncio.get_running_loop()
        with self.log.during(activity):
            executor = None if kernel.is_concurrent else self._executor
            start, result = await loop.run_in_executor(executor, self._call, kernel, arguments)
        self.log.add_event(activity, kernel.name, start)
        return result

    def _call(self, kernel: Kernel, arguments: tuple[Any, ...]) -> tuple[float, Any]:
        import jax

        start = self._clock()
        wait_for: Any = jax.block_until_ready
        output = wait_for(kernel.function(*arguments))
        if kernel.judge is None:
            return start, output
        result, mark = output
        self.log.num_replaced += kernel.judge(*arguments)(mark)
        return start, result

    async def read(self, value: Any) -> Any:
        """Return the numbers behind a value."""
        with self.busy():
            return await asyncio.get_running_loop().run_in_executor(self._executor, trees.numbers, value)

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

    def _pack(self, payload: Any, tag: str, group: int = 0) -> Frame:
        return pack(payload, tag, src=self.rank, group=group, phase=self._phase)

    def _begin(self, dst: int, frame: Frame, *, copies: int = 0) -> Sending:
        """Take a frame's place among all that goes to `dst` (with copies: to the relay), even while it is packed."""
        try:
            send = self._mesh.send_group if copies else partial(self._mesh.send, dst)
            write = send(frame.parts, self._phase)
        except ConnectionEnded as error:
            raise PeerLost(self.rank, dst, str(error)) from None
        self.log.count_sent(frame.nbytes, frame.payload_nbytes, copies=copies)
        self.messages_sent += copies or 1
        return Sending(write, frame, dst, copies, self._clock())

    async def _finish(self, sending: Sending) -> None:
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
        if dst == self.rank or not 0 <= dst < self._mesh.num_ranks:
            expected = f"expected another of 0 to {self._mesh.num_ranks - 1}"
            raise ProgramError(f"rank {self.rank} sends to rank {dst}; {expected}")

    async def recv(self, src: int | None = ANY, *, tag: str, timeout: float | None = None) -> Message:
        """Take a message that has come, or wait for one."""
        loss = self.mailbox.take_loss(tag) if src is ANY else None
        if loss is not None:
            raise PeerLost(self.rank, *loss)
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
            if future.done():  # it came at the same moment: it is for another
                self._pass_on(future, src)
            raise
        finally:
            self._alarms -= timeout is not None
            self.mailbox.cancel(waiter)
            del self._waiting[waiter]
        if not done:
            raise RecvTimeout(self.rank, "any rank" if src is ANY else src, tag, timeout or 0.0)
        return future.result()

    def _pass_on(self, future: asyncio.Future[Message], src: int | None) -> None:
        """Pass on what a receive was woken with that does not take it."""
        error = future.exception()
        if error is None:
            self.mailbox.put_back(future.result())
        elif src is ANY and isinstance(error, PeerLost):
            self._fail(self.mailbox.tell(Loss(error.peer, error.cause)), error)

    def _check_alive(self, src: int | None) -> None:
        lost = self._mesh.lost
        if src is ANY and 0 < len(lost) == self._mesh.num_ranks - 1:
            src = next(iter(lost))
        if src is not ANY and src in lost:
            raise PeerLost(self.rank, src, lost[src])

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
        self._fail(self.mailbox.lose(Loss(peer, cause)), PeerLost(self.rank, peer, cause))

    def _fail(self, waiters: Sequence[Waiter], error: PeerLost) -> None:
        for waiter in waiters:
            self._waiting[waiter].set_exception(error)

    # --- the rest -------------------------------------------------------------------------------------------

    async def sleep(self, seconds: float) -> None:
        """Do nothing for a while."""
        with self.busy():
            await asyncio.sleep(seconds)

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
        """End a step, and decide whether to go on, or let others decide."""
        self.log.close_step(step)
        self.models = models
        return step < self._schedule.last_step if self._ends is None else await self._ends.decide(self, step)

    def end_step(self, step: int) -> None:
        """Close the row of a step."""
        self.log.close_step(step)

    @contextmanager
    def meeting(self) -> Iterator[None]:
        """Wait for others at the end of a step for the length of a block."""
        self._is_meeting = True
        try:
            with self.log.during("wait"):
                yield
        finally:
            self._is_meeting = False

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Be waiting for nobody for the length of a block."""
        self._alarms += 1
        try:
            yield
        finally:
            self._alarms -= 1
