"""Local SGD: workers step on their own and average their models once in a while."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from psgdsim.compilation import lazy_jit
from psgdsim.data.order import split_rows
from psgdsim.node import Kernel, Node
from psgdsim.per_rank import pick
from psgdsim.strategies.addition import Adder, Addition, Algorithm
from psgdsim.strategies.base import Program, Strategy, register_strategy
from psgdsim.task import Task, TrainState

Period = Annotated[int, Field(ge=1)]
Buffers = Literal["maintain", "reset", "average"]


class Synced(NamedTuple):
    """What all workers agree on at the end of a round.

    Attributes:
        start: the parameters that they go on with.
        model: those of the model that is trained.
        memory: of the outer step, None before the first.
    """

    start: Any
    model: Any
    memory: Any


OuterStep = Callable[[Node, Task, TrainState, Synced, Any], Coroutine[Any, Any, Synced]]
"""`(node, task, state, before, change)` -> what the next round begins with.

`state` is the worker's own after its local steps, `before` what the round began with, and `change` the mean of
w_i - before.start over the workers.
"""


@dataclass(frozen=True)
class Rounds:
    """When workers average, and how.

    Args:
        period: local steps per round.
        buffers: what becomes of the optimizer's memory at the end of a round.
        addition: how the workers' changes are added up.
        post_local: steps of synchronous SGD before the first round.
    """

    period: int
    buffers: Buffers
    addition: Addition
    post_local: int = 0

    def is_end(self, step: int, last_step: float) -> bool:
        """Whether a round ends with this step; the last one may be shorter."""
        return (step - self.post_local) % self.period == 0 or step == last_step

    def program(self, outer: OuterStep) -> Program:
        """Return the program of a worker.

        Args:
            outer: what all workers do with the mean change of a round.
        """

        async def worker(node: Node, task: Task) -> None:
            await _Worker(node, task, self, outer).run()

        return worker


async def take_mean(node: Node, _task: Task, _state: TrainState, before: Synced, change: Any) -> Synced:
    """Go on with the mean of the workers' models."""
    params = await node.compute(MOVE, before.start, change)
    return Synced(params, params, None)


@register_strategy("local_sgd")
def local_sgd(
    period: Period = 8,
    post_local: Annotated[int, Field(ge=0)] = 0,
    buffers: Buffers = "maintain",
    algorithm: Algorithm = "ring",
    group_size: Annotated[int, Field(ge=1)] | None = None,
    segments: Annotated[int, Field(ge=1, le=4096)] | None = None,
) -> Strategy:
    """Step on local rows alone, and average the models of all workers after every so many steps.

    H steps w_i <- w_i - eta * g_i(w_i), then w_i <- w + sum_j (rows_j / rows) (w_j - w) with the last average w. What
    crosses the wire is w_j - w, coded: per round as many bytes as one step of `all_reduce` with the same algorithm,
    so 1/H of its bytes per step; 2 (N-1) m / H in all around a ring. H = 1 is synchronous SGD.

    The model that is evaluated is the last average. A round also ends with the last step of a run.
    Source: Stich, ICLR 2019 (arXiv 1805.09767); Lin et al., ICLR 2020 (arXiv 1808.07217), for `post_local`.

    Note:
        Workers are weighted by their rows, which differ by one at most.

    Args:
        period: local steps between two averages, H.
        post_local: so many steps of synchronous SGD come first (post-local SGD); in them all workers apply the mean of
            the gradients, with one common memory of the optimizer.
        buffers: the memory of a worker's optimizer (its momentum) at an average: `maintain`, kept as it is; `reset`,
            begun anew; `average`, averaged like the model, which costs as many bytes more as it has.
        algorithm: how the changes are added up, as in `all_reduce`.
        group_size: ranks per group, for algorithms `hierarchical` and `leaders`.
        segments: into how many segments `pipelined_tree` cuts each half; 8 if null.
    """
    addition = Addition(algorithm, group_size, segments)
    program = Rounds(period, buffers, addition, post_local).program(take_mean)
    return Strategy(program, addition.check, is_spmd=addition.is_spmd)


# --- the worker ---------------------------------------------------------------------------------------------------


