"""Which ranks hold which block: redundancy r means that r ranks compute each block's gradient."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal, get_args

from psgdsim.errors import nearest
from psgdsim.per_rank import Parted, PerRank, per_rank, pick

AssignmentName = Literal["subsets", "duplicate", "cyclic"]

MAX_BLOCKS: Final = 100_000
"""Most blocks of an assignment."""

MAX_HOLDINGS: Final = 2_000_000
"""Most pairs of a block and a rank that holds it."""


@dataclass(frozen=True)
class Assignment:
    """Who holds each block.

    Args:
        holders: for each block the ranks that hold it, ascending.

    Example:
        >>> assignment = cyclic(world_size=3, redundancy=2)
        >>> assignment.holders
        ((0, 1), (1, 2), (0, 2))
        >>> assignment.blocks_of(0), assignment.owner(2)
        ((0, 2), 0)
    """

    holders: tuple[tuple[int, ...], ...]

    @property
    def num_blocks(self) -> int:
        """The number of blocks."""
        return len(self.holders)

    def blocks_of(self, rank: Any) -> tuple[Any, ...]:
        """Return the blocks that a rank holds, ascending; empty for a rank that holds none.

        Args:
            rank: which one; or a `PerRank`, for a `PerRank` of each of their blocks.
        """
        if type(rank) is PerRank:
            held = [self.blocks_of(each) for each in rank.items]
            if len(set(map(len, held))) > 1:
                raise Parted("ranks hold different numbers of blocks")
            return tuple(per_rank(blocks) for blocks in zip(*held, strict=True))
        return self._blocks.get(rank, ())

    def owner(self, block: Any) -> Any:
        """Return the smallest rank that holds a block, or that of each rank."""
        return pick(self.holders, block)[0]

    @cached_property
    def _blocks(self) -> dict[int, tuple[int, ...]]:
        blocks: dict[int, list[int]] = {}
        for block, ranks in enumerate(self.holders):
            for rank in ranks:
                blocks.setdefault(rank, []).append(block)
        return {rank: tuple(held) for rank, held in blocks.items()}


def subsets(world_size: int, redundancy: int) -> Assignment:
    """Give one block to every set of r ranks, in lexicographic order: C(K, r) blocks.

    Each rank holds C(K-1, r-1) blocks; any two ranks share equally many.
    Source: Li, Maddah-Ali, Yu and Avestimehr, "A Fundamental Tradeoff between Computation and Communication
    in Distributed Computing", IEEE T-IT 2018, arXiv 1604.07086.

    Args:
        world_size: number of ranks K.
        redundancy: number of ranks that hold a block, r.

    Raises:
        ValueError: redundancy is not within 1..world_size, or there are too many blocks.
    """
    _check(world_size, redundancy)
    # Below r = K there are at least K blocks: too many ranks are too many blocks, and comb() would take long.
    is_countable = redundancy == world_size or world_size <= MAX_BLOCKS
    _check_size("subsets", math.comb(world_size, redundancy) if is_countable else world_size, redundancy)
    return Assignment(tuple(itertools.combinations(range(world_size), redundancy)))


def duplicate(world_size: int, redundancy: int) -> Assignment:
    """Form K/r groups of r consecutive ranks; every rank of a group holds the group's one block.

    Source: fractional repetition of Tandon et al., "Gradient Coding", ICML 2017, arXiv 1612.03301.

    Args:
        world_size: number of ranks K.
        redundancy: ranks per group r; divides world_size.

    Raises:
        ValueError: redundancy does not divide world_size, or is not within 1..world_size.
    """
    _check(world_size, redundancy)
    if world_size % redundancy:
        divisors = [str(r) for r in range(1, min(world_size, 1000) + 1) if world_size % r == 0]
        raise ValueError(
            f"block assignment 'duplicate': redundancy: expected a divisor of world_size {world_size}; "
            f"got {redundancy}; use one of {', '.join(divisors)}, or 'cyclic'"
        )
    _check_size("duplicate", world_size // redundancy, redundancy)
    starts = range(0, world_size, redundancy)
    return Assignment(tuple(tuple(range(start, start + redundancy)) for start in starts))


def cyclic(world_size: int, redundancy: int) -> Assignment:
    """Give block b to the ranks b, b+1, ..., b+r-1 modulo K: K blocks, and each rank holds r.

    Source: cyclic repetition of Tandon et al., "Gradient Coding", ICML 2017, arXiv 1612.03301.

    Args:
        world_size: number of ranks and of blocks K.
        redundancy: number of ranks that hold a block, r.

    Raises:
        ValueError: redundancy is not within 1..world_size, or there are too many blocks.
    """
    _check(world_size, redundancy)
    _check_size("cyclic", world_size, redundancy)
    return Assignment(
        tuple(tuple(sorted((block + i) % world_size for i in range(redundancy))) for block in range(world_size))
    )


_FUNCTIONS: Final[dict[str, Callable[[int, int], Assignment]]] = {
    "subsets": subsets,
    "duplicate": duplicate,
    "cyclic": cyclic,
}


def assign(name: AssignmentName, world_size: int, redundancy: int) -> Assignment:
    """Return the assignment of that name.

    Args:
        name: `subsets`, `duplicate` or `cyclic`.
        world_size: number of ranks.
        redundancy: number of ranks that hold a block.

    Raises:
        ValueError: no assignment has that name, or it is impossible; the message says what to change.
    """
    if name not in _FUNCTIONS:
        raise ValueError(f"no block assignment is called {name!r}; {nearest(name, get_args(AssignmentName))}")
    return _FUNCTIONS[name](world_size, redundancy)


def _check(world_size: int, redundancy: int) -> None:
    if world_size < 1:
        raise ValueError(f"world_size: expected at least 1 rank; got {world_size}")
    if not 1 <= redundancy <= world_size:
        raise ValueError(f"redundancy: expected 1..{world_size} (world_size); got {redundancy}")


def _check_size(name: str, num_blocks: int, redundancy: int) -> None:
    if num_blocks > MAX_BLOCKS:
        raise ValueError(
            f"block assignment {name!r}: more than {MAX_BLOCKS} blocks; use fewer ranks, or a redundancy "
            "nearer to 1 or to world_size"
        )
    if num_blocks * redundancy > MAX_HOLDINGS:
        raise ValueError(
            f"block assignment {name!r}: {num_blocks} blocks on {redundancy} ranks each are too many: "
            f"expected a product of at most {MAX_HOLDINGS}; use a smaller redundancy or world_size"
        )
