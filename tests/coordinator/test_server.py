"""`coordinator serve` as a real process: TLS, refusals at the start, stopping, a full disk."""

import asyncio
import resource
import signal
import socket
import ssl
import sys
from pathlib import Path

import numpy as np
import pytest
import trustme

from coordinator.client import AdminClient, ClientError
from coordinator.server import ENDPOINT_FILE, ServeError, ServeOptions, is_loopback, tls_context
from edge_agent.errors import Offline, Rejected
from fleet.clients import Device
from tests.coordinator.plans import constant, plan, weights
from tests.coordinator.processes import one_line, run, served_process, stop
from wire.digest import digest_of
from wire.messages import UploadState
from wire.plan import Parameter


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority."""
    return trustme.CA()


@pytest.fixture
def pair(authority: trustme.CA, tmp_path: Path) -> tuple[Path, Path]:
    """A server's certificate and key."""
    issued = authority.issue_cert("localhost", "127.0.0.1")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(key))
    return chain, key


# TLS


def test_a_fleet_over_tls(tmp_path: Path, authority: trustme.CA, pair: tuple[Path, Path]):
    chain, key = pair
    state, ca = tmp_path / "state", authority.cert_pem.bytes().decode()

    async def round_trip(url: str, own: AdminClient, secret: str) -> None:
        async with own as admin:
            await plan(goal=1).create(admin)
            token = await admin.token(1, 60.0)
        device = await Device.enroll(url, token, ca=ca)
        await device.serve(constant(1.0))
        with pytest.raises(Offline, match=r"(?i)certificate"):
            await Device.enroll(url, token)
        with pytest.raises(Offline):
            await Device.enroll(url.replace("https", "http"), token)
        async with AdminClient(url, secret, ca) as admin:
            assert (await admin.tasks())[0].name == "digits"
        async with AdminClient(url, secret) as admin:
            with pytest.raises(ClientError, match=r"(?i)certificate"):
                await admin.tasks()

    with served_process(state, "--tls-cert", chain, "--tls-key", key) as (process, endpoint):
        assert endpoint.url.startswith("https://127.0.0.1:")
        own = AdminClient.of_state(state)  # trusts the certificate in the state folder
        asyncio.run(round_trip(endpoint.url, own, (state / "admin.token").read_text()))
        assert stop(process, signal.SIGTERM) < 10


def test_plain_http_off_this_machine_is_refused_unless_asked_for_by_name(tmp_path: Path):
    for host in ("0.0.0.0", "::", "192.0.2.1", "fleet.example"):
        with pytest.raises(ServeError, match="--insecure-http"):
            tls_context(ServeOptions(tmp_path, host=host))
        assert tls_context(ServeOptions(tmp_path, host=host, insecure_http=True)) is None
    for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"):
        assert is_loopback(host)
        assert tls_context(ServeOptions(tmp_path, host=host)) is None
    for command in (
        *(("serve", "--state", tmp_path / "state"), ("serve", "--workers", 2, "--state", tmp_path)),
        ("install", "--dry-run"),
    ):
        said = one_line(run(*command, "--host", "0.0.0.0"), 2)
        assert "would show every secret" in said
        assert "give --tls-cert and --tls-key, or say --insecure-http" in said
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--tls-cert", "cert.pem"), "--tls-cert and --tls-key go together"),
        (("--tls-cert", "none.pem", "--tls-key", "none.pem"), "none.pem or its key cannot be used"),
        (("--host", "not/a/host", "--insecure-http"), "--host not/a/host: no address"),
        (("--host", "not/a/host", "--insecure-http", "--workers", "2"), "--host not/a/host: no"),
        (("--store", "nonsense"), "--store: write postgresql://"),
        (("--store", "mysql://u:secret@h/d", "--workers", "2"), "--store: write postgresql://"),
        (("--state", "/dev/null"), "--state: /dev/null is no folder"),
        (("--workers", "0"), "'--workers'"),
        (("--max-connections", "0"), "'--max-connections'"),
        (("--port", "http"), "'--port'"),
        (("more",), "unexpected extra argument"),
    ],
)
def test_what_cannot_be_asked_for_is_one_line_and_status_2(
    tmp_path: Path, options: tuple[str, ...], words: str
):
    said = one_line(run("serve", "--state", tmp_path / "state", "--port", 0, *options), 2)
    assert words in said
    assert "secret" not in said


def test_certificate_and_key_go_together_and_must_be_good(tmp_path: Path, pair: tuple[Path, Path]):
    chain, key = pair
    assert isinstance(
        tls_context(ServeOptions(tmp_path, tls_cert=chain, tls_key=key)), ssl.SSLContext
    )
    for options in (
        ServeOptions(tmp_path, tls_cert=chain),
        ServeOptions(tmp_path, tls_key=key),
        ServeOptions(tmp_path, tls_cert=key, tls_key=chain),
        ServeOptions(tmp_path, tls_cert=tmp_path / "none.pem", tls_key=key),
    ):
        with pytest.raises(ServeError) as refused:
            tls_context(options)
        assert "\n" not in str(refused.value)


