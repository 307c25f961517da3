import errno
import json
import logging
import math
import os
import random
from dataclasses import replace

import pyarrow as pa
import pytest
from helpers import store_settings

from trl_segment.store import AttributionStore, KeyIndex, StoredAttribution, exclusive_run, read_settings


SETTINGS = store_settings()


def visible(folder):
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def make_row(key, **fields):
    return StoredAttribution(
        **{
            "key": key,
            "name": f"trace {key}",
            "num_tokens": [3, 40],
            "sum_abs": [0.1 + 0.2, 1e-300],
            "sum_signed": [-1 / 3, 5e-324],
            "sequence_tokens": 99,
            "f_input": -0.25,
            "f_baseline": -17.125,
            "completeness_gap": 0.1,
            "evaluations": 50,
            "stopped_by": "nodes",
            **fields,
        }
    )


def test_rows_come_back_from_disk_bit_for_bit(tmp_path):
    rows = [make_row("a"), make_row("b", num_tokens=[7], sum_abs=[math.pi], sum_signed=[-0.0], name="π 的 😀")]
    skipped = StoredAttribution("c", "3", "no reasoning")
    store = AttributionStore(tmp_path / "new" / "folder", SETTINGS)
    for row in [*rows, skipped]:
        store.add(row)
    store.flush()
    for reopened in (AttributionStore(store.path, SETTINGS), AttributionStore(str(store.path))):
        assert dict(reopened) == {"a": rows[0], "b": rows[1], "c": skipped}
        assert reopened["a"].sum_abs == [0.30000000000000004, 1e-300] and reopened["a"].sum_signed[1] == 5e-324
        assert math.copysign(1, reopened["b"].sum_signed[0]) == -1
        assert (reopened["c"].problem, reopened["c"].num_tokens, reopened["c"].f_input) == ("no reasoning", [], None)
        assert reopened.settings == SETTINGS


def test_store_is_a_mapping(tmp_path):
    store = AttributionStore(tmp_path, SETTINGS)
    assert len(store) == 0 and store.get("a") is None and "a" not in store
    store.add(make_row("a"))
    assert len(store) == 1 and "a" in store and list(store) == ["a"] and store["a"] == make_row("a")
    with pytest.raises(KeyError):
        store["b"]


def test_rows_are_written_at_once(tmp_path):
    store = AttributionStore(tmp_path, SETTINGS)
    for i in range(5):
        store.add(make_row(str(i)))
        assert dict(AttributionStore(tmp_path)) == {str(j): make_row(str(j)) for j in range(i + 1)}
    store.flush()
    files = sorted(tmp_path.iterdir())
    store.flush()
    assert sorted(tmp_path.iterdir()) == files, "nothing new to write"


def test_compact_keeps_all_rows(tmp_path):
    for i in range(7):  # a journal each
        store = AttributionStore(tmp_path, SETTINGS)
        store.add(make_row(str(i), evaluations=i))
        store.flush()
    assert len(list(tmp_path.glob("journal-*"))) == 7
    store.compact()
    assert len(visible(tmp_path)) == 2 and len(list(tmp_path.glob("part-*"))) == 1
    reopened = AttributionStore(tmp_path, SETTINGS)
    for each in (store, reopened):
        assert {key: row.evaluations for key, row in each.items()} == {str(i): i for i in range(7)}
        assert set(each) == set(map(str, range(7)))
    reopened.add(make_row("7"))
    assert reopened["7"] == make_row("7") and set(reopened) == set(map(str, range(8)))
    reopened.compact()
    assert len(visible(tmp_path)) == 2 and len(AttributionStore(tmp_path)) == 8


def test_a_compacted_store_depends_on_its_rows_alone(tmp_path, monkeypatch):
    """Byte for byte: whoever wrote them in whatever order, in one go or in several, with however many rows."""
    monkeypatch.setattr("trl_segment.store.store._LEAST_ROWS", 3)
    rows = [make_row(str(i), evaluations=i) for i in range(20)]
    one = AttributionStore(tmp_path / "one", SETTINGS)
    for row in rows:
        one.add(row)
    one.compact()
    writers = [AttributionStore(tmp_path / "many", SETTINGS) for _ in range(3)]
    for i, row in enumerate(reversed(rows)):
        writers[i % 3].add(row)
        if i == 9:
            writers[0].compact()
    for writer in writers:
        writer.compact()
    contents = [{path.name: path.read_bytes() for path in visible(tmp_path / name)} for name in ("one", "many")]
    assert contents[0] == contents[1] and len(contents[0]) == 1 + 7


