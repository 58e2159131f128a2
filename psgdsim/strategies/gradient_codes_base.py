"""What a gradient code is: who sums up which blocks, and what to make of the sums that are there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar


class GradientCode(ABC):
    """A code for N workers and as many blocks, of which s workers may be missing.

    Args:
        num: N.
        stragglers: s.

    Raises:
        ValueError: there is no such code.

    Attributes:
        is_exact: whether decoding gives the gradient itself.
    """

    is_exact: ClassVar[bool] = True

    def __init__(self, num: int, stragglers: int) -> None:
        if stragglers >= num:
            raise ValueError(f"stragglers: expected less than world_size ({num}); got {stragglers}")
        self.num, self.stragglers = num, stragglers

    @abstractmethod
    def row(self, worker: int) -> dict[int, float]:
        """Return the coefficients of the blocks that a worker sums up, by block, ascending."""

    @abstractmethod
    def weights(self, arrived: Sequence[int]) -> dict[int, float] | None:
        """Return by worker, ascending, the weights that turn sums into the sum over all blocks, each once.

        Args:
            arrived: the workers whose sums are there, in the order in which they came.

        Returns:
            Weights of some of these workers; None if their sums are not enough.
        """

    def error(self, weights: Mapping[int, float]) -> float:
        """Return by how much weighted sums count the blocks more or less than once: the sum of the squares.

        Args:
            weights: of sums, by worker.
        """
        counts = dict.fromkeys(range(self.num), 0.0)
        for worker, weight in weights.items():
            for block, coefficient in self.row(worker).items():
                counts[block] += weight * coefficient
        return sum((count - 1) ** 2 for count in counts.values())
