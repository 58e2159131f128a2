"""Changes of the network over time: bandwidth and latency, jitter, loss, background, links that are down."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from psgdsim import rng
from psgdsim.errors import Deadlock, PeerLost, ScenarioError
from psgdsim.scenario import dump, from_dict, loads
from psgdsim.scenario.change_kinds import background, bandwidth_trace, link_down, periodic
from psgdsim.scenario.changes import Effect, Loss
from psgdsim.scenario.experiment import build
from psgdsim.scenario.link_rows import read_rows
from psgdsim.sim.driver import Simulation
from psgdsim.strategies.base import Strategy

# 1 MB takes 1 s.
BASE = {
    "name": "changes",
    "seed": 5,
    "world_size": 3,
    "model": {"kind": "quadratic", "dim": 4},
    "data": {"kind": "none"},
    "batch_size": 1,
    "optimizer": {"kind": "sgd", "learning_rate": 0.1},
    "strategy": {"kind": "all_reduce", "algorithm": "ring"},
    "topology": {"kind": "star", "bandwidth": "8 Mbit/s", "latency": "0 s"},
    "max_steps": 1,
    "real": {"heartbeat_timeout": "20 s"},
}
MEGABYTE = np.zeros(250_000 - 32, np.float32)  # and the frame's own bytes


def simulate(program, **changes):
    experiment = build(from_dict({**BASE, **changes}))

    async def worker(node, task):
        await program(node)

    object.__setattr__(experiment, "strategy", Strategy(worker))
    return Simulation(experiment).run()


def arrival(payload=MEGABYTE, num=1, start=0.0, **changes):
    """Return when messages from rank 0 to rank 1 arrive that are sent one after the other."""
    times = []

    async def program(node):
        if node.rank == 0:
            await node.sleep(start)
            for i in range(num):
                await node.send(1, payload, tag=f"m{i}")
        elif node.rank == 1:
            for i in range(num):
                await node.recv(0, tag=f"m{i}")
                times.append(node.now)

    outcome = simulate(program, **changes)
    if outcome.error is not None:
        raise outcome.error
    return times if num > 1 else times[0]


def test_a_message_of_a_megabyte_takes_a_second():
    assert arrival() == pytest.approx(1, abs=1e-4)


# --- traces ---------------------------------------------------------------------------------------------------


def test_a_bandwidth_trace_holds_from_its_times_on():
    rows = [["0 s", "host0.*", "4 Mbit/s"], ["500 ms", "host0.up", "2 Mbit/s"], ["1500 ms", "host0.up", "16 Mbit/s"]]
    # 0.25 MB until 0.5 s, 0.25 MB until 1.5 s, and 0.5 MB at the 8 Mbit/s of host1.
    assert arrival(changes=[{"kind": "bandwidth_trace", "rows": rows}]) == pytest.approx(2.0, abs=1e-4)


def test_a_trace_is_read_from_a_file(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("time,link,bandwidth\n0 s,host0.*,4 Mbit/s\n\n500 ms, host0.up ,16 Mbit/s\n", encoding="utf-8")
    change = {"kind": "bandwidth_trace", "path": str(path)}
    assert arrival(changes=[change]) == pytest.approx(0.5 + 0.75, abs=1e-4)


def test_a_latency_trace_holds_for_messages_that_start_later():
    rows = [["500 ms", "*", "250 ms"]]
    times = arrival(7, changes=[{"kind": "latency_trace", "rows": rows}])
    assert times < 0.01
    assert arrival(7, start=0.5, changes=[{"kind": "latency_trace", "rows": rows}]) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time,link,latency\n", ":1: expected the header 'time,link,bandwidth'; got 'time,link,latency'"),
        ("", ":1: expected the header 'time,link,bandwidth'; got ''"),
        ("time,link,bandwidth\n1 s,host0.up\n", ":2: expected 3 values, time,link,bandwidth; got 2"),
        ("time,link,bandwidth\n1 s,host0.up,3\n", ":2: bandwidth: expected a bandwidth such as '10 Gbit/s'; got '3'"),
        ("time,link,bandwidth\n1,host0.up,3 Mbit/s\n", ":2: time: expected a time such as '50 us'; got '1'"),
        ("time,link,bandwidth\n1 s,,3 Mbit/s\n", ":2: link: expected a link's name or a pattern"),
        (
            "time,link,bandwidth\n2 s,*,1 Mbit/s\n1 s,*,1 Mbit/s\n",
            ":3: time: expected times in order; got 1 s after 2 s",
        ),
        ("time,link,bandwidth\n1 s,hots0.*,3 Mbit/s\n", "path: no link is called 'hots0.*'; did you mean 'host0.up'"),
        (b"time,link,bandwidth\n1 s,\xff,3 Mbit/s\n", "expected text in UTF-8"),
    ],
)
def test_a_bad_trace_file_is_one_clear_error(text, message, tmp_path):
    path = tmp_path / "trace.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ScenarioError) as caught:
        build(from_dict({**BASE, "changes": [{"kind": "bandwidth_trace", "path": str(path)}]}))
    assert str(caught.value).startswith("changes.0.path: ")
    assert message in str(caught.value)


def test_a_missing_trace_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nothing\.csv: cannot be read: No such file"):
        read_rows(str(tmp_path / "nothing.csv"), "bandwidth")


# --- periodic, down -------------------------------------------------------------------------------------------


def test_a_square_profile_is_full_and_then_low():
    # 0.2 s full, 0.2 s at a quarter, ...: 0.25 MB per period.
    change = {"kind": "periodic", "links": "host0.up", "period": "400 ms", "low": 0.25}
    assert arrival(changes=[change]) == pytest.approx(1.6, abs=1e-3)


def test_a_sine_has_the_mean_of_its_extremes():
    moments = list(itertools.islice(periodic("*", 8.0, 0.2, shape="sine", steps=16).moments(), 32))
    factors = [moment.effect.factor for moment in moments]
    assert [moment.time for moment in moments] == [0.5 * i for i in range(32)]
    assert np.mean(factors) == pytest.approx(0.6)
    assert factors[:16] == factors[16:]
    assert (factors[0], factors[8]) == (max(factors), min(factors))
    assert 0.2 < min(factors) < 0.21


def test_messages_wait_while_a_link_is_down():
    change = {"kind": "link_down", "links": "host1.*", "at": "500 ms", "for": "2 s"}
    assert arrival(changes=[change]) == pytest.approx(3.0, abs=1e-4)


def test_a_link_goes_down_again_and_again():
    change = link_down("x", 1.0, 0.5, every=2.0)
    moments = list(itertools.islice(change.moments(), 4))
    assert [(moment.time, moment.effect.factor) for moment in moments] == [(1, 0), (1.5, 1), (3, 0), (3.5, 1)]


def test_where_changes_meet_the_last_value_counts_times_all_factors():
    changes = [
        {"kind": "bandwidth_trace", "rows": [["0 s", "*", "1 Mbit/s"]]},
        {"kind": "bandwidth_trace", "rows": [["0 s", "host0.*", "4 Mbit/s"], ["0 s", "host1.*", "4 Mbit/s"]]},
        {"kind": "periodic", "links": "*", "period": "100 s", "low": 0.5, "duty": 0.0001},
    ]
    assert arrival(changes=changes) == pytest.approx(4.0, rel=0.01)


def test_a_link_without_bandwidth_for_too_long_parts_ranks():
    rows = [["0 s", "host1.down", "0 bit/s"]]
    with pytest.raises(PeerLost, match=r"no heartbeat for 20 s \(link host1\.down has no bandwidth\)"):
        arrival(changes=[{"kind": "bandwidth_trace", "rows": rows}])


def test_changes_without_end_do_not_keep_a_stuck_run_alive():
    async def program(node):
        await node.recv(tag="never")

    changes = [
        {"kind": "periodic", "links": "*", "period": "1 s", "low": 0.5},
        {"kind": "background", "from": "host0", "to": "host1", "size": "1 kB", "interval": "1 s"},
    ]
    assert isinstance(simulate(program, changes=changes).error, Deadlock)


def test_what_changes_about_the_network_is_in_the_trace():
    changes = [
        {"kind": "bandwidth_trace", "rows": [["500 ms", "host0.*", "4 Mbit/s"], ["1 s", "host0.*", "8 Mbit/s"]]},
        {"kind": "link_down", "links": ["host1.up", "host1.down"], "at": "700 ms", "for": "100 ms"},
    ]

    async def program(node):
        await node.sleep(2)

    events = simulate(program, changes=changes).network_events
    assert [event[:4] for event in events] == [
        ("change", "host1.up, host1.down: down", 0.7, pytest.approx(0.8)),
        ("change", "host0.*: 4 Mbit/s", 0.5, 1.0),
    ]


# --- jitter and loss ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distribution", ["exponential", "uniform"])
def test_jitter_delays_each_message_by_its_own_time(distribution):
    change = {"kind": "jitter", "mean": "10 ms", "links": "host0.up", "distribution": distribution}
    times = np.diff([0.0, *arrival(7, num=2000, changes=[change])]) - arrival(7)
    assert times.min() >= -1e-9
    assert times.mean() == pytest.approx(0.01, rel=0.1)
    assert times.std() == pytest.approx(0.01 if distribution == "exponential" else 0.02 / math.sqrt(12), rel=0.1)


def test_jitter_is_for_messages_that_cross_its_links():
    change = {"kind": "jitter", "mean": "10 ms", "links": "host2.*"}
    assert arrival(7, num=5, changes=[change]) == arrival(7, num=5)


def test_a_pair_of_ranks_meets_the_same_jitter_whatever_others_do():
    change = {"kind": "jitter", "mean": "10 ms"}
    alone = arrival(7, num=20, changes=[change])
    times = []

    async def program(node):
        if node.rank == 0:
            for i in range(20):
                await node.send(1, 7, tag=f"m{i}")
        elif node.rank == 1:
            for i in range(20):
                await node.recv(0, tag=f"m{i}")
                times.append(node.now)
        else:
            await node.sleep(0.013)
            for _ in range(5):
                await node.send(0, 7, tag="other")

    simulate(program, changes=[change])
    assert times == pytest.approx(alone, rel=0.05)


def test_loss_caps_a_connection_as_mathis_says():
    change = {"kind": "loss", "probability": 0.01, "links": "host0.up", "segment": "1 kB"}
    topology = {"kind": "star", "bandwidth": "1 Gbit/s", "latency": "50 ms"}
    cap = 8000 / 0.1 * math.sqrt(1.5) / 0.1
    assert arrival(changes=[change], topology=topology) == pytest.approx(0.05 + 8e6 / cap, rel=1e-3)
    times = {}

    async def program(node):
        if node.rank == 0:
            await node.gather(*(node.send(dst, MEGABYTE, tag="x") for dst in (1, 2)))
        else:
            await node.recv(0, tag="x")
            times[node.rank] = node.now

    simulate(program, changes=[change], topology=topology)
    # Each connection has the cap for itself.
    assert times == {rank: pytest.approx(0.05 + 8e6 / cap, rel=1e-3) for rank in (1, 2)}


def test_loss_on_two_links_is_worse_than_on_one():
    loss = Loss((), probability=0.1, segment=1000, timeout=0.2)
    assert loss.rate(2, 0.1) == pytest.approx(8000 / 0.1 * math.sqrt(1.5 / 0.19))
    assert loss.rate(1, 0.0) == math.inf


def test_a_short_message_waits_for_the_retransmission_timeout():
    loss = Loss((), probability=0.2, segment=1000, timeout=0.2)
    stream = rng.stream(1, "test")
    delays = np.array([loss.delay(1, 0.01, 2000, stream) for _ in range(20_000)])
    lost = 1 - 0.8**2
    assert set(np.round(delays, 9)[:1000]) <= {0.0, 0.2, 0.6, 1.4, 3.0, 6.2, 12.6, 25.4}
    assert np.mean(delays > 0) == pytest.approx(lost, abs=0.01)
    assert np.mean(delays > 0.2) == pytest.approx(lost**2, abs=0.01)
    assert loss.delay(1, 0.01, 4000, stream) == 0.0
    assert Loss((), 0.5, 1000, 0.2).delay(1, 10.0, 10, rng.stream(2, "test")) in {0.0, 30.0, 90.0, 210.0, 450.0}


# --- background -----------------------------------------------------------------------------------------------


def test_background_shares_the_links():
    change = {"kind": "background", "from": "host0", "to": "host2", "size": "500 kB", "interval": "100 s"}
    # Half of the bandwidth until the other has carried 0.5 MB, at 1 s; 0.5 MB are left.
    assert arrival(changes=[change]) == pytest.approx(1.5, abs=1e-3)


def test_background_begins_and_ends_when_it_is_told_and_a_rate_sets_the_interval():
    async def program(node):
        await node.sleep(20)

    change = {"kind": "background", "from": "host0", "to": "host1", "size": "100 kB", "rate": "80 kbit/s", "at": "5 s"}
    for until, num in ((None, 2), ("10 s", 1)):
        outcome = simulate(program, changes=[{**change, "until": until}])
        assert {link.name: link.nbytes for link in outcome.links if link.nbytes} == {
            "host0.up": num * 100_000,
            "host1.down": num * 100_000,
        }


def test_what_background_would_pile_up_is_left_out():
    async def program(node):
        await node.sleep(1)

    change = {"kind": "background", "from": "host0", "to": "host1", "size": "1 GB", "interval": "1 ms"}
    outcome = simulate(program, changes=[change])
    assert outcome.links[0].nbytes == pytest.approx(1e6, rel=1e-6)


# --- what a scenario may say ----------------------------------------------------------------------------------


def test_changes_survive_a_round_trip():
    changes = [
        {"kind": "bandwidth_trace", "rows": [["1 s", "host1.*", "10 Mbit/s"]]},
        {"kind": "link_down", "links": ["host1.up"], "at": "1 s", "for": "2 s", "every": "1 min"},
        {"kind": "background", "from": "host0", "to": "host1", "size": "1 MB", "rate": "1 Mbit/s"},
        {"kind": "loss", "probability": 0.01},
    ]
    scenario = from_dict({**BASE, "changes": changes, "network": {"model": "fluid", "tcp": "lv08"}})
    assert loads(dump(scenario)) == scenario
    assert scenario.network.tcp == "lv08"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "bandwidth_trace"}, "changes.0: expected either rows or path; got neither"),
        ({"kind": "bandwidth_trace", "rows": [["1 s", "*", "1 Gbps"]]}, "write '1 Gbit/s'"),
        (
            {"kind": "latency_trace", "rows": [["2 s", "*", "1 ms"], ["1 s", "*", "1 ms"]]},
            "changes.0.rows: expected times in order; got 1 s after 2 s",
        ),
        ({"kind": "bandwidth_trace", "rows": [["1 s", "wan", "1 bit/s"]]}, "changes.0.rows: no link is called 'wan'"),
        (
            {"kind": "link_down", "links": "*", "at": "1 s", "for": "2 s", "every": "1 s"},
            "changes.0.every: expected more",
        ),
        (
            {"kind": "background", "from": "host0", "to": "host0", "size": "1 B", "rate": "1 bit/s"},
            "changes.0.to: expected",
        ),
        (
            {"kind": "background", "from": "nas", "to": "host0", "size": "1 B", "rate": "1 bit/s"},
            "no host is called 'nas'",
        ),
        ({"kind": "loss", "probability": 0}, "changes.0.probability: expected more than 0; got 0"),
        ({"kind": "jitter", "mean": "0 s"}, "changes.0.mean: expected more than 0"),
    ],
)
def test_a_scenario_with_a_wrong_change_says_what_is_wrong(change, message):
    with pytest.raises(ScenarioError) as caught:
        from_dict({**BASE, "changes": [change]})
    assert message in str(caught.value)


def test_loss_among_too_many_hosts_is_refused():
    scenario = {**BASE, "world_size": 300, "changes": [{"kind": "loss", "probability": 0.1}]}
    with pytest.raises(ScenarioError, match="at most 256 hosts with loss; there are 300"):
        Simulation(build(from_dict(scenario)))


def test_factories_refuse_what_does_not_fit_together():
    with pytest.raises(ValueError, match="interval: expected either interval or rate; got both"):
        background("a", "b", 1.0, interval=1.0, rate=1.0)
    with pytest.raises(ValueError, match="rows: expected either rows or path; got both"):
        bandwidth_trace("file", ((0.0, "*", 1.0),))


def test_an_effect_says_what_it_does():
    assert str(Effect(bandwidth=1e7)) == "10 Mbit/s"
    assert str(Effect(latency=0.01, factor=0.5)) == "latency 10 ms, x 0.5"
    assert str(Effect(factor=0)) == "down"
