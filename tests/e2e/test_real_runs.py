"""Real runs: processes over TCP, their bytes, their failures, and that nothing of them is left."""

from __future__ import annotations

import asyncio
import os
import re
import runpy
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from psgdsim import wire
from psgdsim.errors import Deadlock, Interrupted, RankFailed, ScenarioError, StrategyError
from psgdsim.real import stall
from psgdsim.real.coordinator import run_real
from psgdsim.real.launch import Launcher

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

SCRIPT = str(Path(__file__).with_name("real_programs.py"))
PROGRAMS = runpy.run_path(SCRIPT)
COMMANDS = {
    "forked": ([sys.executable, SCRIPT, "worker"], [sys.executable, SCRIPT, "relay"]),
    "alone": ([sys.executable, "-u", SCRIPT, "worker"], [sys.executable, "-u", SCRIPT, "relay"]),
}
"""How processes start: as forks of the template, and, with an option of the interpreter, each by itself."""


def start(program, world_size=2, multicast="unicast", way="forked", **options):
    text = f"{program} {world_size} {multicast}"
    experiment = PROGRAMS["build"](text)
    for name in ("processes", "host", "heartbeat_timeout"):
        if name in options:
            setattr(experiment.scenario.real, name, options.pop(name))
    return run_real(experiment, text, commands=COMMANDS[way], **options)


def descendants(ancestor):
    """Return the processes that a process has started, and those that they have, as far as they still exist."""
    parents = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(process.name)] = int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended at this moment
    found, new = set(), {ancestor}
    while new:
        new = {pid for pid, parent in parents.items() if parent in new}
        found |= new
    return found


@pytest.fixture(autouse=True)
def _nothing_is_left(template):
    before = descendants(os.getpid())
    yield
    assert descendants(os.getpid()) == before


@pytest.mark.parametrize(("multicast", "way"), [("unicast", "forked"), ("relay", "forked"), ("relay", "alone")])
def test_a_run_to_its_end(multicast, way):
    outcome = start("exchange", 3, multicast, way)
    assert outcome.error is None
    frame, copies = wire.nbytes(PROGRAMS["PAYLOAD"]), 2 if multicast == "unicast" else 1
    for rank, report in enumerate(outcome.reports):
        assert report.rank == rank
        assert [row["step"] for row in report.rows] == [1, 2, 3, 4, 5, 6]
        assert [row["loss"] for row in report.rows] == [1 / step for step in range(1, 7)]
        assert report.sent_nbytes == report.rows[-1]["bytes"] == 6 * copies * frame
        assert report.payload_nbytes == 6 * copies * 200_000
        assert report.relay_nbytes == (0 if multicast == "unicast" else 12 * frame)
        assert report.unread == 0
        assert 0 < report.control_nbytes < 200_000
        assert {event.kind for event in report.events} == {"compute", "send", "receive"}
        assert sum(report.seconds.values()) == pytest.approx(report.rows[-1]["time"], abs=0.1)
    assert [(row["step"], row["model"], row["test_accuracy"]) for row in outcome.evals] == [
        (2, 0, 0.5),
        (4, 0, 0.5),
        (6, 0, 0.5),
    ]
    np.testing.assert_array_equal(outcome.models[0]["w"], PROGRAMS["PAYLOAD"] * 5 * 6)
    assert outcome.time >= max(report.rows[-1]["time"] for report in outcome.reports)
    assert len({report.digest for report in outcome.reports}) == 3


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("fails", r"rank 1: step 3: ValueError: the loss is a walrus \(.*real_programs.py:\d+\)"),
        ("disagrees", "rank 1: step 3: rank 0 sent another checksum"),
        ("dies", r"rank 1: training.*: its process was killed by signal 9 \(SIGKILL\)"),
        ("unbuildable", "rank [01]: start-up: there is no such data set"),
    ],
)
def test_a_rank_that_fails_is_named_with_its_cause_and_ends_the_run(program, message):
    experiment_of = "exchange" if program == "unbuildable" else program
    experiment = PROGRAMS["build"](f"{experiment_of} 2 unicast")
    log = []
    outcome = run_real(experiment, f"{program} 2 unicast", commands=COMMANDS["forked"], log=log.append)
    assert isinstance(outcome.error, RankFailed)
    assert re.match(message, str(outcome.error)), str(outcome.error)
    if program != "unbuildable":
        assert [row["step"] for row in outcome.reports[0].rows][:2] == [1, 2]
        assert [row["step"] for row in outcome.evals] == [2]
    if program == "fails":
        assert any(line.startswith("[rank 1] ") and "walrus" in line for line in log)


def test_a_rank_that_was_started_by_itself_and_dies_is_named_too():
    outcome = start("dies", way="alone")
    assert re.match(r"rank 1: training.*: its process was killed by signal 9 \(SIGKILL\)", str(outcome.error))


def test_a_frozen_rank_is_lost_by_its_silence():
    outcome = start("freezes", heartbeat_timeout=6.0)
    assert str(outcome.error).startswith("rank 1: training")
    assert "it gave no sign of life for 6 s" in str(outcome.error)


