"""Who stores which block and who needs which value, for the coded shuffles: combinatorics only.

Words: a *job* is one model in training; its batch of one step is cut in *blocks*, one per *slot*. A block's gradient
is a vector cut in *values*, one per reduce *function*; a value is cut in r *segments*. A *group* is a set of r+1 ranks
in which everyone misses one value that all the others can compute.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

MAX_BLOCKS = 20_000


@dataclass(frozen=True)
class Block:
    """One block: the job it belongs to, its slot in the job's batch, and the ranks that store it, ascending."""

    job: int
    slot: int
    holders: tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """r+1 ranks that exchange coded packets.

    Attributes:
        members: the ranks, ascending.
        rounds: per round, the value that each member misses, as `(block, function)` in the order of the members.
    """

    members: tuple[int, ...]
    rounds: tuple[tuple[tuple[int, int], ...], ...]

    def others(self, rank: int) -> tuple[int, ...]:
        """Return the members but one, ascending; the t-th of them sends segment t of what `rank` misses."""
        return tuple(member for member in self.members if member != rank)


@dataclass(frozen=True)
class Placement:
    """Where blocks live and what is exchanged.

    Attributes:
        world_size: ranks, K.
        redundancy: ranks that store each block, r.
        num_jobs: models trained at once, J.
        num_slots: blocks of each job's batch.
        blocks: all of them, ordered by job and slot.
        num_functions: K if value q is wanted at rank q alone, 1 if the one value of a block is wanted everywhere.
        groups: who exchanges what.
    """

    world_size: int
    redundancy: int
    num_jobs: int
    num_slots: int
    blocks: tuple[Block, ...]
    num_functions: int
    groups: tuple[Group, ...]

    def held_by(self, rank: int) -> tuple[int, ...]:
        """Return the blocks that a rank stores, ascending."""
        return tuple(i for i, block in enumerate(self.blocks) if rank in block.holders)

    def function_of(self, rank: int) -> int:
        """Return the function that a rank reduces."""
        return rank if self.num_functions > 1 else 0

    @property
    def num_demands(self) -> int:
        """Values wanted in one step: J K of them after combining, or K per block where every rank wants all."""
        return self.world_size * (self.num_jobs if self.num_functions > 1 else len(self.blocks))


def ccdc(world_size: int, redundancy: int) -> Placement:
    """Place J = C(K, r+1) jobs as compressed coded distributed computing does.

    Job P lives on the r+1 ranks of P; its block m, for m in P, on all of them but m. Every rank reduces its own shard
    of every job. In each (r+1)-subset S there are K-r rounds: one for the job S itself, and one per m outside S, in
    which k misses block m of the job (S - k) + m.
    Source: Li, Maddah-Ali, Avestimehr, "Compressed Coded Distributed Computing", ISIT 2018, arXiv 1805.01993.

    Args:
        world_size: ranks, K.
        redundancy: ranks per block, r, at most K; r = K stores everything everywhere and exchanges nothing.

    Raises:
        ValueError: r is out of range or there are too many blocks.
    """
    _check(world_size, redundancy, lambda: math.comb(world_size, redundancy + 1) * (redundancy + 1))
    if redundancy == world_size:
        return cdc(world_size, redundancy)
    jobs = list(itertools.combinations(range(world_size), redundancy + 1))
    blocks = tuple(
        Block(job, slot, tuple(rank for rank in members if rank != absent))
        for job, members in enumerate(jobs)
        for slot, absent in enumerate(members)
    )
    job_of = {members: job for job, members in enumerate(jobs)}
    index = {(block.job, block.slot): i for i, block in enumerate(blocks)}

    def value(members: tuple[int, ...], absent: int, function: int) -> tuple[int, int]:
        return index[job_of[members], members.index(absent)], function

    groups = []
    for members in jobs:
        rounds = [tuple(value(members, rank, rank) for rank in members)]
        for outside in sorted(set(range(world_size)) - set(members)):
            swapped = {rank: tuple(sorted(set(members) - {rank} | {outside})) for rank in members}
            rounds.append(tuple(value(swapped[rank], outside, rank) for rank in members))
        groups.append(Group(members, tuple(rounds)))
    return Placement(world_size, redundancy, len(jobs), redundancy + 1, blocks, world_size, tuple(groups))


