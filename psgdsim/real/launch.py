"""Start the run's processes on this machine, collect what they print, and see to it that none outlives the run."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import sysconfig
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from psgdsim.real.forks import Fork, Forks, kept
from psgdsim.real.parent import PARENT_VARIABLE

TOKEN_VARIABLE: Final = "PSGDSIM_TOKEN"  # noqa: S105 - the name of the variable, not a token

STOP_TIMEOUT: Final = 3.0
"""How long a process may take to end once it is asked to [s]."""

_MAX_LINE = 4096
_OUTPUT_TIMEOUT = 1.0


class Child:
    """A process that this one started.

    Args:
        name: what messages call it, such as `"rank 3"`.
        process: the process.
        log: takes each line that it prints.
        on_exit: told when it has ended.
    """

    def __init__(
        self, name: str, process: Process | Fork, log: Callable[[str], None], on_exit: Callable[[Child], None]
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


class Launcher:
    """Starts the processes of one run, each to end when this process does.

    Programs of this interpreter are forked from a template (see `template`) where forking is safe, which is on Linux;
    others are started by themselves.

    Args:
        token: passed on in the environment, never on the command line.
        log: takes each line that they print.
        on_exit: told of each when it has ended.
    """

    def __init__(self, token: str, log: Callable[[str], None], on_exit: Callable[[Child], None]) -> None:
        self._token, self._log, self._on_exit = token, log, on_exit
        self._forks: Forks | None = None

    async def start(self, name: str, command: Sequence[str]) -> Child:
        """Start a process; the next may be started when this returns.

        Args:
            name: what messages call it.
            command: the program and its arguments.

        Raises:
            PsgdsimError: it could not be forked.
        """
        environment = {**_environment(), TOKEN_VARIABLE: self._token}
        process: Process | Fork
        if _is_to_be_forked(command):
            self._forks = self._forks or Forks(_environment())
            process = await self._forks.start(command[1:], environment)
        else:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, stdout=PIPE, stderr=STDOUT, env=environment
            )
        return Child(name, process, self._log, self._on_exit)

    def close(self) -> None:
        """Start no more; all have ended."""
        if self._forks is not None:
            self._forks.close()


def kept_template() -> AbstractContextManager[None]:
    """Let all runs within share what starting the first one imports.

    Example:
        >>> from psgdsim.real import launch
        >>> with launch.kept_template():
        ...     pass  # several runs in real mode
    """
    return kept(_environment())


def _is_to_be_forked(command: Sequence[str]) -> bool:
    is_plain = len(command) > 1 and command[0] == sys.executable and (command[1] == "-m" or command[1][:1] != "-")
    return is_plain and sys.platform == "linux"


def _environment() -> dict[str, str]:
    return {
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # several ranks may share one accelerator
        **os.environ,
        PARENT_VARIABLE: str(os.getpid()),
        "PYTHONPATH": os.pathsep.join(_own_paths()),
        "PYTHONUNBUFFERED": "1",
    }


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
