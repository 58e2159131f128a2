"""What happened, as typed rows with one schema from both drivers.

A `RankLog` collects what one rank does: events for the timeline, seconds by activity, bytes, and one row per step.
It has no clock of its own; the driver gives it one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from psgdsim import trees
from psgdsim.errors import ProgramError

Activity = Literal["compute", "encode", "transfer", "wait"]

ACTIVITIES: tuple[Activity, ...] = ("compute", "encode", "transfer", "wait")
"""In order of precedence: a rank that computes while it sends is computing; one that waits for bytes already on
their way is transferring."""

RESERVED = frozenset({"rank", "step", "time", "bytes", *(f"{activity}_s" for activity in ACTIVITIES)})
"""Columns of a step's row that a program cannot record."""

_PLACES = {activity: place for place, activity in enumerate(ACTIVITIES)}
_IDLE = _PLACES["wait"]

MAX_EVENTS = 200_000
"""Events kept per rank; further ones are counted, not kept."""


class Event(NamedTuple):
    """One thing that took time on one rank, or happened to the network.

    Attributes:
        kind: `compute`, `encode`, `send`, `receive`, `fault` or `change`.
        name: the kernel, the message's tag, or what happened.
        start: when it began [s].
        end: when it ended [s].
        step: the step under way.
        peer: the other rank of a message, -1 where there is none or there are several.
        nbytes: the frame's size [byte], 0 where there is none.
    """

    kind: str
    name: str
    start: float
    end: float
    step: int
    peer: int = -1
    nbytes: int = 0


@dataclass
class RankLog:
    """Everything one rank reports.

    Args:
        rank: whose log this is.
        clock: returns the time [s].
    """

    rank: int
    clock: Callable[[], float]
    step: int = 1
    events: list[Event] = field(default_factory=list)
    dropped_events: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    sent_nbytes: int = 0
    payload_nbytes: int = 0
    relay_nbytes: int = 0

    def __post_init__(self) -> None:
        self._seconds = [0.0] * len(ACTIVITIES)
        self._active = [0] * len(ACTIVITIES)
        self._current = _IDLE
        self._since = self.clock()
        self._values: dict[str, Any] = {}
        self._at_step_start = dict(self.seconds)

    @property
    def seconds(self) -> dict[str, float]:
        """The time spent on each activity so far [s]."""
        return dict(zip(ACTIVITIES, self._seconds, strict=True))

    def _settle(self) -> None:
        """Charge the time since the last change to the activity that takes precedence; idle time is waiting."""
        now = self.clock()
        self._seconds[self._current] += now - self._since
        self._since = now

    def enter(self, activity: Activity) -> None:
        """Begin an activity; activities nest and overlap."""
        self._settle()
        place = _PLACES[activity]
        self._active[place] += 1
        self._current = min(self._current, place)

    def leave(self, activity: Activity) -> None:
        """End an activity."""
        self._settle()
        place = _PLACES[activity]
        self._active[place] -= 1
        while self._current < _IDLE and not self._active[self._current]:
            self._current += 1

    @property
    def is_only_waiting(self) -> bool:
        """Whether the one activity under way is waiting."""
        return self._current == _IDLE and self._active[_IDLE] > 0

    @contextmanager
    def during(self, activity: Activity) -> Iterator[None]:
        """Hold an activity for the length of a block."""
        self.enter(activity)
        try:
            yield
        finally:
            self.leave(activity)

    def add_event(self, kind: str, name: str, start: float, *, peer: int = -1, nbytes: int = 0) -> None:
        """Keep one event that ends now."""
        if len(self.events) < MAX_EVENTS:
            self.events.append(Event(kind, name, start, self.clock(), self.step, peer, nbytes))
        else:
            self.dropped_events += 1

    def count_sent(self, nbytes: int, payload_nbytes: int, *, copies: int = 0) -> None:
        """Count one frame that this rank puts on the network.

        Args:
            nbytes: the whole frame [byte].
            payload_nbytes: the tensors in it [byte].
            copies: how many copies the network makes of it (multicast), counted apart.
        """
        self.sent_nbytes += nbytes
        self.payload_nbytes += payload_nbytes
        self.relay_nbytes += nbytes * copies

    def record(self, values: dict[str, Any]) -> None:
        """Add named values to the row of the step under way.

        Raises:
            ProgramError: a name that the row has already, or something that is no number.
        """
        for name, value in values.items():
            if name in RESERVED:
                raise ProgramError(f"rank {self.rank} records {name!r}, which is filled in for every step; rename it")
            if not (hasattr(value, "dtype") or isinstance(value, bool | int | float)):
                raise ProgramError(f"rank {self.rank} records {name}={value!r}; expected a number or a value")
        self._values.update(values)

    def close_step(self, step: int) -> dict[str, Any]:
        """End the step under way and return its row."""
        self._settle()
        spent = {name: self.seconds[name] - self._at_step_start[name] for name in ACTIVITIES}
        row = {
            "rank": self.rank,
            "step": step,
            "time": self.clock(),
            "bytes": self.sent_nbytes,
            "staleness": 0,
            **{f"{name}_s": seconds for name, seconds in spent.items()},
            **self._values,
        }
        self.rows.append(row)
        self._values = {}
        self._at_step_start = dict(self.seconds)
        self.step = step + 1
        return row

    def report(self, read: Callable[[Any], Any], models: Sequence[Any], unread: int) -> RankReport:
        """Return everything as plain data.

        Args:
            read: turns recorded values into numbers.
            models: the parameters this rank ended with, as arrays.
            unread: messages that nobody received.
        """
        self._settle()
        rows = [{name: _plain(read(value)) for name, value in row.items()} for row in self.rows]
        return RankReport(
            rank=self.rank,
            rows=rows,
            events=self.events,
            dropped_events=self.dropped_events,
            seconds=dict(self.seconds),
            sent_nbytes=self.sent_nbytes,
            payload_nbytes=self.payload_nbytes,
            relay_nbytes=self.relay_nbytes,
            digest=trees.digest(list(models)),
            unread=unread,
        )


