"""Lazily aggregated gradients: a worker whose gradient has changed little sends nothing, and its last one counts on."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from psgdsim.codecs.base import Codec
from psgdsim.errors import PeerLost
from psgdsim.node import Node
from psgdsim.strategies.base import Strategy, register_strategy
from psgdsim.strategies.lazy_base import (
    LAPSE,
    SIZE,
    TOLERATED,
    History,
    LazyWorker,
    OnPeerLoss,
    Pace,
    Xi,
    lazy_strategy,
)
from psgdsim.strategies.lazy_server import LazyServer
from psgdsim.task import Task

Trigger = Literal["worker", "server"]
Smoothness = Annotated[float, Field(gt=0, allow_inf_nan=False)]

XI: Final[dict[Trigger, float]] = {"worker": 0.1, "server": 1.0}
"""What xi is unless given: 1 / D and 10 / D with the paper's D of 10."""


@register_strategy("lag")
def lag(
    trigger: Trigger = "worker",
    xi: Xi | None = None,
    history: History = 10,
    smoothness: Smoothness | tuple[Smoothness, ...] | None = None,
    on_peer_loss: OnPeerLoss = "fail",
) -> Strategy:
    """Step with the last gradient that each worker has sent, and have only those sent that have changed enough: LAG.

    The server keeps a gradient h_i of each of N workers; w <- w - eta * sum_i h_i, with h_i about
    (rows_i / rows) g_i(w). In step k a worker sends d_i = (rows_i / rows) g_i(w_k) - h_i, coded, after which both ends
    have h_i <- h_i + d_i, if

    - worker (LAG-WK): ||d_i||^2 > xi / (eta N)^2 * sum_{j=1..D} ||w_{k+1-j} - w_{k-j}||^2. The server sends w_k to all,
      each computes its gradient, and those that send nothing say so in an empty message.
    - server (LAG-PS): L_i^2 ||w_k - w at its last sending||^2 is more than that, with L_i by how much the gradient
      changes at most per length. The server sends w_k to these workers alone; the others do not even compute.

    With m bytes of parameters, m come down to each worker that is called, all N or those of LAG-PS, and one coded
    gradient comes up from each that sends: `uploads` in the server's rows. xi = 0 is synchronous SGD. The model that
    counts is the server's. Workers have a row for each step; `staleness` is how many steps old h_i was.
    Source: Chen, Giannakis, Sun and Yin, "LAG: Lazily Aggregated Gradient for Communication-Efficient Distributed
    Learning", NeurIPS 2018, arXiv 1805.09965.

    Note:
        The theory is for full gradients: let batch_size be all rows of a worker. The noise of smaller batches is a
        change like any other, so that more is sent; for the same reason L_i, where it is estimated, is too large then.
        Under a schedule each ||w_{k+1-j} - w_{k-j}|| is divided by the rate of its own step. The server adds up all
        h_i anew in every step, so that roundings do not add up.

    Args:
        trigger: who decides what is sent, `worker` or `server`.
        xi: how large a change may be that is not sent; 0.1 with trigger `worker` and 1 with `server` if null.
        history: over how many of the last steps w's way is added up, D.
        smoothness: L_i of every worker's mean loss, one number or one per worker; estimated from what has been sent, as
            the largest ||d_i|| per length so far, if null. Only with trigger `server`.
        on_peer_loss: `fail`, a worker that is lost ends the run; `drop`, the server forgets what it had of one that is
            lost, and steps with the mean over the others, sum_i h_i times rows / (their rows). One that has come back
            may be called once the server has read so, and sends its whole gradient first; of w's way it knows what it
            has seen since. So begins each worker, with a message more each way, and so it ends, with one more.
    """
    if trigger == "worker" and smoothness is not None:
        raise ValueError(f"smoothness: only with trigger 'server'; got trigger {trigger!r}")

    def check(world_size: int, _codec: Codec) -> None:
        if isinstance(smoothness, tuple) and len(smoothness) != world_size:
            raise ValueError(
                f"smoothness: expected one number or {world_size} of them (world_size); got {len(smoothness)}"
            )

    tolerated = TOLERATED[on_peer_loss]
    rule = functools.partial(Pace, xi=XI[trigger] if xi is None else xi, history=history)

    async def worker(node: Node, task: Task) -> None:
        await LazyWorker(node, task, rule(node, task) if trigger == "worker" else None, tolerated).run()

    async def server(node: Node, task: Task) -> None:
        if trigger == "worker":
            await LazyServer(node, task, tolerated).run()
        else:
            await _AskingServer(node, task, tolerated, rule(node, task), smoothness).run()

    return lazy_strategy("lag", worker, server, check, tolerated)


class _AskingServer(LazyServer):
    """The server of LAG-PS: it calls only those workers whose gradients may have changed enough.

    Args:
        node: its node.
        task: what is trained.
        tolerated: the errors that do not end the run.
        pace: what a change must exceed.
        smoothness: as in `lag`.
    """

    def __init__(
        self,
        node: Node,
        task: Task,
        tolerated: tuple[type[PeerLost], ...],
        pace: Pace,
        smoothness: float | tuple[float, ...] | None,
    ) -> None:
        super().__init__(node, task, tolerated)
        self._pace = pace
        each = smoothness if isinstance(smoothness, tuple) else [smoothness or 0.0] * node.world_size
        self._is_estimating = smoothness is None
        self._smoothness = [one * num / task.global_rows for one, num in zip(each, self._rows, strict=True)]
        self._read: list[Any] = [None] * node.world_size  # the parameters that each was called with last
        self._ways: dict[int, float] = {}  # squared, from there to the present ones, of those that are called

    async def _choose(self, params: Any, step: int) -> Sequence[int]:
        limit = await self._pace.limit(params, step)
        known = [worker for worker, read in enumerate(self._read) if read is not None]
        ways = [await self._node.compute(LAPSE, params, self._read[worker], 1.0) for worker in known]
        self._ways = dict(zip(known, map(float, await self._node.read(ways)), strict=True))
        asked = [worker for worker in sorted(self._there) if self._may_matter(worker, limit)]
        for worker in asked:
            self._read[worker] = params
        return asked

    def _may_matter(self, worker: int, limit: float) -> bool:
        """Whether a worker's gradient may have changed enough; of those of which nothing is known, it may."""
        smoothness = self._smoothness[worker]
        return worker not in self._ways or not smoothness or smoothness**2 * self._ways[worker] > limit

    async def _decode(self, payload: Any, worker: int) -> Any:
        """Decode a change, and learn from it how smooth the worker's loss is."""
        change = await super()._decode(payload, worker)
        if self._is_estimating and self._ways.get(worker):
            size = float(await self._node.read(await self._node.compute(SIZE, change)))
            self._smoothness[worker] = max(self._smoothness[worker], (size / self._ways[worker]) ** 0.5)
        return change

    def _forget(self, worker: int) -> None:
        """Forget also what it was called with last, but not how smooth its loss is: it has the rows that it had."""
        super()._forget(worker)
        self._read[worker] = None
