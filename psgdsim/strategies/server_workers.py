"""The workers of `parameter_server`: one that waits for an answer to each gradient, and some that the server calls."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Coroutine, Sequence
from typing import Any

from psgdsim.codecs.base import Codec
from psgdsim.errors import PeerLost
from psgdsim.node import Job, Node
from psgdsim.strategies.server_base import FAREWELL, PUSH, QUESTION_TAG, Outcome, answer_tag
from psgdsim.strategies.server_downlink import Held, hold
from psgdsim.strategies.server_shards import Shards
from psgdsim.task import Task


async def work(node: Node, task: Task, downlink: Codec | None, *, is_led: bool) -> None:
    """Compute gradients, each at the parameters that the worker has with the servers' last answers."""
    blocks, shards, term = task.blocks(node.world_size), Shards(node), 0
    if is_led:
        [server] = node.servers
        await node.send(server, None, tag=PUSH)
        answer = (await node.recv(server, tag=QUESTION_TAG)).payload
        if answer is None:
            return
        params, version, term = answer
    else:
        params, version = (await node.compute(task.init, 0, None)).params, 0
    encoders, held = await _begin_codecs(node, task, downlink, await shards.cut(params))

    async def push(step: int) -> Any:  # whatever it holds is let go of when it returns
        losses, gradients = await node.compute(task.gradients, [params], [blocks.ids(step, node.rank)])
        payloads: list[Any] = []
        whole = gradients[0]
        if node.num_servers > 1 and not task.codec.is_identity:  # an update is left out whole, or not at all
            whole = await node.compute(task.uplink.guard, whole, node.rank, step)
        for place, part in enumerate(await shards.cut(whole)):
            key = shards.stream(node.rank, place)
            payload, encoders[place] = await node.compute(task.encode, part, encoders[place], key, step)
            payloads.append(payload)
        ends = zip(node.servers, payloads, strict=True)
        await node.gather(*(node.send(server, (version, payload, term), tag=PUSH) for server, payload in ends))
        return losses[0]

    for step in itertools.count(1):
        loss = await push(step)
        answers = [(await node.recv(server, tag=answer_tag(version, term))).payload for server in node.servers]
        if answers[0] is None:
            return
        _, made, staleness = answers[0]
        node.record(loss=loss, staleness=staleness, version=version + staleness + 1)
        ends = zip(held, answers, strict=True)
        params, version = await shards.join([await end.take(part) for end, (part, _, _) in ends], params), made
        if is_led:
            node.end_step(step)
        elif not await node.checkpoint(step, [params]):
            return


async def _begin_codecs(
    node: Node, task: Task, downlink: Codec | None, parts: Sequence[Any]
) -> tuple[list[Any], list[Held]]:
    """Return the memories of a worker's ends of both directions, for the part of each server."""
    encoders = [await node.compute(task.init_codec, part) for part in parts]
    return encoders, [await hold(node, task, downlink, part) for part in parts]


