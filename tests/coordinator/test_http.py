"""Every route over real sockets: who may, what is refused, and how errors look."""

import asyncio
import json
import re

import msgspec
import pytest

from coordinator.client import AdminClient, ClientError
from coordinator.http.app import application
from edge_agent.errors import Rejected
from fleet.clients import FACTS, Device
from tests.coordinator.plans import constant, plan, task_file
from tests.coordinator.raw import Answer, ask, connected
from tests.coordinator.serving import Serving
from wire import compression
from wire.digest import digest_of
from wire.messages import MESSAGE_LIMIT

DIGEST = "sha256:" + "0" * 64
OPEN = {("GET", "/healthz"), ("GET", "/readyz")}
DEVICE = {
    ("POST", "/v1/check-in"),
    ("POST", "/v1/assignments/{assignment}/give-up"),
    ("GET", "/v1/blobs/{digest}"),
    ("POST", "/v1/assignments/{assignment}/update"),
    ("HEAD", "/v1/assignments/{assignment}/update"),
    ("PATCH", "/v1/assignments/{assignment}/update"),
}
ENROLL = {("POST", "/v1/enroll")}
ADMIN = {
    ("GET", "/metrics"),
    ("GET", "/v1/admin/tasks"),
    ("POST", "/v1/admin/tasks"),
    ("GET", "/v1/admin/tasks/{task}"),
    ("POST", "/v1/admin/tasks/{task}/stop"),
    ("GET", "/v1/admin/tasks/{task}/rounds/{number}"),
    ("PUT", "/v1/admin/blobs/{digest}"),
    ("GET", "/v1/admin/blobs/{digest}"),
    ("GET", "/v1/admin/devices"),
    ("POST", "/v1/admin/tokens"),
}


def filled(path: str) -> str:
    """A path with something in its places."""
    for place, value in {"assignment": "a-1", "digest": DIGEST, "task": "t", "number": "1"}.items():
        path = path.replace(f"{{{place}}}", value)
    return path


def check_in(**changes: object) -> bytes:
    return json.dumps({"protocols": [1], "facts": msgspec.to_builtins(FACTS)} | changes).encode()


async def post(served: Serving, path: str, body: bytes, credential: str) -> Answer:
    return await ask(served, "POST", path, body=body, credential=credential)


# Credentials


async def test_the_tables_of_this_test_name_every_route(served: Serving):
    routes = {
        (route.method, route.resource.canonical)
        for route in application(served.coordinator).router.routes()
        if route.resource is not None
    }
    implied = {("HEAD", path) for method, path in routes if method == "GET"}
    assert routes - implied == (OPEN | DEVICE | ENROLL | ADMIN) - implied


@pytest.mark.parametrize(("method", "path"), sorted(DEVICE | ENROLL | ADMIN))
@pytest.mark.parametrize(
    "credential",
    [
        None,
        "Bearer",
        "Bearer  ",
        "Basic YTpi",
        "Bearer nonsense",
        "Bearer .",
        "Bearer device-1.",
        "Bearer \udcff.\udcff",
        "Bearer join-1.secret",
    ],
)
async def test_no_route_answers_without_a_credential(
    served: Serving, method: str, path: str, credential: str | None
):
    headers = {"Content-Type": "application/json"}
    if credential is not None:
        headers["Authorization"] = credential
    answer = await ask(served, method, filled(path), headers, b"{}")
    if method == "HEAD":
        assert answer.status == 401
    elif (method, path) in ENROLL and credential and credential.startswith("Bearer n"):
        assert (answer.status, answer.code) in [(401, "bad_token"), (422, "bad_message")]
    else:
        assert answer.status == 401 or (answer.status, path) == (422, "/v1/enroll")
        assert answer.code in ("no_credential", "unknown_device", "not_admin", "bad_message")


@pytest.mark.parametrize(("method", "path"), sorted(ADMIN))
async def test_a_devices_credential_opens_no_admin_route(served: Serving, method: str, path: str):
    device = await served.device()
    answer = await ask(served, method, filled(path), credential=device.secret)
    assert (answer.status, answer.code) == (401, "not_admin")


@pytest.mark.parametrize(("method", "path"), sorted(DEVICE))
async def test_the_admin_token_opens_no_device_route(served: Serving, method: str, path: str):
    answer = await ask(served, method, filled(path), credential=served.token)
    assert answer.status == 401


async def test_one_devices_secret_is_not_anothers(served: Serving):
    one, two = await served.devices(2)
    forged = f"{one.id}.{two.secret.partition('.')[2]}"
    answer = await post(served, "/v1/check-in", check_in(), forged)
    assert (answer.status, answer.code) == (401, "unknown_device")


# Health


async def test_health_needs_no_credential(served: Serving):
    for path, text in (("/healthz", b"ok\n"), ("/readyz", b"ready\n")):
        answer = await ask(served, "GET", path)
        assert (answer.status, answer.body) == (200, text)


