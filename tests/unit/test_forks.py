"""real.forks and real.template: what is forked is like what is started by itself, and ends with its origin."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys

import msgspec
import pytest

from psgdsim.errors import PsgdsimError
from psgdsim.real import forks, launch, template
from psgdsim.real.launch import TOKEN_VARIABLE, Launcher, kept_template

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]


@pytest.fixture
def programs(tmp_path):
    """Return a function that writes a program and returns the command that runs it."""

    def program(name, code, *arguments):
        path = tmp_path / f"{name}.py"
        path.write_text(code, encoding="utf-8")
        return [sys.executable, str(path), *arguments]

    return program


def run(*commands, token="secret", act=lambda child: None):
    """Start processes, act on each, and return them and what they printed."""
    lines, ended = [], []

    async def main():
        launcher = Launcher(token, lines.append, ended.append)
        try:
            children = []
            for i, command in enumerate(commands):
                children.append(await launcher.start(str(i), command))
                act(children[-1])
            for child in children:
                await child.wait()
        finally:
            launcher.close()
        return children

    children = asyncio.run(main())
    assert sorted(ended, key=children.index) == children
    return children, lines


def test_a_fork_is_the_program_that_was_asked_for(programs, monkeypatch, tmp_path):
    monkeypatch.setenv("ADDED", "1")
    monkeypatch.delenv("PATH")
    (tmp_path / "beside.py").write_text("FOUND = 'beside'", encoding="utf-8")
    code = f"""
import os, sys, __main__
import beside
print(sys.argv[1:], __name__, __main__.__file__ == sys.argv[0], beside.FOUND)
print(os.environ["ADDED"], os.environ.get("PATH"), os.environ[{TOKEN_VARIABLE!r}])
print("an error", file=sys.stderr)
print(sys.stdin.read() == "", sorted(map(int, os.listdir("/proc/self/fd")))[:3])
sys.exit(7)
"""
    (child,), lines = run(programs("asked", code, "a", "b c"))
    assert lines == [
        "[0] ['a', 'b c'] __main__ True beside",
        "[0] 1 None secret",
        "[0] an error",
        "[0] True [0, 1, 2]",
    ]
    assert child.fate == "its process ended with exit code 7: True [0, 1, 2]"
    assert "secret" not in " ".join(sys.argv)


def test_jax_is_imported_and_not_started_when_a_process_is_forked(programs):
    code = """
import sys
assert {"jax", "optax", "psgdsim.real.worker", "psgdsim.scenario.experiment", "psgdsim.cli"} <= set(sys.modules)
from jax._src import xla_bridge
print(xla_bridge.backends_are_initialized())
import jax
print(jax.local_device_count(), float(jax.jit(lambda x: x + 1)(1.0)))
"""
    _, lines = run(programs("starts_jax", code))
    assert lines == ["[0] False", f"[0] {_num_devices()} 2.0"]


def _num_devices():
    import jax

    return jax.local_device_count()


def test_an_error_is_printed_as_always(programs):
    (child,), lines = run(programs("wrong", "import no_such_module"))
    assert "ModuleNotFoundError: No module named 'no_such_module'" in lines[-1]
    assert child.fate.startswith("its process ended with exit code 1: ModuleNotFoundError")


def test_a_signal_reaches_the_fork_it_is_sent_to(programs):
    sleeping, ending = programs("sleeping", "import time; time.sleep(3600)"), programs("ending", "")
    sent = iter([signal.SIGTERM, None, signal.SIGKILL])

    def act(child):
        if (signum := next(sent)) is not None:
            child.send_signal(signum)

    children, _ = run(sleeping, ending, sleeping, act=act)
    assert [child.fate for child in children] == [
        "its process was killed by signal 15 (SIGTERM)",
        "its process ended with exit code 0",
        "its process was killed by signal 9 (SIGKILL)",
    ]
    for child in children:
        with pytest.raises(ProcessLookupError):
            os.kill(child.pid, 0)


def test_forks_end_with_their_template(programs):
    code = """
import time
from psgdsim.real import parent
parent.end_with_parent()
print("on")
time.sleep(3600)
"""

    async def main():
        lines, printed = [], asyncio.Event()
        launcher = Launcher("", lambda line: (lines.append(line), printed.set()), lambda child: None)
        child = await launcher.start("0", programs("lasting", code))
        await printed.wait()
        launcher._forks._template.process.kill()
        await child.wait()
        assert child.fate == "its process was killed by signal 9 (SIGKILL)"
        with pytest.raises(PsgdsimError, match="a process could not be started"):
            await launcher.start("1", programs("late", ""))
        launcher.close()

    with kept_template():
        asyncio.run(main())
        # The next run has a template of its own.
        assert run(programs("next", "print('next')"))[1] == ["[0] next"]


def test_a_template_that_is_kept_serves_one_run_after_the_other(programs, monkeypatch, tmp_path):
    command = programs("origin", "import os; print(os.getppid())")

    async def two_at_once():
        launchers = [Launcher("", lines.append, lambda child: None) for lines in (first, second)]
        for launcher in launchers:
            await (await launcher.start("0", command)).wait()
        for launcher in launchers:
            launcher.close()

    first, second = [], []
    with kept_template():
        origin = f"[0] {forks._kept.process.pid}"
        assert [run(command)[1] for _ in range(2)] == [[origin]] * 2
        asyncio.run(two_at_once())
        assert first == [origin] != second
        monkeypatch.chdir(tmp_path)
        assert run(command)[1] != [origin]  # relative paths mean something else here


def test_a_run_that_ends_before_its_processes_do_leaves_none(programs):
    async def main():
        launcher = Launcher("", lambda line: None, lambda child: None)
        starting = asyncio.create_task(launcher.start("0", programs("sleeping", "import time; time.sleep(99)")))
        await asyncio.sleep(0)
        starting.cancel()
        process = launcher._forks._template.process
        launcher.close()
        return process

    with kept_template():
        origin = forks._kept.process
        assert asyncio.run(main()) is origin
        assert origin.returncode == -signal.SIGKILL


def test_a_system_that_has_no_process_left_says_so(monkeypatch):
    def no_fork():
        raise BlockingIOError(11, "Resource temporarily unavailable")

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        monkeypatch.setattr(os, "fork", no_fork)
        assert not template.Template(theirs)._fork(os.dup(0))
        reply = msgspec.msgpack.decode(ours.recv(1000), type=template.Reply)
        assert reply == template.Failed("[Errno 11] Resource temporarily unavailable")


def test_only_programs_of_this_interpreter_are_forked():
    assert launch._is_to_be_forked([sys.executable, "-m", "psgdsim", "worker"])
    assert launch._is_to_be_forked([sys.executable, "file.py"])
    assert not launch._is_to_be_forked([sys.executable, "-u", "file.py"])
    assert not launch._is_to_be_forked([sys.executable])
    assert not launch._is_to_be_forked(["ssh", "host"])
