"""What a store's scores were made with: written, read back, compared; what a `settings.json` from elsewhere may do."""

import dataclasses
import json
import shutil

import pytest
from helpers import REPOSITORY, store_settings

from trl_segment import AttributionStore
from trl_segment.store import (
    CUSTOM_SEGMENTER,
    STORE_VERSION,
    StoredAttribution,
    StoreSettings,
    open_store,
    read_settings,
)
from trl_segment.store.settings import _LATER
from trl_segment.traces import SEGMENTERS, TraceConfig, build_trace


UNKNOWN = {"weights": None, "dtype": None, "adapter": None}
CUSTOM = {"segmenter": CUSTOM_SEGMENTER, "custom_segmenter": "cut", "segmenter_source": "0123456789abcdef"}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        UNKNOWN,
        CUSTOM,
        {"segmenter": "regex", "segment_pattern": r"\n\n(?=Step \d)"},
        {"question_template": 'π 😀\n"{question}"\u2028'},
        {
            "scorer": "mine",
            "baseline": None,
            "decision": {"tau": 0.7, "selection": "attribution"},
            "evaluations": 2**40,
        },
    ],
)
def test_settings_come_back_from_json(tmp_path, changes):
    settings = store_settings(**changes)
    assert StoreSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    AttributionStore(tmp_path, settings)
    assert read_settings(tmp_path) == AttributionStore(tmp_path).settings == settings
    assert settings.differences(read_settings(tmp_path)) == []
    AttributionStore(tmp_path, settings)


def test_marks_of_reasoning_are_settings_and_older_stores_have_none():
    marked = store_settings(reasoning_start="<<plan>>", reasoning_end="<</plan>>")
    assert StoreSettings.from_dict(marked.to_dict()).trace_config().marks == ("<<plan>>", "<</plan>>", False, None)
    assert len(marked.differences(store_settings())) == 2
    older = without("reasoning_start", "reasoning_end", "answer_statements")
    assert StoreSettings.from_dict(older) == store_settings()


def test_settings_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        store_settings().scorer = "other"


# From elsewhere


def changed(**changes):
    return {**store_settings().to_dict(), **changes}


def without(*names):
    return {name: value for name, value in store_settings().to_dict().items() if name not in names}


HOSTILE = [
    ([], "holds a list in place of settings"),
    ("settings", "holds a str in place of settings"),
    (None, "holds a NoneType in place of settings"),
    (2, "holds a int in place of settings"),
    # The form before this one, and what may come
    ({"scores_version": 1, "rule": "simpson"}, "is of version 1 of the stored scores"),
    ({}, "is of version None of the stored scores"),
    (changed(version=STORE_VERSION + 1), rf"is of version {STORE_VERSION + 1} .* reads version {STORE_VERSION}\."),
    (changed(version=str(STORE_VERSION)), f"is of version '{STORE_VERSION}'"),
    (changed(version=[STORE_VERSION]), r"is of version \[2\]"),
    (changed(version=float(STORE_VERSION)), "has a float as version, where a int belongs"),
    (without("weights"), "lacks weights and has the unknown nothing"),
    (without("scorer", "options"), "lacks options, scorer"),
    (changed(seed=1, a="b"), "lacks nothing and has the unknown a, seed"),
    (changed(__class__="x"), "lacks nothing and has the unknown __class__"),
    *((changed(**{name: 7}), f"has a int as {name}, where a str belongs") for name in without("options", "version")),
    *((changed(**{name: ["x"]}), f"has a list as {name}") for name in ("weights", "segmenter", "segment_pattern")),
    *((changed(**{name: None}), f"has a NoneType as {name}") for name in ("model_type", "scorer", "segmenter")),
    (changed(options=None), "has a NoneType as options, where a dict belongs"),
    (changed(options=[["rule", "paper"]]), "has a list as options"),
    (changed(segmenter="sentences"), "names the segmenter 'sentences', which there is not"),
    (changed(segmenter=""), "names the segmenter ''"),
]