async def test_it_is_not_ready_when_the_store_does_not_answer(
    served: Serving, monkeypatch: pytest.MonkeyPatch
):
    def broken() -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(served.coordinator.services.database, "ping", broken)
    answer = await ask(served, "GET", "/readyz")
    assert (answer.status, answer.code) == (503, "storage")
    assert (await ask(served, "GET", "/healthz")).status == 200


async def test_metrics_are_prometheus_text(served: Serving):
    await plan(goal=1).create(served.admin)
    await (await served.device()).serve(constant(1.0))
    await served.round_ends(1)
    text = await served.admin.metrics()
    assert 'lamplighter_updates_total{outcome="accepted",task="digits"} 1.0' in text
    assert 'lamplighter_rounds_total{reason="goal",task="digits"} 1.0' in text
    assert 'lamplighter_model_version{task="digits"} 1.0' in text
    assert re.search(r"^lamplighter_upload_bytes_total [1-9]", text, re.MULTILINE)
    answer = await ask(served, "GET", "/metrics", credential=served.token)
    assert answer.headers["content-type"].startswith("text/plain")


# Errors


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "not_found"),
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/v1/enroll", 405, "method_not_allowed"),
        ("DELETE", "/v1/admin/tasks", 405, "method_not_allowed"),
        ("GET", "/v1/admin/tasks/t/rounds/x", 404, "not_found"),
    ],
)
async def test_what_is_not_there_is_a_problem_document(
    served: Serving, method: str, path: str, status: int, code: str
):
    answer = await ask(served, method, path)
    assert (answer.status, answer.code) == (status, code)
    assert ("allow" in answer.headers) == (status == 405)


