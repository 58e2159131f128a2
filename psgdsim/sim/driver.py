"""Run an experiment in virtual time."""

from __future__ import annotations

import dataclasses
import gc
import math
import signal
from collections.abc import Callable
from functools import cached_property
from typing import Any

from psgdsim import rng
from psgdsim.errors import Deadlock, Interrupted, PsgdsimError, RankFailed, StrategyError, place
from psgdsim.node import Message
from psgdsim.per_rank import Parted
from psgdsim.scenario.changes import Background, Course
from psgdsim.scenario.experiment import MAX_FULL, Experiment
from psgdsim.signals import signals_to
from psgdsim.sim.accounts import LinkAccounts
from psgdsim.sim.as_they_come.run import is_as_they_come
from psgdsim.sim.as_they_come.run import run as run_as_they_come
from psgdsim.sim.changes import BackgroundTraffic, Courses, Delays, LinkConditions
from psgdsim.sim.clock import Clock
from psgdsim.sim.coroutines import Running
from psgdsim.sim.evaluations import Evaluations
from psgdsim.sim.execution import make as make_execution
from psgdsim.sim.execution import pays_off
from psgdsim.sim.faults import Faults
from psgdsim.sim.garbage import rare_collections
from psgdsim.sim.gates import with_gates
from psgdsim.sim.last_loss import last_loss
from psgdsim.sim.lockstep import LockstepNode
from psgdsim.sim.network import Network
from psgdsim.sim.node import SimNode
from psgdsim.sim.notes import Notes
from psgdsim.sim.occupancy import Occupancy
from psgdsim.sim.outages import Outages
from psgdsim.sim.post import Post
from psgdsim.sim.shortcuts import Shortcuts
from psgdsim.sim.sizes import FrameSizes
from psgdsim.sim.step_ends import StepEnds
from psgdsim.sim.values import Digests, known, numbers
from psgdsim.sim.verdicts import Verdicts
from psgdsim.sim.wires import Wires
from psgdsim.trace import Outcome, Progress


