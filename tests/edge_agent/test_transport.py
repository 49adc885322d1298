"""Talking to a coordinator that is slow, silent, broken, or lies; and to the real one."""

import asyncio
import ssl

import pytest
import trustme
import zstandard

from edge_agent.address import check_url
from edge_agent.errors import ConfigError, Offline, Rejected, Silent
from edge_agent.transport import Transport
from tests.edge_agent.talking import (
    HURRIED,
    MESSAGE,
    REPLY,
    SECRET,
    json,
    problem,
    transport,
)
from tests.edge_agent.wires import drips, replies, says, silent, wire
from tests.wire.memory import at_most
from wire.compression import compress
from wire.digest import digest_of
from wire.messages import CheckInReply, Left, Problem

BLOB = b"weights" * 1000


async def check_in(url: str, **changes) -> CheckInReply:
    async with transport(url, **changes) as connection:
        return await connection.check_in(MESSAGE)


async def blob(url: str, limit: int = len(BLOB), **changes) -> bytes:
    async with transport(url, **changes) as connection:
        return await connection.blob(digest_of(BLOB), limit)


# Addresses


@pytest.mark.parametrize(
    "url",
    [
        "https://fleet.example",
        "https://fleet.example:8750/",
        "https://192.0.2.1/behind/a/proxy",
        "http://127.0.0.1:8750",
        "http://[::1]:8750",
        "http://localhost:1",
    ],
)
def test_an_address_is_taken(url):
    assert check_url(url, insecure_http=False) == url.rstrip("/")


@pytest.mark.parametrize("url", ["http://fleet.example", "http://10.0.0.1", "http://localhost.io"])
def test_plain_http_to_another_machine_must_be_asked_for_by_name(url):
    with pytest.raises(ConfigError, match="--insecure-http"):
        check_url(url, insecure_http=False)
    assert check_url(url, insecure_http=True) == url


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "fleet.example",
            "fleet.example:8750",
            "ftp://fleet.example",
            "https://",
            "https:///x",
        ),
        *("https://a:b@fleet.example", "https://fleet.example?x=1", "https://fleet.example#x"),
        *("https://[::1", "https://fleet.example:port", "https://fleet.example:99999"),
    ],
)
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(ConfigError, match=r"expected an address such as 'https://fleet\.example"):
        check_url(url, insecure_http=True)


@pytest.mark.parametrize("secret", ["two\nlines", "two\rlines", "ümlaut", "nul\0"])
def test_a_secret_that_cannot_be_sent_is_refused(secret):
    with pytest.raises(ConfigError, match="printable ASCII"):
        Transport("https://fleet.example", secret)


# Control messages


async def test_a_good_answer_is_read_and_counted():
    async with wire(replies(json(REPLY))) as server, transport(server.url) as connection:
        assert await connection.check_in(MESSAGE) == REPLY
        assert connection.moved.up > len(json(MESSAGE)) + len(server.requests[0])
        assert connection.moved.down > len(json(REPLY)) + len("HTTP/1.1 200 OK")
    assert f"Bearer {SECRET}" in server.requests[0]


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"

