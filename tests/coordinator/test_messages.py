"""What devices send to join and to check in: bounded, strict, and answered plainly."""

import asyncio
import gzip
import json
import zlib
from contextlib import AsyncExitStack

import aiohttp
import msgspec
import pytest

from coordinator.client import ClientError
from edge_agent.errors import Rejected
from fleet.clients import FACTS, Device
from tests.coordinator.plans import plan
from tests.coordinator.raw import Answer, ask, connected
from tests.coordinator.serving import Serving
from wire.errors import WireError
from wire.messages import MESSAGE_LIMIT, Evaluation


def check_in(**changes: object) -> bytes:
    return json.dumps({"protocols": [1], "facts": msgspec.to_builtins(FACTS)} | changes).encode()


async def post(served: Serving, path: str, body: bytes, credential: str) -> Answer:
    return await ask(served, "POST", path, body=body, credential=credential)


# Messages


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", "object"),
        (b"[" * 100_000, "not JSON"),
        (b'{"protocols": [1]}', "facts"),
        (check_in(unheard_of=1), "unheard_of"),
        (check_in(protocols=[]), "protocols"),
        (check_in(protocols="1"), "protocols"),
        (check_in(tasks=["../x"]), "tasks"),
        (check_in(evaluations=[{}] * 101), "evaluations"),
        (b'{"protocols": [1], "facts": {"agent": "\\ud800"}}', ""),
    ],
)
async def test_a_bad_message_is_refused_by_name(served: Serving, body: bytes, said: str):
    device = await served.device()
    answer = await post(served, "/v1/check-in", body, device.secret)
    assert (answer.status, answer.code) == (422, "bad_message")
    assert said in answer.problem.detail


async def test_an_oversize_message_is_refused_before_it_is_read(served: Serving):
    device = await served.device()
    async with connected(served) as connection:
        await connection.request(
            "POST",
            "/v1/check-in",
            {
                "Authorization": f"Bearer {device.secret}",
                "Content-Length": str(MESSAGE_LIMIT + 1),
            },
        )
        answer = await connection.read()
    assert (answer.status, answer.code) == (413, "too_large")


async def test_an_oversize_message_of_unknown_length_is_refused(served: Serving):
    device = await served.device()
    async with connected(served) as connection:
        await connection.send(
            f"POST /v1/check-in HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {device.secret}\r\n"
            "Transfer-Encoding: chunked\r\n\r\n".encode()
        )
        chunk = b"%x\r\n%s\r\n" % (1 << 16, b" " * (1 << 16))
        for _ in range(17):
            await connection.send(chunk)
        answer = await connection.read()
    assert (answer.status, answer.code) == (413, "too_large")


async def test_a_silent_body_is_given_up(served: Serving):
    device = await served.device()
    async with connected(served) as connection:
        headers = {"Authorization": f"Bearer {device.secret}", "Content-Length": "100"}
        await connection.request("POST", "/v1/check-in", headers, b"{")
        await asyncio.sleep(0.02)
        served.clock.leap(31.0)
        answer = await connection.read()
    assert (answer.status, answer.code) == (408, "cut")


@pytest.mark.parametrize("protocols", [[0], [2, 3], [99999999999999999999]])
async def test_an_agent_of_another_protocol_is_told_to_upgrade(
    served: Serving, protocols: list[int]
):
    device = await served.device()
    answer = await post(served, "/v1/check-in", check_in(protocols=protocols), device.secret)
    assert (answer.status, answer.code) == (426, "upgrade")
    assert "upgrade the agent" in answer.problem.detail


async def test_a_newer_agent_is_told_to_upgrade_whatever_else_it_says(served: Serving):
    device = await served.device()
    newer = check_in(protocols=[2], mood="bright")
    answer = await post(served, "/v1/check-in", newer, device.secret)
    assert (answer.status, answer.code) == (426, "upgrade")


@pytest.mark.parametrize("name", ["two\nlines", "bell\x07", "\x1b[31mred"])
async def test_a_name_cannot_forge_a_line_of_the_log(served: Serving, name: str):
    with pytest.raises(Rejected, match="control character"):
        await served.device(name=name)


async def test_the_newest_protocol_of_both_is_spoken(served: Serving):
    device = await served.device()
    answer = await post(served, "/v1/check-in", check_in(protocols=[7, 1]), device.secret)
    assert json.loads(answer.body)["protocol"] == 1


# Enrolment


async def test_a_token_is_used_up(served: Serving):
    token = await served.admin.token(2, 60.0)
    for _ in range(2):
        await Device.enroll(served.url, token)
    with pytest.raises(Rejected, match="bad_token"):
        await Device.enroll(served.url, token)
    assert len(await served.admin.devices()) == 2


async def test_a_token_for_one_lets_one_in_however_many_ask_at_once(served: Serving):
    token = await served.admin.token(1, 60.0)
    joined = await asyncio.gather(
        *(Device.enroll(served.url, token) for _ in range(8)), return_exceptions=True
    )
    assert sum(isinstance(j, Device) for j in joined) == 1
    assert sum(isinstance(j, Rejected) and j.code == "bad_token" for j in joined) == 7


