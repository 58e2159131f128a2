"""Workers that do the same are simulated as one; nobody sees that but by the clock on the wall."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Coroutine
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from psgdsim.data.order import SampleOrder
from psgdsim.errors import StrategyError
from psgdsim.node import Kernel, Node
from psgdsim.per_rank import Each, Parted, PerRank
from psgdsim.scenario import from_dict
from psgdsim.scenario.experiment import Experiment, build
from psgdsim.sim import driver
from psgdsim.sim.driver import Simulation, can_be_in_step, run_sim
from psgdsim.sim.execution import lane_job
from psgdsim.sim.execution.compiled import Compiled
from psgdsim.sim.execution.lane_batched import LaneBatched
from psgdsim.sim.execution.rounds import Rounds
from psgdsim.strategies.base import Strategy
from psgdsim.task import Task
from psgdsim.testing.checks import Check
from psgdsim.testing.verify_execution import CODED_TOLERANCE, TOLERANCE, compare_outcomes
from psgdsim.trace import Outcome

SPEC: dict[str, Any] = {
    "name": "in-step",
    "world_size": 40,
    "batch_size": 4,
    "max_steps": 7,
    "model": {"kind": "mlp", "hidden": [8]},
    "data": {"kind": "synthetic_classification", "num_samples": 2000, "num_features": 6, "num_classes": 3},
    "optimizer": {"kind": "sgd", "learning_rate": 0.05},
    "topology": {"kind": "star", "bandwidth": "100 Mbit/s", "latency": "50 us"},
    "compute": {"kind": "exponential", "mean": "1 ms"},
    "evaluate": {"every": "5 steps"},
    "trace": "steps",
    "strategy": {"kind": "all_reduce"},
}
SERVER: dict[str, Any] = {"kind": "parameter_server"}
TOP_K: dict[str, Any] = {"kind": "error_feedback", "codec": {"kind": "top_k", "ratio": 0.25}}
LOCAL: dict[str, Any] = {"kind": "local_sgd", "period": 3}

CASES: dict[str, dict[str, Any]] = {
    "server": {"strategy": SERVER},
    "server_constant": {"strategy": SERVER, "compute": {"kind": "constant", "time": "1 ms"}},
    "server_top_k": {"strategy": SERVER, "codec": TOP_K},
    "server_qsgd": {"strategy": SERVER, "codec": {"kind": "qsgd", "levels": 4}},
    "server_downlink": {"strategy": {**SERVER, "downlink": {"kind": "top_k", "ratio": 0.25}}},
    "server_target": {"strategy": SERVER, "target_accuracy": 0.9, "max_steps": 30},
    "server_last_rows": {"strategy": SERVER, "trace": "off"},
    "ring": {},
    "ring_max_time": {"max_steps": None, "max_time": "20 ms"},
    "ring_target": {"target_accuracy": 0.9, "max_steps": 30},
    "ring_adam": {"optimizer": {"kind": "adam", "learning_rate": 0.01}},
    "local_average": {
        "strategy": {**LOCAL, "buffers": "average", "post_local": 2},
        "optimizer": {"kind": "momentum", "learning_rate": 0.05},
    },
    "odd_number": {"world_size": 37, "strategy": SERVER},
}


def experiment_of(**changes: Any) -> Experiment:
    """Build a scenario of many ranks that do the same."""
    return build(from_dict({**SPEC, **changes}))


def run_both_ways(experiment: Experiment) -> tuple[Outcome, Outcome]:
    """Return the outcomes of running ranks one by one, and as one."""
    one, other = (Simulation(experiment, is_lockstep=is_lockstep).run() for is_lockstep in (False, True))
    for outcome in (one, other):
        if outcome.error is not None:
            raise outcome.error
    return one, other


def wrong(checks: Any) -> list[Check]:
    """Return the checks that fail."""
    return [check for check in checks if not check.is_right]


def assert_alike(one: Any, other: Any) -> None:
    """Numbers that flows decide may differ by rounding, as flows that are carried together are added up otherwise."""
    for row, same in zip(one, other, strict=True):
        for value, found in zip(row, same, strict=True):
            assert value == found or math.isclose(value, found, rel_tol=1e-9, abs_tol=1.0 if value == int(value) else 0)


@pytest.mark.parametrize("case", CASES)
def test_ranks_that_are_carried_on_as_one_are_those_that_are_not(case: str) -> None:
    experiment = experiment_of(**CASES[case])
    assert can_be_in_step(experiment)
    one, other = run_both_ways(experiment)
    is_coded = "top_k" in case or "qsgd" in case or "downlink" in case
    assert wrong(compare_outcomes(case, one, other, CODED_TOLERANCE if is_coded else 10 * TOLERANCE)) == []
    assert_alike(one.links, other.links)
    assert_alike(one.link_bins, other.link_bins)
    for report, same in zip(one.reports, other.reports, strict=True):
        for row, found in zip(report.rows, same.rows, strict=True):
            assert {name: type(value) for name, value in row.items()} == {
                name: type(value) for name, value in found.items()
            }


ROUNDS: list[dict[str, Any]] = [{}, {"strategy": SERVER}, {"strategy": SERVER, "codec": TOP_K}]


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, int]]:
    """Return a list that gets each compiled call: what is called, and how many rounds it runs (1 for what is none)."""
    found: list[tuple[Any, int]] = []
    call = Compiled.call

    def counted(self: Compiled, what: Any, compiler: Any, *arguments: Any) -> Any:
        found.append((what, int(arguments[0]) if isinstance(what, Rounds) else 1))
        return call(self, what, compiler, *arguments)

    monkeypatch.setattr(Compiled, "call", counted)
    return found


def run_as_one(**changes: Any) -> Outcome:
    """Return the outcome of running ranks as one."""
    outcome = Simulation(experiment_of(**changes), is_lockstep=True).run()
    assert outcome.error is None
    return outcome


@pytest.mark.parametrize("changes", ROUNDS)
def test_a_round_is_one_program(
    changes: dict[str, Any], programs: list[tuple[Any, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane_job, "MAX_NBYTES", 0)
    nums = []
    for steps in (8, 16):
        programs.clear()
        run_as_one(**changes, max_steps=steps, evaluate={"every": None})
        assert all(num == 1 for _, num in programs)
        nums.append(len(programs))
    assert nums[1] - nums[0] == 8


@pytest.mark.parametrize("changes", ROUNDS)
def test_rounds_that_are_alike_run_in_one_call(changes: dict[str, Any], programs: list[tuple[Any, int]]) -> None:
    run_as_one(**changes, max_steps=40, evaluate={"every": None})
    rounds = [(what, num) for what, num in programs if isinstance(what, Rounds)]
    assert len({what for what, _ in rounds}) == 1, "compiled more than once"
    assert sum(num for _, num in rounds) >= 38
    assert len(programs) < 10


@pytest.mark.parametrize("limit", [0, 64 << 20])
def test_flags_of_each_round_reach_it(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain numbers that are data, whatever their type, differ from round to round."""
    monkeypatch.setattr(lane_job, "MAX_NBYTES", limit)
    add = jax.jit(lambda total, flag, number, own: total + jnp.where(flag, 100, number) + own)
    kernel = Kernel("add", add, kind="gradient")
    execution = LaneBatched(3, 1000)
    total: Any = np.zeros((), np.float32)
    for flag, number in ((False, 1), (True, 1), (False, 2), (True, 1), (True, 1)):
        total = execution.call(kernel, (total, flag, number, PerRank([0, 1000, 2000])))
    execution.finish()
    assert total.numbers.tolist() == [303, 5303, 10303]


