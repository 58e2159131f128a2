"""Make TCP connections: listen, connect, and authenticate both sides before anything else."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final

from psgdsim.errors import ProtocolError, PsgdsimError
from psgdsim.real import handshake
from psgdsim.real.connection import Connection, cancel
from psgdsim.real.handshake import Acceptor, Claim, Initiator

HANDSHAKE_TIMEOUT: Final = 5.0
"""How long an accepted connection may take to prove itself [s]."""

MAX_PENDING: Final = 64
"""Connections that have not proved themselves; one more and the oldest is dropped."""

_RETRY_INTERVAL = 0.1
_ATTEMPT_TIMEOUT = 2.0
"""How long to try one address of a host that has several [s]."""


def format_address(host: str, port: int) -> str:
    """Return `HOST:PORT`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


OnConnection = Callable[[Connection, Claim], Awaitable[None]]


class Listener:
    """A listening socket that hands on connections that have proved to know the secret.

    Args:
        host: the address to listen on.
        port: the port, 0 for any free one.
        log: told of refused connections.

    Raises:
        PsgdsimError: the address cannot be listened on.
    """

    def __init__(self, host: str, port: int, log: Callable[[str], None]) -> None:
        self._log = log
        self._tasks: set[asyncio.Task[None]] = set()
        self._pending: dict[asyncio.Task[None], None] = {}
        self._accepting: asyncio.Task[None] | None = None
        try:
            family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            self._sock = socket.create_server(address[:2], family=family, backlog=1024)
        except OSError as error:
            advice = "; choose another port, or 0 for any free one" if port else ""
            where = format_address(host, port)
            raise PsgdsimError(f"cannot listen on {where}: {error.strerror or error}{advice}") from None
        self._sock.setblocking(False)
        self.port = int(self._sock.getsockname()[1])

    def serve(self, secret: bytes, on_connection: OnConnection) -> None:
        """Begin to accept.

        Args:
            secret: what the other side must know.
            on_connection: given each authenticated connection and who it is; it owns the connection.
        """
        self._accepting = asyncio.create_task(self._accept(secret, on_connection))

    async def _accept(self, secret: bytes, on_connection: OnConnection) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(self._sock)
            except OSError as error:  # too many open files, say: it may pass
                self._log(f"cannot accept a connection: {error.strerror or error}")
                await asyncio.sleep(_RETRY_INTERVAL)
                continue
            sock.setblocking(False)
            if len(self._pending) >= MAX_PENDING:
                oldest = next(iter(self._pending))
                del self._pending[oldest]
                oldest.cancel()
            task = asyncio.create_task(self._admit(sock, secret, on_connection))
            self._pending[task] = None
            self._tasks.add(task)
            task.add_done_callback(self._forget)
            await asyncio.sleep(0)  # let it begin: a task that never began would not close its socket

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._pending.pop(task, None)
        self._tasks.discard(task)

    async def _admit(self, sock: socket.socket, secret: bytes, on_connection: OnConnection) -> None:
        connection = Connection(sock)
        claim, reason = None, "it said nothing of what was expected in time"
        where = "a connection"
        try:
            where = format_address(*connection.remote)
            async with asyncio.timeout(HANDSHAKE_TIMEOUT):
                claim, reason = await _accept_handshake(connection, secret)
        except (TimeoutError, OSError) as error:
            reason = str(error) or reason
        finally:
            if claim is None:
                await connection.close()
        task = asyncio.current_task()
        if task is not None:
            self._pending.pop(task, None)
        if claim is None:
            self._log(f"refused {where}: {reason}")
        else:
            await on_connection(connection, claim)

    async def close(self) -> None:
        """Stop listening and drop whoever has not proved itself."""
        await cancel(*self._tasks, *([self._accepting] if self._accepting else []))
        self._sock.close()


async def _accept_handshake(connection: Connection, secret: bytes) -> tuple[Claim | None, str]:
    acceptor = Acceptor(secret)
    await connection.write([acceptor.greeting], "control")
    claim, verdict, reason = acceptor.check(bytes(await connection.read(handshake.CLAIM_NBYTES)))
    await connection.write([verdict], "control")
    return claim, reason


async def connect(host: str, port: int, secret: bytes, claim: Claim, *, patience: float = 10.0) -> Connection:
    """Connect and prove to know the secret.

    Args:
        host: where to.
        port: where to.
        secret: what both sides must know.
        claim: who this side is.
        patience: how long to try while nobody listens there yet, and to wait for the answer [s].

    Raises:
        ProtocolError: the other side refused, or is not who it should be; the message says what to do.
    """
    where = format_address(host, port)
    try:
        async with asyncio.timeout(patience):
            connection = Connection(await _connect_socket(host, port))
    except (TimeoutError, OSError) as error:
        reason = getattr(error, "strerror", None) or "nobody listens there"
        raise ProtocolError(f"cannot connect to {where}: {reason}") from None
    try:
        async with asyncio.timeout(max(patience, 2 * HANDSHAKE_TIMEOUT)):
            initiator = Initiator(secret, claim)
            answer = initiator.answer(bytes(await connection.read(handshake.GREETING_NBYTES)))
            await connection.write([answer], "control")
            initiator.finish(bytes(await connection.read(handshake.VERDICT_NBYTES)))
    except (TimeoutError, OSError, ProtocolError) as error:
        await connection.close()
        raise ProtocolError(f"{where}: {str(error) or 'no answer'}") from None
    return connection


async def _connect_socket(host: str, port: int) -> socket.socket:
    """Connect to the first address of a host that answers; as long as one may answer later, try again."""
    loop = asyncio.get_running_loop()
    while True:
        errors: list[OSError] = []
        places = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for family, kind, proto, _, address in places:
            try:
                async with asyncio.timeout(_ATTEMPT_TIMEOUT if len(places) > 1 else None):
                    return await _try_address(socket.socket(family, kind, proto), address)
            except OSError as error:
                errors.append(error)
        if not any(isinstance(error, ConnectionRefusedError | TimeoutError) for error in errors):
            raise errors[0]
        await asyncio.sleep(_RETRY_INTERVAL)


async def _try_address(sock: socket.socket, address: Any) -> socket.socket:
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock
