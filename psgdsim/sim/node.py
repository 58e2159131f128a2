"""The node of the simulator: what a program awaits, in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import simpy

from psgdsim import rng, wire
from psgdsim.errors import PeerLost, ProgramError, RecvTimeout
from psgdsim.mailbox import Loss, Waiter
from psgdsim.node import ANY, Collective, Job, Kernel, Message, Node, Take, snapshot
from psgdsim.per_rank import Each, Parted, PerRank
from psgdsim.sim.clock import Clock, Signal
from psgdsim.sim.coroutines import OrderedMailbox, SimJob, gather, wait
from psgdsim.sim.kernel_times import KernelTimes
from psgdsim.sim.processor import Processor
from psgdsim.sim.values import Digests, numbers
from psgdsim.sim.wave import Wave
from psgdsim.trace import Activity, RankReport

if TYPE_CHECKING:
    from psgdsim.sim.driver import Simulation


class SimNode(Node):
    """One rank in virtual time.

    Args:
        simulation: what it is part of.
        rank: which one it is.

    Attributes:
        ranks: this one.
        log: what this rank did.
        mailbox: what came for it.
        models: the models of the last checkpoint.
        step: the last step that ended.
        host: where it lives, by index.
        processor: what it computes with.
        is_up: whether its process lives.
        is_returning: whether it is down, but will be up again.
        fate: why it is down.
    """

    def __init__(self, simulation: Simulation, rank: int) -> None:
        self.rank, self.ranks = rank, range(rank, rank + 1)
        self.world_size = simulation.experiment.world_size
        self.num_servers = simulation.experiment.strategy.num_servers
        self.log = simulation.experiment.start_log(rank, partial(getattr, simulation.env, "now"))
        self.mailbox = OrderedMailbox()
        self.models: Sequence[Any] = ()
        self.step = 0
        self._simulation = simulation
        self._env: Clock = simulation.env
        experiment, topology = simulation.experiment, simulation.topology
        self._times = KernelTimes(
            experiment.compute.start(rank, rng.stream(experiment.scenario.seed, "compute", rank)),
            rank_rows=experiment.rank_rows,
            speed=topology.speed(rank),
            codec_rate=experiment.scenario.codec_rate,
        )
        self.host = topology.host_of(rank)
        self.processor = Processor(simulation.env)
        self.is_up, self.is_returning, self.fate = True, False, ""
        self._incarnation = 1
        self._alarms = 0
        self._waiting: dict[Waiter, Signal] = {}
        self._jobs: dict[SimJob, None] = {}
        self._waves: dict[str, Any] = {}  # by tag, what has come from all workers that are carried on as one
        self._wave_events: dict[str, simpy.Event] = {}

    @property
    def now(self) -> float:
        """The virtual time [s]."""
        return self._env.now

    earliest = first_time = now

    async def compute(self, kernel: Kernel, *arguments: Any) -> Any:
        """Run the kernel now, and let the time pass that the machine needs for it."""
        start = self.now
        if kernel.forwards is None:
            result = self._simulation.execution.call(kernel, arguments)
            if kernel.judge is not None:
                result = self._simulation.verdicts.take(kernel, arguments, result, self.log)
        else:
            result = tuple([arguments[place] for place in kernel.forwards])
        activity: Activity = "encode" if kernel.kind == "codec" else "compute"
        if not kernel.is_concurrent and not (self.processor.is_idle and self._times.is_free(kernel)):
            self.log.enter(activity)
            try:
                await self.processor.run(self._times.timer(kernel, arguments, result))
            finally:
                self.log.leave(activity)
        self.log.add_event(activity, kernel.name, start)
        return result

    async def read(self, value: Any) -> Any:
        """Return the numbers; takes no time."""
        return numbers(value)

    async def send(self, dst: int, payload: Any, *, tag: str) -> None:
        """Send one frame over the route to `dst`."""
        self._check_peer(dst)
        nbytes, start = self._count(payload, tag), self.now
        message = Message(self.rank, tag, snapshot(payload))
        arrived = self._simulation.post.send(self.rank, dst, message, nbytes)
        self._simulation.nodes[dst].mailbox.expect(message, "send")
        self.log.enter("transfer")
        try:
            await wait(arrived)
        finally:
            self.log.leave("transfer")
        self.log.add_event("send", tag, start, peer=dst, nbytes=nbytes)

    async def multicast(self, dsts: Sequence[int], payload: Any, *, tag: str) -> None:
        """Send one payload to several ranks, at the cost that the topology says."""
        for dst in dsts:
            self._check_peer(dst)
        if not dsts:
            return
        if self._simulation.topology.multicast == "unicast":
            await self.gather(*(self.send(dst, payload, tag=tag) for dst in dsts))
            return
        nbytes, start = self._count(payload, tag, copies=len(dsts)), self.now
        message, post = Message(self.rank, tag, snapshot(payload)), self._simulation.post
        taken = post.multicast(self.rank, dsts, message, nbytes)
        for dst in dict.fromkeys(dsts):
            if dst not in post.lost_by(self.rank):
                self._simulation.nodes[dst].mailbox.expect(message, "multicast", is_shared=True)
        with self.log.during("transfer"):
            await wait(taken)
        self.log.add_event("send", tag, start, nbytes=nbytes)

    def _count(self, payload: Any, tag: str, *, copies: int = 0) -> int:
        wire.check_tag(tag)
        self._simulation.shortcuts.refuse(self, tag)
        sizes = self.frame_sizes(payload)
        self.log.count_sent(*sizes, copies=copies)
        return sizes[0]

    def frame_sizes(self, payload: Any) -> tuple[int, int]:
        """Return the size of a payload's frame and of the tensors in it [byte]."""
        return self._simulation.sizes.of(payload)

    def _check_peer(self, dst: int) -> None:
        if dst in self._simulation.in_step:
            raise Parted(f"rank {self.rank} sends to rank {dst} alone")
        last = self.world_size + self.num_servers - 1
        if dst == self.rank or not 0 <= dst <= last:
            raise ProgramError(f"rank {self.rank} sends to rank {dst}; expected another of 0 to {last}")

    async def recv(self, src: int | None = ANY, *, tag: str, timeout: float | None = None) -> Message:
        """Take a message that has come, or wait for one."""
        loss = self.mailbox.take_loss(tag) if src is ANY else None
        if loss is not None:
            raise PeerLost(self.rank, *loss)
        kept = self.mailbox.take(src, tag)
        if kept is not None:
            return kept
        self._check_alive(src)
        waiter, arrived = self._wait_for(src, tag, timeout)
        self._alarms += timeout is not None
        self.log.enter("wait")
        try:
            message: Message | None = await wait(arrived)
        except GeneratorExit:  # cancelled when it was about to fail: another must be told of that loss
            if arrived.triggered and src is ANY:
                lost: Any = arrived.value
                self._fail(self.mailbox.tell(Loss(lost.peer, lost.cause)), lost)
            raise
        finally:
            self.log.leave("wait")
            self._alarms -= timeout is not None
            self.mailbox.cancel(waiter)
            self._waiting.pop(waiter, None)
        if message is None:
            raise RecvTimeout(self.rank, "any rank" if src is ANY else src, tag, timeout or 0.0)
        return message

    async def recv_each(self, srcs: Sequence[int], take: Take, *, tag: str) -> Sequence[Any]:
        """Receive from ranks that are carried on as one in one go."""
        if not srcs or srcs != self._simulation.in_step:
            return await super().recv_each(srcs, take, tag=tag)
        if tag not in self._waves:
            arrived = self._wave_events[tag] = self._env.event()
            with self.log.during("wait"):
                await wait(arrived)
        num, payload, start = len(srcs), self._waves.pop(tag), self.now
        result = await take(Message(PerRank(srcs), tag, payload))  # type: ignore[arg-type]
        if self.now != start:
            raise Parted(f"rank {self.rank} takes its time for each message")
        return Each(result, num)  # type: ignore[return-value]

    def take_wave(self, tag: str, payload: Any) -> None:
        """Take what has come from all ranks that are carried on as one."""
        if tag in self._waves:
            raise Parted(f"messages {tag!r} wait for rank {self.rank}")
        self._waves[tag] = payload
        arrived = self._wave_events.pop(tag, None)
        if arrived is not None:
            arrived.succeed()  # not at once: those that have sent it go on first

    async def send_each(self, dsts: Sequence[int], payload: Any, *, tag: str) -> None:
        """Send to ranks that are carried on as one in one go."""
        if not dsts or dsts != self._simulation.in_step:
            await super().send_each(dsts, payload, tag=tag)
            return
        workers: Any = self._simulation.nodes[dsts[0]]
        sizes = self.frame_sizes(payload)
        wire.check_tag(tag)
        self.log.count_sent(len(dsts) * sizes[0], len(dsts) * sizes[1])
        workers.wave_starts(self.rank, tag)
        wave = Wave(self._env, self._simulation.network, snapshot(payload), lambda _: None, lambda _: None)
        with self._simulation.post.busy(), self.log.during("transfer"):
            wave.send([self.host] * len(dsts), workers.hosts, sizes[0], np.full(len(dsts), self.now))
            await wait(wave.over)
        workers.wave_ends(wave)

    async def collective(self, operation: Collective, vector: Any, *, tag: str) -> Any:
        """Find out what comes of an operation without its messages where that can be."""
        return await self._simulation.shortcuts.way_of(operation)(self, vector, tag=tag)

    def _check_alive(self, src: int | None) -> None:
        lost = self._simulation.post.lost_by(self.rank)
        if src is ANY and 0 < len(lost) == len(self._simulation.nodes) - 1:
            src = next(iter(lost))
        if src is not ANY and src in lost:
            raise PeerLost(self.rank, src, lost[src])

    def _wait_for(self, src: int | None, tag: str, timeout: float | None) -> tuple[Waiter, Signal]:
        """Begin to wait for a message; the event's value is None when the time is up."""
        arrived = Signal(self._env)
        waiter = Waiter(src, tag, arrived.fire)
        self.mailbox.wait(waiter)
        self._waiting[waiter] = arrived
        if timeout is not None:
            self._env.timeout(timeout).callbacks.append(lambda _: self._expire(waiter, arrived))
        return waiter, arrived

    def _expire(self, waiter: Waiter, arrived: Signal) -> None:
        """End a receive whose time is up, unless a message has come at this very instant."""
        if not arrived.triggered:
            self.mailbox.cancel(waiter)
            arrived.fire(None)

    def lose(self, peer: int, cause: str) -> None:
        """Fail the receives that wait for a peer that is gone."""
        self.mailbox.forget(peer)
        self._fail(self.mailbox.lose(Loss(peer, cause)), PeerLost(self.rank, peer, cause))

    def _fail(self, waiters: Sequence[Waiter], error: PeerLost) -> None:
        for waiter in waiters:
            self._waiting[waiter].fail(error)
            self._waiting[waiter].defused = True  # the receive may be cancelled before it sees this

    async def catch_up(self) -> None:
        """Do nothing: a rank of its own is never ahead of the clock."""

    def set_time(self, time: float) -> None:
        """Do nothing: its time is the clock's."""

    @property
    def is_idle(self) -> bool:
        """Whether it can do nothing until a message comes or the others are there, too."""
        return not self._alarms and self.log.is_only_waiting

    @property
    def is_restarted(self) -> bool:
        """Whether its program has crashed and begun anew."""
        return self._incarnation > 1

    def reports(self, read: Callable[[Any], Any], digests: Digests | None) -> list[RankReport]:
        """Return the report of this rank.

        Args:
            read: turns values into numbers.
            digests: of models; None if nothing more can be computed.
        """
        digest = "" if digests is None else digests.of(self.models)
        unread = len(self.mailbox.unread) + len(self._simulation.in_step) * len(self._waves)
        return [self.log.report(read, digest, unread)]

    def end_jobs(self) -> None:
        """End what the program has spawned: nothing of it outlives the program."""
        for job in list(self._jobs):
            job.cancel()

    def crash(self, cause: str) -> None:
        """Lose all that is in memory; the program has been ended already."""
        self.is_up, self.fate = False, cause
        self.end_jobs()
        self.processor.stop()
        self.mailbox = OrderedMailbox()

    def restart(self) -> None:
        """Be as at the beginning, but for the log."""
        self.is_up, self.is_returning, self.fate = True, False, ""
        self._incarnation += 1
        self.step, self.models = 0, ()
        self.log.step = 1

    async def sleep(self, seconds: float) -> None:
        """Let virtual time pass."""
        self._alarms += 1
        try:
            await wait(self._env.timeout(seconds))
        finally:
            self._alarms -= 1

    async def gather(self, *coroutines: Coroutine[Any, Any, Any]) -> list[Any]:
        """Run coroutines at the same time."""
        return await gather(self._env, coroutines)

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> Job:
        """Start a coroutine beside this one; an error that nobody waits for ends the run."""
        return SimJob(self._env, coroutine, self._jobs, lambda error: self._simulation.fail(self.rank, error))

    def record(self, **values: Any) -> None:
        """Add numbers to the row of the step under way."""
        self.log.record(values)

    async def checkpoint(self, step: int, models: Sequence[Any]) -> bool:
        """End a step, and meet the others where the schedule says so."""
        self._close(step)
        self.models = models
        goes_on = await self._simulation.checkpoint(self)
        if goes_on:
            self._simulation.faults.begin_step(self.rank, step + 1)
        return goes_on

    def end_step(self, step: int) -> None:
        """Close the row of a step, and begin the next."""
        self._close(step)
        self._simulation.faults.begin_step(self.rank, step + 1)

    def _close(self, step: int) -> None:
        if self.is_restarted:
            self.log.record({"incarnation": self._incarnation})
        self.log.close_step(step)
        self.step = step