@pytest.mark.parametrize(("values", "message"), HOSTILE)
def test_settings_that_are_none_are_refused_by_the_name_of_their_file(tmp_path, values, message):
    with pytest.raises(ValueError, match=message):
        StoreSettings.from_dict(values)
    (tmp_path / "settings.json").write_text(json.dumps(values))
    for opened in (read_settings, AttributionStore, open_store, lambda path: AttributionStore(path, store_settings())):
        with pytest.raises(ValueError, match=rf"{tmp_path}/settings.json' {message}"):
            opened(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["settings.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"version": 2', b"[" * 100_000, b'{"a":' * 100_000])
def test_a_file_that_is_no_json_is_damaged(tmp_path, content):
    (tmp_path / "settings.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"settings.json' is damaged .*Put a copy of it back"):
        read_settings(tmp_path)


def test_an_old_version_says_what_can_be_done(tmp_path):
    (tmp_path / "settings.json").write_text(json.dumps({"scores_version": 1, "rule": "simpson"}))
    with pytest.raises(
        ValueError, match=r"Make the attributions again in another folder, or use the trl-segment that made"
    ):
        AttributionStore(tmp_path)


@pytest.mark.parametrize("name", ["os:system", "evil.py:cut", "trl_segment.cli.main:main", ":"])
def test_a_store_cannot_name_code_to_run(tmp_path, monkeypatch, name):
    """A store from the Hub is data. A segmenter that it named would be called with the text of the reader's rows."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text("open('ran', 'w').close()\ndef cut(text): return [text]\n")
    with pytest.raises(ValueError, match="names the segmenter"):
        StoreSettings.from_dict(changed(segmenter=name))
    # And where it is a custom one, what the store says of it is never looked up
    settings = StoreSettings.from_dict(changed(segmenter=CUSTOM_SEGMENTER, custom_segmenter=name))
    with pytest.raises(ValueError, match="which no store can hold"):
        settings.trace_config()
    assert not (tmp_path / "ran").exists()


# Reading rows as the store's were


@pytest.mark.parametrize("segmenter", SEGMENTERS)
def test_rows_are_read_as_those_of_the_store(segmenter):
    fields = {"segmenter": segmenter, "answer_column": "final", "question_template": "Q: {question}"}
    fields["segment_pattern"] = r"\n\n(?=Step)" if segmenter == "regex" else None
    settings = store_settings(**fields)
    assert settings.trace_config() == settings.trace_config(segmenter) == TraceConfig(**fields)
    with pytest.raises(
        ValueError, match=rf"were cut by '{segmenter}', .*`--segmenter mine.py:cut`. Leave the option out"
    ):
        settings.trace_config("mine.py:cut")


def test_rows_of_a_custom_segmenter_are_read_with_the_function_that_is_passed(tmp_path):
    settings = store_settings(**CUSTOM)
    with pytest.raises(
        ValueError, match=r"cut by a function, 'cut', .* Pass the function .*`--segmenter FILE.py:FUNCTION`"
    ):
        settings.trace_config()
    file = tmp_path / "mine.py"
    file.write_text("def cut(text):\n    return [part for part in text.partition('|') if part]\n")
    config = settings.trace_config(f"{file}:cut")
    trace = build_trace({"prompt": "?", "completion": "<think>a|b</think>", "answer": "b"}, config)
    assert trace.segment_texts == ["a", "|", "b"]


# Comparing


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"model_type": "llama"}, "model_type: stored 'qwen2', now 'llama'"),
        (
            {"weights": "f" * 16},
            f"weights of the attribution model (hash): stored '0123456789abcdef', now '{'f' * 16}'",
        ),
        (
            {"dtype": "bfloat16"},
            "precision of the attribution model's weights (`dtype`): stored 'float32', now 'bfloat16'",
        ),
        ({"autocast": "bf16"}, "mixed precision of the attribution (`bf16`, `fp16`): stored 'no', now 'bf16'"),
        ({"adapter": "a" * 16}, f"adapter of the attribution model (hash): stored 'off', now '{'a' * 16}'"),
        ({"answer_column": "final"}, "answer_column: stored 'answer', now 'final'"),
        ({"segmenter": "paragraphs"}, "segmenter: stored 'keywords', now 'paragraphs'"),
        ({"rule": "midpoint"}, "attribution_rule: stored 'paper', now 'midpoint'"),
        ({"tolerance": 0.01}, "attribution_tolerance: stored None, now 0.01"),
    ],
)
def test_a_difference_is_said_in_a_sentence(changes, difference):
    one, two = store_settings(), store_settings(**changes)
    assert one.differences(two) == [difference]
    assert one.differences(two, "in A", "in B") == [difference.replace("stored", "in A").replace("now", "in B")]
    assert len(two.differences(one)) == 1 and one.differences(one) == two.differences(two) == []


def test_every_field_counts():
    """But for the source of a custom segmenter: where it cuts otherwise, its traces have other keys."""
    values = store_settings(**CUSTOM).to_dict()
    for name, value in values.items():
        other = StoreSettings(**{**values, name: {"rule": "x"} if name == "options" else f"{value}x"})
        assert bool(store_settings(**CUSTOM).differences(other)) == (name != "segmenter_source"), name


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_known_does_not_differ(name):
    known, unknown = store_settings(), store_settings(**{name: None})
    assert known.differences(unknown) == unknown.differences(known) == []
    assert len(known.differences(store_settings(**{name: "other"}))) == 1
    # What is always known does
    assert len(store_settings(segment_pattern="a").differences(store_settings(segment_pattern=None))) == 1


def test_options_are_compared_of_the_same_scorer_only():
    one = store_settings(scorer="integrated_gradients", rule="simpson", tolerance=0.01)
    two = store_settings(scorer="marginal", rule="paper", threshold=1.0)
    assert one.differences(two) == ["attribution_scorer: stored 'integrated_gradients', now 'marginal'"]
    assert len(two.differences(dataclasses.replace(one, scorer="marginal"))) == 3


def test_a_page_is_told_what_there_is():
    shown = store_settings(baseline=None, threshold=0.0).describe()
    assert shown["rule"] == "paper" and shown["weights"] == "0123456789abcdef" and shown["threshold"] == 0.0
    assert not {"options", "baseline", "segment_pattern", "custom_segmenter", "segmenter_source"} & shown.keys()
    assert all(value not in (None, "", {}) for value in shown.values())


# Earlier stores of this version


@pytest.mark.parametrize("folder", ["first", "with_marks"])
def test_stores_that_earlier_code_made_keep_their_rows(folder, tmp_path):
    """Written by commits beed76c and 40a7a94: a part and a journal each. More settings have come since."""
    shutil.copytree(REPOSITORY / "tests" / "store" / "of_version_2" / folder, tmp_path / "store")
    store = AttributionStore(tmp_path / "store")
    assert {key[:2]: row.scores for key, row in store.items()} == {"00": [1.5, 0.0], "11": [0.0, 2.0]}
    # It can be added to, and compacted, by a run whose settings are the same
    store = AttributionStore(tmp_path / "store", store.settings)
    store.add(StoredAttribution(key="22" * 16, name="three", num_tokens=[1, 1], scores=[0.0, 1.0]))
    store.flush()
    store.compact()
    assert len(AttributionStore(tmp_path / "store")) == 3


def test_every_field_that_came_later_is_said_to():
    """A field that stands in neither list takes the rows of every older store away."""
    first = json.loads((REPOSITORY / "tests" / "store" / "of_version_2" / "first" / "settings.json").read_text())
    later = {name for group in _LATER for name in group}
    assert {field.name for field in dataclasses.fields(StoreSettings)} == first.keys() | later
    assert not first.keys() & later


def test_files_of_other_settings_are_still_told_apart():
    hidden, columns = store_settings(answer_statements="hidden"), store_settings(question_column="problem")
    marks = [set(settings.fingerprints()) for settings in (store_settings(), hidden, columns)]
    assert len(marks[0] | marks[1] | marks[2]) == sum(map(len, marks))
