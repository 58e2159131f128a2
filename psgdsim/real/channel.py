"""The control channel between the coordinator and one process: messages and signs of life, both ways."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from psgdsim.real import control
from psgdsim.real.connection import Connection, ConnectionEnded, cancel

HEARTBEAT_INTERVAL: Final = 0.25
_FLUSH_TIMEOUT = 1.0


class Channel:
    """Typed messages over a connection; silence is an error.

    Args:
        connection: authenticated; the channel owns it.
        timeout: how long the other side may be silent [s].

    Attributes:
        timeout: as above; may be changed.
        heartbeat: makes the signs of life, sent every `HEARTBEAT_INTERVAL` seconds.
    """

    def __init__(self, connection: Connection, timeout: float) -> None:
        self._connection = connection
        self.timeout = timeout
        self.heartbeat: Callable[[], control.Heartbeat] = control.Heartbeat
        self._beating = asyncio.create_task(self._beat())

    @property
    def remote(self) -> tuple[str, int]:
        """The other side's host and port."""
        return self._connection.remote

    @property
    def sent_nbytes(self) -> int:
        """What went out over this channel [byte]."""
        return self._connection.sent["control"]

    async def send(self, message: control.Message) -> None:
        """Send a message.

        Raises:
            ConnectionEnded: the other side is gone.
        """
        await self._connection.write([control.encode(message)], "control")

    async def receive(self) -> control.Message:
        """Return the next message, heartbeats included.

        Raises:
            ConnectionEnded: the other side is gone, or silent for too long.
            ProtocolError: it sent something else than messages.
        """
        try:
            async with asyncio.timeout(self.timeout):
                length = control.parse_length(await self._connection.read(control.LENGTH_NBYTES))
                return control.decode(await self._connection.read(length))
        except TimeoutError:
            raise ConnectionEnded(f"it gave no sign of life for {self.timeout:g} s") from None

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_INTERVAL)
            try:
                await self.send(self.heartbeat())
            except ConnectionEnded:
                return  # whoever receives learns of it

    async def close(self) -> None:
        """Close the connection, after what has begun to be sent."""
        await cancel(self._beating)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FLUSH_TIMEOUT):
                await self._connection.flush()
        await self._connection.close()
