"""codecs.bits, codecs.entropy, codecs.indices: what is written is read again, at the exact length, or refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from psgdsim.codecs import entropy
from psgdsim.codecs.bits import CHUNK, BitReader, BitWriter
from psgdsim.codecs.indices import pack_indices, unpack_indices
from psgdsim.codecs.sparse_packing import sparse_unpack
from psgdsim.errors import CodecError

CODINGS = ("raw", "bitmap", "rice", "delta", "auto")

numbers = st.lists(st.one_of(st.integers(1, 40), st.integers(1, 2**48 - 1)), max_size=40)


def omega(n):
    code = "0"
    while n > 1:
        code = f"{n:b}" + code
        n = n.bit_length() - 1
    return code


def omega_groups(n):
    return [*omega_groups(n.bit_length() - 1), n] if n > 1 else []


@given(values=numbers, ahead=st.lists(st.booleans(), max_size=9))
def test_elias_codes_round_trip_at_the_length_of_the_codes_one_by_one(values, ahead):
    lengths = entropy.omega_lengths(values)
    writer = BitWriter()
    writer.write_bits(ahead)
    entropy.write_omega(writer, values)
    assert lengths.tolist() == [len(omega(value)) for value in values]
    assert writer.num_bits == len(ahead) + sum(lengths)
    reader = BitReader(writer.finish(), "x")
    assert reader.read_bits(len(ahead)).tolist() == ahead
    assert entropy.read_omega(reader, len(values)).tolist() == values
    reader.finish()


@pytest.mark.parametrize("largest", [40, entropy.TABLE_SIZE + 1, 2**48 - 1])
@pytest.mark.parametrize("count", [CHUNK - 1, CHUNK, 2 * CHUNK + 3])
def test_many_numbers_are_coded_as_few_are(largest, count):
    """The bits of one number are spread over the planes of all; so compare with all numbers' groups, one by one."""
    values = np.geomspace(1, largest, count).astype(np.int64)
    groups, expected = [omega_groups(value) for value in values.tolist()], []
    for plane in range(1 + max(map(len, groups))):
        active = [each for each in groups if len(each) >= plane]
        expected += [len(each) > plane for each in active]
        for each in active:
            group = each[plane] if len(each) > plane else 1
            expected += [bool(group >> digit & 1) for digit in range(group.bit_length() - 1)]
    writer = BitWriter()
    writer.write_bits([True, False, True])
    entropy.write_omega(writer, values)
    reader = BitReader(writer.finish(), "x")
    assert reader.read_bits(3 + len(expected)).tolist() == [True, False, True, *expected]
    reader.finish()
    reader = BitReader(writer.finish(), "x")
    reader.read_bits(3)
    np.testing.assert_array_equal(entropy.read_omega(reader, count), values)


@given(values=st.lists(st.integers(1, 5000), max_size=40), low_bits=st.integers(0, 12))
def test_rice_round_trips_at_its_length(values, low_bits):
    writer = BitWriter()
    entropy.write_rice(writer, values, low_bits)
    assert writer.num_bits == sum(((value - 1) >> low_bits) + 1 + low_bits for value in values)
    assert writer.num_bits == entropy.rice_num_bits(values, low_bits)
    reader = BitReader(writer.finish(), "x")
    assert entropy.read_rice(reader, len(values), low_bits).tolist() == values
    reader.finish()


@pytest.mark.parametrize(
    ("number", "length"), [(1, 1), (2, 3), (4, 6), (8, 7), (16, 11), (100, 13), (1000, 17), (10**6, 31)]
)
def test_published_code_lengths(number, length):
    assert entropy.omega_lengths([number]).tolist() == [length]


@pytest.mark.parametrize(("density", "rice", "omega"), [(0.01, 8.11, 11.98), (0.001, 11.49, 16.36)])
def test_bits_per_index_of_random_places(density, rice, omega):
    gaps = np.random.default_rng(0).geometric(density, 400_000)
    bits = entropy.rice_num_bits(gaps, entropy.rice_parameter(density)) / len(gaps)
    assert bits == pytest.approx(rice, rel=3e-3)
    assert entropy.omega_lengths(gaps).mean() == pytest.approx(omega, rel=3e-3)


