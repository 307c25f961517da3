import copy
import logging
import warnings

import numpy as np
import pytest
import torch
from helpers import make_rows, store_settings, tiny_model, tiny_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.normalizers import Lowercase

from trl_segment.attribution import (
    AttributionConfig,
    AttributionSummary,
    IntegratedGradients,
    attribute_traces,
    attribution_settings,
)
from trl_segment.attribution.plan import plan_attribution
from trl_segment.attribution.sharing import deal_by_length
from trl_segment.models import Passes, weights_fingerprint
from trl_segment.store import AttributionStore
from trl_segment.traces import TraceConfig, attributed_sequence, build_trace


CONFIG = AttributionConfig(attribution_rule="midpoint", attribution_evaluations=4)


def named(rows, **kwargs):
    return [(f"row {i}", build_trace(row, **kwargs)) for i, row in enumerate(rows)]


def run(traces, model, tokenizer, path, config=CONFIG, **options):
    store = AttributionStore(path, attribution_settings(model, tokenizer, config, **options))
    return attribute_traces(traces, model, tokenizer, config, store, progress=False), store


@pytest.fixture
def logged():
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("trl_segment.attribution.runner")
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


def text_row(completion, prompt="1 + 1?", **row):
    return {"prompt": prompt, "completion": completion, **row}


def test_stored_numbers_are_those_of_the_engine(tmp_path, model, tokenizer, rows, logged):
    traces = named(rows)
    summary, _ = run(traces, model, tokenizer, tmp_path)
    assert (summary.traces, summary.attributed, summary.reused, summary.repeated) == (6, 6, 0, 0)
    assert summary.evaluations == 6 * 4 and summary.skipped == {}
    # Four nodes are too few, and random weights do not read
    unsettled, unread = logged
    assert "6 of 6 traces (100%) are not settled" in unsettled
    gains = [row.f_input - row.f_baseline for row in AttributionStore(tmp_path).values()]
    few = sum(gain < 0.5 for gain in gains)
    assert few and f"by less than 0.5 nats in {few} of 6 traces" in unread

    stored = AttributionStore(tmp_path)
    assert len(stored) == 6
    engine = IntegratedGradients(model, "midpoint", 4)
    for name, trace in traces:
        sequence = attributed_sequence(trace, tokenizer)
        result = engine.attribute(sequence.input_ids, sequence.target, sequence.segments)
        row = stored[trace.key]
        assert (row.name, row.problem, row.evaluations, row.stopped_by) == (name, None, 4, "nodes")
        assert row.sequence_tokens == len(sequence.input_ids)
        assert len(row.num_tokens) == len(trace.segments)
        for i, (a, b) in enumerate(sequence.segments):
            assert row.num_tokens[i] == b - a
            assert row.sum_abs[i] == pytest.approx(np.abs(result.tokens[a:b]).sum(), rel=1e-12)
            assert row.sum_signed[i] == pytest.approx(result.tokens[a:b].sum(), rel=1e-9, abs=1e-12)
        assert row.f_input == result.f_input and row.f_baseline == result.f_baseline
        assert row.completeness_gap == result.completeness_gap


def test_second_run_evaluates_nothing(tmp_path, model, tokenizer, rows):
    _, store = run(named(rows[:4]), model, tokenizer, tmp_path)
    passes = []
    model.register_forward_pre_hook(lambda module, args: passes.append(1))
    second, _ = run(named(rows[:4]), model, tokenizer, tmp_path)
    assert (second.traces, second.attributed, second.reused, second.evaluations) == (4, 0, 4, 0)
    assert passes == []
    # Other rows are added to them
    third, _ = run(named(rows), model, tokenizer, tmp_path)
    assert (third.attributed, third.reused, third.evaluations) == (2, 4, 8)
    assert passes
    assert set(store) < set(AttributionStore(tmp_path)) == {trace.key for _, trace in named(rows)}


