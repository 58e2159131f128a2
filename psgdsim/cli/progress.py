"""One line on a terminal that says how far a run has come."""

from __future__ import annotations

import math
import sys
import time as clock
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.live import Live

REFRESH_SECONDS = 0.1


class TerminalProgress:
    """Show the progress of a run on standard error; nothing if that is no terminal.

    Used as a context manager; the line vanishes at the end.
    """

    def __init__(self) -> None:
        self._live: Live | None = None
        self._start = clock.monotonic()
        self._shown = -math.inf

    def __enter__(self) -> TerminalProgress:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), transient=True, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __call__(self, time: float, step: int, last_step: float, loss: float | None, nbytes: int) -> None:
        """Show where the run is.

        Args:
            time: the run's time, virtual in simulation [s].
            step: the step that ended last.
            last_step: the last step there can be; infinite if that is not known.
            loss: the step's loss, None if it is not known.
            nbytes: bytes sent so far.
        """
        now = clock.monotonic()
        if self._live is None or now - self._shown < REFRESH_SECONDS:
            return
        self._shown = now
        from rich.text import Text

        left = (now - self._start) * (last_step - step) / max(step, 1)
        line = progress_line(time, step, loss, nbytes, last_step=last_step, left=left)
        self._live.update(Text(line, no_wrap=True, overflow="ellipsis"), refresh=True)


def progress_line(
    time: float, step: int, loss: float | None, nbytes: int, *, last_step: float = math.inf, left: float = math.inf
) -> str:
    """Return the line: time of the run, step, loss, bytes, and the wall time that is left.

    Args:
        time: as in `TerminalProgress`, like the next three.
        step: the step that ended last.
        loss: None if it is not known.
        nbytes: bytes sent so far.
        last_step: infinite if it is not known.
        left: wall time that is left [s]; infinite if it is not known.
    """
    steps = f"step {step}/{int(last_step)}" if math.isfinite(last_step) else f"step {step}"
    parts = [f"time {time:.3f} s", steps, f"{nbytes / 1e6:.1f} MB sent"]
    if loss is not None:
        parts.insert(2, f"loss {loss:.4f}")
    if math.isfinite(left):
        parts.append(f"{left:.0f} s left")
    return "  ".join(parts)
