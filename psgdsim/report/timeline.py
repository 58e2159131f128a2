"""The timeline of a run in Chrome's trace format, which Perfetto and chrome://tracing open."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from psgdsim.trace import Event, RankReport

_TRACKS = {"compute": 0, "encode": 0, "send": 100, "receive": 200, "fault": 300, "change": 400}


def chrome_trace(
    reports: Sequence[RankReport], network: Sequence[Event] = (), world_size: int | None = None
) -> dict[str, Any]:
    """Return all events of a run: one process per rank, in it rows for compute, send, receive and faults.

    Messages that overlap in time get a row each, so that none hides another.

    Args:
        reports: one per rank.
        network: what happened to the network, a process of its own after the ranks.
        world_size: the number of workers, if servers come after them.

    Returns:
        A JSON-able object in the trace event format; times in microseconds.
    """
    rows: list[dict[str, Any]] = []
    for report in reports:
        is_server = world_size is not None and report.rank >= world_size
        rows += _rows(report.rank, f"rank {report.rank}{' (server)' * is_server}", report.events)
    if network:
        rows += _rows(len(reports), "network", network)
    dropped = sum(report.dropped_events for report in reports)
    return {"displayTimeUnit": "ms", "otherData": {"dropped_events": dropped}, "traceEvents": rows}


def _rows(pid: int, process: str, events: Iterable[Event]) -> Iterator[dict[str, Any]]:
    yield {"ph": "M", "pid": pid, "tid": 0, "name": "process_name", "args": {"name": process}}
    yield {"ph": "M", "pid": pid, "tid": 0, "name": "process_sort_index", "args": {"sort_index": pid}}
    named: set[int] = set()
    for event, track in _with_tracks(events):
        if track not in named:
            named.add(track)
            name = next(kind for kind, first in _TRACKS.items() if first == track // 100 * 100)
            yield {"ph": "M", "pid": pid, "tid": track, "name": "thread_name", "args": {"name": name}}
        yield {
            "ph": "X",
            "pid": pid,
            "tid": track,
            "cat": event.kind,
            "name": event.name,
            "ts": event.start * 1e6,
            "dur": (event.end - event.start) * 1e6,
            "args": _details(event),
        }


def _with_tracks(events: Iterable[Event]) -> Iterator[tuple[Event, int]]:
    """Give each event the first row of its kind that is free when it starts."""
    free_at: dict[int, float] = {}
    for event in sorted(events, key=lambda event: (event.start, event.end)):
        first = _TRACKS[event.kind]
        track = next(
            lane for lane in range(first, first + 100) if free_at.get(lane, 0.0) <= event.start or lane == first + 99
        )
        free_at[track] = event.end
        yield event, track


def _details(event: Event) -> dict[str, Any]:
    details: dict[str, Any] = {"step": event.step} if event.step else {}
    if event.nbytes:
        details["nbytes"] = event.nbytes
    if event.peer >= 0:
        details["peer"] = event.peer
    return details
