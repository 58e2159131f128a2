"""An asynchronous server and its workers are simulated as a whole; nobody sees that but by the clock on the wall."""

from __future__ import annotations

import dataclasses
import itertools
import math
import signal
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psgdsim.codecs import Codec
from psgdsim.compute_times import ComputeTime, Draw
from psgdsim.errors import CodecError, Deadlock, Interrupted
from psgdsim.scenario import from_dict
from psgdsim.scenario.experiment import Experiment, build
from psgdsim.sim import driver
from psgdsim.sim.as_they_come import run as as_they_come
from psgdsim.sim.as_they_come import values
from psgdsim.sim.driver import Simulation, run_sim
from psgdsim.sim.flow_table import Flow
from psgdsim.sim.fluid import FluidLinks
from psgdsim.sim.paths import plain_path
from psgdsim.sim.shared_link import SharedLink
from psgdsim.sim.wires import Wires
from psgdsim.testing.verify_execution import TOLERANCE, compare_outcomes, run_in_batches
from psgdsim.topologies import ring as ring_part
from psgdsim.topologies import star as star_part
from psgdsim.topologies.base import Topology
from psgdsim.trace import Outcome

SERVER: dict[str, Any] = {"kind": "parameter_server", "sync": "async"}
SPEC: dict[str, Any] = {
    "name": "as-they-come",
    "world_size": 40,
    "batch_size": 4,
    "max_steps": 7,
    "model": {"kind": "mlp", "hidden": [8]},
    "data": {"kind": "synthetic_classification", "num_samples": 2000, "num_features": 6, "num_classes": 3},
    "optimizer": {"kind": "sgd", "learning_rate": 0.05},
    "topology": {"kind": "star", "bandwidth": "100 Mbit/s", "latency": "50 us"},
    "compute": {"kind": "exponential", "mean": "1 ms"},
    "evaluate": {"every": "5 steps"},
    "execution": "batched",
    "trace": "steps",
    "strategy": SERVER,
}
SLOW_LINK = {"kind": "star", "bandwidth": "2 Mbit/s", "latency": "50 us"}
CONSTANT = {"kind": "constant", "time": "1 ms"}
DECAY = {"kind": "cosine", "total_steps": 10}
WITHOUT: dict[str, Any] = {"evaluate": {"every": None}, "world_size": 12}
"""No evaluations, and fewer updates: the run message by message compiles chains of them, of fewer lengths then."""

CASES: dict[str, dict[str, Any]] = {
    "many": {},
    "one_worker": {"world_size": 1},
    "two_workers": {"world_size": 2, "max_steps": 40},
    "all_at_once": {"compute": CONSTANT},
    "all_at_once_on_a_slow_link": {"compute": CONSTANT, "topology": SLOW_LINK},
    "slow_link": {"topology": SLOW_LINK},
    "half_of_them_slow": {"compute": {"kind": "fixed_slow_set", "time": "1 ms", "delay": "2 ms", "ranks": [1, 3, 5]}},
    "no_latency": {"topology": {**SLOW_LINK, "latency": "0 s"}},
    "headers": {"network": {"message_overhead": {"nbytes": "66 B"}}},
    "momentum_and_a_schedule": {
        **WITHOUT,
        "optimizer": {"kind": "momentum", "learning_rate": 0.05, "schedule": DECAY},
    },
    "max_time": {"max_steps": None, "max_time": "20 ms"},
    "target": {"target_accuracy": 0.8, "max_steps": 40, "evaluate": {"every": "1 step"}},
    "last_rows_only": {"trace": "off"},
    "delay_compensation": {**WITHOUT, "strategy": {**SERVER, "delay_compensation": {"kind": "adaptive"}}},
    "codec_with_memory": {**WITHOUT, "codec": {"kind": "error_feedback", "codec": {"kind": "top_k", "ratio": 0.25}}},
    "random_codec": {**WITHOUT, "codec": {"kind": "qsgd", "levels": 4}},
    "adam": {**WITHOUT, "optimizer": {"kind": "adam", "learning_rate": 0.01}},
    "drop": {"strategy": {**SERVER, "on_peer_loss": "drop"}},
    "no_evaluations": WITHOUT,
}


def experiment_of(**changes: Any) -> Experiment:
    """Build a scenario of many workers and a server that applies gradients as they come."""
    return build(from_dict({**SPEC, **changes}))


def run_as_a_whole(experiment: Experiment) -> Outcome:
    """Run it as a whole; fail if that cannot be."""
    assert as_they_come.is_as_they_come(experiment)
    outcome = as_they_come.run(experiment)
    assert outcome is not None
    return outcome


def assert_alike(one: Any, other: Any) -> None:
    """Numbers that flows decide may differ by rounding: by a byte where bytes are counted, else hardly."""
    for row, same in zip(one, other, strict=True):
        for value, found in zip(row, same, strict=True):
            if isinstance(value, float):
                assert math.isclose(value, found, rel_tol=1e-6, abs_tol=1e-9)
            else:
                assert value == found or abs(value - found) <= 1


@pytest.mark.parametrize("case", CASES)
def test_a_run_as_a_whole_is_the_run_message_by_message(case: str) -> None:
    experiment = experiment_of(**CASES[case])
    one, other = Simulation(experiment).run(), run_as_a_whole(experiment)
    assert one.error is None
    assert other.error is None
    checks = compare_outcomes(case, one, other, 10 * TOLERANCE, rounding=1e-12)
    assert [check for check in checks if not check.is_right] == []
    assert_alike(one.links, other.links)
    assert_alike(one.link_bins, other.link_bins)
    for report, same in zip(one.reports, other.reports, strict=True):
        assert (same.unread, same.events, same.num_replaced) == (0, [], 0)
        for row, found in zip(report.rows, same.rows, strict=True):
            assert {name: type(value) for name, value in row.items()} == {
                name: type(value) for name, value in found.items()
            }
            assert (row["time"], row.get("version")) == (found["time"], found.get("version"))
    assert other.reports[0].digest == one.reports[0].digest


@pytest.mark.parametrize(
    "changes",
    [
        {"execution": "exact"},
        {"trace": "full"},
        {"strategy": {**SERVER, "sync": "bsp"}},
        {"strategy": {**SERVER, "sync": "k_async", "k": 2}},
        {"strategy": {**SERVER, "downlink": {"kind": "top_k", "ratio": 0.25}}},
        {"codec": {"kind": "threshold", "value": 0.01}},
        {"codec_rate": "1 GB/s"},
        {"faults": [{"kind": "crash", "rank": 1, "at_step": 2}], "strategy": {**SERVER, "on_peer_loss": "drop"}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_a_message_may_decide_is_simulated_message_by_message(changes: dict[str, Any]) -> None:
    assert not as_they_come.is_as_they_come(experiment_of(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"network": {"model": "fifo"}},
        {"network": {"model": "ideal"}},
        {"network": {"tcp": "lv08"}},
        {"network": {"message_overhead": {"cpu": "1 us"}}},
        {"hosts": {"servers": "beside"}},
        {"topology": {"kind": "shared_medium", "bandwidth": "100 Mbit/s", "latency": "50 us"}},
    ],
    ids=str,
)
def test_networks_with_other_ways_to_meet_are_simulated_message_by_message(changes: dict[str, Any]) -> None:
    experiment = experiment_of(**changes)
    assert as_they_come.is_as_they_come(experiment)
    assert as_they_come.run(experiment) is None
    assert run_sim(experiment).error is None


def test_a_run_of_many_workers_takes_the_short_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "Simulation", None)
    assert run_sim(experiment_of()).error is None
    with pytest.raises(TypeError):  # few ranks with few gradients do not: compiling for them would take longer
        run_sim(experiment_of(world_size=4))


def test_rows_are_let_go_of_where_only_the_last_ones_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = experiment_of(trace="off", max_steps=20)
    whole = run_as_a_whole(experiment)
    monkeypatch.setattr(as_they_come, "MAX_OPEN", 50)
    monkeypatch.setattr(values, "LONGEST", 64)
    parts = run_as_a_whole(experiment)
    for report, same in zip(whole.reports, parts.reports, strict=True):
        assert dataclasses.replace(report, rows=[]) == dataclasses.replace(same, rows=[])
        assert report.rows[:-1] == same.rows[:-1]
        assert report.rows[-1] == same.rows[-1]
    assert len(parts.reports[0].rows) == 1
    assert len(parts.reports[-1].rows) == 20


def test_progress_is_told_of_each_step_of_the_server() -> None:
    calls: list[tuple[Any, ...]] = []
    experiment = experiment_of()
    outcome = as_they_come.run(experiment, lambda *call: calls.append(call))
    assert outcome is not None
    assert [call[1] for call in calls] == list(range(1, 8))
    assert [call[0] for call in calls] == [row["time"] for row in outcome.reports[-1].rows]
    assert [call[4] for call in calls] == [row["bytes"] for row in outcome.reports[-1].rows]


def test_a_signal_ends_a_run_with_what_it_has() -> None:
    def interrupt(_time: float, step: int, *_: Any) -> None:
        if step == 3:
            signal.raise_signal(signal.SIGTERM)

    experiment = experiment_of()
    outcome = as_they_come.run(experiment, interrupt)
    assert outcome is not None
    assert isinstance(outcome.error, Interrupted)
    server = outcome.reports[-1]
    assert [row["step"] for row in server.rows] == [1, 2, 3]
    assert outcome.time == server.rows[-1]["time"]
    whole = run_as_a_whole(experiment)
    assert server.rows == whole.reports[-1].rows[:3]
    for report, same in zip(outcome.reports, whole.reports, strict=True):
        assert report.rows == same.rows[: len(report.rows)]
        assert sum(report.seconds.values()) == pytest.approx(outcome.time)


def test_a_signal_counts_though_an_update_must_not_be_used() -> None:
    codec = codec_of(lambda update, state, _key: (jax.tree.map(lambda leaf: leaf / 0, update), state))

    def interrupt(*_: Any) -> None:
        signal.raise_signal(signal.SIGTERM)

    outcome = as_they_come.run(with_codec(codec), interrupt)
    assert outcome is not None
    assert isinstance(outcome.error, Interrupted)


def test_a_computation_that_never_ends_is_told_rank_by_rank() -> None:
    def start(rank: int, _generator: Any) -> Draw:
        times = itertools.chain([1e-3, 2e-3], itertools.repeat(math.inf if rank == 1 else 1e-3))
        return lambda _now, _load: next(times)

    experiment = dataclasses.replace(experiment_of(), compute=ComputeTime(start, 1e-3))
    assert as_they_come.run(experiment) is None
    assert isinstance(run_sim(experiment).error, Deadlock)


def with_codec(codec: Codec, **changes: Any) -> Experiment:
    experiment = experiment_of(**changes)
    return dataclasses.replace(experiment, task=dataclasses.replace(experiment.task, codec=codec))


def codec_of(encode: Any) -> Codec:
    return Codec(init=lambda _like: (), encode=encode, decode=lambda payload, state, _like: (payload, state))


def test_an_update_that_must_not_be_used_is_told_with_its_rank_and_step() -> None:
    experiment = with_codec(codec_of(lambda update, state, _key: (jax.tree.map(lambda leaf: leaf / 0, update), state)))
    assert as_they_come.run(experiment) is None
    error = run_sim(experiment).error
    assert isinstance(error, CodecError)
    assert "step 1: the update has values that are too large" in str(error)


def test_a_codec_may_have_a_memory_that_never_changes() -> None:
    codec = Codec(
        init=lambda _like: jnp.float32(2.0),
        encode=lambda update, state, _key: (jax.tree.map(lambda leaf: leaf / state, update), state),
        decode=lambda payload, state, _like: (jax.tree.map(lambda leaf: leaf * state, payload), state),
    )
    experiment = with_codec(codec, max_steps=3)
    checks = compare_outcomes("fixed", Simulation(experiment).run(), run_as_a_whole(experiment), rounding=1e-12)
    assert [check for check in checks if not check.is_right] == []


def test_updates_that_are_left_out_are_counted() -> None:
    def encode(update: Any, state: Any, key: Any) -> tuple[Any, Any]:
        """Make infinity of one update in three, but for its zeros."""
        is_bad = jax.random.randint(key, (), 0, 3) == 0
        return jax.tree.map(lambda leaf: jnp.where(is_bad & (leaf != 0), jnp.inf, leaf), update), state

    experiment = with_codec(codec_of(encode), **WITHOUT, on_nonfinite="skip")
    one, other = Simulation(experiment).run(), run_as_a_whole(experiment)
    replaced = [report.num_replaced for report in one.reports]
    assert [report.num_replaced for report in other.reports] == replaced
    assert 0 < sum(replaced) < sum(len(report.rows) for report in one.reports[:-1])


# --- the link ---------------------------------------------------------------------------------------------------------

MESSAGES = st.lists(st.tuples(st.floats(0, 10), st.floats(1, 100)), min_size=1, max_size=40)


@given(messages=MESSAGES, ceiling=st.sampled_from([3.0, 10.0, 1e6]))
@settings(max_examples=60, deadline=None)
def test_a_shared_link_is_max_min_fair(messages: list[tuple[float, float]], ceiling: float) -> None:
    num = len(messages)
    links = FluidLinks([10.0, *[ceiling] * num])
    shared, ends, expected = SharedLink(10.0, ceiling, num), np.zeros(num), np.zeros(num)
    order = sorted(range(num), key=lambda i: messages[i][0])
    for i in order:
        start, nbits = messages[i]
        while shared.next_finish <= start:
            time = shared.next_finish
            ends[shared.finish()] = time
        _drain(links, start, expected)
        shared.enter(i, nbits, start)
        links.add(Flow(plain_path((0, 1 + i)), nbits, i), start)
        links.share(start)
        carried, _ = shared.until(start)
        assert carried == pytest.approx(links.usage(start)[1:, 0], rel=1e-9, abs=1e-6)
    while shared.num:
        time = shared.next_finish
        ends[shared.finish()] = time
    _drain(links, math.inf, expected)
    assert ends == pytest.approx(expected, rel=1e-9)
    carried, seconds = shared.until(ends.max())
    assert carried == pytest.approx([nbits for _, nbits in messages])
    assert seconds == pytest.approx(ends - [start for start, _ in messages], abs=1e-9)
    mean, most = shared.queue(ends.max())
    assert mean * ends.max() == pytest.approx(seconds.sum(), abs=1e-6)
    assert 1 <= most <= num


def _drain(links: FluidLinks, until: float, ends: Any) -> None:
    """Let flows end up to a time."""
    while links.next_finish() <= until and links.next_finish() < math.inf:
        now = links.next_finish()
        for flow in links.due(now):
            links.end(flow, now)
            ends[flow.owner] = now
        links.share(now)


def wires_of(topology: Topology) -> Wires | None:
    return Wires.of(experiment_of(world_size=4), topology)


def test_ways_that_meet_on_more_than_the_servers_link_are_none_of_these() -> None:
    star = star_part(bandwidth=1e9, latency=1e-3).build(5)
    ring = ring_part(bandwidth=1e9, latency=1e-3).build(5)
    assert wires_of(star) is not None
    assert wires_of(ring) is None
    twice = dataclasses.replace(star, route=lambda src, dst: (*star.route(src, dst), star.route(src, dst)[0]))
    assert wires_of(twice) is None


@pytest.mark.parametrize(
    ("host", "changes", "is_one"),
    [
        (0, {"bandwidth": 2e9}, True),  # the server's link stops it all the same
        (0, {"bandwidth": 1e8}, False),
        (4, {"bandwidth": 1e8}, True),  # the server's own
        (4, {"bandwidth": 1e10}, True),  # then it is the workers', which are equally quick
        (0, {"latency": 2e-3}, False),
        (4, {"latency": 2e-3}, True),
    ],
)
def test_workers_links_may_differ_only_where_that_changes_nothing(
    host: int, changes: dict[str, float], *, is_one: bool
) -> None:
    star = star_part(bandwidth=1e9, latency=1e-3).build(5)
    own = {*star.route(host, (host + 1) % 5)[:1], *star.route((host + 1) % 5, host)[-1:]}
    links = [dataclasses.replace(link, **changes) if i in own else link for i, link in enumerate(star.links)]
    assert (wires_of(dataclasses.replace(star, links=tuple(links))) is not None) == is_one


def test_batches_from_the_first_call_on_come_to_the_same() -> None:
    experiment = experiment_of(world_size=5)
    checks = compare_outcomes("5", run_in_batches(experiment), run_as_a_whole(experiment), rounding=1e-12)
    assert [check for check in checks if not check.is_right] == []
