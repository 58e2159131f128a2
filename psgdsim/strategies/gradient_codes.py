"""Gradient codes: which blocks each worker sums up with which coefficients, and how any N - s sums give the whole."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Final, Literal

from psgdsim import rng
from psgdsim.strategies.gradient_codes_approximate import BernoulliCode, StochasticCode
from psgdsim.strategies.gradient_codes_base import GradientCode

if TYPE_CHECKING:
    import numpy as np

CodeName = Literal["fractional_repetition", "cyclic_repetition", "stochastic", "bernoulli"]

GOOD: Final = 1e2
"""A code whose decoding weights stay below this in all trials is taken at once."""

BAD: Final = 1e3
"""Decoding multiplies the rounding of float32 messages, 6e-8, by its weights; a code with larger ones is refused."""

MAX_DRAWS: Final = 100
"""Random codes that are drawn at most."""

MAX_TRIALS: Final = 256
"""Sets of survivors, drawn at random, on which a code is tried; all of them if they are not more."""

MAX_RESIDUAL: Final = 1e-6
"""By how much a block may count more or less than once."""


class FractionalRepetition(GradientCode):
    """N / (s + 1) groups; all workers of a group hold the same s + 1 blocks and send their plain sum.

    Args:
        num: N, a multiple of s + 1.
        stragglers: s.

    Example:
        >>> code = FractionalRepetition(6, 2)
        >>> code.row(4), code.weights([5, 4, 2, 0]), code.weights([3, 4, 5])
        ({3: 1.0, 4: 1.0, 5: 1.0}, {2: 1.0, 5: 1.0}, None)
    """

    def __init__(self, num: int, stragglers: int) -> None:
        super().__init__(num, stragglers)
        self._size = stragglers + 1
        if num % self._size:
            fitting = [str(size - 1) for size in range(1, num + 1) if num % size == 0]
            raise ValueError(
                f"stragglers: expected s + 1 to divide world_size ({num}) with code 'fractional_repetition', so s one "
                f"of {', '.join(fitting)}; got {stragglers}; or use code 'cyclic_repetition'"
            )

    def row(self, worker: int) -> dict[int, float]:
        """Return a coefficient of 1 for each block of the worker's group."""
        first = worker - worker % self._size
        return dict.fromkeys(range(first, first + self._size), 1.0)

    def weights(self, arrived: Sequence[int]) -> dict[int, float] | None:
        """Return a weight of 1 for the first of each group."""
        firsts: dict[int, int] = {}
        for worker in arrived:
            firsts.setdefault(worker // self._size, worker)
        is_enough = len(firsts) == self.num // self._size
        return dict.fromkeys(sorted(firsts.values()), 1.0) if is_enough else None


class CyclicRepetition(GradientCode):
    """Worker i sums up the blocks i, ..., i + s modulo N with random coefficients.

    With H of shape (s, N), random but for rows that add up to 0, each worker's coefficients are in the null space of H;
    it has N - s dimensions, any N - s workers span it, and the vector of ones lies in it. H is drawn again if the
    weights that decode from some survivors are large; the best of the draws is taken.

    Args:
        num: N.
        stragglers: s.
        seed: of the draws.

    Raises:
        ValueError: no draw is good enough.

    Example:
        >>> code = CyclicRepetition(5, 1)
        >>> list(code.row(4)), code.row(4)[4], code.weights([0, 1, 2])
        ([0, 4], 1.0, None)
    """

    def __init__(self, num: int, stragglers: int, seed: int = 0) -> None:
        super().__init__(num, stragglers)
        self._seed = seed
        self.matrix = self._best()

    def row(self, worker: int) -> dict[int, float]:
        """Return a row of the matrix."""
        blocks = sorted((worker + i) % self.num for i in range(self.stragglers + 1))
        return {block: float(self.matrix[worker, block]) for block in blocks}

    def weights(self, arrived: Sequence[int]) -> dict[int, float] | None:
        """Return the least weights that solve B_F^T a = 1, F being the workers that are there."""
        workers = sorted(arrived)
        weights, residual = _solve(self.matrix[workers])
        return None if residual > MAX_RESIDUAL else dict(zip(workers, weights.tolist(), strict=True))

    def _best(self) -> np.ndarray:
        """Return the coefficients of the best draw, `(N, N)`."""
        best, lowest = None, math.inf
        for draw in range(MAX_DRAWS):
            matrix = self._draw(draw)
            largest = 0.0
            for survivors in self._trials:
                largest = max(largest, self._amplification(matrix, survivors))
                if largest >= lowest:
                    break
            else:
                best, lowest = matrix, largest
            if lowest < GOOD:
                break
        if best is None or lowest > BAD:
            raise ValueError(
                f"stragglers: {self.stragglers} of {self.num} are too many for code 'cyclic_repetition': decoding "
                f"would multiply rounding errors by {lowest:.2g}, expected at most {BAD:.0g}; use fewer, or code "
                "'fractional_repetition'"
            )
        return best

    def _draw(self, draw: int) -> np.ndarray:
        import numpy as np

        num, s = self.num, self.stragglers
        h = rng.stream(self._seed, "gradient code", num, s, draw).standard_normal((s, num))
        h[:, -1] = -h[:, :-1].sum(axis=1)
        matrix = np.eye(num)
        for worker in range(num):
            others = [(worker + i) % num for i in range(1, s + 1)]
            matrix[worker, others] = -np.linalg.solve(h[:, others], h[:, worker])
        return matrix

    def _amplification(self, matrix: np.ndarray, survivors: Sequence[int]) -> float:
        """Return the largest weight that decodes from some survivors; infinite if none do."""
        weights, residual = _solve(matrix[list(survivors)])
        return math.inf if residual > MAX_RESIDUAL else float(abs(weights).max())

    @cached_property
    def _trials(self) -> list[tuple[int, ...]]:
        """All sets of N - s workers, or some of them."""
        num, left = self.num, self.num - self.stragglers
        if math.comb(num, left) <= MAX_TRIALS:
            return list(itertools.combinations(range(num), left))
        generator = rng.stream(self._seed, "survivors", num, left)
        draws = [generator.permutation(num)[:left].tolist() for _ in range(MAX_TRIALS)]
        runs = [[(first + i) % num for i in range(left)] for first in range(num)]  # stragglers side by side
        return [tuple(sorted(each)) for each in (*runs, *draws)]


def _solve(rows: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the weights with which rows come nearest to all ones, and the largest deviation."""
    import numpy as np

    weights = np.linalg.lstsq(rows.T, np.ones(rows.shape[1]), rcond=None)[0]
    return weights, float(np.abs(rows.T @ weights - 1).max())


def make_code(name: CodeName, num: int, stragglers: int, seed: int = 0, copies: int | None = None) -> GradientCode:
    """Return a code.

    Args:
        name: which one.
        num: number of workers, and of blocks.
        stragglers: how many may be missing.
        seed: of a random code.
        copies: on how many workers each block is, where that does not follow from the number of stragglers.

    Raises:
        ValueError: there is no such code.
    """
    if name == "fractional_repetition":
        return FractionalRepetition(num, stragglers)
    if name == "cyclic_repetition":
        return CyclicRepetition(num, stragglers, seed)
    copies = min(num, stragglers + 1) if copies is None else copies
    if name == "stochastic":
        return StochasticCode(num, stragglers, copies)
    return BernoulliCode(num, stragglers, copies, seed)
