"""The coordinator's part in the steps of a run: bring together those who meet, and take note of evaluations."""

from __future__ import annotations

import time
from typing import Any

from psgdsim.node import check_together
from psgdsim.real import control
from psgdsim.real.crew import Crew
from psgdsim.real.seats import Left, Said, Seat
from psgdsim.scenario.experiment import Experiment


class Training:
    """The steps of one run, rehearsal included.

    Args:
        experiment: what is run.
        crew: who takes part.

    Attributes:
        time: when the last rank has ended, as far as that is known [s].
    """

    def __init__(self, experiment: Experiment, crew: Crew) -> None:
        self._experiment, self._crew = experiment, crew
        self._schedule, self._strategy = experiment.task.schedule, experiment.strategy
        self._leaders = experiment.leaders
        self._evals: list[dict[str, Any]] = []
        self._arrived: dict[int, control.Barrier] = {}
        self._finished: dict[int, float] = {}
        self.time = 0.0

    @property
    def evals(self) -> list[dict[str, Any]]:
        """The rows of all evaluations, in the order of their steps."""
        return sorted(self._evals, key=lambda row: (row["step"], row["model"]))

    async def rehearse(self) -> None:
        """Wait until all are ready; in lock step they meet at the end of the one step that they rehearse."""
        crew = self._crew
        arrived: dict[int, int] = {}
        ready: set[Seat] = set()
        while len(ready) < len(crew.seats):
            said = await crew.next()
            message = said.message if isinstance(said, Said) else None
            if isinstance(message, control.Ready):
                ready.add(said.seat)
            elif isinstance(message, control.Barrier):
                arrived[said.seat.rank] = message.step
            else:
                raise said.unexpected()
            ended = [rank for rank, seat in crew.workers.items() if seat in ready]
            if arrived and len(arrived) + len(ended) == len(crew.workers):
                check_together(arrived, ended)
                await crew.send_all(crew.present, control.Resume(arrived[0], go_on=False, pause=0.0))
                arrived = {}

    async def run(self) -> None:
        """Take part in all steps, until all programs have ended."""
        crew = self._crew
        for seat in crew.seats:
            seat.stage = "training"
        if self._strategy.survives_loss:
            crew.expendable = set(crew.workers).difference(self._leaders if self._experiment.is_led_by_servers else [0])
        await crew.send_all(crew.present, control.Start())
        while any(seat.rank not in self._finished for seat in crew.present):
            event = await crew.next()
            if isinstance(event, Left):
                await crew.send_all(crew.seats, control.Lost(event.seat.rank, event.cause))
                self._arrived.pop(event.seat.rank, None)
            else:
                await self._hear(event)
            await self._meet_if_all_are_there()
        if self._strategy.is_lock_step:
            self.time = max(self._finished.values())

    async def _hear(self, said: Said) -> None:
        rank, message = said.seat.rank, said.message
        if isinstance(message, control.Finished):
            self._finished[rank] = message.time
        elif isinstance(message, control.Barrier):
            self._arrived[rank] = message
            if message.is_reached:
                others = [seat for seat in self._crew.present if seat.rank in self._leaders and seat is not said.seat]
                await self._crew.send_all(others, control.Stop())
        elif isinstance(message, control.Evaluated) and not self._strategy.is_lock_step:
            self.take(message)
        else:
            raise said.unexpected()

    async def _meet_if_all_are_there(self) -> None:
        """Let those who meet at the end of a step go on, or end, once all that lead have come."""
        leading = [seat.rank for seat in self._crew.present if seat.rank in self._leaders]
        ended = [rank for rank in leading if rank in self._finished]
        if not self._arrived or len(self._arrived) + len(ended) < len(leading):
            return
        if self._strategy.is_lock_step:
            check_together({rank: met.step for rank, met in self._arrived.items()}, ended)
            await self._decide(self._arrived[0].step, max(barrier.time for barrier in self._arrived.values()))
        else:
            for rank, barrier in self._arrived.items():
                await self._crew.send_all([self._crew.workers[rank]], control.Resume(barrier.step, False, 0.0))
        self._arrived = {}

    async def _decide(self, step: int, now: float) -> None:
        """Let all go on, or end, after the step at whose end they have met."""
        since = time.monotonic()
        self.time = now
        is_evaluated = self._schedule.is_evaluation(step)
        accuracy = await self._evaluate(step) if is_evaluated else None
        go_on = not self._schedule.is_end(step, now, accuracy)
        if not go_on and not is_evaluated:
            await self._evaluate(step)
        resume = control.Resume(step, go_on, time.monotonic() - since)
        await self._crew.send_all(self._crew.present, resume)

    async def _evaluate(self, step: int) -> float | None:
        """Have the first rank evaluate its models; return the best test accuracy."""
        await self._crew.send_all([self._crew.workers[0]], control.Evaluate(step))
        said = await self._crew.next()
        if isinstance(said, Left) or not isinstance(said.message, control.Evaluated):
            raise said.unexpected()
        self.take(said.message)
        accuracies = [row.get("test_accuracy") for row in said.message.rows]
        return max((accuracy for accuracy in accuracies if accuracy is not None), default=None)

    def take(self, evaluated: control.Evaluated) -> None:
        """Take note of an evaluation."""
        start = {"time": self.time if evaluated.time is None else evaluated.time, "step": evaluated.step}
        self._evals += [{**start, "model": model, **row} for model, row in enumerate(evaluated.rows)]
