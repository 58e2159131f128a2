"""The one interface that a strategy's program sees, and the rules that both drivers share.

A program is an `async def` over `(node, task)`. It knows no clock, no socket and no simulator: everything it may await
is here. `sim.driver` carries it out in virtual time, `real.driver` over TCP.

Values are opaque to programs: a tensor that a program holds may be a handle whose number is not there yet. All
arithmetic goes through `Node.compute` with a `Kernel`; a program that must branch on a number asks for it with
`Node.read`. Containers (tuples, lists, dicts, `TrainState`) are transparent, only their leaves are opaque.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from psgdsim.errors import StrategyError

ANY: Final = None
"""Receive from whichever rank comes first."""


@dataclass(frozen=True)
class Kernel:
    """A function that a program may pass to `Node.compute`: pure, deterministic, of values and plain numbers.

    Args:
        name: what traces and errors call it.
        function: the function itself; on the inside it is jitted.
        kind: what its time is charged as. The simulator takes the time of a `gradient` from the scenario's compute
            model; an `update` or `codec` kernel takes none.
        rows: given the function's arguments, how many rows of data it works on; the compute time is proportional.
    """

    name: str
    function: Callable[..., Any]
    kind: Literal["gradient", "update", "codec"] = "update"
    rows: Callable[..., int] | None = None


@dataclass(frozen=True)
class Message:
    """What `Node.recv` returns: the sender's rank, the tag it used and the payload, a pytree of values."""

    src: int
    tag: str
    payload: Any


class Job(Protocol):
    """A program part started with `Node.spawn`; it ends with its program at the latest.

    An error of a job that nobody waits for at that moment ends the run.
    """

    def cancel(self) -> None:
        """Stop it at the place where it waits; nothing happens if it has ended.

        Its `finally` blocks run, but must not rely on what they await there: a driver may cut that short, too.
        """

    async def wait(self) -> Any:
        """Return its result, or raise its error; `None` if it was cancelled."""


class Node(ABC):
    """One rank as its program sees it; `testing.node_laws` holds the laws that every driver obeys.

    Attributes:
        rank: this node's rank, 0-based.
        world_size: the number of workers.
        role: `"worker"` or `"server"`.
    """

    rank: int
    world_size: int
    role: str

    @property
    @abstractmethod
    def now(self) -> float:
        """The time since the start of training [s]; pauses for evaluation do not count."""

    @abstractmethod
    async def compute(self, kernel: Kernel, *arguments: Any) -> Any:
        """Run a kernel on values (or pytrees of them) and return its result, a pytree of values."""

    @abstractmethod
    async def read(self, value: Any) -> Any:
        """Return the numbers behind a value as numpy arrays, in the same pytree."""

    @abstractmethod
    async def send(self, dst: int, payload: Any, *, tag: str) -> None:
        """Send a payload to one rank; returns when the network has taken all of it.

        What is sent to one rank arrives there in the order of the calls, also of calls that are under way at the same
        time; so do multicasts among themselves, but a multicast and a `send` may overtake each other. The payload is
        what it is at the call: its containers may be changed as soon as the call has begun to wait.

        Args:
            dst: the receiver's rank, not this one.
            payload: a pytree (dicts, lists, tuples, None) of values, ints, floats, bools and short strings.
            tag: what the message is, at most `wire.MAX_TAG_BYTES` bytes; name the step in it.

        Raises:
            PeerLost: the receiver is gone.
        """

    @abstractmethod
    async def multicast(self, dsts: Sequence[int], payload: Any, *, tag: str) -> None:
        """Send one payload to several ranks; the topology says what that costs (`native`, `relay` or `unicast`).

        To no ranks at all, nothing is sent.
        """

    @abstractmethod
    async def recv(self, src: int | None = ANY, *, tag: str, timeout: float | None = None) -> Message:
        """Wait for a message with this tag, from `src` or from any rank; first come, first served.

        Raises:
            PeerLost: `src` is gone and nothing of it is left to receive.
            RecvTimeout: nothing came within `timeout` seconds.
        """

    @abstractmethod
    async def sleep(self, seconds: float) -> None:
        """Do nothing for a while."""

    @abstractmethod
    async def gather(self, *coroutines: Coroutine[Any, Any, Any]) -> list[Any]:
        """Run coroutines at the same time and return their results in order.

        The first error cancels the others and is raised.
        """

    @abstractmethod
    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> Job:
        """Start a coroutine beside this one."""

    @abstractmethod
    def record(self, **values: Any) -> None:
        """Add named numbers (values or plain) to this rank's row of the step under way."""

    @abstractmethod
    async def checkpoint(self, step: int, models: Sequence[Any]) -> bool:
        """End a step: close its row, hand over the models, and learn whether to go on.

        All workers call it after every step, in the same order. After the last step, and after one whose evaluation
        decides whether a target is reached, it is a barrier among the workers; over TCP also after any other step that
        is evaluated, or that may be the last by `max_time`. The time of an evaluation counts nowhere.

        Args:
            step: the step that ended; the first is 1.
            models: the parameters of each model that is trained, usually one.

        Returns:
            True to go on; False, at the same step on every rank, to end.

        Raises:
            StrategyError: (ends the run) ranks meet after different steps, or when another's program has ended.
        """


