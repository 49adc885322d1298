"""The spool: any order of writes. The rest is in `tests/coordinator/test_store.py`."""

import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.errors import Conflict
from coordinator.store.spool import Spool

DATA = bytes(range(256)) * 4


def test_pieces_that_overlap_or_come_twice_make_the_same_bytes(tmp_path):
    spool = Spool(tmp_path / "spool")
    piece = st.tuples(st.integers(0, len(DATA)), st.integers(0, 400))

    @settings(max_examples=30)
    @given(st.lists(piece, max_size=20))
    def check(pieces):
        spool.drop("a")
        held = 0
        for offset, length in pieces:
            part = DATA[offset : offset + length]
            if offset > held:
                with pytest.raises(Conflict) as refused:
                    spool.write("a", offset, part)
                assert refused.value.code == "wrong_offset"
                assert refused.value.headers == {"Upload-Offset": str(held)}
            else:
                assert spool.write("a", offset, part) == offset + len(part)
                held = max(held, offset + len(part))
            assert spool.size("a") == held
        if pieces:
            assert spool.seal("a") == DATA[:held]

    check()


def test_an_upload_goes_on_after_a_restart(tmp_path):
    Spool(tmp_path / "spool").write("a", 0, DATA[:300])
    after = Spool(tmp_path / "spool")
    assert after.size("a") == 300
    after.write("a", 300, DATA[300:])
    assert after.seal("a") == DATA


def test_uploads_do_not_meet(tmp_path):
    spool = Spool(tmp_path / "spool")
    spool.write("a", 0, b"of a")
    spool.write("a.b", 0, b"of a.b")
    assert sorted(spool.held()) == ["a", "a.b"]
    spool.drop("a")
    assert spool.held() == ["a.b"]
    assert spool.read("a.b") == b"of a.b"


def test_only_updates_are_listed(tmp_path):
    spool = Spool(tmp_path / "spool")
    (tmp_path / "spool" / "lost+found").mkdir()
    (tmp_path / "spool" / "notes.txt").touch()
    assert spool.held() == []


def test_what_was_never_sent_is_neither_sealed_nor_read(tmp_path):
    spool = Spool(tmp_path / "spool")
    with pytest.raises(FileNotFoundError):
        spool.seal("a")
    with pytest.raises(FileNotFoundError):
        spool.read("a")
    assert spool.held() == []


def test_uploads_are_their_owners_alone(tmp_path):
    spool = Spool(tmp_path / "spool")
    spool.write("a", 0, b"private")
    assert stat.S_IMODE(spool.path("a").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "spool").stat().st_mode) == 0o700
