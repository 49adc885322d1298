"""Whether what the agent is made of runs on this machine."""

import asyncio
import re
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from edge_agent.child import start_child
from edge_agent.doctor.finding import Finding
from edge_agent.job import Job, Outcome

_OLDEST, _NEWEST = (3, 11), (3, 13)
_OLDEST_GLIBC = (2, 28)  # of the wheels, manylinux_2_28
_MACHINES = ("aarch64", "x86_64")
_PACKAGE = "lamplighter"
# Builds of ONNX Runtime: all of them install the module `onnxruntime`.
_RUNTIME = re.compile(r"onnxruntime(-training)?(-cpu|-gpu|-openvino|-directml|-qnn)?")
# What the wheels of numpy and ONNX Runtime are compiled for.
_FEATURES = {
    "aarch64": {"fp", "asimd"},
    "x86_64": {"cx16", "popcnt", "ssse3", "sse4_1", "sse4_2"},
}
_64_BIT = (
    "install a 64-bit system: ONNX Runtime has no wheels for 32-bit ARM. On a Raspberry Pi choose "
    "'Raspberry Pi OS (64-bit)'; 'dpkg --print-architecture' then says arm64"
)
_IMPORT_SECONDS = 120.0  # a Raspberry Pi Zero reads it from a slow card
_SHOW = "import onnxruntime as o; print(o.__version__, *o.get_available_providers())"


class Ended(NamedTuple):
    """How a program ended; `status` is `None` when it had to be ended."""

    status: int | None
    output: str
    errors: str


def python(version: Sequence[int]) -> Finding:
    """`version` is that of the interpreter."""
    said = ".".join(map(str, version[:3]))
    if tuple(version[:2]) < _OLDEST:
        return Finding.fail(f"Python {said}", "install Python 3.11 or newer: Debian 12 has it")
    if tuple(version[:2]) > _NEWEST:
        return Finding.warn(
            f"Python {said} is newer than what is tested", "Python 3.11, 3.12 and 3.13 are"
        )
    return Finding.ok(f"Python {said}")


def bits(wide: bool, machine: str) -> Finding:
    """`wide`: Python itself is a 64-bit program; `machine` is the kernel's word."""
    if not wide and machine in _MACHINES:
        return Finding.fail(f"a 32-bit system under a 64-bit kernel ({machine})", _64_BIT)
    if not wide:
        return Finding.fail(f"a 32-bit system ({machine})", _64_BIT)
    if machine not in _MACHINES:
        return Finding.warn(
            f"{machine}: not a kind of machine that is tested",
            f"tested are {' and '.join(_MACHINES)}; elsewhere build ONNX Runtime yourself",
        )
    return Finding.ok(f"a 64-bit system ({machine})")


def c_library(name: str, version: str) -> Finding:
    """As `platform.libc_ver` tells it."""
    if name != "glibc":
        return Finding.fail(
            "the C library is not glibc", "ONNX Runtime has no wheels for musl: use Debian, say"
        )
    if _numbers(version) < _OLDEST_GLIBC:
        return Finding.fail(f"glibc {version}", "2.28 or newer is needed: Debian 12 has 2.36")
    return Finding.ok(f"glibc {version}")


def processor(cpuinfo: str, machine: str) -> Finding:
    """What `/proc/cpuinfo` says. Only a warning: the import is the proof."""
    needed = _FEATURES.get(machine, set())
    line = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    if not line:
        return Finding.warn(
            "the processor's features are not told",
            "in a service, ProcSubset=pid hides /proc/cpuinfo: leave it out",
        )
    if missing := needed - set(line[1].split()):
        return Finding.warn(
            f"the processor lacks {', '.join(sorted(missing))}",
            "the wheels may use them and end with 'illegal instruction': see below",
        )
    return Finding.ok("the processor has what the wheels use")


def installed() -> dict[str, str]:
    """Versions of the installed distributions, by normal name. Blocking."""
    return {_normal(d.metadata["Name"] or ""): d.version for d in metadata.distributions()}


def requirements() -> list[str]:
    """What our own package needs on any machine; empty when it is not installed."""
    try:
        found = metadata.requires(_PACKAGE) or []
    except metadata.PackageNotFoundError:
        return []
    return [text for text in found if "extra ==" not in text]


