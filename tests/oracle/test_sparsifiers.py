"""codecs.sparsify, codecs.selection: which values are sent, and the exact moments of what is lost."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from coding import Ends, normals

from psgdsim import wire
from psgdsim.codecs import random_k, selection, threshold, top_k
from psgdsim.codecs.indices import Coding
from psgdsim.codecs.sparse_packing import num_kept

CODINGS = [each for each in Coding.__args__ if each != "raw"]


def naive_places(vector, count):
    """Sort by magnitude, then by place."""
    return sorted(sorted(range(len(vector)), key=lambda i: (-abs(vector[i]), i))[:count])


@pytest.mark.parametrize("is_long", [False, True])
@pytest.mark.parametrize("count", [1, 2, 31, 500, 999, 1000])
def test_the_largest_are_found_and_ties_go_to_the_lowest_index(monkeypatch, is_long, count):
    if is_long:
        monkeypatch.setattr(selection, "SORTED_SIZE", 0)
        monkeypatch.setattr(selection, "SORTED_SHARE", 0)
    for vector in (normals(1000), np.random.default_rng(1).integers(-3, 4, 1000).astype(np.float32)):
        places = jax.jit(selection.largest, static_argnums=1)(vector, count)
        assert places.tolist() == naive_places(vector, count)


def test_the_largest_of_a_number_that_is_known_late():
    vector = np.random.default_rng(1).integers(-9, 10, 100).astype(np.float32)
    find = jax.jit(selection.largest_of, static_argnums=2)
    for count in (1, 7, 30):
        assert find(vector, jnp.int32(count), 30).tolist() == naive_places(vector, count) + [100] * (30 - count)


@pytest.mark.parametrize("size", [1000, 70_000])
def test_random_places_are_different_and_each_as_likely(size):
    count = size // 10
    draw = jax.jit(jax.vmap(lambda key: selection.random_places(key, size, count)))
    hits = np.zeros(size)
    for seed in range(20):
        for places in np.asarray(draw(jax.random.split(jax.random.key(seed), 20))):
            assert np.all(np.diff(places) > 0)
            assert places[0] >= 0
            assert places[-1] < size
            hits[places] += 1
    # Hits are binomial(400, 0.1), but for their sum: their variance and their correlation along the vector.
    assert np.var(hits) == pytest.approx(400 * 0.1 * 0.9, rel=5 * np.sqrt(2 / size))
    halves = hits[: size // 2].sum() - hits[size // 2 :].sum()
    assert abs(halves) < 5 * np.sqrt(400 * size * 0.1 * 0.9)


@pytest.mark.parametrize("coding", CODINGS)
def test_indices_cost_what_is_said_and_the_values_are_the_same(coding):
    vector = normals(20_000)
    raw, coded = Ends(top_k(ratio=0.01), vector), Ends(top_k(ratio=0.01, index_coding=coding), vector)
    np.testing.assert_array_equal(raw.send(vector), coded.send(vector))
    assert 8 * wire.tensor_nbytes(raw.payload) == 64 * 200
    bits = {"bitmap": 20_000, "rice": 8.15 * 200, "delta": 10.2 * 200, "auto": 8.15 * 200}[coding]
    assert 8 * wire.tensor_nbytes(coded.payload) == pytest.approx(32 * 200 + 8 + bits, rel=0.01)


def test_top_k_is_never_worse_than_random_k():
    best, random = (Ends(codec, normals(200)) for codec in (top_k(ratio=0.1), random_k(ratio=0.1, shared=False)))
    for seed in range(10):
        vector = normals(200, seed)
        assert np.sum((best.send(vector) - vector) ** 2) < np.sum((random.send(vector) - vector) ** 2)


@pytest.mark.parametrize(("is_scaled", "factor"), [(False, 1 - 0.25), (True, 1 / 0.25 - 1)])
def test_random_k_has_its_exact_second_moment(is_scaled, factor):
    vector = normals(100)
    codec = random_k(ratio=0.25, scaled=is_scaled, shared=False)

    @jax.jit
    @jax.vmap
    def decoded(key):
        payload, state = codec.encode(vector, codec.init(vector), key)
        return codec.decode(payload, state, vector)[0]

    errors = np.sum((np.asarray(decoded(jax.random.split(jax.random.key(0), 4000))) - vector) ** 2, axis=1)
    z = (errors.mean() - factor * np.sum(vector**2)) / (errors.std() / np.sqrt(len(errors)))
    assert abs(z) < 5


def test_shared_places_need_no_index_and_add_up():
    codec = random_k(ratio=0.1)
    parts = [normals(200, seed) for seed in range(3)]
    state, decoder = codec.init(parts[0]), codec.init(parts[0])
    seen = []
    for _ in range(3):
        payloads = [codec.encode(part, state, jax.random.key(rank))[0] for rank, part in enumerate(parts)]
        state = codec.encode(parts[0], state, jax.random.key(0))[1]
        assert [8 * wire.tensor_nbytes(payload) for payload in payloads] == [32 * 20] * 3
        apart = sum(np.asarray(codec.decode(payload, decoder, parts[0])[0]) for payload in payloads)
        together, decoder = codec.decode(jax.tree.map(lambda *each: sum(each), *payloads), decoder, parts[0])
        np.testing.assert_allclose(together, apart, rtol=1e-6)
        seen.append(tuple(np.flatnonzero(apart)))
    assert len(set(seen)) == 3


def test_seeds_share_no_places():
    vector = normals(1000)
    kept = [set(np.flatnonzero(Ends(random_k(ratio=0.1, seed=seed), vector).send(vector))) for seed in (0, 1)]
    assert len(kept[0] & kept[1]) < 30


@pytest.mark.parametrize("coding", ["raw", "auto"])
@pytest.mark.parametrize("value", [0.0, 0.5, 10.0])
def test_threshold_drops_no_more_than_its_value(coding, value):
    vector = normals(1000)
    ends = Ends(threshold(value, coding), vector)
    decoded = ends.send(vector)
    kept = np.abs(vector) > value
    np.testing.assert_array_equal(decoded, np.where(kept, vector, 0))
    assert np.max(np.abs(vector - decoded)) <= value
    if coding == "raw":
        assert 8 * wire.tensor_nbytes(ends.payload) == 64 * kept.sum()
    else:
        assert 8 * wire.tensor_nbytes(ends.payload) <= 32 * kept.sum() + 8 + 1000


def test_threshold_sends_what_is_no_number():
    vector = np.asarray([np.nan, 1, np.inf, 0], np.float32)
    np.testing.assert_array_equal(Ends(threshold(2.0), vector).send(vector), [np.nan, 0, np.inf, 0])


def test_a_share_is_that_of_the_decimals():
    for percent in range(1, 101):
        for size in (1, 7, 100, 12_345, 10**9):
            assert num_kept(percent / 100, size) == max(1, percent * size // 100)
    assert num_kept(0.29, 100) == 29


def test_raw_indices_that_no_sender_makes_do_no_harm():
    codec, like = top_k(ratio=0.6), np.zeros(10, np.float32)
    payload = {
        "indices": np.asarray([-1, 5000, 5, 5, 2, -(2**31)], np.int32),
        "values": np.arange(1, 7, dtype=np.float32),
    }
    expected = np.zeros(10)
    expected[[5, 2]] = [4, 5]
    for decode in (codec.decode, jax.jit(codec.decode)):
        np.testing.assert_array_equal(decode(payload, codec.init(like), like)[0], expected)
