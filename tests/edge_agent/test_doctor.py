"""What the doctor finds, check by check, and all of it on this machine."""

import asyncio
import os
import signal
import ssl
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme

from edge_agent.config import Config, parse
from edge_agent.doctor import Finding, Level, doctor, exit_code, home, machine, software, text
from edge_agent.errors import ConfigError
from edge_agent.state import Identity, StateFolder
from tests.edge_agent.signals.tree import Tree, eligibility

SECRET = "s" * 20


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


def levels(findings):
    return [str(found.level) for found in findings]


# What is said


def test_findings_are_told_with_what_to_do():
    findings = [Finding.ok("a"), Finding.warn("b", "do c"), Finding.fail("d", "do e\ndo f")]
    assert text(findings).splitlines() == [
        "ok    a",
        "warn  b",
        "      -> do c",
        "fail  d",
        "      -> do e",
        "      -> do f",
        "1 to mend, 1 to know about",
    ]


def test_only_what_does_not_work_fails():
    assert exit_code([Finding.ok("a"), Finding.warn("b", "c")]) == 0
    assert exit_code([Finding.ok("a"), Finding.fail("b", "c")]) == 1
    assert exit_code([]) == 0


# Software


@pytest.mark.parametrize(
    ("version", "level"),
    [((3, 10, 9), "fail"), ((3, 11, 0), "ok"), ((3, 13, 9), "ok"), ((3, 14, 0), "warn")],
)
def test_python_has_a_version(version, level):
    assert software.python(version).level == level


@pytest.mark.parametrize(
    ("wide", "kind", "level", "said"),
    [
        (True, "aarch64", "ok", "64-bit"),
        (True, "x86_64", "ok", "64-bit"),
        (True, "riscv64", "warn", "riscv64"),
        (False, "aarch64", "fail", "32-bit system under a 64-bit kernel"),
        (False, "armv7l", "fail", "32-bit system (armv7l)"),
    ],
)
def test_the_system_must_be_64_bit(wide, kind, level, said):
    found = software.bits(wide, kind)
    assert found.level == level
    assert said in found.what
    assert ("Raspberry Pi OS (64-bit)" in found.how_to_fix) is (level == "fail")


@pytest.mark.parametrize(
    ("name", "version", "level"),
    [
        ("glibc", "2.36", "ok"),
        ("glibc", "2.28", "ok"),
        ("glibc", "2.9", "fail"),
        ("glibc", "2.27", "fail"),
        ("", "", "fail"),
    ],
)
def test_the_wheels_need_a_c_library(name, version, level):
    assert software.c_library(name, version).level == level


@pytest.mark.parametrize(
    ("cpuinfo", "kind", "level"),
    [
        ("processor : 0\nFeatures\t: fp asimd evtstrm crc32 cpuid\n", "aarch64", "ok"),
        ("Features\t: fp crc32\n", "aarch64", "warn"),
        ("flags\t\t: fpu cx16 popcnt ssse3 sse4_1 sse4_2 avx\n", "x86_64", "ok"),
        ("flags\t\t: fpu sse2\n", "x86_64", "warn"),
        ("", "aarch64", "warn"),
    ],
)
def test_the_processor_has_features(cpuinfo, kind, level):
    assert software.processor(cpuinfo, kind).level == level


@pytest.mark.parametrize(
    ("installed", "missing"),
    [
        ({"aiohttp": "3.14.5", "typing-extensions": "4"}, ""),
        ({"aiohttp": "3.10", "typing-extensions": "4"}, ""),
        ({"aiohttp": "3.9.9", "typing-extensions": "4"}, "aiohttp 3.10 or newer (it is 3.9.9)"),
        ({"aiohttp": "3.14.5"}, "Typing_Extensions"),
    ],
)
def test_what_is_not_installed_is_named(installed, missing):
    (found,) = software.dependencies(["aiohttp>=3.10", "Typing_Extensions"], installed)
    assert found.level == ("fail" if missing else "ok")
    assert missing in found.what


def test_our_own_requirements_are_known():
    names = {r.partition(">")[0] for r in software.requirements()}
    assert {"aiohttp", "msgspec", "numpy", "psutil"} <= names
    assert "onnx" not in names
    assert {"aiohttp", "msgspec", "pytest-asyncio"} <= set(software.installed())


