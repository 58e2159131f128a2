"""Federated averaging: a few clients at a time train on rows of their own, and a server averages their models."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import Field

from psgdsim import rng
from psgdsim.compilation import lazy_jit
from psgdsim.data.order import split_rows
from psgdsim.errors import PeerLost
from psgdsim.node import Job, Kernel, Node
from psgdsim.strategies.base import Strategy, register_strategy
from psgdsim.strategies.fedavg_server import MODEL, PUSH, Rounds, RoundServer
from psgdsim.strategies.local_sgd import PART
from psgdsim.strategies.server_base import FAREWELL
from psgdsim.task import Task, TrainState
from psgdsim.units import Duration

if TYPE_CHECKING:
    import numpy as np

Fraction = Annotated[float, Field(gt=0, le=1)]
OnPeerLoss = Literal["fail", "drop"]


@register_strategy("fedavg")
def fedavg(
    client_fraction: Fraction = 0.1,
    local_epochs: Annotated[int, Field(ge=1)] = 5,
    on_peer_loss: OnPeerLoss = "fail",
    *,
    full_batch: bool = False,
    timeout: Annotated[Duration, Field(gt=0)] | None = None,
    quorum: Fraction | None = None,
) -> Strategy:
    """Let a random few of the clients train on their own rows for some epochs, and average their models: FedAvg.

    In each round the server draws max(1, round(C K)) of the K workers, the clients, and sends them w. Client k goes E
    times through its n_k rows, in another order each time, B at a time (the last of an epoch may be fewer):
    w_k <- w_k - eta * g(w_k). It sends w_k - w, coded, and w <- w + sum_k (n_k / n) (w_k - w), with n the rows of those
    whose updates are used. B is the scenario's batch_size; how many rows each client has is up to the data's partition.

    A round is a step of the server's; those that are drawn get m bytes of parameters each, and send one coded update:
    2 C K m bytes per round with codec `identity`. The others do nothing. C = 1, E = 1 and `full_batch` is gradient
    descent on all rows. The server's rows count the `clients` whose updates were used, and all updates `dropped` so
    far; a client has a row for each update that it has sent, whose `version` is the round. Updates are never stale.
    Source: McMahan, Moore, Ramage, Hampson and Aguera y Arcas, "Communication-Efficient Learning of Deep Networks from
    Decentralized Data", AISTATS 2017, arXiv 1602.05629, algorithm 1; quorum and timeout after Bonawitz et al., "Towards
    Federated Learning at Scale", MLSys 2019, arXiv 1902.01046.

    Note:
        A client keeps nothing from one round to the next but its codec's memory: the optimizer's begins anew, and
        schedules count rounds. The scenario's `epochs` count one round as batch_size rows per worker: use `max_steps`.

    Args:
        client_fraction: which share of the clients takes part in a round, C.
        local_epochs: how often each of them goes through its rows, E.
        on_peer_loss: `fail`, a client that is lost ends the run; `drop`, those that are there are drawn from, nobody
            waits for one that is lost meanwhile, and one that has come back may be drawn again; at the end each client
            takes its leave, with a small message more.
        full_batch: it takes all its rows at once, B infinite, whatever batch_size is.
        timeout: after so long from its beginning a round ends as soon as there is a quorum; updates that come later are
            dropped, and a client that is drawn again gives up what it still computes. Null to wait for all.
        quorum: which share of those drawn makes a round; one that has lost more than the others changes nothing. Only,
            and always, with `timeout` or on_peer_loss `drop`.
    """
    _check_settings(on_peer_loss, timeout, quorum)
    tolerated = (PeerLost,) if on_peer_loss == "drop" else ()
    rounds = Rounds(client_fraction, local_epochs, full_batch, quorum or 1.0, timeout, tolerated)

    async def worker(node: Node, task: Task) -> None:
        with contextlib.suppress(*tolerated):  # without the server there is nothing left to do
            await _Client(node, task, rounds).run()

    async def server(node: Node, task: Task) -> None:
        await RoundServer(node, task, rounds).run()

    return Strategy(worker, server=server, num_servers=1, is_lock_step=False, survives_loss=bool(tolerated))


def _check_settings(on_peer_loss: OnPeerLoss, timeout: float | None, quorum: float | None) -> None:
    """Raise `ValueError` if a setting is missing or would be ignored."""
    users = {"timeout": timeout is not None, "on_peer_loss": on_peer_loss == "drop"}
    user = next((name for name, is_used in users.items() if is_used), None)
    if user is not None and quorum is None:
        raise ValueError(f"{user}: needs quorum, which share of the clients that are drawn is enough")
    if quorum is not None and user is None:
        raise ValueError(f"quorum: only with timeout or on_peer_loss 'drop'; got {quorum}")
    if timeout is not None and quorum == 1:
        raise ValueError("quorum: expected less than 1 with timeout, which would change nothing otherwise; got 1.0")


class _Client:
    """The program of a worker.

    Args:
        node: its node.
        task: what is trained.
        rounds: what a round is.
    """

    def __init__(self, node: Node, task: Task, rounds: Rounds) -> None:
        self._node, self._task, self._rounds = node, task, rounds
        [self._server] = node.servers
        self._shard = task.blocks(node.world_size).shard(node.rank)
        rows = split_rows(task.global_rows, node.world_size)[node.rank]
        self._batch = len(self._shard) if rounds.is_full_batch else rows
        self._counts = itertools.count(1)
        self._is_sending = False

    async def run(self) -> None:
        """Train whenever the server calls, until it says that the run is over."""
        node = self._node
        self._fresh = await node.compute(self._task.init, 0, None)
        self._encoder = await node.compute(self._task.init_codec, self._fresh.params)
        if self._rounds.tolerated:
            await node.send(self._server, None, tag=PUSH)
        job: Job | None = None
        while True:
            params, number = (await node.recv(self._server, tag=MODEL)).payload
            if job is not None:
                await self._end(job)
            if params is None:
                if self._rounds.has_farewells:
                    await node.send(self._server, FAREWELL, tag=PUSH)
                return
            job = node.spawn(self._take_part(params, number))

    async def _end(self, job: Job) -> None:
        """Give up what is being computed; wait for what is being sent."""
        if self._is_sending:
            await job.wait()
        else:
            job.cancel()

    async def _take_part(self, params: Any, number: int) -> None:
        """Train from some parameters, and send how far that has led."""
        node, task = self._node, self._task
        self._is_sending = False
        state, loss = await self._train(params, number)
        self._is_sending = True
        change = await node.compute(PART, state.params, params, 1.0)
        payload, self._encoder = await node.compute(task.encode, change, self._encoder, node.rank, number)
        with contextlib.suppress(*self._rounds.tolerated):  # whoever waits for the server's call is told of it, too
            await node.send(self._server, (number, payload), tag=PUSH)
        node.record(loss=loss, version=number)
        node.end_step(next(self._counts))

    async def _train(self, params: Any, number: int) -> tuple[TrainState, Any]:
        """Return the state after all local steps, and the mean loss in them."""
        node, task = self._node, self._task
        state, loss = self._fresh._replace(params=params), 0.0
        num_rows = len(self._shard) * self._rounds.local_epochs
        for ids in self._batches(number):
            losses, gradients = await node.compute(task.gradients, [state.params], [ids])
            if task.optimizer.schedule is not None:
                state = state._replace(step=number - 1)  # schedules count rounds
            state = await node.compute(task.apply, state, gradients[0])
            loss = await node.compute(ADD_LOSS, loss, losses[0], len(ids) / num_rows)
        return state, loss

    def _batches(self, number: int) -> Iterator[np.ndarray]:
        """Return the rows of each local step of a round."""
        epochs = self._rounds.local_epochs
        for epoch in range((number - 1) * epochs, number * epochs):
            order = rng.stream(self._task.seed, "local epoch", self._node.rank, epoch).permutation(self._shard)
            for start in range(0, len(order), self._batch):
                yield order[start : start + self._batch]


ADD_LOSS: Final = Kernel("add_loss", lazy_jit(lambda total, loss, share: total + share * loss))
