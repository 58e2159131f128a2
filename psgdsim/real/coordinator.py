"""Run an experiment for real: bring the workers together, decide when to go on, and collect what they report."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from psgdsim.errors import PsgdsimError, ScenarioError
from psgdsim.real import control, launch
from psgdsim.real.crew import Crew, Log
from psgdsim.real.seats import Left, Said, Seat, Signalled
from psgdsim.real.stall import StallDetector
from psgdsim.real.training import Training
from psgdsim.real.transport import is_loopback
from psgdsim.scenario.experiment import Experiment
from psgdsim.signals import signals_to
from psgdsim.trace import Outcome, Progress

MAX_FRAME: Final = 2**30
"""The largest frame that a process accepts unless told otherwise [byte]."""

PARTIAL_REPORT_TIMEOUT: Final = 3.0
"""How long the ranks of a failed run may take to report what they have [s]."""

Commands = tuple[Sequence[str], Sequence[str]]
"""How to start a worker and the relay; the coordinator's address is appended."""


def run_real(
    experiment: Experiment,
    scenario_text: str,
    *,
    progress: Progress | None = None,
    log: Log = lambda _: None,
    announce: Log | None = None,
    commands: Commands | None = None,
    max_frame: int = MAX_FRAME,
) -> Outcome:
    """Run an experiment as processes that talk TCP.

    Args:
        experiment: what to run.
        scenario_text: the scenario it was built of; every worker builds it again.
        progress: told how the first rank that leads is getting on.
        log: takes what the processes print, line by line.
        announce: takes what the user should know at once, such as where workers are awaited; `log` by default.
        commands: how to start a worker and the relay, if not as `psgdsim worker` and `psgdsim relay`.
        max_frame: the largest frame that a process accepts [byte].

    Returns:
        The outcome; `error` holds what went wrong, and the rest what there was until then.

    Raises:
        ScenarioError: the address is open to the network, and there is no token.
    """
    program = [sys.executable, "-m", "psgdsim"]
    default = [*program, "worker", "--connect"], [*program, "relay", "--connect"]
    token = _choose_token(experiment)

    conductor = Conductor(experiment, scenario_text, token=token, log=log, progress=progress)
    with signals_to(conductor.interrupt):
        return _run_in_a_loop(lambda: conductor.run(commands or default, announce or log, max_frame))


def _choose_token(experiment: Experiment) -> str:
    settings = experiment.scenario.real
    token = os.environ.get(launch.TOKEN_VARIABLE, "")
    if settings.processes == "local":
        return token or secrets.token_hex(32)
    if not token and not is_loopback(settings.host):
        raise ScenarioError(
            f"real.host: {settings.host} can be reached from other machines; set {launch.TOKEN_VARIABLE} to the "
            "same secret text here and for the workers, or use real.host: 127.0.0.1"
        )
    return token