def test_a_journal_that_is_being_written_stays(tmp_path):
    """Two runs over two halves of a dataset; the first to finish compacts what is finished."""
    first, second = AttributionStore(tmp_path, SETTINGS), AttributionStore(tmp_path, SETTINGS)
    second.add(make_row("theirs"))
    first.add(make_row("ours"))
    first.compact()
    assert len(list(tmp_path.glob("journal-*"))) == len(list(tmp_path.glob("part-*"))) == 1
    assert set(first) == set(AttributionStore(tmp_path)) == {"theirs", "ours"}
    second.add(make_row("more"))
    assert set(second) == {"theirs", "more"}, "what another process adds is seen when the store is opened"
    second.compact()
    assert [path.suffix for path in visible(tmp_path)] == [".arrow", ".json"]
    assert set(second) == set(AttributionStore(tmp_path)) == {"theirs", "ours", "more"}
    assert first["theirs"] == make_row("theirs"), "what is open can still be read"


def test_compact_of_an_empty_store(tmp_path):
    AttributionStore(tmp_path, SETTINGS).compact()
    assert len(AttributionStore(tmp_path)) == 0


def test_compact_keeps_the_rows_of_another_process(tmp_path):
    """Two runs over two halves of a dataset write into one store; the first to finish compacts it."""
    first, second = AttributionStore(tmp_path, SETTINGS), AttributionStore(tmp_path, SETTINGS)
    second.add(make_row("theirs"))
    second.flush()
    first.add(make_row("ours"))
    first.compact()
    assert set(AttributionStore(tmp_path)) == {"theirs", "ours"}


@pytest.mark.parametrize("killed_at", ["removal 1", "removal 2", "removal 3", "removal 5", "rename 2"])
def test_compact_that_is_killed_on_the_way_loses_nothing(tmp_path, monkeypatch, killed_at):
    monkeypatch.setattr("trl_segment.store.store._LEAST_ROWS", 3)
    for i in range(3):
        store = AttributionStore(tmp_path, SETTINGS)
        for j in range(4):
            store.add(make_row(f"{j}", evaluations=i))
            store.add(make_row(f"{i} {j}"))
        store.flush()
        if i == 0:
            store.compact()
    reference = dict(store.items())
    calls = []

    def dies(original, at):
        def function(self, *args, **kwargs):
            calls.append(self)
            if len(calls) == at and self.name[0] != ".":
                raise KeyboardInterrupt
            return original(self, *args, **kwargs)

        return function

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        step, at = killed_at.split()
        if step == "rename":
            patch.setattr("pathlib.Path.rename", dies(type(tmp_path).rename, int(at)))
        else:  # of three parts and two journals, after the new parts are written
            patch.setattr("trl_segment.store.store.sync_folder", lambda folder: calls.clear())
            patch.setattr("pathlib.Path.unlink", dies(type(tmp_path).unlink, int(at)))
        store.compact()
    assert calls
    again = AttributionStore(tmp_path, SETTINGS)
    expected = {**{f"{j}": make_row(f"{j}", evaluations=2) for j in range(4)}}
    expected |= {f"{i} {j}": make_row(f"{i} {j}") for i in range(3) for j in range(4)}
    assert dict(again) == expected and len(reference) == len(expected)
    again.compact()
    assert dict(AttributionStore(tmp_path)) == expected
    assert {path.name[:9] for path in visible(tmp_path)} == {"part-0001", "settings."}


def test_row_replaces_what_was_under_its_key(tmp_path):
    store = AttributionStore(tmp_path, SETTINGS)
    store.add(make_row("a", f_input=-1.0))
    store.add(make_row("a", f_input=-2.0))
    store.flush()
    assert store["a"].f_input == -2.0 and len(store) == 1
    assert AttributionStore(tmp_path)["a"].f_input == -2.0


