"""Stores that somebody else made: whatever is in their files, no wrong number is read and nothing else is touched."""

import copy
import hashlib
import json
import math
import os
import re
import zlib

import numpy as np
import pyarrow as pa
import pytest
from helpers import store_settings
from hypothesis import given
from hypothesis import strategies as st

from trl_segment.selection import SelectionConfig
from trl_segment.store import AttributionStore, StoredAttribution, exclusive_run
from trl_segment.store.files import write_part
from trl_segment.store.rows import SCHEMA, find_impossible
from trl_segment.trainer.segment_table import SegmentTable


SETTINGS = store_settings()


def row(key="a", **fields):
    values = {"num_tokens": [3, 4], "sum_abs": [0.5, 0.25], "sum_signed": [-0.5, 0.1], "f_input": -1.0, **fields}
    return vars(StoredAttribution(key, f"trace {key}", **values))


IMPOSSIBLE = {
    "NaN in a sum": {"sum_abs": [math.nan, 1.0]},
    "NaN in a signed sum": {"sum_signed": [math.nan, 1.0]},
    "infinite": {"sum_abs": [math.inf, 1.0]},
    "minus infinite": {"sum_signed": [-math.inf, 1.0]},
    "null in a list": {"sum_abs": [None, 1.0]},
    "negative strength": {"sum_abs": [-0.5, 1.0]},
    "negative length": {"num_tokens": [-3, 4]},
    "short sums": {"sum_abs": [0.5]},
    "long sums": {"sum_signed": [0.5, 0.5, 0.5]},
    "no segments": {"num_tokens": [], "sum_abs": [], "sum_signed": []},
    "no lengths": {"num_tokens": None},
    "no scores": {"sum_abs": None, "sum_signed": None},
    "half of the sums": {"sum_abs": None},
    "both kinds of scores": {"scores": [1.0, 2.0]},
    "NaN in a score": {"sum_abs": None, "sum_signed": None, "scores": [math.nan, 1.0]},
    "negative score": {"sum_abs": None, "sum_signed": None, "scores": [-1.0, 1.0]},
    "F is NaN": {"f_input": math.nan},
    "F of the baseline is infinite": {"f_baseline": -math.inf},
}
# What Arrow's own types rule out
MISTYPED = {
    "text for numbers": {"num_tokens": "34"},
    "text in numbers": {"sum_abs": ["0.5", 0.25]},
    "fractions of tokens": {"num_tokens": [0.5, 3.0]},
    "a number as key": {"key": 7},
    "no key": {"key": None},
    "an unknown field": {"command": "rm"},
}


def write_foreign_part(folder, rows):
    """With the checksum that belongs to it."""
    store = AttributionStore(folder, SETTINGS)
    schema = SCHEMA.with_metadata({"settings": store._fingerprint})
    return write_part(folder, 1, pa.RecordBatch.from_pylist(rows, schema))


def write_foreign_journal(folder, records):
    store = AttributionStore(folder, SETTINGS)
    with open(folder / "journal-1.jsonl", "wb") as file:
        for record in ({"settings": store._fingerprint}, *records):
            content = json.dumps(record).encode()
            file.write(b"%08x %s\n" % (zlib.crc32(content), content))


@pytest.mark.parametrize("write", [write_foreign_part, write_foreign_journal], ids=["part", "journal"])
@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_a_row_that_no_scorer_makes_is_not_read_and_the_others_are(case, write, tmp_path, caplog):
    bad = row("bad", **IMPOSSIBLE[case])
    write(tmp_path, [row("a"), bad, row("b")])
    with caplog.at_level("WARNING"):
        store = AttributionStore(tmp_path)
    assert sorted(store) == ["a", "b"] and "bad" not in store and len(store) == 2
    assert store["a"] == StoredAttribution(**row("a"))
    with pytest.raises(ValueError, match="1 of 1 traces have no attribution"):
        SegmentTable(["bad"], ["row 0"], np.array([2]), [None]).fill(store, SelectionConfig())
    # Made again, it is there, and what was there is set aside
    writer = AttributionStore(tmp_path, SETTINGS)
    writer.add(StoredAttribution(**row("bad")))
    writer.compact()
    assert dict(AttributionStore(tmp_path)) == {key: StoredAttribution(**row(key)) for key in ("a", "b", "bad")}
    assert [path.name.split("-")[0] for path in tmp_path.glob("damaged*")] == ["damaged"]


