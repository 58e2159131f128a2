"""What the coordinator and its workers tell each other: typed, bounded messages.

On the wire each is its length, u32, and a msgpack map. Anything else, a field too many included, is a
`ProtocolError`; nothing is allocated for a length over the limit.
"""

from __future__ import annotations

import struct
from typing import Any, Final, Literal

import msgspec

from psgdsim.errors import ProtocolError

MAX_MESSAGE_NBYTES: Final = 2**20
PART_NBYTES: Final = 2**19
"""Size of the parts in which larger data travels."""

LENGTH_NBYTES: Final = 4
_LENGTH = struct.Struct("<I")

Address = tuple[str, int]


class Message(msgspec.Struct, tag=True, forbid_unknown_fields=True):
    """Base of all control messages."""


class Hello(Message):
    """A process asks for its place; first message of a worker and of the relay.

    Attributes:
        version: its psgdsim.
        pid: its process id.
        port: where it listens for frames.
    """

    version: str
    pid: int
    port: int


class Refused(Message):
    """The coordinator has no place for the process."""

    reason: str


class Welcome(Message):
    """The coordinator gives a process its place; sent when all have said hello.

    Attributes:
        rank: the worker's rank; 0 for the relay.
        num_ranks: how many ranks there are.
        scenario: the whole scenario, as text.
        peers: where each rank listens for frames.
        relay: where the relay listens, or None.
        run_id: random; the connections among workers are authenticated by a key derived from it.
        max_frame: the largest frame to accept [byte].
        heartbeat_timeout: how long either side may be silent [s].
    """

    rank: int
    num_ranks: int
    scenario: str
    peers: list[Address]
    relay: Address | None
    run_id: str
    max_frame: int
    heartbeat_timeout: float


class Ready(Message):
    """The process is connected to all others, and a worker has rehearsed."""


class Start(Message):
    """Training begins now."""


class Barrier(Message):
    """A rank has ended a step at whose end all that lead meet.

    Attributes:
        step: the step.
        time: when it ended [s].
        is_reached: whether a rank that runs freely has found that its models reach the target.
    """

    step: int
    time: float
    is_reached: bool = False


class Evaluate(Message):
    """The first rank that leads is asked to evaluate its models."""

    step: int


class Evaluated(Message):
    """What the first rank that leads found, one row per model; where ranks run freely, without being asked.

    Attributes:
        step: the step at whose end the models were as they were evaluated.
        rows: the metrics.
        time: when that step ended [s], unless the coordinator asked.
    """

    step: int
    rows: list[dict[str, float | int | None]]
    time: float | None = None


class Lost(Message):
    """A rank is gone, and the run goes on without it."""

    rank: int
    cause: str


class Stop(Message):
    """A target is reached: a rank that leads and runs freely is to end after its step."""


class Resume(Message):
    """All have met; training goes on, or ends.

    Attributes:
        step: the step at whose end they met.
        go_on: whether there is another step.
        pause: what the coordinator took to decide [s]; it counts nowhere.
    """

    step: int
    go_on: bool
    pause: float


class Finished(Message):
    """A worker's program has ended at this time [s]."""

    time: float


class Collect(Message):
    """Everyone has finished; a process is asked for its report."""


class Part(Message):
    """A piece of something larger than a message: a report (msgpack) or the final models (one frame)."""

    kind: Literal["report", "models"]
    data: bytes
    is_last: bool


class RelayReport(Message):
    """What the relay sent in copies, by the rank that had sent the original [byte]."""

    copied: dict[int, int]


class Failed(Message):
    """A process cannot go on.

    Attributes:
        where: how far it had come.
        cause: what happened.
        lost_peer: the rank that it lost, if that is what happened; the reason then lies with that rank.
    """

    where: str
    cause: str
    lost_peer: int | None = None


class Abort(Message):
    """The run has failed; a worker is asked to stop at once and to report what it has."""


class Shutdown(Message):
    """The process is asked to end."""


class Heartbeat(Message):
    """A sign of life; a worker says how far it is.

    Attributes:
        step: steps it has ended.
        time: when it ended the last [s].
        loss: of that step, if it has one.
        nbytes: what it has sent [byte].
        state: `waiting` if it can do nothing until a message comes, `meeting` at the end of a step, `ended` when its
            program is not running.
        waits: what it waits for, if it is waiting.
        messages_sent: so far, one per receiver.
        messages_received: so far.
    """

    step: int = 0
    time: float = 0.0
    loss: float | None = None
    nbytes: int = 0
    state: Literal["busy", "waiting", "meeting", "ended"] = "busy"
    waits: list[str] = []
    messages_sent: int = 0
    messages_received: int = 0


AnyMessage = (
    Hello
    | Refused
    | Welcome
    | Ready
    | Start
    | Barrier
    | Evaluate
    | Evaluated
    | Lost
    | Stop
    | Resume
    | Finished
    | Collect
    | Part
    | RelayReport
    | Failed
    | Abort
    | Shutdown
    | Heartbeat
)

_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(AnyMessage)


def encode(message: Message) -> bytes:
    """Return a message with its length in front.

    Raises:
        ProtocolError: it is too large.
    """
    body = _ENCODER.encode(message)
    if len(body) > MAX_MESSAGE_NBYTES:
        name = type(message).__name__
        raise ProtocolError(f"control message {name} of {len(body)} bytes; at most {MAX_MESSAGE_NBYTES} fit")
    return _LENGTH.pack(len(body)) + body


def parse_length(data: bytes | bytearray) -> int:
    """Return the length that stands in front of a message.

    Raises:
        ProtocolError: over the limit.
    """
    length = int(_LENGTH.unpack(data)[0])
    if not 0 < length <= MAX_MESSAGE_NBYTES:
        raise ProtocolError(f"control message of {length} bytes; 1 to {MAX_MESSAGE_NBYTES} are accepted")
    return length


def decode(body: bytes | bytearray) -> Message:
    """Return the message that the bytes hold.

    Raises:
        ProtocolError: not one of this module's messages.
    """
    try:
        message: Message = _DECODER.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolError(f"control message: {error}") from None
    return message


def parts(kind: Literal["report", "models"], data: bytes) -> list[Part]:
    """Cut data into messages."""
    starts = range(0, max(len(data), 1), PART_NBYTES)
    return [Part(kind, data[at : at + PART_NBYTES], at + PART_NBYTES >= len(data)) for at in starts]
