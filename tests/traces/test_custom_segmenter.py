"""Segmenters of the user's own, passed as functions or by the name of one."""

import functools
import json
import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_segment.traces import TraceConfig, build_trace, describe_segmenter, load_segmenter, segment_text


SOURCE = """\
import re

LOADED = []


def cut(text):
    LOADED.append(text)
    return [piece for piece in re.split(r"(?=;)", text) if piece]


class Cutter:
    def __call__(self, text):
        return [text]

    def method(self, text):
        return list(text)


cutter = Cutter()
number = 7
"""


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "cutting_for_tests.py"
    file.write_text(SOURCE)
    yield file
    sys.modules.pop(file.stem, None)


def test_a_function_is_loaded_from_a_file(file, monkeypatch):
    assert segment_text("a;b;c", f"{file}:cut") == [(0, 1), (1, 3), (3, 5)]
    assert segment_text("", f"{file}:cut") == []
    assert load_segmenter(f"{file}:cutter")("ab") == ["ab"]
    monkeypatch.chdir(file.parent)
    assert load_segmenter(f"{file.name}:cut")("a;b") == load_segmenter(f"./{file.name}:cut")("a;b") == ["a", ";b"]
    # A name goes wherever a segmenter does
    config = TraceConfig(segmenter=f"{file}:cut")
    trace = build_trace({"prompt": "?", "completion": "<think>a;b</think>c", "answer": "c"}, config)
    assert trace.segment_texts == ["a", ";b"]
    json.dumps(vars(config))


def test_a_function_is_loaded_from_a_module(file, monkeypatch):
    monkeypatch.syspath_prepend(file.parent)
    assert segment_text("a;b", "cutting_for_tests:cut") == [(0, 1), (1, 3)]
    assert load_segmenter("os.path:basename") is os.path.basename


def test_a_file_runs_once_and_again_when_it_has_changed(file):
    for _ in range(3):
        segment_text("a", f"{file}:cut")
    assert load_segmenter(f"{file}:cut").__globals__["LOADED"] == ["a"] * 3
    file.write_text(SOURCE.replace("(?=;)", "(?=,)"))
    os.utime(file, ns=(1, 1))
    assert segment_text("a;b,c", f"{file}:cut") == [(0, 3), (3, 5)]


def test_a_file_does_not_take_a_modules_place(tmp_path):
    (tmp_path / "json.py").write_text("def cut(text): return [text]\n")
    assert segment_text("ab", f"{tmp_path}/json.py:cut") == [(0, 2)]
    assert sys.modules["json"] is json


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{file}:missing", r"cannot be loaded \(AttributeError"),
        ("{file}:", r"cannot be loaded \(AttributeError"),
        ("{folder}/missing.py:cut", r"cannot be loaded \(FileNotFoundError"),
        ("{folder}:cut", "cannot be loaded"),
        ("no_such_module_anywhere:cut", r"cannot be loaded \(ModuleNotFoundError"),
        (":cut", r"cannot be loaded \(ValueError"),
        (":", "cannot be loaded"),
        ("{file}:number", "is a int, not a function"),
    ],
)
def test_what_cannot_be_loaded_is_refused_with_the_forms_that_can(file, name, message):
    name = name.format(file=file, folder=file.parent)
    for load in (load_segmenter, functools.partial(segment_text, "a"), describe_segmenter):
        with pytest.raises(ValueError, match=message) as error:
            load(name)
        assert name in str(error.value)
    if "cannot be loaded" in message:
        assert "'FILE.py:FUNCTION' or 'MODULE:FUNCTION'" in str(error.value)


def test_an_error_of_the_users_own_code_is_the_users_to_see(tmp_path):
    (tmp_path / "broken.py").write_text("def cut(text):\n    return 1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        segment_text("a", f"{tmp_path}/broken.py:cut")
    (tmp_path / "torn.py").write_text("def cut(text:\n")
    with pytest.raises(SyntaxError):
        segment_text("a", f"{tmp_path}/torn.py:cut")


def test_pieces_that_lose_text_are_refused_by_the_functions_name(file):
    for segmenter in (lambda text: [text[:-1]], lambda text: [text, "x"], lambda text: [1]):
        with pytest.raises(ValueError, match=r"'<lambda>' returned [12] pieces"):
            segment_text("abc", segmenter)


def test_a_name_and_a_pattern_do_not_go_together(file):
    with pytest.raises(ValueError, match="only read by the segmenter 'regex'"):
        TraceConfig(segmenter=f"{file}:cut", segment_pattern="a")


@given(text=st.text(max_size=40), cuts=st.lists(st.integers(0, 40)))
def test_whatever_pieces_join_to_the_text_cover_it(text, cuts):
    bounds = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[a:b] for a, b in zip(bounds, [*bounds[1:], len(text)], strict=True)]
    spans = segment_text(text, lambda _: pieces)
    assert "".join(text[a:b] for a, b in spans) == text
    assert all(a < b for a, b in spans)


# What tells them apart


def local(text):
    return [text]


@functools.wraps(local)
def wrapped(text):
    return local(text)


def test_a_segmenter_is_told_apart_by_its_name_and_its_modules_source(file):
    name, source = describe_segmenter(f"{file}:cut")
    assert name == "cut" and len(source) == 16 and int(source, 16)
    assert describe_segmenter(load_segmenter(f"{file}:cut")) == (name, source)
    assert describe_segmenter(f"{file}:cutter") == ("Cutter", source)
    assert describe_segmenter(load_segmenter(f"{file}:cutter").method) == ("Cutter.method", source)
    # A change anywhere in the module counts, since the function may call what changed
    file.write_text(SOURCE.replace("number = 7", "number = 8"))
    os.utime(file, ns=(2, 2))
    other = describe_segmenter(f"{file}:cut")
    assert other[0] == name and other[1] != source


def test_functions_of_all_kinds_are_described():
    name, source = describe_segmenter(local)
    assert name == "local" and source is not None
    assert describe_segmenter(wrapped) == describe_segmenter(functools.partial(local)) == (name, source)
    assert describe_segmenter(lambda text: [text])[0].endswith("<lambda>")
    # Where there is no source to read there is a name
    assert describe_segmenter(str.splitlines) == ("str.splitlines", None)
    typed = {}
    exec("def typed_in(text): return [text]", typed)
    assert describe_segmenter(typed["typed_in"]) == ("typed_in", None)