def test_what_is_wanted_of_a_round_in_between_is_there(programs: list[tuple[Any, int]]) -> None:
    changes: dict[str, Any] = {"strategy": SERVER, "max_steps": 16, "evaluate": {"every": "7 steps"}}
    together = run_as_one(**changes)
    assert max(num for _, num in programs) > 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lane_job, "NUM_ROUNDS", 1)
        apart = run_as_one(**changes)
    assert wrong(compare_outcomes("rounds", apart, together, TOLERANCE)) == []
    assert {row["step"] for row in together.evals} == {7, 14, 16}


def test_rounds_take_up_what_the_rounds_before_them_have_left() -> None:
    """Copies of each rank, buffers of its own, and a step that its learning rate depends on."""
    optimizer = {"kind": "momentum", "learning_rate": 0.1, "schedule": {"kind": "step_decay", "every_steps": 5}}
    one, other = run_both_ways(experiment_of(strategy={**LOCAL, "period": 9}, optimizer=optimizer, max_steps=24))
    assert wrong(compare_outcomes("schedule", one, other, 10 * TOLERANCE)) == []


def test_replicas_carried_on_as_one_end_with_the_same_parameters() -> None:
    outcome = Simulation(experiment_of(), is_lockstep=True).run()
    assert len({report.digest for report in outcome.reports}) == 1
    apart = Simulation(experiment_of(strategy=LOCAL, max_steps=2), is_lockstep=True).run()
    assert len({report.digest for report in apart.reports}) == 1  # of the average, which is what counts


