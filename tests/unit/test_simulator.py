"""The simulator's own promises: deadlocks explained, errors placed, accounts that add up, determinism."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import subprocess
import sys

import pytest

import psgdsim
from psgdsim.errors import Deadlock, ProgramError, PsgdsimError, StrategyError
from psgdsim.mailbox import Mailbox, Waiter
from psgdsim.node import Kernel, Message
from psgdsim.scenario import from_dict
from psgdsim.scenario.experiment import build
from psgdsim.sim.driver import Simulation
from psgdsim.sim.values import Computed
from psgdsim.strategies.base import Strategy

QUADRATIC = {
    "name": "quadratic",
    "seed": 5,
    "world_size": 4,
    "model": {"kind": "quadratic", "dim": 4, "noise": 0.5},
    "data": {"kind": "none"},
    "batch_size": 2,
    "optimizer": {"kind": "sgd", "learning_rate": 0.1},
    "strategy": {"kind": "all_reduce", "algorithm": "ring"},
    "topology": {"kind": "star", "bandwidth": "1 Mbit/s", "latency": "1 ms"},
    "compute": {"kind": "exponential", "mean": "10 ms"},
    "max_steps": 6,
}


def simulate(program, **changes):
    experiment = build(from_dict({**QUADRATIC, **changes}))
    object.__setattr__(experiment, "strategy", Strategy(program))
    return Simulation(experiment).run()


def test_a_deadlock_says_who_waits_for_what():
    async def worker(node, task):
        if node.rank == 1:
            await node.send(0, 1, tag="unasked")
        elif node.rank == 0:
            await node.recv(1, tag="never sent")
        else:
            await node.checkpoint(6, [])

    error = simulate(worker).error
    assert isinstance(error, Deadlock)
    assert "rank 0 (step 1) waits for recv(tag='never sent') from rank 1; unread: 'unasked' from rank 1" in str(error)
    assert "rank 2 (step 7) waits for checkpoint(step=6)" in str(error)
    assert "rank 1" not in str(error).split("\n", 1)[1].replace("from rank 1", "")


def test_waiting_for_ever_is_a_deadlock_too():
    async def worker(node, task):
        await (node.sleep(math.inf) if node.rank else node.recv(1, tag="never sent", timeout=math.inf))

    error = simulate(worker).error
    assert isinstance(error, Deadlock)
    assert "rank 0 (step 1) waits for recv(tag='never sent') from rank 1" in str(error)


def test_the_time_is_a_float_whatever_was_slept():
    times = []

    async def worker(node, task):
        times.append(node.now)
        await node.sleep(1)
        times.append(node.now)

    assert simulate(worker).error is None
    assert {type(time) for time in times} == {float}


def test_awaiting_something_foreign_names_program_and_line():
    async def worker(node, task):
        await asyncio.sleep(0)

    error = simulate(worker).error
    assert isinstance(error, ProgramError)
    assert "test_simulator.py:" in str(error)
    assert "worker' awaits something that yields NoneType" in str(error)
    assert "may await only what its node offers" in str(error)


def test_arithmetic_on_a_value_is_refused():
    async def worker(node, task):
        value = await node.compute(Kernel("zeros", lambda: __import__("numpy").zeros(3)))
        value * 2

    error = simulate(worker).error
    assert isinstance(error, ProgramError)
    assert "node.compute" in str(error)


def test_an_error_in_a_program_names_its_rank_and_time():
    async def worker(node, task):
        await node.sleep(1.5)
        if node.rank == 2:
            raise LookupError("on purpose")

    error = simulate(worker).error
    assert isinstance(error, StrategyError)
    assert "rank 2 at 1.5 s of virtual time: LookupError: on purpose" in str(error)


@pytest.mark.parametrize("dst", [1, 4, -1])
def test_sending_to_oneself_or_nobody_is_an_error(dst):
    async def worker(node, task):
        if node.rank == 1:
            await node.send(dst, 1, tag="x")

    assert "expected another of 0 to 3" in str(simulate(worker).error)


def test_seconds_by_activity_add_up_to_the_time_of_each_rank():
    outcome = Simulation(build(from_dict(QUADRATIC))).run()
    for report in outcome.reports:
        assert sum(report.seconds.values()) == pytest.approx(outcome.time, rel=1e-9)
        for row, before in zip(report.rows, [None, *report.rows], strict=False):
            spent = sum(row[f"{name}_s"] for name in report.seconds)
            assert spent == pytest.approx(row["time"] - (before["time"] if before else 0.0), rel=1e-9, abs=1e-12)


def test_more_rows_take_proportionally_longer():
    strategy = {"kind": "coded_shuffle", "redundancy": 3}
    plain = Simulation(build(from_dict({**QUADRATIC, "max_steps": 1}))).run()
    coded = Simulation(build(from_dict({**QUADRATIC, "max_steps": 1, "strategy": strategy}))).run()
    for a, b in zip(plain.reports, coded.reports, strict=True):
        assert b.seconds["compute"] == pytest.approx(3 * a.seconds["compute"], rel=1e-12)


@pytest.mark.parametrize("stop", [{"max_time": "80 ms"}, {"epochs": 1, "data": {"kind": "none", "num_samples": 24}}])
def test_stop_rules_end_all_ranks_at_the_same_step(stop):
    outcome = Simulation(build(from_dict({**{k: v for k, v in QUADRATIC.items() if k != "max_steps"}, **stop}))).run()
    steps = {report.rows[-1]["step"] for report in outcome.reports}
    assert len(steps) == 1
    if "epochs" in stop:
        assert steps == {3}
    else:
        last, before = outcome.reports[0].rows[-1], outcome.reports[0].rows[-2]
        assert outcome.time >= 0.08 > before["time"]
        assert last["step"] == before["step"] + 1


def test_target_accuracy_ends_a_run_early(tmp_path):
    result = psgdsim.run(
        "scenarios/ring_8nodes.yaml", out=tmp_path / "run", overrides=["target_accuracy=0.5", "evaluate.every=1 step"]
    )
    accuracies = result.evals["test_accuracy"]
    assert accuracies[-1] >= 0.5 > accuracies[-2]
    assert result.summary["steps"] < 55


def test_values_show_shape_but_no_numbers():
    value = Computed(__import__("numpy").zeros((2, 3), "float32"))
    assert (value.shape, str(value.dtype), repr(value)) == ((2, 3), "float32", "Value(float32[2, 3])")
    with pytest.raises(ProgramError):
        bool(value)


DIGEST = """
import hashlib, json, sys, tempfile, pathlib, psgdsim
with tempfile.TemporaryDirectory() as folder:
    result = psgdsim.run(json.loads(sys.argv[1]), out=folder + "/run")
    names = ("trace.json", "steps.csv", "evals.csv", "params.npz")
    print(hashlib.sha256(b"".join((result.folder / name).read_bytes() for name in names[:3])).hexdigest())
    print(result.summary["params_sha256"])
