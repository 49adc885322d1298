"""Own probes, from real distributions on the path."""

import sys
from pathlib import Path

import pytest

from edge_agent.config import Config
from edge_agent.signals import plugins
from edge_agent.signals.system import System

KIOSK = """
from edge_agent.signals.signal import Signal

class VisitorProbe:
    name = "visitor"
    codes = {"visitor_present": "somebody stands before the kiosk"}

    def __init__(self, config):
        self.busy = config.eligibility.max_busy

    def look(self, system):
        if system.number("sys/near") == 1:
            return Signal.no("visitor", "visitor_present", "somebody stands there")
        return Signal.yes("visitor", f"nobody there, {self.busy:.0f}")
"""
PROBE = """
from edge_agent.signals.signal import Signal

class Probe:
    name = {name!r}
    codes = {{"own": "a reason"}}
    def __init__(self, config): pass
    def look(self, system): {look}
"""
TAKEN = ("load", "disk")


class Packages:
    """Distributions in a folder of the path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(self, module: str, source: str, entry: str, name: str = "own") -> None:
        """A distribution of one module with one probe."""
        (self.folder / f"{module}.py").write_text(source)
        info = self.folder / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (info / "RECORD").write_text(f"{module}.py,,\n")
        (info / "entry_points.txt").write_text(f"[lamplighter.probes]\n{name} = {entry}\n")


@pytest.fixture
def packages(tmp_path, monkeypatch):
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)
    yield Packages(folder)
    for module in set(sys.modules) - before:
        del sys.modules[module]


@pytest.fixture
def system(tmp_path):
    return System(tmp_path, tmp_path)


def only(taken=TAKEN):
    (probe,) = plugins.load(Config(), taken)
    return probe


def test_without_a_package_there_is_no_own_probe():
    assert plugins.load(Config(), TAKEN) == []


def test_a_package_brings_a_probe(packages, system):
    packages.install("kiosk", KIOSK, "kiosk:VisitorProbe")
    probe = only()
    assert probe.name == "visitor"
    assert set(probe.codes) == {"visitor_present", "probe_failed"}
    found = probe.look(system)
    assert (found.name, found.ok, found.observed) == ("visitor", True, "nobody there, 30")
    (system.root / "sys").mkdir()
    (system.root / "sys/near").write_text("1")
    found = probe.look(system)
    assert (found.name, found.ok, found.code) == ("visitor", False, "visitor_present")


@pytest.mark.parametrize(
    ("source", "entry", "why"),
    [
        ("import not_there_at_all", "broken:Probe", "No module named"),
        ("x = 1", "broken:Probe", "Probe"),
        ("raise RuntimeError('at import')", "broken:Probe", "at import"),
        ("def Probe(): pass", "broken:Probe", "TypeError"),
        ("def Probe(config): raise ValueError('bad key')", "broken:Probe", "bad key"),
        ("def Probe(config): return None", "broken:Probe", "it has no name"),
        ("class Probe:\n name = 'a'\n def __init__(self, c): pass", "broken:Probe", "no codes"),
        (
            "class Probe:\n name = 'a'\n codes = {'b': 'c'}\n def __init__(self, c): pass",
            "broken:Probe",
            "no look()",
        ),
        (PROBE.format(name="disk", look="pass"), "broken:Probe", "'disk' is taken"),
        (PROBE.format(name="", look="pass"), "broken:Probe", "it has no name"),
    ],
)
def test_a_probe_that_cannot_be_used_says_so(packages, system, caplog, source, entry, why):
    packages.install("broken", source, entry)
    probe = only()
    found = probe.look(system)
    assert (found.name, found.ok, found.code) == ("plugin:own", False, "probe_failed")
    assert why in found.observed
    assert "own cannot be used" in caplog.text
    assert "probe_failed" in probe.codes


@pytest.mark.parametrize(
    "look",
    [
        "raise OSError('gone')",
        "return None",
        "return True",
        "return Signal.yes('disk', '')",
        "return Signal.no('own', 'unheard_of', '')",
        "return Signal('own', True, 'own', '')",
        "return Signal('own', False, 'ok', '')",
    ],
)
def test_a_probe_that_fails_says_so_and_is_logged_once(packages, system, caplog, look):
    packages.install("failing", PROBE.format(name="own", look=look), "failing:Probe")
    probe = only()
    for _ in range(3):
        found = probe.look(system)
        assert (found.name, found.ok, found.code) == ("own", False, "probe_failed")
    assert caplog.text.count("the probe own failed") == 1


def test_of_two_probes_with_one_name_the_second_is_refused(packages, system):
    for module in ("first", "second"):
        source = PROBE.format(name="own", look="return Signal.yes('own', '')")
        packages.install(module, source, f"{module}:Probe", name=module)
    first, second = plugins.load(Config(), TAKEN)
    assert first.look(system).ok
    assert second.name == "plugin:second"
    assert second.look(system).code == "probe_failed"
