"""Rows as others' datasets have them: what SFTTrainer trains is trained, and an error says which row it is about."""

import dataclasses

import pytest
from datasets import Dataset
from helpers import make_rows, tiny_model, tiny_tokenizer
from trl import SFTConfig, SFTTrainer

from trl_segment import AttributionStore, SegmentSelectiveSFTConfig, SegmentSelectiveSFTTrainer
from trl_segment.traces import build_trace


REASONING = "Add 2 and 3.\n\nWait, check it.\n\nAlternatively, count."
COMPLETION = f"<think>\n{REASONING}\n</think>\n\nThe sum is 5."
USER, ASSISTANT = {"role": "user", "content": "2 + 3?"}, {"role": "assistant", "content": COMPLETION}
MESSAGES = {"messages": [USER, ASSISTANT], "answer": "5"}
PROMPT_COMPLETION = {"prompt": "2 + 3?", "completion": COMPLETION, "answer": "5"}
CONVERSATIONAL = {"prompt": [USER], "completion": [ASSISTANT], "answer": "5"}
QUESTION = {"question": "2 + 3?", "solution": COMPLETION, "answer": "5"}
# A template that writes the parts of a message
PARTS_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'thinking' %}<think>\n{{ part['thinking'] }}\n</think>\n\n"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def train(cls, folder, rows, tokenizer):
    config_class = SFTConfig if cls is SFTTrainer else SegmentSelectiveSFTConfig
    fast = {} if cls is SFTTrainer else {"attribution_rule": "midpoint", "attribution_evaluations": 2}
    options = {"report_to": "none", "use_cpu": True, "bf16": False, "max_steps": 1, "save_strategy": "no"}
    config = config_class(str(folder / cls.__name__), disable_tqdm=True, **options, **fast)
    rows = rows if isinstance(rows, Dataset) else Dataset.from_list(rows)
    trainer = cls(model=tiny_model(tokenizer), args=config, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    return trainer


# The rows, and what is said of the last one, which is trained in full; `None` if it is like the others
TRAINED = {
    "one turn of the assistant": ([MESSAGES, {**MESSAGES, "messages": [ASSISTANT]}], "nothing before the assistant"),
    "a last turn of the user": ([MESSAGES, {**MESSAGES, "messages": [USER, ASSISTANT, USER]}], "not the assistant's"),
    "an empty completion": ([PROMPT_COMPLETION, {**PROMPT_COMPLETION, "completion": ""}], "no reasoning"),
    "an empty prompt": ([PROMPT_COMPLETION, {**PROMPT_COMPLETION, "prompt": ""}], None),
    "an empty text": ([{"text": f"2 + 3? {COMPLETION}", "answer": "5"}, {"text": "", "answer": "5"}], "does not say"),
    "an answer of null": ([MESSAGES, {**MESSAGES, "answer": None}], "no answer"),
    "an answer of spaces": ([MESSAGES, {**MESSAGES, "answer": " "}], "the answer is empty"),
    "several turns": ([CONVERSATIONAL, {**CONVERSATIONAL, "completion": [ASSISTANT, USER, ASSISTANT]}], None),
    "torch tensors": (Dataset.from_list([{**PROMPT_COMPLETION, "answer": 5}] * 2).with_format("torch"), None),
    "numpy numbers": (Dataset.from_list([{**PROMPT_COMPLETION, "answer": 5}] * 2).with_format("numpy"), None),
    "messages in torch format": (Dataset.from_list([MESSAGES] * 2).with_format("torch"), None),
}


@pytest.mark.parametrize("case", TRAINED)
def test_what_sfttrainer_trains_is_trained(case, tmp_path, capfd):
    rows, problem = TRAINED[case]
    tokenizer = tiny_tokenizer()
    theirs = train(SFTTrainer, tmp_path, rows, tokenizer)
    ours = train(SegmentSelectiveSFTTrainer, tmp_path, rows, tokenizer)
    assert [list(row["input_ids"]) for row in ours.train_dataset] == [
        list(row["input_ids"]) for row in theirs.train_dataset
    ]
    printed = capfd.readouterr().out
    assert (f"trained in full           {0 if problem is None else 1} traces") in printed
    if problem is not None:
        line = next(line for line in printed.splitlines() if " x " in line)
        assert problem in line and line.endswith(": row 1")


# The reasoning of a row stands where the template does not look
DROPPED = {"role": "assistant", "content": "The sum is 5.", "reasoning_content": REASONING}
UNHEARD = {"messages": [USER, DROPPED], "answer": "5"}
REWRITES = "the chat template drops or rewrites its reasoning, which is not trained"


def prepare(folder, rows, tokenizer, cls=SegmentSelectiveSFTTrainer, eval_dataset=None, **options):
    config = SegmentSelectiveSFTConfig if cls is SegmentSelectiveSFTTrainer else SFTConfig
    if cls is SegmentSelectiveSFTTrainer:
        options = {"attribution_rule": "midpoint", "attribution_evaluations": 2, **options}
    plain = {"report_to": "none", "use_cpu": True, "bf16": False, "max_steps": 2, "save_strategy": "no"}
    config = config(str(folder), disable_tqdm=True, **{**plain, **options})
    rows = Dataset.from_list(rows) if isinstance(rows, list) else rows
    model = tiny_model(tokenizer)
    return cls(model, config, None, rows, eval_dataset=eval_dataset, processing_class=tokenizer)


@pytest.mark.parametrize("place", [0, 1, 3])
@pytest.mark.parametrize("packing", [False, True])
def test_a_row_whose_reasoning_the_template_drops_is_trained_in_full(place, packing, tmp_path, capfd):
    rows = [MESSAGES, {**MESSAGES, "answer": "2"}, {**MESSAGES, "answer": "3"}]
    rows.insert(place, UNHEARD)
    tokenizer = tiny_tokenizer()
    theirs = prepare(tmp_path / "theirs", rows, tokenizer, SFTTrainer, packing=packing)
    ours = prepare(tmp_path / "ours", rows, tokenizer, packing=packing)
    assert [list(row["input_ids"]) for row in ours.train_dataset] == [
        list(row["input_ids"]) for row in theirs.train_dataset
    ]
    assert ours.unplaced_rows == {place}
    if not packing:
        trained = [any(row["segment_units"]) for row in ours.train_dataset]
        assert trained == [number != place for number in range(4)]
    ours.train()
    shown = capfd.readouterr().out
    assert f"1 x {REWRITES}: row {place}" in shown and "trained in full           1 traces" in shown
    # Nothing was spent on it, and a store without it is whole
    store = AttributionStore(ours.attributions)
    assert len(store) == 3 and ours.get_trace(place)[1].key not in store
    again = prepare(tmp_path / "again", rows, tokenizer, packing=packing, attributions=ours.attributions)
    again.train()
    for one, two in zip(ours.train_dataset, again.train_dataset, strict=True):
        batches = [trainer.data_collator([row])["labels"] for trainer, row in ((ours, one), (again, two))]
        assert batches[0].equal(batches[1])


def test_it_is_an_error_where_no_row_fits(tmp_path):
    rows = [{**MESSAGES, "messages": [USER]}, UNHEARD, UNHEARD]
    with pytest.raises(ValueError, match=r"^row 1: The reasoning .*completion_rendering='verbatim'"):
        prepare(tmp_path, rows, tiny_tokenizer())


def test_a_row_of_an_evaluation_set_is_left_out_of_its_selection_alone(tmp_path, caplog):
    tokenizer = tiny_tokenizer()
    sets = {name: Dataset.from_list(rows) for name, rows in (("a", [MESSAGES] * 2), ("b", [UNHEARD, MESSAGES]))}
    options = {"eval_selective": True, "eval_strategy": "steps", "eval_steps": 1}
    trainer = prepare(tmp_path, [MESSAGES, UNHEARD], tokenizer, eval_dataset=sets, **options)
    assert trainer.unplaced_rows == {1, 4}
    assert [any(row["eval_segment_units"]) for row in trainer.eval_dataset["b"]] == [False, True]
    trainer.train()
    assert caplog.text.count("1 of 2 traces are trained in full") == 2


def test_a_streamed_row_that_does_not_fit_is_named_when_it_comes(tmp_path, caplog):
    tokenizer = tiny_tokenizer()
    rows = [UNHEARD, MESSAGES, {**MESSAGES, "answer": "7"}]
    first = prepare(tmp_path / "first", rows, tokenizer)
    first.train()
    # The store of `trl-segment attribute` holds all of them
    store = AttributionStore(first.attributions)
    key, known = first.get_trace(0)[1].key, next(iter(store.values()))
    store.add(dataclasses.replace(known, key=key, name="row 0"))
    store.compact()
    stream = Dataset.from_list(rows).to_iterable_dataset()
    streamed = prepare(tmp_path / "second", stream, tokenizer, attributions=first.attributions)
    prepared = list(streamed.train_dataset)
    assert [any(row["segment_units"]) for row in prepared] == [False, True, True]
    assert f"row 0 of the streamed dataset is trained in full: {REWRITES}" in caplog.text
    streamed.train()
    stream = Dataset.from_list([UNHEARD] * 3).to_iterable_dataset()
    with pytest.raises(ValueError, match=r"^row 0: The reasoning .*completion_rendering='verbatim'"):
        prepare(tmp_path / "third", stream, tokenizer, attributions=first.attributions)


def test_tokens_of_another_text_are_trained_in_full(tmp_path):
    tokenizer = tiny_tokenizer()
    text = f"2 + 3? {COMPLETION}"
    rows = [{"text": text, "input_ids": ids, "answer": "5"} for ids in ([5, 6, 7], tokenizer(text)["input_ids"])]
    trainer = prepare(tmp_path, rows, tokenizer)
    assert trainer.unplaced_rows == {0}
    assert list(trainer.segment_table.problems) == ["its tokens are not those of the text beside them", None]
    with pytest.raises(ValueError, match=r"^row 0: the dataset's own column 'input_ids' holds other tokens"):
        prepare(tmp_path, rows[:1] * 2, tokenizer)


@pytest.mark.parametrize("rendering", ["template", "verbatim"])
def test_a_prompt_that_the_template_rewrites_stops_nothing(rendering, tmp_path, capfd):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "{{ message['content'] + '<|im_end|>\n' }}{% endif %}",
        "{{ message['content'].replace('<b>', '') + '<|im_end|>\n' }}{% endif %}",
    )
    bold = {**MESSAGES, "messages": [{**USER, "content": "<b>2 + 3?"}, ASSISTANT]}
    trainer = prepare(tmp_path / "one", [bold, MESSAGES], tokenizer, completion_rendering=rendering)
    trainer.train()
    assert "1 x it cannot be rendered" in capfd.readouterr().out
    with pytest.raises(ValueError, match=r"^row 0: The chat template .* the words of the prompt are lost"):
        prepare(tmp_path / "all", [bold] * 2, tokenizer, completion_rendering=rendering)


