"""strategies.parameter_server: bytes, rows, limits of staleness, settings and losses of its modes, in simulation."""

from __future__ import annotations

import numpy as np
import pytest
from fault_cases import BASE, simulate

import psgdsim
from psgdsim.errors import PeerLost, ScenarioError
from psgdsim.node import Kernel
from psgdsim.scenario import from_dict

FREE = {"kind": "star", "bandwidth": None, "latency": "0 s"}
RANDOM = {"kind": "exponential", "mean": "100 ms"}
SIZE = 4 * 4
MODES = [
    {"sync": "backup", "backup": 1},
    {"sync": "k_sync", "k": 3},
    {"sync": "k_batch_sync", "k": 3},
    {"sync": "k_async", "k": 3},
    {"sync": "k_batch_async", "k": 3},
    {"sync": "staleness_aware", "k": 2},
    {"sync": "ssp", "staleness_bound": 1},
    {"sync": "ssp", "staleness_bound": 1, "cached_reads": True},
    {"sync": "async", "delay_compensation": {"kind": "adaptive"}},
]


@pytest.fixture
def run(tmp_path):
    def start(parameters, **changes):
        strategy = {"strategy": {"kind": "parameter_server", **parameters}}
        scenario = {**BASE, "topology": FREE, "compute": RANDOM, **strategy, **changes}
        return psgdsim.run(scenario, out=tmp_path / f"run{len(list(tmp_path.iterdir()))}")

    return start


