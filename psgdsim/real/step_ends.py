"""The end of a step: in lock step ranks meet where the schedule says so; a rank that runs freely decides by itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from psgdsim.schedule import Schedule

if TYPE_CHECKING:
    from psgdsim.real.node import RealNode

MAX_SNAPSHOTS: Final = 64
"""Models that are kept to be evaluated after the run; further ones are evaluated at once."""

Rows = list[dict[str, float | int | None]]
"""What an evaluation finds, a row per model."""


class Together:
    """The ends of steps in lock step.

    Args:
        schedule: when ranks meet and when the run ends.
        meet: meets the others after a step; returns whether to go on.
    """

    def __init__(self, schedule: Schedule, meet: Callable[[int], Awaitable[bool]]) -> None:
        self._schedule, self._meet = schedule, meet

    async def decide(self, node: RealNode, step: int) -> bool:
        """Return whether a rank goes on after a step."""
        if not self._schedule.is_meeting(step):
            return step < self._schedule.last_step
        with node.meeting():
            return await self._meet(step)


@dataclass(frozen=True)
class Snapshot:
    """Models at the end of a step, still to be evaluated; arrays never change, so that they cost no copy."""

    step: int
    time: float
    models: Sequence[Any]


class Album:
    """The snapshots of the first rank that leads a run in which ranks run freely.

    Args:
        evaluate: evaluates models, a row each.
        tell: told the step, its time [s] and the rows of each evaluation.
        is_urgent: whether an evaluation may end the run.
    """

    def __init__(
        self,
        evaluate: Callable[[Sequence[Any]], Awaitable[Rows]],
        tell: Callable[[int, float, Rows], Awaitable[None]],
        *,
        is_urgent: bool,
    ) -> None:
        self._evaluate, self._tell, self._is_urgent = evaluate, tell, is_urgent
        self._snapshots: list[Snapshot] = []

    async def take(self, snapshot: Snapshot) -> float | None:
        """Keep a snapshot, or evaluate it at once; return the best test accuracy if it is known."""
        if not self._is_urgent and len(self._snapshots) < MAX_SNAPSHOTS:
            self._snapshots.append(snapshot)
            return None
        rows = await self._develop(snapshot)
        accuracies = [row.get("test_accuracy") for row in rows]
        return max((accuracy for accuracy in accuracies if accuracy is not None), default=None)

    async def _develop(self, snapshot: Snapshot) -> Rows:
        rows = await self._evaluate(snapshot.models)
        await self._tell(snapshot.step, snapshot.time, rows)
        return rows

    async def develop_all(self) -> None:
        """Evaluate the snapshots that are kept."""
        while self._snapshots:
            await self._develop(self._snapshots.pop(0))


class Alone:
    """The ends of the steps of a rank that leads and runs freely.

    Args:
        schedule: when the run is evaluated and when it ends.
        album: takes the models to evaluate; None if another rank's are.
        meet: meets the others that lead at the end of the run, given the step and whether the target is reached; None
            if there are none.

    Attributes:
        must_end: whether another rank's models have reached the target.
    """

    def __init__(
        self, schedule: Schedule, album: Album | None, meet: Callable[[int, bool], Awaitable[bool]] | None
    ) -> None:
        self._schedule, self._album, self._meet = schedule, album, meet
        self.must_end = False

    async def decide(self, node: RealNode, step: int) -> bool:
        """Return whether a rank goes on after a step."""
        schedule, now, accuracy = self._schedule, node.now, None
        is_end = self.must_end or schedule.is_end(step, now, None)
        if self._album is not None and (is_end or schedule.is_evaluation(step)):
            with node.busy():
                accuracy = await self._album.take(Snapshot(step, now, node.models))
        is_reached = schedule.is_reached(accuracy)
        if not (is_end or is_reached):
            return True
        if self._meet is not None:
            with node.meeting():
                await self._meet(step, is_reached)
        return False


StepEnds = Together | Alone