def test_repeats_are_attributed_once(tmp_path, model, tokenizer, rows, logged):
    tail = {**rows[0], "solution": rows[0]["solution"] + " (after the reasoning)"}
    other = {**rows[0], "answer": "5"}
    summary, store = run(named([rows[0], rows[1], rows[0], tail, other]), model, tokenizer, tmp_path)
    assert (summary.traces, summary.attributed, summary.reused, summary.repeated) == (5, 3, 0, 2)
    assert summary.evaluations == 12 and len(store) == 3
    unsettled, _, repeated = logged
    assert "3 of 3 traces (100%) are not settled" in unsettled
    assert repeated == "2 of 5 traces repeat an earlier one and share its scores."
    summary, _ = run(named([rows[0], rows[0]]), model, tokenizer, tmp_path)
    assert (summary.attributed, summary.reused, summary.repeated) == (0, 1, 1)


def test_what_rows_do_not_say_is_counted_and_named(tmp_path, model, tokenizer, logged):
    traces = named(
        [
            text_row("<think>One.\n\nWait, two.</think>\\boxed{2}"),
            text_row("One.\n\nWait, two.\n\nIt is \\boxed{2}."),
            text_row("<think>One.\n\nWait, three.</think>2", answer="We add.\n#### 2"),
        ]
    )
    summary, _ = run(traces, model, tokenizer, tmp_path)
    assert (summary.attributed, summary.notes) == (3, {traces[1][1].note: ["row 1"], traces[2][1].note: ["row 2"]})
    (message,) = [message for message in logged if "do not say" in message]
    assert message.startswith("2 of 3 traces do not say where their reasoning or their answer stands:\n")
    assert "\n  1 x no marks of reasoning such as <think>, so everything in front of the paragraph" in message
    plan = plan_attribution(traces, model.config, tokenizer, AttributionConfig())
    assert plan.notes == summary.notes


def test_traces_that_cannot_be_attributed_are_counted_and_named(tmp_path, model, tokenizer, logged):
    traces = named(
        [
            text_row("<think>One.\n\nWait, two.</think>\\boxed{2}"),
            text_row("<think> </think>\\boxed{2}"),
            text_row("<think>One.\n\nWait, two.</think>2"),
            text_row("<think>One segment.</think>\\boxed{2}"),
            text_row("<think>One.\n\nWait, two.</think>2", answer=" "),
            text_row("<think>\n</think>\\boxed{3}"),
            {"messages": [{"role": "user", "content": "1 + 1?"}]},
        ]
    )
    summary, _ = run(traces, model, tokenizer, tmp_path)
    no_answer = traces[2][1].problem
    assert summary.skipped == {
        "no reasoning": ["row 1", "row 5"],
        no_answer: ["row 2"],
        "one segment only, nothing to select": ["row 3"],
        "the answer is empty": ["row 4"],
        "the last message is not the assistant's": ["row 6"],
    }
    assert (summary.traces, summary.attributed, summary.evaluations) == (7, 1, 4)
    (message,) = [message for message in logged if "cannot be attributed" in message]
    assert message.startswith("6 of 7 traces cannot be attributed and will be trained in full:\n")
    assert "\n  2 x no reasoning: row 1, row 5\n" in message and "1 x one segment only" in message

    # They are remembered, and reported again
    stored = AttributionStore(tmp_path)
    assert len(stored) == 7
    assert stored[traces[3][1].key].problem.startswith("one segment") and stored[traces[3][1].key].sum_abs is None
    again, _ = run(traces, model, tokenizer, tmp_path)
    assert again.skipped == summary.skipped and again.evaluations == 0 and again.reused == 7
    assert [line for line in logged if "cannot be attributed" in line] == [message] * 2


def test_description_shortens_long_lists():
    summary = AttributionSummary(skipped={"no answer": [f"r{i}" for i in range(7)], "other": ["a"]})
    assert summary.describe_skipped() == "  7 x no answer: r0, r1, r2, r3, r4, ...\n  1 x other: a"
    assert summary.describe_skipped(most=7).startswith("  7 x no answer: r0, r1, r2, r3, r4, r5, r6\n")
    assert AttributionSummary().describe_skipped() == ""


