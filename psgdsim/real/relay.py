"""The relay process: stands for the network that copies a multicast.

A rank uploads one frame; the relay sends it to each member of the frame's group, whole and unchanged.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter, deque
from collections.abc import Callable
from typing import Final

from psgdsim import wire
from psgdsim._version import __version__
from psgdsim.errors import ProtocolError, PsgdsimError
from psgdsim.real import control, launch, parent
from psgdsim.real.channel import Channel
from psgdsim.real.connection import Connection, ConnectionEnded, cancel
from psgdsim.real.handshake import Claim, Role
from psgdsim.real.mesh import MAX_GROUPS, TRAINING, mesh_secret
from psgdsim.real.transport import Listener, connect

HEARTBEAT_TIMEOUT: Final = 10.0
OUTBOX_NBYTES: Final = 2**26
"""What may wait for one receiver before the senders to it have to wait [byte]; one frame always may."""

Frame = tuple[bytearray, bytearray]
"""A frame's header, and what follows it."""


class Outbox:
    """The frames that wait for one receiver, in order.

    Args:
        connection: to the receiver.
        on_copied: told of each frame once it is sent.
    """

    def __init__(self, connection: Connection, on_copied: Callable[[wire.Header], None]) -> None:
        self._connection, self._on_copied = connection, on_copied
        self._frames: deque[tuple[wire.Header, Frame]] = deque()
        self._nbytes = 0
        self._is_lost = False
        self._changed = asyncio.Condition()
        self._writer = asyncio.create_task(self._write())

    async def put(self, header: wire.Header, frame: Frame) -> None:
        """Add a frame, once there is room."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._is_lost or self._nbytes < OUTBOX_NBYTES)
            if not self._is_lost:
                self._frames.append((header, frame))
                self._nbytes += header.nbytes
                self._changed.notify_all()

    async def _write(self) -> None:
        while not self._is_lost:
            async with self._changed:
                await self._changed.wait_for(lambda: bool(self._frames))
                header, frame = self._frames[0]
            try:
                await self._connection.write(frame, "data")
                self._on_copied(header)
            except ConnectionEnded:
                self._is_lost = True  # the coordinator learns of it from the receiver's own channel
            async with self._changed:
                self._frames.popleft()
                self._nbytes -= header.nbytes
                self._changed.notify_all()

    def abort(self) -> None:
        """Let the receiver be lost although its connection may still be there."""
        self._connection.abort()

    async def flush(self) -> None:
        """Wait until nothing waits."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._is_lost or not self._frames)

    async def close(self) -> None:
        """Drop what waits and close the connection."""
        await cancel(self._writer)
        await self._connection.close()


