"""Times replayed from a file."""

from __future__ import annotations

import csv
import functools
import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

from pydantic import Field

from psgdsim.compute_times.base import ComputeTime, Draw, register_compute_time
from psgdsim.errors import ScenarioError
from psgdsim.input_files import read_text
from psgdsim.units import Duration

if TYPE_CHECKING:
    import numpy as np

Number = TypeVar("Number", int, float)

HEADER: Final = ["t", "worker", "factor"]
MAX_NBYTES: Final = 2**26
MAX_WORKER: Final = 99_999


@dataclass
class Factors:
    """The factors of one worker: `values[i]` holds from `times[i]` [s] until `times[i + 1]`."""

    times: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def at(self, time: float) -> float:
        """Return the factor that holds at a time; 1 before the first."""
        place = bisect_right(self.times, time)
        return self.values[place - 1] if place else 1.0


@register_compute_time("trace_file")
def trace_file(path: Annotated[str, Field(min_length=1, max_length=4096)], time: Duration) -> ComputeTime:
    """Stretch a constant time by factors that were recorded over time.

    The file is CSV in UTF-8. Its first line is `t,worker,factor`; each other line says that from time t [s] since the
    start of training, computations of this worker (a rank) take `factor` times as long, until its next line. The lines
    of a worker stand in the order of time. Before its first line, and for a worker without any, the factor is 1. A
    computation keeps the factor that holds when it starts.

    Args:
        path: the file; a relative one is looked for in the working directory.
        time: the time of one batch at factor 1.
    """
    load_factors = functools.cache(lambda: read_factors(Path(path)))

    def start(rank: int, _rng: np.random.Generator) -> Draw:
        factors = load_factors().get(rank, Factors())
        return lambda now, load: time * factors.at(now) * load

    return ComputeTime(start, math.nan)


def read_factors(path: Path) -> dict[int, Factors]:
    """Return the factors in a file, by worker.

    Args:
        path: a CSV file as `trace_file` describes it, of at most 64 MiB.

    Raises:
        ScenarioError: it cannot be read, is too large, or has a line that is not valid; the message says which.
    """
    try:
        lines = csv.reader(read_text(path, MAX_NBYTES).splitlines())
    except ValueError as error:
        raise ScenarioError(f"compute.path: {error}") from None
    workers: dict[int, Factors] = {}
    try:
        header = [name.strip() for name in next(lines, [])]
        if header != HEADER:
            raise ValueError(f"expected the header {','.join(HEADER)!r}; got {','.join(header)[:60]!r}")
        for row in lines:
            if row:
                _add(workers, row)
    except (ValueError, csv.Error) as error:
        raise ScenarioError(f"compute.path: {path}:{max(lines.line_num, 1)}: {error}") from None
    return workers


def _add(workers: dict[int, Factors], row: list[str]) -> None:
    """Add one line to the factors of its worker."""
    if len(row) != len(HEADER):
        raise ValueError(f"expected {len(HEADER)} values, {','.join(HEADER)}; got {len(row)}")
    time = _number(float, row[0], "t", "a time in seconds, at least 0", lambda t: 0 <= t < math.inf)
    worker = _number(int, row[1], "worker", f"a rank, 0 to {MAX_WORKER}", lambda rank: 0 <= rank <= MAX_WORKER)
    factor = _number(float, row[2], "factor", "a number more than 0", lambda x: 0 < x < math.inf)
    factors = workers.setdefault(worker, Factors())
    if factors.times and time <= factors.times[-1]:
        raise ValueError(
            f"t: expected more than {factors.times[-1]:g}, the time of worker {worker} before; got {time:g}"
        )
    factors.times.append(time)
    factors.values.append(factor)


def _number(
    kind: Callable[[str], Number], text: str, name: str, expected: str, is_valid: Callable[[Number], bool]
) -> Number:
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not is_valid(value):
        raise ValueError(f"{name}: expected {expected}; got {text[:40]!r}")
    return value
