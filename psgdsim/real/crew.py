"""The processes of a run as the coordinator sees them: started or awaited, listened to, and ended."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from psgdsim.errors import Interrupted, PsgdsimError, RankFailed
from psgdsim.real import control, launch, seats
from psgdsim.real.channel import Channel
from psgdsim.real.connection import Connection, ConnectionEnded, cancel
from psgdsim.real.handshake import Claim, Role
from psgdsim.real.launch import Child
from psgdsim.real.seats import Event, Exited, Joined, Left, Said, Seat, Signalled
from psgdsim.real.transport import Listener, format_address
from psgdsim.scenario.schema import RealMode

ROOT_CAUSE_TIMEOUT: Final = 2.0
"""How long to look for the reason when one rank says that it lost another [s]."""

_DECISIVE = 3
_RELAY = "the relay"
_ALL_INTERFACES = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where to connect instead

Log = Callable[[str], None]


class Crew:
    """The workers of a run, and its relay if it has one.

    Args:
        world_size: the number of workers.
        has_relay: whether there is a relay.
        settings: where to listen, and whether to start the workers.
        token: what every process must know.
        log: takes what the processes print.
        on_heartbeat: told of each sign of life.

    Attributes:
        workers: those that have joined, by rank.
        relay: the relay, once it has joined.
        events: everything that happens.
    """

    def __init__(
        self,
        world_size: int,
        *,
        has_relay: bool,
        settings: RealMode,
        token: str,
        log: Log,
        on_heartbeat: Callable[[Seat], None],
    ) -> None:
        self.workers: dict[int, Seat] = {}
        self.relay: Seat | None = None
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self._world_size, self._has_relay, self._settings = world_size, has_relay, settings
        self._token, self._log, self._on_heartbeat = token, log, on_heartbeat
        self._listener: Listener | None = None
        self._children: list[Child] = []
        self._listening: set[asyncio.Task[None]] = set()

    @property
    def seats(self) -> list[Seat]:
        """All processes that have joined."""
        return [*self.workers.values(), *([self.relay] if self.relay is not None else [])]

    @property
    def _is_local(self) -> bool:
        return self._settings.processes == "local"

    # --- joining ----------------------------------------------------------------------------------------------

    async def assemble(self, commands: tuple[Sequence[str], Sequence[str]], announce: Log) -> None:
        """Listen, start the processes of this machine, and wait until all have joined.

        Args:
            commands: how to start a worker and the relay; the address to connect to is appended.
            announce: told where workers that are started by hand are to connect.
        """
        host = self._settings.host
        self._listener = Listener(host, self._settings.port, self._log)
        self._listener.serve(self._token.encode(), self._admit)
        address = format_address(_ALL_INTERFACES.get(host, host), self._listener.port)
        worker, relay = commands
        for rank in range(self._world_size if self._is_local else 0):
            await self._start(f"rank {rank}", [*worker, address])
        if self._has_relay:
            await self._start(_RELAY, [*relay, address])
        if not self._is_local:
            announce(_invitation(self._world_size, host, self._listener.port))
        while not self._is_complete or not self.events.empty():
            event = await self.events.get()
            if isinstance(event, Left) and not self._is_local and event.seat is not self.relay:
                await self._free(event)
            else:
                await self._check(event)

    @property
    def _is_complete(self) -> bool:
        return len(self.workers) == self._world_size and (self.relay is not None or not self._has_relay)

    async def _free(self, left: Left) -> None:
        """Free the place of a worker started by hand that has left before the start."""
        del self.workers[left.seat.rank]
        self._log(f"{left.seat.name} left before the start: {left.cause}")
        await left.seat.channel.close()

    async def _start(self, name: str, command: Sequence[str]) -> None:
        def on_exit(child: Child) -> None:
            self.events.put_nowait(Exited(child))

        self._children.append(await launch.start(name, command, self._token, log=self._log, on_exit=on_exit))

    async def _admit(self, connection: Connection, claim: Claim) -> None:
        channel = Channel(connection, max(self._settings.heartbeat_timeout, seats.HELLO_TIMEOUT))
        seat: Seat | None = None
        try:
            seat = self._seat(claim, await seats.greet(channel), channel)
        except PsgdsimError as error:
            self._log(f"refused {format_address(*channel.remote)}: {error}")
            with contextlib.suppress(ConnectionEnded):
                await channel.send(control.Refused(str(error)))
            return
        finally:
            if seat is None:
                await channel.close()
        self._listening.add(asyncio.create_task(seats.listen(seat, self.events)))
        self.events.put_nowait(Joined(seat))

    def _seat(self, claim: Claim, hello: control.Hello, channel: Channel) -> Seat:
        """Give a new process its place."""
        name = next((child.name for child in self._children if child.pid == hello.pid), None)
        address = channel.remote[0], hello.port
        if claim.role == Role.RELAY and name == _RELAY and self.relay is None:
            self.relay = Seat(Role.RELAY, 0, channel, hello.pid, address)
            return self.relay
        free = [rank for rank in range(self._world_size) if rank not in self.workers]
        if self._is_local:
            free = [rank for rank in free if name == f"rank {rank}"]
        if claim.role != Role.WORKER or not free:
            raise PsgdsimError(f"all {self._world_size} places of this run are taken")
        seat = self.workers[free[0]] = Seat(Role.WORKER, free[0], channel, hello.pid, address)
        return seat

    # --- messages ---------------------------------------------------------------------------------------------

    async def send_all(self, receivers: Iterable[Seat], message: control.Message) -> None:
        """Send a message to several processes; one that is gone is noticed by whoever listens to it."""
        for seat in list(receivers):
            with contextlib.suppress(ConnectionEnded):
                await seat.channel.send(message)

    async def next(self) -> Said:
        """Return the next message that is more than a sign of life.

        Raises:
            PsgdsimError: the run has failed, or is to end.
        """
        while True:
            event = await self.events.get()
            await self._check(event)
            if isinstance(event, Said) and not isinstance(event.message, control.Heartbeat):
                return event

    async def _check(self, event: Event) -> None:
        """Raise the error that an event means, if any."""
        if isinstance(event, Said) and isinstance(event.message, control.Heartbeat):
            self._on_heartbeat(event.seat)
        elif _weight(event) > 0:
            raise await self._find_reason(event)

    async def _find_reason(self, event: Event) -> PsgdsimError:
        """Find the reason of a failure: what comes first may only be its echo at another rank."""
        found = [event]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ROOT_CAUSE_TIMEOUT):
                while _weight(found[-1]) < _DECISIVE:
                    found.append(await self.events.get())
        reason = max(found, key=_weight)
        if isinstance(reason, Signalled):
            return Interrupted(reason.signum)
        if isinstance(reason, Exited):
            seat = next((seat for seat in self.seats if seat.pid == reason.child.pid), None)
            where = "start-up" if seat is None else seat.where
            return RankFailed(reason.child.name, where, reason.child.fate)
        if isinstance(reason, Said) and isinstance(reason.message, control.Failed):
            return RankFailed(reason.seat.name, reason.message.where, reason.message.cause)
        assert isinstance(reason, Left)
        return RankFailed(reason.seat.name, reason.seat.where, reason.cause)

    # --- the end ----------------------------------------------------------------------------------------------

    async def end(self, *, patience: float) -> None:
        """End all processes, close all connections and stop listening.

        Args:
            patience: how long the processes on this machine may take before they are made to end [s].
        """
        await self.send_all(self.seats, control.Shutdown())
        if self._listener is not None:
            await self._listener.close()
        await launch.stop(self._children, patience=patience)
        await cancel(*self._listening)
        for seat in self.seats:
            await seat.channel.close()


def _invitation(world_size: int, host: str, port: int) -> str:
    """Return how to join; where all addresses are open, by this machine's name."""
    host = socket.gethostname() if host in _ALL_INTERFACES else host
    as_client = f"psgdsim client --ip {host} --port {port}"
    return f"waiting for {world_size} workers: {as_client}, or psgdsim worker --connect {format_address(host, port)}"


def _weight(event: Event) -> int:
    """Return how much an event says about the reason of a failure; 0 if it is none."""
    if isinstance(event, Signalled | Exited):
        return _DECISIVE
    if isinstance(event, Said) and isinstance(event.message, control.Failed):
        return _DECISIVE if event.message.lost_peer is None else 1
    return 2 if isinstance(event, Left) else 0
