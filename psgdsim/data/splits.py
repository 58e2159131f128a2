"""Fixed splits: the same rows in every run, whatever the scenario's seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psgdsim.data.base import Dataset
from psgdsim.errors import DatasetError

if TYPE_CHECKING:
    import numpy as np

SPLIT_SEED = 123
"""Seed of every fixed permutation, `np.random.default_rng(123).permutation(rows)`."""


def fixed_permutation(num_rows: int) -> np.ndarray:
    """Return the one permutation of so many rows that all fixed splits use."""
    import numpy as np

    return np.random.default_rng(SPLIT_SEED).permutation(num_rows)


def split_rows_at(inputs: np.ndarray, targets: np.ndarray, num_train: int, num_outputs: int) -> Dataset:
    """Permute rows (fixed) and take the first `num_train` of them to train on, the others to test with."""
    order = fixed_permutation(len(inputs))
    train, test = order[:num_train], order[num_train:]
    return Dataset(inputs[train], targets[train], inputs[test], targets[test], num_outputs)


def choose_rows(subset: int | None, num_rows: int, source: str) -> np.ndarray:
    """Return the rows of a subset: the first of the fixed permutation, so small subsets lie in large ones.

    Args:
        subset: how many rows; None for all of them, in order.
        num_rows: how many there are.
        source: the data set's name, for messages.

    Raises:
        DatasetError: there are not that many.
    """
    import numpy as np

    if subset is None:
        return np.arange(num_rows)
    if subset > num_rows:
        raise DatasetError(f"data {source}: subset: expected at most the {num_rows} training rows; got {subset}")
    return fixed_permutation(num_rows)[:subset]
