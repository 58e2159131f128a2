"""Match what arrives at a rank with what its program waits for: one rule for both drivers."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from psgdsim.node import ANY, Message


@dataclass(eq=False, slots=True)
class Waiter:
    """A pending receive: whom it waits for, for what, and whom to wake."""

    src: int | None
    tag: str
    wake: Callable[[Message], object]

    def __str__(self) -> str:
        source = "any rank" if self.src is ANY else f"rank {self.src}"
        return f"recv(tag={self.tag!r}) from {source}"


class Loss(NamedTuple):
    """A peer that is gone, and why."""

    peer: int
    cause: str


class Mailbox:
    """What has come for one rank.

    A message goes to the oldest receive that fits it; a receive takes the oldest message that fits it. The loss of a
    peer has its place among the messages.
    """

    def __init__(self) -> None:
        self._kept: dict[str, OrderedDict[int, Message]] = {}  # by tag, then by the number of its arrival
        self._numbers: dict[tuple[int, str], deque[int]] = {}  # by sender and tag
        self._waiters: list[Waiter] = []
        self._handed: dict[Waiter, tuple[int, Message]] = {}
        self._losses: deque[tuple[int, Loss]] = deque()
        self._arrivals = 0

    @property
    def waiters(self) -> tuple[Waiter, ...]:
        """The receives that wait, oldest first."""
        return tuple(self._waiters)

    @property
    def unread(self) -> list[Message]:
        """The messages that nobody took, oldest first."""
        pairs = (pair for kept in self._kept.values() for pair in kept.items())
        return [message for _, message in sorted(pairs, key=lambda pair: pair[0])]

    # --- messages ---------------------------------------------------------------------------------------------

    def put(self, message: Message) -> None:
        """Deliver a message: wake the oldest receive that fits it, or keep it."""
        self._arrivals += 1
        if not self._hand(self._arrivals, message):
            self._kept.setdefault(message.tag, OrderedDict())[self._arrivals] = message
            self._numbers.setdefault((message.src, message.tag), deque()).append(self._arrivals)

    def put_back(self, message: Message) -> None:
        """Take back what a receive was woken with but never took, before `cancel` forgets that receive.

        It is as old as it was: it goes to another receive, or before all that came after it.
        """
        numbers = (number for number, handed in self._handed.values() if handed is message)
        number = next(numbers, 0)
        if self._hand(number, message):
            return
        slot = message.src, message.tag
        kept = {**self._kept.get(message.tag, {}), number: message}
        self._kept[message.tag] = OrderedDict(sorted(kept.items(), key=lambda pair: pair[0]))
        self._numbers[slot] = deque(sorted([*self._numbers.get(slot, ()), number]))

    def _hand(self, number: int, message: Message) -> bool:
        """Wake the oldest receive that fits a message; return False if there is none."""
        for waiter in self._waiters:
            if waiter.tag == message.tag and waiter.src in (ANY, message.src):
                self._waiters.remove(waiter)
                self._handed[waiter] = number, message
                waiter.wake(message)
                return True
        return False

    def take(self, src: int | None, tag: str) -> Message | None:
        """Take the oldest kept message that fits, or None."""
        kept: Mapping[int, Message] = self._kept.get(tag, {})
        numbers: Iterable[int] = kept if src is ANY else self._numbers.get((src, tag), ())
        number = next(iter(numbers), None)
        return None if number is None else self._remove(number, kept[number])

    def _remove(self, number: int, message: Message) -> Message:
        """Remove the oldest message of its sender and tag."""
        kept, numbers = self._kept[message.tag], self._numbers[message.src, message.tag]
        del kept[number]
        numbers.popleft()
        if not kept:
            del self._kept[message.tag]
        if not numbers:
            del self._numbers[message.src, message.tag]
        return message

    def wait(self, waiter: Waiter) -> None:
        """Add a pending receive."""
        self._waiters.append(waiter)

    def cancel(self, waiter: Waiter) -> None:
        """Forget a receive, pending or woken, when it ends; it must never swallow a later message."""
        self._handed.pop(waiter, None)
        if waiter in self._waiters:
            self._waiters.remove(waiter)

    # --- losses -----------------------------------------------------------------------------------------------

    def lose(self, loss: Loss) -> list[Waiter]:
        """Take note that a peer is gone; return the receives that fail: those from it, and one from any rank."""
        failing = [waiter for waiter in self._waiters if waiter.src == loss.peer]
        for waiter in failing:
            self._waiters.remove(waiter)
        return [*failing, *self.tell(loss)]

    def tell(self, loss: Loss) -> list[Waiter]:
        """Return the oldest receive from any rank, which fails; without one, keep the loss after all that has come."""
        waiting = [waiter for waiter in self._waiters if waiter.src is ANY][:1]
        for waiter in waiting:
            self._waiters.remove(waiter)
        if not waiting:
            self._arrivals += 1
            self._losses.append((self._arrivals, loss))
        return waiting

    def take_loss(self, tag: str) -> Loss | None:
        """Take the oldest loss that is kept, unless a message with this tag came before it."""
        if not self._losses:
            return None
        number, loss = self._losses[0]
        if next(iter(self._kept.get(tag, ())), number) < number:
            return None
        self._losses.popleft()
        return loss
