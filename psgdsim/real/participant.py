"""One rank of a real run, worker or server, from its welcome to its report."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from psgdsim.errors import ProtocolError, PsgdsimError
from psgdsim.real import control, reports
from psgdsim.real.channel import Channel
from psgdsim.real.clock import Clock
from psgdsim.real.connection import ConnectionEnded, cancel
from psgdsim.real.jobs import gather
from psgdsim.real.mesh import REHEARSAL, TRAINING, Mesh, mesh_secret
from psgdsim.real.node import RealNode
from psgdsim.real.step_ends import Album, Alone, Rows, StepEnds, Together
from psgdsim.real.transport import Listener
from psgdsim.scenario.experiment import Experiment

_LAST_WORD_TIMEOUT = 10.0

FLUSH_TIMEOUT: Final = 1.0
"""How long what was sent may take to leave before a rank reports [s]."""

ALBUM_TIMEOUT: Final = 1.0
"""How long models of a run that failed may still be evaluated [s]."""

Expected = TypeVar("Expected", bound=control.Message)
Build = Callable[[str], Experiment]


class Participant:
    """One rank, from its welcome to its report.

    Args:
        channel: to the coordinator.
        listener: where other ranks connect.
        token: the run's token.
        build: makes the experiment from the scenario's text.
    """

    def __init__(self, channel: Channel, listener: Listener, token: bytes, build: Build) -> None:
        self._channel, self._listener, self._token, self._build = channel, listener, token, build
        self._executor = ThreadPoolExecutor(1, "compute")
        self._inbox: asyncio.Queue[control.Message] = asyncio.Queue()
        self._clock = Clock()
        self._stage = "start-up"
        self._mesh: Mesh | None = None
        self._node: RealNode | None = None
        self._latest: RealNode | None = None
        self._ends: StepEnds | None = None
        self._album: Album | None = None
        self._is_running = False
        self._experiment: Experiment | None = None

    async def run(self) -> int:
        """Take part in a run until the coordinator ends it.

        Returns:
            The process's exit code.

        Raises:
            ProtocolError: the coordinator refused this worker, or is gone.
        """
        main = asyncio.create_task(self._take_part())
        listening = asyncio.create_task(self._listen())
        try:
            await asyncio.wait({main, listening}, return_when=asyncio.FIRST_COMPLETED)
            error = main.exception() if main.done() else None
            if main.done() and error is None:
                await listening
                return 0
            if error is not None:
                await self._report_failure(error)
                await asyncio.wait({listening}, timeout=_LAST_WORD_TIMEOUT)
            await cancel(main)
            if listening.done() and isinstance(listening.result(), control.Abort):
                await self._develop(timeout=ALBUM_TIMEOUT)
                await self._send_report()
            return 1
        except ConnectionEnded as error:
            raise ProtocolError(f"lost the coordinator: {error}") from None
        finally:
            await cancel(main, listening)
            if self._mesh is not None:
                await self._mesh.close()
            self._executor.shutdown(wait=False, cancel_futures=True)

    async def _listen(self) -> control.Message:
        """Take the coordinator's messages; return the one that ends the run."""
        while True:
            message = await self._channel.receive()
            if isinstance(message, control.Refused):
                raise ProtocolError(f"the coordinator refused this process: {message.reason}")
            if isinstance(message, control.Abort | control.Shutdown):
                return message
            if isinstance(message, control.Lost) and self._mesh is not None:
                self._mesh.drop(message.rank, message.cause)
            elif isinstance(message, control.Stop) and isinstance(self._ends, Alone):
                self._ends.must_end = True
            elif not isinstance(message, control.Heartbeat):
                self._inbox.put_nowait(message)

    async def _expect(self, kind: type[Expected]) -> Expected:
        message = await self._inbox.get()
        if not isinstance(message, kind):
            raise ProtocolError(f"expected {kind.__name__} of the coordinator; got {type(message).__name__}")
        return message

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)

    # --- the run ----------------------------------------------------------------------------------------------

    async def _take_part(self) -> None:
        welcome = await self._expect(control.Welcome)
        self._channel.timeout = welcome.heartbeat_timeout
        self._mesh = mesh = Mesh(welcome.rank, welcome.num_ranks, welcome.max_frame)
        secret = mesh_secret(self._token, welcome.run_id)
        connecting = mesh.connect(self._listener, welcome.peers, welcome.relay, secret)
        _, self._experiment = await gather([connecting, self._in_thread(self._build, welcome.scenario)])
        self._ends = self._choose_ends(self._experiment, mesh.rank)
        self._node = self._new_node(TRAINING)
        await self._rehearse()
        await self._channel.send(control.Ready())
        await self._expect(control.Start)
        self._stage = "training"
        self._clock.start()
        await self._run_program(self._node)
        await self._channel.send(control.Finished(self._clock()))
        self._stage = "reporting"
        await self._expect(control.Collect)
        await self._develop()
        await self._send_report()

    def _choose_ends(self, experiment: Experiment, rank: int) -> StepEnds:
        schedule, leaders = experiment.task.schedule, experiment.leaders
        if experiment.strategy.is_lock_step:
            return Together(schedule, self._meet)
        if rank == leaders[0]:
            self._album = Album(self._evaluate, self._tell, is_urgent=schedule.target_accuracy is not None)
        return Alone(schedule, self._album, self._meet if len(leaders) > 1 else None)

    def _new_node(self, phase: int) -> RealNode:
        experiment, mesh = self._experiment, self._mesh
        assert experiment is not None
        assert mesh is not None
        schedule, ends = experiment.task.schedule, self._ends
        if phase == REHEARSAL:
            schedule = dataclasses.replace(schedule, last_step=1)
            ends = Together(schedule, self._meet) if experiment.strategy.is_lock_step else None
        return RealNode(
            mesh,
            self._executor,
            multicast=experiment.topology.multicast,
            schedule=schedule,
            num_servers=experiment.strategy.num_servers,
            ends=ends,
            clock=self._clock if phase == TRAINING else _started_clock(),
            start_log=experiment.start_log,
            phase=phase,
        )

    async def _rehearse(self) -> None:
        """Run one step of the program over the real connections, and forget it: that compiles all kernels."""
        assert self._mesh is not None
        self._stage = "rehearsal"
        node = self._new_node(REHEARSAL)
        self._mesh.start_reading()
        await self._run_program(node)
        self._mesh.attach(REHEARSAL, None)

    async def _run_program(self, node: RealNode) -> None:
        assert self._experiment is not None
        self._latest, self._is_running = node, True
        program = self._experiment.strategy.program(node.rank, node.world_size)
        try:
            await node.jobs.run(program(node, self._experiment.task))
        finally:
            self._is_running = False

    async def _meet(self, step: int, is_reached: bool = False) -> bool:  # noqa: FBT001 - see `step_ends`
        """Wait for all ranks that lead at the end of a step; evaluate if asked to."""
        self._clock.hold()
        await self._channel.send(control.Barrier(step, self._clock(), is_reached))
        message = await self._inbox.get()
        while isinstance(message, control.Evaluate):
            assert self._node is not None
            await self._channel.send(control.Evaluated(step, await self._evaluate(self._node.models)))
            message = await self._inbox.get()
        if not isinstance(message, control.Resume) or message.step != step:
            raise ProtocolError(f"expected Resume({step}) of the coordinator; got {message}")
        self._clock.release(message.pause)
        return message.go_on

    async def _evaluate(self, models: Sequence[Any]) -> Rows:
        assert self._experiment is not None
        task = self._experiment.task
        rows: Rows = await self._in_thread(lambda: [task.evaluate(model) for model in models])
        return rows

    async def _tell(self, step: int, time: float, rows: Rows) -> None:
        await self._channel.send(control.Evaluated(step, rows, time))

    async def _develop(self, timeout: float | None = None) -> None:
        """Evaluate the models that were kept for after the run."""
        if self._album is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._album.develop_all()

    # --- what it tells ----------------------------------------------------------------------------------------

    def heartbeat(self) -> control.Heartbeat:
        """Return a sign of life that says how far this rank is."""
        return reports.heartbeat(self._latest, is_running=self._is_running)

    async def _report_failure(self, error: BaseException) -> None:
        where = self._stage
        if where == "training" and self._node is not None:
            where = f"step {self._node.log.step}"
        if not isinstance(error, PsgdsimError):
            traceback.print_exception(error)
        await self._channel.send(reports.failure(where, error))

    async def _send_report(self) -> None:
        """Send what this rank has: its log and, from the first that leads, the models."""
        if self._node is None or self._mesh is None:
            return
        with contextlib.suppress(TimeoutError):  # of a run that failed, somebody may not read any more
            async with asyncio.timeout(FLUSH_TIMEOUT):
                await self._mesh.flush()
        self._mesh.attach(TRAINING, None)  # what comes now must not change what a thread reads
        control_nbytes = self._mesh.sent("control") + self._channel.sent_nbytes
        sent_nbytes = self._mesh.sent("data")
        assert self._experiment is not None
        is_first = self._node.rank == self._experiment.leaders[0]
        collect = functools.partial(reports.parts, with_models=is_first)
        for part in await asyncio.to_thread(collect, self._node, sent_nbytes, control_nbytes):
            await self._channel.send(part)


def _started_clock() -> Clock:
    clock = Clock()
    clock.start()
    return clock