# TRL has no such rows
@pytest.mark.parametrize("field", ["question", "solution"])
@pytest.mark.parametrize("value", [None, ""])
def test_a_question_row_without_a_part_is_named(field, value, tmp_path, capfd):
    train(SegmentSelectiveSFTTrainer, tmp_path, [QUESTION, {**QUESTION, field: value}, QUESTION], tiny_tokenizer())
    line = next(line for line in capfd.readouterr().out.splitlines() if " x " in line)
    assert line.strip() in (f"1 x no {field}: row 1", "1 x no reasoning: row 1")


# What TRL cannot prepare ends the run as there, with the row in front
STOPPED = {
    "completion": [PROMPT_COMPLETION] * 3 + [{**PROMPT_COMPLETION, "completion": None}] + [PROMPT_COMPLETION],
    "prompt": [PROMPT_COMPLETION] * 3 + [{**PROMPT_COMPLETION, "prompt": None}],
    "messages": [MESSAGES] * 3 + [{**MESSAGES, "messages": None}, MESSAGES],
    "no messages": [MESSAGES] * 3 + [{**MESSAGES, "messages": []}, MESSAGES],
    "content": [MESSAGES] * 3 + [{**MESSAGES, "messages": [{**USER, "content": None}, ASSISTANT]}, MESSAGES],
    "text": [{"text": COMPLETION, "answer": "5"}] * 3 + [{"text": None, "answer": "5"}],
    "tools": [{**MESSAGES, "tools": "[]"}] * 3 + [{**MESSAGES, "tools": "no JSON"}],
}


