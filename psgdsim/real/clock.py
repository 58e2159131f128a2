"""The time of training: monotonic seconds since the start, without the pauses for evaluation."""

from __future__ import annotations

import time


class Clock:
    """A clock that stands still until it is started, and while it is held; it never goes back."""

    def __init__(self) -> None:
        self._offset: float | None = None
        self._held_at: float | None = 0.0

    def __call__(self) -> float:
        """Return the time [s]."""
        if self._held_at is not None or self._offset is None:
            return self._held_at or 0.0
        return time.monotonic() - self._offset

    def start(self) -> None:
        """Begin at 0."""
        self._offset, self._held_at = time.monotonic(), None

    def hold(self) -> None:
        """Stand still."""
        self._held_at = self()

    def release(self, pause: float) -> None:
        """Go on.

        Args:
            pause: how much of the time since `hold` does not count [s].
        """
        held_at = self._held_at or 0.0
        if self._offset is not None:
            now = time.monotonic()
            passed = max(0.0, now - self._offset - held_at - pause)
            self._offset = now - held_at - passed
        self._held_at = None
