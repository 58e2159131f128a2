"""The server of `parameter_server`: it collects gradients, updates the model and answers those who sent them."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

from psgdsim.codecs.base import Codec
from psgdsim.data.order import split_rows
from psgdsim.errors import PeerLost
from psgdsim.node import Message, Node
from psgdsim.per_rank import ByRank
from psgdsim.strategies.delay_compensation import DelayCompensation
from psgdsim.strategies.server_downlink import Holdings
from psgdsim.task import Task

PUSH: Final = "push"
"""The tag of all that a worker sends: None to ask for the model; or the version of its parameters, a coded gradient,
and what it wants for it: the term, or whether it waits for an answer at all where the server calls.

A term is how often a worker has asked for the model so far; the server says so when it answers that. The answer to a
gradient is tagged with its term and version: a worker that has crashed and come back must not take an answer for its
own that was meant for the one it has been.
"""

FAREWELL: Final = ()
"""What a worker that the server calls pushes last, when it has been told to end."""

Outcome = tuple[int, int]
"""The version that a gradient has made, and how stale it was."""


QUESTION_TAG: Final = "pull"
"""The tag of the answer to the question for the model."""


def answer_tag(version: int, term: int) -> str:
    """Return the tag of the answer to a gradient computed at a version, in a term."""
    return f"{QUESTION_TAG} {version}, term {term}"


@dataclass(frozen=True)
class Rule:
    """When the server updates the model, with what, and how it answers.

    Args:
        num_gradients: how many gradients it waits for; None for those of all workers that are there.
        is_waiting: whether it goes on only when it has answered.
        is_distinct: whether each of the gradients must be another worker's; if not, workers are answered at once.
        is_discounted: whether a gradient that is tau > 1 updates old counts for 1 / tau.
        awaits_lost: whether it waits for a worker that is lost until it has come back, where it waits for it at all.
        compensation: how a stale gradient is corrected, or None if it is not.
        downlink: how answers are coded; None if they are the parameters as they are.
    """

    num_gradients: int | None = None
    is_waiting: bool = True
    is_distinct: bool = True
    is_discounted: bool = False
    awaits_lost: bool = False
    compensation: DelayCompensation | None = None
    downlink: Codec | None = None

    def is_enough(self, num: int) -> bool:
        """Whether so many gradients are as many as it waits for at most."""
        return self.num_gradients is not None and num >= self.num_gradients

    def num_updates(self, step: int, world_size: int) -> int:
        """Return how many updates a step has, so that all up to it use the rows of as many steps of all workers."""
        if self.num_gradients is None:
            return 1
        before, after = (-(-steps * world_size // self.num_gradients) for steps in (step - 1, step))
        return after - before


class Push(NamedTuple):
    """A gradient, the version of the parameters at which it was computed, and what its worker wants for it."""

    worker: int
    version: int
    gradient: Any
    wants: int

    @property
    def answer_tag(self) -> str:
        """The tag of the answer to it, where what is wanted is that of a term."""
        return answer_tag(self.version, self.wants)


class Server:
    """The program of the server.

    Args:
        node: its node.
        task: what is trained.
        rule: when it updates the model.
        tolerated: the errors that do not end the run.
    """

    def __init__(self, node: Node, task: Task, rule: Rule, tolerated: tuple[type[PeerLost], ...]) -> None:
        self._node, self._task, self._rule, self._tolerated = node, task, rule, tolerated
        self._rows = split_rows(task.global_rows, node.world_size)
        self._version = 0
        self._owing = set(range(node.world_size))  # who has had an answer and not pushed since
        self._gone: set[int] = set()
        self._due: set[int] = set()  # who has pushed and waits for the answer
        self._terms: Counter[int] = Counter()
        self._read: dict[int, Any] = {}  # these three only for delay compensation
        self._memories: dict[int, Any] = {}
        self._blank: Any = None
        self._holdings = None if rule.downlink is None else Holdings(node, task, rule.downlink)

    async def run(self, *, is_led: bool) -> None:
        """Update the model as long as the run goes on, then tell the workers if nobody else does."""
        self._state = await self._begin()
        self._fresh = await self._node.compute(self._task.init_codec, self._state.params)
        self._decoders = dict.fromkeys(range(self._node.world_size), self._fresh)
        if self._rule.compensation is not None:
            self._blank = await self._node.compute(self._rule.compensation.start, self._state.params)
        if self._holdings is not None:
            await self._holdings.begin(self._state.params)
        for step in itertools.count(1):
            staleness: list[int] = []
            for _ in range(self._rule.num_updates(step, self._node.world_size)):
                staleness += await self._update(step)
            if not self._rule.is_waiting:
                self._node.record(staleness=sum(staleness) / len(staleness))
            self._node.record(version=self._version)
            # Where workers lead as well, the model that counts is the one that they have.
            if not await self._node.checkpoint(step, [self._state.params if is_led else self._params_of(0)]):
                break
        if is_led:
            await self._dismiss()

    async def _begin(self) -> Any:
        """Return the state in which the model begins."""
        return await self._node.compute(self._task.init, 0, None)

    async def _update(self, step: int) -> list[int]:
        """Update the model once; return how stale the gradients were."""
        pushes = await self._collect()
        staleness = [self._version - push.version for push in pushes]
        await self._apply(pushes, step)
        # Unless all must be distinct, everybody but the last has been answered.
        due = [push for push in pushes[0 if self._rule.is_distinct else -1 :] if push.worker in self._due]
        contents = [await self._content(push.worker) for push in due]
        answers = [
            self._answer(push.worker, push.answer_tag, content, self._version - 1 - push.version)
            for push, content in zip(due, contents, strict=True)
        ]
        if self._rule.awaits_lost:
            self._owing |= self._gone
        if self._rule.is_waiting:
            await self._node.gather(*answers)
        else:
            for answer in answers:
                self._node.spawn(answer)
        return staleness

    async def _dismiss(self) -> None:
        """Tell each worker to end when it has pushed once more."""
        while self._owing - self._gone:
            message = await self._receive()
            if isinstance(message, Message):
                self._owing.discard(message.src)
                tag = QUESTION_TAG if message.payload is None else answer_tag(*message.payload[::2])
                await self._send(message.src, tag, None)

    # --- gradients ------------------------------------------------------------------------------------------------

    async def _collect(self) -> list[Push]:
        """Return the gradients for one update, in the order of the workers, or as they came if any will do."""
        pushes: dict[int, Push] = {}
        while not pushes or (self._owing and not self._rule.is_enough(len(pushes))):
            message = await self._receive_gradient()
            if message is None:
                continue
            if self._rule.is_distinct:
                pushes[message.src] = await self._take(message)
            else:
                push = pushes[len(pushes)] = await self._take(message)
                if not self._rule.is_enough(len(pushes)):
                    content = await self._content(push.worker)
                    self._node.spawn(self._answer(push.worker, push.answer_tag, content, self._version - push.version))
        return [pushes[place] for place in sorted(pushes)]

    async def _take(self, message: Message) -> Push:
        """Decode a gradient, and correct it if it is stale."""
        worker, (version, payload, wants) = message.src, message.payload
        self._owing.discard(worker)
        self._due.add(worker)
        decoder, like = self._decoders[worker], self._state.params
        gradient, self._decoders[worker] = await self._node.compute(self._task.decode, payload, decoder, like)
        rule = self._rule.compensation
        if rule is not None:
            gradient, self._memories[worker] = await self._node.compute(
                rule.compensate, gradient, like, self._read[worker], self._memories[worker]
            )
        return Push(worker, version, gradient, wants)

    async def _apply(self, pushes: Sequence[Push], step: int) -> None:
        """Apply the mean of gradients."""
        gradient = pushes[0].gradient
        if len(pushes) > 1 or self._rule.is_discounted:
            rows = sum(self._rows[push.worker] for push in pushes)
            shares = [self._rows[push.worker] / rows for push in pushes]
            if self._rule.is_discounted:
                ages = [max(1, self._version - push.version) for push in pushes]
                shares = [share / age for share, age in zip(shares, ages, strict=True)]
            gradient = await self._node.compute(self._task.weighted_sum, shares, [push.gradient for push in pushes])
        await self._step(gradient, step)

    async def _step(self, gradient: Any, step: int) -> None:
        """Apply a gradient."""
        state = self._state
        if self._task.optimizer.schedule is not None:
            state = state._replace(step=step - 1)  # schedules count steps, of which each may be many updates
        self._state = await self._node.compute(self._task.apply, state, gradient)
        self._version += 1

    # --- answers --------------------------------------------------------------------------------------------------

    async def _content(self, worker: int) -> Any:
        """Return what the answer to a gradient says of the model as it is now."""
        if self._holdings is None:
            return self._state.params
        return await self._holdings.encode(worker, self._state.params, self._version)

    def _params_of(self, worker: int) -> Any:
        """Return the parameters that a worker has with the answer that it is given now."""
        return self._state.params if self._holdings is None else self._holdings.params_of(worker)

    def _answer(self, worker: int, tag: str, content: Any, number: int) -> Coroutine[Any, Any, None]:
        """Return what sends the model, as it is now, to a worker, and how stale its gradient was or its term."""
        self._owing.add(worker)
        self._due.discard(worker)
        if self._rule.compensation is not None:
            self._read[worker] = self._params_of(worker)
        return self._send(worker, tag, (content, self._version, number))

    def _send(self, worker: int, tag: str, answer: Any) -> Coroutine[Any, Any, None]:
        send = self._node.send(worker, answer, tag=tag)
        return self._guarded(send) if self._tolerated else send

    async def _guarded(self, send: Coroutine[Any, Any, None]) -> None:
        with contextlib.suppress(*self._tolerated):  # whoever receives is told of it, too
            await send

    # --- workers come and go --------------------------------------------------------------------------------------

    async def _receive_gradient(self) -> Message | None:
        """Return the gradient that comes next; None if first a worker begins, or is lost and others are left."""
        message = await self._receive()
        if isinstance(message, PeerLost):
            if len(self._gone) == self._node.world_size:
                raise message
            return None
        if message.payload is None:
            self._welcome(message.src)
            return None
        return message

    async def _receive(self) -> Message | PeerLost:
        """Return what comes next: a message, or the loss of a worker without which the run goes on."""
        try:
            return await self._node.recv(tag=PUSH)
        except self._tolerated as lost:
            self._lose(lost.peer)
            return lost

    def _lose(self, worker: int) -> None:
        """Go on without a worker, or until it is missing."""
        self._gone.add(worker)
        self._due.discard(worker)
        if not self._rule.awaits_lost:
            self._owing.discard(worker)

    def _welcome(self, worker: int) -> None:
        """Answer a worker that begins, whether or not it was there before."""
        self._gone.discard(worker)
        self._decoders[worker] = self._fresh
        self._memories[worker] = self._blank
        self._terms[worker] += 1
        if self._holdings is not None:
            self._holdings.hand_over(worker, self._state.params, self._version)
        self._node.spawn(self._answer(worker, QUESTION_TAG, self._state.params, self._terms[worker]))


class SynchronousServer(Server):
    """A server that waits for all workers in every step, and cannot go on without one."""

    async def _update(self, step: int) -> list[int]:
        """Update the model once; return how stale the gradients were: not at all."""
        node, task, params = self._node, self._task, self._state.params
        workers = range(node.world_size)

        async def take(message: Message) -> Any:
            _, payload, _ = message.payload
            decoder = self._kept[message.src]
            gradient, self._kept[message.src] = await node.compute(task.decode, payload, decoder, params)
            return gradient

        gradients = await node.recv_each(workers, take, tag=PUSH)
        all_rows = sum(self._rows)
        shares = [rows / all_rows for rows in self._rows]
        is_alone = len(shares) == 1  # as in `_apply`: one gradient is its own mean
        total = gradients[0] if is_alone else await node.compute(task.weighted_sum, shares, gradients)
        await self._step(total, step)
        content = await self._content(0)  # all have had the same answers
        await node.send_each(workers, (content, self._version, 0), tag=answer_tag(self._version - 1, 0))
        return [0]

    @cached_property
    def _kept(self) -> ByRank:
        """The codec's memory for each worker."""
        return ByRank(range(self._node.world_size), self._fresh)