"""


def test_same_scenario_and_seed_give_the_same_bytes_in_other_processes():
    outputs = {
        subprocess.run(
            [sys.executable, "-c", DIGEST, json.dumps(QUADRATIC)],
            env={**__import__("os").environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert len(outputs.pop().split()[0]) == hashlib.sha256().digest_size * 2


def test_another_seed_gives_another_run(tmp_path):
    a = psgdsim.run(QUADRATIC, out=tmp_path / "a").summary
    b = psgdsim.run(QUADRATIC, out=tmp_path / "b", seed=6).summary
    assert a["params_sha256"] != b["params_sha256"]
    assert a["time_s"] != b["time_s"]
    assert b["seed"] == 6


def test_a_run_never_overwrites(tmp_path):
    psgdsim.run(QUADRATIC, out=tmp_path)
    with pytest.raises(PsgdsimError, match="never overwrites"):
        psgdsim.run(QUADRATIC, out=tmp_path)


def test_codec_time_is_charged_apart_from_gradients_and_transfers():
    changes = {"strategy": {"kind": "all_reduce", "algorithm": "broadcast"}, "codec": {"kind": "cast"}, "max_steps": 1}
    free = Simulation(build(from_dict({**QUADRATIC, **changes}))).run()
    paid = Simulation(build(from_dict({**QUADRATIC, **changes, "codec_rate": "1 kB/s"}))).run()
    for a, b in zip(free.reports, paid.reports, strict=True):
        assert a.seconds["encode"] == 0
        # One encode and four decodes of 4 float32 values at 1 kB/s.
        assert b.seconds["encode"] >= 5 * 16e-3
        assert b.seconds["compute"] == pytest.approx(a.seconds["compute"], rel=1e-9)
    assert paid.time > free.time


@pytest.mark.parametrize(
    "measuring", [{"evaluate": {"every": None}}, {"evaluate": {"every": "1 step"}}, {"max_time": "1 h"}]
)
def test_measuring_does_not_change_the_time_of_ranks_that_do_not_wait_for_each_other(measuring):
    async def worker(node, task):
        state = await node.compute(task.init, 0, None)
        for step in task.steps():
            await node.sleep(1.0 if (step + node.rank) % 4 == 0 else 0.1)
            if not await node.checkpoint(step, [state.params]):
                return

    outcome = simulate(worker, max_steps=8, **measuring)
    assert outcome.error is None
    assert [report.rows[-1]["time"] for report in outcome.reports] == pytest.approx([2 * 1.0 + 6 * 0.1] * 4)
    expected = list(range(1, 9)) if measuring.get("evaluate") == {"every": "1 step"} else [8]
    if "max_time" not in measuring:
        assert [row["step"] for row in outcome.evals] == expected


# --- what both drivers agree on, and no law can say: it ends the run, or is counted --------------------------------


def test_a_multicast_to_nobody_costs_no_bytes():
    async def worker(node, task):
        await node.multicast([], 1, tag="nobody")

    for multicast in ("native", "relay", "unicast"):
        outcome = simulate(worker, topology={**QUADRATIC["topology"], "multicast": multicast})
        assert outcome.error is None
        assert [report.sent_nbytes for report in outcome.reports] == [0] * 4


@pytest.mark.parametrize("multicast", ["native", "relay"])
def test_the_laws_of_nodes_hold_however_the_network_multicasts(multicast):
    changes = {
        "plugins": ["psgdsim.testing.node_laws"],
        "strategy": {"kind": "node_law", "law": "all"},
        "topology": {**QUADRATIC["topology"], "bandwidth": "1 Gbit/s", "multicast": multicast},
        "max_steps": 1,
    }
    assert Simulation(build(from_dict({**QUADRATIC, **changes}))).run().error is None


def test_ranks_that_meet_at_different_steps_are_an_error():
    async def worker(node, task):
        await node.sleep(0.1 * node.rank)
        await node.checkpoint(6 + (node.rank == 2), [])

    error = simulate(worker).error
    assert isinstance(error, StrategyError)
    places = ", ".join(f"rank {rank} at the end of step {6 + (rank == 2)}" for rank in range(4))
    assert str(error) == f"the ranks do not end the same steps: {places}"


@pytest.mark.parametrize("late", [0.0, 1.0])
def test_a_rank_that_ends_while_others_meet_is_an_error(late):
    async def worker(node, task):
        if node.rank == 3:
            await node.sleep(late)
        else:
            await node.sleep(0.5)
            await node.checkpoint(6, [])

    error = simulate(worker).error
    assert isinstance(error, StrategyError)
    assert str(error).endswith("rank 2 at the end of step 6, rank 3 has ended")


def test_an_error_is_not_hidden_by_a_program_that_awaits_in_finally():
    ended = []

    async def worker(node, task):
        if node.rank == 2:
            await node.sleep(1)
            raise LookupError("on purpose")
        try:
            await node.recv(2, tag="never")
        finally:
            try:
                await node.sleep(0.1)
            finally:
                await node.sleep(0.1)
                ended.append("not reached")

    assert "rank 2 at 1 s of virtual time: LookupError: on purpose" in str(simulate(worker).error)
    assert ended == []


def test_a_program_that_will_not_be_cancelled_is_named():
    async def stubborn(node):
        while True:
            try:
                await node.recv(tag="never")
            except BaseException:
                continue

    async def worker(node, task):
        if node.rank == 0:
            job = node.spawn(stubborn(node))
            await node.sleep(0.1)
            job.cancel()
            await job.wait()

    error = simulate(worker).error
    assert isinstance(error, ProgramError)
    assert "test_simulator.py:" in str(error)
    assert "stubborn' cannot be cancelled" in str(error)


def test_an_error_in_finally_of_a_cancelled_job_ends_the_run():
    async def fail(node):
        try:
            await node.recv(tag="never")
        finally:
            raise LookupError("while it was cancelled")

    async def worker(node, task):
        if node.rank == 0:
            job = node.spawn(fail(node))
            await node.sleep(0.1)
            job.cancel()
        await node.sleep(1)

    assert "at 0.1 s of virtual time: LookupError: while it was cancelled" in str(simulate(worker).error)


def test_an_error_is_not_lost_with_one_who_waited_for_it():
    async def fail(node):
        await node.sleep(1)
        raise LookupError("on purpose")

    async def worker(node, task):
        if node.rank == 0:
            job = node.spawn(fail(node))
            waiting = node.spawn(job.wait())
            await node.sleep(0.5)
            waiting.cancel()
        await node.sleep(2)

    assert "rank 0 at 1 s of virtual time: LookupError: on purpose" in str(simulate(worker).error)


def test_a_message_put_back_keeps_its_place():
    mailbox, got = Mailbox(), []
    waiters = [Waiter(0, "t", got.append) for _ in range(2)]
    for waiter in waiters:
        mailbox.wait(waiter)
    messages = [Message(0, "t", number) for number in range(4)]
    for message in messages:
        mailbox.put(message)
    assert got == messages[:2]
    for waiter, message in zip(waiters, messages, strict=False):
        mailbox.put_back(message)
        mailbox.cancel(waiter)
    assert [mailbox.take(0, "t").payload for _ in range(4)] == [0, 1, 2, 3]


def test_a_message_put_back_goes_to_one_who_waits():
    mailbox, got = Mailbox(), []
    first, second = Waiter(0, "t", lambda _: None), Waiter(None, "t", got.append)
    mailbox.wait(first)
    mailbox.put(Message(0, "t", 1))
    mailbox.wait(second)
    mailbox.put_back(Message(0, "t", 1))
    mailbox.cancel(first)
    assert [message.payload for message in got] == [1]
    assert mailbox.unread == []


def test_a_model_without_accuracy_is_evaluated_once_per_step():
    outcome = Simulation(build(from_dict({**QUADRATIC, "evaluate": {"every": "2 steps"}}))).run()
    assert [row["step"] for row in outcome.evals] == [2, 4, 6]


HANG_UP = """
import os, signal, sys, psgdsim
from psgdsim.scenario import from_dict
from psgdsim.scenario.experiment import build
from psgdsim.sim.driver import Simulation
from psgdsim.strategies.base import Strategy
import json
experiment = build(from_dict(json.loads(sys.argv[1])))

async def worker(node, task):
    await node.sleep(1)
    if node.rank == 0:
        os.kill(os.getpid(), signal.SIGHUP)
    await node.sleep(1)

object.__setattr__(experiment, "strategy", Strategy(worker))
signal.signal(signal.SIGHUP, getattr(signal, sys.argv[2]))
outcome = Simulation(experiment).run()
print(type(outcome.error).__name__, getattr(outcome.error, "exit_code", 0))
"""


@pytest.mark.parametrize(("before", "said"), [("SIG_DFL", "Interrupted 129"), ("SIG_IGN", "NoneType 0")])
def test_a_hang_up_ends_a_run_unless_it_is_ignored(before, said):
    command = [sys.executable, "-c", HANG_UP, json.dumps(QUADRATIC), before]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == said
