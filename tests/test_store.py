import json
import math

import pyarrow.parquet as pq
import pytest

from trl_segment.attribution import AttributionStore, StoredAttribution


SETTINGS = {"rule": "paper", "evaluations": 50, "path": "all", "segment_pattern": None}


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


def test_rows_are_written_in_time(tmp_path):
    store = AttributionStore(tmp_path, SETTINGS, flush_every=3)
    for i, on_disk in enumerate([0, 0, 3, 3, 3, 6, 6]):
        store.add(make_row(str(i)))
        assert len(AttributionStore(tmp_path)) == on_disk
    store.flush()
    assert len(AttributionStore(tmp_path)) == 7
    files = sorted(tmp_path.iterdir())
    store.flush()
    assert sorted(tmp_path.iterdir()) == files, "nothing new to write"


def test_compact_merges_files_and_keeps_all_rows(tmp_path):
    store = AttributionStore(tmp_path, SETTINGS, flush_every=2)
    for i in range(7):
        store.add(make_row(str(i), evaluations=i))
    store.compact()
    assert len(list(tmp_path.glob("*.parquet"))) == 1
    reopened = AttributionStore(tmp_path, SETTINGS)
    assert {key: row.evaluations for key, row in reopened.items()} == {str(i): i for i in range(7)}
    reopened.add(make_row("7"))
    reopened.compact()
    assert len(list(tmp_path.glob("*.parquet"))) == 1 and len(AttributionStore(tmp_path)) == 8


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


def test_file_that_comes_twice_does_no_harm(tmp_path):
    """What a run killed in `compact` leaves."""
    store = AttributionStore(tmp_path, SETTINGS, flush_every=1)
    store.add(make_row("a"))
    store.add(make_row("b"))
    (tmp_path / "part-merged.parquet").write_bytes(sorted(tmp_path.glob("*.parquet"))[0].read_bytes())
    assert dict(AttributionStore(tmp_path)) == {"a": make_row("a"), "b": make_row("b")}


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
        store = AttributionStore(tmp_path / str(i), SETTINGS, flush_every=1)
        store.add(make_row("a", f_input=-1.0))
        store.add(make_row("a", f_input=-2.0))
        assert AttributionStore(tmp_path / str(i))["a"].f_input == -2.0


def test_other_settings_are_refused_by_name(tmp_path):
    store = AttributionStore(tmp_path, SETTINGS)
    store.add(make_row("a"))
    store.flush()
    with pytest.raises(ValueError, match="made with other settings") as error:
        AttributionStore(tmp_path, {**SETTINGS, "rule": "midpoint", "evaluations": 32})
    message = str(error.value)
    assert "rule: stored 'paper', now 'midpoint'" in message and "evaluations: stored 50, now 32" in message
    assert "path:" not in message and str(tmp_path) in message
    # Missing and new ones count too
    with pytest.raises(ValueError, match="seed: stored None, now 1"):
        AttributionStore(tmp_path, {**SETTINGS, "seed": 1})
    with pytest.raises(ValueError, match="path: stored 'all', now None"):
        AttributionStore(tmp_path, {key: value for key, value in SETTINGS.items() if key != "path"})
    assert dict(AttributionStore(tmp_path, dict(reversed(SETTINGS.items())))) == {"a": make_row("a")}


def test_settings_equal_after_json(tmp_path):
    settings = {"baseline": ("pad", "eos"), "nested": {1: 2}}
    AttributionStore(tmp_path, settings)
    AttributionStore(tmp_path, settings)


def test_no_store_to_read_is_an_error_that_says_how_to_make_one(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no attribution store at .*`trl-segment attribute"):
        AttributionStore(tmp_path / "missing")
    assert not (tmp_path / "missing").exists()
    # A folder with something else in it is no store either
    with pytest.raises(FileNotFoundError):
        AttributionStore(tmp_path)


def test_folder_holds_json_and_parquet_alone(tmp_path):
    store = AttributionStore(tmp_path, SETTINGS, flush_every=1)
    for key in "abc":
        store.add(make_row(key))
    store.compact()
    files = sorted(path.name for path in tmp_path.iterdir())
    assert len(files) == 2 and files[1] == "settings.json" and files[0].endswith(".parquet")
    assert json.loads((tmp_path / "settings.json").read_text()) == SETTINGS
    # Any reader of Parquet understands it
    table = pq.read_table(tmp_path / files[0])
    assert table.column("sum_abs").to_pylist() == [[0.30000000000000004, 1e-300]] * 3
    assert sorted(table.column("key").to_pylist()) == ["a", "b", "c"]


def test_half_written_file_is_not_read(tmp_path, monkeypatch):
    """A write that dies before the rename leaves the store as it was, and nothing behind."""
    store = AttributionStore(tmp_path, SETTINGS)
    store.add(make_row("a"))
    store.flush()
    store.add(make_row("b"))

    def no_space(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr("os.replace", no_space)
    with pytest.raises(OSError, match="No space left"):
        store.flush()
    monkeypatch.undo()
    assert set(AttributionStore(tmp_path)) == {"a"}
    assert len(list(tmp_path.iterdir())) == 2
    store.flush()  # nothing is lost
    assert set(AttributionStore(tmp_path)) == {"a", "b"}
