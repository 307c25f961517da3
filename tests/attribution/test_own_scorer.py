"""
Adding a scorer touches one file: this one.

It has a name, an option that changes its scores, something that it learns, and scores of whole segments.
"""

import dataclasses
import json

import numpy as np
import pytest
from helpers import make_rows

from trl_segment import AttributionConfig, AttributionStore, SelectionConfig, attribute_traces, build_trace
from trl_segment.attribution import (
    SCORERS,
    Attribution,
    Scorer,
    attribute_tokens,
    attribution_settings,
    estimate_cost,
    make_scorer,
)
from trl_segment.attribution.plan import plan_attribution
from trl_segment.selection import SegmentScores, select


@pytest.fixture
def defined():
    class ByLength(Scorer):
        name = "by_length"
        summary = "how much longer than the usual segment it is"
        unit = "tokens"
        options = ("threshold",)

        def __init__(self, model, threshold, max_tokens_per_forward=None):
            super().__init__(model, max_tokens_per_forward)
            self.threshold = threshold
            self.usual = None

        @classmethod
        def from_config(cls, model, config, selection=None):
            return cls(model, config.attribution_threshold, config.attribution_max_tokens)

        @property
        def learns_from(self):
            return 2

        def learn(self, sequences, store):
            self.usual = store.read_array("usual")
            if self.usual is None:
                self.usual = np.array([np.mean([end - start for s in sequences for start, end in s.segments])])
                store.write_array("usual", self.usual)

        def attribute(self, input_ids, target, segments):
            lengths = np.array([end - start for start, end in segments])
            scores = np.maximum(lengths / self.usual[0] - self.threshold, 0.0)
            return Attribution(SegmentScores(lengths, scores=scores), f_input=-1.0)

    yield ByLength
    del SCORERS["by_length"]


def config(**options):
    return AttributionConfig(attribution_scorer="by_length", attribution_threshold=0.5, **options)


def traces(count):
    return [(f"row {i}", build_trace(row)) for i, row in enumerate(make_rows(count))]


def attribute(model, tokenizer, folder, count, settings=None):
    settings = settings or config()
    store = AttributionStore(folder, attribution_settings(model, tokenizer, settings))
    return attribute_traces(traces(count), model, tokenizer, settings, store, progress=False), store


def test_it_is_known_by_its_name_from_its_definition_on(defined, model):
    assert SCORERS["by_length"] is defined
    assert isinstance(make_scorer(model, config()), defined)

    class Nameless(defined):
        """A subclass is registered by a name of its own only."""

    assert SCORERS["by_length"] is defined and Nameless not in SCORERS.values()


def test_without_it_the_name_is_refused():
    with pytest.raises(ValueError, match="Unknown attribution scorer 'by_length'"):
        config()


def test_traces_are_attributed_stored_and_selected_with_it(defined, model, tokenizer, tmp_path):
    passes = []
    model.register_forward_pre_hook(lambda module, args: passes.append(1))
    summary, store = attribute(model, tokenizer, tmp_path, 4)
    # One pass for each trace, which is not the scorer's: the answer without the reasoning
    assert (summary.attributed, summary.evaluations, summary.skipped, passes) == (4, 0, {}, [1] * 4)
    # Learnt from the first two, and kept beside the scores
    rows = [store[trace.key] for _, trace in traces(4)]
    usual = np.mean([tokens for row in rows[:2] for tokens in row.num_tokens])
    assert json.loads((tmp_path / "array-usual.json").read_text())["values"] == [usual]
    for row in AttributionStore(tmp_path).values():
        assert row.scores == [max(tokens / usual - 0.5, 0.0) for tokens in row.num_tokens]
        assert (row.sum_abs, row.sum_signed, row.f_input) == (None, None, -1.0) and row.f_baseline < 0
        assert (row.completeness_gap, row.defect, row.stopped_by) == (None, None, None)
        thresholds = SelectionConfig(selection="threshold", min_strength=0.6, keep_first=0, keep_last=0)
        kept = select(row.segment_scores, thresholds, row.key).kept
        assert kept.tolist() == [score >= 0.6 for score in row.scores] and 0 < kept.sum() < len(kept)
    # What was learnt is not learnt again from other traces
    again, _ = attribute(model, tokenizer, tmp_path, 6)
    assert (again.reused, again.attributed) == (4, 2)
    assert json.loads((tmp_path / "array-usual.json").read_text())["values"] == [usual]


def test_its_options_and_no_others_keep_runs_apart(defined, model, tokenizer, tmp_path):
    attribute(model, tokenizer, tmp_path, 2)
    settings = AttributionStore(tmp_path).settings
    assert (settings.scorer, settings.options) == ("by_length", {"threshold": 0.5})
    attribute(model, tokenizer, tmp_path, 2, dataclasses.replace(config(), attribution_rule="paper"))
    with pytest.raises(ValueError, match=r"attribution_threshold: stored 0\.5, now 0\.7"):
        attribute(model, tokenizer, tmp_path, 2, dataclasses.replace(config(), attribution_threshold=0.7))
    with pytest.raises(ValueError, match="attribution_scorer: stored 'by_length', now 'integrated_gradients'"):
        attribute(model, tokenizer, tmp_path, 2, AttributionConfig())


def test_plans_and_views_know_it(defined, model, tokenizer, tmp_path):
    pytest.importorskip("rich")
    from rich.console import Console

    from trl_segment.report.terminal import render_trace

    _, store = attribute(model, tokenizer, tmp_path, 3)
    plan = plan_attribution(traces(4), model.config, tokenizer, config(), store)
    assert (plan.reused, len(plan.tokens), plan.differences, plan.most_evaluations) == (3, 1, [], None)
    name, trace = traces(1)[0]
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render_trace(name, trace, store[trace.key], SelectionConfig()))
    assert "completeness" not in console.export_text()
    with pytest.raises(ValueError, match="'by_length' scores segments as a whole"):
        attribute_tokens(trace, model, tokenizer, config(), store)
    assert estimate_cost(model.config, plan.tokens, evaluations=1).traces == 1
