"""Collectives between partners whose distance doubles or halves: few latencies.

They work on 2^k ranks. Of N = 2^k + e ranks the first 2e form pairs; one of each pair hands its vector over before and
gets the result after, which adds 2 (alpha + m/B) to the time and 2 e m to the bytes in all (Rabenseifner, "Optimization
of Collective Reduction Operations", ICCS 2004). Where messages share links it takes longer than that: ranks that need
not wait for a partner already send to ranks that do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psgdsim.collectives.base import ADD, JOIN, SPLIT, Group, Ranks, offsets
from psgdsim.node import Node


async def recursive_doubling_all_reduce(node: Node, vector: Any, *, tag: str, ranks: Ranks | None = None) -> Any:
    """Sum a vector over all ranks by exchanging it whole with lg N partners; every rank ends with the same bits.

    Time lg N (alpha + m/B), m lg N bytes sent per rank, N m lg N in all, for N = 2^k; other N add what folding costs.
    The fewest latencies of all: best for short vectors.
    Source: Thakur, Rabenseifner and Gropp, "Optimization of Collective Communication Operations in MPICH",
    IJHPCA 19(1), 2005.

    Args:
        node: this rank.
        vector: a value of shape `(d,)`.
        tag: names the operation and the step.
        ranks: who takes part; all by default.

    Returns:
        The sum, shape `(d,)`.
    """
    core = _Core(Group(node, ranks))
    vector = await core.enter(vector, tag)
    if not core.is_folded:
        for distance in core.distances():
            received = await core.exchange(distance, vector, f"{tag} rd{distance}")
            vector = await node.compute(ADD, vector, received)
    return await core.leave(vector, vector, tag)


async def halving_doubling_all_reduce(node: Node, vector: Any, *, tag: str, ranks: Ranks | None = None) -> Any:
    """Sum a vector over all ranks by recursive halving, then doubling; every rank ends with the same bits.

    Time 2 lg N alpha + 2(N-1)/N m/B, 2(N-1)/N m bytes sent per rank, 2(N-1) m in all, for N = 2^k and any length of
    vector; other N add what folding costs. As few bytes as a ring, and few latencies.
    Source: Rabenseifner, "Optimization of Collective Reduction Operations", ICCS 2004.

    Args:
        node: this rank.
        vector: a value of shape `(d,)`.
        tag: names the operation and the step.
        ranks: who takes part; all by default.

    Returns:
        The sum, shape `(d,)`.
    """
    core = _Core(Group(node, ranks))
    length = vector.shape[0]
    vector = await core.enter(vector, tag)
    if not core.is_folded:
        vector = await _halve(core, vector, offsets(length, core.size), tag)
        for distance in core.distances():
            received = await core.exchange(distance, vector, f"{tag} rd{distance}")
            parts = [received, vector] if core.index & distance else [vector, received]
            vector = await node.compute(JOIN, parts)
    return await core.leave(vector, vector, tag)


async def halving_reduce_scatter(node: Node, vector: Any, *, tag: str, ranks: Ranks | None = None) -> Any:
    """Sum a vector over all ranks by recursive halving and leave one part of the sum with each.

    Time lg N alpha + (N-1)/N m/B, (N-1)/N m bytes sent per rank, (N-1) m in all, for N = 2^k and any length of vector;
    other N add what folding costs, except that only its part comes back to a rank that handed its vector over.
    Source: Thakur, Rabenseifner and Gropp, IJHPCA 19(1), 2005.

    Args:
        node: this rank.
        vector: a value of shape `(d,)`.
        tag: names the operation and the step.
        ranks: who takes part; all by default.

    Returns:
        Chunk j of the sum, j being this rank's place among the ranks; it begins at element `j * d // N`.
    """
    group = Group(node, ranks)
    core = _Core(group)
    ends = offsets(vector.shape[0], group.size)
    vector = await core.enter(vector, tag)
    own, partners = vector, None
    if not core.is_folded:
        own = await _halve(core, vector, core.bounds(ends), tag)
    if core.has_partner:
        partners, own = await node.compute(SPLIT, own, ends[group.place] - ends[group.place - 1])
    return await core.leave(own, partners, tag)


class _Core:
    """The largest 2^k of a group's ranks; the others fold onto them.

    Args:
        group: all that take part.

    Attributes:
        node: this rank.
        size: how many ranks are in the core.
        is_folded: whether this rank hands its vector to the next one and waits.
        has_partner: whether one hands its vector to this rank.
        index: this rank's number in the core; of a folded rank that of its partner.
    """

    def __init__(self, group: Group) -> None:
        self.node = group.node
        self._group = group
        self.size = 1 << (group.size.bit_length() - 1)
        self._extra = group.size - self.size
        is_paired = group.place < 2 * self._extra
        self.is_folded = is_paired and group.place % 2 == 0
        self.has_partner = is_paired and not self.is_folded
        self.index = group.place // 2 if is_paired else group.place - self._extra

    def distances(self) -> list[int]:
        """Return 1, 2, 4, ... below the size."""
        return [1 << k for k in range(self.size.bit_length() - 1)]

    def bounds(self, ends: Sequence[int]) -> list[int]:
        """Return where parts for the whole group are cut so that a rank of the core also has its partner's."""
        return [ends[min(2 * index, index + self._extra)] for index in range(self.size + 1)]

    async def exchange(self, distance: int, payload: Any, tag: str) -> Any:
        """Exchange payloads with the rank of the core whose index differs in one bit."""
        index = self.index ^ distance
        place = 2 * index + 1 if index < self._extra else index + self._extra
        return await self._group.exchange(place, payload, place, tag)

    async def enter(self, vector: Any, tag: str) -> Any:
        """Fold: return what this rank goes on with."""
        if self.is_folded:
            await self._group.send(self._group.place + 1, vector, f"{tag} in")
        elif self.has_partner:
            received = await self._group.recv(self._group.place - 1, f"{tag} in")
            vector = await self.node.compute(ADD, received, vector)
        return vector

    async def leave(self, result: Any, partners: Any, tag: str) -> Any:
        """Unfold: give the partner its result and return this rank's own."""
        if self.is_folded:
            return await self._group.recv(self._group.place + 1, f"{tag} out")
        if self.has_partner:
            await self._group.send(self._group.place - 1, partners, f"{tag} out")
        return result


async def _halve(core: _Core, vector: Any, bounds: Sequence[int], tag: str) -> Any:
    """Sum by recursive halving; the rank with index i in the core ends with elements `[bounds[i]:bounds[i + 1]]`."""
    low = 0
    for distance in reversed(core.distances()):
        halves = await core.node.compute(SPLIT, vector, bounds[low + distance] - bounds[low])
        is_upper = bool(core.index & distance)
        received = await core.exchange(distance, halves[not is_upper], f"{tag} rh{distance}")
        vector = await core.node.compute(ADD, halves[is_upper], received)
        low += distance * is_upper
    return vector