class Simulation:
    """One run in virtual time.

    Args:
        experiment: what to run.
        progress: told after every step of the first rank that leads.
        is_lockstep: whether all workers are carried on as one (see `lockstep`).

    Attributes:
        in_step: the ranks that are carried on as one, if any.
        nodes: by rank; those that are carried on as one have one in common.
    """

    def __init__(self, experiment: Experiment, progress: Progress | None = None, *, is_lockstep: bool = False) -> None:
        self.experiment = experiment
        self.in_step = range(experiment.world_size if is_lockstep else 0)
        self.env = Clock()
        gated = with_gates(experiment)
        self.bare, self.topology = gated.bare, gated.topology
        occupancy = Occupancy(len(self.topology.links))
        wires = Wires.of(experiment, self.topology)
        self.network = Network(self.env, self.topology, experiment.scenario.network, occupancy=occupancy, wires=wires)
        self.accounts = LinkAccounts(self.network, occupancy, len(self.bare.links))
        self.shortcuts = Shortcuts(self)
        self.nodes: list[Any] = []
        self.sizes = FrameSizes()
        self.execution = make_execution(kind_of(experiment), experiment.num_ranks, len(self.in_step))
        self.verdicts = Verdicts()
        delays = Delays(experiment.changes, self.bare, experiment.scenario.seed)
        self.post = Post(self.env, self.network, self.nodes, self.deliver, delays if delays.has_any else None)
        self.notes = Notes(lambda: float(self.env.now), experiment.max_events)
        hosts = [self.topology.host_of(rank) for rank in range(experiment.num_ranks)]
        timeout = experiment.scenario.real.heartbeat_timeout
        self.outages = Outages(self.env, self.network, self.post, hosts, timeout, self.look)
        self._conditions = LinkConditions(self.network, self.outages.begin, self.outages.end)
        self.faults = Faults(self, experiment.faults, gated.of_fault, self._conditions, len(experiment.changes))
        if is_lockstep:
            self.nodes += [LockstepNode(self, self.in_step)] * len(self.in_step)
        self.nodes += [SimNode(self, rank) for rank in range(len(self.nodes), experiment.num_ranks)]
        self._evaluations = Evaluations(experiment.task)
        self._front = experiment.leaders[0]
        self._progress = progress
        self._programs: list[Running] = []
        self._left = len(set(self.nodes))
        self._error: BaseException | None = None
        self._where = ""
        self.ends = StepEnds(self)
        self._must_look = False

    def run(self) -> Outcome:
        """Run all programs to their end, or to the first error."""
        with rare_collections(self.experiment.num_ranks):
            with signals_to(self._interrupt):
                self._run_programs()
            return self._end()

    def _run_programs(self) -> None:
        self._start_all()
        series, agenda, step = self.accounts.series, self.env.agenda, self.env.step
        while agenda and agenda[0][0] < math.inf and self._error is None and self._left:
            if agenda[0][0] > series.edge:
                series.advance(agenda[0][0])
            step()
            if self._must_look and self._is_stuck():
                break

    def _end(self) -> Outcome:
        if self._error is None and self._left and not self._is_over:
            self._error = self._deadlock()
        for program in self._programs:
            program.cancel()
        self.notes.end_all()
        try:
            self.execution.finish()
            self.verdicts.finish()
            return self._outcome(numbers)
        except Exception as error:  # what was put off has failed: say so, and keep what there is without it
            self._error = self._error or error
            return self._outcome(None)

    def _outcome(self, read: Callable[[Any], Any] | None) -> Outcome:
        """Return what the run has been.

        Args:
            read: turns values into numbers; None if nothing more can be computed.
        """
        digests = None if read is None else Digests()
        reports = [report for node in self._members for report in node.reports(read or known, digests)]
        return Outcome(
            time=max(report.rows[-1]["time"] if report.rows else 0.0 for report in reports),
            reports=reports,
            evals=self._evaluations.rows(is_over=read is None or isinstance(self._error, Interrupted)),
            models=[] if read is None else read(list(self.first.models)),
            error=self._as_error(),
            links=self.accounts.reports(self.env.now),
            link_bins=self.accounts.bins(self.env.now),
            network_events=self.notes.network,
        )

    @cached_property
    def _members(self) -> list[Any]:
        """The nodes, each once."""
        return list(dict.fromkeys(self.nodes))

    @property
    def first(self) -> Any:
        """The first rank that leads and is up, or the first that leads if none is."""
        leaders = self.experiment.leaders
        return next((self.nodes[rank] for rank in leaders if self.nodes[rank].is_up), self.nodes[leaders[0]])

    @property
    def _is_over(self) -> bool:
        """Whether the servers have ended a run, and the only ones left have come back too late to be told."""
        return self._is_dismissed and all(
            program.is_done or node.is_restarted for node, program in zip(self._members, self._programs, strict=True)
        )

    @property
    def _is_dismissed(self) -> bool:
        """Whether all servers of a run that they lead have ended."""
        return self.experiment.is_led_by_servers and self.ends.have_all_ended

    def _interrupt(self, signum: int) -> None:
        """End the run with what it has; a second signal ends the process."""
        self._error = self._error or Interrupted(signum)
        signal.signal(signum, signal.SIG_DFL)

    # --- programs ---------------------------------------------------------------------------------------------

    def _start_all(self) -> None:
        """Begin everything; what changes and faults say of time 0 holds before any time passes."""
        courses = Courses(self.env, self.bare, self._conditions, self.notes, self.look)
        for i, change in enumerate(self.experiment.changes):
            if isinstance(change, Course):
                courses.start(i, change)
            elif isinstance(change, Background):
                generator = rng.stream(self.experiment.scenario.seed, "background", i)
                BackgroundTraffic(self.env, self.network, change, generator, self.look)
        for node in self._members:
            self._programs.append(self._start(node))
        self.faults.start()
        for node in () if self.in_step else self.nodes:
            self.faults.begin_step(node.rank, 1)

    def _start(self, node: Any) -> Running:
        def on_end(program: Running) -> None:
            self._left -= not node.is_returning
            node.end_jobs()
            if program.error is not None:
                self.fail(node.rank, program.error)
            elif not program.is_cancelled:
                self.ends.end(node.ranks)
                if node.ranks[0] in self.experiment.leaders:
                    self._forget_absent()

        program = self.experiment.strategy.program(node.ranks[0], self.experiment.world_size)

        async def run() -> None:
            await program(node, self.experiment.task)
            await node.catch_up()

        return Running(self.env, run() if self.in_step else program(node, self.experiment.task), on_end)

    def _forget_absent(self) -> None:
        """Expect nobody back once the servers that lead a run have ended."""
        for node in self.nodes if self._is_dismissed else ():
            self._left -= node.is_returning
            node.is_returning = False

    def is_running(self, rank: int) -> bool:
        """Whether a rank's program has begun and not ended."""
        return not self._programs[rank].is_done

    def deliver(self, dst: int, message: Message) -> None:
        """Hand a message that has arrived to its receiver."""
        self.nodes[dst].mailbox.put(message)

    def crash(self, rank: int, cause: str, *, returns: bool) -> None:
        """End a rank's program where it is.

        Args:
            rank: which one.
            cause: what others are told.
            returns: whether it will be started again.
        """
        node = self.nodes[rank]
        node.is_returning = returns
        self._programs[rank].cancel()
        node.crash(cause)
        self.post.crash(rank, cause)
        if self.experiment.is_led_by_servers and not self.first.is_up:
            self.fail(rank, RankFailed(f"rank {rank} (server)", f"step {node.log.step}", cause))
        self.ends.crash(node)

    def restart(self, rank: int) -> None:
        """Start a rank's program again, from the beginning, unless the run is over by now."""
        node = self.nodes[rank]
        if not node.is_returning:
            return
        node.restart()
        self.post.restart(rank)
        self.outages.look_again()
        self._programs[rank] = self._start(node)
        self.faults.begin_step(rank, 1)

    def look(self) -> None:
        """Take note that something has happened that no program did: it must not keep a run alive that is stuck."""
        self._must_look = True

    def _is_stuck(self) -> bool:
        """Whether all programs wait for each other, once all that happens at this instant has happened."""
        if self.env.peek() <= self.env.now:
            return False
        self._must_look = False
        if self.post.is_busy or any(node.is_returning for node in self.nodes):
            return False
        return all(program.is_done or node.is_idle for node, program in zip(self._members, self._programs, strict=True))

    def fail(self, rank: int, error: BaseException) -> None:
        """End the run because of an error in a program."""
        if self._error is None:
            self._where = f"in the program of rank {rank} at {self.env.now:.9g} s of virtual time"
            self._error = error

    def _as_error(self) -> Exception | None:
        error = self._error
        if error is None or isinstance(error, PsgdsimError):
            return error
        wrapped = StrategyError(f"{self._where}: {type(error).__name__}: {error}{place(error)}")
        wrapped.__cause__ = error
        return wrapped

    def _deadlock(self) -> Deadlock:
        if self.in_step:
            raise Parted("all wait for each other")
        lines = []
        for node, program in zip(self._members, self._programs, strict=True):
            if program.is_done:
                continue
            waits = [str(waiter) for waiter in node.mailbox.waiters]
            waits += [f"checkpoint(step={node.step})"] * self.ends.is_waiting(node)
            waits += self.shortcuts.waits_of(node)
            unread = [f"{message.tag!r} from rank {message.src}" for message in node.mailbox.unread[:3]]
            has = f"; unread: {', '.join(unread)}" if unread else ""
            name = f"rank {node.rank}{' (server)' * (node.role == 'server')} (step {node.log.step})"
            lines.append(f"  {name} waits for {' and '.join(waits) or 'nothing'}{has}")
        head = f"deadlock at {self.env.now:.9g} s of virtual time: nothing is under way, and"
        return Deadlock("\n".join([head, *lines[:20], *(["  ..."] if len(lines) > 20 else [])]))

    # --- the end of a step ------------------------------------------------------------------------------------

    async def checkpoint(self, node: Any) -> bool:
        """Tell a node whether to go on after the step it ended."""
        schedule, step = self.experiment.task.schedule, node.step
        if self._progress is not None and node is self.nodes[self._front]:
            nbytes = node.log.sent_nbytes if isinstance(node.log.sent_nbytes, int) else int(node.log.sent_nbytes[0])
            self._progress(node.first_time, step, schedule.last_step, last_loss(self.nodes[0].log), nbytes)
        return await self.ends.decide(node)

    def evaluate(self, step: int, time: float) -> float | None:
        """Evaluate the models of the first rank that leads; return the best test accuracy if it may end the run."""
        return self._evaluations.add(time, step, self.first.models)


