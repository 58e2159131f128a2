"""One TCP connection: bytes in and bytes out, counted at the socket."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Literal

Buffer = bytes | bytearray | memoryview

Account = Literal["data", "rehearsal", "control"]
"""What sent bytes are counted as: a program's messages, those of its rehearsal, or anything else."""

_COALESCE_NBYTES = 2**16
_CHUNK_NBYTES = 2**20


class ConnectionEnded(ConnectionError):
    """The other side has closed the connection, or is gone."""


def coalesce(parts: Iterable[Buffer]) -> Iterator[Buffer]:
    """Join neighbours while they are small; large ones pass uncopied."""
    small = bytearray()
    for part in parts:
        if len(part) > _COALESCE_NBYTES:
            if small:
                yield small
                small = bytearray()
            yield part
        elif len(small) + len(part) > _COALESCE_NBYTES:
            yield small
            small = bytearray(part)
        else:
            small += part
    if small:
        yield small


class Connection:
    """One authenticated TCP connection.

    Args:
        sock: a connected, non-blocking socket.

    Attributes:
        sent: bytes given to the socket, by account.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sent: Counter[Account] = Counter()
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._lock = asyncio.Lock()
        self._writes: set[asyncio.Task[None]] = set()
        self._is_closed = False
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def local_host(self) -> str:
        """This side's address."""
        return str(self._sock.getsockname()[0])

    @property
    def remote(self) -> tuple[str, int]:
        """The other side's host and port."""
        host, port = self._sock.getpeername()[:2]
        return str(host), int(port)

    async def read(self, count: int) -> bytearray:
        """Read exactly `count` bytes.

        Raises:
            ConnectionEnded: the connection ended before.
        """
        data = bytearray(count)
        view = memoryview(data)
        since_yield = 0
        while view:
            try:
                received = await self._loop.sock_recv_into(self._sock, view[:_CHUNK_NBYTES])
            except OSError as error:
                raise ConnectionEnded(error.strerror or str(error)) from None
            if received == 0:
                raise ConnectionEnded("its connection ended")
            view = view[received:]
            since_yield += received
            if since_yield >= _CHUNK_NBYTES:  # a fast sender must not keep the loop from everybody else
                since_yield = 0
                await asyncio.sleep(0)
        return data

    async def write(self, parts: Iterable[Buffer], account: Account) -> None:
        """Write all parts, one caller after the other; what has begun goes on even if its caller is cancelled.

        Raises:
            ConnectionEnded: the connection ended.
        """
        await self._lock.acquire()
        task = asyncio.create_task(self._write(parts, account))
        self._writes.add(task)
        task.add_done_callback(self._end_write)
        await asyncio.shield(task)

    async def _write(self, parts: Iterable[Buffer], account: Account) -> None:
        if self._is_closed:
            raise ConnectionEnded("its connection ended")
        for part in coalesce(parts):
            try:
                await self._loop.sock_sendall(self._sock, part)
            except OSError as error:
                raise ConnectionEnded(error.strerror or str(error)) from None
            self.sent[account] += len(part)

    def _end_write(self, task: asyncio.Task[None]) -> None:
        self._writes.discard(task)
        self._lock.release()
        if not task.cancelled():
            task.exception()  # whoever waited has it; a cancelled caller does not want it

    async def flush(self) -> None:
        """Wait until what has begun to be written is with the operating system."""
        if self._writes:
            await asyncio.wait(self._writes)

    async def close(self) -> None:
        """Close at once; writes under way are cut off."""
        self._is_closed = True
        await cancel(*self._writes)
        self._sock.close()


async def cancel(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