class CalledWorker:
    """A worker that computes until the server calls, and then begins anew with the parameters it is sent.

    Its steps are those of its gradients that the model has taken up, and end when it is told so.

    Args:
        node: its node.
        task: what is trained.
        tolerated: the errors that do not end the run.
    """

    def __init__(self, node: Node, task: Task, tolerated: tuple[type[PeerLost], ...]) -> None:
        self._node, self._task, self._tolerated = node, task, tolerated
        [self._server] = node.servers
        self._blocks = task.blocks(node.world_size)
        self._draws = itertools.count(1)
        self._encoder: Any = None
        self._losses: list[Any] = []  # of gradients that were pushed, and of which nothing has been heard
        self._steps = itertools.count(1)

    async def run(self) -> None:
        """Ask for the model, and do what the server's calls say until the run is over."""
        await self._node.send(self._server, None, tag=PUSH)
        job: Job | None = None
        while True:
            params, version, outcomes, lead = (await self._node.recv(self._server, tag=QUESTION_TAG)).payload
            if job is not None:
                job.cancel()
            self._hear(outcomes)
            if params is None:
                await self._node.send(self._server, FAREWELL, tag=PUSH)
                return
            if self._encoder is None:
                self._encoder = await self._node.compute(self._task.init_codec, params)
            job = self._begin(params, version, lead)

    def _hear(self, outcomes: Sequence[Outcome]) -> None:
        """End a step for each gradient that was taken up; a call may be for the one this was before it crashed."""
        for loss, (made, staleness) in zip(self._losses, outcomes, strict=False):
            self._node.record(loss=loss, staleness=staleness, version=made)
            self._node.end_step(next(self._steps))
        del self._losses[: len(outcomes)]

    def _begin(self, params: Any, version: int, lead: int) -> Job:
        """Start to compute."""
        return self._node.spawn(self._guarded(self._compute(params, version, lead)))

    async def _guarded(self, coroutine: Coroutine[Any, Any, None]) -> None:
        with contextlib.suppress(*self._tolerated):  # whoever waits for the server's call is told of it, too
            await coroutine

    async def _compute(self, params: Any, version: int, lead: int) -> None:
        """Compute and push gradients until there is nothing to do but to wait for a call."""
        raise NotImplementedError

    async def _gradient(self, params: Any) -> tuple[Any, Any]:
        """Return the gradient on rows of its own, and what is to be sent of it."""
        draw = next(self._draws)
        ids = [self._blocks.ids(draw, self._node.rank)]
        losses, gradients = await self._node.compute(self._task.gradients, [params], ids)
        payload, encoder = await self._node.compute(
            self._task.encode, gradients[0], self._encoder, self._node.rank, draw
        )
        self._encoder = encoder  # from here to the send nothing waits: what the codec counts as sent, is
        self._losses.append(losses[0])
        return gradients[0], payload

    async def _push(self, version: int, payload: Any, *, is_asking: bool) -> None:
        """Send a gradient; a call does not stop that."""
        send = self._node.send(self._server, (version, payload, is_asking), tag=PUSH)
        await self._node.spawn(self._guarded(send)).wait()


class RestartedWorker(CalledWorker):
    """Compute gradients at the parameters of the last call, no more than the server can use.

    Args:
        node: its node.
        task: what is trained.
        tolerated: the errors that do not end the run.
        num: how many at most, each on other rows.
    """

    def __init__(self, node: Node, task: Task, tolerated: tuple[type[PeerLost], ...], *, num: int) -> None:
        super().__init__(node, task, tolerated)
        self._num = num

    def _begin(self, params: Any, version: int, lead: int) -> Job:
        self._losses.clear()  # what is still to be heard of came too late
        return super()._begin(params, version, lead)

    async def _compute(self, params: Any, version: int, _lead: int) -> None:
        for _ in range(self._num):
            _, payload = await self._gradient(params)
            await self._push(version, payload, is_asking=False)


class BoundedWorker(CalledWorker):
    """Compute gradients at a copy of the model, and ask for a new one when that may be too old.

    Args:
        node: its node.
        task: what is trained.
        tolerated: the errors that do not end the run.
        bound: how many gradients more than the slowest, by its copy, it may have pushed when it begins the next one;
            None if it asks after each of them.
    """

    def __init__(self, node: Node, task: Task, tolerated: tuple[type[PeerLost], ...], *, bound: int | None) -> None:
        super().__init__(node, task, tolerated)
        self._bound = bound
        self._state: Any = None

    async def _compute(self, params: Any, version: int, lead: int) -> None:
        while True:
            gradient, payload = await self._gradient(params)
            lead += 1
            is_asking = self._bound is None or lead > self._bound
            await self._push(version, payload, is_asking=is_asking)
            if is_asking:
                return
            params = await self._apply(params, gradient)
            version += 1  # what this worker has done itself, it has read

    async def _apply(self, params: Any, gradient: Any) -> Any:
        """Apply a gradient of its own to its copy, with a memory of the optimizer's of its own."""
        if self._state is None:
            self._state = await self._node.compute(self._task.init, 0, None)
        self._state = await self._node.compute(self._task.apply, self._state._replace(params=params), gradient)
        return self._state.params