def cdc(world_size: int, redundancy: int) -> Placement:
    """Place one job's C(K, r) blocks, one on each r-subset of the ranks; every rank wants every block.

    In each (r+1)-subset S rank k misses the block of S - k, which all the others of S store.
    Source: Li, Maddah-Ali, Yu, Avestimehr, "A Fundamental Tradeoff between Computation and Communication in
    Distributed Computing", IEEE T-IT 64(1), 2018, arXiv 1604.07086.

    Args:
        world_size: ranks, K.
        redundancy: ranks per block, r, at most K.

    Raises:
        ValueError: r is out of range or there are too many blocks.
    """
    _check(world_size, redundancy, lambda: math.comb(world_size, redundancy))
    subsets = list(itertools.combinations(range(world_size), redundancy))
    index = {members: i for i, members in enumerate(subsets)}
    blocks = tuple(Block(0, slot, members) for slot, members in enumerate(subsets))
    groups = tuple(
        Group(members, (tuple((index[tuple(m for m in members if m != rank)], 0) for rank in members),))
        for members in itertools.combinations(range(world_size), redundancy + 1)
    )
    return Placement(world_size, redundancy, 1, len(blocks), blocks, 1, groups)


def _check(world_size: int, redundancy: int, num_blocks: Callable[[], int]) -> None:
    """Raise `ValueError` if r is out of range or there would be too many blocks; `num_blocks` counts them."""
    if not 1 <= redundancy <= world_size:
        raise ValueError(f"redundancy: expected 1 to world_size ({world_size}); got {redundancy}")
    if world_size > MAX_BLOCKS or num_blocks() > MAX_BLOCKS:
        raise ValueError(
            f"redundancy: {redundancy} on {world_size} ranks makes more than {MAX_BLOCKS} blocks; take fewer ranks, "
            "or a redundancy near 1 or near world_size"
        )


@dataclass(frozen=True)
class Sum:
    """Part of a job's reduced value that one rank sends another: the sum of some blocks it stores."""

    job: int
    blocks: tuple[int, ...]


def uncoded_sends(placement: Placement, src: int, dst: int) -> tuple[Sum, ...]:
    """Return what `src` sends `dst` when values are combined but not coded, on the placement of `ccdc`.

    A rank of the job misses one value and gets it from the next rank of the job; a rank outside needs the sum of all
    r+1, which two ranks of the job provide: one sums the r blocks it stores, another sends the one that is left.

    Args:
        placement: from `ccdc`.
        src: the sender.
        dst: the receiver, not `src`.
    """
    if placement.num_functions == 1:
        return ()
    by_job: dict[int, list[int]] = {}
    for i, block in enumerate(placement.blocks):
        by_job.setdefault(block.job, []).append(i)
    sends = []
    for job, blocks in by_job.items():
        members = sorted({rank for i in blocks for rank in placement.blocks[i].holders})
        absent = dict(zip(members, blocks, strict=True))
        if dst in absent:
            if members[(members.index(dst) + 1) % len(members)] == src:
                sends.append(Sum(job, (absent[dst],)))
            continue
        first, second = (members[(dst + i) % len(members)] for i in range(2))
        if src == first:
            sends.append(Sum(job, tuple(i for i in blocks if i != absent[first])))
        elif src == second:
            sends.append(Sum(job, (absent[first],)))
    return tuple(sends)


def expected_load(code: str, world_size: int, redundancy: int) -> Fraction:
    """Return the shuffle load in theory: bytes sent, a multicast counted once, per byte of values wanted.

    Args:
        code: `ccdc`, (1 - r/K)(r + 1)/r; `combine`, (2K - r - 1)/K; `cdc_all_gather`, (1 - r/K)/r.
        world_size: K.
        redundancy: r; K exchanges nothing.
    """
    k, r = world_size, redundancy
    if r == k:
        return Fraction(0)
    return {
        "ccdc": Fraction((k - r) * (r + 1), k * r),
        "combine": Fraction(2 * k - r - 1, k),
        "cdc_all_gather": Fraction(k - r, k * r),
    }[code]
