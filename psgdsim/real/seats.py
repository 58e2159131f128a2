"""The coordinator's side of the control channels: who takes part, and everything that happens, in one queue."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import msgspec

from psgdsim import wire
from psgdsim._version import __version__
from psgdsim.errors import ProtocolError, RankFailed
from psgdsim.real import control
from psgdsim.real.channel import Channel
from psgdsim.real.connection import ConnectionEnded
from psgdsim.real.control import Address
from psgdsim.real.handshake import Role
from psgdsim.real.launch import Child
from psgdsim.trace import RankReport

HELLO_TIMEOUT = 5.0
MAX_REPORT_NBYTES = 2**32


def name_of(rank: int, *, is_server: bool) -> str:
    """Return what messages call a rank."""
    return f"rank {rank} (server)" if is_server else f"rank {rank}"


@dataclass(eq=False)
class Seat:
    """A process that takes part.

    Args:
        role: what it is.
        rank: its rank, 0 for the relay.
        channel: to it.
        pid: its process id.
        address: where it listens for frames.
        is_server: whether it is a server.
        has_models: whether its models are the run's.

    Attributes:
        stage: how far it has come, for messages.
        progress: its last heartbeat.
        report: what it reported.
        models: the final models, if it has them.
        is_gone: whether its channel has ended.
        is_lost: whether it is gone and the run goes on.
    """

    role: Role
    rank: int
    channel: Channel
    pid: int
    address: Address
    is_server: bool = False
    has_models: bool = False
    stage: str = "start-up"
    progress: control.Heartbeat = field(default_factory=control.Heartbeat)
    report: RankReport | None = None
    models: list[Any] | None = None
    is_gone: bool = False
    is_lost: bool = False

    def __post_init__(self) -> None:
        self._parts: dict[str, bytearray] = {}

    @property
    def name(self) -> str:
        """What messages call it."""
        return "the relay" if self.role == Role.RELAY else name_of(self.rank, is_server=self.is_server)

    @property
    def where(self) -> str:
        """How far it has come."""
        return f"{self.stage}, after step {self.progress.step}" if self.progress.step else self.stage

    @property
    def is_reported(self) -> bool:
        """Whether it has nothing more to report."""
        return self.report is not None and (self.models is not None or not self.has_models)

    def take_part(self, part: control.Part) -> None:
        """Take a piece of its report.

        Raises:
            ProtocolError: too large, or not what it should be.
        """
        data = self._parts.setdefault(part.kind, bytearray())
        data += part.data
        if len(data) > MAX_REPORT_NBYTES:
            raise ProtocolError(f"a report of more than {MAX_REPORT_NBYTES} bytes")
        if not part.is_last:
            return
        del self._parts[part.kind]
        if part.kind == "models":
            self.models = wire.unpack_frame(data)[1]
            return
        try:
            self.report = msgspec.msgpack.decode(data, type=RankReport)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ProtocolError(f"its report: {error}") from None


@dataclass(frozen=True)
class Joined:
    """A process has said hello."""

    seat: Seat


@dataclass(frozen=True)
class Said:
    """A process has sent a message."""

    seat: Seat
    message: control.Message

    def unexpected(self) -> RankFailed:
        """Return the error that this message is when it is not its turn."""
        cause = f"it said {type(self.message).__name__} when that was not its turn"
        return RankFailed(self.seat.name, self.seat.where, cause)


@dataclass(frozen=True)
class Left:
    """A channel has ended or is of no use any more."""

    seat: Seat
    cause: str

    def unexpected(self) -> RankFailed:
        """Return the error that this is where all are needed."""
        return RankFailed(self.seat.name, self.seat.where, self.cause)


@dataclass(frozen=True)
class Exited:
    """A process on this machine has ended."""

    child: Child


@dataclass(frozen=True)
class Signalled:
    """This process has got a signal that asks it to end."""

    signum: int


@dataclass(frozen=True)
class Launched:
    """All processes of this machine have been started, or one of them cannot be."""


Event = Joined | Said | Left | Exited | Signalled | Launched


async def greet(channel: Channel) -> control.Hello:
    """Return a new process's hello.

    Raises:
        ProtocolError: it said something else, nothing in time, or that it is of another version.
    """
    try:
        async with asyncio.timeout(HELLO_TIMEOUT):
            message = await channel.receive()
    except (TimeoutError, ConnectionEnded):
        raise ProtocolError("it did not say hello") from None
    if not isinstance(message, control.Hello):
        raise ProtocolError(f"it said {type(message).__name__} before hello")
    if message.version != __version__:
        versions = f"the coordinator has psgdsim {__version__}, the worker {message.version}"
        raise ProtocolError(f"{versions}; install the same on both")
    return message


async def listen(seat: Seat, events: asyncio.Queue[Event]) -> None:
    """Put all that a process says into the queue, and at last that it left."""
    try:
        while True:
            message = await seat.channel.receive()
            if isinstance(message, control.Heartbeat):
                seat.progress = message
            events.put_nowait(Said(seat, message))
    except (ConnectionEnded, ProtocolError) as error:
        seat.is_gone = True
        events.put_nowait(Left(seat, str(error)))