def dependencies(needed: Iterable[str], found: Mapping[str, str]) -> Iterator[Finding]:
    """`needed` are requirements such as `aiohttp>=3.10`."""
    fix = f"{sys.executable} -m pip install --upgrade 'lamplighter[device]'"
    missing = []
    for text in needed:
        name = re.split(r"[^A-Za-z0-9._-]", text, maxsplit=1)[0]
        least = re.search(r">=\s*([0-9.]+)", text)
        version = found.get(_normal(name))
        if version is None:
            missing.append(name)
        elif least and _numbers(version) < _numbers(least[1]):
            missing.append(f"{name} {least[1]} or newer (it is {version})")
    if missing:
        yield Finding.fail(f"not installed: {', '.join(missing)}", fix)
    else:
        yield Finding.ok("all that the agent needs is installed")


def runtimes(found: Iterable[str]) -> Finding:
    """Exactly one build of ONNX Runtime may be there: they overwrite each other."""
    builds = sorted(name for name in found if _RUNTIME.fullmatch(name))
    pip = f"{sys.executable} -m pip"
    if not builds:
        return Finding.fail("ONNX Runtime is not installed", f"{pip} install 'lamplighter[device]'")
    if len(builds) > 1:
        return Finding.fail(
            f"{' and '.join(builds)} overwrite each other",
            f"{pip} uninstall -y {' '.join(builds)}\n{pip} install 'lamplighter[device]'",
        )
    return Finding.ok(f"{builds[0]} is installed")


def telemetry(value: str | None) -> Finding:
    """The environment's `ORT_DISABLE_TELEMETRY`; the agent sets it unless somebody else did."""
    if value == "1":
        return Finding.ok("ONNX Runtime reports nothing to its maker")
    return Finding.warn(
        "ONNX Runtime may report its use to its maker",
        "take ORT_DISABLE_TELEMETRY out of the environment, or set it to 1",
    )


def imported(ended: Ended) -> Finding:
    """How a program that imports ONNX Runtime ended."""
    if ended.status == 0:
        return Finding.ok(f"ONNX Runtime {ended.output.strip()}")
    if ended.status == -signal.SIGILL:
        return Finding.fail(
            "ONNX Runtime uses an instruction that this processor lacks",
            f"try an older one: {sys.executable} -m pip install 'onnxruntime==1.20.*'",
        )
    if ended.status is None:
        return Finding.fail(
            f"ONNX Runtime is not imported within {_IMPORT_SECONDS:.0f} s",
            "is the disk or card at fault, or memory used up? see 'dmesg'",
        )
    last = (ended.errors.strip().splitlines() or [f"exit status {ended.status}"])[-1]
    return Finding.fail(
        f"ONNX Runtime cannot be imported: {last}",
        f"{sys.executable} -m pip install --force-reinstall 'lamplighter[device]'",
    )


async def runtime() -> Finding:
    """Import ONNX Runtime in a process of its own: it may take that process down."""
    return imported(await run([sys.executable, "-P", "-c", _SHOW], _IMPORT_SECONDS))


async def run(command: Sequence[str], seconds: float) -> Ended:
    """Run a program to its end, for `seconds` at most."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(seconds):
            output, errors = await process.communicate()
    except TimeoutError:
        return Ended(None, "", "")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Ended(
        process.returncode, output.decode(errors="replace"), errors.decode(errors="replace")
    )


async def worker(nowhere: Path, seconds: float = _IMPORT_SECONDS) -> Finding:
    """Start the training child with a plan that is not there: it must say so, and nothing else.
    That takes all that it imports."""
    job = Job(
        plan=str(nowhere),
        model=str(nowhere),
        examples=str(nowhere),
        columns={},
        hold_out=0.2,
        threads=1,
        evaluate=False,
    )
    fix = f"see what it wrote above; 'pip check' with {sys.executable} may say more"
    try:
        async with asyncio.timeout(seconds), start_child(job, grace=1.0) as child:
            report = await child.report()
    except TimeoutError:
        return Finding.fail(f"the training child does not answer within {seconds:.0f} s", fix)
    except OSError as error:
        return Finding.fail(f"the training child cannot be started: {error}", fix)
    if report.outcome is Outcome.BAD_PLAN:
        return Finding.ok("the training child starts")
    return Finding.fail(f"the training child: {report.outcome}: {report.detail}", fix)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
