"""The server of `lag` and `laq`: it keeps the last gradient of every worker, and steps with their sum."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from typing import Any

from psgdsim.data.order import split_rows
from psgdsim.errors import PeerLost, RecvTimeout
from psgdsim.node import Message, Node
from psgdsim.strategies.lazy_base import BEGIN, MODEL, PUSH, WELCOME
from psgdsim.strategies.local_sgd import MOVE
from psgdsim.strategies.outer import ZEROS
from psgdsim.task import Task


class LazyServer:
    """The program of the server: it calls all workers in every step.

    Args:
        node: its node.
        task: what is trained.
        tolerated: the errors that do not end the run.
    """

    def __init__(self, node: Node, task: Task, tolerated: tuple[type[PeerLost], ...]) -> None:
        self._node, self._task, self._tolerated = node, task, tolerated
        self._rows = split_rows(task.global_rows, node.world_size)
        self._there = set[int]() if tolerated else set(range(node.world_size))  # who may be called
        self._awaited: set[int] = set()
        self._held: dict[int, Any] = {}  # the last gradient of each worker that has answered
        self._called: int | None = 0  # the last step, None when the run is over
        self._lost: PeerLost | None = None

    async def run(self) -> None:
        """Update the model as long as the run goes on, then tell the workers."""
        node, task = self._node, self._task
        state = await node.compute(task.init, 0, None)
        self._zeros = await node.compute(ZEROS, state.params)
        await self._start(state.params)
        if self._tolerated:
            await self._collect(range(node.world_size))
        for step in itertools.count(1):
            asked = await self._choose(state.params, step)
            self._called = step
            await self._call(asked, state.params, step)
            node.record(uploads=await self._collect(asked))
            if self._held:  # not if all of these are lost, and who is there has just come back
                state = await node.compute(task.apply, state, await self._mean())
            if not await node.checkpoint(step, [state.params]):
                break
        await self._dismiss(step + 1)

    async def _start(self, params: Any) -> None:
        self._fresh = await self._node.compute(self._task.init_codec, params)
        self._decoders = [self._fresh] * self._node.world_size

    async def _choose(self, _params: Any, _step: int) -> Sequence[int]:
        """Return the workers that are called in a step."""
        return sorted(self._there)

    async def _call(self, workers: Sequence[int], params: Any, step: int) -> None:
        await self._node.gather(*[self._send(worker, (params, step), MODEL) for worker in workers])

    async def _send(self, worker: int, payload: Any, tag: str) -> None:
        with contextlib.suppress(*self._tolerated):  # whoever receives is told of it, too
            await self._node.send(worker, payload, tag=tag)

    async def _collect(self, asked: Sequence[int]) -> int:
        """Wait until each of some workers has answered, or is lost; return how many have sent something."""
        self._awaited, num_uploads = set(asked), 0
        if not asked and self._tolerated:
            await self._look()
        while self._awaited:
            message = await self._receive()
            if message is None:
                continue
            worker = message.src
            self._awaited.discard(worker)
            held = self._held.setdefault(worker, self._zeros)
            if message.payload is not None:
                num_uploads += 1
                self._held[worker] = await self._node.compute(MOVE, held, await self._decode(message.payload, worker))
        if self._lost is not None and not self._there:
            raise self._lost
        return num_uploads

    async def _decode(self, payload: Any, worker: int) -> Any:
        decode = self._task.decode, payload, self._decoders[worker], self._held[worker]
        change, self._decoders[worker] = await self._node.compute(*decode)
        return change

    async def _mean(self) -> Any:
        """Return the mean gradient of the workers that have one, weighted by rows: each has its share of all rows."""
        workers = sorted(self._held)
        factor = self._task.global_rows / sum(self._rows[worker] for worker in workers)
        held = [self._held[worker] for worker in workers]
        return await self._node.compute(self._task.weighted_sum, [factor] * len(held), held)

    async def _dismiss(self, step: int) -> None:
        """Tell all workers to end; where some may be lost, read what comes until all have ended."""
        self._called = None
        await self._call(sorted(self._there), None, step)
        while self._tolerated and self._there:
            await self._receive()

    # --- workers come and go --------------------------------------------------------------------------------------

    async def _look(self) -> None:
        """Take note of who has been lost or has begun while nobody was called; no answer is due."""
        with contextlib.suppress(RecvTimeout):
            while True:
                await self._receive(timeout=0.0)

    async def _receive(self, timeout: float | None = None) -> Message | None:
        """Return the answer that comes next; None if first a worker is lost, begins or ends."""
        try:
            message = await self._node.recv(tag=PUSH, timeout=timeout)
        except self._tolerated as lost:
            self._lost = lost
            self._forget(lost.peer)
            return None
        if not isinstance(message.payload, str):
            return message
        self._forget(message.src)
        if message.payload == BEGIN:
            self._there.add(message.src)
            self._node.spawn(self._send(message.src, self._called, WELCOME))
        return None

    def _forget(self, worker: int) -> None:
        """Be without a worker, and without all that is known of what it has sent."""
        self._there.discard(worker)
        self._awaited.discard(worker)
        self._held.pop(worker, None)
        self._decoders[worker] = self._fresh
