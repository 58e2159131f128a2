"""What comes of gradients that are applied one after the other, each computed at what its worker has read last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from psgdsim.sim.execution.signature import forwards
from psgdsim.strategies.as_they_come import AsTheyCome
from psgdsim.task import Task, TrainState

LONGEST: Final = 1024
"""So many updates are handed to jax at once; nobody is further ahead of it than that many again."""


class Kept(NamedTuple):
    """What there is of each worker, one row of each array for each.

    Attributes:
        params: the parameters that it has read last.
        encoder: the codec's memory there.
        decoder: the codec's memory at the server.
        memory: of the delay compensation.
    """

    params: Any
    encoder: Any
    decoder: Any
    memory: Any


class Values:
    """The model, and what all workers have of it.

    Args:
        task: what is trained.
        rule: what the server does.
        num_workers: the number of workers.

    Raises:
        Exception: jax cannot trace a kernel.

    Attributes:
        payload: what a worker sends, as shapes and dtypes.
        has_marked: whether the codec has marked an update, as far as is known.
    """

    def __init__(self, task: Task, rule: AsTheyCome, num_workers: int) -> None:
        self._task, self._rule, self._num = task, rule, num_workers
        self._order = task.blocks(num_workers)
        self._steps = np.zeros(num_workers, np.int64)  # that each worker has made
        self._todo = np.zeros(0, np.int64)  # whose gradients are to be applied
        self._done: list[tuple[Any, Any, Any]] = []  # whose have been, their losses and the codec's marks
        self._num_done = 0
        self._state: TrainState = task.init.function(0, None)
        params = self._state.params
        codec = task.init_codec.function(params)
        memory = () if rule.compensation is None else rule.compensation.start.function(params)
        self.has_marked = False
        self.payload, self._consts, self._run, self._kept = self._traced(Kept(params, codec, codec, memory))

    # --- what has been computed -------------------------------------------------------------------------------

    def add(self, workers: Any) -> None:
        """Take note of the next gradients; they are computed when there are many, or when somebody asks.

        Args:
            workers: whose they are, int, shape (n,).
        """
        self._todo = np.append(self._todo, workers)
        while len(self._todo) >= LONGEST:
            self._apply(LONGEST)

    def params(self) -> Any:
        """Return the parameters after all updates so far."""
        import jax

        self._apply(len(self._todo))
        return jax.tree.map(lambda leaf: leaf.copy(), self._state.params)  # what is there goes into the next updates

    def take(self) -> tuple[Any, Any, Any]:
        """Return whose gradients have been applied since the last time, their losses and the codec's marks."""
        self._apply(len(self._todo))
        done, self._done = self._done, []
        parts = [(workers, losses[: len(workers)], marks[: len(workers)]) for workers, losses, marks in done]
        blank = np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.int32)
        workers, losses, marks = (np.concatenate(each) for each in zip(blank, *parts, strict=True))
        self.has_marked |= bool(marks.any())
        return workers, losses, marks

    def last_loss(self) -> float | None:
        """Return a loss of the first worker that is known, of the last few, or None."""
        for workers, losses, _ in self._done[-1:-4:-1]:
            if losses.is_ready() and (places := np.flatnonzero(workers == 0)).size:
                return float(np.asarray(losses)[places[-1]])
        return None

    # --- batches ----------------------------------------------------------------------------------------------

    def _apply(self, num: int) -> None:
        """Hand over the next so many gradients."""
        if not num:
            return
        if len(self._done) > 1:  # the last one may be under way, the one before must be through
            self.has_marked |= bool(np.asarray(self._done[-2][2]).any())
        workers, self._todo = self._todo[:num], self._todo[num:]
        steps, ids = self._draw(workers)
        server_steps = (self._num_done + np.arange(num)) // self._num
        inputs = [_filled_up(each) for each in (workers, ids, steps, server_steps)]
        state, losses, marks = self._run(self._consts, (self._state, self._kept), inputs, np.int32(num))
        self._state, self._kept = state
        self._done.append((workers, losses, marks))
        self._num_done += num

    def _draw(self, workers: Any) -> tuple[Any, Any]:
        """Return the step of each gradient, counted by its worker, and its sample ids."""
        order = np.argsort(workers, kind="stable")
        present, firsts, counts = np.unique(workers[order], return_index=True, return_counts=True)
        steps = np.empty(len(workers), np.int64)
        steps[order] = 1 + np.arange(len(workers)) - np.repeat(firsts - self._steps[present], counts)
        starts = (1 + self._steps[present]).tolist()
        spans = map(self._order.span, starts, counts.tolist(), present.tolist())
        ids = np.concatenate(list(spans))[np.argsort(order)]
        self._steps[present] += counts
        return steps, ids

    def _traced(self, row: Kept) -> tuple[Any, Any, Callable[..., Any], list[Any]]:
        """Trace an update.

        Args:
            row: what there is of a worker at first.

        Returns:
            The payload's shapes, what the kernels close over, many updates as a jitted function, and the leaves of what
            is kept: of each one row for each worker, but for what no update changes.
        """
        import jax
        from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

        payload: Any = None

        def update(*arguments: Any) -> Any:
            nonlocal payload
            result, sent = self._update(*arguments)
            payload = jax.tree.map(_shape, sent)
            return result

        numbers: Any = np.int32(0)
        example = self._state, row, numbers, self._order.span(1, 1, 0)[0], numbers, numbers
        closed, shapes = jax.make_jaxpr(update, return_shape=True)(*example)
        structure: Any = jax.tree.structure(shapes)

        rows: list[Any]
        kind: Any
        rows, kind = jax.tree.flatten(row)
        first = len(jax.tree.leaves(self._state))
        came_from = forwards(closed.jaxpr)[first : first + len(rows)]
        is_fixed = [place == first + i for i, place in enumerate(came_from)]

        def one(consts: Any, state: Any, row: list[Any], *others: Any) -> Any:
            arguments = jax.tree.leaves((state, kind.unflatten(row), *others))
            state, kept, loss, mark = structure.unflatten(jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, consts))(*arguments))
            return state, jax.tree.leaves(kept), loss, mark

        run = jax.jit(_many(one, is_fixed), donate_argnums=1)
        # Copies, for what is carried along is given away, and both ends of a codec begin with the same arrays.
        pairs = zip(rows, is_fixed, strict=True)
        kept = [jax.numpy.array(leaf) if is_one else _repeat(leaf, self._num) for leaf, is_one in pairs]
        return payload, tuple(closed.consts), run, kept

    def _update(self, state: TrainState, kept: Kept, worker: Any, ids: Any, step: Any, server_step: Any) -> Any:
        """Compute one gradient and apply it, as the programs of `parameter_server` do.

        Args:
            state: of the server.
            kept: of the worker.
            worker: its rank.
            ids: of the samples.
            step: the worker's.
            server_step: how many steps the server has ended.

        Returns:
            The state, what is kept, the loss and the codec's mark; and what was sent.
        """
        task, compensation, memory = self._task, self._rule.compensation, kept.memory
        [loss], [gradient] = task.gradients.function([kept.params], [ids])
        encoded = task.encode.function(gradient, kept.encoder, worker, step)
        (payload, encoder), mark = encoded if task.encode.judge is not None else (encoded, np.int32(0))
        gradient, decoder = task.decode.function(payload, kept.decoder, state.params)
        if compensation is not None:
            gradient, memory = compensation.compensate.function(gradient, state.params, kept.params, memory)
        if task.optimizer.schedule is not None:
            state = state._replace(step=server_step)
        state = task.apply.function(state, gradient)
        return (state, Kept(state.params, encoder, decoder, memory), loss, mark), payload


