"""Start the run's processes on this machine, collect what they print, and see to it that none outlives the run."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import sysconfig
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

TOKEN_VARIABLE: Final = "PSGDSIM_TOKEN"  # noqa: S105 - the name of the variable, not a token
PARENT_VARIABLE: Final = "PSGDSIM_PARENT"

STOP_TIMEOUT: Final = 3.0
"""How long a process may take to end once it is asked to [s]."""

_MAX_LINE = 4096
_OUTPUT_TIMEOUT = 1.0
_PR_SET_PDEATHSIG = 1


class Child:
    """A process that this one started.

    Args:
        name: what messages call it, such as `"rank 3"`.
        process: the process.
        log: takes each line that it prints.
        on_exit: told when it has ended.
    """

    def __init__(
        self, name: str, process: Process, log: Callable[[str], None], on_exit: Callable[[Child], None]
    ) -> None:
        self.name, self.pid = name, process.pid
        self._process, self._log = process, log
        self._last_line = ""
        self._watch = asyncio.create_task(self._run(on_exit))

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.returncode is None

    @property
    def fate(self) -> str:
        """How it ended."""
        code = self._process.returncode or 0
        if code >= 0:
            last = f": {self._last_line}" if self._last_line else ""
            return f"its process ended with exit code {code}{last}"
        try:
            name = f" ({signal.Signals(-code).name})"
        except ValueError:
            name = ""
        return f"its process was killed by signal {-code}{name}"

    async def _run(self, on_exit: Callable[[Child], None]) -> None:
        output = asyncio.create_task(self._read_output())
        await self._process.wait()
        await asyncio.wait({output}, timeout=_OUTPUT_TIMEOUT)
        on_exit(self)
        await output

    async def _read_output(self) -> None:
        stream = self._process.stdout
        rest = b""
        while stream is not None and (data := await stream.read(2**16)):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._write_line(line)
            if len(rest) > _MAX_LINE:
                self._write_line(rest)
                rest = b""
        if rest:
            self._write_line(rest)

    def _write_line(self, line: bytes) -> None:
        text = line[:_MAX_LINE].decode(errors="replace").rstrip()
        text = "".join(letter if letter.isprintable() else " " for letter in text)
        self._last_line = text.strip() or self._last_line
        self._log(f"[{self.name}] {text}")

    def send_signal(self, signum: int) -> None:
        """Send it a signal unless it has ended."""
        if self.is_running:
            try:
                self._process.send_signal(signum)
            except ProcessLookupError:
                return  # it ended at this moment

    async def wait(self) -> None:
        """Wait until it has ended and all it printed is in the log."""
        await asyncio.wait({self._watch})


async def start(
    name: str,
    command: Sequence[str],
    token: str,
    *,
    log: Callable[[str], None],
    on_exit: Callable[[Child], None],
) -> Child:
    """Start a process that ends when this one does.

    Args:
        name: what messages call it.
        command: the program and its arguments.
        token: passed on in the environment, never on the command line.
        log: takes each line that it prints.
        on_exit: told when it has ended.
    """
    environment = {
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # several ranks may share one accelerator
        **os.environ,
        TOKEN_VARIABLE: token,
        PARENT_VARIABLE: str(os.getpid()),
        "PYTHONPATH": os.pathsep.join(_own_paths()),
        "PYTHONUNBUFFERED": "1",
    }
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=PIPE, stderr=STDOUT, env=environment
    )
    return Child(name, process, log, on_exit)


def _own_paths() -> list[str]:
    """Return where this process finds modules, so that a child finds the same, but for the interpreter's own."""
    places = sysconfig.get_paths()
    interpreter = tuple(places[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    return [path or str(Path.cwd()) for path in sys.path if not path.startswith(interpreter)]


async def stop(children: Iterable[Child], *, patience: float = STOP_TIMEOUT) -> None:
    """End processes: wait, then ask (SIGTERM), then insist (SIGKILL); returns when all have ended."""
    running = list(children)
    for signum in (None, signal.SIGTERM, signal.SIGKILL):
        for child in running:
            if signum is not None:
                child.send_signal(signum)
        waits = [asyncio.create_task(child.wait()) for child in running if child.is_running]
        if waits:
            timeout = {None: patience, signal.SIGTERM: STOP_TIMEOUT}.get(signum)
            _, pending = await asyncio.wait(waits, timeout=timeout)
            for task in pending:
                task.cancel()
    for child in running:
        await child.wait()


def end_with_parent() -> None:
    """Make this process, if a coordinator on this machine started it, end when that one does.

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