def kind_of(experiment: Experiment) -> str:
    """Return how the values of an experiment are computed: `exact` or `batched`."""
    return "exact" if experiment.strategy.is_bitwise else experiment.scenario.execution


def can_be_in_step(experiment: Experiment) -> bool:
    """Whether all workers of an experiment may be carried on as one, as far as is known before it is run."""
    scenario, schedule = experiment.scenario, experiment.task.schedule
    return (
        experiment.strategy.is_spmd
        and experiment.strategy.is_lock_step
        and experiment.world_size > 1
        and kind_of(experiment) == "batched"
        and experiment.trace != "full"
        and not (experiment.faults or experiment.changes)
        and not (experiment.strategy.num_servers and (scenario.codec_rate or schedule.max_time is not None))
    )


def run_sim(experiment: Experiment, progress: Progress | None = None) -> Outcome:
    """Run an experiment in virtual time.

    Args:
        experiment: what to run.
        progress: told after every step of the first rank that leads; from the first step again if that was not to be
            as quick as it seemed.

    Returns:
        The outcome; `error` holds what went wrong in a program.
    """
    shortcut = _shortcut(experiment)
    if shortcut is not None:
        way, run = shortcut
        outcome = run(experiment, progress)
        if outcome is not None and (outcome.error is None or isinstance(outcome.error, Interrupted)):
            outcome.way = way
            return outcome
        del outcome
        gc.collect()  # what was put off, arrays and all, must not stay beside that of the run that begins
    outcome = Simulation(experiment, progress).run()
    outcome.way = "rank by rank"
    return outcome


