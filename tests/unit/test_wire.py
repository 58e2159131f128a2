"""wire: known frames, and what it refuses."""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
import pytest

from psgdsim import wire
from psgdsim.errors import CodecError, ProtocolError


class Pair(NamedTuple):
    first: int
    second: int


def test_a_frame_lies_as_written_down():
    frame = wire.pack(np.array([1, 2], np.int16), src=7, tag="grad/3", group=5, phase=0)
    assert frame[:12] == b"PSGD\x01\x01\x00\x00" + struct.pack("<I", 7)
    assert struct.unpack("<IIQ", frame[12:28]) == (5, 16, 4)
    assert frame[32:64] == b"grad/3".ljust(32, b"\0")
    assert frame[64:80] == b"A\x02\x01" + struct.pack("<Q", 2) + bytes(5)
    assert frame[80:] == b"\x01\x00\x02\x00"


def test_the_header_comes_back():
    header, payload = wire.unpack_frame(wire.pack([1], src=2**32 - 1, tag="ü" * 16, group=9, kind=wire.GROUP))
    assert (header.src, header.tag, header.group, header.kind, header.phase) == (
        2**32 - 1,
        "ü" * 16,
        9,
        wire.GROUP,
        1,
    )
    assert payload == [1]


def test_sizes_come_from_shapes_alone():
    import jax

    like = jax.ShapeDtypeStruct((1000, 1000), "bfloat16")
    assert wire.tensor_nbytes({"a": like, "b": 1.0}) == 2_000_000
    assert wire.nbytes(like) == wire.nbytes(np.zeros((1000, 1000), np.float16))


def test_jax_arrays_are_carried():
    import jax.numpy as jnp

    payload = {"w": jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3), "n": jnp.uint32(3)}
    _, back = wire.unpack_frame(wire.pack(payload))
    assert back["w"].dtype == jnp.bfloat16
    assert back["w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert back["n"].shape == ()


def test_big_endian_and_strided_arrays_arrive_little_endian_in_c_order():
    array = np.arange(12, dtype=">f8").reshape(3, 4).T[::2]
    _, back = wire.unpack_frame(wire.pack(array))
    assert back.dtype == np.dtype("<f8")
    np.testing.assert_array_equal(back, array)


def test_large_arrays_are_sent_from_where_they_are():
    array = np.zeros(1000, np.float32)
    parts = wire.pack_parts(array)
    assert np.shares_memory(np.frombuffer(parts[1], np.float32), array)


def test_received_arrays_look_into_the_buffer_and_cannot_be_written():
    frame = bytearray(wire.pack(np.zeros(4, np.float32)))
    _, back = wire.unpack_frame(frame)
    assert np.shares_memory(back, np.frombuffer(frame, np.uint8))
    assert not back.flags.writeable


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"a": [object()]}, r"payload\['a'\]\[0\]: expected dicts.*got builtins.object"),
        (Pair(1, 2), r"payload: expected dicts.*Pair"),
        ({1: 2}, "expected a text as dict key; got builtins.int"),
        (2**63, "expected an int of 64 bits"),
        ("x" * 257, "at most 256 bytes, not 257"),
        (np.array(["text"]), "no frame carries 1-dimensional arrays of <U4"),
        (1j, "got builtins.complex"),
        ({"a": {1, 2}}, r"payload\['a'\]: .*builtins.set"),
    ],
)
def test_what_no_frame_carries_is_named(payload, message):
    with pytest.raises(CodecError, match=message):
        wire.pack(payload)
    with pytest.raises(CodecError, match=message):
        wire.nbytes(payload)


def test_deep_trees_are_refused_on_both_sides():
    tree: object = None
    for _ in range(33):
        tree = [tree]
    with pytest.raises(CodecError, match="at most 32 containers"):
        wire.nbytes(tree)
    spec = (b"L\1\0\0\0" * 33 + b"N").ljust(168, b"\0")
    header = wire.Header(1, 1, 0, 0, len(spec), 0, 0, "")
    frame = header.pack(header.compute_checksum(spec)) + spec
    with pytest.raises(ProtocolError, match="more than 32 containers"):
        wire.unpack_frame(frame)


@pytest.mark.parametrize("tag", ["t" * 33, "é" * 17, "a\0b"])
def test_tags_that_do_not_fit_are_refused(tag):
    with pytest.raises(CodecError, match="tag: expected at most 32"):
        wire.pack(None, tag=tag)


def _with_spec(spec: bytes, body: bytes = b"") -> bytes:
    spec = spec.ljust(-(-len(spec) // 8) * 8, b"\0")
    header = wire.Header(1, 1, 0, 0, len(spec), len(body), 0, "")
    return header.pack(header.compute_checksum(spec, body)) + spec + body


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (b"GET / HTTP/1.1\r\n".ljust(64, b"\0"), "begin with b'PSGD'; got b'GET '"),
        (b"PSGD\x02".ljust(64, b"\0"), "expected version 1; got 2"),
        (b"PSGD\x01\x09".ljust(64, b"\0"), "unknown kind 9"),
        (_with_spec(b"L\xff\xff\xff\xff"), "length 4294967295"),
        (_with_spec(b"A\x0b\x01" + struct.pack("<Q", 2**62)), "asks for 18446744073709551616 bytes"),
        (_with_spec(b"A\x0b\x02" + struct.pack("<QQ", 2**63, 0)), "no array has the shape"),
        (_with_spec(b"A\xff\x00"), "dtype code 255"),
        (_with_spec(b"A\x00\xff"), "255 dimensions"),
        (_with_spec(b"D\2\0\0\0\1\0\0\0aN\1\0\0\0aN"), "'a' comes twice"),
        (_with_spec(b"S\2\0\0\0\xff\xff"), "not UTF-8"),
        (_with_spec(b"N", b"1"), "left over"),
        (_with_spec(b"NNN"), "left over"),
        (_with_spec(b"?"), "stands for nothing"),
        (_with_spec(b"B", b"\2"), "a bool holds 2"),
        (_with_spec(b""), "ends too early"),
    ],
)
def test_hostile_frames_are_refused(frame, message):
    with pytest.raises(ProtocolError, match=message):
        wire.unpack_frame(frame)


def test_a_frame_over_the_limit_is_refused_by_its_header():
    frame = wire.pack(np.zeros(1000, np.uint8))
    with pytest.raises(ProtocolError, match=rf"frame of {len(frame)} bytes.*at most {len(frame) - 1}"):
        wire.parse_header(frame[:64], len(frame) - 1)
    assert wire.parse_header(frame[:64], len(frame)).nbytes == len(frame)
