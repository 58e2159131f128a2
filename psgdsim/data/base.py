"""What a data set and a partition are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psgdsim.registry import Family

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Dataset:
    """Rows to train on and rows to test with; row i of either is sample i everywhere.

    Args:
        train_inputs: shape `(rows, *input_shape)`.
        train_targets: class numbers (int32, shape `(rows,)`) or regression targets (float32).
        test_inputs: as the training inputs; may have no rows.
        test_targets: as the training targets.
        num_outputs: number of classes, or width of a regression target.
    """

    train_inputs: np.ndarray
    train_targets: np.ndarray
    test_inputs: np.ndarray
    test_targets: np.ndarray
    num_outputs: int

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input row."""
        return self.train_inputs.shape[1:]


@dataclass(frozen=True)
class DatasetPart:
    """What a data set's factory returns: how to get the rows.

    Args:
        load: seed -> the data; reads files or generates, never downloads.
    """

    load: Callable[[int], Dataset]


@dataclass(frozen=True)
class Partition:
    """A way to deal the training rows out to blocks.

    Args:
        split: `(targets, num_blocks, generator)` -> the sample ids of each block; every id in exactly one block,
            and no block empty.
    """

    split: Callable[[np.ndarray, int, np.random.Generator], list[np.ndarray]]


datasets = Family("dataset", product=DatasetPart)
register_dataset = datasets.register

partitions = Family("partition", product=Partition)
register_partition = partitions.register
