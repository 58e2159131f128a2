"""All-reduce in segments along two trees at once."""

from __future__ import annotations

from typing import Any, NamedTuple

from psgdsim.collectives.base import ADD, CUT, JOIN, Group, Ranks
from psgdsim.node import Node


async def pipelined_tree_all_reduce(
    node: Node, vector: Any, *, tag: str, segments: int = 8, ranks: Ranks | None = None
) -> Any:
    """Sum a vector over all ranks in segments that follow each other along two trees; all end with the same bits.

    Each half of the vector goes up and down a binary tree of its own; who has children in one tree has none in the
    other, so that every link carries what it can. Time about 2 (ceil(lg N) + q - 1)(alpha + m/(q B)) for q segments of
    each half, which tends to 2 m/B; 2(N-1) m bytes in all, for any length of vector.
    Source: Sanders, Speck and Träff, "Two-tree algorithms for full bandwidth broadcast, reduction and scan",
    Parallel Computing 35(12), 2009.

    Note:
        The trees are those of in-order numbering, mirrored (N even) or turned by one (N odd), not the paper's coloured
        ones; a rank adds and sends a segment before it looks at the next, and goes down after all have gone up.

    Args:
        node: this rank.
        vector: a value of shape `(d,)`.
        tag: names the operation and the step.
        segments: into how many segments each half is cut.
        ranks: who takes part; all by default.

    Returns:
        The sum, shape `(d,)`.
    """
    group = Group(node, ranks)
    if group.size == 1:
        return vector
    parts = await node.compute(CUT, vector, 2 * segments)
    halves = await node.gather(
        *(
            _reduce_and_broadcast(group, tree, parts[i * segments : (i + 1) * segments], f"{tag} t{i}")
            for i, tree in enumerate(two_trees(group.place, group.size))
        )
    )
    return await node.compute(JOIN, [part for half in halves for part in half])


async def _reduce_and_broadcast(group: Group, tree: Tree, parts: list[Any], tag: str) -> list[Any]:
    node = group.node
    for i in range(len(parts)):
        for received in await node.gather(*(group.recv(child, f"{tag}u{i}") for child in tree.children)):
            parts[i] = await node.compute(ADD, parts[i], received)
        if tree.parent is not None:
            await group.send(tree.parent, parts[i], f"{tag}u{i}")
    for i in range(len(parts)):
        if tree.parent is not None:
            parts[i] = await group.recv(tree.parent, f"{tag}d{i}")
        await node.gather(*(group.send(child, parts[i], f"{tag}d{i}") for child in tree.children))
    return parts


class Tree(NamedTuple):
    """A place's neighbours in a binary tree.

    Attributes:
        parent: None at the root.
        children: at most two.
    """

    parent: int | None
    children: tuple[int, ...]


def two_trees(place: int, size: int) -> tuple[Tree, Tree]:
    """Return a place's neighbours in two binary trees; it has children in at most one of them, but for the roots.

    Args:
        place: 0 to `size - 1`.
        size: how many places there are.

    Example:
        >>> two_trees(2, 6)
        (Tree(parent=4, children=(1, 3)), Tree(parent=3, children=()))
    """
    if size % 2:
        turned = _tree((place - 1) % size, size)
        return _tree(place, size), _renamed(turned, lambda other: (other + 1) % size)
    return _tree(place, size), _renamed(_tree(size - 1 - place, size), lambda other: size - 1 - other)


def _renamed(tree: Tree, name: Any) -> Tree:
    return Tree(None if tree.parent is None else name(tree.parent), tuple(map(name, tree.children)))


def _tree(place: int, size: int) -> Tree:
    """Return the neighbours in the tree where a place has the places just around it below, as many as its lowest bit.

    The root is 0, with one child, the largest 2^k below `size`; odd places are leaves.
    """
    if place == 0:
        return Tree(None, (1 << ((size - 1).bit_length() - 1),) if size > 1 else ())
    bit = place & -place
    parent = (place ^ bit) | (bit << 1)
    if parent >= size:
        parent = place ^ bit
    above, below = bit >> 1, bit >> 1
    while place + above >= size:
        above >>= 1
    children = (*((place - below,) if below else ()), *((place + above,) if above else ()))
    return Tree(parent, children)
