"""Notice that a run cannot go on although every process is alive: all wait, and nothing is on its way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from psgdsim.errors import Deadlock
from psgdsim.real.control import Heartbeat

STALL_SECONDS: Final = 2.0
"""How long all must wait, unchanged, before it counts; several heartbeats of every rank lie in it."""


class StallDetector:
    """Watch the heartbeats of all ranks.

    A run is stuck if every rank waits for a message, waits for the others at the end of a step or has ended, at least
    one waits for a message, as many messages have arrived as were sent, and all say so again and again for a while.
    What a rank that is lost has sent or should have got makes the sums differ: then nothing is noticed any more.
    """

    def __init__(self) -> None:
        self._seen: Mapping[str, Heartbeat] = {}
        self._since = 0.0
        self._heard: dict[str, tuple[Heartbeat, float]] = {}  # the last heartbeat of each rank, and when it was new

    def look(self, beats: Mapping[str, Heartbeat], now: float) -> Deadlock | None:
        """Take note of the last heartbeat of every rank.

        Args:
            beats: by what messages call a rank, in the order of the ranks.
            now: a monotonic time [s].

        Returns:
            The error, once the run is known to be stuck.
        """
        self._heard = {name: self._newer(name, beat, now) for name, beat in beats.items()}
        states = {beat.state for beat in beats.values()}
        in_flight = sum(beat.messages_sent - beat.messages_received for beat in beats.values())
        if "busy" in states or "waiting" not in states or in_flight or beats != self._seen:
            self._seen, self._since = dict(beats), now
            return None
        # A rank that is silent may be about to do anything, or be lost soon; what it said last is no longer so, not
        # even that it had ended: it may have frozen right after the rehearsal.
        is_silent = any(now - heard > STALL_SECONDS / 2 for _, heard in self._heard.values())
        return _deadlock(beats) if now - self._since >= STALL_SECONDS and not is_silent else None

    def _newer(self, name: str, beat: Heartbeat, now: float) -> tuple[Heartbeat, float]:
        known = self._heard.get(name)
        return known if known is not None and known[0] is beat else (beat, now)


def _deadlock(beats: Mapping[str, Heartbeat]) -> Deadlock:
    lines = ["deadlock: nothing is under way, and"]
    for name, beat in beats.items():
        if beat.state == "waiting":
            lines.append(f"  {name} (step {beat.step + 1}) waits for {' and '.join(beat.waits)}")
        elif beat.state == "meeting":
            lines.append(f"  {name} waits for checkpoint(step={beat.step})")
    return Deadlock("\n".join([*lines[:21], *(["  ..."] if len(lines) > 21 else [])]))
