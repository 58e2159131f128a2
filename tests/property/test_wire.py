"""wire: every payload comes back bit for bit, has the foretold size, and no damage goes unnoticed."""

from __future__ import annotations

import math
import struct

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from psgdsim import wire
from psgdsim.errors import ProtocolError

DTYPES = [
    "?",
    "i1",
    "i2",
    "i4",
    "i8",
    "u1",
    "u2",
    "u4",
    "u8",
    "f2",
    "f4",
    "f8",
    "c8",
    "c16",
    ml_dtypes.bfloat16,
]

texts = st.text(max_size=60).filter(lambda text: len(text.encode()) <= 256)


@st.composite
def arrays(draw):
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    size = math.prod(shape)
    if dtype.kind == "b":
        return np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)), bool).reshape(shape)
    raw = draw(st.binary(min_size=size * dtype.itemsize, max_size=size * dtype.itemsize))
    return np.frombuffer(raw, dtype).reshape(shape)


leaves = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | texts | arrays()
payloads = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple) | st.dictionaries(texts, inner, max_size=4)
    ),
    max_leaves=10,
)


def assert_same(one, two):
    assert type(one) is type(two)
    if isinstance(one, np.ndarray):
        assert (one.dtype, one.shape) == (two.dtype, two.shape)
        assert one.tobytes() == two.tobytes()
    elif isinstance(one, dict):
        assert list(one) == list(two)
        for key in one:
            assert_same(one[key], two[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(two)
        for left, right in zip(one, two, strict=True):
            assert_same(left, right)
    elif isinstance(one, float):
        assert struct.pack("<d", one) == struct.pack("<d", two)
    else:
        assert one == two


@given(payloads)
def test_a_payload_comes_back_bit_for_bit_at_its_foretold_size(payload):
    frame = wire.pack(payload, src=3, tag="t")
    assert len(frame) == wire.nbytes(payload)
    _, back = wire.unpack_frame(frame)
    assert_same(payload, back)


@given(payloads)
def test_tensor_bytes_are_those_of_the_arrays(payload):
    def count(tree):
        if isinstance(tree, np.ndarray):
            return tree.nbytes
        if isinstance(tree, dict):
            return sum(map(count, tree.values()))
        return sum(map(count, tree)) if isinstance(tree, list | tuple) else 0

    assert wire.tensor_nbytes(payload) == count(payload)


@given(payloads, st.data())
def test_every_truncation_is_refused(payload, data):
    frame = wire.pack(payload, tag="t")
    cut = data.draw(st.integers(0, len(frame) - 1))
    with pytest.raises(ProtocolError):
        wire.unpack_frame(frame[:cut])


@given(payloads, st.data())
def test_every_flipped_bit_is_refused(payload, data):
    frame = bytearray(wire.pack(payload, tag="t", group=2))
    bit = data.draw(st.integers(0, 8 * len(frame) - 1))
    frame[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ProtocolError):
        wire.unpack_frame(frame)


@settings(max_examples=300)
@given(st.binary(max_size=80), st.binary(max_size=40))
def test_noise_under_a_true_checksum_is_a_payload_or_refused(spec, body):
    header = wire.Header(wire.MESSAGE, 1, 0, 0, len(spec), len(body), 0, "")
    frame = header.pack(header.compute_checksum(spec, body)) + spec + body
    try:
        _, payload = wire.unpack_frame(frame)
    except ProtocolError:
        return
    assert wire.tensor_nbytes(payload) <= len(body)
