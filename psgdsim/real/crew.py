"""The processes of a run as the coordinator sees them: started or awaited, listened to, and ended."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

from psgdsim.errors import Interrupted, PsgdsimError, RankFailed
from psgdsim.real import control, launch, seats
from psgdsim.real.channel import Channel
from psgdsim.real.connection import Connection, ConnectionEnded, cancel
from psgdsim.real.handshake import Claim, Role
from psgdsim.real.launch import Child, Launcher
from psgdsim.real.seats import Event, Exited, Joined, Launched, Left, Said, Seat, Signalled
from psgdsim.real.transport import Listener, format_address
from psgdsim.scenario.schema import RealMode

ROOT_CAUSE_TIMEOUT: Final = 2.0
"""How long to look for the reason when one rank says that it lost another [s]."""

_DECISIVE = 3
_RELAY = "the relay"
_ALL_INTERFACES = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where to connect instead

Log = Callable[[str], None]


class Crew:
    """The workers and servers of a run, and its relay if it has one.

    Args:
        world_size: the number of workers.
        num_servers: the number of servers.
        leader: the rank whose models are the run's.
        has_relay: whether there is a relay.
        settings: where to listen, and whether to start the processes.
        token: what every process must know.
        log: takes what the processes print.
        on_heartbeat: told of each sign of life.

    Attributes:
        workers: workers and servers that have joined, by rank.
        relay: the relay, once it has joined.
        events: everything that happens.
        expendable: the ranks without which the run goes on.
    """

    def __init__(
        self,
        world_size: int,
        *,
        num_servers: int = 0,
        leader: int = 0,
        has_relay: bool,
        settings: RealMode,
        token: str,
        log: Log,
        on_heartbeat: Callable[[Seat], None],
    ) -> None:
        self.workers: dict[int, Seat] = {}
        self.relay: Seat | None = None
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.expendable: Collection[int] = ()
        self._world_size, self._num_servers, self._leader = world_size, num_servers, leader
        self._has_relay, self._settings = has_relay, settings
        self._token, self._log, self._on_heartbeat = token, log, on_heartbeat
        self._launcher = Launcher(token, log, lambda child: self.events.put_nowait(Exited(child)))
        self._launching: asyncio.Task[None] | None = None
        self._listener: Listener | None = None
        self._children: list[Child] = []
        self._listening: set[asyncio.Task[None]] = set()

    @property
    def present(self) -> list[Seat]:
        """All workers and servers that have joined, but those that are lost."""
        return [seat for seat in self.workers.values() if not seat.is_lost]

    @property
    def seats(self) -> list[Seat]:
        """All processes that have joined, but those that are lost."""
        return [*self.present, *([self.relay] if self.relay is not None else [])]

    @property
    def _num_ranks(self) -> int:
        return self._world_size + self._num_servers

    def _name(self, rank: int) -> str:
        return seats.name_of(rank, is_server=rank >= self._world_size)

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
        self._launching = asyncio.create_task(self._launch(commands, address))
        if not self._is_local:
            announce(_invitation(self._world_size, host, self._listener.port, self._num_servers))
        while not self._is_complete or not self.events.empty():
            event = await self.events.get()
            if isinstance(event, Launched):
                await self._launching
            elif isinstance(event, Left) and not self._is_local and event.seat is not self.relay:
                await self._free(event)
            else:
                await self._check(event)

    @property
    def _is_complete(self) -> bool:
        return len(self.workers) == self._num_ranks and (self.relay is not None or not self._has_relay)

    async def _free(self, left: Left) -> None:
        """Free the place of a worker started by hand that has left before the start."""
        del self.workers[left.seat.rank]
        self._log(f"{left.seat.name} left before the start: {left.cause}")
        await left.seat.channel.close()

    async def _launch(self, commands: tuple[Sequence[str], Sequence[str]], address: str) -> None:
        """Start the processes of this machine one by one; meanwhile a signal or a failure may end all."""
        worker, relay = commands
        programs = [(self._name(rank), worker) for rank in range(self._num_ranks if self._is_local else 0)]
        programs += [(_RELAY, relay)] if self._has_relay else []
        try:
            for name, command in programs:
                self._children.append(await self._launcher.start(name, [*command, address]))
        finally:
            self.events.put_nowait(Launched())

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
        free = [rank for rank in range(self._num_ranks) if rank not in self.workers]
        if self._is_local:
            free = [rank for rank in free if name == self._name(rank)]
        if claim.role != Role.WORKER or not free:
            raise PsgdsimError(f"all {self._num_ranks} places of this run are taken")
        rank, is_server = free[0], free[0] >= self._world_size
        seat = Seat(Role.WORKER, rank, channel, hello.pid, address, is_server, has_models=rank == self._leader)
        self.workers[rank] = seat
        return seat

    # --- messages ---------------------------------------------------------------------------------------------

    async def send_all(self, receivers: Iterable[Seat], message: control.Message) -> None:
        """Send a message to several processes; one that is gone is noticed by whoever listens to it."""
        for seat in list(receivers):
            with contextlib.suppress(ConnectionEnded):
                await seat.channel.send(message)

    async def next(self) -> Said | Left:
        """Return the next message that is more than a sign of life, or the loss of a rank that is expendable.

        Raises:
            PsgdsimError: the run has failed, or is to end.
        """
        while True:
            event = await self.events.get()
            left = await self._lose(event)
            if left is not None:
                return left
            await self._check(event)
            if isinstance(event, Said) and not (event.seat.is_lost or isinstance(event.message, control.Heartbeat)):
                return event

    async def _lose(self, event: Event) -> Left | None:
        """Let a rank go that is expendable; return its loss if that is what an event means and is not known yet."""
        left = event if isinstance(event, Left) else None
        if isinstance(event, Exited):
            left = next((Left(seat, event.child.fate) for seat in self.present if seat.pid == event.child.pid), None)
        if left is None or left.seat not in [seat for seat in self.present if seat.rank in self.expendable]:
            return None
        left.seat.is_lost = True
        self._log(f"{left.seat.name} is lost: {left.cause}; the run goes on")
        await left.seat.channel.close()
        for child in self._children:
            if child.pid == left.seat.pid:
                child.send_signal(signal.SIGKILL)  # it may be frozen
        return left

    async def _check(self, event: Event) -> None:
        """Raise the error that an event means, if any."""
        if isinstance(event, Said) and isinstance(event.message, control.Heartbeat):
            self._on_heartbeat(event.seat)
        elif _weight(event) > 0 and not self._is_known(event):
            raise await self._find_reason(event)

    def _is_known(self, event: Event) -> bool:
        """Whether an event is about a rank that is lost already."""
        if isinstance(event, Exited):
            return any(seat.is_lost and seat.pid == event.child.pid for seat in self.workers.values())
        return isinstance(event, Left | Said) and event.seat.is_lost

    async def _find_reason(self, event: Event) -> PsgdsimError:
        """Find the reason of a failure: what comes first may only be its echo at another rank."""
        found = [event]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ROOT_CAUSE_TIMEOUT):
                while _weight(found[-1]) < _DECISIVE:
                    event = await self.events.get()
                    if not self._is_known(event):
                        found.append(event)
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
        if self._launching is not None:
            await cancel(self._launching)
        await launch.stop(self._children, patience=patience)
        self._launcher.close()
        await cancel(*self._listening)
        for seat in self.seats:
            await seat.channel.close()


def _invitation(world_size: int, host: str, port: int, num_servers: int = 0) -> str:
    """Return how to join; where all addresses are open, by this machine's name."""
    host = socket.gethostname() if host in _ALL_INTERFACES else host
    as_client = f"psgdsim client --ip {host} --port {port}"
    who = f"{world_size} workers"
    if num_servers:
        who += f" and {num_servers} server{'s' if num_servers > 1 else ''}, the last to join"
    return f"waiting for {who}: {as_client}, or psgdsim worker --connect {format_address(host, port)}"


def _weight(event: Event) -> int:
    """Return how much an event says about the reason of a failure; 0 if it is none."""
    if isinstance(event, Signalled | Exited):
        return _DECISIVE
    if isinstance(event, Said) and isinstance(event.message, control.Failed):
        return _DECISIVE if event.message.lost_peer is None else 1
    return 2 if isinstance(event, Left) else 0