def test_broken_model_is_reported(tmp_path, model, tokenizer, rows):
    with torch.no_grad():
        model.model.layers[1].self_attn.o_proj.weight.fill_(float("nan"))
    summary, store = run(named(rows[:2]), model, tokenizer, tmp_path)
    assert summary.skipped == {"the attributions are not finite (NaN or infinite)": ["row 0", "row 1"]}
    assert summary.attributed == 0
    assert all(row.sum_abs is None and row.f_input is None for row in store.values())


def test_too_long_for_the_model_is_reported_with_its_length(tmp_path, tokenizer, rows):
    traces = named(rows)
    lengths = [len(attributed_sequence(trace, tokenizer).input_ids) for _, trace in traces]
    limit = sorted(lengths)[2]
    model = tiny_model(tokenizer, max_position_embeddings=limit)
    summary, _ = run(traces, model, tokenizer, tmp_path)
    longer = [f"row {i}" for i, length in enumerate(lengths) if length > limit]
    assert len(longer) >= 1
    assert summary.skipped == {f"longer than the attribution model's {limit:,} positions": longer}
    assert summary.attributed == 6 - len(longer)


def test_answer_outside_the_vocabulary_is_reported(tmp_path, model, tokenizer, rows):
    tokenizer.unk_token = "7"  # as if the vocabulary had no 7
    traces = named([{**rows[0], "answer": "17"}, {**rows[1], "answer": "3"}])
    summary, _ = run(traces, model, tokenizer, tmp_path)
    assert summary.skipped == {"the answer has a token that is not in the vocabulary": ["row 0"]}
    assert summary.attributed == 1