@pytest.mark.parametrize("case", STOPPED)
def test_what_sfttrainer_cannot_prepare_is_an_error_that_names_the_row(case, tmp_path):
    with pytest.raises(Exception):  # noqa: B017
        train(SFTTrainer, tmp_path, STOPPED[case], tiny_tokenizer())
    with pytest.raises(ValueError, match=r"^row 3: "):
        train(SegmentSelectiveSFTTrainer, tmp_path, STOPPED[case], tiny_tokenizer())


@pytest.mark.parametrize("prompt, completion", [([USER], COMPLETION), ("2 + 3?", [ASSISTANT])])
def test_a_format_that_no_row_is_in_names_the_first(prompt, completion, tmp_path):
    rows = [{"prompt": prompt, "completion": completion, "answer": "5"}] * 2
    with pytest.raises(ValueError, match=r"^row 0: SFTTrainer cannot prepare this row"):
        train(SegmentSelectiveSFTTrainer, tmp_path, rows, tiny_tokenizer())


@pytest.mark.parametrize(
    "function",
    [
        {"answer_func": lambda row: row["answer"] if row["id"] != "b" else {}["nothing"]},
        {"segmenter": lambda text: text.split("Wait") if "Alt" in text else [text]},
    ],
    ids=["answer_func", "segmenter"],
)
def test_a_function_of_the_users_that_fails_names_the_row(function, tmp_path):
    rows = [{**PROMPT_COMPLETION, "id": "a", "completion": "x"}, {**PROMPT_COMPLETION, "id": "b"}]
    config = SegmentSelectiveSFTConfig(str(tmp_path), report_to="none", use_cpu=True, bf16=False)
    tokenizer = tiny_tokenizer()
    with pytest.raises(ValueError, match=r"^b: "):
        SegmentSelectiveSFTTrainer(
            tiny_model(tokenizer), config, None, Dataset.from_list(rows), processing_class=tokenizer, **function
        )