OFFLINE = {
    "silence": silent,
    "silence in mid-answer": drips(HEAD + b"{", b"", 1.0),
    "silence in mid-head": drips(b"HTTP/1.1 200", b"", 1.0),
    "closed without an answer": says(b""),
    "closed in mid-head": says(b"HTTP/1.1 200 OK\r\nConte"),
    "closed in mid-answer": replies(json(REPLY)[:5], length=len(json(REPLY))),
    "an endless body": drips(HEAD, b" " * 65536, 0.0),
    "an endless head": drips(b"HTTP/1.1 200 OK\r\n", b"X: " + b"y" * 4096 + b"\r\n", 0.0),
    "endless promises": drips(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 50, 0.0),
    "a length of 5,000 digits": says(
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n"
    ),
    "a body that drips for ever": drips(HEAD, b" ", 0.01),
    "a body that is too large": replies(b" " * (1 << 20) + json(REPLY)),
    "a body that claims to be huge": replies(b" " * (2 << 20), length=10 << 30),
    "not HTTP": says(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "a bad length": says(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n"),
    "bad chunks": says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
    "no body": replies(),
    "not JSON": replies(b"<html>"),
    "not UTF-8": replies(b'"\xff"'),
    "nested too deep": replies(b"[" * 100_000),
    "another message": replies(b'{"hello": 1}'),
    "a missing key": replies(b"{}"),
    "a wrong type": replies(b'{"protocol": "1"}'),
    "a digest that is none": replies(
        b'{"protocol":1,"published":[{"task":"t","version":1,"plan":"../x","model":"../y"}]}'
    ),
    "an error page that is too large": replies(b" " * (2 << 20), "500 Error"),
}


@pytest.mark.parametrize("fault", OFFLINE)
async def test_no_good_answer_is_offline_before_long(fault):
    async with wire(OFFLINE[fault]) as server, asyncio.timeout(5):
        with pytest.raises(Offline) as caught:
            await check_in(server.url, waits=HURRIED)
    assert server.url in str(caught.value)
    assert caught.value.transient
    assert isinstance(caught.value, ConnectionError)


async def test_an_endless_answer_takes_little_memory():
    async with wire(OFFLINE["an endless body"]) as server:
        with at_most(8 << 20), pytest.raises(Offline, match="more than 1048576 bytes"):
            await check_in(server.url)


async def test_leaving_is_one_request_without_a_body():
    left = Left(dropped=1, published=2)
    async with wire(replies(json(left))) as server, transport(server.url) as connection:
        assert await connection.leave() == left
    assert server.requests[0].startswith("DELETE /v1/device HTTP/1.1")
    assert f"Bearer {SECRET}" in server.requests[0]


async def test_an_answer_that_is_no_farewell_is_none():
    answer = replies(b'{"dropped": -1, "published": 0}')
    async with wire(answer) as server, transport(server.url) as connection:
        with pytest.raises(Offline, match="does not speak this protocol"):
            await connection.leave()


async def test_nobody_there_is_offline():
    async with wire(silent) as server:
        pass
    with pytest.raises(Offline, match="does not answer"):
        await check_in(server.url)


@pytest.mark.parametrize(
    ("status", "body", "code", "transient"),
    [
        ("401 Unauthorized", problem(401, "unknown_device"), "unknown_device", False),
        ("409 Conflict", problem(409, "late"), "late", False),
        ("426 Upgrade Required", problem(426, "upgrade"), "upgrade", False),
        ("408 Request Timeout", problem(408, "cut"), "cut", True),
        ("429 Too Many Requests", problem(429, "slow_down"), "slow_down", True),
        ("503 Service Unavailable", problem(503, "storage"), "storage", True),
        ("404 Not Found", b"<html>nginx</html>", "http_404", False),
        ("404 Not Found", b'{"code": "late"}', "http_404", False),
        ("502 Bad Gateway", b"", "http_502", True),
        ("500 Error", b"\xff" * 100, "http_500", True),
    ],
)
async def test_an_error_is_told_by_its_code(status, body, code, transient):
    async with wire(replies(body, status)) as server:
        with pytest.raises(Rejected) as caught:
            await check_in(server.url)
    assert caught.value.code == code
    assert caught.value.transient is transient
    assert code in str(caught.value)


async def test_what_a_server_says_is_one_printable_line():
    words = Problem(type="t", title="t", status=400, code="bad", detail="red\x1b[31m\nnext\tline")
    async with wire(replies(json(words), "400 Bad Request")) as server:
        with pytest.raises(Rejected) as caught:
            await check_in(server.url)
    assert str(caught.value).isprintable()
    assert "red" in str(caught.value)


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
async def test_a_redirect_is_not_followed_so_the_secret_stays_here(status):
    async with (
        wire(replies(json(REPLY))) as other,
        wire(replies(b"", status, Location=other.url + "/v1/check-in")) as server,
    ):
        with pytest.raises(Rejected, match=f"http_{status[:3]}"):
            await check_in(server.url)
        assert not other.requests


# Blobs


async def test_a_blob_is_read_plain_or_compressed():
    packed = compress(BLOB)
    async with wire(replies(BLOB), replies(packed, Content_Encoding="zstd")) as server:
        assert await blob(server.url) == BLOB
        assert await blob(server.url) == BLOB


def bomb() -> bytes:
    """A small frame that holds, and says that it holds, 64 MB."""
    return zstandard.ZstdCompressor(level=19).compress(bytes(64 << 20))


def claims(size: int) -> bytes:
    """A frame that says that it holds `size` bytes."""
    return b"\x28\xb5\x2f\xfd\xe0" + size.to_bytes(8, "little") + b"\x01\x00\x00"


DAMAGED = {
    "other bytes": replies(BLOB[::-1]),
    "cut short": replies(BLOB[:-1]),
    "no bytes": replies(b""),
    "longer than the limit": replies(BLOB * 2),
    "another coding": replies(b"\x1f\x8b" + BLOB, Content_Encoding="gzip"),
    "a frame of other bytes": replies(compress(BLOB[::-1]), Content_Encoding="zstd"),
    "a frame that is none": replies(BLOB, Content_Encoding="zstd"),
    "half a frame": replies(compress(BLOB)[:-5], Content_Encoding="zstd"),
    "two frames": replies(compress(BLOB) * 2, Content_Encoding="zstd"),
    "a bomb": replies(bomb(), Content_Encoding="zstd"),
    "a frame that claims 10 GB": replies(claims(10 << 30), Content_Encoding="zstd"),
}


@pytest.mark.parametrize("fault", DAMAGED)
async def test_a_blob_that_is_not_what_its_digest_says_is_not_taken(fault):
    async with wire(DAMAGED[fault]) as server:
        with at_most(4 << 20), pytest.raises(Offline) as caught:
            await blob(server.url)
    assert caught.value.transient


async def test_a_blob_that_drips_is_given_up():
    drip = drips(b"HTTP/1.1 200 OK\r\nContent-Length: 7000\r\n\r\n", b"w", 0.01)
    async with wire(drip) as server, asyncio.timeout(5):
        with pytest.raises(Offline):
            await blob(server.url, limit=50, waits=HURRIED)


# TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_tls(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


def pem(authority: trustme.CA) -> str:
    return authority.cert_pem.bytes().decode()


@pytest.fixture
async def tls(authority):
    async with wire(
        replies(json(REPLY)), tls=await asyncio.to_thread(server_tls, authority, "127.0.0.1")
    ) as server:
        yield server


async def test_the_authority_of_the_fleet_is_trusted(tls, authority):
    assert await check_in(tls.url, ca=pem(authority)) == REPLY


async def test_another_authority_is_not_trusted(tls):
    other = await asyncio.to_thread(trustme.CA)
    with pytest.raises(Offline, match="certificate verify failed"):
        await check_in(tls.url, ca=pem(other))
    assert not any(tls.requests)


async def test_without_an_authority_the_system_s_are_trusted(tls):
    with pytest.raises(Offline, match="certificate verify failed"):
        await check_in(tls.url)
    assert not any(tls.requests)


async def test_a_certificate_of_another_name_is_not_trusted(authority):
    context = await asyncio.to_thread(server_tls, authority, "other.example")
    async with wire(replies(json(REPLY)), tls=context) as server:
        with pytest.raises(Offline, match="certificate"):
            await check_in(server.url, ca=pem(authority))


@pytest.mark.parametrize("greeting", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
async def test_a_server_without_tls_is_offline(authority, greeting):
    async with wire(silent, greeting=greeting) as server, asyncio.timeout(5):
        with pytest.raises(Offline):
            await check_in(server.url.replace("http:", "https:"), ca=pem(authority), waits=HURRIED)


@pytest.mark.parametrize("ca", ["", "hello", "-----BEGIN CERTIFICATE-----\nx"])
async def test_an_authority_that_is_none_is_one_clear_error(ca):
    with pytest.raises(ConfigError, match="not a certificate"):
        await check_in("https://127.0.0.1:9", ca=ca)


async def test_answers_are_not_asked_for_in_a_coding_that_is_not_undone():
    """A server or proxy on the way codes what it may: the check-in's answer would be lost."""
    async with wire(replies(json(REPLY))) as server, transport(server.url) as connection:
        await connection.check_in(MESSAGE)
    assert "Accept-Encoding: identity\r\n" in server.requests[0]


async def test_a_head_that_never_ends_is_given_no_time_for_the_body():
    endless = drips(b"HTTP/1.1 200 OK\r\nX: ", b"x", every=0.01)
    waits = HURRIED._replace(silence=5.0, slowest=1.0)  # a megabyte may take eleven days
    async with wire(endless) as server, transport(server.url, waits=waits) as connection:
        with pytest.raises(Silent, match="too slow"):
            async with asyncio.timeout(3.0):
                await connection.blob(digest_of(b""), 1_000_000)
