"""How ranks add up what each of them has: every one sends to all others, or along one of the collectives."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Literal

from psgdsim import collectives, rng
from psgdsim.codecs.base import Codec
from psgdsim.coding import UPLINK
from psgdsim.compilation import lazy_jit
from psgdsim.node import Kernel, Node
from psgdsim.task import Task

Algorithm = Literal[
    "broadcast",
    "ring",
    "recursive_doubling",
    "halving_doubling",
    "tree",
    "pipelined_tree",
    "hierarchical",
    "leaders",
]

Sum = Callable[..., Coroutine[Any, Any, Any]]
"""`(node, vector, tag=)` -> the sum over all ranks."""

Adder = Callable[[Any, int], Coroutine[Any, Any, Any]]
"""`(part, step)` -> the sum of the parts of all ranks, the same bits on each."""

SUMS: Final[dict[str, Sum]] = {
    "ring": collectives.ring_all_reduce,
    "recursive_doubling": collectives.recursive_doubling_all_reduce,
    "halving_doubling": collectives.halving_doubling_all_reduce,
    "tree": collectives.tree_all_reduce,
    "pipelined_tree": collectives.pipelined_tree_all_reduce,
    "hierarchical": collectives.hierarchical_all_reduce,
    "leaders": collectives.leader_all_reduce,
}
"""The collective behind each algorithm that adds up on the way."""

_GROUPED: Final = ("hierarchical", "leaders")


@dataclass(frozen=True)
class Addition:
    """A way to add up a pytree over all workers, coded by the task's codec.

    Args:
        algorithm: as in the strategy `all_reduce`.
        group_size: ranks per group, for the algorithms that have groups.
        segments: into how many segments `pipelined_tree` cuts each half; its own default if None.
    """

    algorithm: Algorithm
    group_size: int | None = None
    segments: int | None = None

    @property
    def is_spmd(self) -> bool:
        """Whether all workers do the same (see `Strategy`), but for messages of which a driver may know the outcome."""
        return self.algorithm == "ring"

    def check(self, world_size: int, codec: Codec) -> None:
        """Accept the settings for so many workers and this codec.

        Raises:
            ValueError: the codec's payloads cannot be added, or a setting is missing, does not fit, or would be
                ignored.
        """
        if self.algorithm != "broadcast" and not codec.is_summable and codec.reduction is None:
            raise ValueError(
                f"algorithm: {self.algorithm!r} adds payloads without decoding them, which this codec does not allow: "
                "expected 'broadcast', or a codec whose payloads can be added, such as identity, cast, random_k, "
                "power_sgd or count_sketch"
            )
        if self.algorithm != "broadcast" and not codec.is_summable and codec.reduction is not None:
            most = codec.reduction.max_ranks
            if most is not None and world_size > most:
                raise ValueError(
                    f"algorithm: {self.algorithm!r} adds payloads of this codec for at most {most} ranks: expected "
                    f"'broadcast' with world_size {world_size}"
                )
        _check_settings(self.algorithm, world_size, self.group_size, self.segments)

    async def start(
        self, node: Node, task: Task, like: Any, *, name: str = "gradient", senders: list[int] | None = None
    ) -> Adder:
        """Make what adds, with a codec's memory of its own.

        Args:
            node: this rank.
            task: whose codec is used.
            like: a pytree of values with the shapes of what is added.
            name: what the messages are called.
            senders: the workers that have a part, ascending; all if None. Only `broadcast` spares the others a
                message: elsewhere their parts are added, too.
        """
        encoder = await node.compute(task.init_codec, like)
        if self.algorithm == "broadcast":
            return _Broadcast(node, task, name, senders or list(range(node.world_size)), encoder)
        settings = {"group_size": self.group_size, "segments": self.segments}
        given = {key: value for key, value in settings.items() if value is not None}
        total = functools.partial(SUMS[self.algorithm], **given) if given else SUMS[self.algorithm]
        if task.codec.is_summable or task.codec.reduction is None:
            return _Sum(node, task, name, total, encoder)
        return _Rounds(node, task, name, total, encoder)


def _check_settings(algorithm: str, world_size: int, group_size: int | None, segments: int | None) -> None:
    """Raise `ValueError` if a setting is missing, does not fit, or would be ignored."""
    if algorithm in _GROUPED and group_size is None:
        raise ValueError(f"group_size: required with algorithm {algorithm!r}: how many ranks are in a group")
    if algorithm not in _GROUPED and group_size is not None:
        raise ValueError(
            f"group_size: only algorithms {' and '.join(_GROUPED)} have groups; got algorithm {algorithm!r}"
        )
    if group_size is not None and group_size > world_size:
        raise ValueError(f"group_size: expected at most world_size ({world_size}); got {group_size}")
    if algorithm == "hierarchical" and group_size is not None and world_size % group_size:
        divisors = [size for size in range(1, world_size + 1) if world_size % size == 0]
        below, above = max(d for d in divisors if d < group_size), min(d for d in divisors if d > group_size)
        raise ValueError(
            f"group_size: expected a divisor of world_size ({world_size}), such as {below} or {above}; got {group_size}"
        )
    if algorithm != "pipelined_tree" and segments is not None:
        raise ValueError(f"segments: only algorithm 'pipelined_tree' has segments; got algorithm {algorithm!r}")


class _Broadcast:
    """Every sender sends its part to all others; all add the parts up in the order of the ranks."""

    def __init__(self, node: Node, task: Task, name: str, senders: list[int], encoder: Any) -> None:
        self._node, self._task, self._name, self._senders = node, task, name, senders
        self._encoder = encoder
        self._decoders = dict.fromkeys(senders, encoder)

    async def __call__(self, part: Any, step: int) -> Any:
        node, task, payload = self._node, self._task, None
        if node.rank in self._senders:
            payload, self._encoder = await node.compute(task.encode, part, self._encoder, node.rank, step)
        tag = f"{self._name} {step}"
        payloads = await collectives.all_gather(node, payload, tag=tag, senders=self._senders)
        parts = []
        for rank, coded in zip(self._senders, payloads, strict=True):
            update, self._decoders[rank] = await node.compute(task.decode, coded, self._decoders[rank], part)
            parts.append(update)
        return await node.compute(task.weighted_sum, [1.0] * len(parts), parts)


class _Sum:
    """Payloads are added on the way by one of the collectives; the sum is decoded once."""

    def __init__(self, node: Node, task: Task, name: str, total: Sum, encoder: Any) -> None:
        self._node, self._task, self._name, self._total = node, task, name, total
        self._encoder = self._decoder = encoder

    async def __call__(self, part: Any, step: int) -> Any:
        node, task = self._node, self._task
        payload, self._encoder = await node.compute(task.encode, part, self._encoder, node.rank, step)
        vector = await node.compute(collectives.RAVEL, payload)
        total = await node.collective(self._total, vector, tag=f"{self._name} {step}")
        payload = await node.compute(collectives.UNRAVEL, total, payload)
        update, self._decoder = await node.compute(task.decode, payload, self._decoder, part)
        return update


_ReductionKernels = tuple[tuple[Kernel, ...], Kernel]


class _Rounds:
    """A codec's reduction: what is added up in a round depends on the sums of the rounds before."""

    def __init__(self, node: Node, task: Task, name: str, total: Sum, state: Any) -> None:
        self._node, self._name, self._total, self._state = node, name, total, state
        self._guard = task.uplink.guard
        self._rounds, self._finish = _reduction_kernels(task.codec, task.seed)
        self._largest = task.codec.reduction.largest if task.codec.reduction is not None else frozenset()

    async def __call__(self, part: Any, step: int) -> Any:
        node = self._node
        part = await node.compute(self._guard, part, node.rank, step)
        totals: tuple[Any, ...] = ()
        for i, start in enumerate(self._rounds):
            payload = await node.compute(start, part, self._state, totals, node.rank, step)
            add = self._find_largest if i in self._largest else self._add
            totals = (*totals, await add(payload, f"{self._name} {step}.{i}"))
        update, self._state = await node.compute(self._finish, part, self._state, totals, node.world_size)
        return update

    async def _add(self, payload: Any, tag: str) -> Any:
        vector = await self._node.compute(collectives.RAVEL, payload)
        total = await self._node.collective(self._total, vector, tag=tag)
        return await self._node.compute(collectives.UNRAVEL, total, payload)

    async def _find_largest(self, payload: Any, tag: str) -> Any:
        return await self._node.compute(LARGEST, await collectives.all_gather(self._node, payload, tag=tag))


