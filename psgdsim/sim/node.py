"""The node of the simulator: what a program awaits, in virtual time."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from psgdsim import rng, wire
from psgdsim.errors import ProgramError, RecvTimeout
from psgdsim.node import ANY, Job, Kernel, Mailbox, Message, Node, Waiter
from psgdsim.sim.coroutines import Running, wait
from psgdsim.sim.values import numbers, unwrap, wrap
from psgdsim.trace import Activity, RankLog

if TYPE_CHECKING:
    import simpy

    from psgdsim.sim.driver import Simulation


class SimNode(Node):
    """One rank in virtual time.

    Args:
        simulation: what it is part of.
        rank: which one it is.
    """

    def __init__(self, simulation: Simulation, rank: int) -> None:
        self.rank = rank
        self.world_size = simulation.experiment.world_size
        self.role = "worker"
        self.log = RankLog(rank, clock=lambda: simulation.env.now)
        self.mailbox = Mailbox()
        self.models: Sequence[Any] = ()
        self.step = 0
        self._simulation = simulation
        self._env: simpy.Environment = simulation.env
        experiment, topology = simulation.experiment, simulation.topology
        self._draw = experiment.compute.start(rank, rng.stream(experiment.scenario.seed, "compute", rank))
        self._speed = topology.speed(rank)
        self.host = topology.host_of(rank)
        self._is_free_at = 0.0

    @property
    def now(self) -> float:
        """The virtual time [s]."""
        return float(self._env.now)

    async def compute(self, kernel: Kernel, *arguments: Any) -> Any:
        """Run the kernel now, and let the time pass that the machine needs for it; one kernel at a time."""
        start = self.now
        result = kernel.function(*unwrap(arguments))
        begin = max(self._is_free_at, start)
        self._is_free_at = begin + self._duration(kernel, arguments, begin)
        activity: Activity = "encode" if kernel.kind == "codec" else "compute"
        with self.log.during(activity):
            if self._is_free_at > start:
                await wait(self._env.timeout(self._is_free_at - start))
        self.log.add_event(activity, kernel.name, start)
        return wrap(result)

    def _duration(self, kernel: Kernel, arguments: tuple[Any, ...], begin: float) -> float:
        """Return the time of a kernel that begins at some time [s]."""
        if kernel.rows is None:
            return 0.0
        load = kernel.rows(*arguments) / self._simulation.experiment.rank_rows
        return self._draw(begin, load) / self._speed

    async def read(self, value: Any) -> Any:
        """Return the numbers; takes no time."""
        return numbers(value)

    async def send(self, dst: int, payload: Any, *, tag: str) -> None:
        """Send one frame over the route to `dst`."""
        self._check_peer(dst)
        nbytes = self._count(payload, tag)
        with self.log.during("transfer"):
            start = self.now
            route = self._simulation.topology.route(self.host, self._simulation.nodes[dst].host)
            arrival = self._simulation.network.carry(route, nbytes)
            self._deliver_on(arrival, dst, Message(self.rank, tag, payload), nbytes)
            await wait(arrival)
        self.log.add_event("send", tag, start, peer=dst, nbytes=nbytes)

    async def multicast(self, dsts: Sequence[int], payload: Any, *, tag: str) -> None:
        """Send one payload to several ranks, at the cost that the topology says."""
        if self._simulation.topology.multicast == "unicast":
            await self.gather(*(self.send(dst, payload, tag=tag) for dst in dsts))
            return
        for dst in dsts:
            self._check_peer(dst)
        nbytes = self._count(payload, tag, copies=len(dsts))
        message = Message(self.rank, tag, payload)
        with self.log.during("transfer"):
            start = self.now
            await wait(self._copy_to(dsts, message, nbytes))
        self.log.add_event("send", tag, start, nbytes=nbytes)

    def _copy_to(self, dsts: Sequence[int], message: Message, nbytes: int) -> simpy.Event:
        """Put a multicast on the network; return what fires when the sender is done with it."""
        network, topology = self._simulation.network, self._simulation.topology
        hosts = [self._simulation.nodes[dst].host for dst in dsts]
        if topology.multicast == "native":
            latency = max((topology.latency(topology.route(self.host, host)) for host in hosts), default=0.0)
            sent = network.carry(topology.tree(self.host, hosts), nbytes, latency=latency)
            for dst in dsts:
                self._deliver_on(sent, dst, message, nbytes)
            return sent
        uploaded = network.carry(topology.relay_route(self.host, True), nbytes)

        def relay(_: simpy.Event) -> None:
            for dst, host in zip(dsts, hosts, strict=True):
                self._deliver_on(network.carry(topology.relay_route(host, False), nbytes), dst, message, nbytes)

        uploaded.callbacks.append(relay)
        return uploaded

    def _deliver_on(self, arrival: simpy.Event, dst: int, message: Message, nbytes: int) -> None:
        receiver = self._simulation.nodes[dst]
        start = self.now
        receiver.log.enter("transfer")

        def deliver(_: simpy.Event) -> None:
            receiver.log.leave("transfer")
            receiver.log.add_event("receive", message.tag, start, peer=message.src, nbytes=nbytes)
            self._simulation.deliver(dst, message)

        arrival.callbacks.append(deliver)

    def _count(self, payload: Any, tag: str, *, copies: int = 0) -> int:
        wire.check_tag(tag)
        nbytes = wire.nbytes(payload)
        self.log.count_sent(nbytes, wire.tensor_nbytes(payload), copies=copies)
        return nbytes

    def _check_peer(self, dst: int) -> None:
        if dst == self.rank or not 0 <= dst < self.world_size:
            raise ProgramError(f"rank {self.rank} sends to rank {dst}; expected another of 0 to {self.world_size - 1}")

    async def recv(self, src: int | None = ANY, *, tag: str, timeout: float | None = None) -> Message:
        """Take a message that has come, or wait for one."""
        kept = self.mailbox.take(src, tag)
        if kept is not None:
            return kept
        arrived = self._env.event()

        def wake(message: Message | None) -> None:
            arrived.succeed(message)

        def expire(_: simpy.Event) -> None:
            if not arrived.triggered:
                self.mailbox.cancel(waiter)
                arrived.succeed(None)

        waiter = Waiter(src, tag, wake)
        self.mailbox.wait(waiter)
        if timeout is not None:
            self._env.timeout(timeout).callbacks.append(expire)
        try:
            with self.log.during("wait"):
                message: Message | None = await wait(arrived)
        except GeneratorExit:  # cancelled: what was on its way to this receive is for another
            if arrived.triggered and arrived.value is not None:
                self.mailbox.put(arrived.value)
            raise
        finally:
            self.mailbox.cancel(waiter)
        if message is None:
            raise RecvTimeout(self.rank, "any rank" if src is ANY else src, tag, timeout or 0.0)
        return message

    async def sleep(self, seconds: float) -> None:
        """Let virtual time pass."""
        await wait(self._env.timeout(seconds))

    async def gather(self, *coroutines: Coroutine[Any, Any, Any]) -> list[Any]:
        """Run coroutines at the same time."""
        finished = self._env.event()
        jobs: list[Running] = []
        left = len(coroutines)

        def on_end(job: Running) -> None:
            nonlocal left
            left -= 1
            if (left == 0 or job.error is not None) and not finished.triggered:
                finished.succeed()

        try:
            for coroutine in coroutines:
                jobs.append(Running(self._env, coroutine, on_end))
            if coroutines:
                await wait(finished)
        finally:
            for job in jobs:
                job.cancel()
        for job in jobs:
            if job.error is not None:
                raise job.error
        return [job.result for job in jobs]

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> Job:
        """Start a coroutine beside this one; an error that nobody waits for ends the run."""
        return SimJob(self._simulation, self.rank, coroutine)

    def record(self, **values: Any) -> None:
        """Add numbers to the row of the step under way."""
        self.log.record(values)

    async def checkpoint(self, step: int, models: Sequence[Any]) -> bool:
        """End a step, and meet the others where the schedule says so."""
        self.log.close_step(step)
        self.models, self.step = models, step
        return await self._simulation.checkpoint(self)


class SimJob:
    """A coroutine that a program spawned."""

    def __init__(self, simulation: Simulation, rank: int, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._simulation, self._rank = simulation, rank
        self._ended = simulation.env.event()
        self._has_waiter = False
        self._running = Running(simulation.env, coroutine, self._on_end)

    def _on_end(self, running: Running) -> None:
        self._ended.succeed()
        if running.error is not None and not self._has_waiter:
            self._simulation.fail(self._rank, running.error)

    def cancel(self) -> None:
        """Stop it where it waits."""
        self._running.cancel()

    async def wait(self) -> Any:
        """Return its result or raise its error."""
        self._has_waiter = True
        if not self._running.is_done:
            await wait(self._ended)
        if self._running.error is not None:
            raise self._running.error
        return self._running.result
