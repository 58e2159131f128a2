"""What happened, as typed rows with one schema from both drivers.

A `RankLog` collects what one rank does: events for the timeline, seconds by activity, bytes, and one row per step.
It has no clock of its own; the driver gives it one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from psgdsim.errors import ProgramError

Activity = Literal["compute", "encode", "transfer", "wait"]

ACTIVITIES: tuple[Activity, ...] = ("compute", "encode", "transfer", "wait")
"""In order of precedence: who computes while sending is computing; who waits for bytes on their way is transferring."""

_COLUMNS = tuple(f"{activity}_s" for activity in ACTIVITIES)

RESERVED = frozenset({"rank", "step", "time", "bytes", *_COLUMNS})
"""Columns of a step's row that a program cannot record."""

_PLAIN = frozenset({int, float, bool})
_PLACES = {activity: place for place, activity in enumerate(ACTIVITIES)}
_IDLE = _PLACES["wait"]

Level = Literal["off", "steps", "full"]
"""What is kept: `full`, events and the rows of steps; `steps`, no events; `off`, of most ranks the last row alone."""

MAX_EVENTS = 2_000_000
"""Events kept of all ranks together, of each its share; further ones are counted, not kept."""


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
        max_events: how many events are kept; with 0, they are not even counted.
        keeps_rows: whether the rows of all steps are kept; if not, only the last one (of each life).
    """

    rank: int
    clock: Callable[[], float]
    max_events: int = MAX_EVENTS
    keeps_rows: bool = True
    step: int = 1
    events: list[Event] = field(default_factory=list)
    dropped_events: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    staleness: Counter[int | float] = field(default_factory=Counter)
    sent_nbytes: int = 0
    payload_nbytes: int = 0
    relay_nbytes: int = 0
    num_replaced: int = 0

    def __post_init__(self) -> None:
        self._seconds = [0.0] * len(ACTIVITIES)
        self._active = [0] * len(ACTIVITIES)
        self._current = _IDLE
        self._since = self.clock()
        self._values: dict[str, Any] = {}
        self._at_step_start = self._seconds[:]

    def _settle(self) -> None:
        """Charge the time since the last change to the activity that takes precedence; idle time is waiting."""
        now = self.clock()
        seconds = self._seconds
        seconds[self._current] = seconds[self._current] + (now - self._since)  # arrays are not changed in place
        self._since = now

    def enter(self, activity: Activity) -> None:
        """Begin an activity; activities nest and overlap."""
        place = _PLACES[activity]
        self._active[place] += 1
        if place < self._current:
            self._settle()
            self._current = place

    def leave(self, activity: Activity) -> None:
        """End an activity."""
        place = _PLACES[activity]
        self._active[place] -= 1
        if place == self._current and not self._active[place]:
            self._settle()
            while self._current < _IDLE and not self._active[self._current]:
                self._current += 1

    def enter_several(self, num: int) -> None:
        """Begin so many transfers."""
        for _ in range(num):
            self.enter("transfer")

    def leave_several(self, num: int) -> None:
        """End so many transfers."""
        for _ in range(num):
            self.leave("transfer")

    @property
    def is_only_waiting(self) -> bool:
        """Whether the one activity under way is waiting."""
        return self._current == _IDLE and self._active[_IDLE] > 0

    def charge_wait(self, activity: Activity, seconds: float) -> None:
        """Charge time that was counted as waiting to another activity."""
        self._seconds[_PLACES[activity]] = self._seconds[_PLACES[activity]] + seconds
        self._seconds[_IDLE] = self._seconds[_IDLE] - seconds

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
        if len(self.events) < self.max_events:
            self.events.append(Event(kind, name, start, self.clock(), self.step, peer, nbytes))
        elif self.max_events:
            self.dropped_events += 1

    def count_sent(self, nbytes: int, payload_nbytes: int, *, copies: int = 0) -> None:
        """Count what this rank puts on the network: whole frames, the tensors in them, and copies the network makes."""
        self.sent_nbytes = self.sent_nbytes + nbytes
        self.payload_nbytes = self.payload_nbytes + payload_nbytes
        if copies:
            self.relay_nbytes += nbytes * copies

    def record(self, values: dict[str, Any]) -> None:
        """Add named values to the row of the step under way.

        Raises:
            ProgramError: a name that the row has already, or something that is no number.
        """
        for name, value in values.items():
            if name in RESERVED:
                raise ProgramError(f"rank {self.rank} records {name!r}, which is filled in for every step; rename it")
            is_plain = isinstance(value, bool | int | float)
            if not (is_plain or (hasattr(value, "dtype") and name != "staleness")):
                expected = "a plain number" if name == "staleness" else "a number or a value"
                raise ProgramError(f"rank {self.rank} records {name}={value!r}; expected {expected}")
        self._values.update(values)

    def close_step(self, step: int) -> dict[str, Any]:
        """End the step under way and return its row."""
        self._settle()
        row = {"rank": self.rank, "step": step, "time": self.clock(), "bytes": self.sent_nbytes, "staleness": 0}
        for column, now, before in zip(_COLUMNS, self._seconds, self._at_step_start, strict=True):
            row[column] = now - before
        row.update(self._values)
        self.staleness[row["staleness"]] += 1
        if not self.keeps_rows and self.rows and self.rows[-1]["step"] < step:
            self.rows.pop()
        self.rows.append(row)
        self._values = {}
        self._at_step_start = self._seconds[:]
        self.step = step + 1
        return row

    def report(self, read: Callable[[Any], Any], digest: str, unread: int) -> RankReport:
        """Return everything as plain data, the recorded values `read` as numbers; see `RankReport` for the rest."""
        self._settle()
        rows = [{name: _plain(value, read) for name, value in row.items()} for row in self.rows]
        return RankReport(
            rank=self.rank,
            rows=rows,
            events=self.events,
            dropped_events=self.dropped_events,
            seconds=dict(zip(ACTIVITIES, self._seconds, strict=True)),
            sent_nbytes=self.sent_nbytes,
            payload_nbytes=self.payload_nbytes,
            relay_nbytes=self.relay_nbytes,
            digest=digest,
            unread=unread,
            staleness=dict(self.staleness),
            num_replaced=self.num_replaced,
        )


def _plain(value: Any, read: Callable[[Any], Any]) -> Any:
    """Return a Python number (or whatever is not a number, as it is)."""
    number = value if type(value) in _PLAIN else read(value)
    return number.item() if hasattr(number, "item") else number


@dataclass
class RankReport:
    """What one rank reports at the end, as plain data; fields as in `RankLog`.

    Attributes:
        digest: sha256 of the models this rank ended with.
        unread: messages that arrived and that nobody received.
        staleness: how many of all steps, also of those whose rows are not kept, were how stale.
        num_replaced: updates in whose place zeros were coded, because they were not finite.
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
    staleness: dict[int | float, int] = field(default_factory=dict)
    num_replaced: int = 0
    control_nbytes: int = 0


