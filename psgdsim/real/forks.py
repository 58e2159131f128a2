"""Processes forked from a template, as the coordinator sees them: the other side of `template`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from psgdsim.errors import PsgdsimError
from psgdsim.real import template

MAX_REPLY_NBYTES: Final = 2**12


_kept: Template | None = None


class Template:
    """A running template process.

    Args:
        environment: its own.

    Attributes:
        channel: to it.
        process: the process.
        is_taken: locked while it serves a run.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment, self.folder = dict(environment), Path.cwd()
        self.is_taken = threading.Lock()
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.setblocking(False)
        with theirs:
            self.process = subprocess.Popen(  # noqa: S603 - this program itself
                [sys.executable, "-m", template.__name__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=2,
                pass_fds=[theirs.fileno()],
                env=self.environment,
            )

    def take(self, environment: Mapping[str, str]) -> bool:
        """Reserve it for a run unless it has ended, serves another one, or finds other modules than the run does."""
        is_fit = self.folder == Path.cwd() and self.environment["PYTHONPATH"] == environment["PYTHONPATH"]
        return is_fit and self.process.poll() is None and self.is_taken.acquire(blocking=False)

    def end(self) -> None:
        """End it, and with it all that it forked."""
        self.channel.close()
        self.process.kill()
        self.process.wait()


class Fork:
    """A process that a template has forked; looks like one of `asyncio`, as far as that is needed.

    Args:
        pid: its process id.
        stdout: what it prints.
        send_signal: sends it a signal.
    """

    def __init__(self, pid: int, stdout: asyncio.StreamReader, send_signal: Callable[[int], None]) -> None:
        self.pid, self.stdout, self.send_signal = pid, stdout, send_signal
        self.returncode: int | None = None
        self._has_ended = asyncio.Event()

    def end(self, exit_code: int) -> None:
        """Take note that it has ended."""
        self.returncode = exit_code
        self._has_ended.set()

    async def wait(self) -> int | None:
        """Wait until it has ended; return its exit code."""
        await self._has_ended.wait()
        return self.returncode


class Forks:
    """The processes that one run has of a template, its own or the one that is kept.

    Args:
        environment: that of the template, if it is the run's own.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._template = _kept if _kept is not None and _kept.take(environment) else Template(environment)
        self._running: dict[int, Fork] = {}
        self._output = asyncio.StreamReader()
        self._begun: asyncio.Future[Fork] | None = None
        self._is_lost = False
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._template.channel, self._receive)

    async def start(self, arguments: Sequence[str], environment: Mapping[str, str]) -> Fork:
        """Fork a process; the next may be asked for when this returns.

        Args:
            arguments: of the interpreter that it is to be.
            environment: its own.

        Raises:
            PsgdsimError: that was not possible.
        """
        self._begun, self._output = self._loop.create_future(), asyncio.StreamReader()
        request = template.Fork(list(arguments), _changes(self._template.environment, environment))
        output, theirs = os.pipe()
        try:
            protocol = asyncio.StreamReaderProtocol(self._output)
            await self._loop.connect_read_pipe(lambda: protocol, os.fdopen(output, "rb", buffering=0))
            self._ask(request, theirs)
        finally:
            os.close(theirs)
        if self._is_lost:
            self._lose_template()
        return await self._begun

    def close(self) -> None:
        """Let the template go: end it unless it is kept, and fit for another run."""
        self._loop.remove_reader(self._template.channel)
        is_clean = not self._running and (self._begun is None or self._begun.done())
        if self._template is _kept and is_clean:
            self._template.is_taken.release()
        else:
            self._template.end()

    def _ask(self, request: template.Fork | template.Signal, *files: int) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it is gone; `_receive` sees that too
            socket.send_fds(self._template.channel, [msgspec.msgpack.encode(request)], files)

    def _receive(self) -> None:
        try:
            message = self._template.channel.recv(MAX_REPLY_NBYTES)
        except BlockingIOError:
            return
        except ConnectionResetError:
            message = b""
        if not message:
            self._lose_template()
            return
        reply = msgspec.msgpack.decode(message, type=template.Reply)
        if isinstance(reply, template.Ended):
            if reply.pid in self._running:
                self._running.pop(reply.pid).end(reply.exit_code)
            else:  # killed before it could say that it had begun
                self._refuse(f"it ended with exit code {reply.exit_code}")
        elif isinstance(reply, template.Failed):
            self._refuse(reply.reason)
        elif self._begun is not None and not self._begun.done():
            fork = Fork(reply.pid, self._output, lambda signum: self._ask(template.Signal(reply.pid, signum)))
            self._running[reply.pid] = fork
            self._begun.set_result(fork)

    def _refuse(self, reason: str) -> None:
        if self._begun is not None and not self._begun.done():
            self._begun.set_exception(PsgdsimError(f"a process could not be started: {reason}"))

    def _lose_template(self) -> None:
        """Take note that the template is gone; what it forked ends with it."""
        self._is_lost = True
        self._loop.remove_reader(self._template.channel)
        self._refuse("the process that it was to be a copy of has ended")
        for fork in self._running.values():
            fork.end(-signal.SIGKILL)
        self._running.clear()


def _changes(base: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str | None]:
    changes: dict[str, str | None] = {name: None for name in base if name not in environment}
    return changes | {name: value for name, value in environment.items() if base.get(name) != value}


@contextlib.contextmanager
def kept(environment: Mapping[str, str]) -> Iterator[None]:
    """Keep one template for all runs within, instead of one for each run."""
    global _kept  # noqa: PLW0603 - of a process there is one, and so of what it keeps
    _kept, before = Template(environment), _kept
    try:
        yield
    finally:
        _kept.end()
        _kept = before