async def test_a_token_expires(served: Serving):
    token = await served.admin.token(2, 60.0)
    served.clock.leap(61.0)
    with pytest.raises(Rejected, match="bad_token"):
        await Device.enroll(served.url, token)


async def test_a_token_with_a_wrong_secret_uses_nothing_up(served: Serving):
    token = await served.admin.token(1, 60.0)
    with pytest.raises(Rejected, match="bad_token"):
        await Device.enroll(served.url, token[:-1] + "x")
    await Device.enroll(served.url, token)


@pytest.mark.parametrize(
    "wish", [{"uses": 0}, {"uses": 1 << 40}, {"lifetime": 0}, {"lifetime": 1e12}, {"use": 1}]
)
async def test_a_token_that_cannot_be_is_refused(served: Serving, wish: dict[str, object]):
    answer = await post(served, "/v1/admin/tokens", json.dumps(wish).encode(), served.token)
    assert (answer.status, answer.code) == (422, "bad_message")


async def test_devices_are_listed_with_what_they_said(served: Serving):
    device = await served.device(name="pi 4 in the hall", labels={"site": "north"})
    served.clock.leap(90.0)
    (found,) = await served.admin.devices()
    assert (found.id, found.name, found.labels) == (
        device.id,
        "pi 4 in the hall",
        {"site": "north"},
    )
    assert found.seen == pytest.approx(90.0, abs=5.0)
    await device.check_in()
    assert (await served.admin.devices())[0].seen < 5.0


async def test_a_body_that_is_not_coded_as_it_says_is_the_clients_fault(served: Serving):
    device = await served.device()
    headers = {"Authorization": f"Bearer {device.secret}", "Content-Encoding": "gzip"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{served.url}/v1/check-in", data=b"not gzip", headers=headers) as answer,
    ):
        assert 400 <= answer.status < 500


@pytest.mark.parametrize("name", ["digits?x", "../tokens#", "../../../healthz", ""])
async def test_the_client_asks_for_tasks_alone(served: Serving, name: str):
    with pytest.raises(ClientError, match="no task's name"):
        await served.admin.task(name)


# What no client of ours sends


async def test_few_slow_check_ins_of_one_device_hold_up_nobody(served: Serving):
    await plan(goal=9).create(served.admin)
    slow, other = await served.devices(2)
    head = {"Authorization": f"Bearer {slow.secret}", "Content-Length": "100"}
    async with AsyncExitStack() as stack:
        for _ in range(140):
            connection = await stack.enter_async_context(connected(served))
            await connection.request("POST", "/v1/check-in", head, b"{")
        await asyncio.sleep(0.1)
        assert (await other.check_in()).assignment is not None


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/assignments/%00/update"),
        ("HEAD", "/v1/assignments/a%00b/update"),
        ("POST", "/v1/assignments/%00/give-up"),
        ("GET", "/v1/blobs/%00"),
        ("GET", "/v1/admin/devices?after=%00"),
        ("DELETE", "/v1/admin/devices/%00"),
    ],
)
async def test_a_nul_in_an_address_never_reaches_the_store(served: Serving, method, path):
    answer = await ask(served, method, path, credential=(await served.device()).secret)
    assert answer.status == 422
    assert method == "HEAD" or answer.code == "bad_address"


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd", "br", "unheard-of"])
async def test_a_coded_body_is_refused(served: Serving, coding: str):
    body = zlib.compress(bytes(1 << 20)) if coding == "deflate" else gzip.compress(bytes(1 << 20))
    answer = await ask(served, "POST", "/v1/enroll", {"Content-Encoding": coding}, body, "a.b")
    assert (answer.status, answer.code) == (422, "bad_header")


async def test_a_key_that_looks_like_part_of_an_error_is_an_unknown_key(served: Serving):
    device = await served.device()
    for forged in ("x` - at `key` in `$.nowhere", "x` - at `key` in `$.facts.cores"):
        answer = await post(served, "/v1/check-in", check_in(**{forged: 1}), device.secret)
        assert (answer.status, answer.code) == (422, "bad_message")


@pytest.mark.parametrize("sign", ["\x85", "\x9b", "\u2028", "\u2029", "\x7f", "\x1b", "\n"])
async def test_a_name_is_one_line_that_steers_no_terminal(served: Serving, sign: str):
    token = await served.admin.token(1, 60.0)
    with pytest.raises((Rejected, WireError), match="control character"):
        await Device.enroll(served.url, token, name=f"a{sign}31mb")


@pytest.mark.parametrize("table", ["kind = 'median'", "by = 'uniform'", "max_examples = 10"])
async def test_one_devices_boast_does_not_drown_what_the_others_measured(
    served: Serving, table: str
):
    kind = table if "kind" in table else f"kind = 'fedavg'\n{table}"
    await plan(goal=1, sections=f"[aggregation]\n{kind}").create(served.admin)
    for number, device in enumerate(await served.devices(4)):
        said = Evaluation(
            task="digits",
            version=0,
            examples=10 if number else 1 << 53,
            metrics={"loss": 1.0, "accuracy": 1.0 if number else 0.0},
        )
        await device.check_in(evaluations=(said,))
    assert (await served.admin.tasks())[0].metrics[0][1].mean == pytest.approx(0.75)
