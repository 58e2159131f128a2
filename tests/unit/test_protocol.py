"""real.control: messages come back, and nothing but messages does."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psgdsim.errors import ProtocolError
from psgdsim.real import control

MESSAGES = [
    control.Hello("0.1.0", 123, 4567),
    control.Refused("no"),
    control.Welcome(1, 2, "name: x", [("127.0.0.1", 1), ("::1", 2)], None, "ab", 2**30, 10.0),
    control.Welcome(0, 2, "name: x", [], ("127.0.0.1", 9), "ab", 2**30, 0.5),
    control.Ready(),
    control.Start(),
    control.Barrier(3, 0.25),
    control.Barrier(3, 0.25, True),
    control.Evaluate(3),
    control.Evaluated(3, [{"train_loss": 0.5, "test_accuracy": None}]),
    control.Evaluated(3, [], 0.25),
    control.Lost(3, "it crashed"),
    control.Stop(),
    control.Resume(3, True, 0.125),
    control.Finished(1.5),
    control.Collect(),
    control.Part("report", b"\x00\xff", True),
    control.RelayReport({0: 10, 3: 7}),
    control.Failed("step 3", "ValueError: x", 2),
    control.Abort(),
    control.Shutdown(),
    control.Heartbeat(3, 0.5, None, 100),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_messages_come_back(message):
    data = control.encode(message)
    assert control.parse_length(data[:4]) == len(data) - 4
    assert control.decode(data[4:]) == message


def test_every_kind_of_message_is_tried():
    assert {type(message) for message in MESSAGES} == set(control.AnyMessage.__args__)


@pytest.mark.parametrize("length", [0, 2**20 + 1, 2**32 - 1])
def test_lengths_out_of_bounds_are_refused(length):
    with pytest.raises(ProtocolError, match=f"control message of {length} bytes"):
        control.parse_length(length.to_bytes(4, "little"))


def test_messages_over_the_limit_are_not_sent():
    with pytest.raises(ProtocolError, match=r"Refused of 1048\d+ bytes"):
        control.encode(control.Refused("x" * 2**20))


@pytest.mark.parametrize(
    "body",
    [
        msgspec.msgpack.encode({"type": "Start", "extra": 1}),
        msgspec.msgpack.encode({"type": "Nothing"}),
        msgspec.msgpack.encode({"type": "Barrier", "step": "three", "time": 0.0}),
        msgspec.msgpack.encode([1, 2]),
        b"\xdf\xff\xff\xff\xff",
        b"\x91" * 100_000,
        b"\x80\x04\x95pickle",
    ],
    ids=["extra field", "unknown", "wrong type", "list", "map that lies", "deep", "pickle"],
)
def test_anything_else_is_refused(body):
    with pytest.raises(ProtocolError, match="control message"):
        control.decode(body)


@given(st.binary(max_size=200))
def test_noise_is_refused_or_a_message(body):
    with contextlib.suppress(ProtocolError):
        assert isinstance(control.decode(body), control.Message)


@given(st.integers(0, 3 * control.PART_NBYTES + 5))
def test_parts_make_up_the_whole(size):
    data = bytes(size)
    parts = control.parts("report", data)
    assert b"".join(part.data for part in parts) == data
    assert [part.is_last for part in parts] == [False] * (len(parts) - 1) + [True]
    assert all(len(control.encode(part)) <= control.MAX_MESSAGE_NBYTES for part in parts)
