"""Columns of numbers that both Python and numpy work on: single cells at the speed of a list, whole columns at once."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Table:
    """Columns of equal length that grow together.

    Args:
        types: each column's type code (`d`, `q` or `b`, as in `array.array`) and what an unused cell holds.

    Attributes:
        cells: each column as an `array.array`, for single cells; invalid after `grow`.
        columns: the same memory as numpy arrays; invalid after `grow`.
        size: the number of rows.
    """

    def __init__(self, types: Mapping[str, tuple[str, float]], size: int = 64) -> None:
        self._types = types
        self.size = 0
        self.cells: dict[str, array[Any]] = {name: array(code) for name, (code, _) in types.items()}
        self.columns: dict[str, NDArray[Any]] = {}
        self.grow(size)

    def grow(self, size: int) -> None:
        """Add rows until there are at least `size`."""
        more = size - self.size
        self.columns = {}  # an array cannot grow while numpy looks at it
        for name, (code, unused) in self._types.items():
            self.cells[name].extend(array(code, [unused if code == "d" else int(unused)]) * more)
            self.columns[name] = np.frombuffer(self.cells[name], np.dtype(code))
        self.size = size

    def keep(self, rows: NDArray[np.int64]) -> None:
        """Move some rows to the front, in the order given; all others become unused."""
        for name, (_, unused) in self._types.items():
            column = self.columns[name]
            column[: len(rows)] = column[rows]
            column[len(rows) :] = unused
