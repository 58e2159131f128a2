"""codecs.packing and codecs.noise: bit strings come back, and are those of a naive implementation; random bits are."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psgdsim.codecs import noise, packing
from psgdsim.errors import CodecError

SIZES = (0, 1, 4, 5, 8, 37, 64)


@settings(max_examples=40)
@given(st.integers(1, 16), st.sampled_from(SIZES), st.integers(0, 2**32 - 1))
def test_codes_are_bit_strings(bits, size, seed):
    codes = np.random.default_rng(seed).integers(2**bits, size=size).astype(np.uint16)
    digits = codes[:, None] >> np.arange(bits) & 1
    expected = np.packbits(digits.astype(np.uint8).reshape(-1), bitorder="little")
    on_host = packing.pack_on_host(codes if bits > 8 else codes.astype(np.uint8), bits)
    np.testing.assert_array_equal(on_host, expected)
    np.testing.assert_array_equal(packing.unpack_on_host(expected, bits, size), codes)
    data = jax.jit(packing.pack_codes, static_argnums=1)(codes, bits)
    assert data.dtype == np.uint8
    np.testing.assert_array_equal(data, expected)
    assert len(expected) == packing.packed_nbytes(size, bits)
    np.testing.assert_array_equal(jax.jit(packing.unpack_codes, static_argnums=(1, 2))(data, bits, size), codes)


@settings(max_examples=20)
@given(st.sampled_from(SIZES), st.integers(0, 2**32 - 1))
def test_five_digits_of_base_3_are_a_byte(size, seed):
    trits = np.random.default_rng(seed).integers(3, size=size)
    data = jax.jit(packing.pack_trits)(trits)
    padded = np.pad(trits, (0, -size % 5)).reshape(-1, 5)
    np.testing.assert_array_equal(data, padded @ [1, 3, 9, 27, 81])
    np.testing.assert_array_equal(jax.jit(packing.unpack_trits, static_argnums=1)(data, size), trits)


def test_bytes_that_are_no_digits_of_base_3_count_as_the_last_that_is():
    data = np.asarray([242, 243, 255], np.uint8)
    np.testing.assert_array_equal(packing.unpack_trits(data, 15), np.full(15, 2))


def test_what_is_no_bit_string_is_refused():
    data = np.zeros(4, np.uint8)
    for unpack in (packing.unpack_codes, packing.unpack_on_host):
        with pytest.raises(CodecError, match=r"expected uint8\[5\], 13 codes of 3 bits; got uint8\[4\]"):
            unpack(data, 3, 13)
        with pytest.raises(CodecError, match=r"got float32\[5\]"):
            unpack(np.zeros(5, np.float32), 3, 13)
    with pytest.raises(CodecError, match=r"expected uint8\[3\], 11 digits of base 3; got uint8\[4\]"):
        packing.unpack_trits(data, 11)
    for bits in (0, 17):
        with pytest.raises(ValueError, match=f"expected codes of 1 to 16 bits; got {bits}"):
            packing.pack_codes(data, bits)


# --- noise ----------------------------------------------------------------------------------------------------

NUM = 2**14
DRAW = jax.jit(lambda key: noise.random_bits(key, NUM))


def chi_square(words):
    """Return how uneven the bytes are; 255 on average, with a deviation of 23."""
    counts = np.bincount(np.ascontiguousarray(words).view(np.uint8), minlength=256)
    return np.sum((counts - counts.mean()) ** 2) / counts.mean()


def largest_correlation(one, other):
    """Return the largest correlation of a bit of one with a bit of the other, in standard deviations."""
    bits = [np.unpackbits(words.astype("<u4").view(np.uint8)).reshape(-1, 32) * 2.0 - 1 for words in (one, other)]
    return np.max(np.abs(bits[0].T @ bits[1])) / np.sqrt(len(one))


@pytest.mark.parametrize("seed", [0, 1, 2, 2**31])
def test_random_bits_are_even_and_neighbours_are_unlike(seed):
    words = np.asarray(DRAW(jax.random.key(seed)))
    assert words.dtype == np.uint32
    assert chi_square(words) < 255 + 5 * 23
    for lag in (1, 2, 64):
        assert largest_correlation(words[lag:], words[:-lag]) < 5.5
    assert len(np.unique(words)) > NUM - 10


def test_streams_of_near_keys_are_unlike():
    base = jax.random.key(7)
    keys = [base, jax.random.key(8), *(jax.random.fold_in(base, i) for i in range(3))]
    streams = [np.asarray(DRAW(key)) for key in keys]
    for i, one in enumerate(streams):
        for other in streams[:i]:
            assert largest_correlation(one, other) < 5.5
    firsts = jax.jit(jax.vmap(lambda seed: noise.random_bits(jax.random.key(seed), 2)))(np.arange(NUM))
    for column in np.asarray(firsts).T:
        assert chi_square(column) < 255 + 5 * 23
        assert largest_correlation(column[1:], column[:-1]) < 5.5
    assert largest_correlation(*np.asarray(firsts).T) < 5.5


def test_a_number_depends_on_its_place_and_the_key_alone():
    key = jax.random.key(3)
    np.testing.assert_array_equal(noise.random_bits(key, 5), np.asarray(DRAW(key))[:5])
    other = jax.random.key(3, impl="rbg")
    assert noise.random_bits(other, 5).tolist() != noise.random_bits(key, 5).tolist()


def test_rounding_at_random_goes_to_neighbours_only_and_has_the_right_mean():
    values = np.repeat(np.asarray([0.0, 0.25, 1.5, 6.99, -0.25, 7.0], np.float32), 10_000)
    rounded = np.asarray(noise.round_at_random(values, jax.random.key(0))).reshape(6, -1)
    assert [sorted(set(row.tolist())) for row in rounded] == [[0], [0, 1], [1, 2], [6, 7], [-1, 0], [7]]
    np.testing.assert_allclose(rounded.mean(axis=1), values[::10_000], atol=0.02)
