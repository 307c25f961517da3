"""Datasets whose columns are none of TRL's: trained as the same texts in question and solution columns are."""

import numpy as np
import pytest
from datasets import Dataset
from helpers import tiny_model, tiny_tokenizer

from trl_segment import SegmentSelectiveSFTConfig, SegmentSelectiveSFTTrainer


REASONINGS = ("Add 2 and 3.\n\nWait, check it.\n\nAlternatively, count.", "Five.\n\nHowever, count again.")
RESPONSE = "The sum is \\boxed{5}."
NAMED = {"question_column": "ask", "reasoning_column": "why", "response_column": "say"}
# Options and a row of each form
FORMS = {
    "known columns": ({}, lambda why: {"problem": "2 + 3?", "reasoning": why, "generation": RESPONSE}),
    "named columns": (NAMED, lambda why: {"ask": "2 + 3?", "why": why, "say": RESPONSE}),
    "named columns beside messages": (
        NAMED,
        lambda why: {"ask": "2 + 3?", "why": why, "say": RESPONSE, "messages": [{"role": "user", "content": "no"}]},
    ),
    "a named column that is TRL's": (
        {"question_column": "prompt", "reasoning_column": "why", "response_column": "completion"},
        lambda why: {"prompt": "2 + 3?", "why": why, "completion": RESPONSE},
    ),
    "a prompt without a completion": (
        {"question_template": "{question}"},
        lambda why: {"prompt": "2 + 3?", "response": f"<think>\n{why}\n</think>\n\n{RESPONSE}"},
    ),
}


def make_trainer(folder, rows, **options):
    tokenizer = tiny_tokenizer()
    run = {"report_to": "none", "use_cpu": True, "bf16": False, "max_steps": 1, "save_strategy": "no"}
    fast = {"attribution_rule": "midpoint", "attribution_evaluations": 2}
    return SegmentSelectiveSFTTrainer(
        model=tiny_model(tokenizer),
        args=SegmentSelectiveSFTConfig(str(folder), disable_tqdm=True, **run, **fast, **options),
        train_dataset=rows,
        processing_class=tokenizer,
    )


def prepared(trainer):
    rows = []
    for row in trainer.train_dataset:
        # A streamed row's units are numbered by its place in the store
        units = np.asarray(row["segment_units"])
        units[units > 0] -= units[units > 0].min()
        rows.append((list(row["input_ids"]), list(row["labels"]), units.tolist()))
    return rows


@pytest.mark.parametrize("form", FORMS)
def test_the_same_tokens_and_segments_are_trained(form, tmp_path):
    options, row_of = FORMS[form]
    plain = {name: value for name, value in options.items() if name == "question_template"}
    questions = [
        {"question": "2 + 3?", "solution": f"<think>\n{why}\n</think>\n\n{RESPONSE}", "answer": "5"}
        for why in REASONINGS
    ]
    wanted = make_trainer(tmp_path / "wanted", Dataset.from_list(questions), **plain)
    rows = Dataset.from_list([{**row_of(why), "answer": "5"} for why in REASONINGS])
    trainer = make_trainer(tmp_path / "made", rows, **options)
    assert prepared(trainer) == prepared(wanted)
    # A solution's reasoning has the line breaks beside the marks, a column of its own has not
    assert trainer.segment_table.num_segments.tolist() == [3, 2]
    for number, why in enumerate(REASONINGS):
        name, trace = trainer.get_trace(number)
        assert (name, trace.problem) == (f"row {number}", None)
        assert "".join(trace.segment_texts).strip() == why
    trainer.train()
    streamed = make_trainer(
        tmp_path / "streamed",
        rows.to_iterable_dataset(),
        attributions=str(tmp_path / "made" / "_attributions"),
        **options,
    )
    assert prepared(streamed) == prepared(wanted)


def test_columns_of_a_formatting_function_are_refused(tmp_path):
    rows = Dataset.from_list([{"ask": "2 + 3?", "why": "Five.", "say": RESPONSE}])
    with pytest.raises(ValueError, match="no option names its columns"):
        SegmentSelectiveSFTTrainer(
            model=tiny_model(tiny_tokenizer()),
            args=SegmentSelectiveSFTConfig(str(tmp_path), report_to="none", use_cpu=True, bf16=False, **NAMED),
            train_dataset=rows,
            processing_class=tiny_tokenizer(),
            formatting_func=lambda row: row["ask"],
        )


def test_most_traces_that_lose_their_end_are_named_in_capitals(tmp_path, caplog):
    rows = Dataset.from_list([{"problem": "2 + 3?", "reasoning": why, "generation": RESPONSE} for why in REASONINGS])
    with caplog.at_level("WARNING", logger="trl_segment"):
        make_trainer(tmp_path / "short", rows, max_length=10)
        assert "MOST TRACES LOSE THEIR END: 2 of 2 traces are longer than max_length=10" in caplog.text
        caplog.clear()
        make_trainer(tmp_path / "long", rows, max_length=1000)
    assert "LOSE THEIR END" not in caplog.text