# Starting


def test_a_port_in_use_is_one_line(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = one_line(run("serve", "--state", tmp_path / "state", "--port", port), 1)
    assert f"cannot listen on 127.0.0.1:{port}" in said
    assert not (tmp_path / "state" / ENDPOINT_FILE).exists()


def test_a_state_folder_in_use_or_damaged_is_one_line(tmp_path: Path):
    state = tmp_path / "state"
    with served_process(state):
        said = one_line(run("serve", "--state", state, "--port", 0), 1)
        assert "in use by another coordinator" in said
        assert (state / ENDPOINT_FILE).exists()
    for file in state.glob("coordinator.sqlite*"):
        file.write_bytes(b"rubbish" * 999)
    assert "restore it" in one_line(run("serve", "--state", state, "--port", 0), 1)
    assert "state" in one_line(run("serve", "--state", "/dev/null/state", "--port", 0), 1)


# Stopping


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_within_seconds_and_leaves_nothing(tmp_path: Path, how: signal.Signals):
    state = tmp_path / "state"
    with served_process(state) as (process, endpoint):
        port = int(endpoint.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as half:
            half.sendall(b"POST /v1/enroll HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
            assert stop(process, how) < 10
        assert process.returncode == 0
    left = {path.name for path in state.iterdir()}
    locks = {"coordinator.lock", "workers.lock"}
    assert left - locks == {
        *("admin.token", "blobs", "coordinator.sqlite", "parts", "scratch", "spool")
    }
    for folder in ("parts", "scratch", "spool"):
        assert not [*(state / folder).iterdir()]
    assert "Traceback" not in (tmp_path / "state.log").read_text()


def test_a_file_that_cannot_be_deleted_at_the_end_is_no_failure(tmp_path: Path):
    state = tmp_path / "state"
    with served_process(state) as (process, _):
        (state / ENDPOINT_FILE).unlink()
        (state / ENDPOINT_FILE).mkdir()  # as little can be deleted as on a disk that is read-only
        stop(process, signal.SIGTERM)
        assert process.returncode == 0
    said = (tmp_path / "state.log").read_text()
    assert f"{state / ENDPOINT_FILE} stays" in said
    assert "Traceback" not in said


# Trouble


@pytest.mark.skipif(sys.platform != "linux", reason="limits another process")
def test_a_full_disk_is_said_and_what_waits_gets_in_afterwards(tmp_path: Path):
    state, parameters = tmp_path / "state", (Parameter(name="w", shape=(300_000,)),)

    def room(process: int, size: int) -> None:
        _, hard = resource.prlimit(process, resource.RLIMIT_FSIZE)
        resource.prlimit(process, resource.RLIMIT_FSIZE, (size, hard))

    async def upload(process: int, own: AdminClient) -> None:
        async with own as admin:
            await plan(goal=1, parameters=parameters).create(admin)
            device = await Device.enroll(admin.url, await admin.token(1, 60.0))
            assignment = await device.take()
            delta = weights(parameters, seed=3)
            data = device.write(assignment, delta)
            await device.announce(assignment, len(data), digest_of(data))
            room(process, 700_000)
            with pytest.raises(Rejected) as full:
                await device.append(assignment, 0, data)
            assert (full.value.status, full.value.code) == (503, "storage")
            assert full.value.transient
            held = await device.held(assignment)
            assert 600_000 < held <= 700_000
            room(process, resource.RLIM_INFINITY)
            done = await device.append(assignment, held, data[held:])
            assert done.state is UploadState.ACCEPTED
            while (await admin.tasks())[0].version == 0:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    with served_process(state) as (process, _):
        asyncio.run(upload(process.pid, AdminClient.of_state(state)))


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path):
    state = tmp_path / "state"

    async def first_half(own: AdminClient) -> None:
        async with own as admin:
            await plan(goal=2).create(admin)
            device = await Device.enroll(admin.url, await admin.token(1, 60.0))
            await device.serve(constant(3.0))

    async def second_half(own: AdminClient) -> None:
        async with own as admin:
            view = (await admin.tasks())[0]
            assert (view.arrived, view.version) == (1, 0)
            device = await Device.enroll(admin.url, await admin.token(1, 60.0))
            _, before = await device.fetch(await device.take())
            await device.serve(constant(1.0))
            while (await admin.tasks())[0].version == 0:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            _, after = await device.fetch(await device.take())
            np.testing.assert_allclose(after["w"], before["w"] + 2.0, rtol=1e-6)

    with served_process(state):
        asyncio.run(first_half(AdminClient.of_state(state)))
    (state / ENDPOINT_FILE).unlink()
    with served_process(state):
        asyncio.run(second_half(AdminClient.of_state(state)))
