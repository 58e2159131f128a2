"""What lazily aggregated gradients share: the rule of when to send, its kernels, and the worker."""

from __future__ import annotations

import contextlib
import functools
from collections import deque
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from psgdsim.codecs.base import Codec
from psgdsim.compilation import lazy_jit
from psgdsim.data.order import split_rows
from psgdsim.errors import PeerLost
from psgdsim.node import Kernel, Node
from psgdsim.optimizers import LearningRateSchedule
from psgdsim.strategies.base import Program, Strategy
from psgdsim.strategies.local_sgd import MOVE
from psgdsim.strategies.outer import ZEROS
from psgdsim.task import Task

Xi = Annotated[float, Field(ge=0, allow_inf_nan=False)]
History = Annotated[int, Field(ge=1, le=1000)]
OnPeerLoss = Literal["fail", "drop"]

TOLERATED: Final[dict[OnPeerLoss, tuple[type[PeerLost], ...]]] = {"fail": (), "drop": (PeerLost,)}
"""The errors that do not end the run."""

MODEL: Final = "model"
"""The tag of the server's calls: the parameters (None to end) and the step."""

PUSH: Final = "push"
"""The tag of the answers: a coded change of the gradient, or None if the last one counts on; `BEGIN` and `END`."""

BEGIN: Final = "begin"
"""What a worker pushes first where workers may be lost: it has nothing of before, nor must the server."""

END: Final = "end"
"""What it pushes last there."""

WELCOME: Final = "welcome"
"""The tag of the answer to `BEGIN`: the last step that has been called, None if the run is over. A call of that step or
an earlier one was meant for what the worker was before it crashed."""


def lazy_strategy(
    kind: str,
    worker: Program,
    server: Program,
    check: Callable[[int, Codec], None],
    tolerated: tuple[type[PeerLost], ...],
) -> Strategy:
    """Return a strategy with one server that leads.

    Args:
        kind: its name.
        worker: the program of the workers.
        server: that of the server.
        check: as in `Strategy`.
        tolerated: the errors that do not end a run.
    """
    return Strategy(
        worker,
        check,
        server=server,
        num_servers=1,
        is_lock_step=False,
        survives_loss=bool(tolerated),
        needs_all=f"on_peer_loss is 'fail'; with 'drop', {kind} goes on with the workers that are left",
    )


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
        tolerated: the errors that do not end the run.
    """

    def __init__(self, node: Node, task: Task, pace: Pace | None, tolerated: tuple[type[PeerLost], ...]) -> None:
        self._node, self._task, self._pace, self._tolerated = node, task, pace, tolerated
        [self._server] = node.servers
        self._share = split_rows(task.global_rows, node.world_size)[node.rank] / task.global_rows
        self._ended = self._sent = 0  # the steps that it has ended last, and sent anything in
        self._has_sent = False

    async def run(self) -> None:
        """Answer the server's calls until it says that the run is over."""
        if not self._tolerated:
            await self._answer_calls()
            return
        with contextlib.suppress(*self._tolerated):  # without the server there is nothing left to do
            await self._node.send(self._server, BEGIN, tag=PUSH)
            last = (await self._node.recv(self._server, tag=WELCOME)).payload
            if last is not None:
                self._ended = self._sent = last
                await self._answer_calls()
            await self._node.send(self._server, END, tag=PUSH)

    async def _answer_calls(self) -> None:
        """Compute gradients at what the server sends, until it sends nothing more."""
        node, task = self._node, self._task
        blocks = task.blocks(node.world_size)
        params = (await node.compute(task.init, 0, None)).params
        self._held = await node.compute(ZEROS, params)
        await self._start(params)
        while True:
            params, step = await self._next_call()
            self._end_steps(step)
            if params is None:
                return
            losses, gradients = await node.compute(task.gradients, [params], [blocks.ids(step, node.rank)])
            limit = -1.0 if self._pace is None else await self._pace.limit(params, step)
            payload = await self._change(gradients[0], limit, step)
            if payload is not None:
                self._sent, self._has_sent = step, True
            node.record(loss=losses[0])
            await node.send(self._server, payload, tag=PUSH)

    async def _next_call(self) -> tuple[Any, int]:
        """Return the next call that is meant for this worker as it is."""
        while True:
            params, step = (await self._node.recv(self._server, tag=MODEL)).payload
            if step > self._ended:
                return params, step

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
