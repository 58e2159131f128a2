"""Coded answers of `parameter_server`: a worker is sent how the model differs from what it has, and both ends add it.

What a codec drops stays in the difference, so it is in the next answer: error feedback without a residual of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from psgdsim.codecs.base import Codec
from psgdsim.coding import DOWNLINK, Coding
from psgdsim.compilation import lazy_jit
from psgdsim.node import Kernel, Node
from psgdsim.strategies.local_sgd import MOVE
from psgdsim.task import Task


@dataclass(frozen=True, eq=False)
class Holding:
    """What some workers have, and what both ends of their downlinks remember; two of them are never equal.

    Attributes:
        params: the parameters that the workers have.
        encoder: the codec's memory on the server.
        decoder: the codec's memory on the workers.
    """

    params: Any
    encoder: Any
    decoder: Any


class Holdings:
    """What each worker has of the model, as the server knows it.

    Workers that have had the same answers share one holding, so that what they are sent is coded once.

    Args:
        node: the server.
        task: what is trained.
        codec: how answers are coded.
    """

    def __init__(self, node: Node, task: Task, codec: Codec) -> None:
        self._node, self._coding = node, task.coding(codec, DOWNLINK)
        self._by_worker: dict[int, Holding] = {}
        self._num_coded = 0

    async def begin(self, params: Any) -> None:
        """Let all workers have these parameters."""
        self._fresh = await self._node.compute(self._coding.init, params)
        self._begin_version(0, params)
        self._by_worker = dict.fromkeys(range(self._node.world_size), self._whole)

    def _begin_version(self, version: int, params: Any) -> None:
        self._version, self._whole = version, Holding(params, self._fresh, self._fresh)
        self._answers: dict[Holding, tuple[Any, Holding]] = {}

    def params_of(self, worker: int) -> Any:
        """Return the parameters that a worker has when all answers have come."""
        return self._by_worker[worker].params

    def hand_over(self, worker: int, params: Any, version: int) -> None:
        """Let a worker have these parameters, which it is sent as they are."""
        if version != self._version:
            self._begin_version(version, params)
        self._by_worker[worker] = self._whole

    async def encode(self, worker: int, params: Any, version: int) -> Any:
        """Return what to send to a worker to bring it closer to these parameters."""
        if version != self._version:
            self._begin_version(version, params)
        before = self._by_worker[worker]
        if before not in self._answers:
            self._answers[before] = await self._code(before, params)
        payload, self._by_worker[worker] = self._answers[before]
        return payload

    async def _code(self, before: Holding, params: Any) -> tuple[Any, Holding]:
        compute, coding = self._node.compute, self._coding
        difference = await compute(DIFFERENCE, params, before.params)
        self._num_coded += 1
        payload, encoder = await compute(coding.encode, difference, before.encoder, self._node.rank, self._num_coded)
        change, decoder = await compute(coding.decode, payload, before.decoder, difference)
        return payload, Holding(await compute(MOVE, before.params, change), encoder, decoder)


@dataclass
class Held:
    """What a worker has of a server's model.

    Args:
        node: the worker.
        coding: how answers are coded; None if they are the parameters as they are.
        params: the parameters that the worker has; not kept where nothing is coded.
        decoder: the codec's memory on the worker.
    """

    node: Node
    coding: Coding | None
    params: Any = None
    decoder: Any = None

    async def take(self, answer: Any) -> Any:
        """Return the parameters that the worker has with this answer."""
        if self.coding is None:
            return answer
        change, self.decoder = await self.node.compute(self.coding.decode, answer, self.decoder, self.params)
        self.params = await self.node.compute(MOVE, self.params, change)
        return self.params


async def hold(node: Node, task: Task, codec: Codec | None, params: Any) -> Held:
    """Return what a worker has that begins with these parameters."""
    if codec is None:
        return Held(node, None)
    coding = task.coding(codec, DOWNLINK)
    return Held(node, coding, params, await node.compute(coding.init, params))


def _difference(now: Any, before: Any) -> Any:
    import jax

    return jax.tree.map(lambda leaf, last: leaf - last, now, before)


DIFFERENCE: Final = Kernel("difference", lazy_jit(_difference))
