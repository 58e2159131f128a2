"""All-reduce in two levels: inside groups of ranks that are near each other, and between the groups."""

from __future__ import annotations

from typing import Any

from psgdsim.collectives.base import JOIN, Group, Ranks
from psgdsim.collectives.ring import ring_all_gather, ring_all_reduce, ring_reduce_scatter
from psgdsim.collectives.tree import broadcast, reduce
from psgdsim.errors import ProgramError
from psgdsim.node import Node


async def hierarchical_all_reduce(
    node: Node, vector: Any, *, tag: str, group_size: int, ranks: Ranks | None = None
) -> Any:
    """Sum a vector inside groups, then between them on all lanes at once; every rank ends with the same bits.

    Around rings: a reduce-scatter in each group of q neighbours; an all-reduce of each part among the G ranks that hold
    it, one per group; an all-gather in each group. Time 2(q-1)(alpha1 + m/(q B1)) + 2(G-1)(alpha2 + m/(qG B2)), index 1
    inside groups and 2 between them; 2G(q-1) m bytes in all inside groups, 2(G-1) m between them.
    Source: Mikami et al., "Massively Distributed SGD: ImageNet/ResNet-50 Training in a Flash", arXiv 1811.05233
    (2D-torus all-reduce).

    Args:
        node: this rank.
        vector: a value of shape `(d,)`.
        tag: names the operation and the step.
        group_size: ranks per group, q; divides the number of ranks.
        ranks: who takes part, group by group; all by default.

    Returns:
        The sum, shape `(d,)`.

    Raises:
        ProgramError: the ranks do not fill groups of that size.
    """
    group = Group(node, ranks)
    if group.size % group_size:
        raise ProgramError(
            f"rank {node.rank}: group_size: expected a divisor of the number of ranks, {group.size}; got {group_size}"
        )
    first, lane = group.place - group.place % group_size, group.place % group_size
    near, across = group.ranks[first : first + group_size], group.ranks[lane::group_size]
    part = await ring_reduce_scatter(node, vector, tag=f"{tag} in", ranks=near)
    part = await ring_all_reduce(node, part, tag=f"{tag} x", ranks=across)
    parts = await ring_all_gather(node, part, tag=f"{tag} in", ranks=near)
    return await node.compute(JOIN, parts)


async def leader_all_reduce(node: Node, vector: Any, *, tag: str, group_size: int, ranks: Ranks | None = None) -> Any:
    """Sum a vector at each group's first rank, around a ring of these, and back; every rank ends with the same bits.

    Along binomial trees inside groups of q neighbours, the last of which may be smaller. Time
    2 lg q (alpha1 + m/B1) + 2(G-1)(alpha2 + m/(G B2)) for q = 2^k and G groups, index 1 inside groups and 2 between
    them; 2(N-G) m bytes in all inside groups, 2(G-1) m between them.
    Source: Jia et al., "Highly Scalable Deep Learning Training System with Mixed-Precision: Training ImageNet in Four
    Minutes", arXiv 1807.11205 (hierarchical all-reduce).

    Args:
        node: this rank.
        vector: a value of shape `(d,)`.
        tag: names the operation and the step.
        group_size: ranks per group, q.
        ranks: who takes part, group by group; all by default.

    Returns:
        The sum, shape `(d,)`.
    """
    group = Group(node, ranks)
    first = group.place - group.place % group_size
    near, leaders = group.ranks[first : first + group_size], group.ranks[::group_size]
    total = await reduce(node, vector, tag=f"{tag} in", ranks=near)
    if group.place == first:
        total = await ring_all_reduce(node, total, tag=f"{tag} x", ranks=leaders)
    return await broadcast(node, total, tag=f"{tag} in", ranks=near)
