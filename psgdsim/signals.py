"""Signals that ask this process to end, while a run lasts; both drivers take them the same way."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def signals_to(interrupt: Callable[[int], None]) -> Iterator[None]:
    """Give Ctrl-C and the like to a function while a run lasts, if this is the main thread.

    They are handlers of the process, not of an event loop: they also work while the run has a loop in another thread.

    Args:
        interrupt: takes the signal's number.
    """
    names = ("SIGINT", "SIGTERM", "SIGHUP")  # the last is not everywhere
    previous = {signum: signal.getsignal(signum) for name in names if (signum := getattr(signal, name, None))}
    if previous.get(getattr(signal, "SIGHUP", None)) is signal.SIG_IGN:  # started with nohup
        del previous[signal.SIGHUP]
    try:
        for signum in previous:
            signal.signal(signum, lambda signum, _: interrupt(signum))
    except ValueError:  # only the main thread may, and it goes on as it was
        previous = {}
    try:
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
