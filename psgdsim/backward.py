"""The gradient of one block in several kernels: rows after rows, or stage after stage.

However many kernels a gradient is cut into, a simulation charges what `Task.gradients` takes on the same rows: the time
is drawn once, and each kernel takes its share of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from psgdsim import trees
from psgdsim.compilation import jit_of
from psgdsim.data.base import Dataset
from psgdsim.models.base import Model, Stage
from psgdsim.node import Kernel

if TYPE_CHECKING:
    import numpy as np

FORWARD_SHARE: Final = 1 / 3
"""The forward pass's share of the time of a gradient: one product of three per layer, and two on the way back."""


@dataclass(frozen=True)
class Backward:
    """The kernels.

    Args:
        model: what is trained.
        dataset: on what.
        train_rows: returns its training inputs and targets, as the kernels use them.
    """

    model: Model
    dataset: Dataset
    train_rows: Callable[[], tuple[Any, Any]]

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The parts of the model, from inputs to outputs; at least one."""
        return self.model.stages or (Stage((), self.model.apply),)

    # --- rows after rows ------------------------------------------------------------------------------------------

    @cached_property
    def first_rows(self) -> Kernel:
        """`(params, ids, num_rows) -> (loss, gradient)`: what the first of `num_rows` rows contribute to the means."""
        model = self.model

        def first(params: Any, inputs: Any, targets: Any, ids: Any, num_rows: int) -> tuple[Any, Any]:
            return _contribution(model, params, inputs, targets, ids, num_rows)

        jitted = jit_of(model, first)

        def call(params: Any, ids: np.ndarray, num_rows: int) -> tuple[Any, Any]:
            return jitted(params, *self.train_rows(), ids, num_rows)  # type: ignore[no-any-return]

        return Kernel("first_rows", call, "gradient", _num_rows, share=_share_of_rows)

    @cached_property
    def more_rows(self) -> Kernel:
        """`(params, ids, num_rows, loss, gradient) -> (loss, gradient)`: the same, and what there is already."""
        model = self.model

        def more(
            params: Any, inputs: Any, targets: Any, ids: Any, num_rows: int, loss: Any, gradient: Any
        ) -> tuple[Any, Any]:
            import jax

            added = _contribution(model, params, inputs, targets, ids, num_rows)
            return jax.tree.map(lambda total, part: total + part, (loss, gradient), added)  # type: ignore[no-any-return]

        jitted = jit_of(model, more)

        def call(params: Any, ids: np.ndarray, num_rows: int, loss: Any, gradient: Any) -> tuple[Any, Any]:
            return jitted(params, *self.train_rows(), ids, num_rows, loss, gradient)  # type: ignore[no-any-return]

        return Kernel("more_rows", call, "gradient", _num_rows, share=_share_of_rows, continues=True)

    # --- stage after stage ----------------------------------------------------------------------------------------

    @cached_property
    def forward(self) -> Kernel:
        """`(params, ids) -> (loss, inputs of each stage, slope)`; the slope is that of the loss in the outputs."""
        model, stages = self.model, self.stages

        def forward(params: Any, inputs: Any, targets: Any, ids: Any) -> tuple[Any, list[Any], Any]:
            import jax

            between = [inputs[ids]]
            for stage in stages:
                between.append(stage.apply(stage.own(params), between[-1]))
            loss, slope = jax.value_and_grad(lambda outputs: model.loss(outputs, targets[ids]).mean())(between[-1])
            return loss, between[:-1], slope

        jitted = jit_of(model, forward)

        def call(params: Any, ids: np.ndarray) -> tuple[Any, list[Any], Any]:
            return jitted(params, *self.train_rows(), ids)  # type: ignore[no-any-return]

        def rows(_params: Any, ids: np.ndarray) -> int:
            return len(ids)

        return Kernel("forward", call, "gradient", rows, share=lambda *_: FORWARD_SHARE)

    @cached_property
    def back(self) -> tuple[Kernel, ...]:
        """For each stage `(its parameters, inputs, slope) -> (gradient, slope)`; a slope is that of the mean loss.

        The slope given is that in the stage's outputs, the one returned that in its inputs; None of the first stage.
        """
        return tuple(self._back(i) for i in range(len(self.stages)))

    def _back(self, place: int) -> Kernel:
        stage = self.stages[place]

        def back(own: Any, inputs: Any, slope: Any) -> tuple[Any, Any]:
            import jax

            if place:
                return jax.vjp(stage.apply, own, inputs)[1](slope)  # type: ignore[no-any-return]
            [gradient] = jax.vjp(lambda own: stage.apply(own, inputs), own)[1](slope)
            return gradient, None

        def rows(_own: Any, _inputs: Any, slope: Any) -> int:
            return int(slope.shape[0])

        def share(*_: Any) -> float:
            return (1 - FORWARD_SHARE) * self.work[place] / sum(self.work)

        return Kernel(f"back {place}", jit_of(self.model, back, place), "gradient", rows, share=share, continues=True)

    @cached_property
    def work(self) -> tuple[int, ...]:
        """How many multiplications each stage makes per row: each parameter is used once at each place of the output.

        The places of an image are its pixels; a row of units has one.
        """
        import jax

        make: Any = jax.ShapeDtypeStruct
        inputs = make((1, *self.dataset.input_shape), self.dataset.train_inputs.dtype)
        params, work = self._shapes, []
        for stage in self.stages:
            inputs = jax.eval_shape(stage.apply, stage.own(params), inputs)
            places = math.prod(inputs.shape[1:-1])
            work.append(places * sum(leaf.size for leaf in jax.tree.leaves(stage.own(params))))
        return tuple(work)

    @cached_property
    def leaves(self) -> tuple[tuple[int, ...], ...]:
        """For each stage which of the leaves of the model's parameters are its own."""
        import jax

        numbers = self.whole(range(len(self.leaf_nbytes)))
        return tuple(tuple(jax.tree.leaves(stage.own(numbers))) for stage in self.stages)

    @cached_property
    def leaf_names(self) -> tuple[str, ...]:
        """The name of each leaf of the model's parameters, as in `trees.named_leaves`."""
        return tuple(name for name, _ in trees.named_leaves(self._shapes))

    @cached_property
    def leaf_nbytes(self) -> tuple[int, ...]:
        """The size of each leaf of the model's parameters [byte]."""
        import jax

        return tuple(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self._shapes))

    def whole(self, leaves: Sequence[Any]) -> Any:
        """Return leaves as a pytree like the model's parameters."""
        import jax

        return jax.tree.unflatten(jax.tree.structure(self._shapes), leaves)

    # --------------------------------------------------------------------------------------------------------------

    @cached_property
    def _shapes(self) -> Any:
        """The shapes and dtypes of the model's parameters."""
        import jax

        data = self.dataset
        return jax.eval_shape(lambda: self.model.init(jax.random.key(0), data.input_shape, data.num_outputs))


def _num_rows(_params: Any, _ids: np.ndarray, num_rows: int, *_: Any) -> int:
    return num_rows


def _share_of_rows(_params: Any, ids: np.ndarray, num_rows: int, *_: Any) -> float:
    return len(ids) / num_rows


def _contribution(model: Model, params: Any, inputs: Any, targets: Any, ids: Any, num_rows: int) -> tuple[Any, Any]:
    """Return the loss and the gradient of some rows, each weighted by their part of all rows."""
    import jax

    def loss(params: Any) -> Any:
        outputs = model.apply(params, inputs[ids])
        return (ids.shape[0] / num_rows) * model.loss(outputs, targets[ids]).mean()

    return jax.value_and_grad(loss)(params)
