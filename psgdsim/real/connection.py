"""One TCP connection: bytes in and bytes out, counted at the socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any, Literal

Buffer = bytes | bytearray | memoryview

Parts = Iterable[Buffer] | asyncio.Future[list[Buffer]]
"""What to write, or the promise of it."""

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


class Write:
    """Something that has its place in a connection's queue.

    Args:
        run: writes it when it is its turn.

    Attributes:
        task: carries that out.
        has_begun: whether it was its turn.
    """

    def __init__(self, run: Callable[[Write], Coroutine[Any, Any, None]]) -> None:
        self.has_begun = False
        self.task = asyncio.create_task(run(self))

    async def wait(self) -> None:
        """Wait until the network has taken it; if cancelled before it has begun, it never will.

        Raises:
            ConnectionEnded: the connection ended.
        """
        try:
            await asyncio.shield(self.task)
        except asyncio.CancelledError:
            if not self.has_begun:
                self.task.cancel()
            raise


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

    async def write(self, parts: Parts, account: Account) -> None:
        """Write all parts, one caller after the other; what has begun goes on even if its caller is cancelled.

        Raises:
            ConnectionEnded: the connection ended.
        """
        await self.start_write(parts, account).wait()

    def start_write(self, parts: Parts, account: Account) -> Write:
        """Queue all parts behind what was queued before; the place is taken when this returns.

        Args:
            parts: what to write; a future keeps the place of what is still being made.
            account: what to count it as.
        """
        write = Write(lambda write: self._write(parts, account, write))
        self._writes.add(write.task)
        write.task.add_done_callback(self._end_write)
        return write

    async def _write(self, parts: Parts, account: Account, write: Write) -> None:
        async with self._lock:  # tasks begin, and so come here, in the order in which they were made
            if isinstance(parts, asyncio.Future):
                ready: Iterable[Buffer] = await asyncio.shield(parts)  # it may be for several connections
            else:
                ready = parts
            if self._is_closed:
                raise ConnectionEnded("its connection ended")
            write.has_begun = True
            for part in coalesce(ready):
                try:
                    await self._loop.sock_sendall(self._sock, part)
                except OSError as error:
                    raise ConnectionEnded(error.strerror or str(error)) from None
                self.sent[account] += len(part)

    def _end_write(self, task: asyncio.Task[None]) -> None:
        self._writes.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited has it; a cancelled caller does not want it

    async def flush(self) -> None:
        """Wait until what is queued is with the operating system."""
        if self._writes:
            await asyncio.wait(self._writes)

    def abort(self) -> None:
        """Let all that is under way fail, as if the other side had ended the connection."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

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