def test_what_was_done_is_kept_when_a_run_breaks_off(tmp_path, model, tokenizer, rows):
    traces = named(rows)

    def interrupted():
        yield from traces[:3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(interrupted(), model, tokenizer, tmp_path)
    assert set(AttributionStore(tmp_path)) == {trace.key for _, trace in traces[:3]}
    summary, _ = run(traces, model, tokenizer, tmp_path)
    assert (summary.reused, summary.attributed) == (3, 3)


def test_settings_reach_the_engine(tmp_path, model, tokenizer, rows):
    """Each setting, against the engine set by hand."""
    config = AttributionConfig(
        attribution_rule="gauss_legendre",
        attribution_evaluations=3,
        attribution_path="reasoning",
        attribution_baseline="eos",
        attribution_max_tokens=1,
        answer_template="\nAnswer: {answer}",
    )
    _, store = run(named(rows[:1]), model, tokenizer, tmp_path, config)
    (trace,) = [trace for _, trace in named(rows[:1])]
    sequence = attributed_sequence(trace, tokenizer, "\nAnswer: {answer}")
    engine = IntegratedGradients(model, "gauss_legendre", 3, path="reasoning", baseline="eos")
    result = engine.attribute(sequence.input_ids, sequence.target, sequence.segments)
    np.testing.assert_allclose(store[trace.key].sum_abs, result.segments.sum_abs, rtol=1e-5)
    assert store[trace.key].f_input == pytest.approx(result.f_input)
    assert store[trace.key].f_baseline == pytest.approx(result.f_baseline)


@pytest.mark.parametrize(("baseline", "token"), [("pad", "pad_token_id"), ("eos", "eos_token_id"), ("mean", None)])
def test_hidden_statements_are_no_evidence(tmp_path, model, tokenizer, baseline, token):
    """Their tokens do not move with a baseline that is a token, and the model reads what was put there by hand."""
    row = text_row("<think>\nIt is 2.\n\nWait, so 2.\n\nHowever, 1 and 1 it is.\n</think>\n\n2", answer="2")
    config = AttributionConfig(**{**vars(CONFIG), "answer_statements": "hidden", "attribution_baseline": baseline})
    traces = named([row])
    summary, store = run(traces, model, tokenizer, tmp_path, config)
    assert (summary.attributed, summary.hidden) == (1, 1)
    trace = traces[0][1]
    sequence = attributed_sequence(trace, tokenizer)
    two = [i for i, t in enumerate(sequence.input_ids) if "2" in tokenizer.decode(t) and i < sequence.segments[-1][1]]
    assert len(two) == 2
    ids = sequence.input_ids.copy()
    ids[two] = getattr(tokenizer, token or "pad_token_id")
    engine = IntegratedGradients(model, "midpoint", 4, baseline=baseline)
    result = engine.attribute(ids, sequence.target, sequence.segments)
    assert store[trace.key].f_input == pytest.approx(result.f_input)
    np.testing.assert_allclose(store[trace.key].sum_abs, result.segments.sum_abs, rtol=1e-5)
    assert (result.tokens[two] == 0).all() == (token is not None)


def test_a_scorer_reads_the_texts_of_the_segments(tmp_path, model, tokenizer):
    row = text_row("<think>\nIt is 2.\n\nWait, so 2.\n\nHowever, 1 and 1.\n</think>\n\n2", answer="2")
    config = AttributionConfig(attribution_scorer="verification_opener")
    _, store = run(named([row]), model, tokenizer, tmp_path, config)
    assert store[named([row])[0][1].key].scores == [1.0, 0.0, 1.0]


@pytest.mark.parametrize("scorer", ["marginal", "perplexity", "random"])
def test_a_scorer_without_a_baseline_says_what_the_answer_is_without_reasoning(
    tmp_path, model, tokenizer, rows, scorer, logged
):
    config = AttributionConfig(attribution_scorer=scorer)
    (named_trace,) = named(rows[:1])
    summary, store = run([named_trace], model, tokenizer, tmp_path, config)
    sequence = attributed_sequence(named_trace[1], tokenizer)
    first, last = sequence.segments[0][0], sequence.segments[-1][1]
    text = [*sequence.input_ids[:first], *sequence.input_ids[last:]]
    with torch.no_grad():
        log_probs = model(torch.tensor([text])).logits[0].log_softmax(-1)
    size = sequence.target[1] - sequence.target[0]
    expected = sum(log_probs[i - 1, text[i]].item() for i in range(len(text) - size, len(text)))
    row = store[named_trace[1].key]
    assert row.f_baseline == pytest.approx(expected, abs=1e-4) and row.completeness_gap is None
    assert row.gain == row.f_input - row.f_baseline
    # Random weights do not read
    assert summary.reliability.unread == ["row 0"] or row.gain >= 0.5
    assert any("The reasoning raises" in line for line in logged) == (row.gain < 0.5)


def test_hiding_needs_a_token(tmp_path, tokenizer, rows):
    model = tiny_model(tokenizer, pad_token_id=None, eos_token_id=None)
    config = AttributionConfig(attribution_scorer="marginal", answer_statements="hidden")
    with pytest.raises(ValueError, match="names neither a pad nor an eos token"):
        run(named(rows[:1]), model, tokenizer, tmp_path, config)


def changed(one, two):
    """Names of the fields and options in which two settings are not the same."""
    one, two = ({**settings.to_dict(), **settings.options} for settings in (one, two))
    return {name for name in one.keys() | two.keys() if one.get(name) != two.get(name)} - {"options"}


def test_every_setting_that_changes_scores_is_in_the_settings(model, tokenizer):
    base = attribution_settings(model, tokenizer, CONFIG)
    assert base == attribution_settings(copy.deepcopy(model), tiny_tokenizer(), CONFIG)
    assert base == attribution_settings(model, tokenizer, AttributionConfig(**vars(CONFIG)))
    changes = {
        "segmenter": {"segmenter": "paragraphs"},
        "segment_pattern": {"segmenter": "regex", "segment_pattern": "a"},
        "rule": {"attribution_rule": "trapezoid"},
        "evaluations": {"attribution_evaluations": 5},
        "path": {"attribution_path": "all"},
        "baseline": {"attribution_baseline": "zero"},
        "answer_template": {"answer_template": "{answer}"},
        "answer_statements": {"answer_statements": "hidden"},
    }
    for key, change in changes.items():
        other = attribution_settings(model, tokenizer, AttributionConfig(**{**vars(CONFIG), **change}))
        assert key in changed(base, other) <= {key, "segmenter", "baseline_token"}
    other = attribution_settings(model, tokenizer, CONFIG, autocast="bf16")
    assert changed(base, other) == {"autocast"}
    # The budget of a pass changes nothing
    assert (
        attribution_settings(model, tokenizer, AttributionConfig(**{**vars(CONFIG), "attribution_max_tokens": 1}))
        == base
    )


def test_model_and_tokenizer_are_in_the_settings(model, tokenizer):
    base = attribution_settings(model, tokenizer, CONFIG)
    other = attribution_settings(tiny_model(tokenizer, seed=1), tokenizer, CONFIG)
    assert changed(base, other) == {"weights"}
    other = copy.deepcopy(model)
    other.config.rope_parameters["rope_theta"] *= 2
    other.config.use_cache = not other.config.use_cache
    other = attribution_settings(other, tokenizer, CONFIG)
    assert changed(base, other) == {"config"}
    other = attribution_settings(copy.deepcopy(model).bfloat16(), tokenizer, CONFIG)
    assert other.dtype == "bfloat16" and base.dtype == "float32"
    tokenizer.chat_template += " "
    assert changed(base, attribution_settings(model, tokenizer, CONFIG)) == {"chat_template"}
    tokenizer = tiny_tokenizer()
    tokenizer(["a", "a b"], padding=True, truncation=True, max_length=3)
    assert attribution_settings(model, tokenizer, CONFIG) == base
    tokenizer.add_tokens(["<more>"])
    assert changed(base, attribution_settings(model, tokenizer, CONFIG)) == {"tokenizer"}
    # The same vocabulary, split otherwise
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.normalizer = Lowercase()
    assert changed(base, attribution_settings(model, tokenizer, CONFIG)) == {"tokenizer"}


def test_other_settings_do_not_mix(tmp_path, model, tokenizer, rows):
    run(named(rows[:1]), model, tokenizer, tmp_path)
    config = AttributionConfig(**{**vars(CONFIG), "attribution_evaluations": 5})
    with pytest.raises(ValueError, match="attribution_evaluations: stored 4, now 5"):
        run(named(rows[:1]), model, tokenizer, tmp_path, config)
    with pytest.raises(ValueError, match=r"weights of the attribution model \(hash\): stored"):
        run(named(rows[:1]), tiny_model(tokenizer, seed=1), tokenizer, tmp_path)


def test_fingerprint_changes_with_every_parameter(model):
    base = weights_fingerprint(model)
    assert base == weights_fingerprint(copy.deepcopy(model)) == weights_fingerprint(copy.deepcopy(model).train())
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            saved = parameter.clone()
            parameter += 1e-3
            assert weights_fingerprint(model) != base, name
            parameter.copy_(saved)
    assert weights_fingerprint(model) == base


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"modules_to_save": ["embed_tokens"]},
        {"trainable_token_indices": [7, 8]},
        {"use_dora": True},
    ],
    ids=["linear", "saved-head", "lora-embedding", "saved-embedding", "trainable-tokens", "dora"],
)
def test_fingerprint_of_a_lora_model_is_that_of_its_base(model, kwargs):
    from peft import LoraConfig, get_peft_model

    base = weights_fingerprint(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft_model = get_peft_model(model, LoraConfig(**{"r": 2, "target_modules": ["q_proj", "down_proj"], **kwargs}))
    assert weights_fingerprint(peft_model) == base
    # What is trained does not count
    with torch.no_grad():
        for parameter in peft_model.parameters():
            if parameter.requires_grad:
                parameter += 0.5
    assert weights_fingerprint(peft_model) == base
    with torch.no_grad():
        peft_model.get_base_model().model.norm.weight += 0.5
    assert weights_fingerprint(peft_model) != base


def test_lora_model_with_its_adapter_off_reuses_the_store_of_its_base(tmp_path, model, tokenizer, rows):
    from peft import LoraConfig, get_peft_model

    base = copy.deepcopy(model)
    run(named(rows[:2]), base, tokenizer, tmp_path / "base")
    peft_model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    with peft_model.disable_adapter():
        summary, _ = run(named(rows[:2]), peft_model, tokenizer, tmp_path / "base", adapter=False)
        assert (summary.reused, summary.evaluations) == (2, 0)
        _, store = run(named(rows[:2]), peft_model, tokenizer, tmp_path / "own", adapter=False)
    for key, row in AttributionStore(tmp_path / "base").items():
        np.testing.assert_allclose(store[key].sum_abs, row.sum_abs, rtol=1e-5)
    # With the adapter on the model is another one
    with pytest.raises(
        ValueError, match=r"adapter of the attribution model \(hash\): stored 'off', now '[0-9a-f]{16}'"
    ):
        run(named(rows[:2]), peft_model, tokenizer, tmp_path / "base")


def test_other_segments_are_other_traces(tmp_path, model, tokenizer, rows):
    store = AttributionStore(tmp_path, store_settings())
    attribute_traces(named(rows[:1]), model, tokenizer, CONFIG, store, progress=False)
    paragraphs = named(rows[:1], config=TraceConfig("paragraphs"))
    summary = attribute_traces(paragraphs, model, tokenizer, CONFIG, store, progress=False)
    assert summary.attributed == 1 and len(store) == 2


def test_a_trace_that_does_not_fit_is_named_with_what_it_needs(tmp_path, model, tokenizer, rows, monkeypatch):
    traces = named(rows[:3])
    fits = len(attributed_sequence(traces[0][1], tokenizer).input_ids)
    gradients = Passes.gradients

    def gradients_if_they_fit(self, *args):
        if len(self.ids) > fits:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        return gradients(self, *args)

    monkeypatch.setattr(Passes, "gradients", gradients_if_they_fit)
    with pytest.raises(MemoryError, match=r"row 1: A sequence of \d+ tokens .* it needs 0\.\d GiB of activations"):
        run(traces, model, tokenizer, tmp_path)
    assert list(AttributionStore(tmp_path)) == [traces[0][1].key], "what was attributed before is kept"


def test_no_traces(tmp_path, model, tokenizer, logged):
    summary, store = run([], model, tokenizer, tmp_path)
    assert summary == AttributionSummary() and len(store) == 0 and logged == []


def test_many_rows_are_all_stored(tmp_path, model, tokenizer):
    config = AttributionConfig(attribution_rule="midpoint", attribution_evaluations=1)
    traces = named(make_rows(40))
    summary, _ = run(traces, model, tokenizer, tmp_path, config)
    assert summary.attributed == 40
    assert set(AttributionStore(tmp_path)) == {trace.key for _, trace in traces}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"attribution_rule": "left"}, "Unknown quadrature rule 'left'"),
        ({"attribution_rule": "paper", "attribution_evaluations": 1}, "'paper' needs at least 2"),
        ({"attribution_path": "x"}, "Unknown attribution path 'x'. Pass one of 'all', 'reasoning'"),
        ({"attribution_baseline": "bos"}, "Unknown attribution baseline 'bos'. Pass one of 'pad', 'eos'"),
        ({"attribution_baseline": "-1"}, "Unknown attribution baseline '-1'"),
        ({"answer_statements": "none"}, "Unknown `answer_statements` 'none'"),
        ({"answer_template": "So: "}, "must hold {answer} exactly once"),
        ({"answer_template": "{answer}{answer}"}, "must hold {answer} exactly once"),
        ({"attribution_max_tokens": 0}, "`attribution_max_tokens` must be at least 1, but 0"),
        ({"segmenter": "x"}, "Unknown segmenter 'x'"),
        ({"question_template": "x"}, "has no {question}"),
    ],
)
def test_config_refuses_what_cannot_work(values, message):
    with pytest.raises(ValueError, match=message):
        AttributionConfig(**values)


