"""real.transport and real.connection: bytes arrive whole and are counted; strangers stay outside."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import asynccontextmanager

import pytest

from psgdsim.errors import ProtocolError, PsgdsimError
from psgdsim.real import transport
from psgdsim.real.connection import ConnectionEnded, coalesce
from psgdsim.real.handshake import Claim, Role
from psgdsim.real.transport import Listener, connect


class Server:
    """A listener that keeps what it accepts."""

    def __init__(self, secret=b"secret"):
        self.log, self.accepted = [], asyncio.Queue()
        self.listener = Listener("127.0.0.1", 0, self.log.append)
        self.listener.serve(secret, self.keep)
        self.port = self.listener.port

    async def keep(self, connection, claim):
        self.accepted.put_nowait((connection, claim))


@asynccontextmanager
async def server():
    serving = Server()
    try:
        yield serving
    finally:
        await serving.listener.close()


@asynccontextmanager
async def pair():
    """Two ends of one authenticated connection."""
    async with server() as serving:
        one = await connect("127.0.0.1", serving.port, b"secret", Claim(Role.PEER, 5))
        two, claim = await serving.accepted.get()
        assert claim == Claim(Role.PEER, 5)
        try:
            yield one, two
        finally:
            await one.close()
            await two.close()


def test_bytes_arrive_whole_and_are_counted_by_account():
    async def main():
        data = os.urandom(5_000_000)
        async with pair() as (one, two):
            before = one.sent["control"]
            parts = [b"head", memoryview(data), b"tail"]
            _, received = await asyncio.gather(one.write(parts, "data"), two.read(len(data) + 8))
            assert received == b"head" + data + b"tail"
            await one.write([b"xyz"], "rehearsal")
            assert (one.sent["data"], one.sent["rehearsal"]) == (len(data) + 8, 3)
            assert one.sent["control"] == before > 0

    asyncio.run(main())


def test_writers_take_turns():
    async def main():
        async with pair() as (one, two):
            blobs = [bytes([i]) * 1_000_000 for i in range(5)]
            writes = [one.write([blob], "data") for blob in blobs]
            *_, received = await asyncio.gather(*writes, two.read(5_000_000))
            assert received == b"".join(blobs)

    asyncio.run(main())


def test_a_cancelled_writer_leaves_no_half_frame_behind():
    async def main():
        async with pair() as (one, two):
            big = asyncio.create_task(one.write([b"a" * 20_000_000], "data"))
            await asyncio.sleep(0.01)
            assert not big.done()
            big.cancel()
            small = asyncio.create_task(one.write([b"b"], "data"))
            assert await two.read(20_000_001) == b"a" * 20_000_000 + b"b"
            await small

    asyncio.run(main())


def test_the_end_of_a_connection_is_told_to_reader_and_writer():
    async def main():
        async with pair() as (one, two):
            await two.close()
            with pytest.raises(ConnectionEnded, match=r"ended|reset"):
                await one.read(1)
            with pytest.raises(ConnectionEnded):
                await one.write([bytes(50_000_000)], "data")

    asyncio.run(main())


def test_small_parts_are_joined_and_large_ones_pass():
    large = memoryview(bytes(100_000))
    pieces = list(coalesce([b"a", b"b", large, b"c", b"d" * 65_536, b"e"]))
    assert [bytes(piece[:2]) for piece in pieces] == [b"ab", b"\0\0", b"c", b"dd", b"e"]
    assert pieces[1] is large


def test_a_wrong_token_is_refused_on_both_sides_and_others_still_get_in():
    async def main():
        async with server() as serving:
            with pytest.raises(ProtocolError, match=rf"127.0.0.1:{serving.port}: wrong token: set PSGDSIM_TOKEN"):
                await connect("127.0.0.1", serving.port, b"guess", Claim(Role.WORKER))
            connection = await connect("127.0.0.1", serving.port, b"secret", Claim(Role.WORKER))
            await connection.close()
            (accepted, _), log = await serving.accepted.get(), serving.log
            await accepted.close()
            assert len(log) == 1
            assert log[0].startswith("refused 127.0.0.1:")
            assert log[0].endswith("wrong token")

    asyncio.run(main())


def test_silent_and_babbling_sockets_do_not_keep_others_out(monkeypatch):
    monkeypatch.setattr(transport, "MAX_PENDING", 8)
    monkeypatch.setattr(transport, "HANDSHAKE_TIMEOUT", 30.0)

    async def main():
        async with server() as serving:
            silent = [socket.create_connection(("127.0.0.1", serving.port)) for _ in range(30)]
            silent[-1].sendall(b"GET / HTTP/1.1\r\n\r\n" * 20)
            async with asyncio.timeout(10):
                connection = await connect("127.0.0.1", serving.port, b"secret", Claim(Role.WORKER))
                accepted, _ = await serving.accepted.get()
            assert len(serving.listener._pending) <= 8
            for sock in silent:
                sock.close()
            await connection.close()
            await accepted.close()

    asyncio.run(main())


def test_a_silent_socket_is_dropped(monkeypatch):
    monkeypatch.setattr(transport, "HANDSHAKE_TIMEOUT", 0.05)

    async def main():
        async with server() as serving:
            reader, writer = await asyncio.open_connection("127.0.0.1", serving.port)
            assert len(await reader.read()) == transport.handshake.GREETING_NBYTES
            writer.close()
            assert "nothing of what was expected in time" in serving.log[0]

    asyncio.run(main())


def test_a_port_in_use_is_an_error_that_names_it():
    async def main():
        async with server() as serving:
            with pytest.raises(PsgdsimError, match=f"cannot listen on 127.0.0.1:{serving.port}: .*in use.*0 for any"):
                Listener("127.0.0.1", serving.port, print)

    asyncio.run(main())


def test_nobody_listening_is_an_error_after_some_patience():
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        with pytest.raises(ProtocolError, match=f"cannot connect to 127.0.0.1:{port}: nobody listens there"):
            await connect("127.0.0.1", port, b"", Claim(Role.WORKER), patience=0.2)

    asyncio.run(main())


def test_all_addresses_of_a_host_are_tried():
    async def main():
        async with server() as serving:
            loop = asyncio.get_running_loop()
            resolve = loop.getaddrinfo

            async def resolve_twice(host, port, **options):
                assert host == "two-addresses"
                found = [await resolve(address, port, **options) for address in ("127.0.0.2", "127.0.0.1")]
                return [*found[0], *found[1]]

            loop.getaddrinfo = resolve_twice
            connection = await connect("two-addresses", serving.port, b"secret", Claim(Role.WORKER))
            accepted, _ = await serving.accepted.get()
            assert connection.remote == ("127.0.0.1", serving.port)
            await connection.close()
            await accepted.close()

    asyncio.run(main())


def test_something_else_that_listens_is_told_apart():
    async def main():
        async def serve_http(reader, writer):
            writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
            writer.close()

        other = await asyncio.start_server(serve_http, "127.0.0.1", 0)
        port = other.sockets[0].getsockname()[1]
        with pytest.raises(ProtocolError, match="does not speak psgdsim's protocol"):
            await connect("127.0.0.1", port, b"", Claim(Role.WORKER), patience=1.0)
        other.close()
        await other.wait_closed()

    asyncio.run(main())