def test_later_file_replaces_an_earlier_one(tmp_path):
    """Sixteen stores, so that file names in random order cannot come out right by luck."""
    for i in range(16):
        store = AttributionStore(tmp_path / str(i), SETTINGS)
        for value in (-1.0, -2.0, -3.0):
            store.add(make_row("a", f_input=value))
            store.flush()
            if value == -1.0:
                store.compact()
        assert AttributionStore(tmp_path / str(i))["a"].f_input == -3.0
        store.compact()
        assert AttributionStore(tmp_path / str(i))["a"].f_input == -3.0


def test_other_settings_are_refused_by_name(tmp_path):
    store = AttributionStore(tmp_path, SETTINGS)
    store.add(make_row("a"))
    store.flush()
    with pytest.raises(ValueError, match="made with other settings") as error:
        AttributionStore(tmp_path, store_settings(rule="midpoint", evaluations=32))
    message = str(error.value)
    assert "attribution_rule: stored 'paper', now 'midpoint'" in message
    assert "attribution_evaluations: stored 50, now 32" in message
    assert "path:" not in message and str(tmp_path) in message
    # Missing and new ones count too
    with pytest.raises(ValueError, match="attribution_seed: stored None, now 1"):
        AttributionStore(tmp_path, store_settings(seed=1))
    options = {key: value for key, value in SETTINGS.options.items() if key != "path"}
    with pytest.raises(ValueError, match="attribution_path: stored 'all', now None"):
        AttributionStore(tmp_path, replace(SETTINGS, options=options))
    reordered = replace(SETTINGS, options=dict(reversed(SETTINGS.options.items())))
    assert dict(AttributionStore(tmp_path, reordered)) == {"a": make_row("a")}


def test_settings_equal_after_json(tmp_path):
    settings = store_settings(baseline=["pad", "eos"], nested={"1": 2.5, "null": None}, answer_template="π {answer}")
    AttributionStore(tmp_path, settings)
    assert AttributionStore(tmp_path, settings).settings == read_settings(tmp_path) == settings