def test_defaults_and_the_published_procedure_under_one_name():
    config = AttributionConfig()
    assert (config.attribution_scorer, config.attribution_rule) == ("integrated_gradients", "hybrid")
    assert (config.attribution_path, config.attribution_baseline, config.segmenter) == ("reasoning", "pad", "keywords")
    paper = AttributionConfig(attribution_preset="paper")
    assert (paper.attribution_rule, paper.attribution_evaluations) == ("paper", 50)
    assert (paper.attribution_path, paper.attribution_baseline) == ("all", "pad")
    # What the preset says may be said again, and nothing else
    assert AttributionConfig(attribution_preset="paper", attribution_path="all") == paper
    with pytest.raises(ValueError, match="sets `attribution_rule` to 'paper', but 'midpoint' was passed"):
        AttributionConfig(attribution_preset="paper", attribution_rule="midpoint")
    with pytest.raises(ValueError, match="Unknown preset 'papers'"):
        AttributionConfig(attribution_preset="papers")
    assert config.answer_template.replace("{answer}", "7") == "</think> So, the final answer is \\boxed{7}"


@given(lengths=st.lists(st.integers(0, 20000), max_size=60), hands=st.integers(1, 9))
def test_dealing_by_length_loses_nothing_and_is_even(lengths, hands):
    dealt = deal_by_length(lengths, hands)
    assert len(dealt) == hands
    assert sorted(np.concatenate(dealt).tolist()) == list(range(len(lengths)))
    sums = [sum(lengths[index] for index in hand) for hand in dealt]
    # Whoever has most took the last of it when nobody had less
    assert max(sums) - min(sums) <= max(lengths, default=0)
    for hand in dealt:
        own = [lengths[index] for index in hand]
        assert own == sorted(own, reverse=True)