def _plain(number: Any) -> Any:
    """Return a Python number (or whatever is not a number, as it is)."""
    return number.item() if hasattr(number, "item") else number


@dataclass
class RankReport:
    """What one rank reports at the end, as plain data; fields as in `RankLog`.

    Attributes:
        digest: sha256 of the models this rank ended with.
        unread: messages that arrived and that nobody received.
        control_nbytes: bytes that are not the program's: heartbeats, barriers, results [byte].
    """

    rank: int
    rows: list[dict[str, Any]]
    events: list[Event]
    dropped_events: int
    seconds: dict[str, float]
    sent_nbytes: int
    payload_nbytes: int
    relay_nbytes: int
    digest: str
    unread: int
    control_nbytes: int = 0


class LinkReport(NamedTuple):
    """What one link of a simulated network has done.

    Attributes:
        name: the link's.
        nbytes: what it has carried, headers that the network adds included [byte].
        utilisation: the part of its capacity that was used, over the whole run.
    """

    name: str
    nbytes: int
    utilisation: float


@dataclass
class Outcome:
    """What a driver returns: everything about a run but where to keep it.

    Attributes:
        time: virtual or wall seconds from the start of training to the end of its last rank, pauses left out.
        reports: one per rank that could report.
        evals: rows with `time`, `step`, `model` and what the task's `evaluate` returns.
        models: the final parameters as pytrees of numpy arrays; empty if there are none.
        error: why the run failed, or None.
        links: one per link of the simulated network, in its order.
        network_events: what happened to the network in simulation.
    """

    time: float
    reports: list[RankReport]
    evals: list[dict[str, Any]]
    models: list[Any]
    error: Exception | None = None
    links: list[LinkReport] = field(default_factory=list)
    network_events: list[Event] = field(default_factory=list)


class Progress(Protocol):
    """Whoever wants to know how a run is getting on."""

    def __call__(self, time: float, step: int, last_step: float, loss: float | None, nbytes: int) -> None:
        """Take note: time [s], the step that rank 0 ended and the last one, its loss, and the bytes it has sent."""
