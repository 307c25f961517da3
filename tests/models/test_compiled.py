"""Compiled layers: the same attributions, one compilation for all lengths, and a way back."""

import functools

import numpy as np
import pytest
import torch
from helpers import make_rows, tiny_model, tiny_tokenizer

from trl_segment import AttributionConfig, AttributionStore, build_trace
from trl_segment.attribution import attribute_traces, attribution_settings
from trl_segment.models.compiled import compiled_layers, should_compile
from trl_segment.models.frozen import decoder_layers


@pytest.fixture
def model():
    return tiny_model(tiny_tokenizer()).eval()


@pytest.fixture
def without_inductor(monkeypatch):
    """Layers are traced and differentiated ahead of time; no C++ compiler is needed."""
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    yield
    torch._dynamo.reset()


def scores(model, folder, **options):
    tokenizer = tiny_tokenizer()
    config = AttributionConfig(attribution_rule="midpoint", attribution_evaluations=4, **options)
    store = AttributionStore(folder, attribution_settings(model, tokenizer, config))
    traces = [(str(i), build_trace(row)) for i, row in enumerate(make_rows(4))]
    summary = attribute_traces(traces, model, tokenizer, config, store, total=4)
    assert summary.attributed == 4
    return np.concatenate([row.sum_signed for row in store.values()])


def test_scores_are_the_same_and_lengths_compile_once(model, tmp_path, without_inductor):
    expected = scores(model, tmp_path / "plain")
    forwards = [layer.__dict__.get("forward") for layer in decoder_layers(model)]
    torch._dynamo.utils.counters.clear()
    assert scores(model, tmp_path / "compiled", attribution_compile=True) == pytest.approx(expected, rel=1e-4)
    # Forward passes with and without gradients; layers and lengths share them
    assert 0 < torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2
    assert [layer.__dict__.get("forward") for layer in decoder_layers(model)] == forwards


def test_a_failed_compilation_falls_back_with_a_line(model, tmp_path, monkeypatch, caplog):
    def broken(graph, inputs):
        raise RuntimeError("no compiler here")

    torch._dynamo.reset()
    expected = scores(model, tmp_path / "plain")
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=broken))
    with caplog.at_level("WARNING"):
        assert scores(model, tmp_path / "broken", attribution_compile=True) == pytest.approx(expected, rel=1e-6)
    (line,) = [record.getMessage() for record in caplog.records if "compiled" in record.getMessage()]
    assert "no compiler here" in line and "run as they are" in line
    torch._dynamo.reset()


def test_errors_of_a_run_are_not_taken_for_those_of_compiling(model):
    with compiled_layers(model) as layers:
        assert not layers.caused(torch.OutOfMemoryError("out of memory"))
        assert not layers.caused(ValueError("a span"))
        assert layers.caused(torch._dynamo.exc.BackendCompilerFailed(lambda: None, RuntimeError("no compiler"), None))
        layers.undo()
        assert not layers.caused(torch._dynamo.exc.Unsupported("later"))


def test_when_to_compile(model, monkeypatch):
    assert not should_compile(model, None, 10_000)  # no accelerator
    assert should_compile(model, True, 1) and not should_compile(model, False, 10_000)
    monkeypatch.setattr("trl_segment.models.compiled.is_sharded", lambda model: True)
    with pytest.raises(ValueError, match="spread over processes"):
        should_compile(model, True, 1)


def test_stores_of_compiled_runs_are_the_same_stores():
    tokenizer = tiny_tokenizer()
    first, second = (
        attribution_settings(tiny_model(tokenizer), tokenizer, AttributionConfig(attribution_compile=compiled))
        for compiled in (True, None)
    )
    assert first.differences(second) == []
