"""The order of samples: which ids a block's gradient is computed on in which step, the same on every rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from psgdsim import rng
from psgdsim.per_rank import PerRank

if TYPE_CHECKING:
    import numpy as np

IDS_PER_DRAW = 256
"""A draw is one pass, or as many as have at most so many ids: seeding a stream costs more than shuffling them."""

CACHED_DRAWS = 2
"""Draws kept per block: a step at the border of two draws needs both."""


class SampleOrder:
    """The endless stream of sample ids of every block, cut into steps.

    Every pass over a block's shard is a fresh permutation of it; passes follow one another without a gap, so no
    row is dropped and a step may span two passes or more. Draw d of a block comes from `(seed, "order", block,
    d)`: one pass over a long shard, several over one of at most `IDS_PER_DRAW` / 2 rows. Nothing but the
    arguments decides what a step holds: every rank, in either mode, asking in any order, gets the same ids.

    Args:
        shards: the sample ids of each block.
        rows: how many rows of each block one step takes.
        seed: the scenario's seed.

    Raises:
        ValueError: the lengths differ, a count is negative, or rows are taken of an empty shard.

    Example:
        >>> import numpy as np
        >>> order = SampleOrder([np.arange(4)], rows=[2], seed=1)
        >>> sorted(np.concatenate([order.ids(1, 0), order.ids(2, 0)]).tolist())
        [0, 1, 2, 3]
    """

    def __init__(self, shards: Sequence[np.ndarray], rows: Sequence[int], seed: int) -> None:
        if len(shards) != len(rows):
            raise ValueError(f"expected rows for each of the {len(shards)} blocks; got {len(rows)} counts")
        for block, (shard, count) in enumerate(zip(shards, rows, strict=True)):
            if count < 0 or (count > 0 and len(shard) == 0):
                raise ValueError(f"block {block}: cannot take {count} rows per step of its {len(shard)} rows")
        self._shards = [shard.astype("int32") for shard in shards]
        self._rows = [int(count) for count in rows]
        self._seed = seed
        self._num_passes = [max(1, IDS_PER_DRAW // max(1, len(shard))) for shard in shards]
        self._draws: list[dict[int, np.ndarray]] = [{} for _ in shards]
        self._last: dict[int, tuple[int, np.ndarray]] = {}
        # By blocks: the number of the draw that is held of each in each slot, and the draws, filled up to one length.
        self._joint_draws: dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]] = {}

    def shard(self, block: int) -> np.ndarray:
        """Return the sample ids of a block, int32, in no order of use; the array is not to be changed."""
        return self._shards[block]

    def ids(self, step: int, block: Any) -> Any:
        """Return the sample ids of one block in one step, int32, `(rows[block],)`; the array is not to be changed.

        All who ask for the same block of the same step one after the other get the same array.

        Args:
            step: the step; the first is 1.
            block: the block, from 0; or a `PerRank` with that of each rank, for a `PerRank` of ids.

        Raises:
            ValueError: there is no such step or block.
        """
        if type(block) is PerRank:
            return self._ids_of_all(step, block)
        if self._last.get(block, (None,))[0] == step:
            return self._last[block][1]
        [ids] = self.span(step, 1, block)
        self._last[block] = step, ids
        return ids

    def span(self, step: int, num: int, block: int) -> np.ndarray:
        """Return the sample ids of one block in several steps, int32, `(num, rows[block])`; not to be changed.

        Args:
            step: the first of them.
            num: how many.
            block: the block, from 0.

        Raises:
            ValueError: there is no such step or block.
        """
        import numpy as np

        if step < 1 or not 0 <= block < len(self._shards):
            raise ValueError(f"expected step >= 1 and block in 0..{len(self._shards) - 1}; got {step} and {block}")
        count, length = self._rows[block], self._draw_length(block)
        parts = [self._shards[block][:0]]
        position, end = (step - 1) * count, (step - 1 + num) * count
        while position < end:
            number, offset = divmod(position, length)
            part = self._draw(block, number)[offset : offset + end - position]
            parts.append(part)
            position += len(part)
        ids = np.concatenate(parts).reshape(num, count)
        ids.flags.writeable = False
        return ids

    def _ids_of_all(self, step: int, blocks: PerRank) -> PerRank:
        """Return the sample ids of the blocks of several ranks, in one array where draws are about equally long."""
        import numpy as np

        numbers = tuple(blocks.items)
        if step < 1 or not all(0 <= block < len(self._shards) for block in numbers):
            raise ValueError(f"expected step >= 1 and blocks in 0..{len(self._shards) - 1}; got {step} and {numbers}")
        counts, lengths = {self._rows[block] for block in numbers}, [self._draw_length(block) for block in numbers]
        count = min(counts)
        if len(counts) > 1 or not count <= min(lengths) or max(lengths) > 2 * min(lengths):
            return PerRank([self.ids(step, block) for block in numbers])
        which, places = np.divmod(np.arange((step - 1) * count, step * count), np.array(lengths)[:, None])
        if count:
            for number in (which[:, 0], which[:, -1]):
                self._hold_draws(numbers, number)
            ids = self._joint_draws[numbers][1][which % CACHED_DRAWS, np.arange(len(numbers))[:, None], places]
        else:
            ids = np.empty(which.shape, np.int32)
        ids.flags.writeable = False
        return PerRank(ids)

    def _hold_draws(self, blocks: tuple[int, ...], number: np.ndarray) -> None:
        """Hold one draw of the shard of each of several blocks, whose number may differ, shape `(blocks,)`."""
        import numpy as np

        if blocks not in self._joint_draws:
            longest = max(self._draw_length(block) for block in blocks)
            held = np.full((CACHED_DRAWS, len(blocks)), -1)
            self._joint_draws[blocks] = held, np.zeros((CACHED_DRAWS, len(blocks), longest), np.int32)
        held, draws = self._joint_draws[blocks]
        slots = number % CACHED_DRAWS
        due = np.flatnonzero(held[slots, np.arange(len(blocks))] != number)
        for i, slot, each in zip(due.tolist(), slots[due].tolist(), number[due].tolist(), strict=True):
            order = self._draw_anew(blocks[i], each)
            draws[slot, i, : len(order)] = order
        held[slots[due], due] = number[due]

    def _draw_length(self, block: int) -> int:
        """Return how many ids one draw of a block has."""
        return self._num_passes[block] * len(self._shards[block])

    def _draw_anew(self, block: int, number: int) -> np.ndarray:
        """Return one draw of a block: so many passes over its shard, one after the other."""
        passes = self._shards[block][None].repeat(self._num_passes[block], axis=0)
        return rng.stream(self._seed, "order", block, number).permuted(passes, axis=1).ravel()

    def _draw(self, block: int, number: int) -> np.ndarray:
        """Return one draw of a block, and keep it."""
        cache = self._draws[block]
        if number not in cache:
            if len(cache) >= CACHED_DRAWS:
                del cache[next(iter(cache))]
            cache[number] = self._draw_anew(block, number)
        return cache[number]


def split_rows(total: int, parts: int) -> tuple[int, ...]:
    """Split a number of rows as equally as possible, larger parts first.

    Args:
        total: the rows.
        parts: into how many parts.

    Returns:
        Counts that add up to `total` and differ by at most one.

    Raises:
        ValueError: a negative total, or no parts.

    Example:
        >>> split_rows(10, 4)
        (3, 3, 2, 2)
    """
    if total < 0 or parts < 1:
        raise ValueError(f"expected a total of at least 0 and at least 1 part; got {total} and {parts}")
    each, extra = divmod(total, parts)
    return (each + 1,) * extra + (each,) * (parts - extra)
