"""The one interface that a strategy's program sees, and the rules that both drivers share.

A program is an `async def` over `(node, task)`. It knows no clock, no socket and no simulator: everything it may await
is here. `sim.driver` carries it out in virtual time, `real.driver` over TCP.

Values are opaque to programs: a tensor that a program holds may be a handle whose number is not there yet. All
arithmetic goes through `Node.compute` with a `Kernel`; a program that must branch on a number asks for it with
`Node.read`. Containers (tuples, lists, dicts, `TrainState`) are transparent, only their leaves are opaque.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
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
        share: for one of several kernels that together are one computation on those rows: given the arguments, its
            share of the time. That is drawn once, for all of them, so they take what one kernel would take.
        continues: whether it goes on with a computation that another kernel has begun; a rank has one such at a time.
        is_concurrent: whether it waits for no other kernel, and none for it, as the additions of a collective that run
            in a thread of their own, or on a network card; only for one that takes no time.
        is_mapped: whether its arguments are lists of one length, and its result lists of that length, too, whose
            elements depend on the elements of the arguments at the same place alone.
        is_weighted_sum: whether it is `(weights, trees) -> tree`, the sum of weight times tree; then a simulation that
            need not agree with real mode bit for bit may add in another order.
        is_linear: whether its result is linear in the trees among its arguments; a weighted sum is.
        objective: for a kernel that returns `(values, gradients)`, `(*arguments) -> values`; the gradients are those of
            the values with respect to the first argument.
        judge: for a kernel whose function returns `(result, mark)`, of which programs get the result alone:
            `(*arguments) -> verdict`. A driver calls `verdict(mark)` when that number is there: it raises if the result
            must not be used, and returns whether what was computed with has been replaced.
        forwards: if it does nothing but return a tuple of some of its arguments, which; then a driver need not call it.
    """

    name: str
    function: Callable[..., Any]
    kind: Literal["gradient", "update", "codec"] = "update"
    rows: Callable[..., int] | None = None
    share: Callable[..., float] | None = None
    continues: bool = False
    is_concurrent: bool = False
    is_mapped: bool = False
    is_weighted_sum: bool = False
    is_linear: bool = False
    objective: Callable[..., Any] | None = None
    judge: Callable[..., Callable[[Any], bool]] | None = None
    forwards: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Message:
    """What `Node.recv` returns: the sender's rank, the tag it used and the payload, a pytree of values."""

    src: int
    tag: str
    payload: Any


Take = Callable[[Message], Coroutine[Any, Any, Any]]
"""What sees to a message that has come."""


class Collective(Protocol):
    """An operation that all workers take part in, such as the sum of a vector over all of them."""

    def __call__(self, node: Node, vector: Any, *, tag: str) -> Coroutine[Any, Any, Any]:
        """Take part with a value of shape `(d,)`; the tag names the operation and the step."""


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
        world_size: the number of workers; they are ranks 0 .. world_size - 1.
        num_servers: the number of servers, whose ranks come after those of the workers.
    """

    rank: int
    world_size: int
    num_servers: int

    @cached_property
    def servers(self) -> range:
        """The ranks of the servers."""
        return range(self.world_size, self.world_size + self.num_servers)

    @property
    def role(self) -> Literal["worker", "server"]:
        """What this node is."""
        return "worker" if self.rank < self.world_size else "server"

    @property
    @abstractmethod
    def now(self) -> float:
        """The time since the start of training [s]; pauses for evaluation do not count."""

    @abstractmethod
    async def compute(self, kernel: Kernel, *arguments: Any) -> Any:
        """Run a kernel on values (or pytrees of them) and return its result, a pytree of values.

        One at a time, in the order of the calls, but for those that are concurrent.
        """

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

        The loss of a peer is told once to those that receive from any rank, in its turn among the messages: what has
        come before it is received before, one receive from any rank fails, and the next go on with the ranks that are
        left. A peer that has come back and is lost again is told again.

        Raises:
            PeerLost: `src` is gone and nothing of it is left to receive; or, from any rank, a peer is gone and no
                receive has said so yet, or all other ranks are gone and nothing of them is left.
            RecvTimeout: nothing came within `timeout` seconds.
        """

    async def recv_each(self, srcs: Sequence[int], take: Take, *, tag: str) -> Sequence[Any]:
        """Receive one message from each of several ranks, and see to each as it comes.

        A driver may know a quicker way, in which `take` is called once for all of them.

        Args:
            srcs: from whom; nobody else sends with this tag meanwhile.
            take: called with each message, whose `src` is good for nothing but keeping what is of that rank in a
                `ByRank`; what it awaits should be computations.
            tag: of the messages.

        Returns:
            What `take` has returned, in the order of `srcs`; good for nothing but a weighted sum.
        """
        results: dict[int, Any] = {}
        while len(results) < len(srcs):
            message = await self.recv(tag=tag)
            results[message.src] = await take(message)
        return [results[src] for src in srcs]

    async def send_each(self, dsts: Sequence[int], payload: Any, *, tag: str) -> None:
        """Send the same to several ranks, a message to each; returns when the network has taken all of them."""
        await self.gather(*(self.send(dst, payload, tag=tag) for dst in dsts))

    async def collective(self, operation: Collective, vector: Any, *, tag: str) -> Any:
        """Take part in an operation of all workers, and return its result; a driver may know a quicker way to it.

        All workers call it with the same operation, the same tag and vectors of one shape and type, and send, receive
        and compute nothing else until it has returned.

        Args:
            operation: such as `collectives.ring_all_reduce`.
            vector: a value of shape `(d,)`.
            tag: names the operation and the step.
        """
        return await operation(self, vector, tag=tag)

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

        In lock step, all ranks call it after every step, in the same order. After the last step, and after one whose
        evaluation decides whether a target is reached, it is a barrier among them; over TCP also after any other step
        that is evaluated, or that may be the last by `max_time`. The time of an evaluation counts nowhere.

        Where ranks run freely (`Strategy.is_lock_step`), only those that lead call it, each decides by its own step
        and time, and it is a barrier only where a run of several of them ends. Over TCP an evaluation takes place after
        the run, on the models of the moment; only one that may end the run takes time of the leader's.

        Args:
            step: the step that ended; the first is 1.
            models: the parameters of each model that is trained, usually one.

        Returns:
            True to go on; False, in lock step at the same step on every rank, to end.

        Raises:
            StrategyError: (ends the run) ranks meet after different steps, or when another's program has ended.
        """

    @abstractmethod
    def end_step(self, step: int) -> None:
        """End a step of a rank that does not lead: close its row, no more.

        Args:
            step: the step that ended, by this rank's own count; the first is 1.
        """


_CONTAINERS: Final = frozenset({dict, list, tuple})


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
        return {key: snapshot(child) if type(child) in _CONTAINERS else child for key, child in payload.items()}
    if kind in _CONTAINERS:
        return kind([snapshot(child) if type(child) in _CONTAINERS else child for child in payload])
    return payload


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
