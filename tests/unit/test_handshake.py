"""real.handshake: only those who know the secret get in, and both sides must."""

from __future__ import annotations

import pytest

from psgdsim.errors import ProtocolError
from psgdsim.real import handshake
from psgdsim.real.handshake import Acceptor, Claim, Initiator, Role


def shake(accepting: bytes, initiating: bytes):
    acceptor, initiator = Acceptor(accepting), Initiator(initiating, Claim(Role.PEER, 3))
    accepted, verdict, reason = acceptor.check(initiator.answer(acceptor.greeting))
    return accepted, verdict, reason, initiator


def test_both_sides_accept_the_same_secret():
    claim, verdict, reason, initiator = shake(b"secret", b"secret")
    assert (claim, reason) == (Claim(Role.PEER, 3), "")
    initiator.finish(verdict)


def test_a_wrong_secret_is_refused_and_the_reason_told():
    claim, verdict, reason, initiator = shake(b"secret", b"guess")
    assert (claim, reason) == (None, "wrong token")
    with pytest.raises(ProtocolError, match="wrong token: set PSGDSIM_TOKEN"):
        initiator.finish(verdict)


def test_an_acceptor_that_only_pretends_is_found_out():
    *_, initiator = shake(b"secret", b"secret")
    with pytest.raises(ProtocolError, match="wrong token"):
        initiator.finish(b"\0" + bytes(32))


def test_a_recorded_claim_proves_nothing_to_another_acceptor():
    acceptor, initiator = Acceptor(b"secret"), Initiator(b"secret", Claim(Role.WORKER))
    claim = initiator.answer(acceptor.greeting)
    assert acceptor.check(claim)[0] == Claim(Role.WORKER)
    assert Acceptor(b"secret").check(claim)[0] is None


def test_a_reflected_proof_proves_nothing():
    acceptor, initiator = Acceptor(b"secret"), Initiator(b"secret", Claim(Role.WORKER))
    claim = initiator.answer(acceptor.greeting)
    with pytest.raises(ProtocolError, match="wrong token"):
        initiator.finish(b"\0" + claim[-32:])


def test_role_and_rank_are_part_of_the_proof():
    acceptor, initiator = Acceptor(b"secret"), Initiator(b"secret", Claim(Role.PEER, 1))
    claim = bytearray(initiator.answer(acceptor.greeting))
    claim[43] ^= 2
    assert acceptor.check(bytes(claim))[0] is None


def test_another_version_is_refused_with_both_versions_named(monkeypatch):
    acceptor, initiator = Acceptor(b""), Initiator(b"", Claim(Role.WORKER))
    claim = bytearray(initiator.answer(acceptor.greeting))
    claim[8:10] = (7).to_bytes(2, "little")
    _, verdict, reason = acceptor.check(bytes(claim))
    assert reason == "it speaks protocol version 7, this side 1"
    monkeypatch.setattr(handshake, "PROTOCOL_VERSION", 7)
    with pytest.raises(ProtocolError, match="protocol version 1, this side 7"):
        initiator.finish(verdict)
    with pytest.raises(ProtocolError, match="protocol version 1, this side 7"):
        initiator.answer(acceptor.greeting)


def test_other_protocols_are_told_apart():
    assert Acceptor(b"").check(b"GET / HTTP/1.1\r\n".ljust(handshake.CLAIM_NBYTES)) == (
        None,
        b"",
        "it does not speak psgdsim's protocol",
    )
    with pytest.raises(ProtocolError, match="does not speak psgdsim's protocol"):
        Initiator(b"", Claim(Role.WORKER)).answer(b"SSH-2.0-x".ljust(handshake.GREETING_NBYTES))


def test_the_claim_fits_what_may_be_read_before_authentication():
    assert handshake.CLAIM_NBYTES <= 512