class _Worker:
    """The program of a worker.

    Args:
        node: its node.
        task: what is trained.
        rounds: when it averages, and how.
        outer: what it does with the mean change.
    """

    def __init__(self, node: Node, task: Task, rounds: Rounds, outer: OuterStep) -> None:
        self._node, self._task, self._rounds, self._outer = node, task, rounds, outer
        self._share = pick(split_rows(task.global_rows, node.world_size), node.rank) / task.global_rows

    async def run(self) -> None:
        """Train as long as the run goes on."""
        node, task, rounds = self._node, self._task, self._rounds
        blocks = task.blocks(node.world_size)
        self._state = await node.compute(task.init, 0, None)
        self._fresh = self._state.opt_state
        add_gradients = await rounds.addition.start(node, task, self._state.params)
        await self._begin_rounds()
        for step in task.steps():
            losses, gradients = await node.compute(task.gradients, [self._state.params], [blocks.ids(step, node.rank)])
            if step <= rounds.post_local:
                await self._step_together(gradients[0], add_gradients, step)
            else:
                self._state = await node.compute(task.apply, self._state, gradients[0])
                if rounds.is_end(step, task.schedule.last_step):
                    await self._end_round(step)
            node.record(loss=losses[0])
            if not await node.checkpoint(step, [self._synced.model]):
                return

    async def _step_together(self, gradient: Any, add: Adder, step: int) -> None:
        """Make a step of synchronous SGD."""
        part = await self._node.compute(self._task.weighted_sum, [self._share], [gradient])
        self._state = await self._node.compute(self._task.apply, self._state, await add(part, step))
        self._synced = Synced(self._state.params, self._state.params, None)
        if step == self._rounds.post_local:
            await self._begin_rounds()

    async def _begin_rounds(self) -> None:
        """Take the present model, the same on all workers, for what the first round begins with."""
        self._synced = Synced(self._state.params, self._state.params, None)
        self._base = await self._shared()
        self._add = await self._rounds.addition.start(self._node, self._task, self._base, name="change")

    async def _end_round(self, step: int) -> None:
        """Find out how far all have come in the mean, and begin the next round together."""
        node, buffers = self._node, self._rounds.buffers
        part = await node.compute(PART, await self._shared(), self._base, self._share)
        change, opt_state = await self._add(part, step), self._state.opt_state
        if buffers == "reset":
            opt_state = self._fresh
        elif buffers == "average":
            change, moved = change
            means = await node.compute(MOVE, self._base[1], moved)
            opt_state = await node.compute(WITH_FLOATS, opt_state, means)
        self._synced = await self._outer(node, self._task, self._state, self._synced, change)
        self._state = self._state._replace(params=self._synced.start, opt_state=opt_state)
        self._base = await self._shared()

    async def _shared(self) -> Any:
        """Return what is averaged."""
        state = self._state
        if self._rounds.buffers != "average":
            return state.params
        return state.params, await self._node.compute(FLOATS, state.opt_state)


# --- kernels ------------------------------------------------------------------------------------------------------


def _move(tree: Any, change: Any) -> Any:
    import jax

    return jax.tree.map(lambda leaf, by: leaf + by, tree, change)


def _part(now: Any, base: Any, share: Any) -> Any:
    import jax

    return jax.tree.map(lambda leaf, first: share * (leaf - first), now, base)


def _is_float(leaf: Any) -> bool:
    import jax.numpy as jnp

    return bool(jnp.issubdtype(leaf.dtype, jnp.floating))


def _floats(tree: Any) -> list[Any]:
    import jax

    return [leaf for leaf in jax.tree.leaves(tree) if _is_float(leaf)]


def _with_floats(tree: Any, floats: Any) -> Any:
    import jax

    rest = iter(floats)
    return jax.tree.map(lambda leaf: next(rest) if _is_float(leaf) else leaf, tree)


MOVE = Kernel("move", lazy_jit(_move))
PART = Kernel("part", lazy_jit(_part))
FLOATS = Kernel("floats", lazy_jit(_floats))
WITH_FLOATS = Kernel("with_floats", lazy_jit(_with_floats))
