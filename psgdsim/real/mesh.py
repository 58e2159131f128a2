"""The data plane of one rank: a connection to every other rank, and one to the relay if there is one."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Sequence
from typing import Any, Final, Protocol

from psgdsim import wire
from psgdsim.errors import ProtocolError
from psgdsim.real.connection import Account, Connection, ConnectionEnded, Parts, Write, cancel
from psgdsim.real.control import Address
from psgdsim.real.handshake import Claim, Role
from psgdsim.real.transport import Listener, connect, format_address

REHEARSAL, TRAINING = 0, 1
"""Phases of frames."""

ACCOUNTS: tuple[Account, Account] = ("rehearsal", "data")
"""What the frames of each phase are counted as."""

MAX_GROUPS: Final = 1024
"""Multicast groups of one rank that the relay knows at the same time."""

_IN_THREAD_NBYTES = 2**20
"""Larger frames are checked in a thread, so that the loop stays free."""


def mesh_secret(token: bytes, run_id: str) -> bytes:
    """Return the key that authenticates the connections of one run's workers and relay to each other."""
    return hmac.digest(token, b"psgdsim mesh " + run_id.encode(), "sha256")


class Receiver(Protocol):
    """Who takes the frames of one phase."""

    def begin(self, header: wire.Header) -> None:
        """Note that a frame's body is arriving."""

    def end(self) -> None:
        """Note that a frame's body has arrived, or that it never will."""

    def deliver(self, header: wire.Header, payload: Any) -> None:
        """Take a frame."""

    def lose(self, peer: int, cause: str) -> None:
        """Note that a peer is gone."""


