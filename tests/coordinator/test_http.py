"""Every route over real sockets: who may, what is refused, and how errors look."""

import json
import re

import msgspec
import pytest

from coordinator.http.app import application
from fleet.clients import FACTS
from tests.coordinator.plans import constant, plan
from tests.coordinator.raw import Answer, ask, connected
from tests.coordinator.serving import Serving
from wire.compression import compress
from wire.messages import Enroll

DIGEST = "sha256:" + "0" * 64
OPEN = {("GET", "/healthz"), ("GET", "/readyz")}
DEVICE = {
    ("POST", "/v1/check-in"),
    ("POST", "/v1/assignments/{assignment}/give-up"),
    ("GET", "/v1/blobs/{digest}"),
    ("DELETE", "/v1/device"),
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
    ("GET", "/v1/admin/tasks/{task}/models/{version}"),
    ("GET", "/v1/admin/tasks/{task}/evaluations"),
    ("GET", "/v1/admin/tasks/{task}/rounds"),
    ("GET", "/v1/admin/tasks/{task}/rounds/{number}"),
    ("PUT", "/v1/admin/blobs/{digest}"),
    ("GET", "/v1/admin/blobs/{digest}"),
    ("GET", "/v1/admin/devices"),
    ("DELETE", "/v1/admin/devices/{device}"),
    ("POST", "/v1/admin/tokens"),
}
PLACES = {
    "assignment": "a-1",
    "device": "device-1",
    "digest": DIGEST,
    "number": "1",
    "task": "t",
    "version": "1",
}


def filled(path: str) -> str:
    """A path with something in its places."""
    for place, value in PLACES.items():
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
    assert answer.status == 401
    if method != "HEAD":
        good = "bad_token" if (method, path) in ENROLL else "unknown_device"
        assert answer.code in ("no_credential", "not_admin", good)


@pytest.mark.parametrize(("method", "path"), sorted(ADMIN))
async def test_a_devices_credential_opens_no_admin_route(served: Serving, method: str, path: str):
    device = await served.device()
    answer = await ask(served, method, filled(path), credential=device.secret)
    assert (answer.status, answer.code) == (401, "not_admin")


@pytest.mark.parametrize(("method", "path"), sorted(DEVICE))
async def test_the_admin_token_opens_no_device_route(served: Serving, method: str, path: str):
    answer = await ask(served, method, filled(path), credential=served.token)
    assert answer.status == 401


async def test_who_has_no_token_is_answered_before_the_body_of_an_enrolment(served: Serving):
    headers = {"Authorization": "Bearer join-1.secret", "Content-Length": "30000"}
    async with connected(served) as connection:
        await connection.request("POST", "/v1/enroll", headers)  # and no body ever comes
        answer = await connection.read()
    assert (answer.status, answer.code) == (401, "bad_token")


async def test_an_enrolment_is_small_but_as_large_as_it_may_be(served: Serving):
    token = await served.admin.token(1, 60.0)
    large = {"name": "x", "facts": {}, "labels": {}, "more": "x" * (32 << 10)}
    answer = await post(served, "/v1/enroll", json.dumps(large).encode(), token)
    assert (answer.status, answer.code) == (413, "too_large")
    smile = "\U0001f600"
    labels = {f"{number:02}{smile * 98}": smile * 100 for number in range(32)}
    facts = msgspec.structs.replace(FACTS, **dict.fromkeys(("agent", "machine"), "\u4e00" * 100))
    body = msgspec.json.encode(Enroll(name='"' * 100, labels=labels, facts=facts))
    assert len(body) > 25_000
    assert (await post(served, "/v1/enroll", body, token)).status == 201


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

    monkeypatch.setattr(served.coordinator.services.store, "check", broken)
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

    monkeypatch.setattr(served.coordinator.services.store, "check", broken)
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


async def test_a_blob_that_is_no_file_is_sent_from_memory(
    served: Serving, monkeypatch: pytest.MonkeyPatch
):
    device, data = await served.device(), bytes(range(256)) * 3000

    async def source(digest: str, compressed: bool = False) -> bytes:
        return compress(data) if compressed else data

    monkeypatch.setattr(served.coordinator.services.blobs, "source", source)
    for coding, body in (("identity", data), ("zstd", compress(data))):
        headers = {"Accept-Encoding": coding}
        answer = await ask(
            *(served, "GET", f"/v1/blobs/{DIGEST}", headers), credential=device.secret
        )
        assert (answer.status, answer.body) == (200, body)
        assert answer.headers.get("content-encoding", "identity") == coding
        assert answer.headers["content-length"] == str(len(body))
        assert "immutable" in answer.headers["cache-control"]


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
