"""Tables as CSV text, and back as columns."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np


CHUNK: Final = 256
"""Rows that are read at once."""


def read_table(path: Path) -> dict[str, np.ndarray]:
    """Read a CSV file with a header to columns.

    Args:
        path: the file.

    Returns:
        name -> column: integers where all cells are, else floats with NaN for empty cells, else text.

    Raises:
        ValueError: the file is empty, or a row has more or fewer cells than the header.
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        header = next(reader, None)
        if header is None:
            raise ValueError(f"{path}: expected a table with a header; the file is empty")
        columns: list[list[str]] = [[] for _ in header]
        # Millions of rows that live at once would keep the garbage collector busy; cells are nothing to it.
        while rows := list(itertools.islice(reader, CHUNK)):
            for column, cells in zip(columns, zip(*rows, strict=True), strict=True):
                column.extend(cells)
    return {name: _column(column) for name, column in zip(header, columns, strict=True)}


def _column(cells: Sequence[str]) -> np.ndarray:
    import numpy as np

    try:
        return np.asarray([int(cell) for cell in cells])
    except ValueError:
        pass
    try:
        return np.asarray([float(cell) if cell else math.nan for cell in cells])
    except ValueError:
        return np.asarray(cells)


def table_text(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    """Return rows as CSV: the given columns first, then whatever else the rows have; empty where a row has nothing."""
    names = list(dict.fromkeys([*columns, *(name for row in rows for name in row)]))
    return plain_text(names, ([row.get(name) for name in names] for row in rows))


def plain_text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return rows that have all columns, in their order, as CSV; empty where a cell is None."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()