def hint(experiment: Experiment) -> str | None:
    """Return what would make a simulation quicker that is run rank by rank for its timeline alone, else None."""
    if experiment.trace != "full":
        return None
    scenario = experiment.scenario.model_copy(update={"trace": "steps"})
    shortcut = _shortcut(dataclasses.replace(experiment, scenario=scenario))
    if shortcut is None:
        return None
    return (
        f"simulated rank by rank, for its timeline (trace: full, the default of up to {MAX_FULL} ranks); with "
        f"trace=steps it may be simulated {shortcut[0]}, which is much quicker"
    )


def _shortcut(experiment: Experiment) -> tuple[str, Callable[[Experiment, Progress | None], Outcome | None]] | None:
    """Return how it is found out quicker what comes of an experiment, and what does; None if it does not pay.

    The function returns None if it cannot, after all. An error, too, is told of the rank that it happens to, when ranks
    are run one by one.
    """
    if not pays_off(experiment.num_ranks, experiment.world_size * experiment.task.schedule.last_step):
        return None
    if can_be_in_step(experiment):
        return "as one", _run_in_step
    return ("as they come", run_as_they_come) if is_as_they_come(experiment) else None


def _run_in_step(experiment: Experiment, progress: Progress | None) -> Outcome | None:
    """Run an experiment with all workers carried on as one; return None if they part."""
    try:
        return Simulation(experiment, progress, is_lockstep=True).run()
    except Parted:
        return None
