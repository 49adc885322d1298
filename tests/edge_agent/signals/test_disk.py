"""Room for the state."""

import pytest

from edge_agent.signals.disk import DiskProbe, Space, judge, space
from edge_agent.signals.system import System
from tests.edge_agent.signals.tree import eligibility

LEAST = 1000


def look(state, **keys):
    return DiskProbe(eligibility(**keys)).look(System(state, state))


def test_a_disk_with_room_is_fine(tmp_path):
    found = look(tmp_path, min_disk="1 kB")
    assert (found.name, found.ok, found.code) == ("disk", True, "ok")


def test_a_disk_may_be_full(tmp_path):
    found = look(tmp_path, min_disk="900000 TB")
    assert (found.ok, found.code) == (False, "disk_low")
    assert "wanted" in found.observed


def test_a_state_folder_that_is_yet_to_be_made_is_judged_by_its_place(tmp_path):
    assert look(tmp_path / "not" / "yet", min_disk="1 kB").ok


def test_a_place_that_cannot_be_asked_is_a_reason(tmp_path):
    (tmp_path / "file").write_text("")
    found = look(tmp_path / "file" / "state")
    assert (found.ok, found.code) == (False, "disk_unknown")
    assert "file/state" in found.observed


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (Space(LEAST, 100, False), "ok"),
        (Space(LEAST, None, False), "ok"),
        (Space(LEAST - 1, 100, False), "disk_low"),
        (Space(LEAST, 99, False), "disk_low"),
        (Space(LEAST, 0, False), "disk_low"),
        (Space(LEAST, 100, True), "disk_read_only"),
    ],
)
def test_each_reading_has_its_reason(found, code):
    assert judge(found, LEAST).code == code


def test_the_file_system_is_really_asked(tmp_path):
    found = space(tmp_path)
    assert found.free > 0
    assert not found.read_only
