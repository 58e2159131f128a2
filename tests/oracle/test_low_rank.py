"""codecs.low_rank, codecs.sketch, and the sums in rounds that they take part in."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from coding import Ends, normals

import psgdsim
from psgdsim import wire
from psgdsim.codecs import count_sketch, error_feedback, fetch_sgd, leafwise, power_sgd
from psgdsim.codecs.base import flat
from psgdsim.codecs.low_rank import orthonormal
from psgdsim.scenario import from_dict


def low_rank(rows, columns, rank, seed=0):
    return (normals((rows, rank), seed) @ normals((rank, columns), seed + 1)).astype(np.float32)


@pytest.mark.parametrize(("shape", "rank"), [((30, 20), 1), ((20, 30), 4), ((5, 6, 20), 2)])
def test_a_matrix_of_low_rank_comes_through_in_one_step(rank, shape):
    matrix = low_rank(int(np.prod(shape[:-1])), shape[-1], rank).reshape(shape)
    np.testing.assert_allclose(Ends(power_sgd(rank=4), matrix).send(matrix), matrix, atol=1e-5 * np.max(np.abs(matrix)))


@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (1, 4)])
def test_full_rank_is_lossless(shape):
    matrix = normals(shape)
    np.testing.assert_allclose(Ends(power_sgd(rank=min(shape)), matrix).send(matrix), matrix, atol=2e-6)


def test_exact_bits():
    tree = {"bias": normals(20), "scalar": normals(()), "weight": normals((3, 3, 10, 20))}
    ends = Ends(power_sgd(rank=2), tree)
    decoded = ends.send(tree)
    assert 8 * wire.tensor_nbytes(ends.payload) == 32 * (20 + 1 + 2 * (90 + 20))
    np.testing.assert_array_equal(decoded["bias"], tree["bias"])
    np.testing.assert_array_equal(decoded["scalar"], tree["scalar"])


def test_the_warm_start_finds_the_best_approximation():
    matrix = normals((40, 30))
    values = np.linalg.svd(matrix, compute_uv=False)
    best = np.sqrt(np.sum(values[2:] ** 2))
    ends = Ends(power_sgd(rank=2), matrix)
    errors = [np.linalg.norm(ends.send(matrix) - matrix) for _ in range(60)]
    assert errors[0] > 1.02 * best
    assert errors[-1] == pytest.approx(best, rel=1e-4)
    assert all(error < np.linalg.norm(matrix) for error in errors)


def test_zeros_leave_nothing_that_a_later_matrix_could_not_use():
    matrix = low_rank(12, 9, 3)
    ends = Ends(power_sgd(rank=3), matrix)
    for given in (np.zeros_like(matrix), low_rank(12, 9, 1), np.zeros_like(matrix)):
        np.testing.assert_allclose(ends.send(given), given, atol=1e-5)
    np.testing.assert_allclose(ends.send(matrix), matrix, atol=1e-5 * np.max(np.abs(matrix)))


@pytest.mark.parametrize(
    "matrix",
    [
        normals((20, 6)),
        low_rank(20, 6, 2),
        np.zeros((20, 6), np.float32),
        1e-30 * normals((20, 6)),
        1e30 * normals((20, 6)),
        normals((6, 6)),
    ],
    ids=["full rank", "low rank", "zero", "tiny", "huge", "square"],
)
def test_columns_are_orthonormal_and_span_the_matrix(matrix):
    columns = np.asarray(jax.jit(orthonormal)(matrix), np.float64)
    np.testing.assert_allclose(columns.T @ columns, np.eye(6), atol=2e-6)
    np.testing.assert_allclose(columns @ (columns.T @ matrix), matrix, atol=2e-5 * np.max(np.abs(matrix)))


@functools.partial(jax.jit, static_argnums=0)
def add_up(codec, parts, states):
    """Carry out a codec's reduction among some ranks; return what each has at the end."""
    totals, num_ranks = (), len(parts)
    for start in codec.reduction.rounds:
        payloads = [start(*given, totals, jax.random.key(0)) for given in zip(parts, states, strict=True)]
        totals = (*totals, jax.tree.map(lambda *each: sum(each), *payloads))
    return [codec.reduction.finish(*given, totals, num_ranks) for given in zip(parts, states, strict=True)]


@pytest.mark.parametrize("wrap", [lambda codec: codec, leafwise])
def test_the_sum_of_low_rank_matrices_is_exact(wrap):
    codec = wrap(power_sgd(rank=4))
    parts = [low_rank(20, 10, 1, 10 * rank) for rank in range(4)]
    ends = add_up(codec, parts, [codec.init(parts[0])] * 4)
    for total, _ in ends:
        np.testing.assert_allclose(total, sum(parts), atol=1e-4)


def naive_power_sgd(rank_parts, right, errors):
    """One step of the paper's algorithm 2, in float64."""
    compensated = [part + error for part, error in zip(rank_parts, errors, strict=True)]
    left, _ = np.linalg.qr(np.mean([matrix @ right for matrix in compensated], axis=0))
    right = np.mean([matrix.T @ left for matrix in compensated], axis=0)
    mean = left @ right.T
    return mean, right, [matrix - mean for matrix in compensated]


def test_error_feedback_keeps_what_the_sum_has_lost_as_in_the_paper():
    codec = error_feedback(power_sgd(rank=2))
    num_ranks = 3
    states = [codec.init(normals((12, 8)))] * num_ranks
    right, errors = np.asarray(states[0][1][0], np.float64), [np.zeros((12, 8))] * num_ranks
    for step in range(6):
        parts = [normals((12, 8), 100 * step + rank) for rank in range(num_ranks)]
        mean, right, errors = naive_power_sgd(parts, right, errors)
        ends = add_up(codec, parts, states)
        states = [state for _, state in ends]
        for rank, (total, state) in enumerate(ends):
            np.testing.assert_allclose(total, num_ranks * mean, atol=2e-4)
            np.testing.assert_allclose(state[0], errors[rank], atol=2e-4)