@pytest.mark.parametrize("values", [[0], [-3, 1], [2**48]])
def test_numbers_that_have_no_code_are_refused(values):
    with pytest.raises(ValueError, match=r"expected integers of 1 to 2\*\*48 - 1"):
        entropy.write_omega(BitWriter(), values)


@given(data=st.binary(max_size=20), count=st.integers(0, 30))
def test_any_bytes_are_read_or_refused(data, count):
    try:
        values = entropy.read_omega(BitReader(np.frombuffer(data, np.uint8), "x"), count)
    except CodecError as error:
        assert str(error).startswith("x: ")  # noqa: PT017 - which of both happens depends on the bytes
    else:
        assert len(values) == count
        assert sum(entropy.omega_lengths(values)) <= 8 * len(data)


places = st.integers(1, 300).flatmap(
    lambda size: st.tuples(st.just(size), st.lists(st.integers(0, size - 1), unique=True).map(sorted))
)


@pytest.mark.parametrize("coding", CODINGS)
@given(given_places=places)
def test_indices_round_trip(coding, given_places):
    size, indices = given_places
    data = pack_indices(np.asarray(indices, np.int64), size, coding)
    assert unpack_indices(data, len(indices), size, coding).tolist() == indices


@given(given_places=places)
def test_auto_takes_the_shortest(given_places):
    size, indices = given_places
    lengths = {coding: len(pack_indices(np.asarray(indices, np.int64), size, coding)) for coding in CODINGS}
    assert lengths["auto"] == min(lengths.values())
    assert lengths["raw"] == 1 + 4 * len(indices)
    assert lengths["bitmap"] == 1 + (size + 7) // 8


@pytest.mark.parametrize("coding", CODINGS)
@settings(max_examples=300)
@given(data=st.binary(max_size=30), count=st.integers(0, 20))
def test_any_bytes_are_indices_or_refused(coding, data, count):
    try:
        indices = unpack_indices(np.frombuffer(data, np.uint8), count, 100, coding)
    except CodecError:
        return
    assert len(indices) == count
    assert all(0 <= index < 100 for index in indices)
    assert indices.tolist() == sorted(set(indices.tolist()))


@pytest.mark.parametrize("coding", CODINGS)
def test_truncated_indices_are_refused(coding):
    data = pack_indices(np.asarray([3, 17, 18, 90]), 100, coding)
    for length in range(len(data)):
        with pytest.raises(CodecError, match="indices: "):
            unpack_indices(data[:length], 4, 100, coding)


def test_the_bitmap_wins_beyond_thirty_eight_percent():
    for share, expected in ((0.3, 2), (0.45, 1)):
        indices = np.flatnonzero(np.random.default_rng(0).random(10_000) < share)
        assert pack_indices(indices, 10_000, "auto")[0] == expected


EXTREMES = [0, 1, 5, 99, 100, 2**31 - 1, -(2**31), -1]


@given(given_places=st.lists(st.sampled_from(EXTREMES), min_size=1, max_size=6))
@example([0, 2**31 - 1, -(2**31), -1, 5])  # whose differences wrap around in 32 bits
def test_raw_indices_of_any_value_are_valid_or_refused(given_places):
    raw = np.asarray(given_places, np.int32)
    is_valid = all(0 <= place < 100 for place in given_places) and given_places == sorted(set(given_places))
    like, values = np.zeros(100, np.float32), np.ones(len(raw), np.float32)
    marked = np.append(np.uint8(0), raw.view(np.uint8))
    for unpack in (
        lambda: unpack_indices(marked, len(raw), 100, "raw"),
        lambda: sparse_unpack("raw")({"indices": raw, "values": values}, like)["indices"],
    ):
        if is_valid:
            assert unpack().tolist() == given_places
        else:
            with pytest.raises(CodecError, match="ascending numbers of 0 to 99"):
                unpack()
