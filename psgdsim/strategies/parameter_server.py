"""A server keeps the model; workers push gradients to it and pull parameters from it, in lock step or as they come."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from psgdsim.data.order import split_rows
from psgdsim.errors import PeerLost
from psgdsim.node import Message, Node
from psgdsim.strategies.base import Strategy, register_strategy
from psgdsim.task import Task

Sync = Literal["bsp", "async"]
OnPeerLoss = Literal["fail", "drop"]

PUSH: Final = "push"
"""The tag of all that a worker sends: the version of its parameters and a coded gradient, or None to ask for the model.

The answer to a gradient is tagged with that version: a worker that has crashed and come back must not take an answer
for its own that was meant for the one it has been.
"""


@register_strategy("parameter_server")
def parameter_server(sync: Sync = "bsp", on_peer_loss: OnPeerLoss = "fail") -> Strategy:
    """Keep the model on a server, to which all workers push gradients and from which they pull parameters.

    bsp: in each step the server waits for all, w <- w - eta * sum_i (rows_i / rows) g_i(w), and answers all of them.
    Per step and worker, one coded gradient goes up and m bytes of parameters come down; with the codec `identity`
    2 N m in all. The parameters are those of `all_reduce`, and those of plain SGD with one worker.
    Source: Li et al., OSDI 2014; Zinkevich et al., NIPS 2010.

    async: the server applies each gradient as it comes, w <- w - eta * g_i(w_read), and answers its worker alone, which
    goes on at once. The bytes per gradient are the same, and each worker pulls the first parameters. The staleness of a
    gradient, `tau`, is how many updates the server has made since its worker read w; its mean is N - 1 however fast
    each worker is. A step is N updates.
    Source: Dean et al., NIPS 2012 (Downpour SGD); Lian et al., NIPS 2015.

    The optimizer and its memory are on the server. `w` is sent as it is, in a message of its own to each worker.

    Args:
        sync: `bsp`, the server waits for a gradient of each worker; `async`, for none.
        on_peer_loss: `fail`, a worker that is lost ends the run; `drop`, the run goes on with those that are left, and
            with one that has come back as soon as it has asked for the model. With bsp the mean is then over the
            gradients that there are, and the server alone decides when to end, as with async: each worker pulls the
            first parameters, computes one gradient more, and is told to end when it pushes that.
    """
    is_led = sync == "async" or on_peer_loss == "drop"
    tolerated = (PeerLost,) if on_peer_loss == "drop" else ()

    async def worker(node: Node, task: Task) -> None:
        with contextlib.suppress(*tolerated):  # without the server there is nothing left to do
            await _work(node, task, is_led=is_led)

    async def server(node: Node, task: Task) -> None:
        rule = _Rule() if sync == "bsp" else _Rule(num_gradients=1, is_waiting=False)
        await _Server(node, task, rule, tolerated).run(is_led=is_led)

    return Strategy(worker, server=server, num_servers=1, is_lock_step=not is_led, survives_loss=bool(tolerated))


# --- the worker ---------------------------------------------------------------------------------------------------


async def _work(node: Node, task: Task, *, is_led: bool) -> None:
    """Compute gradients, each at the parameters of the server's last answer."""
    [server] = node.servers
    blocks = task.blocks(node.world_size)
    if is_led:
        await node.send(server, None, tag=PUSH)
        answer = (await node.recv(server, tag=_answer_tag(None))).payload
    else:
        answer = (await node.compute(task.init, 0, None)).params, 0, 0
    if answer is None:
        return
    params, version, _ = answer
    encoder = await node.compute(task.init_codec, params)
    for step in itertools.count(1):
        losses, gradients = await node.compute(task.gradients, [params], [blocks.ids(step, node.rank)])
        gradient, encoder = await node.compute(task.encode, gradients[0], encoder, node.rank, step)
        await node.send(server, (version, gradient), tag=PUSH)
        answer = (await node.recv(server, tag=_answer_tag(version))).payload
        if answer is None:
            return
        params, version, staleness = answer
        node.record(loss=losses[0], staleness=staleness, version=version)
        if is_led:
            node.end_step(step)
        elif not await node.checkpoint(step, [params]):
            return


def _answer_tag(version: int | None) -> str:
    return "pull" if version is None else f"pull {version}"


# --- the server ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Rule:
    """When the server updates the model.

    Args:
        num_gradients: how many gradients it waits for, each of another worker; None for those of all that are there.
        is_waiting: whether it goes on only when it has answered.
    """

    num_gradients: int | None = None
    is_waiting: bool = True

    def is_enough(self, num: int) -> bool:
        """Whether so many gradients are as many as it waits for at most."""
        return self.num_gradients is not None and num >= self.num_gradients

    def num_updates(self, world_size: int) -> int:
        """Return how many updates use as many rows as one step of all workers."""
        return 1 if self.num_gradients is None else world_size // self.num_gradients


