"""What each rank of an asynchronous run has to report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from psgdsim.sim.as_they_come.arrivals import Arrivals, Columns
from psgdsim.trace import ACTIVITIES, RankReport

FrameSize = tuple[int, int]
"""Of a whole frame, and of the tensors in it [byte]."""


@dataclass(frozen=True)
class Frames:
    """The sizes of the frames of each message.

    Args:
        question: a worker's, for the model.
        push: with a gradient.
        answer: with parameters.
        end: that ends a worker.
    """

    question: FrameSize
    push: FrameSize
    answer: FrameSize
    end: FrameSize


def _total(*parts: tuple[int, FrameSize]) -> FrameSize:
    """Return the size of so many frames of each size."""
    return sum(num * size[0] for num, size in parts), sum(num * size[1] for num, size in parts)


class WorkerRows:
    """The rows of the steps of all workers.

    Args:
        arrivals: what happens.
        frames: how large messages are.
        keeps_all: whether those of all steps are kept; if not, the last one of each worker.
    """

    def __init__(self, arrivals: Arrivals, frames: Frames, *, keeps_all: bool) -> None:
        self._arrivals, self._frames, self._keeps_all = arrivals, frames, keeps_all
        num = arrivals.num_workers
        self._steps = np.zeros(num, np.int64)  # that each worker has ended
        self._first_update = 0  # that has not been settled
        self._losses = np.zeros(num, np.float32)  # of the last one before that, for workers without an answer to it
        self._num_marked = np.zeros(num, np.int64)
        self._staleness = [Counter[int | float]() for _ in range(num)]
        self._tables: list[dict[str, Any]] = []

    def settle(self, workers: Any, losses: Any, marks: Any) -> None:
        """Take the steps that have ended since the last time.

        Args:
            workers: whose gradients have been applied since then, shape (n,).
            losses: of these, shape (n,).
            marks: that the codec has made of them, shape (n,).
        """
        arrivals = self._arrivals
        columns, arrivals.columns = arrivals.columns, Columns()
        worker, update = (np.array(each) for each in (columns.worker, columns.update))
        place = update - self._first_update
        loss = self._losses[worker]
        loss[place >= 0] = losses[place[place >= 0]]
        self._add(columns, worker, loss)
        self.mark(workers, marks)
        last = np.array(arrivals.update) - self._first_update
        self._losses[last >= 0] = losses[last[last >= 0]]
        self._first_update += len(workers)

    def mark(self, workers: Any, marks: Any) -> None:
        """Count what the codec has marked.

        Args:
            workers: whose updates they were, shape (n,).
            marks: of these, 0 for none, shape (n,).
        """
        np.add.at(self._num_marked, workers, marks != 0)

    def _add(self, columns: Columns, worker: Any, loss: Any) -> None:
        order = np.argsort(worker, kind="stable")  # by worker, and each one's steps in their order
        mine = worker[order]
        counts = np.bincount(mine, minlength=len(self._steps))
        ends = np.cumsum(counts)
        step = 1 + np.arange(len(mine)) - (ends - counts - self._steps)[mine]
        self._steps += counts
        staleness = np.array(columns.staleness)[order]
        pairs, numbers = np.unique(np.stack([mine, staleness]), axis=1, return_counts=True)
        for (rank, value), number in zip(pairs.T.tolist(), numbers.tolist(), strict=True):
            self._staleness[rank][value] += number
        idle = np.zeros(len(mine))
        spent = np.array(columns.computing)[order], idle, np.array(columns.transfer)[order], idle
        self._tables.append(
            {
                "rank": mine,
                "step": step,
                "time": np.array(columns.time)[order],
                "bytes": self._frames.question[0] + step * self._frames.push[0],
                "staleness": staleness,
                **{f"{name}_s": each for name, each in zip(ACTIVITIES, spent, strict=True)},
                "loss": loss[order],
                "version": np.array(columns.update)[order] + 1,
            }
        )
        if not self._keeps_all:
            self._keep_last()

    def _keep_last(self) -> None:
        """Forget all rows but the last one of each worker."""
        rank = np.concatenate([table["rank"] for table in self._tables])
        last = len(rank) - 1 - np.unique(rank[::-1], return_index=True)[1]
        self._tables = [
            {name: np.concatenate([table[name] for table in self._tables])[last] for name in self._tables[0]}
        ]

    def reports(self, digest: str) -> list[RankReport]:
        """Return the reports of all workers.

        Args:
            digest: of the models that they lead, which are none.
        """
        rows: list[list[dict[str, Any]]] = [[] for _ in self._steps]
        for table in self._tables:
            names, columns = list(table), [column.tolist() for column in table.values()]
            for values in zip(*columns, strict=True):
                rows[values[0]].append(dict(zip(names, values, strict=True)))
        return [self._report(rank, each, digest) for rank, each in enumerate(rows)]

    def _report(self, rank: int, rows: list[dict[str, Any]], digest: str) -> RankReport:
        num_pushed = int(self._steps[rank]) + self._arrivals.num_pushed_since(rank)
        sent = _total((1, self._frames.question), (num_pushed, self._frames.push))
        seconds, num_replaced = self._arrivals.seconds(rank), int(self._num_marked[rank])
        return _report(rank, rows, seconds, sent, digest, dict(self._staleness[rank]), num_replaced)


class ServerRows:
    """The rows of the server's steps.

    Args:
        rank: the server's.
        arrivals: what happens.
        frames: how large messages are.
    """

    def __init__(self, rank: int, arrivals: Arrivals, frames: Frames) -> None:
        self._rank, self._arrivals, self._frames = rank, arrivals, frames
        self.rows: list[dict[str, Any]] = []
        self._since, self._idle = 0.0, 0.0

    def add(self, staleness: Sequence[int]) -> dict[str, Any]:
        """Close a step, now, and return its row.

        Args:
            staleness: of its gradients.
        """
        arrivals = self._arrivals
        idle, seconds = arrivals.idle - self._idle, arrivals.now - self._since
        spent = dict(zip(ACTIVITIES, (0.0, 0.0, seconds - idle, idle), strict=True))
        row = {
            "rank": self._rank,
            "step": len(self.rows) + 1,
            "time": arrivals.now,
            "bytes": self._sent()[0],
            "staleness": sum(staleness) / len(staleness),
            **{f"{name}_s": each for name, each in spent.items()},
            "version": arrivals.num_updates,
        }
        self.rows.append(row)
        self._since, self._idle = arrivals.now, arrivals.idle
        return row

    def _sent(self) -> FrameSize:
        arrivals = self._arrivals
        num_answers = arrivals.num_updates + arrivals.num_workers
        return _total((num_answers, self._frames.answer), (arrivals.num_told, self._frames.end))

    def report(self, digest: str) -> RankReport:
        """Return the server's report."""
        arrivals = self._arrivals
        seconds = dict(zip(ACTIVITIES, (0.0, 0.0, arrivals.now - arrivals.idle, arrivals.idle), strict=True))
        staleness = dict(Counter(row["staleness"] for row in self.rows))
        return _report(self._rank, self.rows, seconds, self._sent(), digest, staleness, 0)


def _report(
    rank: int,
    rows: list[dict[str, Any]],
    seconds: Mapping[Any, float],
    sent: FrameSize,
    digest: str,
    staleness: dict[Any, int],
    num_replaced: int,
) -> RankReport:
    return RankReport(
        rank=rank,
        rows=rows,
        events=[],
        dropped_events=0,
        seconds=dict(seconds),
        sent_nbytes=sent[0],
        payload_nbytes=sent[1],
        relay_nbytes=0,
        digest=digest,
        unread=0,
        staleness=staleness,
        num_replaced=num_replaced,
    )