@pytest.mark.parametrize(
    ("installed", "level"),
    [
        (["aiohttp", "onnxruntime"], "ok"),
        (["onnxruntime-training-cpu"], "ok"),
        (["onnxruntime-extensions"], "fail"),
        (["onnxruntime", "onnxruntime-training"], "fail"),
        (["onnxruntime", "onnxruntime-training-cpu"], "fail"),
    ],
)
def test_exactly_one_build_of_the_runtime_may_be_there(installed, level):
    found = software.runtimes(installed)
    assert found.level == level
    assert ("uninstall" in found.how_to_fix) is (len(installed) > 1 and level == "fail")


@pytest.mark.parametrize(("value", "level"), [("1", "ok"), ("0", "warn"), (None, "warn")])
def test_telemetry_is_told(value, level):
    assert software.telemetry(value).level == level


@pytest.mark.parametrize(
    ("program", "level", "said"),
    [
        ("print('1.31.1', 'CPUExecutionProvider')", "ok", "ONNX Runtime 1.31.1 CPU"),
        (f"import os; os.kill(os.getpid(), {int(signal.SIGILL)})", "fail", "an instruction"),
        ("import nothing_like_it", "fail", "No module named 'nothing_like_it'"),
        ("raise SystemExit(3)", "fail", "exit status 3"),
    ],
)
async def test_an_import_that_fails_says_how(program, level, said):
    found = software.imported(await software.run([sys.executable, "-c", program], 30.0))
    assert found.level == level
    assert said in found.what


async def test_an_import_that_hangs_is_ended():
    program = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    ended = await software.run([sys.executable, "-c", program], 0.3)
    assert ended.status is None
    assert "not imported within" in software.imported(ended).what


async def test_the_runtime_is_imported_and_the_training_child_starts(tmp_path):
    assert (await software.runtime()).level == "ok"
    assert (await software.worker(tmp_path / "nothing")).what == "the training child starts"


@pytest.fixture
def broken_runtime(tmp_path, monkeypatch):
    """Programs find another ONNX Runtime first, one that cannot be imported."""
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('not for this machine')")
    path = [str(tmp_path), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))


@pytest.mark.usefixtures("broken_runtime")
async def test_a_training_child_that_cannot_import_is_found(tmp_path):
    found = await software.worker(tmp_path / "nothing")
    assert (found.level, "crashed" in found.what) == ("fail", True)
    assert "not for this machine" in (await software.runtime()).what


async def test_a_training_child_that_hangs_is_ended(tmp_path):
    found = await software.worker(tmp_path / "nothing", seconds=0.01)
    assert (found.level, "does not answer" in found.what) == ("fail", True)


# Machine


def test_a_machine_without_services_is_told_what_is_done_instead(tree):
    found = list(machine.services(tree.system))
    assert levels(found) == ["warn", "ok", "ok", "ok"]
    assert "no UPower: power is read from /sys" in [f.what for f in found]


def test_services_are_found(tree):
    tree.put("run/systemd/system/x", "")
    tree.put("run/NetworkManager/x", "")
    tree.put("run/systemd/seats/seat0", "")
    tree.put("usr/share/dbus-1/system-services/org.freedesktop.UPower.service", "")
    found = list(machine.services(tree.system))
    assert [f.what.endswith(("runs", "here")) for f in found] == [True] * 4


def test_a_raspberry_pi_must_be_told_to_keep_account(tree):
    found = list(machine.kernel(tree.system))
    assert levels(found) == ["warn", "warn"]
    assert "psi=1" in found[0].how_to_fix
    assert "cgroup_enable=memory" in found[1].how_to_fix
    tree.put_all("proc/pressure", io="some", memory="some")
    tree.put("sys/fs/cgroup/cgroup.controllers", "cpu memory pids")
    assert levels(machine.kernel(tree.system)) == ["ok", "ok"]


@pytest.mark.parametrize(
    ("year", "setter", "level"),
    [
        (1970, "run/systemd/timesync/synchronized", "fail"),
        (2026, "run/systemd/timesync/synchronized", "ok"),
        (2026, "run/chrony/chronyd.sock", "ok"),
        (2026, "elsewhere", "warn"),
    ],
)
def test_the_clock_is_to_be_set(tree, year, setter, level):
    tree.put(setter, "")
    assert machine.clock(tree.system, datetime(year, 6, 1, tzinfo=UTC)).level == level