def test_a_thinking_part_is_the_reasoning_in_attribution_and_in_training(tmp_path):
    parts = [{"type": "thinking", "thinking": REASONING}, {"type": "text", "text": "The sum is 5."}]
    user = {"role": "user", "content": [{"type": "text", "text": "2 + 3?"}]}
    rows = [{"messages": [user, {"role": "assistant", "content": parts}], "answer": "5"}] * 2
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = PARTS_TEMPLATE
    theirs = train(SFTTrainer, tmp_path, rows, tokenizer)
    ours = train(SegmentSelectiveSFTTrainer, tmp_path, rows, tokenizer)
    assert [row["input_ids"] for row in ours.train_dataset] == [row["input_ids"] for row in theirs.train_dataset]
    row = ours.train_dataset[0]
    inside = [i for i, unit in zip(row["input_ids"], row["segment_units"], strict=True) if unit]
    assert tokenizer.decode(inside).strip() == REASONING


THINKING = [
    [{"type": "thinking", "thinking": REASONING}],
    [{"type": "thinking", "thinking": REASONING, "text": None}],
    [{"type": "thinking", "thinking": [{"type": "text", "text": REASONING}], "closed": True}],
    [{"type": "reasoning", "text": REASONING}],
    [{"type": "thinking", "thinking": REASONING[:9]}, {"type": "thinking", "thinking": REASONING[9:]}],
]