def test_a_deadlock_says_who_waits_for_what():
    outcome = start("strands")
    assert isinstance(outcome.error, Deadlock)
    assert "rank 0 (step 4) waits for recv(tag='s4') from rank 1" in str(outcome.error)
    assert "rank 1 (step 3) waits for recv(tag='never sent') from rank 0" in str(outcome.error)


def test_a_job_that_still_sleeps_is_no_deadlock(monkeypatch):
    monkeypatch.setattr(stall, "STALL_SECONDS", 0.6)
    outcome = start("ponders")
    assert outcome.error is None
    assert [len(report.rows) for report in outcome.reports] == [6, 6]


def test_ranks_that_do_not_end_the_same_steps_are_told():
    outcome = start("leaves")
    assert isinstance(outcome.error, StrategyError)
    assert str(outcome.error) == ("the ranks do not end the same steps: rank 0 at the end of step 2, rank 1 has ended")


def test_a_target_that_one_reaches_ends_all_that_run_freely():
    outcome = start("roams", 3)
    assert outcome.error is None
    assert [row["step"] for row in outcome.reports[0].rows] == [1, 2]
    assert all(1 <= len(report.rows) < 10**6 for report in outcome.reports)
    assert [(row["step"], row["time"]) for row in outcome.evals] == [
        (2, pytest.approx(outcome.reports[0].rows[1]["time"], abs=0.05))
    ]
    np.testing.assert_array_equal(outcome.models[0]["w"], PROGRAMS["PAYLOAD"] * 2)


@pytest.mark.parametrize("is_in_a_loop", [False, True])
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_in_order(signum, code, is_in_a_loop):
    async def start_in_a_loop(**options):
        return start("hangs", **options)

    def stop_when_it_hangs(line):
        if "rank 1 hangs now" in line:
            os.kill(os.getpid(), signum)

    handler = signal.getsignal(signum)
    options = {"log": stop_when_it_hangs}
    outcome = asyncio.run(start_in_a_loop(**options)) if is_in_a_loop else start("hangs", **options)
    assert isinstance(outcome.error, Interrupted)
    assert outcome.error.exit_code == code
    assert [row["step"] for row in outcome.reports[0].rows][:2] == [1, 2]
    assert signal.getsignal(signum) is handler


def test_a_signal_ends_a_run_whose_processes_are_not_started_yet(monkeypatch):
    async def never_started(launcher, name, command):
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(3600)

    monkeypatch.setattr(Launcher, "start", never_started)
    outcome = start("exchange")
    assert isinstance(outcome.error, Interrupted)


@pytest.mark.parametrize(("way", "num_processes"), [("forked", 3), ("alone", 2)])
def test_workers_end_when_the_coordinator_is_killed(way, num_processes):
    code = (
        "import runpy, sys; from psgdsim.real.coordinator import run_real\n"
        f"build = runpy.run_path({SCRIPT!r})['build']\n"
        f"run_real(build('hangs 2 unicast'), 'hangs 2 unicast', commands={COMMANDS[way]!r}, "
        "log=lambda line: print(line, flush=True))"
    )
    coordinator = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert any("rank 1 hangs now" in line for line in coordinator.stdout)
    processes = descendants(coordinator.pid)
    assert len(processes) == num_processes  # two workers, and the template
    coordinator.kill()
    coordinator.wait()
    coordinator.stdout.close()
    deadline = time.monotonic() + 30
    while any(_is_alive(pid) for pid in processes):
        assert time.monotonic() < deadline, "processes outlived their coordinator"
        time.sleep(0.05)


def _is_alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_an_open_address_needs_a_token(monkeypatch):
    monkeypatch.delenv("PSGDSIM_TOKEN", raising=False)
    with pytest.raises(ScenarioError, match=r"real.host: 0.0.0.0 can be reached .* set PSGDSIM_TOKEN"):
        start("exchange", processes="manual", host="0.0.0.0")


def test_workers_join_by_hand_and_those_without_the_token_do_not(monkeypatch):
    monkeypatch.setenv("PSGDSIM_TOKEN", "canary-token")
    processes, log, outcomes = [], [], []
    joined = threading.Event()

    def join(line):
        found = re.fullmatch(r"waiting for 2 workers: psgdsim client --ip (\S+) --port (\d+), or .* (\S+)", line)
        address = found[3]
        assert address == f"{found[1]}:{found[2]}"
        for token in ("wrong", "canary-token", "canary-token"):
            environment = {**os.environ, "PSGDSIM_TOKEN": token}
            command = [*COMMANDS["forked"][0], address]
            processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
        joined.set()

    outcomes.append(start("exchange", processes="manual", announce=join, log=log.append))
    assert joined.is_set()
    assert outcomes[0].error is None
    assert len(outcomes[0].reports) == 2
    results = [(process.communicate()[1], process.returncode) for process in processes]
    assert "wrong token: set PSGDSIM_TOKEN to the same text on both sides" in results[0][0]
    assert [code for _, code in results] == [1, 0, 0]
    assert any("wrong token" in line for line in log)
    assert "canary-token" not in "".join([*log, *(text for text, _ in results)])
