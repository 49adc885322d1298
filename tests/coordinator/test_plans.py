"""Blobs and tasks: plans and models as they are put, fetched and checked."""

import asyncio
import json

import msgspec
import pytest

from coordinator.client import AdminClient, ClientError
from tests.coordinator.plans import GRAPHS, plan, task_file
from tests.coordinator.plans import graph as graph_bytes
from tests.coordinator.raw import Answer, ask
from tests.coordinator.serving import Serving
from wire import compression
from wire.digest import digest_of

DIGEST = "sha256:" + "0" * 64


async def post(served: Serving, path: str, body: bytes, credential: str) -> Answer:
    return await ask(served, "POST", path, body=body, credential=credential)


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
    assert plain.headers["vary"] == "Accept-Encoding, Available-Dictionary"
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
    assert "name is other in the task" in await refused(admin, task_file("other"), manifest, blobs)
    other_rate = good.definition.replace("learning_rate = 0.1", "learning_rate = 5.0")
    assert "learning_rate is 5.0 in the task, 0.1 in the plan" in await refused(
        admin, other_rate, manifest, blobs
    )
    tolerant = good.definition + "\n[keep]\ntolerance = 0.5"
    assert "keep.tolerance is 0.5 in the task, 0.0 in the plan" in await refused(
        admin, tolerant, manifest, blobs
    )
    pulled = good.definition.replace("[training]", "[training]\nproximal = 0.5")
    assert "training.proximal is 0.5 in the task, 0.0 in the plan" in await refused(
        admin, pulled, manifest, blobs
    )
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


@pytest.mark.parametrize("name", ["train.onnx", "evaluate.onnx", "model.onnx"])
@pytest.mark.parametrize("location", ["/etc/passwd", "../x", "frozen.bin"])
async def test_a_plan_that_reads_other_files_is_refused(served: Serving, name: str, location: str):
    """A device would refuse it, too, but a fleet should not have to."""
    onnx = pytest.importorskip("onnx")
    spy = onnx.TensorProto(name="spy", data_type=1, dims=[1], data_location=1)
    for key, value in (("location", location), ("offset", "0"), ("length", "4")):
        spy.external_data.add(key=key, value=value)
    graph = onnx.helper.make_graph([], "g", [], [], [spy])
    files = {f"{n}.onnx": graph_bytes(n) for n in GRAPHS}
    files[name] = onnx.helper.make_model(graph).SerializeToString()
    made = plan(files=files)
    blobs = [*made.files, made.initial]
    said = await refused(served.admin, made.definition, made.manifest.to_bytes(), blobs)
    assert (
        said == f"bad_format: {name}: a tensor lies in {location!r}, which is no file of the plan"
    )


async def test_a_plan_of_no_graphs_is_refused(served: Serving):
    made = plan(files={f"{n}.onnx": f"{n}, not a graph".encode() for n in GRAPHS})
    blobs = [*made.files, made.initial]
    said = await refused(served.admin, made.definition, made.manifest.to_bytes(), blobs)
    assert "not an ONNX model" in said


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