class LinkReport(NamedTuple):
    """What one link of a simulated network has done.

    Attributes:
        name: the link's.
        nbytes: what it has carried, headers that the network adds included [byte].
        utilisation: the part of its capacity that was used, over the whole run.
        queue_mean: how many messages were on it or waited for it at once, on average; None where nothing queues.
        queue_max: how many at most.
    """

    name: str
    nbytes: int
    utilisation: float
    queue_mean: float | None = None
    queue_max: int | None = None


class LinkBin(NamedTuple):
    """What one link of a simulated network did for a while.

    Attributes:
        start: when the while began [s].
        end: when it ended [s].
        name: the link's.
        nbytes: what it carried in that time [byte]; over all bins it is what the link carried in the run.
        utilisation: the part of its capacity that was used in that time.
    """

    start: float
    end: float
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
        link_bins: the same over time, bin after bin.
        network_events: what happened to the network in simulation.
        way: how it was simulated: `rank by rank`, `as one` or `as they come`; empty for a real run.
    """

    time: float
    reports: list[RankReport]
    evals: list[dict[str, Any]]
    models: list[Any]
    error: Exception | None = None
    links: list[LinkReport] = field(default_factory=list)
    link_bins: list[LinkBin] = field(default_factory=list)
    network_events: list[Event] = field(default_factory=list)
    way: str = ""


class Progress(Protocol):
    """Whoever wants to know how a run is getting on."""

    def __call__(self, time: float, step: int, last_step: float, loss: float | None, nbytes: int) -> None:
        """Take note of the first rank that leads: when it ended which step [s], of how many, and the bytes it has sent.

        `last_step` is infinite if that is not known; `loss` is the last one of rank 0, or None.
        """