def test_no_store_to_read_is_an_error_that_says_how_to_make_one(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no attribution store at .*`trl-segment attribute"):
        AttributionStore(tmp_path / "missing")
    assert not (tmp_path / "missing").exists()
    # A folder with something else in it is no store either
    with pytest.raises(FileNotFoundError):
        AttributionStore(tmp_path)


def test_folder_holds_json_and_arrow_alone(tmp_path):
    store = AttributionStore(tmp_path, SETTINGS)
    for key in "abc":
        store.add(make_row(key))
    store.compact()
    part, settings = visible(tmp_path)
    assert (settings.name, part.suffix) == ("settings.json", ".arrow")
    assert json.loads(settings.read_text()) == SETTINGS.to_dict()
    # Any reader of Arrow understands it
    table = pa.ipc.open_file(part).read_all()
    assert table.column("sum_abs").to_pylist() == [[0.30000000000000004, 1e-300]] * 3
    assert sorted(table.column("key").to_pylist()) == ["a", "b", "c"]


@pytest.fixture
def logged():
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("trl_segment.store")
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


def damage(path, where=-40):
    content = bytearray(path.read_bytes())
    content[where] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["bit", "cut", "empty"])
def test_a_damaged_part_is_set_aside(tmp_path, monkeypatch, logged, how):
    monkeypatch.setattr("trl_segment.store.store._LEAST_ROWS", 3)
    store = AttributionStore(tmp_path, SETTINGS)
    for i in range(9):
        store.add(make_row(str(i)))
    store.compact()
    bad = visible(tmp_path)[1]
    size = bad.stat().st_size
    if how == "bit":
        damage(bad, size // 2)
    else:
        os.truncate(bad, size - 1 if how == "cut" else 0)
    reader = AttributionStore(tmp_path)  # a reader leaves it, and does without
    assert len(reader) == 6 and bad.exists()
    (message,) = logged
    assert bad.name in message and "checksum" in message and "left out" in message and str(tmp_path) in message
    writer = AttributionStore(tmp_path, SETTINGS)
    assert dict(writer) == {key: make_row(key) for key in reader}
    assert not bad.exists() and (tmp_path / f"damaged-{bad.name}").exists()
    assert len(logged) == 2 and f"set aside as damaged-{bad.name}" in logged[1]
    for key in set(map(str, range(9))) - set(writer):
        writer.add(make_row(key))
    writer.compact()
    assert bad.exists(), "the same rows give the same file"
    assert dict(AttributionStore(tmp_path)) == {str(i): make_row(str(i)) for i in range(9)} and len(logged) == 2


def test_a_damaged_record_of_a_journal_costs_itself(tmp_path, logged):
    store = AttributionStore(tmp_path, SETTINGS)
    for key in "abcd":
        store.add(make_row(key))
    store.flush()
    (journal,) = tmp_path.glob("journal-*")
    lines = journal.read_bytes().splitlines(keepends=True)
    damage(journal, len(lines[0]) + len(lines[1]) + 30)
    again = AttributionStore(tmp_path, SETTINGS)
    assert set(again) == {"a", "c", "d"}
    assert len(logged) == 1 and "1 of its records cannot be read" in logged[0]
    again.add(make_row("b"))
    again.compact()
    assert dict(AttributionStore(tmp_path)) == {key: make_row(key) for key in "abcd"}
    assert (tmp_path / f"damaged-{journal.name}").exists() and len(logged) == 1


@pytest.mark.parametrize("cut", [1, 40, None])
def test_a_record_that_was_cut_off_costs_itself(tmp_path, logged, cut):
    store = AttributionStore(tmp_path, SETTINGS)
    for key in "abc":
        store.add(make_row(key))
    store.flush()
    (journal,) = tmp_path.glob("journal-*")
    last = journal.read_bytes().splitlines(keepends=True)[-1]
    os.truncate(journal, journal.stat().st_size - (cut or len(last) - 1))
    again = AttributionStore(tmp_path, SETTINGS)
    assert set(again) == {"a", "b"}
    assert len(logged) == 1 and "ends within a record" in logged[0]
    again.add(make_row("c"))
    again.compact()
    assert dict(AttributionStore(tmp_path)) == {key: make_row(key) for key in "abc"}
    assert not list(tmp_path.glob("damaged-*"))


def test_files_of_another_store_are_not_taken_for_ours(tmp_path, logged):
    other = AttributionStore(tmp_path / "other", store_settings(rule="midpoint"))
    for row, compact in ((make_row("a"), True), (make_row("b"), False)):
        other.add(row)
        other.compact() if compact else other.flush()
    store = AttributionStore(tmp_path / "store", SETTINGS)
    for path in visible(tmp_path / "other"):
        if path.name != "settings.json":
            (store.path / path.name).write_bytes(path.read_bytes())
    assert len(AttributionStore(store.path, SETTINGS)) == 0
    assert len(logged) == 2 and all("belongs to other settings" in message for message in logged)


def test_damaged_settings_are_an_error_that_says_so(tmp_path):
    AttributionStore(tmp_path, SETTINGS)
    (tmp_path / "settings.json").write_text('{"rule": ')
    for settings in (SETTINGS, None):
        with pytest.raises(ValueError, match=r"settings.json' is damaged .*Put a copy of it back"):
            AttributionStore(tmp_path, settings)


def test_what_cannot_be_written_is_an_error_and_costs_nothing(tmp_path, monkeypatch):
    """A disk that is full for a while, at every step of a row's way."""
    store = AttributionStore(tmp_path, SETTINGS)

    def no_space(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.rename", no_space)
        with pytest.raises(OSError, match=r"No space left on device. trace a could not be stored; .*safe"):
            store.add(make_row("a"))
    assert len(visible(tmp_path)) == 1 and "a" not in store
    store.add(make_row("a"))

    class Full:
        """A file that takes a few bytes of a write and then none."""

        def __init__(self, file):
            self.file, self.writes = file, 0

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, content):
            self.writes += 1
            return no_space() if self.writes > 1 else self.file.write(content[:50])

    with monkeypatch.context() as patch:
        patch.setattr(store._journal, "_file", Full(store._journal._file))
        with pytest.raises(OSError, match="No space left"):
            store.add(make_row("b"))
    assert dict(AttributionStore(tmp_path)) == {"a": make_row("a")}
    store.add(make_row("b"))
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", no_space)
        with pytest.raises(OSError, match="No space left"):
            store.compact()
    assert len(list(tmp_path.iterdir())) == 3, "settings, journal, locks"
    assert dict(AttributionStore(tmp_path)) == dict(store) == {"a": make_row("a"), "b": make_row("b")}
    store.compact()
    assert dict(AttributionStore(tmp_path)) == {"a": make_row("a"), "b": make_row("b")}


def test_a_journal_that_vanishes_is_noticed(tmp_path):
    store = AttributionStore(tmp_path, SETTINGS)
    store.add(make_row("a"))
    next(tmp_path.glob("journal-*")).unlink()
    with pytest.raises(RuntimeError, match="was removed while this process wrote to it"):
        store.add(make_row("b"))


def test_one_run_at_a_time(tmp_path):
    with exclusive_run(tmp_path):
        for share in (None, (1, 2)):
            message = rf"(?s)Another run is at work on .*process {os.getpid()} on"
            with pytest.raises(RuntimeError, match=message), exclusive_run(tmp_path, share):
                pass
    with exclusive_run(tmp_path, (1, 2)), exclusive_run(tmp_path, (2, 2)):
        for share in (None, (1, 2)):
            with pytest.raises(RuntimeError, match="Another run is at work"), exclusive_run(tmp_path, share):
                pass
    with exclusive_run(tmp_path):
        pass


def test_without_file_locks_nothing_is_moved_and_nothing_lost(tmp_path, monkeypatch):
    def no_locks(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("trl_segment.store.journal.fcntl.flock", no_locks)
    with exclusive_run(tmp_path), exclusive_run(tmp_path):
        for key in "ab":
            store = AttributionStore(tmp_path, SETTINGS)
            store.add(make_row(key))
            store.compact()
    assert len(list(tmp_path.glob("journal-*"))) == 2 and not list(tmp_path.glob("part-*"))
    assert dict(AttributionStore(tmp_path)) == {"a": make_row("a"), "b": make_row("b")}
    monkeypatch.undo()
    store.compact()
    assert len(visible(tmp_path)) == 2 and set(store) == {"a", "b"}


def test_stores_merge(tmp_path):
    stores = [AttributionStore(tmp_path / str(i), SETTINGS) for i in range(2)]
    stores[0].add(make_row("a"))
    stores[0].add(make_row("both", evaluations=1))
    stores[1].add(make_row("both", evaluations=2))
    stores[1].compact()
    stores[1].add(make_row("b"))
    assert stores[0].merge(AttributionStore(tmp_path / "1")) == 1
    assert dict(AttributionStore(tmp_path / "0")) == {
        "a": make_row("a"), "b": make_row("b"), "both": make_row("both", evaluations=1)
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"rule: .*/0 'paper', .*/other 'midpoint'"):
        stores[0].merge(AttributionStore(tmp_path / "other", store_settings(rule="midpoint")))


def test_the_index_is_a_dictionary(monkeypatch):
    monkeypatch.setattr("trl_segment.store.index._MOST_RECENT", 7)
    generator, index, reference = random.Random(0), KeyIndex(), {}
    for step in range(300):
        key, value = f"key {generator.randrange(60)}", generator.randrange(2**60)
        if step % 50 == 0:
            more = {f"key {generator.randrange(60)}": step + i for i in range(5)}
            index.extend(more, more.values())
            reference |= more
        index[key] = value
        reference[key] = value
        assert len(index) == len(reference)
        other = f"key {generator.randrange(60)}"
        assert index.get(other) == reference.get(other) and (other in index) == (other in reference)
    assert sorted(index.sorted_values()) == sorted(reference.values())
    again = KeyIndex(sorted(reference), [reference[key] for key in sorted(reference)])
    assert again.sorted_values().tolist() == index.sorted_values().tolist(), "an order of the keys alone"
    # A digest that ends in zeros, which NumPy strips
    monkeypatch.setattr("trl_segment.store.index.digest_of", lambda key: key.encode().ljust(16, b"\0"))
    index = KeyIndex(["a", "b"], [1, 2])
    assert (index.get("a"), index.get("b"), index.get("c"), index.get("a\0b")) == (1, 2, None, None)