class Relay:
    """Copy frames among the ranks of a run.

    Args:
        num_ranks: how many ranks there are.
        max_frame: the largest frame to accept [byte].
        on_failure: told what is wrong with a rank that sent what it must not.

    Attributes:
        is_complete: set when all ranks are connected.
    """

    def __init__(self, num_ranks: int, max_frame: int, on_failure: Callable[[str], None]) -> None:
        self.is_complete = asyncio.Event()
        self._num_ranks, self._max_frame, self._on_failure = num_ranks, max_frame, on_failure
        self._outboxes: dict[int, Outbox] = {}
        self._groups: dict[tuple[int, int], list[int]] = {}
        self._readers: set[asyncio.Task[None]] = set()
        self._copied: Counter[int] = Counter()

    async def admit(self, connection: Connection, claim: Claim) -> None:
        """Take a rank's connection."""
        is_expected = claim.role == Role.PEER and claim.rank < self._num_ranks
        if not is_expected or claim.rank in self._outboxes:
            await connection.close()
            return
        self._outboxes[claim.rank] = Outbox(connection, self._count)
        self._readers.add(asyncio.create_task(self._read(claim.rank, connection)))
        if len(self._outboxes) == self._num_ranks:
            self.is_complete.set()

    def _count(self, header: wire.Header) -> None:
        if header.phase == TRAINING:
            self._copied[header.src] += header.nbytes

    async def _read(self, rank: int, connection: Connection) -> None:
        await self.is_complete.wait()
        try:
            while True:
                head = await connection.read(wire.HEADER_NBYTES)
                header = wire.parse_header(head, self._max_frame)
                frame = head, await connection.read(header.rest_nbytes)
                if header.src != rank:
                    raise ProtocolError(f"sent a frame that says it is from rank {header.src}")
                await self._forward(header, frame)
        except ConnectionEnded:
            return  # the coordinator learns of it from the rank's own channel
        except ProtocolError as error:
            self._on_failure(f"rank {rank}: {error}")

    async def _forward(self, header: wire.Header, frame: Frame) -> None:
        place = header.src, header.group
        if header.kind == wire.GROUP:
            self._groups[place] = self._check_group(header, wire.unpack(header, frame[1]))
        elif place not in self._groups:
            raise ProtocolError(f"sent a frame to group {header.group}, which it never announced")
        else:
            for dst in self._groups[place]:
                await self._outboxes[dst].put(header, frame)

    def _check_group(self, header: wire.Header, members: object) -> list[int]:
        if not 0 < header.group <= MAX_GROUPS:
            raise ProtocolError(f"announced group number {header.group}; expected 1 to {MAX_GROUPS}")
        valid = set(range(self._num_ranks)) - {header.src}
        is_list = isinstance(members, list) and all(type(member) is int for member in members)
        if not is_list or not isinstance(members, list) or not set(members) <= valid:
            raise ProtocolError(f"announced the group {str(members)[:100]}; expected other ranks of this run")
        if len(set(members)) < len(members):
            raise ProtocolError(f"announced the group {str(members)[:100]}; expected each rank at most once")
        return members

    def drop(self, rank: int) -> None:
        """Send nothing more to a rank that is gone: nobody must wait for it to take what it will not."""
        self._outboxes[rank].abort()

    async def flush(self) -> dict[int, int]:
        """Send all that waits; return the bytes sent in copies, by the rank that had sent the original."""
        for outbox in self._outboxes.values():
            await outbox.flush()
        return dict(self._copied)

    async def close(self) -> None:
        """Close all connections."""
        await cancel(*self._readers)
        for outbox in self._outboxes.values():
            await outbox.close()


async def take_part(host: str, port: int, token: str) -> int:
    """Be the relay of a run until it ends; returns the process's exit code."""
    secret = token.encode()
    connection = await connect(host, port, secret, Claim(Role.RELAY))
    listener = Listener(connection.local_host, 0, _complain)
    channel = Channel(connection, HEARTBEAT_TIMEOUT)
    try:
        await channel.send(control.Hello(__version__, os.getpid(), listener.port))
        await _serve(channel, listener, secret)
    except ConnectionEnded as error:
        raise ProtocolError(f"lost the coordinator: {error}") from None
    finally:
        await listener.close()
        await channel.close()
    return 0


async def _serve(channel: Channel, listener: Listener, secret: bytes) -> None:
    relay: Relay | None = None
    tasks: set[asyncio.Task[None]] = set()

    def tell(message: control.Message) -> None:
        tasks.add(asyncio.create_task(channel.send(message)))

    async def tell_ready(relay: Relay) -> None:
        await relay.is_complete.wait()
        await channel.send(control.Ready())

    try:
        while not isinstance(message := await channel.receive(), control.Shutdown | control.Abort):
            if isinstance(message, control.Refused):
                raise ProtocolError(f"the coordinator refused this process: {message.reason}")
            if isinstance(message, control.Welcome):
                channel.timeout = message.heartbeat_timeout
                fail: Callable[[str], None] = lambda cause: tell(control.Failed("copying", cause))  # noqa: E731
                relay = Relay(message.num_ranks, message.max_frame, fail)
                listener.serve(mesh_secret(secret, message.run_id), relay.admit)
                tasks.add(asyncio.create_task(tell_ready(relay)))
            elif isinstance(message, control.Lost) and relay is not None:
                relay.drop(message.rank)
            elif isinstance(message, control.Collect) and relay is not None:
                tell(control.RelayReport(await relay.flush()))
    finally:
        await cancel(*tasks)
        if relay is not None:
            await relay.close()


def _complain(message: str) -> None:
    sys.stderr.write(f"{message}\n")


def main(host: str, port: int) -> int:
    """Run the relay process.

    Args:
        host: where the coordinator listens.
        port: where the coordinator listens.

    Returns:
        The process's exit code.
    """
    parent.end_with_parent()
    try:
        return asyncio.run(take_part(host, port, os.environ.get(launch.TOKEN_VARIABLE, "")))
    except PsgdsimError as error:
        _complain(f"psgdsim relay: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