@pytest.mark.parametrize(
    "changes",
    [
        {"execution": "exact"},
        {"trace": "full"},
        {"world_size": 1},
        {"strategy": {"kind": "all_reduce", "algorithm": "tree"}},
        {"strategy": {**SERVER, "sync": "async"}},
        {"strategy": {**SERVER, "on_peer_loss": "drop"}},
        {"faults": [{"kind": "crash", "rank": 1, "at_step": 2}]},
    ],
)
def test_who_may_part_is_simulated_rank_by_rank(changes: dict[str, Any]) -> None:
    assert not can_be_in_step(experiment_of(**changes))


# --- programs that part -----------------------------------------------------------------------------------------------


async def by_rank(node: Node, task: Task) -> None:
    if node.rank == 3:
        await node.sleep(1.0)
    await node.checkpoint(1, [])


async def to_a_neighbour(node: Node, task: Task) -> None:
    await node.send((node.rank + 1) % node.world_size, 1.0, tag="x")
    await node.recv(tag="x")
    await node.checkpoint(1, [])


async def at_once(node: Node, task: Task) -> None:
    await node.gather(node.sleep(1.0), node.sleep(2.0))
    await node.checkpoint(1, [])


async def by_loss(node: Node, task: Task) -> None:
    state = await node.compute(task.init, 0, None)
    losses, _ = await node.compute(task.gradients, [state.params], [task.blocks(node.world_size).ids(1, node.rank)])
    await node.sleep(float(await node.read(losses[0])))
    await node.checkpoint(1, [])


@pytest.mark.parametrize("program", [by_rank, to_a_neighbour, at_once, by_loss])
def test_ranks_that_part_are_simulated_one_by_one(
    program: Callable[[Node, Task], Coroutine[Any, Any, None]],
) -> None:
    experiment = dataclasses.replace(
        experiment_of(max_steps=1), strategy=Strategy(program, is_spmd=True, is_replicated=False)
    )
    with pytest.raises(Parted):
        Simulation(experiment, is_lockstep=True).run()
    outcome, single = run_sim(experiment), Simulation(experiment).run()
    assert outcome.error is None
    assert [report.rows for report in outcome.reports] == [report.rows for report in single.reports]


async def one_message_after_the_other(node: Node, task: Task) -> None:
    for _ in range(node.world_size):
        await node.recv(tag="x")
    await node.checkpoint(1, [])


async def to_the_server(node: Node, task: Task) -> None:
    await node.send(node.servers[0], 1.0, tag="x")
    await node.checkpoint(1, [])


def test_a_server_that_hears_workers_one_by_one_is_not_stuck() -> None:
    strategy = Strategy(
        to_the_server, server=one_message_after_the_other, num_servers=1, is_spmd=True, is_replicated=False
    )
    base = experiment_of(max_steps=1, strategy=SERVER)
    outcome = run_sim(dataclasses.replace(base, strategy=strategy))
    assert (outcome.error, len(outcome.reports)) == (None, 41)


async def backwards(node: Node, task: Task) -> None:
    await node.sleep(-1.0)


async def before_the_first_block(node: Node, task: Task) -> None:
    task.blocks(node.world_size).ids(1, node.rank - 1)


@pytest.mark.parametrize(("program", "what"), [(backwards, "delay"), (before_the_first_block, "block")])
def test_what_is_wrong_for_one_rank_is_wrong_for_all(
    program: Callable[[Node, Task], Coroutine[Any, Any, None]], what: str
) -> None:
    error = run_sim(dataclasses.replace(experiment_of(), strategy=Strategy(program, is_spmd=True))).error
    assert what in str(error)


def test_each_rank_has_the_digest_of_its_own_model() -> None:
    async def program(node: Node, task: Task) -> None:
        state, ids = await node.compute(task.init, 0, None), task.blocks(node.world_size).ids(1, node.rank)
        _, gradients = await node.compute(task.gradients, [state.params], [ids])
        await node.checkpoint(1, [gradients[0]["layers"][0]["bias"]])

    strategy = Strategy(program, is_spmd=True, is_replicated=False)
    simulation = Simulation(dataclasses.replace(experiment_of(), strategy=strategy), is_lockstep=True)
    simulation.evaluate = lambda step, time: None  # type: ignore[method-assign]
    assert len({report.digest for report in simulation.run().reports}) == 40