@pytest.mark.parametrize("case", MISTYPED)
def test_a_record_of_a_journal_may_hold_anything(case, tmp_path):
    write_foreign_journal(tmp_path, [row("a"), {**row("bad"), **MISTYPED[case]}, ["no", "record"], row("b")])
    assert sorted(AttributionStore(tmp_path)) == ["a", "b"]


def test_a_row_with_a_problem_needs_no_numbers():
    batch = pa.RecordBatch.from_pylist([vars(StoredAttribution("a", "a", "no answer"))], SCHEMA)
    assert find_impossible(batch) == {}


@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 5), max_size=3),
            st.lists(st.one_of(st.floats(), st.none()), max_size=3),
            st.lists(st.floats(), max_size=3),
        ),
        max_size=4,
    )
)
def test_found_is_what_a_loop_over_the_rows_finds(drawn):
    rows = [row(str(i), num_tokens=n, sum_abs=a, sum_signed=s) for i, (n, a, s) in enumerate(drawn)]

    def possible(values):
        n, a, s = values["num_tokens"], values["sum_abs"], values["sum_signed"]
        finite = all(v is not None and math.isfinite(v) for v in (*a, *s))
        return 0 < len(n) == len(a) == len(s) and finite and min(a) >= 0

    found = find_impossible(pa.RecordBatch.from_pylist(rows, SCHEMA))
    assert sorted(found) == [i for i, values in enumerate(rows) if not possible(values)]


def rewrite(folder, content):
    """A part of other content, under the checksum of that."""
    (part,) = folder.glob("part-*.arrow")
    part.unlink()
    other = folder / f"part-0001-{hashlib.sha256(content).hexdigest()[:32]}.arrow"
    other.write_bytes(content)


def test_a_wrong_offset_under_a_right_checksum_does_not_end_the_process(tmp_path):
    write_foreign_part(tmp_path, [row(key) for key in "abcdefgh"])
    (part,) = tmp_path.glob("part-*.arrow")
    content = part.read_bytes()
    offsets = np.arange(0, 9, dtype=np.int32)  # of the keys, each of one character
    place = content.index(offsets.tobytes())
    for wrong in (2**31 - 1, -5, 1_000_000):
        changed = bytearray(content)
        changed[place + 16 : place + 20] = np.int32(wrong).tobytes()
        rewrite(tmp_path, bytes(changed))
        assert len(AttributionStore(tmp_path)) == 0
    rewrite(tmp_path, content)
    assert len(AttributionStore(tmp_path)) == 8


