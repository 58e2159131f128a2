"""Elastic averaging: workers step on their own, tied to a centre by springs."""

from __future__ import annotations

import itertools
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from psgdsim.codecs.base import Codec
from psgdsim.compilation import lazy_jit
from psgdsim.node import Job, Kernel, Message, Node
from psgdsim.strategies.base import Strategy, register_strategy
from psgdsim.strategies.local_sgd import MOVE, Period
from psgdsim.task import Task

Sync = Literal["async", "bsp"]

PUSH: Final = "push"
"""The tag of all that a worker sends: its coded parameters, or None when it has ended."""

PULL: Final = "pull"
"""The tag of the answer: the version of the centre and how far the worker must move, or None if the run is over."""

STOP: Final = "stop"
"""The tag of the message that ends the run."""


@register_strategy("easgd")
def easgd(period: Period = 10, beta: Annotated[float, Field(gt=0)] = 0.9, sync: Sync = "async") -> Strategy:
    """Step on local rows; after every so many steps, pull worker and centre towards each other: EASGD.

    After each tau steps a worker sends x_i to the server, which keeps the centre c, moves it, c <- c + d with
    d = alpha * (x_i - c), and answers d. Meanwhile the worker computes its next gradient g at x_i; then
    x_i <- x_i - eta * g - d. So springs move no sum: only the local steps change that of all x_i and c.
    alpha = beta / N. The model that is evaluated is c.

    For each tau steps of a worker, m bytes of parameters go up, coded by the codec, and m come down: 2 N m / tau per
    step in all. A worker goes on until it is told to stop; a step of the server is N local steps, whoever made them.
    Source: Zhang, Choromanska and LeCun, NIPS 2015 (arXiv 1412.6651), algorithm 1 and, for `bsp`, section 3.

    Note:
        EAMSGD is this with `optimizer: {kind: momentum, nesterov: true}`, whose parameters are those looked ahead to:
        the spring acts on these, not on the ones before the momentum.

    Args:
        period: local steps between two exchanges, tau.
        beta: strength of all springs together, N alpha.
        sync: `async`, the server moves the centre with each x_i as it comes; `bsp`, it waits for those of all workers
            and computes every d with the same centre.
    """

    def check(world_size: int, codec: Codec) -> None:
        # At a rate of 0: asynchronously each worker's distance changes by 1 - alpha, all at once by 1 - alpha (N + 1).
        limit = world_size if sync == "async" else 2 * world_size / (world_size + 1)
        if beta > limit:
            raise ValueError(
                f"beta: expected at most {limit:g} with {world_size} workers and sync {sync!r}; got {beta}"
            )
        if not codec.is_identity:
            raise ValueError("codec: easgd sends parameters, not gradients: expected codec 'identity'")

    async def worker(node: Node, task: Task) -> None:
        await _Worker(node, task, period).run()

    async def server(node: Node, task: Task) -> None:
        await _Centre(node, task, period, beta / node.world_size, is_waiting=sync == "bsp").run()

    return Strategy(worker, check, server=server, num_servers=1, is_lock_step=False)


class _Worker:
    """The program of a worker.

    Args:
        node: its node.
        task: what is trained.
        period: local steps between two exchanges.
    """

    def __init__(self, node: Node, task: Task, period: int) -> None:
        self._node, self._task, self._period = node, task, period
        [self._server] = node.servers
        self._is_over = False

    async def run(self) -> None:
        """Train until the server says that the run is over."""
        node, task = self._node, self._task
        ears = node.spawn(self._listen())
        blocks = task.blocks(node.world_size)
        state = await node.compute(task.init, 0, None)
        self._encoder = await node.compute(task.init_codec, state.params)
        for step in itertools.count(1):
            work = [node.compute(task.gradients, [state.params], [blocks.ids(step, node.rank)])]
            if step > 1 and (step - 1) % self._period == 0:
                work.append(self._exchange(state.params, step - 1))
            (losses, gradients), *answers = await node.gather(*work)
            if self._is_over or None in answers:
                break
            state = await node.compute(task.apply, state, gradients[0])
            for version, force in answers:
                state = state._replace(params=await node.compute(PULL_BACK, state.params, force))
                node.record(version=version)
            node.record(loss=losses[0])
            node.end_step(step)
        await self._leave(ears)

    async def _listen(self) -> None:
        await self._node.recv(self._server, tag=STOP)
        self._is_over = True

    async def _exchange(self, params: Any, step: int) -> Any:
        """Send the parameters; return the answer."""
        node = self._node
        payload, self._encoder = await node.compute(self._task.encode, params, self._encoder, node.rank, step)
        await node.send(self._server, payload, tag=PUSH)
        return (await node.recv(self._server, tag=PULL)).payload

    async def _leave(self, ears: Job) -> None:
        await ears.wait()
        await self._node.send(self._server, None, tag=PUSH)


class _Centre:
    """The program of the server.

    Args:
        node: its node.
        task: what is trained.
        period: local steps of a worker between two exchanges.
        alpha: how far, of their distance, a worker and the centre move.
        is_waiting: whether it waits for all workers.
    """

    def __init__(self, node: Node, task: Task, period: int, alpha: float, *, is_waiting: bool) -> None:
        self._node, self._task, self._period, self._alpha = node, task, period, alpha
        self._num = node.world_size if is_waiting else 1
        self._version = 0

    async def run(self) -> None:
        """Move the centre as long as the run goes on, then see all workers off."""
        node, task = self._node, self._task
        self._params = (await node.compute(task.init, 0, None)).params
        self._decoders = dict.fromkeys(range(node.world_size), await node.compute(task.init_codec, self._params))
        local_steps, step, goes_on = 0, 0, True
        while goes_on:
            await self._move([await node.recv(tag=PUSH) for _ in range(self._num)])
            local_steps += self._num * self._period
            while goes_on and local_steps >= (step + 1) * node.world_size:
                step += 1
                node.record(version=self._version)
                goes_on = await node.checkpoint(step, [self._params])
        for worker in range(node.world_size):
            node.spawn(node.send(worker, None, tag=STOP))
        left = node.world_size
        while left:
            message = await node.recv(tag=PUSH)
            if message.payload is None:
                left -= 1
            else:
                await node.send(message.src, None, tag=PULL)

    async def _move(self, messages: list[Message]) -> None:
        """Pull the centre towards workers, all from where it is, and tell them how far they must move."""
        node, forces = self._node, []
        messages = sorted(messages, key=lambda message: message.src)
        for message in messages:
            worker, centre = message.src, self._params
            decode = self._task.decode, message.payload, self._decoders[worker], centre
            params, self._decoders[worker] = await node.compute(*decode)
            forces.append(await node.compute(FORCE, params, centre, self._alpha))
        total = (
            forces[0] if len(forces) == 1 else await node.compute(self._task.weighted_sum, [1.0] * self._num, forces)
        )
        self._params = await node.compute(MOVE, self._params, total)
        self._version += 1
        for message, force in zip(messages, forces, strict=True):
            node.spawn(node.send(message.src, (self._version, force), tag=PULL))


# --- kernels ------------------------------------------------------------------------------------------------------


def _force(params: Any, centre: Any, alpha: Any) -> Any:
    import jax

    return jax.tree.map(lambda x, c: alpha * (x - c), params, centre)


def _pull_back(params: Any, force: Any) -> Any:
    import jax

    return jax.tree.map(lambda x, d: x - d, params, force)


FORCE = Kernel("force", lazy_jit(_force))
PULL_BACK = Kernel("pull_back", lazy_jit(_pull_back))
