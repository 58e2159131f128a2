"""How busy each link was over time, in a bounded number of bins."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from psgdsim.sim.sharing import Floats

_FIRST_WIDTH = 1e-9


class Series:
    """Mean utilisation of links in bins of equal width; when time outgrows the bins, they double their width.

    Args:
        num_links: how many links there are.
        num_bins: how many bins, an even number.

    Attributes:
        width: of a bin [s].
    """

    def __init__(self, num_links: int, num_bins: int) -> None:
        if num_bins < 2 or num_bins % 2:
            raise ValueError(f"num_bins: expected an even number of at least 2; got {num_bins}")
        self.width = _FIRST_WIDTH
        self._busy = np.zeros((num_bins, num_links))
        self._now = 0.0
        self._last = np.zeros(num_links)

    def update(self, now: float, utilisation: Sequence[float]) -> None:
        """Take note of each link's utilisation from now on; until now it was what was said last."""
        self._fill(now)
        self._last = np.asarray(utilisation, float)

    def _fill(self, now: float) -> None:
        num_bins = len(self._busy)
        while now > self.width * num_bins:
            self._busy[: num_bins // 2] = self._busy[0::2] + self._busy[1::2]
            self._busy[num_bins // 2 :] = 0.0
            self.width *= 2
        if now > self._now:
            edges = self.width * np.arange(num_bins)
            inside = np.clip(np.minimum(edges + self.width, now) - np.maximum(edges, self._now), 0.0, None)
            self._busy += inside[:, None] * self._last
            self._now = now

    def bins(self, now: float) -> tuple[Floats, Floats]:
        """Return the bins until now.

        Returns:
            When each begins [s], and the mean utilisation in each (bins x links); the last bin counts up to now.
        """
        self._fill(now)
        num = max(1, int(np.ceil(now / self.width)))
        start = self.width * np.arange(num)
        length = np.minimum(start + self.width, now) - start
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = np.where(length[:, None] > 0, self._busy[:num] / length[:, None], 0.0)
        return np.asarray(start), np.asarray(mean)