def test_without_a_trace_older_rows_are_those_of_the_first_rank() -> None:
    experiment = experiment_of(strategy=SERVER, trace="off")
    simulation = Simulation(experiment, is_lockstep=True)
    simulation.run()
    rows = simulation.nodes[0].log.rows
    assert [isinstance(row["time"], float) for row in rows] == [True] * 6 + [False]


def test_late_steps_draw_no_more_often_than_early_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    order = SampleOrder([np.arange(12 + block % 2) for block in range(4)], [60] * 4, seed=1)
    draws: list[int] = []
    draw = SampleOrder._draw_anew
    monkeypatch.setattr(
        SampleOrder, "_draw_anew", lambda self, block, number: (draws.append(number), draw(self, block, number))[1]
    )
    for step in range(1000, 1017):
        order.ids(step, PerRank(range(4)))
    assert len(draws) <= 4 * 6


def test_an_error_names_the_rank_that_it_happens_to() -> None:
    async def fails(node: Node, task: Task) -> None:
        raise ValueError("no more")

    experiment = dataclasses.replace(experiment_of(), strategy=Strategy(fails, is_spmd=True))
    error = run_sim(experiment).error
    assert isinstance(error, StrategyError)
    assert "in the program of rank 0 at 0 s" in str(error)


def test_an_update_that_is_not_finite_names_rank_and_step() -> None:
    experiment = experiment_of(
        strategy=SERVER, codec=TOP_K, optimizer={"kind": "sgd", "learning_rate": 1e30}, max_steps=20
    )
    assert "NaN or infinity" in str(run_sim(experiment).error)


def test_updates_that_are_left_out_are_counted_for_each_rank() -> None:
    experiment = experiment_of(
        strategy=SERVER,
        codec=TOP_K,
        optimizer={"kind": "sgd", "learning_rate": 1e30},
        max_steps=20,
        on_nonfinite="skip",
        evaluate={"every": None},
    )
    one, other = (Simulation(experiment, is_lockstep=is_lockstep).run() for is_lockstep in (False, True))
    assert [each.num_replaced for each in one.reports] == [each.num_replaced for each in other.reports]
    assert sum(each.num_replaced for each in one.reports) > 0


def test_a_run_of_many_ranks_in_step_takes_few_events(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    step = driver.Clock.step
    monkeypatch.setattr(driver.Clock, "step", lambda clock: (counts.append(1), step(clock))[1])
    run_sim(experiment_of(strategy=SERVER, compute={"kind": "constant", "time": "1 ms"}))
    assert len(counts) < 7 * 20  # steps, of which each has 40 messages up and down


# --- numbers of each rank ---------------------------------------------------------------------------------------------


def test_numbers_of_each_rank_give_one_answer_where_they_have_one() -> None:
    rank = PerRank(range(4))
    assert rank >= 0
    assert not rank > 5
    assert rank != 7
    assert rank == PerRank([0, 1, 2, 3])
    assert (rank * 0 + 2) // 2 == 1
    assert len(PerRank([[1, 2], [3, 4]])) == 2
    assert (10 - rank).items == [10, 9, 8, 7]


@pytest.mark.parametrize(
    "ask",
    [
        lambda rank: rank == 2,
        lambda rank: rank < 2,
        lambda rank: [1, 2, 3, 4][rank],
        lambda rank: {rank: 1},
        lambda rank: f"{rank}",
        int,
        str,
        bool,
        list,
        lambda rank: len(PerRank([[1], [1, 2]])),
        lambda rank: Each(1, 4)[0],
    ],
)
def test_numbers_of_each_rank_part_where_one_answer_is_asked_for(ask: Callable[[Any], Any]) -> None:
    with pytest.raises(Parted):
        ask(PerRank(range(4)))


@pytest.mark.parametrize("rows", [[3] * 4, [3, 3, 2, 2]])
@pytest.mark.parametrize("lengths", [[7] * 4, [7, 6, 6, 5], [7, 6, 6, 1]])
def test_sample_ids_of_all_ranks_are_those_of_each(lengths: list[int], rows: list[int]) -> None:
    shards = [np.arange(7 * block, 7 * block + length) for block, length in enumerate(lengths)]
    for step in (1, 2, 3, 9):
        together = SampleOrder(shards, rows, seed=3).ids(step, PerRank(range(4)))
        for block in range(4):
            np.testing.assert_array_equal(together.items[block], SampleOrder(shards, rows, seed=3).ids(step, block))
