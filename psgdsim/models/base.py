"""What a model is: pure functions of its parameters and rows of data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psgdsim.registry import Family

if TYPE_CHECKING:
    import jax

Params = Any


@dataclass(frozen=True)
class Model:
    """A model; every function is pure and can be jitted.

    Args:
        init: `(key, input_shape, num_outputs) -> params`; `input_shape` is that of one row, `num_outputs` the number
            of classes, or the width of a regression target.
        apply: `(params, inputs) -> outputs`; `inputs` has shape `(rows, *input_shape)`.
        loss: `(outputs, targets) -> losses` of shape `(rows,)`; a block's loss is their mean.
        is_correct: `(outputs, targets) -> bools` of shape `(rows,)`, or None where accuracy has no meaning.
    """

    init: Callable[[jax.Array, tuple[int, ...], int], Params]
    apply: Callable[[Params, jax.Array], jax.Array]
    loss: Callable[[jax.Array, jax.Array], jax.Array]
    is_correct: Callable[[jax.Array, jax.Array], jax.Array] | None = None


models = Family("model", product=Model)
register_model = models.register
