"""Collectives whose end the simulator knows without sending their messages.

All workers meet in one; when the last one has come, what each of them does is known, and each is woken at its own end.
Whoever sends anything else meanwhile would share links with messages that are not there, so nobody may.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import simpy

from psgdsim import wire
from psgdsim.collectives import ring_all_reduce
from psgdsim.collectives.base import offsets
from psgdsim.errors import ProgramError, SimulationError
from psgdsim.node import Collective
from psgdsim.per_rank import Each, Parted
from psgdsim.sim import ring
from psgdsim.sim.coroutines import wait
from psgdsim.sim.execution.exact import Exact
from psgdsim.sim.paths import Paths
from psgdsim.sim.sharing import Floats, Ints
from psgdsim.sim.values import Computed

if TYPE_CHECKING:
    from psgdsim.sim.driver import Simulation
    from psgdsim.sim.lockstep import LockstepNode
    from psgdsim.sim.node import SimNode


class _End(simpy.Event):
    """The moment at which a rank is done."""

    def fire_at(self, time: float, value: Any) -> None:
        """Fire at a time to come [s]."""
        self._ok, self._value = True, value
        self.env.schedule(self, delay=max(0.0, time - self.env.now))


@dataclass(frozen=True)
class _Call:
    """What a rank has come with.

    Args:
        time: when it came [s].
        tag: names the operation.
        vector: its addend.
        end: fires when it is done, with the sum, the seconds in which it sent or received, and the sizes of the frames
            that it has sent and of the tensors in them [byte].
    """

    time: float
    tag: str
    vector: Any
    end: _End


def _are_alike(call: _Call, tag: str, vector: Any) -> bool:
    """Whether ranks agree on what they take part in."""
    return call.tag == tag and call.vector.shape == vector.shape and bool(call.vector.dtype == vector.dtype)


def _what(tag: str, vector: Any) -> str:
    """Return what ranks must agree on."""
    return f"{tag!r} of {vector.dtype}{list(vector.shape)}"


class Shortcuts:
    """The shortcuts of one run; there is one, for a ring all-reduce of all workers.

    Times, bytes, and what happens on links are those of the messages. So are the seconds of each rank where it computes
    until it comes: if it only waits, what is on its way to it by then counts as transfer only message by message.

    Args:
        simulation: the run.
    """

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._num = simulation.experiment.world_size
        self._rings: dict[Any, tuple[ring.Ring, Ints]] = {}  # by shape and dtype of the vector, and what ranks send
        self._calls: dict[int, _Call] = {}  # of those that wait for others to come
        self._inside: dict[int, str] = {}  # the tags of all that have come and are not done

    def way_of(self, operation: Collective) -> Callable[..., Coroutine[Any, Any, Any]]:
        """Return what to call in place of an operation: a shortcut where that is the same, or else itself."""
        return self.take if operation is ring_all_reduce and self._ways is not None else operation

    @cached_property
    def _ways(self) -> ring.Ways | None:
        """The ways of a ring's messages, or None if what happens on them must be simulated message by message."""
        experiment, topology = self._simulation.experiment, self._simulation.topology
        model = experiment.scenario.network
        is_disturbed = experiment.changes or experiment.faults or model.message_overhead.cpu
        if experiment.trace == "full" or self._num < 3 or is_disturbed or model.model == "fifo":
            return None
        bandwidth = [link.bandwidth for link in topology.links]
        paths = Paths(bandwidth, [link.latency for link in topology.links], model.tcp_model)
        hosts = [topology.host_of(rank) for rank in range(self._num)]
        ways = [
            paths.path(topology.route(src, dst), topology.route(dst, src) if paths.needs_reverse else ())
            for src, dst in zip(hosts, [*hosts[1:], hosts[0]], strict=True)
        ]
        return ring.Ways(ways, bandwidth) if ring.Ways.are_apart(ways) else None

    def refuse(self, node: SimNode, tag: str) -> None:
        """Raise if a message must not be sent now.

        Args:
            node: who sends it.
            tag: what it is.

        Raises:
            SimulationError: some rank is in a collective.
        """
        if self._inside:
            rank, name = next(iter(self._inside.items()))
            self._fail(f"rank {node.rank} sends {tag!r} while rank {rank} is in collective {name!r}")

    def _fail(self, what: str) -> NoReturn:
        raise SimulationError(
            f"{what}: nothing else may be on its way meanwhile where collectives are computed as a whole; set "
            "trace: full in the scenario, and each of their messages is simulated"
        )

    def waits_of(self, node: SimNode) -> list[str]:
        """Return what a rank waits for, if it waits for others to come."""
        call = self._calls.get(node.rank)
        return [] if call is None else [f"the other workers in collective(tag={call.tag!r})"]

    # --- a ring all-reduce ------------------------------------------------------------------------------------

    async def take(self, node: SimNode, vector: Any, *, tag: str) -> Any:
        """Do what `collectives.ring_all_reduce` does.

        Raises:
            ProgramError: the ranks do not call it together, or not for vectors that are alike.
            SimulationError: a message is on its way.
        """
        self._check(node, vector, tag)
        self._inside[node.rank] = tag
        call = self._calls[node.rank] = _Call(node.now, tag, vector, _End(self._simulation.env))
        node.log.enter("wait")
        try:
            if len(self._calls) == self._num:
                await self._settle(node)
            total, seconds, sizes = await wait(call.end)
        finally:
            node.log.leave("wait")
            del self._inside[node.rank]
        node.log.charge_wait("transfer", seconds)
        node.log.count_sent(*sizes)
        return total

    def _check(self, node: SimNode, vector: Any, tag: str) -> None:
        wire.check_tag(f"{tag} rs{self._num - 2}")
        if node.rank >= self._num or node.rank in self._inside:
            raise ProgramError(
                f"rank {node.rank}: collective {tag!r}: expected a worker that is in no other collective; got "
                f"{self._inside.get(node.rank, 'a server')!r}"
            )
        if not self._inside and self._simulation.post.is_busy:
            self._fail(f"rank {node.rank} begins collective {tag!r} while a message is on its way")
        rank, first = next(iter(self._calls.items()), (node.rank, None))
        if first is not None and not _are_alike(first, tag, vector):
            raise ProgramError(
                f"rank {node.rank}: collective {_what(tag, vector)}: expected what rank {rank} has come with, "
                f"{_what(first.tag, first.vector)}"
            )

    async def _settle(self, node: SimNode) -> None:
        """Find out how it goes, now that all have come, and wake each rank when it is done."""
        calls, self._calls = [self._calls[rank] for rank in range(self._num)], {}
        course, sent = self._course(calls[0].vector, np.array([call.time for call in calls]))
        total = await self._total(node, [call.vector for call in calls])
        results = zip(calls, course.ends.tolist(), course.transfer.tolist(), sent.tolist(), strict=True)
        for call, end, seconds, nbytes in results:
            call.end.fire_at(end, (total, seconds, nbytes))

    def _course(self, vector: Any, starts: Floats) -> tuple[ring.Course, Ints]:
        """Find out how it goes for vectors like this one, and book it.

        Returns:
            How it goes, and for each rank the sizes of all frames that it sends and of the tensors in them [byte].
        """
        shape = vector.shape, vector.dtype
        if shape not in self._rings:
            self._rings[shape] = self._find_ring(vector)
        found, sent = self._rings[shape]
        course = found.course(starts)
        self._simulation.accounts.book(course.traffic)
        return course, sent

    async def take_together(self, node: LockstepNode, operation: Collective, vector: Any, *, tag: str) -> Any:
        """Do what `take` does for all workers, carried on as one."""
        if self.way_of(operation) is operation or vector.dtype != np.float32:
            raise Parted("a collective of many messages")
        wire.check_tag(f"{tag} rs{self._num - 2}")
        if self._simulation.post.is_busy:
            raise Parted(f"collective {tag!r} while a message is on its way")
        node.log.enter("wait")
        await node.catch_up()
        course, sent = self._course(vector, node.times)
        total = await node.compute(
            self._simulation.experiment.task.weighted_sum, np.ones(self._num, np.float32), Each(vector, self._num)
        )
        now = node.clock_time
        node.times = now + np.maximum(0.0, course.ends - now)
        node.log.leave("wait")
        node.log.charge_wait("transfer", course.transfer)  # type: ignore[arg-type]
        node.log.count_sent(sent[:, 0], sent[:, 1])  # type: ignore[arg-type]
        return total

    async def _total(self, node: SimNode, vectors: list[Any]) -> Any:
        """Return the sum; in the order of the ring, where it must be the very bits that messages would bring."""
        simulation = self._simulation
        if isinstance(simulation.execution, Exact) or vectors[0].dtype != np.float32:
            return await node.compute(ring.SUM, vectors)
        return await node.compute(simulation.experiment.task.weighted_sum, [1.0] * self._num, vectors)

    def _find_ring(self, vector: Any) -> tuple[ring.Ring, Ints]:
        """Return the ring of vectors like this one, and what each rank sends, as `_course` does."""
        import jax

        assert self._ways is not None
        lengths = np.diff(offsets(vector.shape[0], self._num)).tolist()
        make: Any = jax.ShapeDtypeStruct
        chunks = {length: Computed(make((length, *vector.shape[1:]), vector.dtype)) for length in set(lengths)}
        sizes = {length: self._simulation.sizes.of(chunk) for length, chunk in chunks.items()}
        frames = np.array([sizes[length] for length in lengths])
        overhead = self._simulation.experiment.scenario.network.message_overhead.nbytes
        # A rank passes on every chunk twice, but for those that its two successors begin with.
        sent = 2 * frames.sum(axis=0) - np.roll(frames, -1, axis=0) - np.roll(frames, -2, axis=0)
        return ring.Ring(self._ways, 8.0 * (frames[:, 0] + overhead)), sent
