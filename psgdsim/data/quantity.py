"""A way to deal the training rows out in blocks of unequal sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from psgdsim.data.base import Partition, register_partition
from psgdsim.errors import ScenarioError

if TYPE_CHECKING:
    import numpy as np


@register_partition("quantity_skew")
def quantity_skew(alpha: Annotated[float, Field(ge=1e-6, le=1e6)]) -> Partition:
    """Shuffle the rows and deal them out in blocks of unequal sizes.

    The shares of the blocks are drawn from a symmetric Dirichlet distribution; each block gets one row, and its share
    of the others, rounded so that all rows are dealt.
    Source: Li, Diao, Chen and He, "Federated Learning on Non-IID Data Silos: An Experimental Study", ICDE 2022,
    arXiv 2102.02079, "quantity skew".

    Args:
        alpha: the concentration: towards 0 one block has almost all rows, towards infinity all have equally many.
    """

    def split(targets: np.ndarray, num_blocks: int, generator: np.random.Generator) -> list[np.ndarray]:
        import numpy as np

        num_rows = len(targets)
        if num_rows < num_blocks:
            raise ScenarioError(
                f"data partition: expected at least {num_blocks} training rows (one per block); the data has "
                f"{num_rows}; use more data or fewer blocks"
            )
        shares = generator.dirichlet(np.full(num_blocks, alpha))
        ends = np.rint(np.cumsum(shares) * (num_rows - num_blocks)).astype(int) + np.arange(1, num_blocks + 1)
        parts = np.split(generator.permutation(num_rows), ends[:-1])
        return [np.sort(part).astype(np.int32) for part in parts]

    return Partition(split)