@pytest.mark.parametrize("thinking", THINKING)
def test_forms_of_thinking_parts(thinking):
    for text in ({"type": "text", "text": "It is 5."}, {"type": "text", "text": "It is 5.", "thinking": None}):
        trace = build_trace({"messages": [USER, {"role": "assistant", "content": [*thinking, text]}], "answer": "5"})
        start, end = trace.reasoning
        assert trace.completion[start:end] == REASONING and trace.completion.endswith("It is 5.")
        assert len(trace.segments) == 3 and trace.problem is None


def test_one_row_that_the_template_refuses_does_not_stop_an_attribution(tmp_path):
    from trl_segment import AttributionConfig, AttributionStore, attribute_traces
    from trl_segment.attribution import attribution_settings

    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% if 'sum' in messages[0].content %}{{ raise_exception('no sums') }}{% endif %}" + (
        tokenizer.chat_template
    )
    model, config = tiny_model(tokenizer), AttributionConfig(attribution_rule="midpoint", attribution_evaluations=2)
    traces = [(f"row {i}", build_trace(row)) for i, row in enumerate(make_rows(3))]
    bad = ("bad", build_trace({**QUESTION, "question": "The sum of 2 and 3?"}))
    store = AttributionStore(tmp_path / "store", attribution_settings(model, tokenizer, config))
    summary = attribute_traces([*traces, bad], model, tokenizer, config, store)
    assert summary.attributed == 3
    (reason,) = summary.skipped
    assert summary.skipped[reason] == ["bad"] and "no sums" in reason
    # The first is no other
    other = AttributionStore(tmp_path / "other", attribution_settings(model, tokenizer, config))
    summary = attribute_traces([bad, *traces], model, tokenizer, config, other)
    assert summary.attributed == 3 and summary.skipped[reason] == ["bad"]
    assert {row.name: row.problem for row in other.values()} == {
        "bad": reason, "row 0": None, "row 1": None, "row 2": None
    }  # fmt: skip
    # Where no trace fits, it is the template that does not
    other = AttributionStore(tmp_path / "none", attribution_settings(model, tokenizer, config))
    with pytest.raises(ValueError, match=r"^bad: .*no sums"):
        attribute_traces([bad, ("worse", bad[1])], model, tokenizer, config, other)
    assert len(other) == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda text, tokenizer: tokenizer(text)["input_ids"],
        lambda text, tokenizer: [*tokenizer(text)["input_ids"], tokenizer.eos_token_id],
        lambda text, tokenizer: tokenizer(text)["input_ids"][:40],
    ],
    ids=["whole", "with its end", "cut"],
)
def test_the_text_beside_tokens_is_read_and_not_what_they_decode_to(make, tmp_path, monkeypatch):
    text = f"2 + 3? {COMPLETION}"
    tokenizer = tiny_tokenizer()
    ids = make(text, tokenizer)
    # As tokenizers do that tidy up spaces, or whose normalizer cannot be undone
    monkeypatch.setattr(type(tokenizer), "decode", lambda *args, **kwargs: "something else")
    rows = [{"text": text, "input_ids": ids, "answer": "5"}] * 2
    config = SegmentSelectiveSFTConfig(str(tmp_path), report_to="none", use_cpu=True, bf16=False)
    prepared = SegmentSelectiveSFTTrainer(
        tiny_model(tokenizer), config, None, Dataset.from_list(rows), processing_class=tokenizer
    ).train_dataset[0]
    monkeypatch.undo()
    assert list(prepared["input_ids"]) == ids
    for number, opener in enumerate(("Add", "Wait", "Alternatively")):
        tokens = [i for i, unit in zip(ids, prepared["segment_units"], strict=True) if unit == 2 * number + 1]
        assert tokenizer.decode(tokens).strip(" .\n") == opener


def test_assistant_only_loss_on_question_rows_is_refused(tmp_path):
    config = SegmentSelectiveSFTConfig(str(tmp_path), assistant_only_loss=True, use_cpu=True, bf16=False)
    tokenizer = tiny_tokenizer()
    with pytest.raises(ValueError, match="rows of questions and solutions are rendered verbatim"):
        SegmentSelectiveSFTTrainer(
            tiny_model(tokenizer), config, None, Dataset.from_list([QUESTION] * 2), processing_class=tokenizer
        )
