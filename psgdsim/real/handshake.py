"""The first bytes of every connection: both sides prove that they know the secret before anything else.

Pure state, no input or output. The side that accepted speaks first:

    greeting   magic, version, nonce                                  acceptor -> initiator
    claim      magic, version, nonce, role, rank, proof               initiator -> acceptor
    verdict    status, proof                                          acceptor -> initiator

A proof is the HMAC-SHA256, under the secret, of the side's name and of everything said before it: a recorded
or reflected one proves nothing. An empty secret proves nothing either; that is only for loopback.
"""

from __future__ import annotations

import enum
import hmac
import secrets
import struct
from dataclasses import dataclass
from typing import Final

from psgdsim.errors import ProtocolError

PROTOCOL_VERSION: Final = 1
"""The version of everything that real mode's processes say to each other but the payloads."""

_MAGIC = b"PSGDSIM?"
_NONCE_NBYTES = 32
_GREETING = struct.Struct(f"<8sH{_NONCE_NBYTES}s")
_CLAIM = struct.Struct(f"<8sH{_NONCE_NBYTES}sBI32s")
_VERDICT = struct.Struct("<B32s")

GREETING_NBYTES: Final = _GREETING.size
CLAIM_NBYTES: Final = _CLAIM.size
VERDICT_NBYTES: Final = _VERDICT.size

_ACCEPTED, _WRONG_SECRET, _WRONG_VERSION = range(3)


class Role(enum.IntEnum):
    """What the initiator wants to be."""

    WORKER = 1
    RELAY = 2
    PEER = 3


@dataclass(frozen=True)
class Claim:
    """Who the initiator says it is; believed once its proof is checked.

    Attributes:
        role: what it wants to be.
        rank: its rank if it is a peer, 0 otherwise.
    """

    role: Role
    rank: int = 0


def _proof(secret: bytes, side: bytes, said: bytes) -> bytes:
    return hmac.digest(secret, b"psgdsim " + side + b"\0" + said, "sha256")


class Acceptor:
    """The accepting side.

    Args:
        secret: what the initiator must know.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self.greeting = _GREETING.pack(_MAGIC, PROTOCOL_VERSION, secrets.token_bytes(_NONCE_NBYTES))
        """What to send first."""

    def check(self, data: bytes) -> tuple[Claim | None, bytes, str]:
        """Judge a claim.

        Args:
            data: `CLAIM_NBYTES` bytes.

        Returns:
            The claim, or None if it is refused; the verdict to send (empty for those who speak something
            else); and the reason of a refusal.
        """
        magic, version, _, role, rank, proof = _CLAIM.unpack(data)
        if magic != _MAGIC:
            return None, b"", "it does not speak psgdsim's protocol"
        if version != PROTOCOL_VERSION:
            verdict = _VERDICT.pack(_WRONG_VERSION, struct.pack("<H30x", PROTOCOL_VERSION))
            return None, verdict, f"it speaks protocol version {version}, this side {PROTOCOL_VERSION}"
        said = self.greeting + data[:-32]
        if not hmac.compare_digest(proof, _proof(self._secret, b"initiator", said)):
            return None, _VERDICT.pack(_WRONG_SECRET, b""), "wrong token"
        if role not in set(Role):
            return None, b"", f"unknown role {role}"
        verdict = _VERDICT.pack(_ACCEPTED, _proof(self._secret, b"acceptor", said + proof))
        return Claim(Role(role), rank), verdict, ""


class Initiator:
    """The connecting side.

    Args:
        secret: what the acceptor must know too.
        claim: who this side is.
    """

    def __init__(self, secret: bytes, claim: Claim) -> None:
        self._secret, self._claim = secret, claim
        self._said = b""

    def answer(self, greeting: bytes) -> bytes:
        """Return the claim to send.

        Raises:
            ProtocolError: the acceptor speaks something else, or another version.
        """
        magic, version, _ = _GREETING.unpack(greeting)
        if magic != _MAGIC:
            raise ProtocolError("what listens there does not speak psgdsim's protocol")
        if version != PROTOCOL_VERSION:
            raise ProtocolError(_version_mismatch(version))
        nonce = secrets.token_bytes(_NONCE_NBYTES)
        role, rank = self._claim.role, self._claim.rank
        claim = _CLAIM.pack(_MAGIC, PROTOCOL_VERSION, nonce, role, rank, b"")[:-32]
        proof = _proof(self._secret, b"initiator", greeting + claim)
        self._said = greeting + claim + proof
        return claim + proof

    def finish(self, verdict: bytes) -> None:
        """Check the acceptor's verdict.

        Raises:
            ProtocolError: refused, or the acceptor does not know the secret.
        """
        status, proof = _VERDICT.unpack(verdict)
        if status == _WRONG_VERSION:
            raise ProtocolError(_version_mismatch(struct.unpack_from("<H", proof)[0]))
        expected = _proof(self._secret, b"acceptor", self._said)
        if status != _ACCEPTED or not hmac.compare_digest(proof, expected):
            raise ProtocolError("wrong token: set PSGDSIM_TOKEN to the same text on both sides")


def _version_mismatch(theirs: int) -> str:
    return f"it speaks protocol version {theirs}, this side {PROTOCOL_VERSION}: install the same psgdsim on both"
