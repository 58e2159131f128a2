"""When a run is evaluated, and when it ends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Schedule:
    """When a run is evaluated and when it ends.

    Args:
        steps_per_epoch: steps in which as many rows are used as there are training rows.
        last_step: the step after which a run ends; infinite if only `max_time` ends it.
        evaluate_every: steps between evaluations, or None for none but at the end.
        target_accuracy: test accuracy that ends the run, or None.
        max_time: time [s] at which the run ends, or None.
    """

    steps_per_epoch: int
    last_step: float
    evaluate_every: int | None = None
    target_accuracy: float | None = None
    max_time: float | None = None

    def is_evaluation(self, step: int) -> bool:
        """Whether the models are evaluated after this step."""
        return step >= self.last_step or (self.evaluate_every is not None and step % self.evaluate_every == 0)

    def awaits_verdict(self, step: int) -> bool:
        """Whether nobody can go on after this step before it is known how good the models are."""
        return step >= self.last_step or (self.target_accuracy is not None and self.is_evaluation(step))

    def is_meeting(self, step: int) -> bool:
        """Whether processes must talk after this step: to evaluate, or to decide together whether to go on."""
        return self.max_time is not None or self.is_evaluation(step)

    def is_end(self, step: int, time: float, accuracy: float | None) -> bool:
        """Whether the run ends after this step.

        Args:
            step: the step that ended.
            time: when its last rank ended it [s].
            accuracy: the best test accuracy of the models, or None if they were not evaluated.
        """
        is_late = self.max_time is not None and time >= self.max_time
        return step >= self.last_step or self.is_reached(accuracy) or is_late

    def is_reached(self, accuracy: float | None) -> bool:
        """Whether a test accuracy, None if there is none, is the one that ends the run."""
        return self.target_accuracy is not None and accuracy is not None and accuracy >= self.target_accuracy

    def is_target_met(self, evaluations: Iterable[Mapping[str, Any]]) -> bool:
        """Whether an evaluation has ended the run: what was found once it was over did not.

        Args:
            evaluations: `step` and `test_accuracy` of each.
        """
        return any(self.is_evaluation(row["step"]) and self.is_reached(row["test_accuracy"]) for row in evaluations)