def _many(one: Callable[..., Any], is_fixed: Sequence[bool]) -> Callable[..., Any]:
    """Return a function for many updates, of which the first so many are made.

    Args:
        one: an update, `(consts, state, row, worker, ...) -> (state, row, loss, mark)`.
        is_fixed: for each leaf of what is kept whether it is the same for all workers, and stays so.
    """

    def many(consts: Any, carry: Any, inputs: Any, num: Any) -> Any:
        import jax
        import jax.numpy as jnp

        def body(i: Any, carry: Any) -> Any:
            (state, kept), losses, marks = carry
            worker, *others = [each[i] for each in inputs]
            row = [leaf if is_one else leaf[worker] for leaf, is_one in zip(kept, is_fixed, strict=True)]
            state, row, loss, mark = one(consts, state, row, worker, *others)
            kept = [
                rows if is_one else rows.at[worker].set(leaf)
                for rows, leaf, is_one in zip(kept, row, is_fixed, strict=True)
            ]
            return (state, kept), losses.at[i].set(loss), marks.at[i].set(mark)

        blank = jnp.zeros(LONGEST, jnp.float32), jnp.zeros(LONGEST, jnp.int32)
        return jax.lax.fori_loop(0, num, body, (carry, *blank))

    return many


def _repeat(leaf: Any, num: int) -> Any:
    """Return so many rows that are all alike."""
    import jax.numpy as jnp

    return jnp.repeat(jnp.asarray(leaf)[None], num, axis=0)


def _filled_up(numbers: Any) -> Any:
    """Return integers as an array of `LONGEST` rows, zeros after them."""
    found = np.zeros((LONGEST, *numbers.shape[1:]), np.int32)
    found[: len(numbers)] = numbers
    return found


def _shape(leaf: Any) -> Any:
    import jax

    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)  # type: ignore[no-untyped-call]
