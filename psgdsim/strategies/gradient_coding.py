"""Gradient coding: workers send coded sums of redundant blocks, so that a server need not wait for the slowest."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Sequence
from typing import Annotated, Any, Final

from pydantic import Field

from psgdsim.codecs.base import Codec
from psgdsim.compilation import lazy_jit
from psgdsim.errors import PeerLost, StrategyError
from psgdsim.node import Job, Kernel, Message, Node
from psgdsim.strategies.base import Strategy, register_strategy
from psgdsim.strategies.gradient_codes import CodeName, make_code
from psgdsim.strategies.gradient_codes_base import GradientCode
from psgdsim.task import Task

PUSH: Final = "push"
"""The tag of coded sums: the step, and the sum."""

FAREWELL: Final = ()
"""What a worker pushes last, when it has been told to end."""

MODEL: Final = "model"
"""The tag of the server's calls: the parameters (None to end), the step, whether the worker's last sum was used."""


def _combine(highs: Sequence[Any], lows: Sequence[Any], addends: Sequence[Any]) -> Any:
    import jax
    import jax.numpy as jnp

    with jax.enable_x64(True):
        weights = [jnp.float64(high) + jnp.float64(low) for high, low in zip(highs, lows, strict=True)]

        def total(*leaves: Any) -> Any:
            terms = [weight * leaf.astype(jnp.float64) for weight, leaf in zip(weights, leaves, strict=True)]
            return functools.reduce(jnp.add, terms).astype(leaves[0].dtype)

        return jax.tree.map(total, *addends)


COMBINE: Final = Kernel("combine", lazy_jit(_combine), "codec")
"""`(highs, lows, trees) -> tree`: the sum of (high + low) times tree, in float64, rounded at last."""


async def _weighted_sum(node: Node, weights: Sequence[float], addends: Sequence[Any]) -> Any:
    """Add up in float64; each weight is handed over as two numbers, for jax takes plain ones for float32."""
    import numpy as np

    highs = [float(np.float32(weight)) for weight in weights]
    lows = [weight - high for weight, high in zip(weights, highs, strict=True)]
    return await node.compute(COMBINE, highs, lows, list(addends))


@register_strategy("gradient_coding")
def gradient_coding(
    stragglers: Annotated[int, Field(ge=0)],
    code: CodeName = "cyclic_repetition",
    code_seed: Annotated[int, Field(ge=0)] = 0,
    copies: Annotated[int, Field(ge=1)] | None = None,
) -> Strategy:
    """Let each worker send one coded sum of s + 1 blocks, and take the exact gradient from the first N - s sums.

    A step's rows are dealt out to N blocks. Worker i sends sum_j B_ij (rows_j / rows) g_j(w) over its s + 1 blocks.
    From any N - s of these sums the server has weights a with a^T B = 1^T: weighted so, they add up to g(w), the
    gradient of all rows. Then w <- w - eta * g(w), and all workers are called: those that still compute give up and
    begin anew. Per step, N m bytes of parameters go down (none after the last step) and (N - s) m to N m bytes of coded
    sums go up; each worker computes s + 1 times as much. That pays where stragglers are slow whatever they compute. The
    parameters are those of synchronous SGD but for rounding, whoever straggles; s = 0 is synchronous SGD. Up to s
    workers may be lost.
    With code `stochastic` or `bernoulli` the gradient is not exact, and a worker computes d times as much, whatever s
    is. In the first, worker j sends u_j = sum of g_i / d, and the sum of N - s of these, times N / (N - s), has the
    mean g(w) if who straggles is random; with d = 1 stragglers are ignored. In the second, the server comes as near to
    counting each block once as it can. `decoding_error` is how far both are from that, sum_i (count_i - 1)^2.
    Sources: Tandon, Lei, Dimakis and Karampatziakis, ICML 2017, arXiv 1612.03301; Bitar, Wootters and El Rouayheb, ISIT
    2019, arXiv 1905.05383; Charles, Papailiopoulos and Ellenberg, arXiv 1711.06771.

    Note:
        Sums are coded and decoded in float64 but sent as float32; a random code that would multiply their rounding by
        more than 1,000 is refused. So would a lossy codec's errors be multiplied. A sum on its way is not called
        back. The server waits for N - s sums even where fewer would do (`fractional_repetition`).

    Args:
        stragglers: how many workers the server need not wait for, s.
        code: `fractional_repetition`, groups of s + 1 workers that send the same plain sum, s + 1 must divide
            world_size; `cyclic_repetition`, blocks i to i + s with random coefficients; `stochastic`, each block on d
            workers, whose sums count alike; or `bernoulli`, each block on each worker with probability d / N.
        code_seed: of these coefficients, or of who gets what.
        copies: on how many workers a block is with code `stochastic` or, in the mean, `bernoulli`, d; s + 1 if None.
    """
    if copies is not None and code not in ("stochastic", "bernoulli"):
        raise ValueError(f"copies: only codes 'stochastic' and 'bernoulli' have copies; got code {code!r}")
    tolerated = (PeerLost,) if stragglers else ()

    @functools.cache
    def make(world_size: int) -> GradientCode:
        return make_code(code, world_size, stragglers, code_seed, copies)

    def check(world_size: int, _codec: Codec) -> None:
        make(world_size)

    async def worker(node: Node, task: Task) -> None:
        with contextlib.suppress(*tolerated):  # without the server there is nothing left to do
            await _Worker(node, task, make(node.world_size), tolerated).run()

    async def server(node: Node, task: Task) -> None:
        await _Server(node, task, make(node.world_size), tolerated).run()

    return Strategy(worker, check, server=server, num_servers=1, is_lock_step=False, survives_loss=bool(tolerated))


class _Worker:
    """Compute a coded sum at the parameters of the server's last call.

    Args:
        node: its node.
        task: what is trained.
        code: the code.
        tolerated: the errors that do not end the run.
    """

    def __init__(self, node: Node, task: Task, code: GradientCode, tolerated: tuple[type[PeerLost], ...]) -> None:
        self._node, self._task, self._tolerated = node, task, tolerated
        [self._server] = node.servers
        self._blocks, self._row = task.blocks(node.world_size), code.row(node.rank)
        self._is_sending = False

    async def run(self) -> None:
        """Compute until the server says that the run is over; a step ends with each of its calls."""
        params = (await self._node.compute(self._task.init, 0, None)).params
        self._encoder = await self._node.compute(self._task.init_codec, params)
        job = self._node.spawn(self._work(params, 1))
        for count in itertools.count(1):
            params, step, is_used = (await self._node.recv(self._server, tag=MODEL)).payload
            await self._end(job)
            self._node.record(is_used=float(is_used))
            self._node.end_step(count)
            if params is None:
                await self._node.send(self._server, FAREWELL, tag=PUSH)
                return
            job = self._node.spawn(self._work(params, step))

    async def _end(self, job: Job) -> None:
        """Give up what is being computed; wait for what is being sent."""
        if self._is_sending:
            await job.wait()
        else:
            job.cancel()

    async def _work(self, params: Any, step: int) -> None:
        """Compute the sum of a step and send it."""
        node, task = self._node, self._task
        self._is_sending = False
        ids = [self._blocks.ids(step, block) for block in self._row]
        losses, gradients = await node.compute(task.gradients, [params] * len(ids), ids)
        self._is_sending = True
        shares = [len(rows) / task.global_rows for rows in ids]
        coefficients = [share * each for share, each in zip(shares, self._row.values(), strict=True)]
        coded = await _weighted_sum(node, coefficients, gradients)
        payload, self._encoder = await node.compute(task.encode, coded, self._encoder, node.rank, step)
        node.record(loss=await node.compute(task.weighted_sum, [share / sum(shares) for share in shares], losses))
        with contextlib.suppress(*self._tolerated):  # whoever waits for the server's call is told of it, too
            await node.send(self._server, (step, payload), tag=PUSH)


class _Server:
    """Update the model with what the first N - s workers send, and call all of them.

    Args:
        node: its node.
        task: what is trained.
        code: the code.
        tolerated: the errors that do not end the run.
    """

    def __init__(self, node: Node, task: Task, code: GradientCode, tolerated: tuple[type[PeerLost], ...]) -> None:
        self._node, self._task, self._code, self._tolerated = node, task, code, tolerated
        self._gone: set[int] = set()

    async def run(self) -> None:
        """Update the model as long as the run goes on, then tell the workers."""
        node, task = self._node, self._task
        state = await node.compute(task.init, 0, None)
        self._fresh = await node.compute(task.init_codec, state.params)
        self._decoders = dict.fromkeys(range(node.world_size), self._fresh)
        for step in itertools.count(1):
            sums = await self._collect(step, state.params)
            weights = self._weights(list(sums))
            gradient = await _weighted_sum(node, list(weights.values()), [sums[worker] for worker in weights])
            state = await node.compute(task.apply, state, gradient)
            node.record(amplification=max(map(abs, weights.values())))
            if not self._code.is_exact:
                node.record(decoding_error=self._code.error(weights))
            goes_on = await node.checkpoint(step, [state.params])
            params = state.params if goes_on else None
            calls = [self._call(worker, (params, step + 1, worker in weights)) for worker in range(node.world_size)]
            if not goes_on:
                await node.gather(*calls)
                await self._drain()
                return
            for call in calls:
                node.spawn(call)

    def _weights(self, arrived: list[int]) -> dict[int, float]:
        weights = self._code.weights(arrived)
        if weights is None:
            raise StrategyError(
                f"the sums of the workers {sorted(arrived)} do not add up to the gradient of all blocks; use another "
                "code_seed, fewer stragglers, or code 'fractional_repetition'"
            )
        return weights

    async def _collect(self, step: int, like: Any) -> dict[int, Any]:
        """Return the first N - s sums of a step by worker, in the order in which they came."""
        sums: dict[int, Any] = {}
        while len(sums) < self._node.world_size - self._code.stragglers:
            message = await self._receive()
            if message is None:
                continue
            worker, (version, payload) = message.src, message.payload
            self._gone.discard(worker)
            coded, decoder = await self._node.compute(self._task.decode, payload, self._decoders[worker], like)
            self._decoders[worker] = decoder  # of what comes too late, too: it has been counted as sent
            if version == step:
                sums[worker] = coded
        return sums

    async def _receive(self) -> Message | None:
        """Return the next sum, or None for the loss of a worker that the run can do without."""
        try:
            return await self._node.recv(tag=PUSH)
        except self._tolerated as lost:
            self._gone.add(lost.peer)
            self._decoders[lost.peer] = self._fresh
            if len(self._gone) > self._code.stragglers:
                raise
            return None

    async def _drain(self) -> None:
        """Read what comes too late, until each worker has said farewell or is lost."""
        left = set(range(self._node.world_size)) - self._gone
        while left:
            try:
                message = await self._node.recv(tag=PUSH)
            except self._tolerated as lost:
                left.discard(lost.peer)
            else:
                if message.payload == FAREWELL:
                    left.discard(message.src)

    async def _call(self, worker: int, call: Any) -> None:
        with contextlib.suppress(*self._tolerated):  # who receives is told of it, too
            await self._node.send(worker, call, tag=MODEL)
