"""What each link carried over time, in a bounded number of bins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from psgdsim.sim.sharing import Floats

MAX_BINS: Final = 256
MIN_BINS: Final = 16
MAX_ROWS: Final = 2**17
"""So many pairs of bin and link are kept; with more links there are fewer bins, but never fewer than `MIN_BINS`."""

_FIRST_WIDTH: Final = 2.0**-30
"""Of a bin [s]; a power of two, so that the edges of all widths are exact."""


def num_bins_for(num_links: int) -> int:
    """Return how many bins there are for so many links; an even number."""
    return max(MIN_BINS, min(MAX_BINS, MAX_ROWS // max(1, num_links) // 2 * 2))


class Series:
    """Counters of links, read at the edges of bins of equal width; when time outgrows them, they double it.

    Counters are read where time passes an edge, and nowhere else. Whoever moves the clock says so when it is about to
    pass `edge`: until the next event links go on as they do, so what they will have carried by then is known.

    Args:
        read: returns for each link what it has carried until a time [bit], and for how long it would have been busy
            with that [s]; asked only for times at or after its last change.
        num_bins: how many bins, an even number.

    Attributes:
        edge: the end of the bin under way [s]; before anything happens after it, `advance` must be called.
    """

    def __init__(self, read: Callable[[float], Floats], num_bins: int) -> None:
        if num_bins < 2 or num_bins % 2:
            raise ValueError(f"num_bins: expected an even number of at least 2; got {num_bins}")
        self._source, self._num_bins = read, num_bins
        self._width = self.edge = _FIRST_WIDTH
        self._readings: list[Floats] = []  # at the end of each bin that is over: links x (bits, seconds)

    def advance(self, time: float) -> None:
        """Let time pass `edge`, before the first thing happens that is later.

        Args:
            time: of what happens next [s]; after `edge`.
        """
        while time > self._width * self._num_bins:
            self._width *= 2
            self._readings = self._readings[1::2]
        num_over = int(np.ceil(time / self._width)) - 1
        self._readings += [self._read(i * self._width) for i in range(len(self._readings) + 1, num_over + 1)]
        self.edge = (num_over + 1) * self._width

    def _read(self, time: float) -> Floats:
        return np.array(self._source(time))

    def amend(self, since: float, missing: Callable[[float], Floats]) -> None:
        """Add to counters that have been read what comes to light only now.

        Args:
            since: when it began [s].
            missing: returns for each link what was missing until a time, in bits and seconds.
        """
        for i in range(int(since / self._width), len(self._readings)):
            self._readings[i] = self._readings[i] + missing((i + 1) * self._width)

    def bins(self, now: float) -> tuple[Floats, Floats, Floats]:
        """Return the bins until now, which is at or before `edge`.

        Returns:
            Where each bin begins, and the last one ends [s]; the bytes that each link carried in it, whole numbers
            that add up to the rounded total (bins x links); and the part of its capacity that it used (bins x links).
        """
        edges = np.array([*(i * self._width for i in range(len(self._readings) + 1)), now])
        last = self._read(now)
        readings = np.maximum.accumulate(np.array([np.zeros_like(last), *self._readings, last]))  # rounding may go back
        nbytes = np.diff(np.rint(readings[..., 0] / 8.0), axis=0)
        length = np.diff(edges)[:, None]
        busy = np.diff(readings[..., 1], axis=0)
        return edges, nbytes, np.divide(busy, length, out=np.zeros_like(busy), where=length > 0)