@dataclass(eq=False)
class Waiter:
    """A pending receive: whom it waits for, for what, and whom to wake."""

    src: int | None
    tag: str
    wake: Callable[[Message], None]

    def __str__(self) -> str:
        source = "any rank" if self.src is ANY else f"rank {self.src}"
        return f"recv(tag={self.tag!r}) from {source}"


def snapshot(payload: Any) -> Any:
    """Return a payload in containers of its own; the leaves are the same.

    Args:
        payload: a tree of dicts, lists and tuples.

    Example:
        >>> tree = {"a": [1]}
        >>> copy = snapshot(tree)
        >>> tree["a"].append(2)
        >>> copy
        {'a': [1]}
    """
    kind = type(payload)
    if kind is dict:
        return {key: snapshot(child) for key, child in payload.items()}
    return kind(map(snapshot, payload)) if kind in (list, tuple) else payload


def check_together(arrived: Mapping[int, int], ended: Collection[int] = ()) -> None:
    """Raise unless all ranks have met at the end of the same step.

    Args:
        arrived: the step that each rank at the barrier has ended.
        ended: the ranks whose programs have ended.

    Raises:
        StrategyError: the steps differ, or somebody will never come.
    """
    if ended or len(set(arrived.values())) > 1:
        places = [f"rank {rank} at the end of step {step}" for rank, step in sorted(arrived.items())]
        places += [f"rank {rank} has ended" for rank in sorted(ended)]
        raise StrategyError(f"the ranks do not end the same steps: {', '.join(places)}")


class Mailbox:
    """Match messages with receives: one rule for both drivers.

    A message goes to the oldest receive that fits it; a receive takes the oldest message that fits it.
    """

    def __init__(self) -> None:
        self._messages: dict[Hashable, deque[tuple[int, Message]]] = {}
        self._waiters: list[Waiter] = []
        self._handed: dict[Waiter, tuple[int, Message]] = {}
        self._arrivals = 0

    @property
    def waiters(self) -> tuple[Waiter, ...]:
        """The receives that wait, oldest first."""
        return tuple(self._waiters)

    @property
    def unread(self) -> list[Message]:
        """The messages that nobody took, oldest first."""
        pairs = (pair for queue in self._messages.values() for pair in queue)
        return [message for _, message in sorted(pairs, key=lambda pair: pair[0])]

    def put(self, message: Message) -> None:
        """Deliver a message: wake the oldest receive that fits it, or keep it."""
        self._arrivals += 1
        if not self._hand(self._arrivals, message):
            self._messages.setdefault((message.src, message.tag), deque()).append((self._arrivals, message))

    def put_back(self, message: Message) -> None:
        """Take back what a receive was woken with but never took, before `cancel` forgets that receive.

        It is as old as it was: it goes to another receive, or before all that came after it.
        """
        numbers = (number for number, handed in self._handed.values() if handed is message)
        number = next(numbers, 0)
        if self._hand(number, message):
            return
        queue = self._messages.setdefault((message.src, message.tag), deque())
        place = sum(1 for other, _ in queue if other < number)
        queue.insert(place, (number, message))

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
        slots = [(src, tag)] if src is not ANY else [slot for slot in self._messages if slot[1] == tag]  # type: ignore[index]
        slot = min(slots, key=lambda slot: self._messages[slot][0][0] if slot in self._messages else 0, default=None)
        if slot is None or slot not in self._messages:
            return None
        queue = self._messages[slot]
        message = queue.popleft()[1]
        if not queue:
            del self._messages[slot]
        return message

    def wait(self, waiter: Waiter) -> None:
        """Add a pending receive."""
        self._waiters.append(waiter)

    def cancel(self, waiter: Waiter) -> None:
        """Forget a receive, pending or woken, when it ends; it must never swallow a later message."""
        self._handed.pop(waiter, None)
        if waiter in self._waiters:
            self._waiters.remove(waiter)
