"""codecs.cast, codecs.natural, codecs.sign: values as short floats, exponents or signs."""

from __future__ import annotations

import jax
import ml_dtypes
import numpy as np
import pytest
from coding import coded, decoded, vector_of

from psgdsim import codecs
from psgdsim.testing.codec_laws import decode_many
from psgdsim.testing.codec_numbers import gaussian

# --- casts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
def test_8_bit_floats_are_those_next_to_the_scaled_values(dtype):
    vector = gaussian(20_000) ** 3
    payload = coded(codecs.cast(dtype), vector)
    largest = {"float8_e4m3fn": 448, "float8_e5m2": 57344}[dtype]
    scale = np.max(np.abs(vector)) / np.float32(largest)
    assert payload[0]["scale"] == scale
    numbers = np.unique(np.arange(256, dtype=np.uint8).view(getattr(ml_dtypes, dtype)).astype(np.float64))
    numbers = numbers[np.isfinite(numbers)]
    assert numbers.max() == largest
    scaled = (vector / scale).astype(np.float64)
    nearest = np.min(np.abs(numbers[None, :] - scaled[:, None]), axis=1)
    got = np.abs(payload[0]["values"].astype(np.float64) - scaled)
    np.testing.assert_allclose(got, nearest, atol=1e-6 * largest)


@pytest.mark.parametrize(("dtype", "bound"), [("float8_e4m3fn", 2**-4), ("float8_e5m2", 2**-3)])
def test_8_bit_floats_are_off_by_half_a_unit_in_the_last_place(dtype, bound):
    vector = gaussian(20_000)
    vector[np.abs(vector) < 2**-4] = 1
    off = np.abs(decoded(codecs.cast(dtype), vector) - vector) / np.abs(vector)
    assert bound * 0.85 < off.max() <= bound * (1 + 1e-6)


def test_random_casts_keep_what_can_be_sent_and_what_is_not_finite():
    vector = vector_of(1.5, -2.0, 0.0, 65504, 2**-24, np.inf, -np.inf, np.nan)
    np.testing.assert_array_equal(decoded(codecs.cast("float16", stochastic=True), vector), vector)


def test_sums_of_16_bit_casts_decode_as_sums():
    codec = codecs.cast("bfloat16")
    one, two = vector_of(1, 2, -4), vector_of(0.5, 2, 8)
    (total,) = jax.tree.map(np.add, coded(codec, one), coded(codec, two))
    assert codec.is_summable
    assert not codecs.cast("float8_e5m2").is_summable
    assert not codecs.cast("bfloat16", stochastic=True).is_summable
    np.testing.assert_array_equal(codec.decode([total], codec.init(one), one)[0], one + two)


# --- powers of two --------------------------------------------------------------------------------------------


def test_natural_compression_by_hand():
    vector = vector_of(2.75, -2.75, 4, -0.125, 0, 3e38)
    many = np.asarray(decode_many(codecs.natural(), vector, 4000))
    assert set(np.unique(many[:, 0]).tolist()) == {2.0, 4.0}
    assert np.mean(many[:, 0] == 2) == pytest.approx(5 / 8, abs=0.03)
    assert np.mean(many[:, 1] == -4) == pytest.approx(3 / 8, abs=0.03)
    np.testing.assert_array_equal(many[:, 2:5], np.broadcast_to(vector[2:5], (4000, 3)))
    assert set(np.unique(many[:, 5]).tolist()) == {2.0**127}
    np.testing.assert_array_equal(decoded(codecs.natural(), vector_of(np.inf, -np.inf)), vector_of(np.inf, -np.inf))


def test_natural_dithering_with_many_levels_is_natural_compression_of_shares():
    vector = gaussian(300)
    shares = np.abs(decoded(codecs.natural_dithering(levels=31, bucket_size=None), vector)) / np.linalg.norm(vector)
    powers = np.log2(shares)
    np.testing.assert_allclose(powers, np.round(powers), atol=1e-5)
    exact = np.log2(np.abs(vector) / np.linalg.norm(vector))
    assert (np.abs(np.round(powers) - exact) < 1 + 1e-5).all()


