"""Run an experiment in virtual time."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import simpy

from psgdsim.errors import Deadlock, Interrupted, PsgdsimError, StrategyError
from psgdsim.node import Message
from psgdsim.scenario.experiment import Experiment
from psgdsim.sim.coroutines import Running, wait
from psgdsim.sim.network import Network
from psgdsim.sim.node import SimNode
from psgdsim.sim.values import numbers, unwrap
from psgdsim.trace import Outcome, Progress


class Simulation:
    """One run in virtual time.

    Args:
        experiment: what to run.
        progress: told after every step of rank 0.
    """

    def __init__(self, experiment: Experiment, progress: Progress | None = None) -> None:
        self.experiment = experiment
        self.env = simpy.Environment()
        self.topology = experiment.topology.build(experiment.world_size)
        self.network = Network(self.env, self.topology)
        self.nodes = [SimNode(self, rank) for rank in range(experiment.world_size)]
        self.evals: list[dict[str, Any]] = []
        self._progress = progress
        self._programs: list[Running] = []
        self._left = len(self.nodes)
        self._error: BaseException | None = None
        self._barrier: simpy.Event = self.env.event()
        self._arrived: list[SimNode] = []

    def run(self) -> Outcome:
        """Run all programs to their end, or to the first error."""
        with self._signals_end_it():
            for node in self.nodes:
                self._start(node)
            while self._error is None and self._left and self.env.peek() != float("inf"):
                self.env.step()
        if self._error is None and self._left:
            self._error = self._deadlock()
        time = max(node.log.rows[-1]["time"] if node.log.rows else 0.0 for node in self.nodes)
        for program in self._programs:
            program.cancel()
        reports = [node.log.report(numbers, unwrap(list(node.models)), len(node.mailbox.unread)) for node in self.nodes]
        return Outcome(time, reports, self.evals, numbers(list(self.nodes[0].models)), self._as_error())

    @contextmanager
    def _signals_end_it(self) -> Iterator[None]:
        """Let the first Ctrl-C or SIGTERM end the run with what it has; a second one ends the process."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}

        def interrupt(signum: int, _frame: object) -> None:
            self._error = self._error or Interrupted(signum)
            signal.signal(signum, signal.SIG_DFL)

        for signum in previous:
            signal.signal(signum, interrupt)
        try:
            yield
        finally:
            for signum, handler in previous.items():
                signal.signal(signum, handler)

    def _start(self, node: SimNode) -> None:
        def on_end(program: Running) -> None:
            self._left -= 1
            if program.error is not None:
                self.fail(node.rank, program.error)

        self._programs.append(Running(self.env, self.experiment.strategy.worker(node, self.experiment.task), on_end))

    def deliver(self, dst: int, message: Message) -> None:
        """Hand a message that has arrived to its receiver."""
        self.nodes[dst].mailbox.put(message)

    def fail(self, rank: int, error: BaseException) -> None:
        """End the run because of an error in a program."""
        if self._error is None:
            error.add_note(f"in the program of rank {rank} at {self.env.now:.9g} s of virtual time")
            self._error = error

    def _as_error(self) -> Exception | None:
        error = self._error
        if error is None or isinstance(error, PsgdsimError):
            return error
        wrapped = StrategyError(f"{'; '.join(error.__notes__)}: {type(error).__name__}: {error}")
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
        """Tell a node whether to go on after the step it ended; a barrier where the schedule says so."""
        schedule, step = self.experiment.task.schedule, node.step
        if node.rank == 0 and self._progress is not None:
            loss = numbers(node.log.rows[-1].get("loss"))
            self._progress(
                node.now, step, schedule.last_step, None if loss is None else float(loss), node.log.sent_nbytes
            )
        if not schedule.is_barrier(step):
            return True
        self._arrived.append(node)
        if len(self._arrived) == len(self.nodes):
            self._open_barrier(step)
            return self._goes_on
        with node.log.during("wait"):
            return bool(await wait(self._barrier))

    def _open_barrier(self, step: int) -> None:
        accuracy = self._evaluate(step) if self.experiment.task.schedule.is_evaluation(step) else None
        self._goes_on = not self.experiment.task.schedule.is_end(step, self.env.now, accuracy)
        if not self._goes_on and accuracy is None:
            self._evaluate(step)
        self._arrived = []
        barrier, self._barrier = self._barrier, self.env.event()
        barrier.succeed(self._goes_on)

    def _evaluate(self, step: int) -> float | None:
        rows = [
            {"time": self.env.now, "step": step, "model": i, **self.experiment.task.evaluate(unwrap(model))}
            for i, model in enumerate(self.nodes[0].models)
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
