"""Messages between ranks, and who can still reach whom.

A rank that has lost another one is told so by every `send` to it and every `recv` from it, by the rules of real mode:
what has arrived may still be received; those that receive from any rank are told of each loss once; a multicast that
the network copies reaches those that are left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import simpy

from psgdsim.errors import PeerLost
from psgdsim.node import Message
from psgdsim.sim.gates import RELAY
from psgdsim.sim.network import Delivery, Network

if TYPE_CHECKING:
    from psgdsim.sim.node import SimNode

Delay = Callable[[int, int, int], float]
"""`(src, dst, nbytes)` -> by how much a message from rank to rank (or relay) comes later than its links say [s]."""


class Transfer:
    """A message under way.

    Args:
        src: the rank that sends it; `RELAY` for a copy.
        dsts: the ranks that it is for.
        message: what they get.
        nbytes: its size.
        start: when it was sent off [s].
        event: fires when it has arrived; fails if the rank that it is for is lost.
        is_group: whether it is for several, or for the relay to copy: then nobody minds a receiver that is gone.
    """

    __slots__ = ("copies_to", "delivery", "dsts", "event", "is_group", "is_over", "message", "nbytes", "src", "start")

    def __init__(
        self,
        src: int,
        dsts: Sequence[int],
        message: Message,
        nbytes: int,
        start: float,
        event: simpy.Event,
        *,
        is_group: bool = False,
    ) -> None:
        self.src, self.dsts, self.message, self.nbytes, self.start = src, list(dsts), message, nbytes, start
        self.event, self.is_group = event, is_group
        self.delivery: Delivery | None = None
        self.copies_to: list[int] = []  # who gets a copy once it has arrived at the relay
        self.is_over = False


class Post:
    """Carry messages from rank to rank.

    Args:
        env: the clock.
        network: what carries them.
        nodes: all ranks; may still be empty.
        deliver: takes each message that has arrived, and the rank that it is for.
        delay: what comes on top of the network's own time, if anything does.

    Attributes:
        lost: for each rank the ranks that it has lost, and why.
    """

    def __init__(
        self,
        env: simpy.Environment,
        network: Network,
        nodes: Sequence[SimNode],
        deliver: Callable[[int, Message], None],
        delay: Delay | None = None,
    ) -> None:
        self._env, self._network, self._nodes = env, network, nodes
        self._deliver, self._delay = deliver, delay
        self._topology = network.topology
        self._under_way: dict[Transfer, None] = {}
        self._num_others = 0
        self.lost: dict[int, dict[int, str]] = {}

    @property
    def is_busy(self) -> bool:
        """Whether any message is under way."""
        return bool(self._under_way) or self._num_others > 0

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Hold that a message is under way that is none of these here, for the length of a block."""
        self._num_others += 1
        try:
            yield
        finally:
            self._num_others -= 1

    # --- sending ----------------------------------------------------------------------------------------------

    def send(self, src: int, dst: int, message: Message, nbytes: int) -> simpy.Event:
        """Send a message to one rank; the event fires when it has arrived.

        Raises:
            PeerLost: that rank is gone.
        """
        cause = self.lost_by(src).get(dst)
        if cause is not None:
            raise PeerLost(src, dst, cause)
        start, end = self._nodes[src].host, self._nodes[dst].host
        if self._delay is None:
            delivery = self._network.send(start, end, nbytes)
            transfer = Transfer(src, (dst,), message, nbytes, self._env.now, delivery)
            transfer.delivery = delivery
            self._take(transfer)
            delivery.callbacks.append(lambda event: self._arrive(transfer) if event.ok else None)
            return delivery
        transfer = Transfer(src, (dst,), message, nbytes, self._env.now, self._env.event())
        return self._start(transfer, lambda: self._network.send(start, end, nbytes), (dst,))

    def multicast(self, src: int, dsts: Sequence[int], message: Message, nbytes: int) -> simpy.Event:
        """Send a message to several ranks at once; the event fires when the sender is done with it."""
        reached = [dst for dst in dsts if dst not in self.lost_by(src)]
        transfer = Transfer(src, reached, message, nbytes, self._env.now, self._env.event(), is_group=True)
        if self._topology.multicast == "native":
            return self._start(transfer, self._native(transfer), reached)
        transfer.dsts, transfer.copies_to = [], reached
        route = self._topology.relay_route(self._nodes[src].host, True)
        return self._start(transfer, lambda: self._network.carry(route, nbytes), (RELAY,))

    def _native(self, transfer: Transfer) -> Callable[[], Delivery]:
        def begin() -> Delivery:
            hosts = [self._nodes[dst].host for dst in transfer.dsts]
            return self._network.multicast(self._nodes[transfer.src].host, hosts, transfer.nbytes)

        return begin

    def _copy(self, original: Transfer, dst: int) -> None:
        """Send a copy from the relay to one receiver."""
        message, nbytes = original.message, original.nbytes
        route = self._topology.relay_route(self._nodes[dst].host, False)
        copy = Transfer(RELAY, (dst,), message, nbytes, self._env.now, self._env.event(), is_group=True)
        self._start(copy, lambda: self._network.carry(route, nbytes), (dst,))

    def _start(self, transfer: Transfer, begin: Callable[[], Delivery], ends: Sequence[int]) -> simpy.Event:
        """Put a message on the network, later if something delays it."""
        self._take(transfer)
        delays = [self._delay(transfer.src, end, transfer.nbytes) for end in ends] if self._delay is not None else []
        self._after(max(delays, default=0.0), transfer, begin)
        return transfer.event

    def _after(self, delay: float, transfer: Transfer, begin: Callable[[], Delivery]) -> None:
        def go() -> None:
            if transfer.is_over:
                return
            delivery = transfer.delivery = begin()
            delivery.callbacks.append(lambda _: self._finish(transfer, delivery))

        if delay > 0:
            self._env.timeout(delay).callbacks.append(lambda _: go())
        else:
            go()

    def route(self, src: int, dst: int) -> tuple[int, ...]:
        """Return the links between two hosts, or a host and the relay."""
        if src == RELAY:
            return self._topology.relay_route(dst, False)
        return self._topology.relay_route(src, True) if dst == RELAY else self._topology.route(src, dst)

    # --- on its way -------------------------------------------------------------------------------------------

    def _take(self, transfer: Transfer) -> None:
        self._under_way[transfer] = None
        for dst in transfer.dsts:
            self._nodes[dst].log.enter("transfer")

    def _finish(self, transfer: Transfer, delivery: Delivery) -> None:
        if transfer.delivery is not delivery or transfer.is_over:
            return
        self._arrive(transfer)
        for dst in transfer.copies_to:
            self._copy(transfer, dst)
        transfer.event.succeed()

    def _arrive(self, transfer: Transfer) -> None:
        transfer.is_over = True
        del self._under_way[transfer]
        message = transfer.message
        for dst in transfer.dsts:
            node = self._nodes[dst]
            node.log.leave("transfer")
            node.log.add_event("receive", message.tag, transfer.start, peer=message.src, nbytes=transfer.nbytes)
            self._deliver(dst, message)

    def _give_up(self, transfer: Transfer, error: PeerLost | None) -> None:
        """Take a message off the network; its sender sees the error, or nothing."""
        transfer.is_over = True
        del self._under_way[transfer]
        for dst in transfer.dsts:
            self._nodes[dst].log.leave("transfer")
        if transfer.delivery is not None:
            self._network.cancel(transfer.delivery)
        if error is None:
            if transfer.event is not transfer.delivery:
                transfer.event.succeed()
        else:
            transfer.event.fail(error)
            transfer.event.defused = True

    # --- ranks come and go ------------------------------------------------------------------------------------

    def lost_by(self, rank: int) -> dict[int, str]:
        """Return the ranks that a rank has lost, and why."""
        return self.lost.get(rank, {})

    def crash(self, rank: int, cause: str) -> None:
        """Lose what is on its way from or to a rank that is no more, and let all others know."""
        for transfer in list(self._under_way):
            if transfer.src == rank and not transfer.event.triggered:
                self._give_up(transfer, None)
            elif rank in transfer.copies_to:
                transfer.copies_to.remove(rank)
            elif rank in transfer.dsts:
                self._drop_receiver(transfer, rank, cause)
        for node in self._nodes:
            if node.rank != rank and node.is_up:
                self._lose(node.rank, rank, cause)

    def part(self, rank: int, other: int, cause: str) -> None:
        """Let two ranks lose each other, and what is on its way between them."""
        for transfer in list(self._under_way):
            for src, dst in ((rank, other), (other, rank)):
                if transfer.message.src == src and dst in transfer.dsts and not transfer.event.triggered:
                    self._drop_receiver(transfer, dst, cause, is_stuck=True)
        self._lose(rank, other, cause)
        self._lose(other, rank, cause)

    def strand(self, rank: int, cause: str) -> None:
        """Give up what a rank was sending to a relay that it cannot reach."""
        for transfer in list(self._under_way):
            if transfer.src == rank and transfer.is_group and not (transfer.dsts or transfer.event.triggered):
                peer = next(iter(self.lost_by(rank)), rank)
                self._give_up(transfer, PeerLost(rank, peer, cause))

    def _drop_receiver(self, transfer: Transfer, rank: int, cause: str, *, is_stuck: bool = False) -> None:
        """Take a receiver off a message; the message itself, if nobody is left or it is stuck because of that one."""
        if transfer.event.triggered or (transfer.is_group and len(transfer.dsts) > 1):
            transfer.dsts.remove(rank)
            self._nodes[rank].log.leave("transfer")
            if is_stuck and transfer.delivery is not None:
                self._network.cancel(transfer.delivery)
                self._after(0.0, transfer, self._native(transfer))
        else:
            self._give_up(transfer, None if transfer.is_group else PeerLost(transfer.src, rank, cause))

    def _lose(self, rank: int, peer: int, cause: str) -> None:
        known = self.lost.setdefault(rank, {})
        if peer not in known:
            known[peer] = cause
            self._nodes[rank].lose(peer, cause)

    def restart(self, rank: int) -> None:
        """Let a rank that is up again reach all others that are up, and the other way round."""
        self.lost[rank] = {}
        for node in self._nodes:
            if not node.is_up:
                self._lose(rank, node.rank, node.fate)
            elif node.rank != rank:
                self.lost_by(node.rank).pop(rank, None)
