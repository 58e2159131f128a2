"""How good a model is: its losses and accuracy over all rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from psgdsim.compilation import jit_of
from psgdsim.data.base import Dataset
from psgdsim.models.base import Model

if TYPE_CHECKING:
    import numpy as np

EVALUATION_ROWS = 8192
"""Rows per call when a model is evaluated; bounds the memory of activations."""


@dataclass(frozen=True)
class Evaluator:
    """Evaluates models.

    Args:
        model: what is evaluated.
        dataset: on what.
    """

    model: Model
    dataset: Dataset

    def evaluate(self, params: Any) -> dict[str, float | None]:
        """Return `train_loss`, `test_loss` and `test_accuracy`; None where there are no rows or no classes."""
        train_loss, _ = self._mean_metrics(params, self.dataset.train_inputs, self.dataset.train_targets)
        test_loss, accuracy = self._mean_metrics(params, self.dataset.test_inputs, self.dataset.test_targets)
        return {"train_loss": train_loss, "test_loss": test_loss, "test_accuracy": accuracy}

    def _mean_metrics(self, params: Any, inputs: np.ndarray, targets: np.ndarray) -> tuple[float | None, float | None]:
        rows = len(inputs)
        if rows == 0:
            return None, None
        starts = range(0, rows, EVALUATION_ROWS)
        sums = [
            self._sum_metrics(params, inputs[start : start + EVALUATION_ROWS], targets[start : start + EVALUATION_ROWS])
            for start in starts
        ]
        loss = math.fsum(float(loss) for loss, _ in sums) / rows
        if self.model.is_correct is None:
            return loss, None
        return loss, sum(int(correct) for _, correct in sums) / rows

    @cached_property
    def _sum_metrics(self) -> Any:
        model = self.model

        def sum_metrics(params: Any, inputs: Any, targets: Any) -> tuple[Any, Any]:
            import jax.numpy as jnp

            outputs = model.apply(params, inputs)
            correct = 0 if model.is_correct is None else jnp.sum(model.is_correct(outputs, targets))
            return jnp.sum(model.loss(outputs, targets)), correct

        return jit_of(model, sum_metrics)
