"""Run an experiment in virtual time."""

from __future__ import annotations

import signal
from typing import Any

import simpy

from psgdsim import rng
from psgdsim.errors import Deadlock, Interrupted, PsgdsimError, StrategyError, place
from psgdsim.node import Message, check_together
from psgdsim.scenario.changes import Background, Course
from psgdsim.scenario.experiment import Experiment
from psgdsim.signals import signals_to
from psgdsim.sim.changes import BackgroundTraffic, Courses, Delays, LinkConditions
from psgdsim.sim.coroutines import Running, wait
from psgdsim.sim.faults import Faults
from psgdsim.sim.gates import with_gates
from psgdsim.sim.network import Network, utilisation
from psgdsim.sim.node import SimNode
from psgdsim.sim.notes import Notes
from psgdsim.sim.outages import Outages
from psgdsim.sim.post import Post
from psgdsim.sim.values import numbers, unwrap
from psgdsim.trace import LinkReport, Outcome, Progress


class Simulation:
    """One run in virtual time.

    Args:
        experiment: what to run.
        progress: told after every step of rank 0.
    """

    def __init__(self, experiment: Experiment, progress: Progress | None = None) -> None:
        self.experiment = experiment
        self.env = simpy.Environment()
        gated = with_gates(experiment)
        self.bare, self.topology = gated.bare, gated.topology
        self.network = Network(self.env, self.topology, experiment.scenario.network)
        self.nodes: list[SimNode] = []
        delays = Delays(experiment.changes, self.bare, experiment.scenario.seed)
        self.post = Post(self.env, self.network, self.nodes, self.deliver, delays if delays.has_any else None)
        self.notes = Notes(lambda: float(self.env.now))
        hosts = [self.topology.host_of(rank) for rank in range(experiment.world_size)]
        timeout = experiment.scenario.real.heartbeat_timeout
        self.outages = Outages(self.env, self.network, self.post, hosts, timeout, self.look)
        self._conditions = LinkConditions(self.network, self.outages.begin, self.outages.end)
        num_changes = len(experiment.changes)
        self.faults = Faults(self, experiment.faults, gated.of_fault, self._conditions, num_changes)
        self.nodes += [SimNode(self, rank) for rank in range(experiment.world_size)]
        self.evals: list[dict[str, Any]] = []
        self._progress = progress
        self._programs: list[Running] = []
        self._left = self._num_expected = len(self.nodes)
        self._error: BaseException | None = None
        self._where = ""
        self._barrier: simpy.Event = self.env.event()
        self._arrived: list[SimNode] = []
        self._verdicts: dict[int, bool] = {}
        self._ended: list[int] = []
        self._must_look = False

    def run(self) -> Outcome:
        """Run all programs to their end, or to the first error."""
        with signals_to(self._interrupt):
            self._start_all()
            while self._error is None and self._left and self.env.peek() != float("inf"):
                self.env.step()
                if self._must_look and self._is_stuck():
                    break
        if self._error is None and self._left:
            self._error = self._deadlock()
        for program in self._programs:
            program.cancel()
        self.notes.end_all()
        reports = [node.log.report(numbers, unwrap(list(node.models)), len(node.mailbox.unread)) for node in self.nodes]
        return Outcome(
            time=max(node.log.rows[-1]["time"] if node.log.rows else 0.0 for node in self.nodes),
            reports=reports,
            evals=self.evals,
            models=numbers(list(self._survivor.models)),
            error=self._as_error(),
            links=self._links(),
            network_events=self.notes.network,
        )

    @property
    def _survivor(self) -> SimNode:
        """The first rank that is up, or rank 0 if none is."""
        return next((node for node in self.nodes if node.is_up), self.nodes[0])

    def _links(self) -> list[LinkReport]:
        """Return what the network's own links have done."""
        usage = self.network.usage()[: len(self.bare.links)]
        shares = utilisation(usage, float(self.env.now) or 1.0)
        return [LinkReport(link.name, round(link.nbytes), shares[link.name]) for link in usage]

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
        for node in self.nodes:
            self._programs.append(self._start(node))
        self.faults.start()
        for node in self.nodes:
            self.faults.begin_step(node.rank, 1)

    def _start(self, node: SimNode) -> Running:
        def on_end(program: Running) -> None:
            self._left -= not node.is_returning
            node.end_jobs()
            if program.error is not None:
                self.fail(node.rank, program.error)
            elif not program.is_cancelled:
                self._ended.append(node.rank)
                self._meet_if_all_are_there()

        return Running(self.env, self.experiment.strategy.worker(node, self.experiment.task), on_end)

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
        self._num_expected -= not returns
        self._programs[rank].cancel()
        node.crash(cause)
        if node in self._arrived:
            self._arrived.remove(node)
        self.post.crash(rank, cause)
        self._meet_if_all_are_there()

    def restart(self, rank: int) -> None:
        """Start a rank's program again, from the beginning."""
        node = self.nodes[rank]
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
        return all(program.is_done or node.is_idle for node, program in zip(self.nodes, self._programs, strict=True))

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
        lines = []
        for node, program in zip(self.nodes, self._programs, strict=True):
            if program.is_done:
                continue
            waits = [str(waiter) for waiter in node.mailbox.waiters]
            if node in self._arrived:
                waits.append(f"checkpoint(step={node.step})")
            unread = [f"{message.tag!r} from rank {message.src}" for message in node.mailbox.unread[:3]]
            has = f"; unread: {', '.join(unread)}" if unread else ""
            lines.append(f"  rank {node.rank} (step {node.log.step}) waits for {' and '.join(waits) or 'nothing'}{has}")
        head = f"deadlock at {self.env.now:.9g} s of virtual time: nothing is under way, and"
        return Deadlock("\n".join([head, *lines[:20], *(["  ..."] if len(lines) > 20 else [])]))

    # --- the end of a step ------------------------------------------------------------------------------------

    async def checkpoint(self, node: SimNode) -> bool:
        """Tell a node whether to go on after the step it ended; nobody waits but where a target must be judged first.

        Otherwise the first rank to end a step decides for all, and models are evaluated when rank 0 has them, in no
        time: measuring must not change what is measured.
        """
        schedule, step = self.experiment.task.schedule, node.step
        if node.rank == 0 and self._progress is not None:
            loss = numbers(node.log.rows[-1].get("loss"))
            self._progress(
                node.now, step, schedule.last_step, None if loss is None else float(loss), node.log.sent_nbytes
            )
        if schedule.awaits_verdict(step):
            return await self._meet(node)
        goes_on = self._verdicts.setdefault(step, not schedule.is_end(step, node.now, None))
        if node is self._survivor and (schedule.is_evaluation(step) or not goes_on):
            self._evaluate(step)
        return goes_on

    async def _meet(self, node: SimNode) -> bool:
        self._arrived.append(node)
        barrier = self._barrier
        self._meet_if_all_are_there()
        if barrier.triggered:
            return self._goes_on
        with node.log.during("wait"):
            return bool(await wait(barrier))

    def _meet_if_all_are_there(self) -> None:
        """Open the barrier once all have come but those that are gone for good; fail the run if some never will."""
        if not self._arrived or len(self._arrived) + len(self._ended) < self._num_expected:
            return
        # A rank that was started again begins at step 1: it may meet others at another step.
        arrived = {node.rank: node.step for node in self._arrived if self._ended or not node.is_restarted}
        try:
            check_together(arrived, self._ended)
        except StrategyError as error:
            self._error = self._error or error
        else:
            self._open_barrier()

    def _open_barrier(self) -> None:
        step = max(node.step for node in self._arrived)
        schedule = self.experiment.task.schedule
        is_evaluation = schedule.is_evaluation(step)
        accuracy = self._evaluate(step) if is_evaluation else None
        self._goes_on = not schedule.is_end(step, self.env.now, accuracy)
        if not (self._goes_on or is_evaluation):
            self._evaluate(step)
        self._arrived = []
        barrier, self._barrier = self._barrier, self.env.event()
        barrier.succeed(self._goes_on)

    def _evaluate(self, step: int) -> float | None:
        rows = [
            {"time": self.env.now, "step": step, "model": i, **self.experiment.task.evaluate(unwrap(model))}
            for i, model in enumerate(self._survivor.models)
        ]
        self.evals += rows
        return max((row["test_accuracy"] for row in rows if row["test_accuracy"] is not None), default=None)


def run_sim(experiment: Experiment, progress: Progress | None = None) -> Outcome:
    """Run an experiment in virtual time.

    Args:
        experiment: what to run.
        progress: told after every step of rank 0.

    Returns:
        The outcome; `error` holds what went wrong in a program.
    """
    return Simulation(experiment, progress).run()
