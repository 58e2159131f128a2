"""Gradient codes whose sums give the gradient only nearly: unbiased, or as nearly as the sums that are there allow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from psgdsim import rng
from psgdsim.strategies.gradient_codes_base import GradientCode

MAX_DRAWS: Final = 20
"""Random codes that are drawn at most until nobody is left out."""

SMALLEST: Final = 1e-3
"""Directions in which sums differ by less than this share of the most count as one, so that weights stay small."""


class ApproximateCode(GradientCode):
    """A code that puts each block on about d workers and decodes from whatever sums are there.

    Args:
        num: N.
        stragglers: s.
        copies: d.

    Raises:
        ValueError: more copies than workers.
    """

    is_exact = False

    def __init__(self, num: int, stragglers: int, copies: int) -> None:
        super().__init__(num, stragglers)
        if copies > num:
            raise ValueError(f"copies: expected at most world_size ({num}); got {copies}")
        self._copies = copies


class StochasticCode(ApproximateCode):
    """Each block on d workers, two blocks together on as few as possible; worker j sends u_j = sum of g_i / d.

    The sums that are there, divided by 1 - p, add up to the gradient in the mean if each worker is missing with
    probability p. If workers are missing independently, the variance is p / (1 - p) times the sum of |u_j|^2; if always
    s of N are, it is N s / (N - s) times the variance among the u_j (with N - 1 in the denominator).

    Source: Bitar, Wootters and El Rouayheb, ISIT 2019, arXiv 1905.05383.

    Args:
        num: N.
        stragglers: s.
        copies: d.
        probability: p; s / N if None.

    Example:
        >>> code = StochasticCode(4, 1, 2)
        >>> code.row(3), code.weights([0, 1, 3])[3] == 4 / 3
        ({0: 0.5, 3: 0.5}, True)
    """

    def __init__(self, num: int, stragglers: int, copies: int, probability: float | None = None) -> None:
        super().__init__(num, stragglers, copies)
        self._missing = stragglers / num if probability is None else probability
        self._offsets = _spread(num, copies)

    def row(self, worker: int) -> dict[int, float]:
        """Return a coefficient of 1 / d for each of the worker's d blocks."""
        return dict.fromkeys(sorted((worker + offset) % self.num for offset in self._offsets), 1 / self._copies)

    def weights(self, arrived: Sequence[int]) -> dict[int, float]:
        """Return the same weight, 1 / (1 - p), for all."""
        return dict.fromkeys(sorted(arrived), 1 / (1 - self._missing))


class BernoulliCode(ApproximateCode):
    """Each block on each worker with probability d / N; decoding comes as near to the whole as it can.

    With B_F the rows of the workers that are there, the weights are those a that minimise |B_F^T a - 1|^2. It is drawn
    again if some worker has no block or some block no worker, at most 20 times; after that, such a worker gets the
    block of its number, and such a block goes to the worker of its number.

    Source: Charles, Papailiopoulos and Ellenberg, arXiv 1711.06771.

    Args:
        num: N.
        stragglers: s.
        copies: d, in the mean.
        seed: of the draws.

    Example:
        >>> code = BernoulliCode(6, 1, 6)
        >>> list(code.row(2).values()), round(code.error(code.weights([0, 1, 3])), 9)
        ([1.0, 1.0, 1.0, 1.0, 1.0, 1.0], 0.0)
    """

    def __init__(self, num: int, stragglers: int, copies: int, seed: int = 0) -> None:
        super().__init__(num, stragglers, copies)
        for draw in range(MAX_DRAWS):
            generator = rng.stream(seed, "bernoulli code", num, copies, draw)
            self.matrix = (generator.random((num, num)) < copies / num).astype(float)
            if self.matrix.any(axis=0).all() and self.matrix.any(axis=1).all():
                return
        for i in range(num):
            if not (self.matrix[i].any() and self.matrix[:, i].any()):
                self.matrix[i, i] = 1.0

    def row(self, worker: int) -> dict[int, float]:
        """Return a coefficient of 1 for each block that was drawn for the worker."""
        return {block: 1.0 for block in range(self.num) if self.matrix[worker, block]}

    def weights(self, arrived: Sequence[int]) -> dict[int, float]:
        """Return the least of the weights that come nearest to counting each block once."""
        import numpy as np

        workers = sorted(arrived)
        weights = np.linalg.lstsq(self.matrix[workers].T, np.ones(self.num), rcond=SMALLEST)[0]
        return dict(zip(workers, weights.tolist(), strict=True))


def _spread(num: int, size: int) -> list[int]:
    """Return different numbers below `num` whose differences modulo `num` repeat little, chosen greedily."""
    offsets = [0]
    while len(offsets) < size:
        known = Counter((a - b) % num for a in offsets for b in offsets if a != b)

        def repeats(offset: int, known: Counter[int] = known) -> tuple[int, int]:
            new = Counter(difference % num for each in offsets for difference in (offset - each, each - offset))
            return max(count + known[difference] for difference, count in new.items()), offset

        offsets.append(min(set(range(num)) - set(offsets), key=repeats))
    return offsets
