"""The end of a step: who goes on, who waits for whom, and when the models are evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import simpy

from psgdsim.errors import RankFailed, StrategyError
from psgdsim.node import check_together
from psgdsim.sim.coroutines import wait

if TYPE_CHECKING:
    from psgdsim.sim.driver import Simulation
    from psgdsim.sim.node import SimNode


class StepEnds:
    """The ends of the steps of those ranks that lead a run.

    Args:
        simulation: the run.
    """

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._env: simpy.Environment = simulation.env
        experiment = simulation.experiment
        self._schedule, self._is_lock_step = experiment.task.schedule, experiment.strategy.is_lock_step
        self._leaders, self._awaits_lost = experiment.leaders, experiment.strategy.awaits_lost
        self._num_expected = len(self._leaders)
        self._barrier: simpy.Event = self._env.event()
        self._goes_on = True
        self._arrived: list[SimNode] = []
        self._verdicts: dict[int, bool] = {}
        self._ended: list[int] = []
        self._is_reached = False

    @property
    def have_all_ended(self) -> bool:
        """Whether the programs of all ranks that lead have ended, but of those that are gone for good."""
        return len(self._ended) >= self._num_expected

    def is_waiting(self, node: SimNode) -> bool:
        """Whether a rank waits for others at the end of a step."""
        return node in self._arrived

    def end(self, ranks: Sequence[int]) -> None:
        """Take note that the program of some ranks has ended."""
        leading = [rank for rank in ranks if rank in self._leaders]
        if leading:
            self._ended += leading
            self._meet_if_all_are_there()

    def crash(self, node: SimNode) -> None:
        """Take note that a rank has crashed; fail the run if the others wait for one that will not come back."""
        if self._awaits_lost and self._goes_on and not node.is_returning:
            fate = f"{node.fate}, and does not come back; the others wait for it, as the strategy says"
            self._simulation.fail(node.rank, RankFailed(f"rank {node.rank}", f"step {node.log.step}", fate))
        if node.rank in self._leaders:
            self._num_expected -= not node.is_returning
            if node in self._arrived:
                self._arrived.remove(node)
            self._meet_if_all_are_there()

    async def decide(self, node: SimNode) -> bool:
        """Tell a node whether to go on after the step it ended; nobody waits but where a target must be judged first.

        Otherwise, in lock step, the first rank to end a step decides for all, and models are evaluated when the first
        rank has them, in no time: measuring must not change what is measured.
        """
        schedule, step = self._schedule, node.step
        if not self._is_lock_step:
            return await self._decide_alone(node)
        if schedule.awaits_verdict(step):
            return await self._meet(node)
        goes_on = self._verdicts.setdefault(step, not schedule.is_end(step, node.earliest, None))
        if node is self._simulation.first and (schedule.is_evaluation(step) or not goes_on):
            self._simulation.evaluate(step, node.first_time)
        return goes_on

    async def _decide_alone(self, node: SimNode) -> bool:
        """Let a rank that runs freely decide by its own step and time; the end is a barrier among all that lead."""
        schedule, step, is_first = self._schedule, node.step, node is self._simulation.first
        is_evaluation = schedule.is_evaluation(step)
        accuracy = self._simulation.evaluate(step, self._env.now) if is_first and is_evaluation else None
        self._is_reached |= schedule.is_reached(accuracy)
        if not (self._is_reached or schedule.is_end(step, node.now, None)):
            return True
        if is_first and not is_evaluation:
            self._simulation.evaluate(step, self._env.now)
        return await self._meet(node)

    async def _meet(self, node: SimNode) -> bool:
        await node.catch_up()
        self._arrived.append(node)
        barrier = self._barrier
        self._meet_if_all_are_there()
        with node.log.during("wait"):
            if not barrier.triggered:
                await wait(barrier)
            node.set_time(self._env.now)
        return bool(barrier.value)

    def _meet_if_all_are_there(self) -> None:
        """Open the barrier once all have come but those that are gone for good; fail the run if some never will."""
        num = sum(len(node.ranks) for node in self._arrived)
        if not num or num + len(self._ended) < self._num_expected:
            return
        # A rank that was started again begins at step 1, and one that runs freely has a step of its own.
        alike = [node for node in self._arrived if self._is_lock_step and not node.is_restarted]
        try:
            nodes = self._arrived if self._ended else alike
            check_together({rank: node.step for node in nodes for rank in node.ranks}, self._ended)
        except StrategyError as error:
            self._simulation.fail(self._arrived[0].rank, error)
        else:
            self._open_barrier()

    def _open_barrier(self) -> None:
        self._goes_on = self._is_lock_step and self._judge(max(node.step for node in self._arrived))
        self._arrived = []
        barrier, self._barrier = self._barrier, self._env.event()
        barrier.succeed(self._goes_on)

    def _judge(self, step: int) -> bool:
        """Evaluate the models where that is due, and return whether all go on."""
        schedule = self._schedule
        is_evaluation = schedule.is_evaluation(step)
        accuracy = self._simulation.evaluate(step, self._env.now) if is_evaluation else None
        goes_on = not schedule.is_end(step, self._env.now, accuracy)
        if not (goes_on or is_evaluation):
            self._simulation.evaluate(step, self._env.now)
        return goes_on
