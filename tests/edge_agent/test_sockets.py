"""What a connection costs, compared with what has passed on the way; and what it may cost."""

import asyncio
import socket
import ssl
from collections.abc import Callable

import pytest
import trustme

from edge_agent.errors import Interrupted, Offline
from edge_agent.sockets import Sockets
from edge_agent.traffic import Allowance, Traffic
from edge_agent.transport import Transport
from tests.edge_agent.counting import counting
from tests.edge_agent.talking import MESSAGE, REPLY, json, transport
from tests.edge_agent.wires import Answer, drips, replies, silent, wire
from wire.digest import digest_of

BLOB = bytes(range(256)) * 800
UPDATE = BLOB[:50_000]
HEADER = 20 + 20 + 12
"""Of a packet: IP, TCP, and the time stamps that Linux adds."""


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it does not come true")


def takes(size: int) -> Answer:
    """Reads a body, then acknowledges it."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(size)
        await replies(b'{"state":"accepted","offset":0}')(reader, writer)

    return answer


ANSWERS = (
    replies(json(REPLY)),
    replies(BLOB),
    replies(status="201 Created", Upload_Offset="0"),
    takes(len(UPDATE)),
)


def passed(connection: Transport) -> Traffic:
    """What must have come through: what was lost and sent again, which is counted, came once."""
    sockets = connection._sockets
    return sockets.contents.minus(Traffic(sum(s._told.resent for s in sockets._made), 0))


async def errands(connection: Transport) -> None:
    await connection.check_in(MESSAGE)
    assert await connection.blob(digest_of(BLOB), len(BLOB)) == BLOB
    await connection.upload("a-1", UPDATE, digest_of(UPDATE))


async def test_what_is_counted_is_what_passes():
    async with wire(*ANSWERS) as server, counting(server.url) as proxy:
        async with transport(proxy.url) as connection:
            await errands(connection)
            await until(lambda: passed(connection) == proxy.passed)
            headers = connection.moved.minus(connection._sockets.contents)
            assert headers.up % HEADER == headers.down % HEADER == 0
            assert headers.up >= 4 * 3 * HEADER  # of each connection: two to open it, a request
        assert passed(connection) == proxy.passed
        assert proxy.passed.up > len(UPDATE) + sum(map(len, server.requests))
        assert proxy.passed.down > len(BLOB)


def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


async def test_tls_is_counted_with_its_handshake():
    authority = await asyncio.to_thread(trustme.CA)
    tls = await asyncio.to_thread(server_tls, authority)
    ca = authority.cert_pem.bytes().decode()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Over one connection, which stays open: an abort would throw away what is on its way."""
        await reader.readexactly(len(json(MESSAGE)))
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BLOB)
        writer.write(answer + BLOB)
        await silent(reader, writer)

    async with (
        wire(talk, tls=tls) as server,
        counting(server.url) as proxy,
        transport(proxy.url, ca=ca) as connection,
    ):
        with pytest.raises(Offline, match="does not speak this protocol"):
            await connection.check_in(MESSAGE)
        await until(lambda: passed(connection) == proxy.passed)
        assert proxy.passed.up > len(json(MESSAGE)) + len(server.requests[0]) + 200
        assert proxy.passed.down > len(BLOB) + 500  # the certificate is in it


async def test_what_failed_has_its_price_too():
    async with wire(silent) as server, counting(server.url) as proxy:
        connection = transport(proxy.url)
        with pytest.raises(TimeoutError):
            async with connection, asyncio.timeout(0.1):
                await connection.check_in(MESSAGE)
        await until(lambda: proxy.passed.up > 0)
        assert passed(connection) == proxy.passed


@pytest.mark.parametrize("told", [True, False], ids=["kernel", "program"])
def test_a_system_that_does_not_tell_counts_what_is_handed_over(told):
    sockets = Sockets() if told else Sockets(option=None)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        sockets.make((socket.AF_INET, socket.SOCK_STREAM, 0)) as near,
    ):
        near.connect(server.getsockname())
        far, _ = server.accept()
        with far:
            near.send(b"x" * 1000)
            near.sendmsg([b"y" * 200, b"z" * 34])
            assert len(far.recv(2000, socket.MSG_WAITALL | socket.MSG_DONTWAIT)) == 1234
            far.sendall(b"w" * 77)
            assert near.recv(50) == b"w" * 50
            assert near.recv_into(bytearray(50)) == 27
        assert near.recv(1) == b""
        assert near.contents == Traffic(1234, 77)
        assert (near.moved == near.contents) is not told
    assert sockets.contents == Traffic(1234, 77)
    assert sockets.progress.up >= 1234


# What may be spent


@pytest.mark.parametrize("allowance", [Allowance(up=20_000), Allowance(both=20_000)])
async def test_not_more_is_sent_than_the_allowance_holds(allowance):
    async with wire(*ANSWERS[2:]) as server, counting(server.url) as proxy:
        async with transport(proxy.url) as connection:
            connection.allowance = allowance
            with pytest.raises(Interrupted, match="bytes_spent") as caught:
                await connection.upload("a-1", UPDATE, digest_of(UPDATE))
            assert not caught.value.transient
        assert connection.moved.up <= 20_000
        await until(lambda: passed(connection).up == proxy.passed.up)


@pytest.mark.parametrize("allowance", [Allowance(down=30_000), Allowance(both=30_000)])
async def test_an_answer_that_the_allowance_does_not_hold_is_left_where_it_is(allowance):
    async with wire(replies(BLOB)) as server, transport(server.url) as connection:
        connection.allowance = allowance
        with pytest.raises(Interrupted, match="bytes_spent"):
            await connection.blob(digest_of(BLOB), len(BLOB))
        assert connection.moved.both <= 30_000


@pytest.mark.parametrize(
    "endless",
    [b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200],
    ids=["answers before the answer", "a head"],
)
async def test_what_comes_before_an_answer_is_held_to_the_allowance_too(endless):
    async with (
        wire(drips(endless, endless, every=0.0)) as server,
        transport(server.url) as connection,
    ):
        connection.allowance = Allowance(down=6000)
        with pytest.raises(Interrupted, match="bytes_spent"):
            await connection.check_in(MESSAGE)
        assert connection.moved.down <= 6000 + 2 * 2048  # a window more: it was under way


async def test_an_answer_that_does_not_say_its_size_is_cut_not_taken_for_whole():
    endless = drips(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 5000, every=0.0)
    async with wire(endless) as server, transport(server.url) as connection:
        connection.allowance = Allowance(down=100_000)
        with pytest.raises(Interrupted, match="bytes_spent"):
            await connection.blob(digest_of(BLOB), 10**6)


async def test_an_allowance_of_one_way_does_not_hold_back_the_other():
    async with wire(*ANSWERS[:2]) as server, transport(server.url) as connection:
        connection.allowance = Allowance(up=5000)
        await connection.check_in(MESSAGE)
        assert await connection.blob(digest_of(BLOB), len(BLOB)) == BLOB


async def test_what_fits_exactly_is_moved():
    async with wire(*ANSWERS) as server, transport(server.url) as free:
        await errands(free)
    async with wire(*ANSWERS) as server, transport(server.url) as limited:
        slack = 4 * 10 * HEADER  # packets come in other pieces each time
        limited.allowance = Allowance(free.moved.up + slack, free.moved.down + slack)
        await errands(limited)
