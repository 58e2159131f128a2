"""Workers that do the same, carried on as one: their program runs once, each has a time of its own.

Values do not decide when things happen, so the program may run ahead of the clock: a computation adds to the times of
the ranks, and the clock is waited for only where they meet others. Messages set out at their rank's time, and the
program goes on when the last of them has arrived; what is sent next must not be due before that. Where ranks would
part, in what they do or by what they know, `Parted` is raised, and the run begins anew, rank by rank (`run_sim`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from psgdsim import rng, wire
from psgdsim.node import ANY, Collective, Job, Kernel, Message, Node, snapshot
from psgdsim.per_rank import Parted, PerRank, per_rank
from psgdsim.sim.coroutines import wait
from psgdsim.sim.execution.lanes import LaneHandle, view
from psgdsim.sim.kernel_times import KernelTimes
from psgdsim.sim.values import Digests, Value
from psgdsim.sim.wave import Wave
from psgdsim.trace import RankReport

if TYPE_CHECKING:
    from collections.abc import Callable

    from psgdsim.sim.driver import Simulation
    from psgdsim.sim.sharing import Floats


class LockstepNode(Node):
    """All workers in virtual time, as long as they do the same.

    Args:
        simulation: what it is part of.
        ranks: which ones they are.

    Attributes:
        rank: theirs.
        ranks: as given.
        times: the time of each [s]; never changed in place.
        log: what they did; in it are arrays where they differ.
        models: those of the first rank at the last checkpoint.
        step: the last step that ended.
        hosts: where each of them lives, by index.
    """

    rank: Any
    is_up, is_returning, is_restarted = True, False, False

    def __init__(self, simulation: Simulation, ranks: range) -> None:
        experiment, topology = simulation.experiment, simulation.topology
        self.rank, self.ranks = PerRank(ranks), ranks
        self.world_size, self.num_servers = experiment.world_size, experiment.strategy.num_servers
        self.times: Floats = np.zeros(len(ranks))
        self.log = experiment.start_log(ranks[0], lambda: self.times)  # type: ignore[arg-type, return-value]
        self.models: Sequence[Any] = ()
        self.step = 0
        self.hosts = [topology.host_of(rank) for rank in ranks]
        self._simulation, self._env = simulation, simulation.env
        self._all_models: Sequence[Any] = ()
        self._kernel_times = [
            KernelTimes(
                experiment.compute.start(rank, rng.stream(experiment.scenario.seed, "compute", rank)),
                rank_rows=experiment.rank_rows,
                speed=topology.speed(rank),
                codec_rate=experiment.scenario.codec_rate,
            )
            for rank in ranks
        ]
        self._is_untraced = experiment.trace == "off"
        self._waits_for: tuple[int | None, str] | None = None

    @property
    def now(self) -> Any:
        """The virtual time [s]."""
        return per_rank(self.times.tolist())

    @property
    def earliest(self) -> float:
        """The time of the rank that is first [s]."""
        return float(self.times.min())

    @property
    def first_time(self) -> float:
        """The time of the first rank [s]."""
        return float(self.times[0])

    @property
    def clock_time(self) -> float:
        """The time of the clock [s]."""
        return float(self._env.now)

    # --- values -----------------------------------------------------------------------------------------------

    async def compute(self, kernel: Kernel, *arguments: Any) -> Any:
        """Put the kernel off for all ranks, and let each of them have spent its time on it."""
        if kernel.forwards is None:
            result = self._simulation.execution.call(kernel, arguments)
            if kernel.judge is not None:
                result = self._simulation.verdicts.take(kernel, arguments, result, self.log)
        else:
            result = tuple([arguments[place] for place in kernel.forwards])
        if not (kernel.is_concurrent or self._kernel_times[0].is_free(kernel)):
            with self.log.during("encode" if kernel.kind == "codec" else "compute"):
                amount, share = self._kernel_times[0].measure(kernel, arguments, result)
                pairs = zip(self._kernel_times, self.times.tolist(), strict=True)
                self.times = self.times + [each.seconds(kernel, amount, share, begin) for each, begin in pairs]
        return result

    async def read(self, value: Any) -> Any:
        """Return the numbers, which must not differ between ranks."""
        import jax

        if any(type(leaf) in (LaneHandle, PerRank) for leaf in jax.tree.leaves(value)):
            raise Parted("a program reads numbers of its own rank")
        return jax.tree.map(lambda leaf: leaf.numbers if isinstance(leaf, Value) else leaf, value)

    # --- messages ---------------------------------------------------------------------------------------------

    async def send(self, dst: int, payload: Any, *, tag: str) -> None:
        """Send a message of each rank to a server."""
        if type(dst) is not int or dst not in self.servers:
            self._part("send to a worker")
        nbytes = self._count(payload, tag)
        server = self._simulation.nodes[dst]
        payload, log = snapshot(payload), server.log
        wave = Wave(self._env, self._simulation.network, payload, log.enter_several, log.leave_several)
        with self._simulation.post.busy(), self.log.during("transfer"):
            wave.send(self.hosts, [server.host] * len(self.ranks), nbytes, self.times)
            await wait(wave.over)
            self.times = wave.ends
        server.take_wave(tag, payload)

    def _count(self, payload: Any, tag: str) -> int:
        """Count a message that each rank sends; return its size [byte]."""
        import jax

        wire.check_tag(tag)
        if any(type(leaf) is PerRank for leaf in jax.tree.leaves(payload)):
            self._part("send numbers of its own")
        sizes = self._simulation.sizes.of(payload)
        self.log.count_sent(*sizes)
        return sizes[0]

    async def recv(self, src: int | None = ANY, *, tag: str, timeout: float | None = None) -> Message:
        """Wait for the messages that a server sends to each rank."""
        if type(src) is not int or timeout is not None:
            self._part("receive from any rank, or not for ever")
        self._waits_for = src, tag
        arrival = self._arrival = self._env.event()
        self.log.enter("wait")
        payload = await wait(arrival)
        self.log.leave("wait")
        return Message(src, tag, payload)

    def wave_starts(self, src: int, tag: str) -> None:
        """Take note that messages set out to all ranks now."""
        if self._waits_for != (src, tag) or self.times.max() > self._env.now:
            self._part("get a message that it does not wait for yet")
        self.times = np.full(len(self.ranks), self._env.now)
        self.log.enter("transfer")

    def wave_ends(self, wave: Wave) -> None:
        """Take what has arrived at all ranks."""
        self.times = wave.ends
        self.log.leave("transfer")
        self._waits_for = None
        self._arrival.succeed(wave.payload)

    async def multicast(self, dsts: Sequence[int], payload: Any, *, tag: str) -> None:  # noqa: ARG002 - refused
        """Refuse: each rank has other receivers."""
        self._part(f"multicast {tag!r}")

    async def collective(self, operation: Collective, vector: Any, *, tag: str) -> Any:
        """Find out what comes of an operation of all workers without its messages."""
        return await self._simulation.shortcuts.take_together(self, operation, vector, tag=tag)

    # --- time -------------------------------------------------------------------------------------------------

    async def catch_up(self) -> None:
        """Wait until the clock is where the last of the ranks is."""
        last = float(self.times.max())
        if last > self._env.now:
            await wait(self._env.at(last, lambda: None))

    def set_time(self, time: float) -> None:
        """Let it be so late for all ranks."""
        self.times = np.full(len(self.ranks), time)

    async def sleep(self, seconds: float) -> None:
        """Let time pass for each rank."""
        if type(seconds) not in (int, float) or not 0 <= seconds < np.inf:
            self._part(f"sleep for {seconds!r} s")
        self.times = self.times + seconds

    async def gather(self, *coroutines: Coroutine[Any, Any, Any]) -> list[Any]:
        """Run a single coroutine."""
        if len(coroutines) != 1:
            for coroutine in coroutines:
                coroutine.close()
            self._part("do several things at once")
        return [await coroutines[0]]

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> Job:
        """Refuse."""
        coroutine.close()
        self._part("spawn")

    def _part(self, what: str) -> NoReturn:
        raise Parted(f"ranks {self.ranks} {what}")

    # --- steps ------------------------------------------------------------------------------------------------

    def record(self, **values: Any) -> None:
        """Add numbers to the rows of the step under way."""
        if any(isinstance(value, np.ndarray) for value in values.values()):
            self._part("record arrays")
        self.log.record(values)

    async def checkpoint(self, step: int, models: Sequence[Any]) -> bool:
        """End a step, and meet the others where the schedule says so."""
        import jax

        self.end_step(step)
        self._all_models = models
        self.models = jax.tree.map(lambda leaf: view(leaf, 0), list(models))
        return await self._simulation.checkpoint(self)

    def end_step(self, step: int) -> None:
        """Close the rows of a step, and begin the next; without a trace, only the first rank keeps older ones."""
        self.log.close_step(step)
        self.step = step
        rows = self.log.rows
        if self._is_untraced and len(rows) > 1:
            rows[-2] = {name: _of_first(value) for name, value in rows[-2].items()}

    # --- what is known at the end -----------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Whether the ranks can do nothing until a message comes."""
        return self.log.is_only_waiting

    def end_jobs(self) -> None:
        """Do nothing: no jobs can be spawned."""

    def reports(self, read: Callable[[Any], Any], digests: Digests | None) -> list[RankReport]:
        """Return the report of each rank.

        Args:
            read: turns values into numbers.
            digests: of models; None if nothing more can be computed.
        """
        import jax

        self.times = np.maximum(self.times, self.clock_time)  # until the end of the run, those that have ended wait
        num = len(self.ranks)
        whole = self.log.report(lambda value: _column(value, read, num), "", 0)
        num_alike = len(whole.rows) - 1 if self._is_untraced else 0  # rows of the first rank alone
        columns = [{name: _spread(value, num) for name, value in row.items()} for row in whole.rows[num_alike:]]
        seconds = {name: _spread(value, num) for name, value in whole.seconds.items()}
        sent, payload, replaced = (
            _spread(each, num) for each in (whole.sent_nbytes, whole.payload_nbytes, whole.num_replaced)
        )
        # Digests tell models apart by their identity, so all of them live until all digests are known.
        models = [
            [] if digests is None else jax.tree.map(lambda leaf, i=place: view(leaf, i), list(self._all_models))
            for place in range(num)
        ]
        return [
            dataclasses.replace(
                whole,
                rank=rank,
                rows=[
                    *([] if place else whole.rows[:num_alike]),
                    *[{**{name: column[place] for name, column in row.items()}, "rank": rank} for row in columns],
                ],
                events=[],
                seconds={name: column[place] for name, column in seconds.items()},
                sent_nbytes=sent[place],
                payload_nbytes=payload[place],
                digest="" if digests is None else digests.of(models[place]),
                staleness=dict(whole.staleness),
                num_replaced=replaced[place],
            )
            for place, rank in enumerate(self.ranks)
        ]


def _of_first(value: Any) -> Any:
    """Return what the first rank has of what may differ between ranks."""
    return value[0].item() if isinstance(value, np.ndarray) else view(value, 0)


def _column(value: Any, read: Callable[[Any], Any], num: int) -> Any:
    """Return the number that all ranks have, or a list with one for each of so many."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    number = read(value)
    if type(value) is LaneHandle and number is not None:
        return [each.item() for each in number[:num]]
    return number


def _spread(value: Any, num: int) -> Sequence[Any]:
    """Return what each of so many ranks has."""
    if isinstance(value, np.ndarray):
        return value.tolist()  # type: ignore[no-any-return]
    return value if isinstance(value, list) else [value] * num
