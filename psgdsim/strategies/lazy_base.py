"""The programs of lazily aggregated gradients: workers that send what has changed enough, and their server."""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Sequence
from typing import Annotated, Any, Final

from pydantic import Field

from psgdsim.compilation import lazy_jit
from psgdsim.data.order import split_rows
from psgdsim.node import Kernel, Node
from psgdsim.optimizers import LearningRateSchedule
from psgdsim.strategies.local_sgd import MOVE
from psgdsim.strategies.outer import ZEROS
from psgdsim.task import Task

Xi = Annotated[float, Field(ge=0, allow_inf_nan=False)]
History = Annotated[int, Field(ge=1, le=1000)]

MODEL: Final = "model"
"""The tag of the server's calls: the parameters (None to end) and the step."""

PUSH: Final = "push"
"""The tag of the answers: a coded change of the gradient, or None if the last one counts on."""


class Pace:
    """How far the model has moved in the last steps, and so how large a change of a gradient matters.

    Args:
        node: of whoever asks.
        task: what is trained.
        xi: the factor of the rule.
        history: of how many steps, D.
    """

    def __init__(self, node: Node, task: Task, *, xi: float, history: int) -> None:
        self._node, self._task = node, task
        self._factor = xi / node.world_size**2
        self._lapses: deque[float] = deque(maxlen=history)
        self._before: Any = None

    async def limit(self, params: Any, step: int) -> float:
        """Return the right-hand side of the rule; call it once in each step, with its parameters."""
        if self._before is not None:
            lapse = await self._node.compute(LAPSE, params, self._before, await self._rate(step - 1))
            self._lapses.append(float(await self._node.read(lapse)))
        self._before = params
        return self._factor * sum(self._lapses)

    async def _rate(self, step: int) -> Any:
        optimizer = self._task.optimizer
        if optimizer.schedule is None:
            return optimizer.learning_rate
        return await self._node.compute(_rate_kernel(optimizer.schedule), optimizer.learning_rate, step)


class LazyWorker:
    """The program of a worker: it answers each call of the server's.

    Args:
        node: its node.
        task: what is trained.
        pace: what its change must exceed, None if it always sends it.
    """

    def __init__(self, node: Node, task: Task, pace: Pace | None) -> None:
        self._node, self._task, self._pace = node, task, pace
        [self._server] = node.servers
        self._share = split_rows(task.global_rows, node.world_size)[node.rank] / task.global_rows
        self._ended = self._sent = 0  # the steps that it has ended last, and sent anything in

    async def run(self) -> None:
        """Compute gradients at what the server sends, until it says that the run is over."""
        node, task = self._node, self._task
        blocks = task.blocks(node.world_size)
        params = (await node.compute(task.init, 0, None)).params
        self._held = await node.compute(ZEROS, params)
        await self._start(params)
        while True:
            params, step = (await node.recv(self._server, tag=MODEL)).payload
            self._end_steps(step)
            if params is None:
                return
            losses, gradients = await node.compute(task.gradients, [params], [blocks.ids(step, node.rank)])
            limit = -1.0 if self._pace is None else await self._pace.limit(params, step)
            payload = await self._change(gradients[0], limit, step)
            if payload is not None:
                self._sent = step
            node.record(loss=losses[0])
            await node.send(self._server, payload, tag=PUSH)

    def _end_steps(self, step: int) -> None:
        """End all steps before one, also those in which nobody called."""
        for ended in range(self._ended + 1, step):
            self._node.record(staleness=ended - self._sent)
            self._node.end_step(ended)
        self._ended = step - 1

    async def _start(self, params: Any) -> None:
        self._encoder = self._echo = await self._node.compute(self._task.init_codec, params)

    async def _change(self, gradient: Any, limit: float, step: int) -> Any:
        """Return what is to be sent, or None if that is too little; keep what the server will have then."""
        node, task = self._node, self._task
        change, size = await node.compute(CHANGE, gradient, self._held, self._share)
        if self._pace is not None and await node.read(size) <= limit:
            return None
        payload, self._encoder = await node.compute(task.encode, change, self._encoder, node.rank, step)
        change, self._echo = await node.compute(task.decode, payload, self._echo, change)
        self._held = await node.compute(MOVE, self._held, change)
        return payload


class LazyServer:
    """The program of the server: it calls all workers in every step.

    Args:
        node: its node.
        task: what is trained.
    """

    def __init__(self, node: Node, task: Task) -> None:
        self._node, self._task = node, task

    async def run(self) -> None:
        """Update the model as long as the run goes on, then tell the workers."""
        node, task = self._node, self._task
        workers = range(node.world_size)
        state = await node.compute(task.init, 0, None)
        self._held = [await node.compute(ZEROS, state.params)] * node.world_size
        await self._start(state.params)
        for step in itertools.count(1):
            asked = await self._choose(state.params, step)
            await self._call(asked, state.params, step)
            num_uploads = 0
            for _ in asked:
                message = await node.recv(tag=PUSH)
                if message.payload is not None:
                    num_uploads += 1
                    change = await self._decode(message.payload, message.src)
                    self._held[message.src] = await node.compute(MOVE, self._held[message.src], change)
            gradient = await node.compute(task.weighted_sum, [1.0] * node.world_size, self._held)
            state = await node.compute(task.apply, state, gradient)
            node.record(uploads=num_uploads)
            if not await node.checkpoint(step, [state.params]):
                await self._call(workers, None, step + 1)
                return

    async def _start(self, params: Any) -> None:
        self._decoders = [await self._node.compute(self._task.init_codec, params)] * self._node.world_size

    async def _choose(self, _params: Any, _step: int) -> Sequence[int]:
        """Return the workers that are called in a step."""
        return range(self._node.world_size)

    async def _call(self, workers: Sequence[int], params: Any, step: int) -> None:
        await self._node.gather(*[self._node.send(worker, (params, step), tag=MODEL) for worker in workers])

    async def _decode(self, payload: Any, worker: int) -> Any:
        decode = self._task.decode, payload, self._decoders[worker], self._held[worker]
        change, self._decoders[worker] = await self._node.compute(*decode)
        return change


# --- kernels ------------------------------------------------------------------------------------------------------


@functools.cache
def _rate_kernel(schedule: LearningRateSchedule) -> Kernel:
    """Return `(learning_rate, step) -> rate`: that of a step under a schedule."""
    return Kernel("rate", lazy_jit(lambda learning_rate, step: learning_rate * schedule.factor(step)))


def size(tree: Any) -> Any:
    """Return the squared length of a pytree."""
    import jax
    import jax.numpy as jnp

    return sum(jnp.sum(leaf * leaf) for leaf in jax.tree.leaves(tree))


def _lapse(params: Any, before: Any, rate: Any) -> Any:
    import jax

    return size(jax.tree.map(lambda p, b: (p - b) / rate, params, before))


def _change(gradient: Any, held: Any, share: Any) -> tuple[Any, Any]:
    import jax

    change = jax.tree.map(lambda g, h: share * g - h, gradient, held)
    return change, size(change)


SIZE: Final = Kernel("size", lazy_jit(size))
LAPSE: Final = Kernel("lapse", lazy_jit(_lapse))
CHANGE: Final = Kernel("change", lazy_jit(_change))