def _run_in_a_loop(run: Callable[[], Coroutine[Any, Any, Outcome]]) -> Outcome:
    """Run a coroutine function to its end; in a thread where a loop runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(run())
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(lambda: asyncio.run(run())).result()


class Conductor:
    """One run, from the first process to the last report.

    Args:
        experiment: what to run.
        text: its scenario, as the workers get it.
        token: what every process must know.
        log: takes what the processes print.
        progress: told how the first rank that leads is getting on.
    """

    def __init__(self, experiment: Experiment, text: str, *, token: str, log: Log, progress: Progress | None) -> None:
        self._experiment, self._text, self._progress = experiment, text, progress
        self._schedule = experiment.task.schedule
        self._leader = experiment.leaders[0]
        self._crew = Crew(
            experiment.world_size,
            num_servers=experiment.num_ranks - experiment.world_size,
            leader=self._leader,
            has_relay=experiment.topology.multicast != "unicast",
            settings=experiment.scenario.real,
            token=token,
            log=log,
            on_heartbeat=self._note_heartbeat,
        )
        self._stall = StallDetector()
        self._training = Training(experiment, self._crew)
        self._copied: dict[int, int] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def interrupt(self, signum: int) -> None:
        """Let a signal end the run; may be called from any thread, at any time."""
        event = Signalled(signum)
        if self._loop is None:
            self._crew.events.put_nowait(event)
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed: the run has ended
            self._loop.call_soon_threadsafe(self._crew.events.put_nowait, event)

    async def run(self, commands: Commands, announce: Log, max_frame: int) -> Outcome:
        """Run to the end, or to the first failure; no process outlives it."""
        error: PsgdsimError | None = None
        patience = 0.0
        self._loop = asyncio.get_running_loop()
        try:
            await self._crew.assemble(commands, announce)
            await self._welcome(max_frame)
            await self._training.rehearse()
            await self._training.run()
            await self._collect()
            patience = launch.STOP_TIMEOUT
        except PsgdsimError as failure:
            error = failure
            await self._collect_partial()
        finally:
            await self._crew.end(patience=patience)
        return self._outcome(error)

    def _note_heartbeat(self, seat: Seat) -> None:
        """Tell how the rank that leads is getting on, and see whether anybody is.

        Raises:
            Deadlock: nobody is, nor ever will.
        """
        at, workers = seat.progress, self._crew.workers
        beats = {worker.name: worker.progress for _, worker in sorted(workers.items()) if not worker.is_lost}
        deadlock = self._stall.look(beats, time.monotonic())
        if deadlock is not None:
            raise deadlock
        if seat is workers.get(self._leader) and at.step and self._progress is not None:
            loss = workers[0].progress.loss  # a server has none
            self._progress(at.time, at.step, self._schedule.last_step, loss, at.nbytes)

    async def _welcome(self, max_frame: int) -> None:
        """Tell everybody who is who and what to run; they connect to each other and rehearse."""
        peers = [seat.address for _, seat in sorted(self._crew.workers.items())]
        relay, run_id = self._crew.relay, secrets.token_hex(16)
        timeout = self._experiment.scenario.real.heartbeat_timeout
        for seat in self._crew.seats:
            seat.channel.timeout = timeout
            seat.stage = "rehearsal"
            welcome = control.Welcome(
                rank=seat.rank,
                num_ranks=self._experiment.num_ranks,
                scenario=self._text,
                peers=peers,
                relay=None if relay is None else relay.address,
                run_id=run_id,
                max_frame=max_frame,
                heartbeat_timeout=timeout,
            )
            await self._crew.send_all([seat], welcome)

    # --- reports ----------------------------------------------------------------------------------------------

    async def _collect(self) -> None:
        await self._crew.send_all(self._crew.seats, control.Collect())
        has_relay = self._crew.relay is not None
        while not all(seat.is_reported for seat in self._crew.present) or (has_relay and self._copied is None):
            said = await self._crew.next()
            if isinstance(said, Left):
                continue
            if isinstance(said.message, control.Part):
                said.seat.take_part(said.message)
            elif isinstance(said.message, control.RelayReport):
                self._copied = said.message.copied
            elif isinstance(said.message, control.Evaluated):
                self._training.take(said.message)
            else:
                raise said.unexpected()

    async def _collect_partial(self) -> None:
        """Stop everybody and take what they have, within bounds; nothing here may hide the first error."""
        waiting = {seat for seat in self._crew.present if not (seat.is_reported or seat.is_gone)}
        await self._crew.send_all(self._crew.seats, control.Abort())
        with contextlib.suppress(TimeoutError, PsgdsimError):
            async with asyncio.timeout(PARTIAL_REPORT_TIMEOUT):
                while waiting:
                    event = await self._crew.events.get()
                    if isinstance(event, Signalled):
                        return
                    if isinstance(event, Said) and isinstance(event.message, control.Part):
                        event.seat.take_part(event.message)
                    if isinstance(event, Said) and isinstance(event.message, control.Evaluated):
                        self._training.take(event.message)
                    waiting = {seat for seat in waiting if not (seat.is_reported or seat.is_gone)}

    def _outcome(self, error: PsgdsimError | None) -> Outcome:
        workers = self._crew.workers
        reports = []
        for rank, seat in sorted(workers.items()):
            if seat.report is None:
                continue
            seat.report.control_nbytes += seat.channel.sent_nbytes
            if self._copied is not None:
                seat.report.relay_nbytes = self._copied.get(rank, 0)
            reports.append(seat.report)
        times = [report.rows[-1]["time"] for report in reports if report.rows]
        models = workers[self._leader].models if self._leader in workers else None
        return Outcome(max([self._training.time, *times]), reports, self._training.evals, models or [], error)
