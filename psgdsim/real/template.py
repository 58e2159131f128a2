"""A process that has imported what every process of a run needs, and forks itself for each that is asked for.

Importing takes longer than all else that a short run does. It is done once here, for all ranks of this machine; jax is
imported but not started: it starts threads as it first looks for devices, and those do not survive a fork.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import runpy
import select
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from psgdsim.real import parent

MAX_REQUEST_NBYTES: Final = 2**18

PRELOADED: Final = (
    "psgdsim.cli",
    "psgdsim.real.relay",
    "psgdsim.real.worker",
    "psgdsim.scenario.experiment",
    "psgdsim.task",
    "jax",
    "optax",
    "ruamel.yaml",
)
"""What is imported before any fork; one that cannot be imported is left to those who need it, and to their error."""


class Fork(msgspec.Struct, tag=True):
    """Asks for a process; the file descriptor that comes along is to be its standard output and error.

    Attributes:
        arguments: of the interpreter, `-m MODULE ...` or `FILE ...`.
        environment: what its environment has and the template's has not; None for what it lacks.
    """

    arguments: list[str]
    environment: dict[str, str | None]


class Signal(msgspec.Struct, tag=True):
    """Asks to send a process a signal unless it has ended."""

    pid: int
    signum: int


class Forked(msgspec.Struct, tag=True):
    """A process says that it has begun."""

    pid: int


class Ended(msgspec.Struct, tag=True):
    """The template says that a process has ended; its exit code is negative if that was by a signal."""

    pid: int
    exit_code: int


class Failed(msgspec.Struct, tag=True):
    """The template says that it could not fork."""

    reason: str


Reply = Forked | Ended | Failed


class Template:
    """The forking of processes, one after the other.

    Args:
        channel: to the process that asks for them; it keeps the bounds of messages.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel, self._pid = channel, os.getpid()
        self._running: set[int] = set()
        self._wakes, self._wake = socket.socketpair()

    def serve(self) -> list[str]:
        """Fork a process for every request and report its end, until whoever asks is gone: this ends the process.

        Returns:
            In a forked process only: the arguments of the interpreter that it is to be.
        """
        for end in (self._wakes, self._wake):
            end.setblocking(False)
        signal.set_wakeup_fd(self._wake.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        while True:
            ready, _, _ = select.select([self._channel, self._wakes], [], [])
            if self._wakes in ready:
                self._wakes.recv(2**12)
                self._reap()
            if self._channel in ready:
                message, files, _, _ = socket.recv_fds(self._channel, MAX_REQUEST_NBYTES, 1)
                if not message:
                    os._exit(0)
                request = msgspec.msgpack.decode(message, type=Fork | Signal)
                if isinstance(request, Signal):
                    self._send_signal(request)
                elif self._fork(files[0]):
                    self._become(request, files[0])
                    return request.arguments

    def _tell(self, reply: Forked | Ended | Failed) -> None:
        self._channel.send(msgspec.msgpack.encode(reply))

    def _reap(self) -> None:
        for pid in list(self._running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self._running.remove(pid)
                self._tell(Ended(pid, os.waitstatus_to_exitcode(status)))

    def _send_signal(self, request: Signal) -> None:
        if request.pid in self._running:  # not reaped yet: the number is still this process's
            os.kill(request.pid, request.signum)

    def _fork(self, output: int) -> bool:
        """Fork; return whether this is the new process."""
        try:
            pid = os.fork()
        except OSError as error:
            self._tell(Failed(str(error)))
            pid = -1
        if pid == 0:
            return True
        os.close(output)
        if pid > 0:
            self._running.add(pid)
        return False

    def _become(self, request: Fork, output: int) -> None:
        """Make this new process what is asked for, and let go of all that is the template's."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._wakes.close()
        self._wake.close()
        for stream in (1, 2):
            os.dup2(output, stream)
        os.close(output)
        for name, value in request.environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        os.environ[parent.PARENT_VARIABLE] = str(self._pid)
        # By the new process itself, so that nothing it does is heard of before its id is.
        self._tell(Forked(os.getpid()))
        self._channel.close()


def run(arguments: Sequence[str]) -> None:
    """Do what the interpreter does with its arguments, `-m MODULE ...` or `FILE ...`."""
    if arguments[0] == "-m":
        sys.argv = list(arguments[1:])
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(arguments)
        sys.path[0] = str(Path(arguments[0]).resolve().parent)
        runpy.run_path(arguments[0], run_name="__main__")


def main() -> None:
    """Run the template; its one argument is the file descriptor of its channel."""
    parent.end_with_parent()
    channel = socket.socket(fileno=int(sys.argv[1]))
    for module in PRELOADED:
        with contextlib.suppress(Exception):
            importlib.import_module(module)
    gc.freeze()  # what is shared by all is not to be written to, nor looked through, by any
    run(Template(channel).serve())


if __name__ == "__main__":
    main()
