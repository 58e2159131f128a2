"""Ways to deal the training rows out to blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from psgdsim.data.base import Partition, register_partition
from psgdsim.data.order import split_rows
from psgdsim.errors import ScenarioError

if TYPE_CHECKING:
    import numpy as np


@register_partition("iid")
def iid() -> Partition:
    """Shuffle the rows and deal them out evenly; block sizes differ by at most one row."""

    def split(targets: np.ndarray, num_blocks: int, generator: np.random.Generator) -> list[np.ndarray]:
        _check_rows(targets, num_blocks)
        return _cut(generator.permutation(len(targets)), num_blocks)

    return Partition(split)


@register_partition("label_shards")
def label_shards(shards_per_block: Annotated[int, Field(ge=1, le=1_000_000)] = 2) -> Partition:
    """Sort the rows by class, cut them into equal shards and give each block a few shards at random.

    A block so sees about `shards_per_block` classes. Rows of one class are shuffled before they are cut.
    Source: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data",
    AISTATS 2017, arXiv 1602.05629, section 3 (200 shards, 2 for each of 100 clients).

    Args:
        shards_per_block: how many shards a block gets.
    """

    def split(targets: np.ndarray, num_blocks: int, generator: np.random.Generator) -> list[np.ndarray]:
        import numpy as np

        _check_classes(targets, "label_shards")
        num_shards = num_blocks * shards_per_block
        _check_rows(targets, num_shards, f" ({num_blocks} blocks of {shards_per_block} shards)")
        shuffled = generator.permutation(len(targets))
        shards = _cut(shuffled[np.argsort(targets[shuffled], kind="stable")], num_shards)
        dealt = generator.permutation(num_shards).reshape(num_blocks, shards_per_block)
        return [np.sort(np.concatenate([shards[shard] for shard in hand])) for hand in dealt]

    return Partition(split)


@register_partition("dirichlet")
def dirichlet(alpha: Annotated[float, Field(ge=1e-6, le=1e6)]) -> Partition:
    """Draw each block's mix of classes from a Dirichlet distribution around the data's own mix.

    Blocks have equal sizes. Block by block, q ~ Dirichlet(alpha p) with p the classes' shares of the data,
    and the block's rows are drawn class by class from q, without replacement; when a class runs out, q is
    renormalised over the classes that are left.
    Source: Hsu, Qi and Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
    Classification", arXiv 1909.06335, "Synthetic Non-Identical Client Data".

    Note:
        Every row is dealt, so the last blocks take what is left. Where float arithmetic leaves q no mass on
        the classes that are left, q is drawn anew over them, which is the same distribution.

    Args:
        alpha: the concentration: towards 0 a block has one class, towards infinity the data's mix.
    """

    def split(targets: np.ndarray, num_blocks: int, generator: np.random.Generator) -> list[np.ndarray]:
        import numpy as np

        _check_classes(targets, "dirichlet")
        _check_rows(targets, num_blocks)
        _, labels = np.unique(targets, return_inverse=True)
        prior = np.bincount(labels) / len(labels)
        pools = [generator.permutation(np.flatnonzero(labels == label)) for label in range(len(prior))]
        taken = np.zeros(len(pools), np.int64)
        blocks = []
        for size in split_rows(len(targets), num_blocks):
            left = np.array([len(pool) for pool in pools]) - taken
            counts = _draw_counts(size, left, alpha * prior, generator)
            spans = zip(pools, taken, taken + counts, strict=True)
            block = np.concatenate([pool[first:last] for pool, first, last in spans])
            blocks.append(np.sort(block).astype(np.int32))
            taken += counts
        return blocks

    return Partition(split)


def _draw_counts(size: int, left: np.ndarray, concentration: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return how many rows of each class one block takes, at most `left`, in sum `size`."""
    import numpy as np

    mix = generator.dirichlet(concentration)
    counts = np.zeros_like(left)
    while (missing := size - counts.sum()) > 0:
        is_left = counts < left
        weights = np.where(is_left, mix, 0.0)
        if weights.sum() == 0:
            mix[is_left] = generator.dirichlet(concentration[is_left])
            continue
        counts = np.minimum(counts + generator.multinomial(missing, weights / weights.sum()), left)
    return counts


def _cut(ids: np.ndarray, num_parts: int) -> list[np.ndarray]:
    """Cut ids into parts as equal as possible, each sorted, int32."""
    import numpy as np

    ends = np.cumsum(split_rows(len(ids), num_parts))
    return [np.sort(part).astype(np.int32) for part in np.split(ids, ends[:-1])]


def _check_rows(targets: np.ndarray, num_parts: int, which: str = " (one per block)") -> None:
    if len(targets) < num_parts:
        raise ScenarioError(
            f"data partition: expected at least {num_parts} training rows{which}; the data has "
            f"{len(targets)}; use more data or fewer blocks"
        )


def _check_classes(targets: np.ndarray, name: str) -> None:
    if targets.dtype.kind not in "iu" or targets.ndim != 1:
        raise ScenarioError(f"data partition {name!r} deals rows out by class, but this data has no classes; use 'iid'")
