"""Names and patterns of links, and files that say what links are like over time."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Final, Literal

from psgdsim.errors import nearest, shown
from psgdsim.input_files import read_text
from psgdsim.topologies.base import Topology
from psgdsim.units import BANDWIDTH, TIME

LinkRow = tuple[float, str, float]
"""`(time, link, value)`: from this time [s] on the link, or all that match the pattern, have this value."""

Rows = Sequence[LinkRow]

MAX_NBYTES: Final = 2**26
MAX_ROWS: Final = 1_000_000
MAX_PATH: Final = 4096

_QUANTITIES: Final = {"bandwidth": BANDWIDTH, "latency": TIME}
_LISTED: Final = 12


def read_rows(path: str, quantity: Literal["bandwidth", "latency"]) -> list[LinkRow]:
    """Return the rows of a CSV file in UTF-8 with the header `time,link,bandwidth` or `time,link,latency`.

    Args:
        path: the file, of at most 64 MiB and 1,000,000 rows; a relative one is looked for in the working directory.
        quantity: what the third column holds.

    Raises:
        ValueError: it cannot be read, or has a row that is not valid; the message says which.
    """
    header = ["time", "link", quantity]
    try:
        lines = csv.reader(read_text(path, MAX_NBYTES).splitlines())
    except ValueError as error:
        raise ValueError(f"path: {error}") from None
    rows: list[LinkRow] = []
    try:
        found = [name.strip() for name in next(lines, [])]
        if found != header:
            raise ValueError(f"expected the header {','.join(header)!r}; got {shown(','.join(found))}")
        for cells in lines:
            if cells:
                rows.append(_row(cells, quantity, rows[-1][0] if rows else 0.0))
            if len(rows) > MAX_ROWS:
                raise ValueError(f"expected at most {MAX_ROWS} rows; there are more")
    except (ValueError, csv.Error) as error:
        raise ValueError(f"path: {path}:{max(lines.line_num, 1)}: {error}") from None
    return rows


def _row(cells: list[str], quantity: str, earliest: float) -> LinkRow:
    if len(cells) != 3:
        raise ValueError(f"expected 3 values, time,link,{quantity}; got {len(cells)}")
    time_text, link, value_text = (cell.strip() for cell in cells)
    if not link:
        raise ValueError("link: expected a link's name or a pattern; got ''")
    time = _parsed("time", time_text)
    if time < earliest:
        raise ValueError(f"time: expected times in order; got {time:g} s after {earliest:g} s")
    return time, link, _parsed(quantity, value_text)


def _parsed(column: str, text: str) -> float:
    try:
        return _QUANTITIES.get(column, TIME).parse(text)
    except ValueError as error:
        raise ValueError(f"{column}: {error}") from None


def matching(key: str, pattern: str, names: Sequence[str], what: str) -> list[int]:
    """Return which names a name or a pattern means, by index.

    Raises:
        ValueError: none; the message begins with the key to blame.
    """
    found = [i for i, name in enumerate(names) if name == pattern] or [
        i for i, name in enumerate(names) if fnmatchcase(name, pattern)
    ]
    if not found:
        hint = nearest(pattern, names) if len(names) <= _LISTED else _short_hint(pattern, names)
        raise ValueError(f"{key}: no {what} is called {shown(pattern)}; {hint}")
    return found


def _short_hint(wrong: str, names: Sequence[str]) -> str:
    close, pattern = nearest(wrong, names), f"{names[0].split('.')[0]}.*"
    listed = f"valid: {', '.join(itertools.islice(names, _LISTED))}, ... or a pattern such as {pattern}"
    return f"{close.split(' (')[0]} ({listed})" if close.startswith("did you") else listed


def check_links(key: str, patterns: Iterable[str], topology: Topology) -> None:
    """Raise `ValueError` if a pattern matches no link of a topology."""
    names = [link.name for link in topology.links]
    for pattern in patterns:
        matching(key, pattern, names, "link")