def test_dealing_by_hand():
    assert [hand.tolist() for hand in deal_by_length([3, 9, 4, 5, 5], 2)] == [[1, 2], [3, 4, 0]]


def test_lengths_of_real_traces_are_dealt_evenly():
    """As long as the traces are many times the processes, a few of them may be very long."""
    lengths = np.random.default_rng(0).lognormal(8.3, 0.9, size=817)
    sums = [lengths[hand].sum() for hand in deal_by_length(lengths.astype(int), 8)]
    assert max(sums) / np.mean(sums) < 1.01


def test_fsdp1_is_refused_by_name(model, tokenizer):
    class FullyShardedDataParallel(torch.nn.Module):
        pass

    model.model.layers[1].mlp.act_fn = FullyShardedDataParallel()
    with pytest.raises(NotImplementedError, match="fsdp_version: 2"):
        attribution_settings(model, tokenizer, CONFIG)


def test_runs_that_are_not_settled_say_so_and_strict_ones_are_refused(tmp_path, model, tokenizer, logged):
    """Random weights have nothing to integrate on the path of all tokens with four points."""
    config = AttributionConfig(attribution_path="all", attribution_rule="midpoint", attribution_evaluations=4)
    store = AttributionStore(tmp_path / "a", attribution_settings(model, tokenizer, config))
    traces = named(make_rows(3))
    summary = attribute_traces(traces, model, tokenizer, config, store)
    assert summary.reliability.traces == 3
    expected = [row.name for row in store.values() if not row.reliability.settled]
    assert sorted(summary.reliability.unsettled) == sorted(expected) != []
    (message,) = [message for message in logged if "not settled" in message]
    assert f"{len(expected)} of 3 traces" in message and "attribution_path='reasoning'" in message
    with pytest.raises(ValueError, match="`attribution_strict` refuses more than a tenth"):
        summary.reliability.check(store.settings.options)


def test_reliability_of_a_row_is_that_of_the_engine(tmp_path, model, tokenizer):
    config = AttributionConfig(attribution_rule="hybrid", attribution_evaluations=8)
    store = AttributionStore(tmp_path, attribution_settings(model, tokenizer, config))
    ((_, trace),) = traces = named(make_rows(1))
    attribute_traces(traces, model, tokenizer, config, store)
    sequence = attributed_sequence(trace, tokenizer)
    result = IntegratedGradients(model, evaluations=8).attribute(
        sequence.input_ids, sequence.target, sequence.segments
    )
    stored, expected = store[trace.key].reliability, result.reliability
    assert vars(stored) == pytest.approx(vars(expected), nan_ok=True)
    assert result.stopped_by in ("settled", "not settled")
    # The gap is that of the plain sum
    assert abs(result.completeness_gap) == pytest.approx(expected.gap * abs(result.f_input - result.f_baseline))
