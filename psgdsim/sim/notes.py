"""What happened to ranks and to the network, for the timeline."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from psgdsim.trace import Event, RankLog


class Notes:
    """Events that are no program's doing.

    Args:
        clock: returns the time [s].
        max_events: how many events of the network are kept.

    Attributes:
        network: what happened to the network; it has no rank.
        dropped: how many of those were too many to keep.
    """

    def __init__(self, clock: Callable[[], float], max_events: int) -> None:
        self._clock, self._max_events = clock, max_events
        self._open: dict[Hashable, tuple[str, str, float, Sequence[RankLog]]] = {}
        self.network: list[Event] = []
        self.dropped = 0

    def begin(self, key: Hashable, kind: str, name: str, logs: Sequence[RankLog] = ()) -> None:
        """Note that something begins.

        Args:
            key: by which it will end.
            kind: `fault` or `change`.
            name: what it is.
            logs: of the ranks that it happens to; none if it happens to the network.
        """
        self._open[key] = kind, name, self._clock(), logs

    def end(self, key: Hashable) -> None:
        """Note that it ends, if it has begun."""
        if key not in self._open:
            return
        kind, name, start, logs = self._open.pop(key)
        for log in logs:
            log.add_event(kind, name, start)
        if logs:
            return
        if len(self.network) < self._max_events:
            self.network.append(Event(kind, name, start, self._clock(), 0))
        else:
            self.dropped += 1

    def end_all(self) -> None:
        """End what has not ended when the run does."""
        for key in list(self._open):
            self.end(key)