@functools.lru_cache(maxsize=16)
def _reduction_kernels(codec: Codec, seed: int) -> _ReductionKernels:
    """Return the kernels of a codec's reduction; ranks of one process share them.

    They are `(part, state, totals, rank, step) -> payload` for each round, and
    `(part, state, totals, world_size) -> (sum, state)`.
    """
    reduction = codec.reduction
    assert reduction is not None

    def kernel(i: int, start: Callable[..., Any]) -> Kernel:
        @lazy_jit
        def payload(part: Any, state: Any, totals: Any, rank: int, step: int) -> Any:
            import jax

            key = rng.key(seed, UPLINK, i)
            return start(part, state, totals, jax.random.fold_in(jax.random.fold_in(key, rank), step))

        return Kernel(f"round {i + 1} of the sum", payload, "codec")

    rounds = tuple(kernel(i, start) for i, start in enumerate(reduction.rounds))
    return rounds, Kernel("end of the sum", lazy_jit(reduction.finish), "codec")


def _largest(trees: list[Any]) -> Any:
    import jax

    return jax.tree.map(lambda *leaves: functools.reduce(jax.numpy.maximum, leaves), *trees)


LARGEST: Final = Kernel("largest", lazy_jit(_largest))
"""`(trees) -> tree`: the largest of each value."""
