"""What a process that the coordinator started owes it: to end when the coordinator does."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

PARENT_VARIABLE: Final = "PSGDSIM_PARENT"
"""Names the environment variable that tells a process who started it."""

_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Make this process, if a coordinator on this machine or its template started it, end when that one does.

    Ctrl-C is the coordinator's to handle: it reaches all processes of the terminal, and the coordinator ends the
    others in order.
    """
    parent = os.environ.pop(PARENT_VARIABLE, None)
    if parent is None:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(parent):
        sys.exit(1)
