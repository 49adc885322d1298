"""Segments: any order of appending, taking back and putting aside."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.store.segments import Segments, segment_name
from tests.coordinator.store.contract import names

STEP = st.one_of(
    st.tuples(st.just("append"), st.integers(0, 2), st.binary(max_size=50)),
    st.tuples(st.just("rewind"), st.integers(0, 5), st.none()),
    st.tuples(st.just("settle"), st.none(), st.none()),
)


HEAD = 20  # bytes before each update


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_what_is_taken_back_is_gone_and_what_stays_is_where_it_was(tmp_path_factory):
    @settings(max_examples=60)
    @given(st.lists(STEP, max_size=25))
    def check(steps):
        folder = tmp_path_factory.mktemp("spool")
        segments, settled, pending = Segments(folder), [], []
        for kind, number, data in steps:
            if kind == "append":
                name = segment_name("t", number, "n")
                ((start, length, _),) = segments.append(name, [data])
                assert length == len(data)
                pending.append((name, start, data))
            elif kind == "rewind":
                mark = min(number, segments.mark())
                segments.rewind(mark)
                del pending[mark:]
            else:
                segments.flush()
                segments.settle()
                settled, pending = settled + pending, []
        for name, start, data in settled + pending:
            assert segments.read(name, start, len(data)) == data
        written = sum(path.stat().st_size for path in folder.iterdir())
        assert written == sum(HEAD + len(data) for _, _, data in settled + pending)
        for name in {name for name, _, _ in settled + pending}:
            found = [(place.start, data) for place, data in segments.strays(name, set())]
            assert found == [(s, d) for n, s, d in settled + pending if n == name]
        segments.close()

    check()


def test_descriptors_are_bounded(tmp_path):
    segments, before = Segments(tmp_path), descriptors()
    for number in range(300):
        segments.append(segment_name("t", number, "n"), [b"data"])
        segments.flush()
        segments.settle()
    assert descriptors() - before < 100
    for number in range(300):  # each again, so that each was closed and opened meanwhile
        (place,) = segments.append(segment_name("t", number, "n"), [b"more"])
        assert place.start == HEAD + 4 + HEAD
    assert segments.read("t.7.n.log", HEAD, 4) + segments.read("t.7.n.log", 44, 9) == b"datamore"
    segments.rewind()
    assert segments.read("t.7.n.log", HEAD, 99) == b"data"
    segments.close()
    assert descriptors() == before


def test_a_segment_that_was_put_aside_begins_anew(tmp_path):
    segments = Segments(tmp_path)
    segments.append("t.1.n.log", [b"before"])
    segments.flush()
    segments.settle()
    aside = segments.put_aside("t.1.n.log")
    assert aside is not None
    assert segments.append("t.1.n.log", [b"after"])[0].start == HEAD
    segments.flush()
    assert segments.read("t.1.n.log", HEAD, 99) == b"after"
    assert aside.read_bytes().endswith(b"before")
    segments.close()
    assert segments.put_aside("t.2.n.log") is None


def test_only_what_is_used_is_spared_and_only_segments_are_swept(tmp_path):
    for name in ("t.1.n.log", "t.2.n.log", "t.3.n.log.gone", ".probe", "notes.txt"):
        (tmp_path / name).touch()
    Segments(tmp_path).sweep({"t.1.n.log"})
    assert names(tmp_path) == ["notes.txt", "t.1.n.log"]


def test_wiping_overwrites_just_those_bytes_and_adds_none(tmp_path):
    segments = Segments(tmp_path)
    (tmp_path / "t.1.n.log").write_bytes(b"abcdefgh")
    segments.wipe("t.1.n.log", 2, 3)
    assert (tmp_path / "t.1.n.log").read_bytes() == b"ab\0\0\0fgh"
    segments.wipe("t.1.n.log", 6, 100)
    assert (tmp_path / "t.1.n.log").read_bytes() == b"ab\0\0\0f\0\0"
    segments.wipe("t.9.n.log", 0, 9)
    assert names(tmp_path) == ["t.1.n.log"]


def test_what_no_row_speaks_of_is_found_if_it_is_whole(tmp_path):
    segments, name = Segments(tmp_path), "t.1.n.log"
    places = segments.append(name, [b"first", b"", b"third", b"fourth", b"last"])
    segments.wipe(name, *places[2][:2])
    found = segments.strays(name, {places[0].start})
    assert [data for _, data in found] == [b"", b"fourth", b"last"]
    whole = (tmp_path / name).read_bytes()
    for cut in range(1, len(b"last") + HEAD):  # as a power cut leaves it
        (tmp_path / name).write_bytes(whole[:-cut])
        assert [data for _, data in segments.strays(name, set())] == [b"first", b"", b"fourth"]
    (tmp_path / name).write_bytes(b"of an earlier version")
    assert list(segments.strays(name, set())) == []
    segments.close()


@pytest.mark.parametrize("bad", ["", "../t", "a.b", "A", "a/b", "x" * 80, "-a"])
def test_a_name_is_made_of_plain_names_only(bad):
    with pytest.raises(ValueError, match="letters"):
        segment_name(bad, 1, "n")
    with pytest.raises(ValueError, match="letters"):
        segment_name("t", 1, bad)