def test_sketches_are_linear():
    codec = count_sketch(rows=3, columns=50)
    parts = [normals(400, seed) for seed in range(2)]
    sketches = [codec.encode(part, (), None)[0] for part in parts]
    together, _ = codec.encode(parts[0] + parts[1], (), None)
    np.testing.assert_allclose(sketches[0] + sketches[1], together, atol=1e-5)
    np.testing.assert_allclose(codec.encode(2 * parts[0], (), None)[0], 2 * sketches[0], rtol=1e-6)
    assert 8 * wire.tensor_nbytes(together) == 32 * 3 * 50


def test_heavy_hitters_are_found():
    vector = 0.01 * normals(10_000)
    places = np.random.default_rng(1).choice(10_000, 20, replace=False)
    vector[places] = np.where(normals(20) > 0, 5, -5)

    @jax.jit
    @jax.vmap
    def decoded(seed):
        codec = count_sketch(rows=5, columns=1000, ratio=0.002, seed=seed)
        return codec.decode(codec.encode(vector, (), None)[0], (), vector)[0]

    wrong = []
    for found in np.asarray(decoded(np.arange(40, dtype=np.uint32))):
        wrong.append(len(set(np.flatnonzero(found)) - set(places)))
        right = found[places] != 0
        np.testing.assert_allclose(found[places][right], vector[places][right], atol=0.3)
    # Another value looks as large if it shares buckets with such ones in three rows of five, with signs that agree:
    # C(5, 3) 0.02^3 / 4 = 2e-5 for each of 1e4.
    assert np.mean(wrong) < 0.5
    assert wrong.count(0) > 28


def test_one_row_is_unbiased_and_its_variance_that_of_the_rest_over_the_columns():
    vector = normals(60)

    @jax.jit
    @jax.vmap
    def decoded(seed):
        codec = count_sketch(rows=1, columns=20, ratio=1, seed=seed)
        return codec.decode(codec.encode(vector, (), None)[0], (), vector)[0]

    found = np.asarray(decoded(np.arange(2000, dtype=np.uint32)))
    deviation = found.std(axis=0) / np.sqrt(len(found))
    assert np.max(np.abs(found.mean(axis=0) - vector) / deviation) < 5
    expected = (np.sum(vector**2) - vector**2) / 20
    assert np.mean(found.var(axis=0) / expected) == pytest.approx(1, abs=0.05)


def test_fetch_sgd_with_room_for_everything_is_momentum_sgd():
    codec = fetch_sgd(rows=5, columns=20_000, ratio=1, momentum=0.8)
    parts = [[normals(50, 10 * step + rank) for rank in range(3)] for step in range(6)]
    states, velocity = [codec.init(parts[0][0])] * 3, np.zeros(50)
    for of_ranks in parts:
        velocity = 0.8 * velocity + sum(of_ranks)
        ends = add_up(codec, of_ranks, states)
        states = [state for _, state in ends]
        for total, _ in ends:
            np.testing.assert_allclose(total, velocity, atol=1e-5)


def test_fetch_sgd_keeps_what_is_not_large_enough_yet():
    vector = np.zeros(100, np.float32)
    vector[[3, 50]] = 1.0, 0.6
    ends = Ends(fetch_sgd(rows=5, columns=5000, ratio=0.01, momentum=0), vector)
    assert [int(np.argmax(ends.send(vector))) for _ in range(4)] == [3, 50, 3, 50]


def test_a_sum_of_vectors_of_a_tree_goes_the_same_way():
    codec = flat(fetch_sgd(rows=3, columns=100, ratio=0.1))
    tree = {"a": normals(30), "b": normals((3, 4))}
    ((total, _),) = add_up(codec, [tree], [codec.init(tree)])
    expected = Ends(codec, tree).send(tree)
    for name in tree:
        np.testing.assert_allclose(total[name], expected[name], rtol=1e-6)


def train(tiny, codec, algorithm):
    scenario = {**tiny, "strategy": {"kind": "all_reduce", "algorithm": algorithm}, "codec": codec}
    return psgdsim.run(from_dict(scenario))


@pytest.mark.parametrize("algorithm", ["ring", "tree"])
def test_at_full_rank_an_all_reduce_trains_as_without_codec(tiny, algorithm):
    got = train(tiny, {"kind": "error_feedback", "codec": {"kind": "power_sgd", "rank": 4096}}, algorithm)
    expected = train(tiny, {"kind": "identity"}, algorithm)
    for name, value in expected.params.items():
        np.testing.assert_allclose(got.params[name], value, atol=1e-5)


def test_each_round_of_a_ring_sends_its_payload_and_no_more(tiny):
    shapes = {name: value.shape for name, value in train(tiny, {"kind": "identity"}, "ring").params.items()}
    matrices = [shape for shape in shapes.values() if len(shape) > 1]
    dense = sum(int(np.prod(shape)) for shape in shapes.values() if len(shape) < 2)
    floats = dense + sum(sum(shape) for shape in matrices)
    result = train(tiny, {"kind": "power_sgd", "rank": 1}, "ring")
    num_ranks, steps = tiny["world_size"], tiny["max_steps"]
    assert result.summary["bytes"]["payload_total"] == steps * 2 * (num_ranks - 1) * 4 * floats
