"""Signals that ask this process to end, while a run lasts."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def signals_to(interrupt: Callable[[int], None]) -> Iterator[None]:
    """Give Ctrl-C and the like to a function while a run lasts, if this is the main thread.

    Handlers of the process, not of a loop: they also work while the run has a loop in another thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    if previous[signal.SIGHUP] is signal.SIG_IGN:  # started with nohup
        del previous[signal.SIGHUP]
    for signum in previous:
        signal.signal(signum, lambda signum, _: interrupt(signum))
    try:
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