class _Push(NamedTuple):
    """A gradient, and the version of the parameters at which it was computed."""

    worker: int
    version: int
    gradient: Any


class _Server:
    """The program of the server.

    Args:
        node: its node.
        task: what is trained.
        rule: when it updates the model.
        tolerated: the errors that do not end the run.
    """

    def __init__(self, node: Node, task: Task, rule: _Rule, tolerated: tuple[type[PeerLost], ...]) -> None:
        self._node, self._task, self._rule, self._tolerated = node, task, rule, tolerated
        self._rows = split_rows(task.global_rows, node.world_size)
        self._version = 0
        self._owing = set(range(node.world_size))  # who has had an answer and not pushed since
        self._gone: set[int] = set()

    async def run(self, *, is_led: bool) -> None:
        """Update the model as long as the run goes on, then tell the workers if nobody else does."""
        self._state = await self._node.compute(self._task.init, 0, None)
        self._fresh = await self._node.compute(self._task.init_codec, self._state.params)
        self._decoders = dict.fromkeys(range(self._node.world_size), self._fresh)
        for step in itertools.count(1):
            staleness: list[int] = []
            for _ in range(self._rule.num_updates(self._node.world_size)):
                pushes = await self._collect()
                staleness += [self._version - push.version for push in pushes]
                await self._update(pushes, step)
            if not self._rule.is_waiting:
                self._node.record(staleness=sum(staleness) / len(staleness))
            self._node.record(version=self._version)
            if not await self._node.checkpoint(step, [self._state.params]):
                break
        while is_led and self._owing:
            message = await self._receive()
            if isinstance(message, Message):
                self._owing.discard(message.src)
                await self._send(message.src, None if message.payload is None else message.payload[0], None)

    async def _collect(self) -> list[_Push]:
        """Return the gradients for one update, in the order of the workers."""
        pushes: dict[int, _Push] = {}
        while not pushes or (self._owing and not self._rule.is_enough(len(pushes))):
            message = await self._receive()
            if isinstance(message, PeerLost):
                if len(self._gone) == self._node.world_size:
                    raise message
            elif message.payload is None:
                self._welcome(message.src)
            else:
                pushes[message.src] = await self._decode(message)
        return [pushes[worker] for worker in sorted(pushes)]

    async def _decode(self, message: Message) -> _Push:
        worker, (version, payload) = message.src, message.payload
        self._owing.discard(worker)
        decoder, like = self._decoders[worker], self._state.params
        gradient, self._decoders[worker] = await self._node.compute(self._task.decode, payload, decoder, like)
        return _Push(worker, version, gradient)

    async def _update(self, pushes: list[_Push], step: int) -> None:
        """Apply the mean of gradients, and answer those who sent them."""
        gradient = pushes[0].gradient
        if len(pushes) > 1:
            rows = sum(self._rows[push.worker] for push in pushes)
            shares = [self._rows[push.worker] / rows for push in pushes]
            gradient = await self._node.compute(self._task.weighted_sum, shares, [push.gradient for push in pushes])
        state = self._state
        if self._task.optimizer.schedule is not None:
            state = state._replace(step=step - 1)  # schedules count steps, of which each may be many updates
        self._state = await self._node.compute(self._task.apply, state, gradient)
        before, self._version = self._version, self._version + 1
        there = [push for push in pushes if push.worker not in self._gone]
        answers = [self._answer(push.worker, push.version, before - push.version) for push in there]
        if self._rule.is_waiting:
            await self._node.gather(*answers)
        else:
            for answer in answers:
                self._node.spawn(answer)

    def _answer(self, worker: int, version: int | None, staleness: int) -> Coroutine[Any, Any, None]:
        """Return what sends the model, as it is now, to a worker that has sent a gradient or asked for the model."""
        self._owing.add(worker)
        return self._send(worker, version, (self._state.params, self._version, staleness))

    async def _send(self, worker: int, version: int | None, answer: Any) -> None:
        with contextlib.suppress(*self._tolerated):  # whoever receives is told of it, too
            await self._node.send(worker, answer, tag=_answer_tag(version))

    # --- workers come and go --------------------------------------------------------------------------------------

    async def _receive(self) -> Message | PeerLost:
        """Return what comes next: a message, or the loss of a worker without which the run goes on."""
        try:
            return await self._node.recv(tag=PUSH)
        except self._tolerated as lost:
            self._gone.add(lost.peer)
            self._owing.discard(lost.peer)
            return lost

    def _welcome(self, worker: int) -> None:
        """Answer a worker that begins, whether or not it was there before."""
        self._gone.discard(worker)
        self._decoders[worker] = self._fresh
        self._node.spawn(self._answer(worker, None, 0))
