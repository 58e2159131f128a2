"""When each gradient comes to an asynchronous server, and when its worker has the answer."""

from __future__ import annotations

import math
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Final

from psgdsim.per_rank import Parted
from psgdsim.sim.series import Series
from psgdsim.sim.wires import Wires
from psgdsim.trace import ACTIVITIES

_ASKING: Final = -2
"""The version that a worker has before it asks for the model, and the update of its last gradient before it is one."""

_LEAVING: Final = -1
"""The update of its last gradient once that comes too late."""


@dataclass(frozen=True)
class Sizes:
    """How much each message puts on its links, headers and all [bit]."""

    question: float
    push: float
    answer: float
    end: float


class Columns:
    """What happened in the steps of workers, one number for each in the order of time."""

    def __init__(self) -> None:
        self.worker, self.update = array("q"), array("q")  # whose it is, and the number of its gradient from 0
        self.staleness, self.time = array("q"), array("d")  # of that, and when the step ended [s]
        self.computing, self.transfer = array("d"), array("d")  # in that step [s]

    def __len__(self) -> int:
        return len(self.time)


class Arrivals:
    """The course of a run.

    Workers ask for the model, compute and push, and are answered at once; when the server has done all its steps, it
    ends one worker after the other. Of what happens at the same time, messages arrive first, at the server and then at
    workers, in the order in which they entered; then others enter, in the order in which they were set off.

    Args:
        draws: for each worker, how long the computation takes that begins at a time [s].
        sizes: of messages.
        wires: on what they cross; nothing is under way yet.
        series: read by whoever wants to know what links did when.

    Attributes:
        columns: of the steps that have ended, until somebody takes them.
        taken: whose gradients the server has applied in its step under way, and how stale they were.
        now: the time [s].
        num_workers: the number of workers.
        num_updates: how many gradients the server has applied.
        num_told: how many workers it has told to end.
        idle: for how long no message was on its way, so that the server only waited [s].
        update: the number of the last gradient of each worker that was applied, from 0; negative before the first, and
            once one has come too late.
    """

    def __init__(self, draws: Sequence[Callable[[float], float]], sizes: Sizes, wires: Wires, series: Series) -> None:
        num = self.num_workers = len(draws)
        self._draws, self._sizes, self._series = draws, sizes, series
        self._wires, self._up, self._down = wires, wires.up.link, wires.down.link
        self.columns = Columns()
        self.taken: list[tuple[int, int]] = []
        self.now, self.idle, self.num_updates, self.num_told = 0.0, 0.0, 0, 0
        self._computing = [0.0] * num  # for how long each has computed, or will have when it is through
        self._through = [-math.inf] * num  # when it is, or was
        self._waiting = [0.0] * num  # for how long each has waited for the server to turn to it
        self._alone = [math.inf] * num  # since when it waits for that now, or has ended
        self._version = [_ASKING] * num  # of the parameters that each worker has, or is being sent
        self.update = [_ASKING] * num
        self._staleness = [0] * num  # of its last gradient
        self._pull = [0.0] * num  # how long it took to ask for the model, until that is counted
        self._took = [0.0] * num  # how long its last computation takes
        self._number = num
        # When a message enters its links, when and in which order it was set off, and whose it is.
        delay = wires.up.delay
        self._pushes: list[tuple[float, float, int, int]] = [(delay, 0.0, worker, worker) for worker in range(num)]
        self._answers: deque[tuple[float, int, float]] = deque()  # when, whose, and how large
        self._queue: deque[int] = deque()  # who has pushed and waits to be told to end
        self._is_over = self._is_ending = False

    def end(self) -> None:
        """Go on until each worker has pushed once more and has been told to end."""
        self._is_over = True
        self.run_until(math.inf)

    def run_until(self, num_updates: float) -> None:
        """Go on until the server has made so many updates, or nothing is left to happen."""
        up, down, pushes, answers = self._up, self._down, self._pushes, self._answers
        sizes, version, series = self._sizes, self._version, self._series
        while self.num_updates < num_updates:
            taken, arrived = up.next_finish, down.next_finish
            start = pushes[0][0] if pushes else math.inf
            answer = answers[0][0] if answers else math.inf
            time = min(taken, arrived, start, answer)
            if time == math.inf:
                return
            if time > series.edge:
                series.advance(time)
            self.now = self._wires.now = time
            if time == taken:
                self._take(up.finish(), time)
            elif time == arrived:
                self._go_on(down.finish(), time)
            elif time == start:
                worker = heappop(pushes)[3]
                up.enter(worker, sizes.question if version[worker] == _ASKING else sizes.push, time)
            else:
                _, worker, nbits = answers.popleft()
                down.enter(worker, nbits, time)

    def num_pushed_since(self, worker: int) -> int:
        """Return how many gradients a worker has pushed since its last step ended."""
        return int(-math.inf < self._through[worker] <= self.now)

    def seconds(self, worker: int) -> dict[str, float]:
        """Return the seconds of a worker by activity until now."""
        computing = self._computing[worker] - max(0.0, self._through[worker] - self.now)
        waiting = self._waiting[worker] + max(0.0, self.now - self._alone[worker])
        spent = (computing, 0.0, self.now - computing - waiting, waiting)
        return dict(zip(ACTIVITIES, spent, strict=True))

    # --- the server -------------------------------------------------------------------------------------------

    def _take(self, worker: int, now: float) -> None:
        """Take what a worker has pushed, and answer."""
        version = self._version[worker]
        if version == _ASKING:
            self._version[worker] = self.num_updates
        elif self._is_over:
            self.update[worker] = _LEAVING
            self._alone[worker] = now
            self._queue.append(worker)
            self._end_next(now)
            return
        else:
            self._staleness[worker] = self.num_updates - version
            self.taken.append((worker, self.num_updates - version))
            self.update[worker] = self.num_updates
            self.num_updates += 1
            self._version[worker] = self.num_updates
        self._answers.append((now + self._wires.down.delay, worker, self._sizes.answer))

    def _end_next(self, now: float) -> None:
        """Tell the next worker to end, unless one is being told."""
        if self._queue and not self._is_ending:
            worker = self._queue.popleft()
            self._waiting[worker] += now - self._alone[worker]
            self._alone[worker] = math.inf
            self._is_ending = True
            self.num_told += 1
            self._answers.append((now + self._wires.down.delay, worker, self._sizes.end))

    # --- workers ----------------------------------------------------------------------------------------------

    def _go_on(self, worker: int, now: float) -> None:
        """Take an answer, end the step, and compute the next gradient."""
        update, columns = self.update[worker], self.columns
        if update == _LEAVING:
            self._is_ending = False
            self._alone[worker] = now
            self._end_next(now)
        else:
            if update == _ASKING:
                self._pull[worker] = now
            else:
                columns.worker.append(worker)
                columns.update.append(update)
                columns.staleness.append(self._staleness[worker])
                columns.time.append(now)
                columns.computing.append(self._took[worker])
                columns.transfer.append(now - self._through[worker] + self._pull[worker])
                self._pull[worker] = 0.0
            took = self._took[worker] = self._draws[worker](now)
            if not took < math.inf:
                raise Parted(f"worker {worker} is never through")
            self._computing[worker] += took
            self._through[worker] = now + took
            through = self._through[worker]
            heappush(self._pushes, (through + self._wires.up.delay, through, self._number, worker))
            self._number += 1
        if not (self._up.num or self._down.num or self._answers) and self._pushes:
            self.idle += max(0.0, self._pushes[0][0] - self._wires.up.delay - now)
