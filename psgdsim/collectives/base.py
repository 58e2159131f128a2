"""What collectives share: kernels that cut, join and add vectors, and a group of ranks that act together."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from psgdsim.compilation import lazy_jit
from psgdsim.errors import CodecError, ProgramError
from psgdsim.node import Kernel, Node

Ranks = Sequence[int]
"""The ranks that take part in a collective, each once; every one of them calls it with the same list."""


def offsets(length: int, parts: int) -> list[int]:
    """Return where a vector is cut into parts as equal as possible: part j is `[offsets[j]:offsets[j + 1]]`.

    Args:
        length: of the vector; may be less than the number of parts, some are empty then.
        parts: how many.

    Example:
        >>> offsets(7, 3), offsets(1, 2)
        ([0, 2, 4, 7], [0, 0, 1])
    """
    return [j * length // parts for j in range(parts + 1)]


def _cut(vector: Any, parts: int) -> list[Any]:
    return [vector[start:stop] for start, stop in itertools.pairwise(offsets(vector.shape[0], parts))]


def _split(vector: Any, place: int) -> tuple[Any, Any]:
    return vector[:place], vector[place:]


def _join(parts: list[Any]) -> Any:
    import jax.numpy as jnp

    return jnp.concatenate(parts)


def _ravel(tree: Any) -> Any:
    import jax
    from jax.flatten_util import ravel_pytree

    dtypes = sorted({str(leaf.dtype) for leaf in jax.tree.leaves(tree)})
    if len(dtypes) > 1:
        raise CodecError(
            f"payloads of {' and '.join(dtypes)} cannot be added as one vector: expected one type of values; with "
            "codec 'layers', choose the same cast for all arrays, or algorithm 'broadcast'"
        )
    return ravel_pytree(tree)[0]


def _unravel(vector: Any, like: Any) -> Any:
    from jax.flatten_util import ravel_pytree

    return ravel_pytree(like)[1](vector)


ADD = Kernel("add", lazy_jit(lambda a, b: a + b), is_concurrent=True)
CUT = Kernel("cut", lazy_jit(_cut, static=("parts",)), is_concurrent=True)
SPLIT = Kernel("split", lazy_jit(_split, static=("place",)), is_concurrent=True)
JOIN = Kernel("join", lazy_jit(_join), is_concurrent=True)
RAVEL = Kernel("ravel", lazy_jit(_ravel), is_linear=True)
UNRAVEL = Kernel("unravel", lazy_jit(_unravel))


class Group:
    """The ranks that act together, numbered by their place in the list: 0 to `size - 1`.

    Args:
        node: this rank.
        ranks: who takes part; all workers in ascending order if None.

    Attributes:
        node: as given.
        ranks: the ranks in order.
        size: how many they are.
        place: this rank's place among them.

    Raises:
        ProgramError: a rank is listed twice, or this one is not listed.
    """

    def __init__(self, node: Node, ranks: Ranks | None = None) -> None:
        self.node = node
        self.ranks = list(range(node.world_size)) if ranks is None else list(ranks)
        self.size = len(self.ranks)
        if node.rank not in self.ranks or len(set(self.ranks)) < self.size:
            raise ProgramError(
                f"rank {node.rank}: expected a collective of different ranks, this one among them; got {self.ranks}"
            )
        self.place = self.ranks.index(node.rank)

    def place_of(self, rank: int | None) -> int:
        """Return the place of a rank, 0 for None.

        Raises:
            ProgramError: it is not in the group.
        """
        if rank is not None and rank not in self.ranks:
            raise ProgramError(f"rank {self.node.rank}: root: expected one of the ranks {self.ranks}; got {rank}")
        return 0 if rank is None else self.ranks.index(rank)

    async def send(self, place: int, payload: Any, tag: str) -> None:
        """Send to a place."""
        await self.node.send(self.ranks[place], payload, tag=tag)

    async def recv(self, place: int, tag: str) -> Any:
        """Receive from a place; return the payload."""
        return (await self.node.recv(self.ranks[place], tag=tag)).payload

    async def exchange(self, dst: int, payload: Any, src: int, tag: str) -> Any:
        """Send to one place while receiving from another, or from the same; return what was received."""
        _, received = await self.node.gather(self.send(dst, payload, tag), self.recv(src, tag))
        return received
