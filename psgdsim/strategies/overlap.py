"""All-reduces beside the computation: of the gradient of the step before, or of the layers that are done.

A sum under way waits for no kernel: the additions in it run in a thread of their own.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from psgdsim import collectives
from psgdsim.coding import UPLINK, Coding
from psgdsim.node import Job, Node
from psgdsim.strategies.addition import SUMS, Addition, Sum
from psgdsim.strategies.contributions import Contribution
from psgdsim.task import Task


class Channel:
    """Adds up a pytree over all workers while they do something else; one sum at a time.

    Args:
        node: this rank.
        coding: of a codec whose payloads can be added.
        total: how vectors are added up.
        name: what the messages are called.
    """

    def __init__(self, node: Node, coding: Coding, total: Sum, name: str) -> None:
        self._node, self._coding, self._total, self._name = node, coding, total, name
        self._payload: Any = None
        self._part: Any = None
        self.job: Job | None = None

    async def start(self, like: Any) -> None:
        """Set up the codec's memory for what looks like this."""
        self._encoder = self._decoder = await self._node.compute(self._coding.init, like)

    async def begin(self, part: Any, step: int, after: Job | None = None) -> None:
        """Code this rank's part and begin to add it to the others'.

        Args:
            part: what is added.
            step: the step under way.
            after: what must end before anything is sent.
        """
        node, encode = self._node, self._coding.encode
        self._part = part
        self._payload, self._encoder = await node.compute(encode, part, self._encoder, node.rank, step)
        vector = await node.compute(collectives.RAVEL, self._payload)
        self.job = node.spawn(self._add(vector, f"{self._name} {step}", after))

    async def _add(self, vector: Any, tag: str, after: Job | None) -> Any:
        if after is not None:
            await after.wait()
        return await self._total(self._node, vector, tag=tag)

    async def end(self) -> Any:
        """Wait for the sum that was begun, and return it decoded; None if none was."""
        if self.job is None:
            return None
        job, self.job = self.job, None
        vector = await job.wait()
        payload = await self._node.compute(collectives.UNRAVEL, vector, self._payload)
        total, self._decoder = await self._node.compute(self._coding.decode, payload, self._decoder, self._part)
        return total


class DoubleBuffer:
    """The mean gradient of the step before: it is added up while this step's is computed.

    Args:
        node: this rank.
        task: what is trained.
        addition: how parts are added up; not by `broadcast`.
        contribution: what this rank contributes.
    """

    def __init__(self, node: Node, task: Task, addition: Addition, contribution: Contribution) -> None:
        self._contribution = contribution
        self._channel = Channel(node, task.uplink, _sum_of(addition), "gradient")

    async def start(self, params: Any) -> None:
        """Set up the codec's memory."""
        await self._channel.start(params)

    async def __call__(self, params: Any, step: int) -> tuple[Any, Any]:
        """Return this step's loss and the mean gradient of the step before, None in the first."""
        loss, part = await self._contribution(params, step)
        total = await self._channel.end()
        await self._channel.begin(part, step)
        return loss, total

    def staleness(self, step: int) -> int:
        """Return how many updates older than the model the gradient is that a step applies.

        The first gradient is applied to the model that it is of.
        """
        return int(step > 2)

    async def end(self) -> None:
        """Let the last sum come to its end; nobody applies it."""
        await self._channel.end()


class Buckets:
    """The mean gradient, added up in buckets of layers; the last layers' is on its way while the first are computed.

    Buckets are added up one after the other, in the order in which backpropagation fills them.

    Args:
        node: this rank.
        task: what is trained.
        addition: how parts are added up; not by `broadcast`.
        bucket_size: what a bucket holds at least, but for the last [byte].
    """

    def __init__(self, node: Node, task: Task, addition: Addition, bucket_size: float) -> None:
        self._node, self._task = node, task
        self._blocks = task.blocks(node.world_size)
        backward = task.backward
        order = [leaf for stage in reversed(backward.leaves) for leaf in stage]
        self._buckets = fill(order, backward.leaf_nbytes, bucket_size)
        total, names = _sum_of(addition), [f"bucket {i}" for i in range(len(self._buckets))]
        self._channels = [Channel(node, task.coding(task.codec, f"{UPLINK}, {name}"), total, name) for name in names]

    async def start(self, params: Any) -> None:
        """Set up the codec's memory, one for each bucket."""
        leaves = dict(enumerate(_leaves(params)))
        for channel, bucket in zip(self._channels, self._buckets, strict=True):
            await channel.start(self._named(leaves, bucket))

    async def __call__(self, params: Any, step: int) -> tuple[Any, Any]:
        """Return this rank's loss and the mean gradient of all ranks."""
        node, backward = self._node, self._task.backward
        ids = self._blocks.ids(step, node.rank)
        weight = len(ids) / self._task.global_rows
        loss, inputs, slope = await node.compute(backward.forward, params, ids)
        gradients: dict[int, Any] = {}
        num_begun = 0
        for place in reversed(range(len(backward.stages))):
            own = backward.stages[place].own(params)
            gradient, slope = await node.compute(backward.back[place], own, inputs.pop(), slope)
            gradients.update(zip(backward.leaves[place], _leaves(gradient), strict=True))
            num_begun += await self._begin_full(gradients, num_begun, weight, step)
        return loss, await self._end_all()

    async def _begin_full(self, gradients: dict[int, Any], first: int, weight: float, step: int) -> int:
        """Begin the sums of all buckets that are full now; return how many these are."""
        full = list(itertools.takewhile(lambda bucket: gradients.keys() >= set(bucket), self._buckets[first:]))
        for i, bucket in enumerate(full, start=first):
            part = await self._node.compute(self._task.weighted_sum, [weight], [self._named(gradients, bucket)])
            await self._channels[i].begin(part, step, self._channels[i - 1].job if i else None)
        return len(full)

    def _named(self, leaves: Mapping[int, Any], bucket: Sequence[int]) -> dict[str, Any]:
        """Return the leaves of a bucket by name."""
        return {self._task.backward.leaf_names[i]: leaves[i] for i in bucket}

    async def _end_all(self) -> Any:
        leaves: dict[str, Any] = {}
        for channel in self._channels:
            leaves |= await channel.end()
        return self._task.backward.whole([leaves[name] for name in self._task.backward.leaf_names])

    def staleness(self, _step: int) -> int:
        """Return 0: a step applies the gradient of the model that it begins with."""
        return 0

    async def end(self) -> None:
        """Do nothing: no sum outlives its step."""


def fill(leaves: Sequence[int], nbytes: Sequence[int], bucket_size: float) -> list[list[int]]:
    """Put leaves into buckets in the order given; a bucket is full when it holds so much.

    Args:
        leaves: their numbers.
        nbytes: the size of each, by number [byte].
        bucket_size: what a bucket holds at least, but for the last [byte].

    Example:
        >>> fill([2, 1, 0], [8, 4, 3], 6)
        [[2, 1], [0]]
    """
    buckets: list[list[int]] = [[]]
    for leaf in leaves:
        if sum(nbytes[i] for i in buckets[-1]) >= bucket_size:
            buckets.append([])
        buckets[-1].append(leaf)
    return buckets


def _sum_of(addition: Addition) -> Sum:
    """Return how vectors are added up."""
    settings = {"group_size": addition.group_size, "segments": addition.segments}
    given = {key: value for key, value in settings.items() if value is not None}
    return functools.partial(SUMS[addition.algorithm], **given)


def _leaves(tree: Any) -> list[Any]:
    import jax

    return jax.tree.leaves(tree)
