"""How long kernels take on one rank."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from psgdsim.compute_times import Draw
from psgdsim.node import Kernel


class KernelTimes:
    """The times of the kernels of one rank.

    Args:
        draw: the time of a gradient, as a compute model has it.
        rank_rows: rows of a rank's batch.
        speed: of the rank's machine, 1 for one that the compute model describes.
        codec_rate: bytes per second that a codec works on; it takes no time if None.
    """

    def __init__(self, draw: Draw, *, rank_rows: float, speed: float, codec_rate: float | None) -> None:
        self._draw, self._rank_rows, self._speed, self._codec_rate = draw, rank_rows, speed, codec_rate
        self._whole = 0.0

    def is_free(self, kernel: Kernel) -> bool:
        """Whether a kernel takes no time."""
        return kernel.rows is None and (kernel.kind != "codec" or self._codec_rate is None)

    def timer(self, kernel: Kernel, arguments: tuple[Any, ...], result: Any) -> Callable[[float], float]:
        """Return what finds out, once, how long a call of a kernel takes, given when it begins [s].

        Args:
            kernel: the kernel.
            arguments: what it is called with.
            result: what comes of it.
        """
        return lambda begin: self.seconds(kernel, *self.measure(kernel, arguments, result), begin)

    def measure(self, kernel: Kernel, arguments: tuple[Any, ...], result: Any) -> tuple[float, float | None]:
        """Return how much a call of a kernel works on, and its share of the time if it is one of several.

        Args:
            kernel: the kernel.
            arguments: what it is called with.
            result: what comes of it.

        Returns:
            Bytes of a codec, else times a rank's batch of rows.
        """
        if kernel.kind == "codec" and self._codec_rate is not None:
            return float(max(map(_nbytes, (arguments, result)))), None
        if kernel.rows is None:
            return 0.0, None
        share = None if kernel.share is None else kernel.share(*arguments)
        return 0.0 if kernel.continues else kernel.rows(*arguments) / self._rank_rows, share

    def seconds(self, kernel: Kernel, amount: float, share: float | None, begin: float) -> float:
        """Find out, once, how long a call takes [s].

        Args:
            kernel: the kernel.
            amount: as `measure` says.
            share: likewise.
            begin: when it begins [s].
        """
        if kernel.kind == "codec" and self._codec_rate is not None:
            return amount / self._codec_rate / self._speed
        if kernel.rows is None:
            return 0.0
        if not kernel.continues:
            self._whole = self._draw(begin, amount) / self._speed
        return self._whole if share is None else self._whole * share


def _nbytes(tree: Any) -> int:
    """Return the size of the arrays in a pytree [byte]."""
    import jax

    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype"))
