"""Run an experiment whose server applies gradients as they come, without running the programs."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from psgdsim import rng
from psgdsim.errors import Interrupted
from psgdsim.per_rank import Parted
from psgdsim.scenario.experiment import Experiment
from psgdsim.signals import signals_to
from psgdsim.sim.accounts import LinkAccounts
from psgdsim.sim.as_they_come.arrivals import Arrivals, Sizes
from psgdsim.sim.as_they_come.reports import Frames, ServerRows, WorkerRows
from psgdsim.sim.as_they_come.values import Values
from psgdsim.sim.evaluations import Evaluations
from psgdsim.sim.garbage import rare_collections
from psgdsim.sim.sizes import FrameSizes
from psgdsim.sim.values import Computed, Digests, numbers
from psgdsim.sim.wires import Wires
from psgdsim.strategies.as_they_come import AsTheyCome
from psgdsim.trace import Outcome, Progress

MAX_OPEN: Final = 2**16
"""So many steps of workers are kept at most where only the last one of each is wanted."""


def is_as_they_come(experiment: Experiment) -> bool:
    """Whether an experiment may be run as a whole, as far as is known without looking at its network.

    Args:
        experiment: what is to be run.
    """
    scenario, task = experiment.scenario, experiment.task
    return (
        experiment.strategy.as_they_come is not None
        and not experiment.strategy.is_bitwise
        and scenario.execution == "batched"
        and experiment.trace != "full"
        and not (experiment.faults or experiment.changes or scenario.codec_rate)
        and task.codec.pack is None
        and task.codec.unpack is None
        and task.global_rows % experiment.world_size == 0
    )


def run(experiment: Experiment, progress: Progress | None = None) -> Outcome | None:
    """Run an experiment.

    Args:
        experiment: what to run; `is_as_they_come` says that this may be.
        progress: told after every step of the server.

    Returns:
        The outcome; None if messages may meet in other ways than `wires` knows, or if something goes wrong, of which
        rank by rank more can be said.
    """
    wires = Wires.of(experiment, experiment.topology.build(experiment.num_ranks))
    rule = experiment.strategy.as_they_come
    if wires is None or rule is None:
        return None
    whole: _Run | None = None
    try:
        with rare_collections(experiment.num_ranks):
            whole = _Run(experiment, wires, rule, progress)
            return whole.run()
    except (Parted, Exception) as error:
        if whole is not None and whole.interrupted is not None:
            raise whole.interrupted from error  # whoever has ended the run does not want it to begin again
        return None  # whatever it is, rank by rank it comes up again, and is told with its rank, step and line


class _Run:
    def __init__(self, experiment: Experiment, wires: Wires, rule: AsTheyCome, progress: Progress | None) -> None:
        self._experiment, self._wires, self._progress = experiment, wires, progress
        num = experiment.world_size
        self._values = Values(experiment.task, rule, num)
        self._frames = self._measured(rule)
        overhead = experiment.scenario.network.message_overhead.nbytes
        frames = self._frames
        sizes = Sizes(
            *(8.0 * (size[0] + overhead) for size in (frames.question, frames.push, frames.answer, frames.end))
        )
        self._accounts = LinkAccounts(wires, wires, len(wires.topology.links))
        self._arrivals = Arrivals(self._draws(), sizes, wires, self._accounts.series)
        self._server = ServerRows(num, self._arrivals, frames)
        self._keeps_all = experiment.trace != "off"
        self._workers = WorkerRows(self._arrivals, frames, keeps_all=self._keeps_all)
        self._evaluations = Evaluations(experiment.task)
        self.interrupted: Interrupted | None = None  # by a signal that has come

    @property
    def is_interrupted(self) -> bool:
        """Whether a signal has come."""
        return self.interrupted is not None

    def _measured(self, rule: AsTheyCome) -> Frames:
        """Return the sizes of all messages."""
        import jax

        sizes, params = FrameSizes(), self._values.params()
        push, answer = (
            jax.tree.map(_computed, each) for each in (rule.push(self._values.payload), rule.answer(params))
        )
        return Frames(*map(sizes.of, (rule.QUESTION, push, answer, rule.END)))

    def _draws(self) -> list[Callable[[float], float]]:
        """Return what draws the times of each worker's gradients: of equally many rows."""
        experiment, topology = self._experiment, self._wires.topology

        def drawer(rank: int) -> Callable[[float], float]:
            draw = experiment.compute.start(rank, rng.stream(experiment.scenario.seed, "compute", rank))
            speed = topology.speed(rank)
            return lambda now: float(draw(now, 1.0) / speed)

        return [drawer(rank) for rank in range(experiment.world_size)]

    def run(self) -> Outcome | None:
        """Run it to its end, or to the end of the step of the server in which a signal comes."""
        with signals_to(self._interrupt):
            while self._step():
                pass
            if not (self.is_interrupted or self._has_failed):
                self._arrivals.end()
        return self._outcome()

    def _interrupt(self, signum: int) -> None:
        """End the run with what it has; a second signal ends the process."""
        self.interrupted = self.interrupted or Interrupted(signum)
        signal.signal(signum, signal.SIG_DFL)

    def _step(self) -> bool:
        """Make a step of the server; return whether to go on."""
        arrivals, schedule = self._arrivals, self._experiment.task.schedule
        arrivals.run_until(arrivals.num_updates + arrivals.num_workers)
        workers, staleness = zip(*arrivals.taken, strict=True)
        arrivals.taken.clear()
        step = self._server.add(staleness)["step"]
        self._values.add(np.array(workers))
        if self._progress is not None:
            loss = self._values.last_loss()
            self._progress(arrivals.now, step, schedule.last_step, loss, self._server.rows[-1]["bytes"])
        if not self._keeps_all and len(arrivals.columns) > MAX_OPEN:
            self._workers.settle(*self._values.take())
        is_evaluation = schedule.is_evaluation(step)
        accuracy = self._evaluate(step) if is_evaluation else None
        is_end = schedule.is_end(step, arrivals.now, accuracy)
        if is_end and not is_evaluation:
            self._evaluate(step)
        return not (is_end or self.is_interrupted or self._has_failed)

    @property
    def _has_failed(self) -> bool:
        """Whether an update has come that must not be used."""
        return self._values.has_marked and self._experiment.task.on_nonfinite == "fail"

    def _evaluate(self, step: int) -> float | None:
        """Evaluate the model; return its test accuracy if it may end the run."""
        return self._evaluations.add(self._arrivals.now, step, [self._values.params()])

    def _outcome(self) -> Outcome | None:
        now, digests = self._arrivals.now, Digests()
        self._workers.settle(*self._values.take())
        models = numbers([self._values.params()])
        if self._experiment.task.encode.judge is not None:
            self._judge_last()
        if self._has_failed and not self.is_interrupted:
            return None
        reports = [*self._workers.reports(digests.of(())), self._server.report(digests.of(models))]
        return Outcome(
            time=max(report.rows[-1]["time"] if report.rows else 0.0 for report in reports),
            reports=reports,
            evals=self._evaluations.rows(is_over=self.is_interrupted),
            models=models,
            error=self.interrupted,
            links=self._accounts.reports(now),
            link_bins=self._accounts.bins(now),
        )

    def _judge_last(self) -> None:
        """Let the codec have what workers have pushed too late; the model is not needed any more."""
        num = self._arrivals.num_workers
        self._values.add(np.flatnonzero([self._arrivals.num_pushed_since(worker) for worker in range(num)]))
        workers, _, marks = self._values.take()
        self._workers.mark(workers, marks)


def _computed(leaf: Any) -> Any:
    return Computed(leaf) if hasattr(leaf, "dtype") else leaf
