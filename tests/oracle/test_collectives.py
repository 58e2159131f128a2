"""Collectives in virtual time against closed forms, and their results and bytes against what they must be."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest

from psgdsim import collectives, wire
from psgdsim.errors import ProgramError
from psgdsim.network_model import NetworkModel
from psgdsim.sim.values import Computed
from psgdsim.testing.alpha_beta import LAWS, NUM_SERVERS, two_levels
from psgdsim.testing.programs import run_program, sized, time_program
from psgdsim.testing.verify_network import crossover, run_law
from psgdsim.topologies import star

ALPHA, BANDWIDTH = 50e-6, 1.25e9  # s, B/s

ALL_REDUCES = {
    "ring": collectives.ring_all_reduce,
    "recursive doubling": collectives.recursive_doubling_all_reduce,
    "halving and doubling": collectives.halving_doubling_all_reduce,
    "tree": collectives.tree_all_reduce,
    "pipelined tree": partial(collectives.pipelined_tree_all_reduce, segments=3),
    "hierarchical": partial(collectives.hierarchical_all_reduce, group_size=2),
    "leaders": partial(collectives.leader_all_reduce, group_size=3),
}


def network(multicast="unicast"):
    return star(bandwidth=8 * BANDWIDTH, latency=ALPHA, multicast=multicast)


def integers(rank, size):
    """Integers in floats: their sums are exact in any order."""
    return np.random.default_rng(rank).integers(-50, 50, size).astype(np.float32)


def frame_time(size):
    """The seconds of a frame with so many float32 in it, latency apart."""
    return wire.nbytes(np.zeros(size, np.float32)) / BANDWIDTH


# --- results and bytes ------------------------------------------------------------------------------------------------


CASES = [
    (name, num, size)
    for name in ALL_REDUCES
    for num, size in [(1, 5), (2, 8), (3, 7), (4, 1), (5, 3), (6, 100), (8, 64)]
    if name != "hierarchical" or num % 2 == 0
]


@pytest.mark.parametrize(("name", "num", "size"), CASES)
def test_all_reduce_sums_exactly_and_sends_what_the_table_says(name, num, size):
    program = ALL_REDUCES[name]
    run = run_program(lambda node: program(node, Computed(integers(node.rank, size)), tag="x"), num, network())
    expected = np.sum([integers(rank, size) for rank in range(num)], axis=0)
    for total in run.results:
        np.testing.assert_array_equal(np.asarray(total.array), expected)
    core = 1 << (num.bit_length() - 1)
    folded = {"recursive doubling": core * math.log2(core), "halving and doubling": 2 * (core - 1)}
    copies = folded[name] + 2 * (num - core) if name in folded else 2 * (num - 1)
    assert sum(report.payload_nbytes for report in run.reports) == copies * size * 4
    assert all(report.unread == 0 for report in run.reports)


@pytest.mark.parametrize(("name", "num"), sorted({(name, num) for name, num, _ in CASES if num > 2}))
def test_all_ranks_end_with_the_same_bits(name, num):
    vectors = [np.random.default_rng(rank).standard_normal(50).astype(np.float32) for rank in range(num)]
    run = run_program(lambda node: ALL_REDUCES[name](node, Computed(vectors[node.rank]), tag="x"), num, network())
    assert len({np.asarray(total.array).tobytes() for total in run.results}) == 1
    np.testing.assert_allclose(np.asarray(run.results[0].array), np.sum(vectors, axis=0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in LAWS if name not in ("parameter server", "barrier")])
def test_bytes_of_each_rank_are_those_of_the_table(name):
    num, nbytes = 16, 1600
    sent = run_law(name, num, nbytes).sent
    assert sum(sent) == LAWS[name].copies(num) * nbytes
    share = nbytes // num
    equal = {
        "ring all-reduce": 30 * share,
        "recursive doubling": 4 * nbytes,
        "halving and doubling": 30 * share,
        "all to all": 15 * nbytes,
        "ring all-gather": 15 * nbytes,
        "ring reduce-scatter": 15 * share,
        "halving reduce-scatter": 15 * share,
    }
    if name in equal:
        assert sent == [equal[name]] * num
    if name == "reduce":
        assert sent == [0] + [nbytes] * 15


def test_a_parameter_server_carries_all_bytes_on_its_own_link():
    assert run_law("parameter server", 16, 1000).sent == [1000] * 16 + [16_000]


# --- times ------------------------------------------------------------------------------------------------------------


def halved(size, num):
    """Sizes of the vectors exchanged by recursive halving."""
    return [size >> k for k in range(1, num.bit_length())]


# What each takes with float32 vectors in real frames, headers counted: `(d, N) -> latencies, frame sizes in turn`.
FRAMES = {
    "ring all-reduce": lambda d, n: [d // n] * 2 * (n - 1),
    "ring reduce-scatter": lambda d, n: [d // n] * (n - 1),
    "ring all-gather": lambda d, n: [d] * (n - 1),
    "recursive doubling": lambda d, n: [d] * int(math.log2(n)),
    "halving and doubling": lambda d, n: halved(d, n) * 2,
    "halving reduce-scatter": halved,
    "tree all-reduce": lambda d, n: [d] * 2 * int(math.log2(n)),
    "reduce": lambda d, n: [d] * int(math.log2(n)),
    "broadcast": lambda d, n: [d] * int(math.log2(n)),
}


@pytest.mark.parametrize(("num", "size"), [(2, 1000), (4, 1000), (8, 1600), (16, 160_000)])
@pytest.mark.parametrize("name", FRAMES)
def test_frames_take_the_time_of_the_alpha_beta_model(name, num, size):
    vector = Computed(np.zeros(size, np.float32))
    run = run_program(lambda node: LAWS[name].program(node, vector, tag="x"), num, network())
    expected = sum(ALPHA + frame_time(frame) for frame in FRAMES[name](size, num))
    assert run.time == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("num", [2, 3, 5, 8, 13])
def test_a_barrier_takes_as_many_latencies_as_the_logarithm_says(num):
    run = run_program(lambda node: collectives.barrier(node, tag="x"), num, network())
    assert run.time == pytest.approx(math.ceil(math.log2(num)) * (ALPHA + wire.nbytes(None) / BANDWIDTH), rel=1e-12)


def test_nobody_leaves_a_barrier_before_the_last_has_come():
    async def program(node):
        await node.sleep(0.1 * node.rank)
        await collectives.barrier(node, tag="x")
        return node.now

    assert min(run_program(program, 5, network()).results) >= 0.4


@pytest.mark.parametrize("num", [2, 3, 5, 7, 16, 23])
def test_a_broadcast_takes_a_rounded_logarithm_for_any_number_of_ranks(num):
    run = run_law("broadcast", num, 10_000)
    assert run.time == pytest.approx(math.ceil(math.log2(num)) * (ALPHA + 10_000 / BANDWIDTH), rel=1e-12)


@pytest.mark.parametrize("num", [2, 5, 16])
@pytest.mark.parametrize("multicast", ["unicast", "native", "relay"])
def test_broadcast_of_all_to_all_takes_the_time_of_the_alpha_beta_model(num, multicast):
    payload = Computed(np.zeros(10_000, np.float32))
    run = run_program(lambda node: collectives.all_gather(node, payload, tag="x"), num, network(multicast))
    frame = frame_time(10_000)
    # Every downlink carries N-1 frames; a relay first takes the upload.
    expected = ALPHA + (num - 1) * frame + (frame if multicast == "relay" else 0)
    assert run.time == pytest.approx(expected, rel=1e-12)
    assert run.sent == [(num - 1 if multicast == "unicast" else 1) * wire.nbytes(payload)] * num
    relayed = 0 if multicast == "unicast" else (num - 1) * wire.nbytes(payload)
    assert [report.relay_nbytes for report in run.reports] == [relayed] * num
    assert all(len(result) == num for result in run.results)


# alpha = 50 us, B = 1.25e9 B/s, N = 16, published to four digits; messages of so many bytes, without headers.
PUBLISHED = {
    "ring all-reduce": {4_000: 1.506e-3, 400_000: 2.100e-3, 100_000_000: 0.15150},
    "recursive doubling": {4_000: 2.13e-4, 400_000: 1.480e-3, 100_000_000: 0.32020},
    "halving and doubling": {4_000: 4.06e-4, 400_000: 1.000e-3, 100_000_000: 0.15040},
    "tree all-reduce": {4_000: 4.26e-4, 400_000: 2.960e-3, 100_000_000: 0.64040},
    "parameter server": {4_000: 2.02e-4, 400_000: 1.034e-2, 100_000_000: 2.56010},
    "all to all": {100_000_000: 1.20005},
}


@pytest.mark.parametrize(("name", "nbytes"), [(name, nbytes) for name in PUBLISHED for nbytes in PUBLISHED[name]])
def test_published_times(name, nbytes):
    time = run_law(name, 16, nbytes).time
    assert time == pytest.approx(LAWS[name].time(16, ALPHA, nbytes / BANDWIDTH), rel=1e-12)
    assert time == pytest.approx(PUBLISHED[name][nbytes], rel=3e-3)


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("num", [2, 4, 32])
def test_times_are_exact_for_other_numbers_of_ranks(name, num):
    expected = LAWS[name].time(num, ALPHA, 64_000 / BANDWIDTH)
    assert run_law(name, num, 64_000).time == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["recursive doubling", "halving and doubling"])
@pytest.mark.parametrize("num", [3, 5, 6, 11, 16, 17, 31])
def test_folding_adds_two_messages(name, num):
    """Exactly, where messages do not feel each other; on a fair star, ranks that need not wait load links of others."""
    core, t = 1 << (num.bit_length() - 1), 64_000 / BANDWIDTH
    expected = LAWS[name].time(core, ALPHA, t) + (2 * (ALPHA + t) if num > core else 0)
    program = partial(LAWS[name].program, vector=sized(64_000), tag="x")
    ideal = time_program(program, num, network(), NetworkModel(model="ideal")).time
    assert ideal == pytest.approx(expected, rel=1e-12)
    assert ideal * (1 - 1e-12) <= time_program(program, num, network()).time <= 1.6 * ideal


@pytest.mark.parametrize("name", ["reduce", "tree all-reduce"])
@pytest.mark.parametrize("num", [3, 5, 6, 7, 11, 13, 24, 31])
@pytest.mark.parametrize("nbytes", [100, 100_000, 10_000_000])
def test_a_tree_takes_at_most_the_time_of_the_next_power_of_two(name, num, nbytes):
    bound = LAWS[name].time(1 << num.bit_length(), ALPHA, nbytes / BANDWIDTH)
    assert run_law(name, num, nbytes).time <= bound * (1 + 1e-12)


@pytest.mark.parametrize("segments", [1, 4, 32])
@pytest.mark.parametrize("num", [8, 9, 16, 30])
@pytest.mark.parametrize("nbytes", [64_000, 64_000_000])
def test_a_pipelined_tree_takes_about_the_time_of_its_formula(num, segments, nbytes):
    program = partial(collectives.pipelined_tree_all_reduce, vector=sized(nbytes), tag="x", segments=segments)
    stage = ALPHA + nbytes / (segments * BANDWIDTH)
    stages = 2 * (math.ceil(math.log2(num)) + segments - 1)
    time = time_program(program, num, network()).time
    assert (stages - 3) * stage <= time <= (stages + 2) * stage


def test_a_pipelined_tree_of_many_segments_sends_each_byte_twice():
    program = partial(collectives.pipelined_tree_all_reduce, vector=sized(1_280_000_000), tag="x", segments=128)
    time = time_program(program, 16, network()).time
    assert time == pytest.approx(2 * 1.28e9 / BANDWIDTH, rel=0.05)


@pytest.mark.parametrize(("groups", "q"), [(2, 2), (4, 4), (3, 8), (8, 1), (1, 8)])
def test_two_levels_take_the_time_of_the_formula(groups, q):
    nbytes = 96_000
    (a1, b1), (a2, b2) = (5e-6, 1e10), (1e-3, 1e8)
    two = two_levels(groups, q, (a1, 8 * b1), (a2, 8 * b2))
    lanes = partial(collectives.hierarchical_all_reduce, vector=sized(nbytes), tag="x", group_size=q)
    expected = 2 * (q - 1) * (a1 + nbytes / (q * b1)) + 2 * (groups - 1) * (a2 + nbytes / (q * groups * b2))
    assert time_program(lanes, groups * q, two).time == pytest.approx(expected, rel=1e-12)
    leaders = partial(collectives.leader_all_reduce, vector=sized(nbytes), tag="x", group_size=q)
    expected = 2 * math.log2(q) * (a1 + nbytes / b1) + 2 * (groups - 1) * (a2 + nbytes / (groups * b2))
    assert time_program(leaders, groups * q, two).time == pytest.approx(expected, rel=1e-12)


# --- which is faster --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num", "share"), [(4, 0.615), (8, 0.842), (16, 0.929)])
def test_a_parameter_server_is_as_fast_as_a_ring_at_the_published_size(num, share):
    size = crossover("parameter server", "ring all-reduce", num)
    assert size == pytest.approx(ALPHA * BANDWIDTH * num * (num - 2) / (num**2 - num + 1), rel=1e-9)
    assert size / (ALPHA * BANDWIDTH) == pytest.approx(share, abs=5e-4)


def test_at_60_kb_a_parameter_server_wins_from_27_ranks_on():
    def server_wins(num):
        return run_law("parameter server", num, 60_000).time < run_law("ring all-reduce", num, 60_000).time

    assert [num for num in range(24, 31) if server_wins(num)] == [27, 28, 29, 30]


@pytest.mark.parametrize(("num", "nbytes"), [(8, 550e3), (16, 764.7e3)])
def test_recursive_doubling_is_as_fast_as_a_ring_at_the_published_size(num, nbytes):
    assert crossover("recursive doubling", "ring all-reduce", num) == pytest.approx(nbytes, rel=1e-4)


# --- wrong use --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (partial(collectives.barrier, ranks=[0, 2]), r"rank 1: expected a collective of .*got \[0, 2\]"),
        (partial(collectives.barrier, ranks=[0, 1, 2, 1]), r"rank 0: expected a collective of different ranks"),
        (partial(collectives.broadcast, payload=None, root=3), r"root: expected one of the ranks \[0, 1, 2\]; got 3"),
        (
            partial(collectives.hierarchical_all_reduce, vector=sized(1), group_size=2),
            "group_size: expected a divisor of the number of ranks, 3; got 2",
        ),
    ],
)
def test_wrong_ranks_are_an_error(program, message):
    with pytest.raises(ProgramError, match=message):
        time_program(lambda node: program(node, tag="x"), 3, network())


def test_servers_are_counted_apart():
    assert len(run_law("parameter server", 5, 10).sent) == 5 + NUM_SERVERS["parameter server"] == 6