def test_natural_dithering_by_hand():
    # Of a largest magnitude 8, three levels: 2, 4, 8; 1 is 2 half the time, 3 is 2 or 4.
    many = np.asarray(decode_many(codecs.natural_dithering(levels=3, norm="max"), vector_of(8, 1, -3), 4000))
    assert [sorted(set(column.tolist())) for column in many.T] == [[8.0], [0.0, 2.0], [-4.0, -2.0]]
    np.testing.assert_allclose(many.mean(axis=0), [8, 1, -3], atol=0.1)


# --- signs ----------------------------------------------------------------------------------------------------


def test_signs_walk_the_wrong_way_where_scaled_signs_with_feedback_are_sgd():
    """O29: gradients of 4 with probability 1/4, else -1, have the mean 1/4."""
    generator, rate = np.random.default_rng(29), 0.01
    gradients = np.where(generator.random(4000) < 0.25, 4, -1).astype(np.float32)
    ends = {}
    for name, codec in {"sign": codecs.sign(), "fed back": codecs.error_feedback(codecs.scaled_sign())}.items():
        encode, decode, state = jax.jit(codec.encode), jax.jit(codec.decode), codec.init(gradients[:1])
        moved = 0.0
        for step in range(len(gradients)):
            payload, state = encode(gradients[step : step + 1], state, jax.random.key(0))
            moved -= rate * float(decode(payload, state, gradients[:1])[0][0])
        ends[name] = moved / rate / len(gradients)
    assert ends["fed back"] == pytest.approx(-float(gradients.astype(float).mean()), abs=1e-9)
    assert ends["fed back"] == pytest.approx(-0.25, abs=0.15)
    assert ends["sign"] == pytest.approx(0.5, abs=0.05)


def test_signs_of_zeros_are_positive_and_sums_of_signs_are_votes():
    assert decoded(codecs.sign(), vector_of(0, -0.0, 1e-30, -1e-30)).tolist() == [1, 1, 1, -1]
    ballots = [vector_of(1, -2, 3), vector_of(-5, -1, 1), vector_of(2, 9, -1)]
    assert np.sign(sum(decoded(codecs.sign(), ballot) for ballot in ballots)).tolist() == [1, -1, 1]


def test_zeros_take_the_positive_side_of_whatever_is_around_them():
    vector = vector_of(2, 0, -4, 0)
    assert decoded(codecs.scaled_sign(), vector).tolist() == [1.5, 1.5, -1.5, 1.5]
    assert decoded(codecs.scaled_sign(), -vector).tolist() == [-1.5, 1.5, 1.5, 1.5]
    np.testing.assert_allclose(decoded(codecs.one_bit(), vector), [2 / 3, 2 / 3, -4, 2 / 3])
    np.testing.assert_allclose(decoded(codecs.one_bit(), -vector), [-2, 4 / 3, 4 / 3, 4 / 3])


def test_scaled_sign_contracts_as_its_formula_says():
    vector = gaussian(777) ** 3
    left = np.sum((decoded(codecs.scaled_sign(), vector) - vector).astype(float) ** 2)
    square = np.sum(vector.astype(float) ** 2)
    delta = np.sum(np.abs(vector.astype(float))) ** 2 / (777 * square)
    assert left / square == pytest.approx(1 - delta, rel=1e-5)


def test_one_bit_sends_the_mean_of_each_side_of_each_column():
    matrix = np.asarray([[1, -1], [3, -3], [-2, -8]], np.float32)
    np.testing.assert_array_equal(decoded(codecs.one_bit(), matrix), [[2, -4], [2, -4], [-2, -4]])
    vector = gaussian(501)
    total = np.sum(decoded(codecs.one_bit(), vector), dtype=float)
    assert total == pytest.approx(np.sum(vector, dtype=float), abs=1e-3)
    two = np.where(vector > 0, np.float32(0.3), np.float32(-7))
    np.testing.assert_allclose(decoded(codecs.one_bit(), two), two, rtol=1e-5)
