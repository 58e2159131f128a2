"""A worker process: one rank of a real run."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from psgdsim._version import __version__
from psgdsim.errors import ProtocolError, PsgdsimError
from psgdsim.real import control, launch, reports
from psgdsim.real.channel import Channel
from psgdsim.real.clock import Clock
from psgdsim.real.connection import ConnectionEnded, cancel
from psgdsim.real.handshake import Claim, Role
from psgdsim.real.jobs import gather
from psgdsim.real.mesh import REHEARSAL, TRAINING, Mesh, mesh_secret
from psgdsim.real.node import RealNode
from psgdsim.real.transport import Listener, connect
from psgdsim.scenario.experiment import Experiment

HEARTBEAT_TIMEOUT = 10.0
"""How long the coordinator may be silent before the scenario, which may say otherwise, is known [s]."""

_LAST_WORD_TIMEOUT = 10.0

FLUSH_TIMEOUT: Final = 1.0
"""How long what was sent may take to leave before a rank reports [s]."""

Expected = TypeVar("Expected", bound=control.Message)
Build = Callable[[str], Experiment]


def build_experiment(text: str) -> Experiment:
    """Return the experiment of a scenario's text."""
    from psgdsim import scenario
    from psgdsim.compilation import use_cache_on_disk
    from psgdsim.scenario.experiment import build

    use_cache_on_disk()
    return build(scenario.loads(text))


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
            if not isinstance(message, control.Heartbeat):
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
        self._mesh = mesh = Mesh(welcome.rank, welcome.world_size, welcome.max_frame)
        secret = mesh_secret(self._token, welcome.run_id)
        connecting = mesh.connect(self._listener, welcome.peers, welcome.relay, secret)
        _, self._experiment = await gather([connecting, self._in_thread(self._build, welcome.scenario)])
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
        await self._send_report()

    def _new_node(self, phase: int) -> RealNode:
        experiment, mesh = self._experiment, self._mesh
        assert experiment is not None
        assert mesh is not None
        is_rehearsal = phase == REHEARSAL
        schedule = experiment.task.schedule
        return RealNode(
            mesh,
            self._executor,
            multicast=experiment.topology.multicast,
            schedule=dataclasses.replace(schedule, last_step=1) if is_rehearsal else schedule,
            meet=self._meet,
            clock=self._clock if phase == TRAINING else _started_clock(),
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
        try:
            await node.jobs.run(self._experiment.strategy.worker(node, self._experiment.task))
        finally:
            self._is_running = False

    async def _meet(self, step: int) -> bool:
        """Wait for all ranks at the end of a step; rank 0 evaluates if it is asked to."""
        self._clock.hold()
        await self._channel.send(control.Barrier(step, self._clock()))
        message = await self._inbox.get()
        while isinstance(message, control.Evaluate):
            await self._channel.send(control.Evaluated(step, await self._in_thread(self._evaluate)))
            message = await self._inbox.get()
        if not isinstance(message, control.Resume) or message.step != step:
            raise ProtocolError(f"expected Resume({step}) of the coordinator; got {message}")
        self._clock.release(message.pause)
        return message.go_on

    def _evaluate(self) -> list[dict[str, float | None]]:
        assert self._node is not None
        assert self._experiment is not None
        return [self._experiment.task.evaluate(model) for model in self._node.models]

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
        """Send what this rank has: its log and, from rank 0, the models."""
        if self._node is None or self._mesh is None:
            return
        with contextlib.suppress(TimeoutError):  # of a run that failed, somebody may not read any more
            async with asyncio.timeout(FLUSH_TIMEOUT):
                await self._mesh.flush()
        self._mesh.attach(TRAINING, None)  # what comes now must not change what a thread reads
        control_nbytes = self._mesh.sent("control") + self._channel.sent_nbytes
        sent_nbytes = self._mesh.sent("data")
        for part in await asyncio.to_thread(reports.parts, self._node, sent_nbytes, control_nbytes):
            await self._channel.send(part)


def _started_clock() -> Clock:
    clock = Clock()
    clock.start()
    return clock


async def take_part(host: str, port: int, *, token: str = "", build: Build = build_experiment) -> int:
    """Join a run as one rank, until it ends (see `Participant.run`).

    Args:
        host: where the coordinator listens.
        port: where the coordinator listens.
        token: what the coordinator's token is.
        build: makes the experiment from the scenario's text.
    """
    secret = token.encode()
    connection = await connect(host, port, secret, Claim(Role.WORKER))
    listener = Listener(connection.local_host, 0, _complain)
    channel = Channel(connection, HEARTBEAT_TIMEOUT)
    participant = Participant(channel, listener, secret, build)
    channel.heartbeat = participant.heartbeat
    try:
        await channel.send(control.Hello(__version__, os.getpid(), listener.port))
        return await participant.run()
    finally:
        await listener.close()
        await channel.close()


def _complain(message: str) -> None:
    sys.stderr.write(f"{message}\n")


def main(host: str, port: int, *, build: Build = build_experiment) -> int:
    """Run one worker process.

    Args:
        host: where the coordinator listens.
        port: where the coordinator listens.
        build: makes the experiment from the scenario's text.

    Returns:
        The process's exit code.
    """
    launch.end_with_parent()
    try:
        return asyncio.run(take_part(host, port, token=os.environ.get(launch.TOKEN_VARIABLE, ""), build=build))
    except PsgdsimError as error:
        _complain(f"psgdsim worker: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
