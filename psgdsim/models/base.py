"""What a model is: pure functions of its parameters and rows of data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psgdsim.registry import Family

if TYPE_CHECKING:
    import jax

Params = Any


@dataclass(frozen=True)
class Stage:
    """A part of a model, a function of parameters of its own and of what comes out of the stage before.

    A stage should end with what its parameters do (a product, a convolution), and the next begin with the activation:
    whoever goes back through it computes its activations again, and no product.

    Args:
        path: the keys that lead from the model's parameters to its own; none if all are its own.
        apply: `(its parameters, inputs) -> outputs`; the first axis of both is that of the rows.
    """

    path: tuple[str | int, ...]
    apply: Callable[[Params, jax.Array], jax.Array]

    def own(self, params: Params) -> Params:
        """Return its parameters.

        Args:
            params: the model's, or a pytree of the same structure.
        """
        for key in self.path:
            params = params[key]
        return params


def compose(stages: Sequence[Stage]) -> Callable[[Params, jax.Array], jax.Array]:
    """Return the function of a model that is one stage after the other.

    Args:
        stages: from inputs to outputs.

    Returns:
        `(params, inputs) -> outputs`.
    """

    def apply(params: Params, inputs: jax.Array) -> jax.Array:
        for stage in stages:
            inputs = stage.apply(stage.own(params), inputs)
        return inputs

    return apply


@dataclass(frozen=True)
class Model:
    """A model; every function is pure and can be jitted.

    Args:
        init: `(key, input_shape, num_outputs) -> params`; `input_shape` is that of one row, `num_outputs` the number
            of classes, or the width of a regression target.
        apply: `(params, inputs) -> outputs`; `inputs` has shape `(rows, *input_shape)`.
        loss: `(outputs, targets) -> losses` of shape `(rows,)`; a block's loss is their mean.
        is_correct: `(outputs, targets) -> bools` of shape `(rows,)`, or None where accuracy has no meaning.
        stages: the parts that `apply` is composed of (see `compose`), each with parameters that no other has; together
            they have all. None are given for a model that is one stage.
    """

    init: Callable[[jax.Array, tuple[int, ...], int], Params]
    apply: Callable[[Params, jax.Array], jax.Array]
    loss: Callable[[jax.Array, jax.Array], jax.Array]
    is_correct: Callable[[jax.Array, jax.Array], jax.Array] | None = None
    stages: tuple[Stage, ...] = ()


models = Family("model", product=Model)
register_model = models.register