def test_too_little_room_is_told(tree):
    assert levels(machine.room(tree.system, Config())) == ["ok"] * 4
    tree.put_all("sys/class/thermal/thermal_zone0", type="cpu-thermal", temp=90000)
    tree.put("proc/meminfo", "MemAvailable: 10 kB")
    tree.put("sys/devices/platform/soc/soc:firmware/get_throttled", "1")
    found = list(machine.room(tree.system, eligibility(min_disk="900000 TB")))
    assert levels(found) == ["warn"] * 4
    for code, finding in zip(
        ("disk_low", "memory_low", "too_hot", "under_voltage"), found, strict=True
    ):
        assert code in finding.how_to_fix


# Home


def test_a_configuration_that_cannot_be_used_is_told():
    assert home.configuration(None).level == "ok"
    found = home.configuration(ConfigError("agent.toml: line 3: unknown key 'x'"))
    assert (found.level, "line 3" in found.what) == ("fail", True)


MOUNTS = r"""
22 1 179:2 / / rw,noatime - ext4 /dev/mmcblk0p2 rw
23 22 0:21 / /run rw - tmpfs tmpfs rw
24 22 0:22 / /mnt/my\040disk rw shared:1 - vfat /dev/sda1 rw
25 22 0:23 / /mnt rw - ext4 /dev/sdb1 rw
nonsense
"""


@pytest.mark.parametrize(
    ("path", "kind", "device"),
    [
        ("/var/lib/lamplighter", "ext4", "/dev/mmcblk0p2"),
        ("/run/lamplighter", "tmpfs", "tmpfs"),
        ("/running", "ext4", "/dev/mmcblk0p2"),
        ("/mnt/my disk/state", "vfat", "/dev/sda1"),
        ("/mnt/other", "ext4", "/dev/sdb1"),
    ],
)
def test_the_file_system_of_a_folder_is_found(path, kind, device):
    assert home.mount_of(Path(path), MOUNTS) == (kind, device)
    assert home.mount_of(Path(path), "") == ("", "")


@pytest.mark.parametrize(
    ("kind", "device", "level", "said"),
    [
        ("ext4", "/dev/mmcblk0p2", "ok", "card"),
        ("ext4", "/dev/sda1", "ok", "/dev/sda1"),
        ("", "", "ok", "not told"),
        ("tmpfs", "tmpfs", "warn", "empties"),
        ("overlay", "overlay", "warn", "empties"),
        ("vfat", "/dev/sda1", "warn", "keep others out"),
        ("nfs4", "server:/home", "warn", "another machine"),
    ],
)
def test_a_file_system_suits_the_state_or_not(kind, device, level, said):
    found = home.file_system(Path("/state"), kind, device)
    assert (found.level, said in found.what) == (level, True)


def test_a_state_folder_is_looked_at(tmp_path):
    folder = tmp_path / "state"
    assert levels(home.state(folder, MOUNTS)) == ["warn"]
    folder.mkdir(mode=0o700)
    assert levels(home.state(folder, MOUNTS)) == ["ok", "ok"]
    assert list(folder.iterdir()) == []
    folder.chmod(0o750)  # as the service's: its group may read the models in it
    assert levels(home.state(folder, MOUNTS)) == ["ok", "ok"]
    folder.chmod(0o755)
    found = list(home.state(folder, MOUNTS))
    assert (levels(found), "755" in found[0].what) == (["warn", "ok", "ok"], True)


def test_a_state_folder_that_cannot_be_used_fails(tmp_path):
    (tmp_path / "file").write_text("")
    assert levels(home.state(tmp_path / "file", MOUNTS)) == ["fail"]
    assert "fail" in levels(home.state(Path("/proc/self"), MOUNTS))  # nobody can write there
    assert levels(home.state(tmp_path / ("n" * 300), MOUNTS)) == ["fail"]


def test_examples_are_looked_for(tmp_path):
    def found(text):
        return list(home.examples(parse(text)))

    assert levels(found("")) == ["warn"]
    folder = tmp_path / "examples"
    one = f'[data]\nfolder = "{folder}"\n'
    assert levels(found(one)) == ["fail"]
    folder.mkdir()
    assert levels(found(one)) == ["warn"]
    for name in ("a.npz", "b.csv", "readme.txt"):
        (folder / name).write_text("")
    assert [f.what for f in found(one)] == [f"2 files of examples in {folder}"]
    two = one + f'[data.tasks]\ndigits = "{folder}/a.npz"\n'
    assert levels(found(two)) == ["ok", "fail"]