def rows_of(result, rank):
    return {name: column[result.steps["rank"] == rank] for name, column in result.steps.items()}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"sync": "bsp", "k": 2}, r"strategy\.k: only with sync 'k_sync', .* or 'staleness_aware'; got sync 'bsp'"),
        ({"sync": "k_sync"}, r"strategy\.sync: needs k, how many gradients make an update; got 'k_sync' without it"),
        ({"sync": "k_async", "k": 0}, r"strategy\.k: expected at least 1; got 0"),
        ({"sync": "k_sync", "k": 5}, r"strategy\.k: expected at most world_size \(4\); got 5"),
        (
            {"sync": "backup"},
            r"strategy\.sync: needs backup, how many workers nobody waits for; got 'backup' without it",
        ),
        ({"sync": "backup", "backup": 4}, r"strategy\.backup: expected fewer than world_size \(4\); got 4"),
        ({"sync": "async", "backup": 1}, r"strategy\.backup: only with sync 'backup'; got sync 'async'"),
        ({"sync": "ssp"}, r"strategy\.sync: needs staleness_bound, .*; got 'ssp' without it"),
        ({"staleness_bound": 1}, r"strategy\.staleness_bound: only with sync 'ssp'; got sync 'bsp'"),
        ({"sync": "async", "cached_reads": True}, r"strategy\.cached_reads: only with sync 'ssp'; got sync 'async'"),
        (
            {"sync": "k_sync", "k": 2, "delay_compensation": {"kind": "constant"}},
            r"strategy\.delay_compensation: only with sync 'async', .*; got sync 'k_sync'",
        ),
        (
            {"sync": "async", "delay_compensation": {"kind": "adaptiv"}},
            r"strategy\.delay_compensation\.kind: no delay compensation is called 'adaptiv'; did you mean 'adaptive'",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(parameters, message):
    with pytest.raises(ScenarioError, match=message) as caught:
        from_dict({**BASE, "strategy": {"kind": "parameter_server", **parameters}})
    assert str(caught.value).count("strategy.") == 1


# --- bytes and rows ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parameters", [MODES[0], MODES[1]], ids=str)
def test_bytes_of_updates_from_which_all_begin_anew(parameters, run):
    # 8 updates of 3 gradients in 6 steps of 4; a computation that is given up sends nothing.
    result = run(parameters)
    assert rows_of(result, 4)["version"][-1] == 8
    assert result.summary["bytes"]["payload_total"] == (8 * 4 + 8 * 3) * SIZE
    assert list(rows_of(result, 4)["dropped"]) == [0] * 6
    workers = result.steps["rank"] < 4
    versions, counts = np.unique(result.steps["version"][workers], return_counts=True)
    assert (list(versions), list(counts)) == (list(range(1, 9)), [3] * 8)


def test_gradients_that_come_too_late_are_dropped_but_cost_bytes(run):
    # All end at once: three are used and one is not.
    result = run({"sync": "k_sync", "k": 3}, compute={"kind": "constant", "time": "100 ms"})
    assert result.summary["bytes"]["payload_total"] == (8 * 4 + 8 * 4) * SIZE
    assert rows_of(result, 4)["dropped"][-1] == 7  # the last comes when the server has ended


@pytest.mark.parametrize("parameters", [MODES[3], MODES[4]], ids=str)
def test_bytes_of_asynchronous_updates_of_several_gradients(parameters, run):
    # Besides K up and K down for each of 8 updates, each worker pulls once before and pushes once for nothing.
    result = run(parameters)
    assert result.summary["bytes"]["payload_total"] == 2 * (8 * 3 + 4) * SIZE
    workers = result.steps["rank"] < 4
    assert workers.sum() == 24
    server = rows_of(result, 4)["staleness"]
    assert server.max() > 0


def pulls_of(result, bound, is_cached):
    """Return how often the model is pulled, by a loop over the pushes in their order.

    What a worker has pulled when it was L gradients ahead of the slowest may miss `bound` of theirs up to its
    bound + 1 - L-th gradient from then on: after that it pulls, as soon as it is no more than `bound` ahead. Without a
    copy it pulls after each gradient.
    """
    workers = result.steps["rank"] < 4
    clocks, left, asking, pulls = [0] * 4, [bound + 1 if is_cached else 1] * 4, set(), 4
    for _, rank in sorted(
        zip(result.steps["version"][workers], result.steps["rank"][workers].astype(int), strict=True)
    ):
        clocks[rank] += 1
        left[rank] -= 1
        asking |= {rank} if left[rank] == 0 else set()
        for each in [each for each in asking if clocks[each] - min(clocks) <= bound]:
            asking.discard(each)
            left[each] = bound + 1 - (clocks[each] - min(clocks)) if is_cached else 1
            pulls += 1
    return pulls


@pytest.mark.parametrize("bound", [0, 1, 4])
def test_a_copy_is_pulled_only_when_it_may_be_too_old(bound, run):
    pulls, staleness = [], []
    for is_cached in (False, True):
        result = run({"sync": "ssp", "staleness_bound": bound, "cached_reads": is_cached}, max_steps=20)
        pulls.append(pulls_of(result, bound, is_cached))
        staleness.append(result.summary["staleness"]["mean"])
        assert (result.steps["rank"] < 4).sum() == 80
        # Payloads are models down and gradients up: 80, and of each worker at most one that comes too late.
        late = result.summary["bytes"]["payload_total"] / SIZE - pulls[-1] - 80
        assert late in range(5)
    assert pulls[1] < pulls[0] or bound == 0
    assert staleness[1] >= staleness[0]


@pytest.mark.parametrize("is_cached", [False, True])
@pytest.mark.parametrize("bound", [0, 3])
def test_nobody_gets_further_ahead_than_the_bound(bound, is_cached, run):
    result = run({"sync": "ssp", "staleness_bound": bound, "cached_reads": is_cached}, max_steps=40)
    clocks = [0] * 4
    largest = 0
    made = [result.steps[name][result.steps["rank"] < 4] for name in ("version", "rank")]
    for _, rank in sorted(zip(*made, strict=True)):
        clocks[int(rank)] += 1
        largest = max(largest, max(clocks) - min(clocks))
    assert largest == bound + 1  # when it commits; when it begins, `bound`


@pytest.mark.parametrize("parameters", MODES, ids=str)
def test_all_modes_learn_with_a_codec_with_memory_over_a_slow_network(parameters, run):
    codec = {"kind": "error_feedback", "codec": {"kind": "top_k", "ratio": 0.5}}
    topology = {"kind": "star", "bandwidth": "100 kbit/s", "latency": "5 ms"}
    result = run(parameters, codec=codec, topology=topology, max_steps=40, codec_rate="10 kB/s")
    assert (result.summary["status"], result.summary["steps"]) == ("completed", 40)
    assert result.summary["final"]["train_loss"] < 0.3 * result.evals["train_loss"][0] + 0.2


# --- workers come and go ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parameters", MODES, ids=str)
def test_a_lost_worker_ends_a_run_that_cannot_do_without(parameters, run):
    with pytest.raises(PeerLost, match=r"rank 4: lost rank 1: it crashed at 0\.25 s"):
        run(parameters, faults=[{"kind": "crash", "rank": 1, "at": "250 ms"}], max_steps=20)


@pytest.mark.parametrize("parameters", MODES, ids=str)
@pytest.mark.parametrize("is_back", [False, True])
def test_the_others_go_on_without_a_lost_worker(parameters, is_back, run):
    restart = {"restart_after": "1 s"} if is_back else {}
    faults = [{"kind": "crash", "rank": rank, "at": "250 ms", **restart} for rank in (1, 2)]
    result = run({**parameters, "on_peer_loss": "drop"}, faults=faults, max_steps=40)
    assert (result.summary["status"], result.summary["steps"]) == ("completed", 40)
    late = rows_of(result, 1)["time"] > 1.25
    assert late.any() == is_back


@pytest.mark.parametrize("parameters", MODES, ids=str)
def test_workers_that_crash_again_and_again_do_not_stop_the_others(parameters, run):
    faults = [{"kind": "crash", "mtbf": "2 s", "mttr": "200 ms", "rank": rank} for rank in range(4)]
    topology = {"kind": "star", "bandwidth": "1 Mbit/s", "latency": "1 ms"}
    codec = {"kind": "error_feedback", "codec": {"kind": "top_k", "ratio": 0.5}}
    result = run({**parameters, "on_peer_loss": "drop"}, faults=faults, topology=topology, codec=codec, max_steps=40)
    assert (result.summary["status"], result.summary["steps"]) == ("completed", 40)


# --- what a restart rests on ------------------------------------------------------------------------------------------


def test_a_computation_that_is_given_up_makes_way_for_the_next():
    ends = []

    async def worker(node, task):
        def work(seconds):
            return node.compute(Kernel("work", lambda: 0, kind="gradient", rows=lambda: seconds))

        if node.rank == 0:
            jobs = [node.spawn(work(2)) for _ in range(3)]  # a tenth of a second each, one after the other
            await node.sleep(0.05)
            jobs[0].cancel()
            jobs[1].cancel()
            await jobs[2].wait()
            ends.append(node.now)

    assert simulate(worker).error is None
    assert ends == [pytest.approx(0.15)]
