"""Verdicts on results that may be no good, given when the numbers are there."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from psgdsim.node import Kernel
from psgdsim.sim.execution.lanes import LaneHandle
from psgdsim.sim.values import Value
from psgdsim.trace import RankLog


class Verdicts:
    """The verdicts of a run that are still to be given: no number is computed for one before the run's end."""

    def __init__(self) -> None:
        self._open: deque[tuple[Value, Callable[[Any], bool], RankLog]] = deque()

    def take(self, kernel: Kernel, arguments: tuple[Any, ...], output: Any, log: RankLog) -> Any:
        """Return the result of a kernel that marks it.

        Args:
            kernel: one with `judge`.
            arguments: what it was called with.
            output: `(result, mark)`.
            log: of the rank that called it.

        Raises:
            PsgdsimError: an earlier result must not be used.
        """
        assert kernel.judge is not None
        result, mark = output
        self._open.append((mark, kernel.judge(*arguments), log))
        while self._open and self._open[0][0].is_ready:
            self._give()
        return result

    def finish(self) -> None:
        """Give all verdicts.

        Raises:
            PsgdsimError: a result must not be used.
        """
        while self._open:
            self._give()

    def _give(self) -> None:
        mark, verdict, log = self._open.popleft()
        if type(mark) is LaneHandle:
            marks = mark.numbers
            is_replaced = {number: verdict(number) for number in set(marks.tolist())}
            by_rank: Any = np.array([is_replaced[number] for number in marks.tolist()], int)
            log.num_replaced = log.num_replaced + by_rank
        else:
            log.num_replaced += verdict(mark.numbers)
