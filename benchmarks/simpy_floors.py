"""What simulated asynchronous SGD is measured against, too: the plain way to write it, a SimPy process per worker.

Workers call jitted functions as they go. Imported by `async_sgd.py`; not a benchmark of its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import simpy
from execution_floors import ROWS, SIZES, apply, data, gradient, init

BANDWIDTH = 10e9
"""Of the server's link [bit/s]."""

_compute, _apply = jax.jit(gradient), jax.jit(apply)


class Bare:
    """Workers that change the model themselves, without messages and without records.

    Args:
        num_workers: the number of workers.
        sizes: of the model's layers.
    """

    def __init__(self, num_workers: int, sizes: tuple[int, ...] = SIZES) -> None:
        self.env, self.params, self.records = simpy.Environment(), init(sizes), list[Any]()
        self._data, self._generator = data(features=sizes[0]), np.random.default_rng(1)
        for rank in range(num_workers):
            self.env.process(self.work(rank))

    def compute(self, params: Any) -> Any:
        """Return the loss and the gradient on random rows."""
        return _compute(params, *self._data, self._generator.integers(0, 10_000, ROWS))

    def work(self, _rank: int) -> Iterator[Any]:
        """Do what a worker does."""
        while True:
            read = self.params
            yield self.env.timeout(self._generator.exponential(1e-3))
            loss, one = self.compute(read)
            self.params = _apply(self.params, one)
            self.records.append(loss)
            yield self.env.timeout(2e-4)

    def update_time(self, num_updates: int) -> float:
        """Return the wall time of an update [s], over the second half of so many."""
        start = 0.0
        while len(self.records) < num_updates:
            self.env.step()
            if len(self.records) == num_updates // 2 and not start:
                jax.block_until_ready(self.params)
                start = time.perf_counter()
        jax.block_until_ready(self.params)
        return (time.perf_counter() - start) / (num_updates - num_updates // 2)


class Plain(Bare):
    """Workers, and a process that holds the model; messages both ways cross its link one after the other.

    Each update leaves a record: when it was, the loss, and how stale the gradient was.
    """

    def __init__(self, num_workers: int, sizes: tuple[int, ...] = SIZES) -> None:
        super().__init__(num_workers, sizes)
        self._seconds = 8 * sum(leaf.nbytes for leaf in jax.tree.leaves(self.params)) / BANDWIDTH
        self._up, self._down = simpy.Resource(self.env), simpy.Resource(self.env)
        self._inbox = simpy.Store(self.env)
        self._answers = [simpy.Store(self.env) for _ in range(num_workers)]
        self.env.process(self._serve())

    def work(self, rank: int) -> Iterator[Any]:
        """Do what a worker does."""
        read, version = self.params, 0
        while True:
            yield self.env.timeout(self._generator.exponential(1e-3))
            loss, one = self.compute(read)
            yield from self._cross(self._up)
            yield self._inbox.put((rank, one, loss, version))
            read, version = yield self._answers[rank].get()

    def _serve(self) -> Iterator[Any]:
        while True:
            rank, one, loss, version = yield self._inbox.get()
            self.params = _apply(self.params, one)
            self.records.append((self.env.now, float(loss), len(self.records) - version))
            self.env.process(self._answer(rank, self.params, len(self.records)))

    def _answer(self, rank: int, *what: Any) -> Iterator[Any]:
        yield from self._cross(self._down)
        yield self._answers[rank].put(what)

    def _cross(self, link: simpy.Resource) -> Iterator[Any]:
        with link.request() as turn:
            yield turn
            yield self.env.timeout(self._seconds)
