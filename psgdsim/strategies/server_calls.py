"""Servers that call their workers: a message may come while a worker computes, and says what became of its gradients.

Every message has the tag of the answer to the question for the model, and is `(params, version, outcomes, lead)`:
parameters, or None if the run is over; for each gradient of this worker's that the model has taken up since the last
message, the version that it made and how stale it was; and how many gradients more the worker has pushed than the
slowest one.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from psgdsim.errors import PeerLost
from psgdsim.node import Message, Node
from psgdsim.strategies.server_base import FAREWELL, QUESTION_TAG, Outcome, Push, Rule, Server
from psgdsim.task import Task


class CallingServer(Server):
    """What all servers that call their workers share."""

    def __init__(self, node: Node, task: Task, rule: Rule, tolerated: tuple[type[PeerLost], ...]) -> None:
        super().__init__(node, task, rule, tolerated)
        self._there: set[int] = set()  # who has asked for the model and has not been lost since
        self._outcomes: dict[int, list[Outcome]] = {}

    def _lead(self, _worker: int) -> int:
        """Return how many gradients more a worker has pushed than the slowest, where that matters."""
        return 0

    def _call(self, worker: int) -> None:
        """Send the model as it is now."""
        self._tell(worker, self._state.params)

    def _tell(self, worker: int, params: Any) -> None:
        call = params, self._version, self._outcomes.pop(worker, []), self._lead(worker)
        self._node.spawn(self._send(worker, QUESTION_TAG, call))

    def _welcome(self, worker: int) -> None:
        self._gone.discard(worker)
        self._decoders[worker] = self._fresh
        self._outcomes.pop(worker, None)
        self._there.add(worker)
        self._call(worker)

    def _lose(self, worker: int) -> None:
        super()._lose(worker)
        self._there.discard(worker)

    async def _dismiss(self) -> None:
        """Tell all workers to end, at once or when they ask for the model, and read what they send until they do."""
        left = set(range(self._node.world_size)) - self._gone
        sends = [self._node.spawn(self._end(worker)) for worker in sorted(self._there)]
        while left:
            message = await self._receive()
            if isinstance(message, PeerLost):
                left.discard(message.peer)
            elif message.payload is None:
                left.add(message.src)
                sends.append(self._node.spawn(self._end(message.src)))
            elif message.payload == FAREWELL:
                left.discard(message.src)
        for send in sends:
            await send.wait()

    async def _end(self, worker: int) -> None:
        await self._send(worker, QUESTION_TAG, (None, self._version, self._outcomes.pop(worker, []), 0))


class RestartingServer(CallingServer):
    """Update the model with the first gradients at its present version, then have all workers begin anew from it."""

    def __init__(self, node: Node, task: Task, rule: Rule, tolerated: tuple[type[PeerLost], ...]) -> None:
        super().__init__(node, task, rule, tolerated)
        self._dropped = 0

    async def _update(self, step: int) -> list[int]:
        """Call all workers, unless they are about to begin; update the model once."""
        if self._version:  # not after the last update: then they are told to end
            for worker in sorted(self._there):
                self._call(worker)
        pushes = await self._collect()
        await self._apply(pushes, step)
        for worker, count in Counter(push.worker for push in pushes).items():
            self._outcomes[worker] = [(self._version, 0)] * count
        self._node.record(dropped=self._dropped)
        return [0] * len(pushes)

    async def _collect(self) -> list[Push]:
        """Return the first gradients at the present version; those of before are decoded, for codecs with memory."""
        pushes: list[Push] = []
        while not self._is_complete(pushes):
            message = await self._receive_gradient()
            if message is None:
                continue
            push = await self._take(message)
            is_new = not self._rule.is_distinct or push.worker not in {each.worker for each in pushes}
            if push.version == self._version and is_new:
                pushes.append(push)
            else:
                self._dropped += 1
        return sorted(pushes, key=lambda push: push.worker)

    def _is_complete(self, pushes: list[Push]) -> bool:
        """Whether there are enough gradients, or all that there can be."""
        if self._rule.is_enough(len(pushes)) or self._rule.awaits_lost or not (pushes and self._rule.is_distinct):
            return self._rule.is_enough(len(pushes))
        return {push.worker for push in pushes} | self._gone >= set(range(self._node.world_size))


class BoundedServer(CallingServer):
    """Apply every gradient as it comes, and let no worker get too far ahead of the slowest.

    Args:
        bound: how many gradients more than the slowest a worker may have pushed when it begins the next one.
    """

    def __init__(
        self, node: Node, task: Task, rule: Rule, tolerated: tuple[type[PeerLost], ...], *, bound: int
    ) -> None:
        super().__init__(node, task, rule, tolerated)
        self._bound = bound
        self._clocks = dict.fromkeys(range(node.world_size), 0)
        self._asking: set[int] = set()

    async def _update(self, step: int) -> list[int]:
        """Apply one gradient, and answer all who may go on and want to read."""
        [push] = await self._collect()
        staleness = self._version - push.version
        await self._apply([push], step)
        self._outcomes.setdefault(push.worker, []).append((self._version, staleness))
        self._clocks[push.worker] += 1
        self._release()
        return [staleness]

    async def _take(self, message: Message) -> Push:
        """Decode a gradient; the message also says whether its worker waits for an answer."""
        if message.payload[2]:
            self._asking.add(message.src)
        return await super()._take(message)

    def _lead(self, worker: int) -> int:
        return self._clocks[worker] - min(self._clocks.values())

    def _release(self) -> None:
        for worker in sorted(self._asking):
            if self._lead(worker) <= self._bound:
                self._asking.discard(worker)
                self._call(worker)

    async def _dismiss(self) -> None:
        self._asking.clear()  # they are told to end, and nothing after that
        await super()._dismiss()

    def _lose(self, worker: int) -> None:
        """Wait no longer for a worker that is gone, unless the rule says so."""
        super()._lose(worker)
        self._asking.discard(worker)
        if self._rule.awaits_lost:
            return
        self._clocks.pop(worker, None)
        if self._clocks:
            self._release()

    def _welcome(self, worker: int) -> None:
        """Let a worker that has come back be as far as the slowest, or as far as it was if it was waited for."""
        if self._rule.awaits_lost:
            self._asking.discard(worker)
        elif worker in self._there or worker not in self._clocks:
            self._clocks.pop(worker, None)
            self._asking.discard(worker)
            self._clocks[worker] = min(self._clocks.values(), default=0)
        super()._welcome(worker)
