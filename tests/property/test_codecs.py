"""Every registered codec is in the table; those of a few bits per value keep the contract, and casts their bounds."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest

from psgdsim.codecs import Codec, cast, codecs, error_feedback, identity, stateless, top_k
from psgdsim.testing import check_codec
from psgdsim.testing.codec_rows import QUANTIZERS, ROWS


def test_every_registered_codec_has_a_row():
    assert {part.name for part in codecs if part.module.startswith("psgdsim.")} == {row.name for row in ROWS}


@pytest.mark.parametrize("row", [row for row in ROWS if row in QUANTIZERS], ids=lambda row: row.label)
def test_contract(row):
    check_codec(row.make(), keeps_zero=row.keeps_zero)


def normals(size, seed=0):
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


@pytest.mark.parametrize(("dtype", "bound"), [("float16", 2**-11), ("bfloat16", 2**-8)])
def test_cast_error_is_at_most_half_a_unit_in_the_last_place(dtype, bound):
    update = normals(10_000)
    payload, _ = cast(dtype).encode(update, cast(dtype).init(update), jax.random.key(0))
    decoded, _ = cast(dtype).decode(payload, cast(dtype).init(update), update)
    assert np.max(np.abs(np.asarray(decoded) - update) / np.abs(update)) <= bound


def test_float16_overflows_and_underflows_where_it_must():
    update = jax.numpy.asarray([65504, 65536, 2.0**-24, 2.0**-26], np.float32)
    codec = cast("float16")
    payload, _ = codec.encode(update, codec.init(update), jax.random.key(0))
    decoded, _ = codec.decode(payload, codec.init(update), update)
    np.testing.assert_array_equal(decoded, np.asarray([65504, np.inf, 2.0**-24, 0], np.float32))


def test_top_k_contracts_with_equality_for_constant_magnitude():
    update = np.where(normals(200) > 0, 1.0, -1.0).astype(np.float32)
    codec = top_k(ratio=0.25)
    payload, _ = codec.encode(update, codec.init(update), jax.random.key(0))
    decoded, _ = codec.decode(payload, codec.init(update), update)
    assert np.sum((np.asarray(decoded) - update) ** 2) == pytest.approx((1 - 0.25) * np.sum(update**2), rel=1e-6)
    np.testing.assert_array_equal(payload["indices"], np.arange(50))  # ties go to the lowest index


def test_top_k_keeps_the_largest():
    update = normals(1000)
    codec = top_k(ratio=0.01)
    payload, _ = codec.encode(update, codec.init(update), jax.random.key(0))
    assert set(np.asarray(payload["indices"]).tolist()) == set(np.argsort(-np.abs(update))[:10].tolist())


def test_error_feedback_conserves():
    codec = error_feedback(top_k(ratio=0.1))
    state = codec.init(normals(100))
    total, sent = np.zeros(100), np.zeros(100)
    for step in range(50):
        update = normals(100, seed=step)
        payload, state = codec.encode(update, state, jax.random.key(step))
        decoded, _ = codec.decode(payload, codec.init(update), update)
        total += update
        sent += np.asarray(decoded, float)
    np.testing.assert_allclose(sent + np.asarray(state[0]), total, atol=2e-5)


def test_error_feedback_of_identity_remembers_nothing():
    codec = error_feedback(identity())
    _, state = codec.encode(normals(10), codec.init(normals(10)), jax.random.key(0))
    assert not np.any(state[0])


def counting():
    """Return a codec that counts its messages where no state has it, and sends that along every third time."""
    counts = itertools.count()
    return stateless(
        lambda update, key: update,
        lambda payload, like: payload,
        pack=lambda payload, like: (payload, next(counts) % 3 == 2),
        unpack=lambda payload, like: payload[0],
    )


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        (stateless(lambda u, k: u, lambda p, like: p.astype(np.float16)), "has the tree, shapes and dtypes"),
        (stateless(lambda u, k: u, lambda p, like: p + 1), "zeros decode to zeros"),
        (Codec(lambda like: (), lambda u, s, k: (u, (1.0, 2.0)), lambda p, s, like: (p, s)), "the encoder's state"),
        (
            stateless(lambda u, k: u + 1 if isinstance(u, np.ndarray) else u, lambda p, like: p),
            "jitted and plain encode give the same bits",
        ),
        (stateless(lambda u, k: u * abs(u), lambda p, like: p, is_summable=True), "the sum of two is the payload of"),
        (stateless(lambda u, k: u, lambda p, like: p, pack=lambda p, like: p), "`pack` and `unpack` come together"),
        (counting(), "what goes on from a checkpoint gives the same bits as what was never interrupted"),
    ],
)
def test_check_codec_finds_what_is_broken(broken, law):
    with pytest.raises(AssertionError, match=law):
        check_codec(broken, [normals(5)])


@pytest.mark.parametrize("given", ["top_k", top_k])
def test_check_codec_says_what_is_no_codec(given):
    with pytest.raises(TypeError, match="expected a codec, as its factory returns it, such as top_k"):
        check_codec(given)