class Mesh:
    """A rank's connections for frames.

    Args:
        rank: whose they are.
        num_ranks: how many there are.
        max_frame: the largest frame to accept [byte].

    Attributes:
        lost: the ranks that are gone, and why.
    """

    def __init__(self, rank: int, num_ranks: int, max_frame: int) -> None:
        self.rank, self.num_ranks = rank, num_ranks
        self.lost: dict[int, str] = {}
        self._max_frame = max_frame
        self._peers: dict[int, Connection] = {}
        self._relay: Connection | None = None
        self._groups: dict[tuple[int, ...], int] = {}
        self._receivers: dict[int, Receiver] = {}
        self._readers: list[asyncio.Task[None]] = []
        self._is_reading = asyncio.Event()
        self._is_complete = asyncio.Event()
        self._set_complete_if_so()

    async def connect(self, listener: Listener, peers: Sequence[Address], relay: Address | None, secret: bytes) -> None:
        """Connect to all lower ranks and to the relay, and wait for all higher ranks.

        Args:
            listener: where the higher ranks come in.
            peers: the address of each rank.
            relay: the relay's address, or None.
            secret: what all of them know.

        Raises:
            ProtocolError: one cannot be reached; the message names it.
        """
        listener.serve(secret, self._admit)
        claim = Claim(Role.PEER, self.rank)
        lower = [self._connect(f"rank {peer}", peers[peer], secret, claim) for peer in range(self.rank)]
        upper = [self._connect("the relay", relay, secret, claim)] if relay is not None else []
        connections = await asyncio.gather(*lower, *upper)
        for peer in range(self.rank):
            self._add(peer, connections[peer])
        if relay is not None:
            self._relay = connections[-1]
            self._readers.append(asyncio.create_task(self._read(None, self._relay)))
        await self._is_complete.wait()

    async def _connect(self, name: str, address: Address, secret: bytes, claim: Claim) -> Connection:
        try:
            return await connect(*address, secret, claim)
        except ProtocolError as error:
            raise ProtocolError(f"{name} at {format_address(*address)}: {error}") from None

    async def _admit(self, connection: Connection, claim: Claim) -> None:
        if claim.role != Role.PEER or not self.rank < claim.rank < self.num_ranks or claim.rank in self._peers:
            await connection.close()
        else:
            self._add(claim.rank, connection)

    def _add(self, peer: int, connection: Connection) -> None:
        self._peers[peer] = connection
        self._readers.append(asyncio.create_task(self._read(peer, connection)))
        self._set_complete_if_so()

    def _set_complete_if_so(self) -> None:
        if len(self._peers) == self.num_ranks - 1:
            self._is_complete.set()

    def start_reading(self) -> None:
        """Begin to take frames; before, they wait in the sockets."""
        self._is_reading.set()

    def attach(self, phase: int, receiver: Receiver | None) -> None:
        """Give the frames of a phase to a receiver; None drops them, and those that are half here as well."""
        if receiver is None:
            self._receivers.pop(phase, None)
        else:
            self._receivers[phase] = receiver
            for peer, cause in self.lost.items():
                receiver.lose(peer, cause)

    def sent(self, account: Account) -> int:
        """Return what was given to all sockets under an account [byte]."""
        return sum(connection.sent[account] for connection in self._connections())

    def _connections(self) -> list[Connection]:
        return [*self._peers.values(), *([self._relay] if self._relay is not None else [])]

    def send(self, dst: int, frame: Parts, phase: int) -> Write:
        """Queue a frame for one rank, behind all that was queued for it before.

        Raises:
            ConnectionEnded: that rank is gone.
        """
        if dst in self.lost:
            raise ConnectionEnded(self.lost[dst])
        return self._peers[dst].start_write(frame, ACCOUNTS[phase])

    def group(self, dsts: Sequence[int]) -> int:
        """Return the number of a multicast group; the relay is told before whatever is queued next.

        When all numbers are taken, the group unused for longest loses its own: frames that are queued for it come
        before the announcement.

        Raises:
            ConnectionEnded: there is no relay.
        """
        key = tuple(dsts)
        number = self._groups.pop(key, 0)
        if not number:
            is_full = len(self._groups) == MAX_GROUPS
            number = self._groups.pop(next(iter(self._groups))) if is_full else len(self._groups) + 1
            frame = wire.pack_parts(list(key), src=self.rank, group=number, kind=wire.GROUP)
            self._to_relay().start_write(frame, "control")
        self._groups[key] = number
        return number

    def send_group(self, frame: Parts, phase: int) -> Write:
        """Queue a frame that names a group for the relay.

        Raises:
            ConnectionEnded: the relay is gone.
        """
        return self._to_relay().start_write(frame, ACCOUNTS[phase])

    def _to_relay(self) -> Connection:
        if self._relay is None:
            raise ConnectionEnded("this run has no relay")
        return self._relay

    async def _read(self, peer: int | None, connection: Connection) -> None:
        """Take frames from a connection until it ends; the relay's (`peer` None) may come from any rank."""
        await self._is_reading.wait()
        try:
            while True:
                header = wire.parse_header(await connection.read(wire.HEADER_NBYTES), self._max_frame)
                sources = range(self.num_ranks) if peer is None else (peer,)
                if header.kind != wire.MESSAGE or header.src not in sources:
                    raise ProtocolError(f"a frame of kind {header.kind} that says it is from rank {header.src}")
                await self._take(header, connection)
        except (ConnectionEnded, ProtocolError) as error:
            self._lose(peer, str(error))

    async def _take(self, header: wire.Header, connection: Connection) -> None:
        receiver = self._receivers.get(header.phase)
        if receiver is not None:
            receiver.begin(header)
        try:
            rest = await connection.read(header.rest_nbytes)
        finally:
            if receiver is not None and self._receivers.get(header.phase) is receiver:
                receiver.end()
        if header.nbytes > _IN_THREAD_NBYTES:
            payload = await asyncio.to_thread(wire.unpack, header, rest)
        else:
            payload = wire.unpack(header, rest)
        if receiver is not None and self._receivers.get(header.phase) is receiver:
            receiver.deliver(header, payload)

    def _lose(self, peer: int | None, cause: str) -> None:
        everyone = [rank for rank in range(self.num_ranks) if rank != self.rank]
        for rank in everyone if peer is None else [peer]:
            if rank in self.lost:
                continue
            self.lost[rank] = cause if peer is not None else f"the relay is gone: {cause}"
            for receiver in list(self._receivers.values()):
                receiver.lose(rank, self.lost[rank])

    def drop(self, peer: int, cause: str) -> None:
        """Take note that a peer is gone although its connection may still be there."""
        self._lose(peer, cause)
        self._peers[peer].abort()

    async def flush(self) -> None:
        """Wait until all that was sent is with the operating system."""
        for connection in self._connections():
            await connection.flush()

    async def close(self) -> None:
        """Close all connections."""
        self._receivers.clear()
        await cancel(*self._readers)
        for connection in self._connections():
            await connection.close()