def enrolled(folder: Path, url: str, ca: str | None = None) -> StateFolder:
    folder.mkdir(exist_ok=True, mode=0o700)
    state = StateFolder(folder)
    state.save_identity(Identity(url=url, device="d-1", secret=SECRET, ca=ca))
    return state


def test_an_identity_is_looked_at(tmp_path):
    state = StateFolder(tmp_path)
    assert (home.identity(state)[0], home.identity(state)[1].level) == (None, "warn")
    enrolled(tmp_path, "https://fleet.example")
    identity, found = home.identity(state)
    assert identity is not None
    assert (found.level, found.what) == ("ok", "joined https://fleet.example as d-1")
    file = tmp_path / "identity.json"
    file.chmod(0o644)
    assert home.identity(state)[1].level == "warn"
    file.write_text("{")
    assert (home.identity(state)[0], home.identity(state)[1].level) == (None, "fail")


# Coordinator


@pytest.fixture
async def listener():
    """Starts servers that count their connections and answer nothing."""
    servers = []

    async def listen(tls=None):
        met = asyncio.Queue()

        async def meet(reader, writer):
            met.put_nowait(await reader.read())
            writer.close()

        server = await asyncio.start_server(meet, "127.0.0.1", 0, ssl=tls)
        servers.append(server)
        return server.sockets[0].getsockname()[1], met

    yield listen
    for server in servers:
        server.close()


def identity_of(url, ca=None):
    return Identity(url=url, device="d-1", secret=SECRET, ca=ca)


@pytest.fixture
def authority():
    return trustme.CA()


@pytest.fixture
def tls(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    return context


async def test_a_coordinator_that_answers_is_reached_and_told_nothing(listener):
    port, met = await listener()
    found = await home.coordinator(identity_of(f"http://127.0.0.1:{port}"))
    assert found.level == "ok"
    async with asyncio.timeout(10):
        assert await met.get() == b""


async def test_a_certificate_must_be_trusted(listener, authority, tls):
    port, _ = await listener(tls)
    url = f"https://localhost:{port}"
    ca = authority.cert_pem.bytes().decode()
    assert (await home.coordinator(identity_of(url, ca))).level == "ok"
    found = await home.coordinator(identity_of(url, trustme.CA().cert_pem.bytes().decode()))
    assert (found.level, "not trusted" in found.what) == ("fail", True)


async def test_a_coordinator_that_does_not_answer_is_told(listener, authority):
    port, _ = await listener()  # speaks no TLS, so the handshake waits for ever
    ca = authority.cert_pem.bytes().decode()
    found = await home.coordinator(identity_of(f"https://localhost:{port}", ca), seconds=0.2)
    assert (found.level, "no answer" in found.what) == ("fail", True)
    found = await home.coordinator(identity_of("http://127.0.0.1:1"))
    assert (found.level, "not reached" in found.what) == ("fail", True)


# All of it


async def test_a_healthy_device(tree, tmp_path, listener):
    port, met = await listener()
    examples = tmp_path / "examples"
    await asyncio.to_thread(examples.mkdir)
    state = await asyncio.to_thread(enrolled, tmp_path / "state", f"http://127.0.0.1:{port}")
    config = parse(f'system_root = "{tree.root}"\n[data]\nfolder = "{examples}"\n')
    found = await doctor(config, state)
    said = text(found)
    assert "the training child starts" in said
    assert "the owner has not agreed" in said
    assert met.empty()
    findings = await doctor(config, state, consented=True)
    assert findings[-1] == Finding.ok(f"http://127.0.0.1:{port} answers")
    assert all(f.how_to_fix for f in findings if f.level is not Level.OK)


async def test_a_device_whose_configuration_is_broken_is_examined_all_the_same(tmp_path):
    found = await doctor(ConfigError("agent.toml: broken"), StateFolder(tmp_path / "none"))
    assert (
        Finding.fail(
            "the configuration: agent.toml: broken",
            "'edge-agent config explain' tells what is allowed",
        )
        in found
    )
    assert exit_code(found) == 1
