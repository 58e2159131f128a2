"""The server of `fedavg`: it calls clients, averages what they have learnt, and tells them when the run is over."""

from __future__ import annotations

import contextlib
import itertools
import math
from dataclasses import dataclass
from typing import Any, Final

from psgdsim import rng
from psgdsim.errors import PeerLost, RecvTimeout
from psgdsim.node import Message, Node
from psgdsim.strategies.local_sgd import MOVE
from psgdsim.strategies.server_base import FAREWELL
from psgdsim.task import Task

MODEL: Final = "model"
"""The tag of the server's calls: the parameters (None to end) and the round."""

PUSH: Final = "push"
"""The tag of the answers: the round and a coded change, None from a client that begins, or at last a farewell."""


@dataclass(frozen=True)
class Rounds:
    """What a round is.

    Args:
        client_fraction: which share of the clients takes part.
        local_epochs: how often each of them goes through its rows.
        is_full_batch: whether it takes all of them at once.
        quorum: which share of those that take part is enough.
        timeout: after which time [s] it is enough; None if only where no more can come.
        tolerated: the errors that do not end the run.
    """

    client_fraction: float
    local_epochs: int
    is_full_batch: bool
    quorum: float
    timeout: float | None
    tolerated: tuple[type[PeerLost], ...]

    @property
    def has_farewells(self) -> bool:
        """Whether clients take leave: an update may come after its round, or a client come back after the last."""
        return self.timeout is not None or bool(self.tolerated)


class RoundServer:
    """The program of the server.

    Args:
        node: its node.
        task: what is trained.
        rounds: what a round is.
    """

    def __init__(self, node: Node, task: Task, rounds: Rounds) -> None:
        self._node, self._task, self._rounds = node, task, rounds
        blocks = task.blocks(node.world_size)
        self._rows = [len(blocks.shard(client)) for client in range(node.world_size)]
        self._gone: set[int] = set()
        self._lost: PeerLost | None = None
        self._dropped = 0

    async def run(self) -> None:
        """Average as long as the run goes on, then tell the clients."""
        node, task = self._node, self._task
        params = (await node.compute(task.init, 0, None)).params
        self._fresh = await node.compute(task.init_codec, params)
        self._decoders = dict.fromkeys(range(node.world_size), self._fresh)
        for number in itertools.count(1):
            drawn = self._draw(number)
            for client in drawn:
                node.spawn(self._call(client, params, number))
            needed = math.ceil(self._rounds.quorum * len(drawn))
            updates = await self._collect(set(drawn), needed, params, number)
            if len(updates) >= needed:
                params = await self._average(params, updates)
            node.record(clients=len(updates) if len(updates) >= needed else 0, dropped=self._dropped)
            if not await node.checkpoint(number, [params]):
                break
        await self._dismiss(number + 1)

    async def _dismiss(self, number: int) -> None:
        """Tell all clients to end; where something may come late, read until they have taken leave."""
        left = set(self._present())
        await self._node.gather(*[self._call(client, None, number) for client in sorted(left)])
        while self._rounds.has_farewells and left - self._gone:
            message = await self._receive(None)
            if message is not None and message.payload is None:  # it has crashed and come back
                left.add(message.src)
                self._node.spawn(self._call(message.src, None, number))
            elif message is not None and message.payload == FAREWELL:
                left.discard(message.src)

    def _present(self) -> list[int]:
        """Return the clients that are not known to be lost."""
        return [client for client in range(self._node.world_size) if client not in self._gone]

    def _draw(self, number: int) -> list[int]:
        """Return the clients of a round, ascending."""
        present = self._present()
        if not present and self._lost is not None:
            raise self._lost
        num = max(1, round(self._rounds.client_fraction * self._node.world_size))
        generator = rng.stream(self._task.seed, "clients", number)
        drawn = generator.choice(present, min(num, len(present)), replace=False)
        return sorted(int(client) for client in drawn)

    async def _call(self, client: int, params: Any, number: int) -> None:
        with contextlib.suppress(*self._rounds.tolerated):  # whoever receives is told of it, too
            await self._node.send(client, (params, number), tag=MODEL)

    async def _collect(self, awaited: set[int], needed: int, like: Any, number: int) -> dict[int, Any]:
        """Return the updates of a round by client; `awaited` are those that have not answered."""
        node, timeout = self._node, self._rounds.timeout
        deadline = math.inf if timeout is None else node.now + timeout
        updates: dict[int, Any] = {}
        while awaited and (node.now < deadline or len(updates) < needed):
            message = await self._receive(deadline - node.now if node.now < deadline < math.inf else None)
            if message is not None and message.payload is not None:
                version, update = message.payload[0], await self._decode(message, like)
                if version == number:
                    updates[message.src] = update
                    awaited.discard(message.src)
                else:
                    self._dropped += 1
            awaited -= self._gone
        return updates

    async def _receive(self, timeout: float | None) -> Message | None:
        """Return what comes next; None for the end of the time and for a client that has gone or come back."""
        try:
            message = await self._node.recv(tag=PUSH, timeout=timeout)
        except RecvTimeout:
            return None
        except self._rounds.tolerated as lost:
            self._gone.add(lost.peer)
            self._lost = lost
            return None
        if message.payload is None:
            self._gone.discard(message.src)
            self._decoders[message.src] = self._fresh
        return message

    async def _decode(self, message: Message, like: Any) -> Any:
        """Decode an update, also one that comes too late: its client's codec has counted it as sent."""
        decode = self._task.decode, message.payload[1], self._decoders[message.src], like
        update, self._decoders[message.src] = await self._node.compute(*decode)
        return update

    async def _average(self, params: Any, updates: dict[int, Any]) -> Any:
        clients = sorted(updates)
        rows = sum(self._rows[client] for client in clients)
        shares = [self._rows[client] / rows for client in clients]
        total = await self._node.compute(self._task.weighted_sum, shares, [updates[client] for client in clients])
        return await self._node.compute(MOVE, params, total)
