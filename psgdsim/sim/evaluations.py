"""Evaluations of a simulated run: they take no time of the run's, so they can be put off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from psgdsim.sim.values import unwrap
from psgdsim.task import Task

MAX_KEPT: Final = 32
"""Evaluations that are put off at most; each keeps its models in memory."""


class Evaluations:
    """Evaluate models, at once if the run may end with that, else later, when more can be computed together.

    Args:
        task: what is trained.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._kept: list[tuple[float, int, Sequence[Any]]] = []
        self._rows: list[dict[str, Any]] = []

    def add(self, time: float, step: int, models: Sequence[Any]) -> float | None:
        """Evaluate models.

        Args:
            time: the time of the run [s].
            step: the step that has ended.
            models: their parameters.

        Returns:
            The best test accuracy if a target may be reached with it, else None.
        """
        self._kept.append((time, step, models))
        if self._task.schedule.target_accuracy is not None:
            rows = self._evaluate(1)
            return max((row["test_accuracy"] for row in rows if row["test_accuracy"] is not None), default=None)
        if len(self._kept) > MAX_KEPT:
            self._evaluate(MAX_KEPT // 2)
        return None

    def _evaluate(self, num: int) -> list[dict[str, Any]]:
        """Evaluate the oldest that were put off."""
        todo, self._kept = self._kept[:num], self._kept[num:]
        rows = [
            {"time": time, "step": step, "model": i, **self._task.evaluate(unwrap(model))}
            for time, step, models in todo
            for i, model in enumerate(models)
        ]
        self._rows += rows
        return rows

    def rows(self, *, is_over: bool = False) -> list[dict[str, Any]]:
        """Return one row per evaluation and model, in order.

        Args:
            is_over: whether what was put off is given up.
        """
        self._evaluate(0 if is_over else len(self._kept))
        return self._rows
