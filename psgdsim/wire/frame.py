"""The header of a frame, and whole frames.

magic "PSGD" | version u8 | kind u8 | phase u8 | flags u8 | src u32 | group u32 | spec length u32 |
body length u64 | crc32 u32 | tag, 32 bytes of zero-padded UTF-8. All numbers are little-endian.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any, Final

from psgdsim.errors import CodecError, ProtocolError
from psgdsim.wire.decode import decode
from psgdsim.wire.encode import encode
from psgdsim.wire.layout import HEADER_NBYTES, MAX_SPEC_BYTES, MAX_TAG_BYTES, VERSION, Buffer

MAGIC: Final = b"PSGD"

MESSAGE: Final = 1
"""Kind of a frame that carries a program's message."""

GROUP: Final = 2
"""Kind of a frame that announces a multicast group to the relay; its payload is the list of receivers."""

_KINDS = frozenset({MESSAGE, GROUP})
_LAYOUT = struct.Struct(f"<4sBBBBIIIQI{MAX_TAG_BYTES}s")


@dataclass(frozen=True)
class Header:
    """What the first 64 bytes of a frame say.

    Attributes:
        kind: `MESSAGE` or `GROUP`.
        phase: which run of the program the frame belongs to: 0 the rehearsal, 1 training.
        src: the sender's rank.
        group: a multicast group announced earlier, 0 for a frame to one rank.
        spec_nbytes: length of the spec [byte].
        body_nbytes: length of the buffers [byte].
        checksum: crc32 of the header without this field, the spec and the body.
        tag: the message's tag.
    """

    kind: int
    phase: int
    src: int
    group: int
    spec_nbytes: int
    body_nbytes: int
    checksum: int
    tag: str

    @property
    def rest_nbytes(self) -> int:
        """What follows the header [byte]."""
        return self.spec_nbytes + self.body_nbytes

    @property
    def nbytes(self) -> int:
        """The whole frame [byte]."""
        return HEADER_NBYTES + self.rest_nbytes

    def pack(self, checksum: int) -> bytes:
        """Return the header's bytes with the given checksum."""
        start = (MAGIC, VERSION, self.kind, self.phase, 0, self.src, self.group)
        return _LAYOUT.pack(*start, self.spec_nbytes, self.body_nbytes, checksum, self.tag.encode())

    def compute_checksum(self, *parts: Buffer) -> int:
        """Return the crc32 of this header, with its own field zero, and of what follows it."""
        checksum = zlib.crc32(self.pack(0))
        for part in parts:
            checksum = zlib.crc32(part, checksum)
        return checksum


def check_tag(tag: str) -> None:
    """Raise `CodecError` unless a frame can carry the tag."""
    if len(tag.encode()) > MAX_TAG_BYTES or "\0" in tag:
        raise CodecError(f"tag: expected at most {MAX_TAG_BYTES} UTF-8 bytes, none of them zero; got {tag!r}")


def pack_parts(
    payload: Any, *, src: int = 0, tag: str = "", group: int = 0, phase: int = 1, kind: int = MESSAGE
) -> list[Buffer]:
    """Return a payload's frame in pieces to be sent one after the other; arrays are not copied.

    Args:
        payload: the tree.
        src: the sender's rank.
        tag: what the message is, at most `MAX_TAG_BYTES` bytes.
        group: the multicast group, or 0.
        phase: 0 in the rehearsal, 1 in training.
        kind: `MESSAGE` or `GROUP`.

    Returns:
        Header and spec, then the buffers; the arrays must not change until all is sent.

    Raises:
        CodecError: the payload or the tag cannot be carried.
    """
    check_tag(tag)
    spec, body = encode(payload)
    header = Header(kind, phase, src, group, len(spec), sum(map(len, body)), 0, tag)
    return [header.pack(header.compute_checksum(spec, *body)) + spec, *body]


def pack(payload: Any, *, src: int = 0, tag: str = "", group: int = 0, phase: int = 1, kind: int = MESSAGE) -> bytes:
    """Return a payload's frame in one piece (see `pack_parts`)."""
    return b"".join(pack_parts(payload, src=src, tag=tag, group=group, phase=phase, kind=kind))


def parse_header(data: Buffer, limit: int) -> Header:
    """Read the first 64 bytes of a frame, before anything is allocated for the rest.

    Args:
        data: exactly `HEADER_NBYTES` bytes.
        limit: the largest frame to accept [byte].

    Raises:
        ProtocolError: not a frame, of another version, or too large.
    """
    if len(data) != HEADER_NBYTES:
        raise ProtocolError(f"frame header: expected {HEADER_NBYTES} bytes; got {len(data)}")
    magic, version, kind, phase, flags, src, group, spec, body, checksum, tag = _LAYOUT.unpack(data)
    if magic != MAGIC:
        raise ProtocolError(f"frame header: expected it to begin with {MAGIC!r}; got {magic!r}")
    if version != VERSION:
        raise ProtocolError(f"frame header: expected version {VERSION}; got {version}: update the older side")
    if kind not in _KINDS or phase > 1 or flags:
        raise ProtocolError(f"frame header: unknown kind {kind}, phase {phase} or flags {flags}")
    header = Header(kind, phase, src, group, spec, body, checksum, _parse_tag(tag))
    if spec > MAX_SPEC_BYTES or header.nbytes > limit:
        sizes = f"{header.nbytes} bytes, {spec} of them spec"
        raise ProtocolError(f"frame of {sizes}; at most {limit}, {MAX_SPEC_BYTES} of them spec, are accepted")
    return header


def _parse_tag(field: bytes) -> str:
    try:
        tag = field.rstrip(b"\0").decode()
    except UnicodeDecodeError:
        raise ProtocolError(f"frame header: the tag {field!r} is not UTF-8") from None
    if "\0" in tag:
        raise ProtocolError(f"frame header: the tag {tag!r} has a zero inside")
    return tag


def unpack(header: Header, rest: Buffer) -> Any:
    """Read the payload of a frame.

    Args:
        header: the frame's header.
        rest: what follows it: spec and buffers.

    Returns:
        The payload; its arrays are numpy arrays that look into `rest`, read-only.

    Raises:
        ProtocolError: truncated, damaged or malformed.
    """
    view = memoryview(rest).cast("B").toreadonly()
    frame = f"frame {header.tag!r} of rank {header.src}"
    if len(view) != header.rest_nbytes:
        raise ProtocolError(f"{frame}: expected {header.rest_nbytes} bytes after the header; got {len(view)}")
    if header.compute_checksum(view) != header.checksum:
        raise ProtocolError(f"{frame}: damaged on the way, its checksum is wrong")
    return decode(view[: header.spec_nbytes], view[header.spec_nbytes :])


def unpack_frame(data: Buffer, limit: int = 2**40) -> tuple[Header, Any]:
    """Read a whole frame from memory (see `parse_header` and `unpack`)."""
    view = memoryview(data).cast("B")
    header = parse_header(view[:HEADER_NBYTES], limit)
    return header, unpack(header, view[HEADER_NBYTES:])