@given(st.data())
def test_any_change_under_a_right_checksum_is_read_or_set_aside(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("store")
    write_foreign_part(folder, [row(key) for key in "abc"])
    (part,) = folder.glob("part-*.arrow")
    content = bytearray(part.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    rewrite(folder, bytes(content))
    store = AttributionStore(folder)
    for stored in store.values():
        assert stored.problem is not None or np.isfinite(stored.segment_scores.strength).all()


@pytest.mark.parametrize("content", [b"", b"ARROW1\0\0", b"no Arrow at all" * 100])
def test_no_arrow_file_at_all(content, tmp_path):
    write_foreign_part(tmp_path, [row()])
    rewrite(tmp_path, content)
    assert len(AttributionStore(tmp_path)) == 0


def test_another_table_and_several_batches_are_no_part(tmp_path):
    write_foreign_part(tmp_path, [row()])
    for schema, batches in ((pa.schema([("key", pa.string())]), 1), (SCHEMA, 2), (SCHEMA, 0)):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, schema.with_metadata({"settings": "x"})) as file:
            for _ in range(batches):
                file.write_batch(pa.RecordBatch.from_pylist([{"key": "a"}], schema))
        rewrite(tmp_path, sink.getvalue().to_pybytes())
        assert len(AttributionStore(tmp_path)) == 0


@pytest.mark.parametrize("segments", [1, 3])
def test_scores_of_more_or_fewer_segments_than_the_trace_has_are_refused(segments, tmp_path):
    write_foreign_part(tmp_path, [row("a"), row("b")])
    table = SegmentTable(["a", "b"], ["first", "second"], np.array([2, segments]), [None, None])
    with pytest.raises(
        ValueError, match=f"second: the store has the scores of 2 segments, but the trace has {segments}"
    ):
        table.fill(AttributionStore(tmp_path), SelectionConfig())


# Arrays


def test_an_array_is_checked_and_other_files_of_the_folder_are_none(tmp_path):
    store = AttributionStore(tmp_path / "a", SETTINGS)
    store.add(StoredAttribution(**row()))
    store.write_array("density", np.array([0.25, 0.75]))
    for name in ("report.json", "array-x.json.bak", "tune.json"):
        (tmp_path / "a" / name).write_text('{"traces": 3}')
    assert store.read_array("density").tolist() == [0.25, 0.75]
    merged = AttributionStore(tmp_path / "b", SETTINGS)
    assert merged.merge(store) == 1 and merged.read_array("density").tolist() == [0.25, 0.75]
    assert not (tmp_path / "b" / "report.json").exists()

    file = tmp_path / "a" / "array-density.json"
    whole = json.loads(file.read_text())
    for change in (
        lambda stored: stored["values"].__setitem__(0, 0.5),
        lambda stored: stored["values"].pop(),
        lambda stored: stored.pop("checksum"),
        lambda stored: stored.update(values="0.25"),
    ):
        stored = copy.deepcopy(whole)
        change(stored)
        file.write_text(json.dumps(stored))
        with pytest.raises(ValueError, match="is not what was written"):
            store.read_array("density")
    with pytest.raises(ValueError, match="letters, digits"):
        store.write_array("../elsewhere", np.zeros(1))


def test_an_array_without_a_checksum_is_not_mixed_with_a_new_one(tmp_path):
    store = AttributionStore(tmp_path, SETTINGS)
    (tmp_path / "density.json").write_text("[0.5, 0.5]")
    with pytest.raises(ValueError, match="without a checksum"):
        store.read_array("density")


# Locks


@pytest.mark.parametrize("kind", ["symlink", "hard link", "folder", "file"])
def test_a_lock_never_overwrites_another_file(kind, tmp_path):
    precious = tmp_path / "run"
    precious.write_text("precious")
    folder = tmp_path / "store"
    folder.mkdir()
    if kind == "folder":
        os.symlink(tmp_path, folder / ".locks")
    else:
        (folder / ".locks").mkdir()
        lock = folder / ".locks" / "run"
        if kind == "symlink":
            os.symlink(precious, lock)
        elif kind == "hard link":
            os.link(precious, lock)
        else:
            lock.write_text("precious")
    with pytest.raises(RuntimeError, match="is a link, or no lock"), exclusive_run(folder):
        pass
    assert precious.read_text() == "precious"


def test_a_lock_is_taken_again_after_its_holder(tmp_path):
    for _ in range(2):
        with exclusive_run(tmp_path), pytest.raises(RuntimeError, match="at work"), exclusive_run(tmp_path):
            pass


def replace_by_pipe(path):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("make", [replace_by_pipe, lambda path: (path.unlink(), path.mkdir())], ids=["pipe", "folder"])
def test_what_is_no_file_is_not_waited_for(make, tmp_path, caplog):
    """A pipe that nobody writes to would hold the reader for ever."""
    folder = tmp_path / "store"
    store = AttributionStore(folder, SETTINGS)
    store.add(StoredAttribution(**row()))
    store.compact()
    part = next(folder.glob("part-*.arrow"))
    make(part)
    assert len(AttributionStore(folder)) == 0
    assert re.search(r"part-.* is a (pipe|folder) and no file", caplog.text)
    journal = folder / "journal-00000000000000000000-00000000.jsonl"
    journal.touch()
    make(journal)
    assert len(AttributionStore(folder)) == 0
    assert re.search(r"journal-.* is a (pipe|folder) and no file", caplog.text)
    store = AttributionStore(folder)
    store.write_array("density", np.ones(2))
    make(folder / "array-density.json")
    with pytest.raises(ValueError, match=r"array-density.json' is a (pipe|folder) and no file"):
        store.read_array("density")
    make(folder / "settings.json")
    with pytest.raises(ValueError, match=r"settings.json' is a (pipe|folder) and no file"):
        AttributionStore(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_lock_that_is_a_pipe_is_not_waited_for(tmp_path):
    (tmp_path / ".locks").mkdir()
    os.mkfifo(tmp_path / ".locks" / "run")
    with pytest.raises(ValueError, match="is a pipe or a device and no file"), exclusive_run(tmp_path):
        pass