async def test_a_fault_of_ours_tells_the_client_nothing_of_it(
    served: Serving, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def broken() -> None:
        raise RuntimeError("a secret detail")

    monkeypatch.setattr(served.coordinator.services.database, "ping", broken)
    answer = await ask(served, "GET", "/readyz")
    assert (answer.status, answer.code) == (500, "internal")
    assert "secret" not in answer.body.decode()
    assert "a secret detail" in caplog.text


@pytest.mark.parametrize(
    "path",
    [
        "/v1/assignments/%00/update",
        "/v1/assignments/..%2f..%2fadmin.token/update",
        "/v1/assignments/%ff%fe/update",
        "/v1/assignments/" + "a" * 4000 + "/update",
        "/v1/assignments/'%20or%20''='/update",
    ],
)
async def test_path_tricks_are_unknown_assignments(served: Serving, path: str):
    device = await served.device()
    for method, headers in (
        ("POST", {"Upload-Length": "5", "Repr-Digest": "sha-256=:" + "A" * 43 + "=:"}),
        ("HEAD", {}),
        ("PATCH", {"Upload-Offset": "0"}),
    ):
        answer = await ask(served, method, path, headers, credential=device.secret)
        assert answer.status == 404
    await served.until_swept()


@pytest.mark.parametrize(
    "name", ["sha256:..%2f..%2fadmin.token", "%00", "sha256:" + "A" * 64, DIGEST, "..", "%ff"]
)
async def test_path_tricks_are_unknown_blobs(served: Serving, name: str):
    device = await served.device()
    for path, credential in (("/v1/blobs", device.secret), ("/v1/admin/blobs", served.token)):
        answer = await ask(served, "GET", f"{path}/{name}", credential=credential)
        assert answer.status == 404


@pytest.mark.parametrize("name", ["..%2f", "%00", "%ff", "x" * 4000])
async def test_path_tricks_are_unknown_tasks(served: Serving, name: str):
    path = f"/v1/admin/tasks/{name}"
    answer = await ask(served, "GET", path, credential=served.token)
    assert (answer.status, answer.code) == (404, "unknown_task")


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


# Blobs


async def test_a_blob_comes_plain_or_as_a_zstd_frame(served: Serving):
    made = plan()
    await made.create(served.admin)
    device = await served.device()
    digest = digest_of(made.files[0])
    plain = await ask(served, "GET", f"/v1/blobs/{digest}", credential=device.secret)
    assert (plain.status, plain.body) == (200, made.files[0])
    assert "content-encoding" not in plain.headers
    assert "immutable" in plain.headers["cache-control"]
    assert plain.headers["vary"] == "Accept-Encoding"
    packed = await ask(
        served,
        "GET",
        f"/v1/blobs/{digest}",
        {"Accept-Encoding": "gzip, zstd"},
        credential=device.secret,
    )
    assert packed.headers["content-encoding"] == "zstd"
    assert len(packed.body) < len(plain.body)
    assert compression.decompress(packed.body, 10_000) == made.files[0]
    assert plain.headers["etag"] != packed.headers["etag"]


@pytest.mark.parametrize("accepted", ["zstd;q=0", "gzip, zstd; q=0", "notzstd"])
async def test_a_client_that_takes_no_zstd_gets_none(served: Serving, accepted: str):
    made = plan()
    await made.create(served.admin)
    device = await served.device()
    answer = await ask(
        served,
        "GET",
        f"/v1/blobs/{digest_of(made.initial)}",
        {"Accept-Encoding": accepted},
        credential=device.secret,
    )
    assert answer.body == made.initial


@pytest.mark.parametrize("encoding", ["identity", "zstd"])
async def test_a_download_goes_on_where_it_was_cut(served: Serving, encoding: str):
    made = plan()
    await made.create(served.admin)
    device = await served.device()
    path = f"/v1/blobs/{digest_of(made.files[1])}"
    headers = {"Accept-Encoding": encoding}
    whole = (await ask(served, "GET", path, headers, credential=device.secret)).body
    part = await ask(served, "GET", path, headers | {"Range": "bytes=20-"}, b"", device.secret)
    assert part.status == 206
    assert part.body == whole[20:]
    assert part.headers["content-range"] == f"bytes 20-{len(whole) - 1}/{len(whole)}"
    beyond = await ask(served, "GET", path, headers | {"Range": "bytes=99999-"}, b"", device.secret)
    assert beyond.status == 416


async def test_a_blob_must_be_what_its_name_says(served: Serving):
    answer = await ask(
        served, "PUT", f"/v1/admin/blobs/{DIGEST}", body=b"other", credential=served.token
    )
    assert (answer.status, answer.code) == (422, "bad_digest")


async def test_a_model_and_its_plan_reach_a_device(served: Serving):
    made = plan(goal=1)
    await made.create(served.admin)
    device = await served.device()
    manifest, weights = await device.fetch(await device.take())
    assert manifest == made.manifest
    assert weights.keys() == {"w", "b"}


# Tasks


async def refused(client: AdminClient, *arguments: object) -> str:
    with pytest.raises(ClientError) as found:
        await client.create(*arguments)  # type: ignore[arg-type]
    return str(found.value)


async def test_a_task_that_cannot_be_is_refused_with_the_reason(served: Serving):
    good, admin = plan(), served.admin
    blobs = [*good.files, good.initial]
    manifest = good.manifest.to_bytes()
    assert "no blob" in await refused(admin, good.definition, manifest, [good.initial])
    assert "name" in await refused(admin, "", manifest, blobs)
    assert "round.gaol" in await refused(admin, task_file(gaol=1), manifest, blobs)
    assert "of the task 'digits'" in await refused(admin, task_file("other"), manifest, blobs)
    assert "not JSON" in await refused(admin, good.definition, b"{", blobs)
    assert "header" in await refused(admin, good.definition, manifest, [*good.files, b"weights!"])
    wrong_size = msgspec.structs.replace(
        good.manifest,
        files={
            n: msgspec.structs.replace(f, bytes=f.bytes + 1) for n, f in good.manifest.files.items()
        },
    )
    assert "size" in await refused(admin, good.definition, wrong_size.to_bytes(), blobs)
    assert await admin.tasks() == []


async def test_a_task_may_be_created_once(served: Serving):
    made = plan()
    arguments = (made.definition, made.manifest.to_bytes(), [*made.files, made.initial])
    created = await asyncio.gather(
        *(served.admin.create(*arguments) for _ in range(4)), return_exceptions=True
    )
    failures = [str(c) for c in created if isinstance(c, ClientError)]
    assert failures == ["there is a task 'digits': choose another name"] * 3


@pytest.mark.parametrize("plan_digest", ["", "x", "sha256:0", DIGEST + "\n"])
async def test_a_task_names_its_plan_by_digest(served: Serving, plan_digest: str):
    body = json.dumps({"definition": "", "plan": plan_digest, "model": DIGEST}).encode()
    answer = await post(served, "/v1/admin/tasks", body, served.token)
    assert (answer.status, answer.code) == (422, "bad_message")


async def test_a_task_or_round_that_is_not_there_is_said_so(served: Serving):
    await plan().create(served.admin)
    with pytest.raises(ClientError, match="no task 'other'; tasks here: digits"):
        await served.admin.task("other")
    with pytest.raises(ClientError, match="has had 1 rounds"):
        await served.admin.round("digits", 2)


# The shell


async def test_requests_in_flight_are_answered_while_others_hang(served: Serving):
    device = await served.device()
    async with connected(served) as silent, connected(served) as half:
        await silent.send(b"POST /v1/check-in HTT")
        headers = {"Authorization": f"Bearer {device.secret}", "Content-Length": "100"}
        await half.request("POST", "/v1/check-in", headers, b"{")
        assert (await device.check_in()).wait is not None


async def test_rubbish_instead_of_http_harms_nobody(served: Serving):
    for rubbish in (b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/9.9\r\n\r\n", b"\0" * 70_000):
        async with connected(served) as connection:
            await connection.send(rubbish)
            await connection.send(b"\r\n\r\n")
    assert (await ask(served, "GET", "/healthz")).status == 200
