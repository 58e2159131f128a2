"""What is trained: model, data, optimizer and codec, bound into the kernels that a program runs.

One definition of a gradient: a block's gradient is the mean over its rows; blocks are combined weighted by their rows.
The learning rate is applied in one place, `Task.apply`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from psgdsim import rng
from psgdsim.backward import Backward
from psgdsim.codecs.base import Codec
from psgdsim.coding import UPLINK, Coding, OnNonfinite
from psgdsim.compilation import jit_of, lazy_jit
from psgdsim.data.base import Dataset, Partition
from psgdsim.data.order import SampleOrder, split_rows
from psgdsim.evaluation import Evaluator
from psgdsim.models.base import Model
from psgdsim.node import Kernel
from psgdsim.optimizers import Optimizer
from psgdsim.schedule import Schedule

if TYPE_CHECKING:
    import numpy as np


class TrainState(NamedTuple):
    """One model in training, a pytree of values.

    Attributes:
        params: the model's parameters.
        opt_state: the optimizer's memory.
        step: updates applied so far.
        learning_rate: before any schedule.
    """

    params: Any
    opt_state: Any
    step: Any
    learning_rate: Any


@dataclass(frozen=True)
class Task:
    """Everything about the training that is not the strategy's business.

    Args:
        model: what is trained.
        dataset: on what.
        partition: how the training rows are dealt out to blocks.
        optimizer: how a gradient becomes an update.
        codec: how an update crosses the wire.
        seed: the scenario's seed.
        global_rows: rows per step of one model, all ranks together.
        schedule: when to evaluate and when to end.
        on_nonfinite: what becomes of an update with NaN or infinity in it, as in `Coding`.
    """

    model: Model
    dataset: Dataset
    partition: Partition
    optimizer: Optimizer
    codec: Codec
    seed: int
    global_rows: int
    schedule: Schedule
    on_nonfinite: OnNonfinite = "fail"

    # --- data -------------------------------------------------------------------------------------------------

    def steps(self) -> Iterator[int]:
        """Return the steps of a run: 1, 2, ..."""
        last = self.schedule.last_step
        step = 1
        while step <= last:
            yield step
            step += 1

    def blocks(self, num_blocks: int) -> SampleOrder:
        """Deal the training rows out to blocks; `ids(step, block)` are the samples of one of them in one step.

        Args:
            num_blocks: blocks of one step; together they have `global_rows` rows.

        Raises:
            ValueError: more blocks than rows per step.
        """
        if num_blocks > self.global_rows:
            raise ValueError(f"{num_blocks} blocks need at least {num_blocks} rows per step; got {self.global_rows}")
        if num_blocks not in self._orders:
            self._orders[num_blocks] = self._deal(num_blocks)
        return self._orders[num_blocks]

    @cached_property
    def _orders(self) -> dict[int, SampleOrder]:
        """By number of blocks: ranks of one process share them."""
        return {}

    def _deal(self, num_blocks: int) -> SampleOrder:
        generator = rng.stream(self.seed, "partition")
        shards = self.partition.split(self.dataset.train_targets, num_blocks, generator)
        return SampleOrder(shards, split_rows(self.global_rows, num_blocks), self.seed)

    # --- kernels ----------------------------------------------------------------------------------------------

    @cached_property
    def init(self) -> Kernel:
        """`(seed_offset, learning_rate or None) -> TrainState`: a new model; None takes the optimizer's rate."""
        model, shape, num_outputs = self.model, self.dataset.input_shape, self.dataset.num_outputs

        def new(key: Any) -> Any:
            return model.init(key, shape, num_outputs)

        draw = jit_of(model, new, shape, num_outputs)

        def init(seed_offset: int, learning_rate: float | None) -> TrainState:
            import numpy as np

            rate = self.optimizer.learning_rate if learning_rate is None else learning_rate
            state: TrainState = self._start(draw(rng.key(self.seed, "init", seed_offset)), np.float32(rate))
            return state

        return Kernel("init", init)

    @cached_property
    def start(self) -> Kernel:
        """`(params) -> TrainState`: a model, or a part of one, that begins at these parameters."""

        def start_at(params: Any) -> TrainState:
            import numpy as np

            state: TrainState = self._start(params, np.float32(self.optimizer.learning_rate))
            return state

        return Kernel("start", start_at)

    @cached_property
    def gradients(self) -> Kernel:
        """`([params, ...], [ids, ...]) -> (losses, gradients)`: one of each per block, a model and its sample ids.

        Each block is computed by the same compiled function of its own, so ranks that compute the same block get the
        same bits whatever else they compute.
        """

        def gradients(models: Sequence[Any], blocks: Sequence[np.ndarray]) -> tuple[list[Any], list[Any]]:
            inputs, targets = self._train_rows
            pairs = [self._gradient(params, inputs, targets, ids) for params, ids in zip(models, blocks, strict=True)]
            return [loss for loss, _ in pairs], [gradient for _, gradient in pairs]

        def rows(_models: Sequence[Any], blocks: Sequence[np.ndarray]) -> int:
            return sum(len(ids) for ids in blocks)

        def losses(models: Sequence[Any], blocks: Sequence[np.ndarray]) -> list[Any]:
            inputs, targets = self._train_rows
            return [self._mean_loss(params, inputs, targets, ids) for params, ids in zip(models, blocks, strict=True)]

        return Kernel("gradients", gradients, "gradient", rows, is_mapped=True, objective=losses)

    @cached_property
    def backward(self) -> Backward:
        """The gradient of one block in several kernels."""
        return Backward(self.model, self.dataset, lambda: self._train_rows)

    @cached_property
    def apply(self) -> Kernel:
        """`(TrainState, gradient) -> TrainState`: one optimizer step."""
        transform, schedule = self._transform, self.optimizer.schedule

        def apply(state: TrainState, gradient: Any) -> TrainState:
            import jax

            direction, opt_state = transform.update(gradient, state.opt_state, state.params)
            factor = 1.0 if schedule is None else schedule.factor(state.step + 1)
            rate = state.learning_rate * factor
            params = jax.tree.map(lambda p, d: p + rate * d, state.params, direction)
            return TrainState(params, opt_state, state.step + 1, state.learning_rate)

        return Kernel("apply", jit_of(self.optimizer, apply))

    def coding(self, codec: Codec, purpose: str) -> Coding:
        """Return the kernels of a codec, the same ones whenever they are asked for.

        Args:
            codec: what codes.
            purpose: what its random keys are drawn for.
        """
        return self._codings.setdefault((codec, purpose), Coding(codec, self.seed, purpose, self.on_nonfinite))

    @cached_property
    def _codings(self) -> dict[tuple[Codec, str], Coding]:
        """By codec and purpose."""
        return {}

    @cached_property
    def uplink(self) -> Coding:
        """How gradients are coded, and whatever else workers send."""
        return self.coding(self.codec, UPLINK)

    @property
    def init_codec(self) -> Kernel:
        """`(like) -> state`: the memory of one end of the uplink."""
        return self.uplink.init

    @property
    def encode(self) -> Kernel:
        """`(update, state, rank, step) -> (payload, state)`; the random key is that of the rank and the step."""
        return self.uplink.encode

    @property
    def decode(self) -> Kernel:
        """`(payload, state, like) -> (update, state)`."""
        return self.uplink.decode

    @cached_property
    def weighted_sum(self) -> Kernel:
        """`(weights, trees) -> tree`: the sum of weight times tree, added in the order given."""

        def call(weights: Sequence[float], addends: Sequence[Any]) -> Any:
            import jax.numpy as jnp
            import numpy as np

            is_plain = all(isinstance(weight, int | float) for weight in weights)
            return _weighted_sum((np if is_plain else jnp).asarray(weights, np.float32), list(addends))

        return Kernel("weighted_sum", call, is_weighted_sum=True, is_linear=True)

    # --- evaluation, outside the timed loop -------------------------------------------------------------------

    def evaluate(self, params: Any) -> dict[str, float | None]:
        """Return `train_loss`, `test_loss` and `test_accuracy`; None where there are no rows or no classes."""
        return self._evaluator.evaluate(params)

    @cached_property
    def _evaluator(self) -> Evaluator:
        return Evaluator(self.model, self.dataset)

    @cached_property
    def _transform(self) -> Any:
        return self.optimizer.transform()

    @cached_property
    def _train_rows(self) -> tuple[Any, Any]:
        import jax
        import jax.numpy as jnp

        with jax.ensure_compile_time_eval():
            return jnp.asarray(self.dataset.train_inputs), jnp.asarray(self.dataset.train_targets)

    @cached_property
    def _start(self) -> Any:
        transform = self._transform

        def start(params: Any, rate: Any) -> TrainState:
            import jax.numpy as jnp

            return TrainState(params, transform.init(params), jnp.int32(0), rate)

        return jit_of(self.optimizer, start)

    @cached_property
    def _mean_loss(self) -> Any:
        model = self.model

        def mean_loss(params: Any, inputs: Any, targets: Any, ids: Any) -> Any:
            import jax.numpy as jnp

            return jnp.mean(model.loss(model.apply(params, inputs[ids]), targets[ids]))

        return mean_loss

    @cached_property
    def _gradient(self) -> Any:
        mean_loss = self._mean_loss

        def gradient(params: Any, inputs: Any, targets: Any, ids: Any) -> tuple[Any, Any]:
            import jax

            return jax.value_and_grad(mean_loss)(params, inputs, targets, ids)

        return jit_of(self.model, gradient)


@lazy_jit
def _weighted_sum(weights: Any, addends: Sequence[Any]) -> Any:
    import jax

    total = jax.tree.map(lambda leaf: weights[0] * leaf, addends[0])
    for i, addend in enumerate(addends[1:], start=1):
        total = jax.tree.map(lambda t, leaf, i=i: t + weights[i] * leaf, total, addend)
    return total
