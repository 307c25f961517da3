"""Every chat template that TRL ships: where a reasoning survives it the trainer finds it, where not it says so."""

import sys

import datasets
import numpy as np
import pytest
from datasets import Dataset
from helpers import REPOSITORY, tiny_model, tiny_tokenizer
from tokenizers.processors import TemplateProcessing

from trl_segment import SegmentSelectiveSFTConfig, SegmentSelectiveSFTTrainer


sys.path.insert(0, str(REPOSITORY / "benchmarks"))

from chat_templates import FORMS, QUESTION, REASONING, RESPONSE, classify, make_row, table, template_files


BOS = "<|endoftext|>"
TEMPLATES = {file.stem: file for file in template_files()}


@pytest.fixture(scope="module")
def shared_model():
    """The trainers of this file are built and never run, so that one model serves all of them."""
    return tiny_model(tiny_tokenizer())


@pytest.fixture(autouse=True)
def _quiet():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def prepare(folder, model, template, rows, **options):
    """A trainer whose tokenizer writes a BOS of its own, as many do, so that doubled ones show."""
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = BOS
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.bos_token_id)]
    )
    tokenizer.chat_template = template
    args = SegmentSelectiveSFTConfig(
        str(folder), bf16=False, use_cpu=True, report_to=[], max_length=None, disable_tqdm=True, **options
    )
    return SegmentSelectiveSFTTrainer(
        model, args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    ), tokenizer


def check_units(trainer, tokenizer):
    """Every segment's words lie in its own tokens, all of them are trained, and none lies outside the reasoning."""
    for index, row in enumerate(trainer.train_dataset):
        ids, labels = np.array(row["input_ids"]), np.array(row["labels"])
        units = np.array(row["segment_units"])
        units[units > 0] -= trainer.segment_table.offsets[index]
        _, trace = trainer.get_trace(index)
        assert [text.strip() for text in trace.segment_texts] == [
            "Two and two. Five.",
            "Wait, no. Six.",
            "Alternatively, count.\n\nOne, two, four.",
            "However, it is four.",
        ]
        for i, segment in enumerate(trace.segment_texts):
            opening, rest = (units == 2 * i + 1), (units == 2 * i + 2)
            # `.` and the blank line behind it are one token, so white space can be the neighbour's
            assert tokenizer.decode(ids[opening | rest]).strip() == segment.strip()
            assert tokenizer.decode(ids[opening]).strip() == segment.split()[0].rstrip(",")
        inside = np.flatnonzero(units)
        assert (np.diff(inside) == 1).all()
        assert QUESTION in tokenizer.decode(ids[: inside[0]])
        assert RESPONSE in tokenizer.decode(ids[inside[-1] + 1 :])
        # The white space behind a `<think>` that the generation prompt ends in belongs to the prompt
        assert not tokenizer.decode(ids[(units > 0) & (labels == -100)]).strip()


@pytest.mark.parametrize("name", TEMPLATES)
def test_template_rendering_finds_what_is_there_and_refuses_what_is_not(name, tmp_path, shared_model):
    template = TEMPLATES[name].read_text(encoding="utf-8")
    outcomes = {form: classify(template, form) for form in FORMS}
    found = [make_row(form, outcome.as_parts) for form, outcome in outcomes.items() if outcome.kind != "dropped"]
    lost = [make_row(form, outcome.as_parts) for form, outcome in outcomes.items() if outcome.kind == "dropped"]
    # One form at a time: in one dataset each row would get the other's fields as well, as None
    for row in found:
        check_units(*prepare(tmp_path, shared_model, template, [row, row], completion_rendering="template"))
    for row in lost:
        with pytest.raises(ValueError, match="completion_rendering='verbatim'"):
            prepare(tmp_path, shared_model, template, [row], completion_rendering="template")


@pytest.mark.parametrize("name", ["glm4moe", "qwen3", "gptoss", "nemotron_3_ultra", "qwen2_5", "deepseekv3"])
def test_a_reasoning_that_prompt_and_response_quote_is_found_in_its_own_place(name, tmp_path, shared_model):
    reasoning = "It is four.\n\nWait, it is four."
    answer = {"role": "assistant", "reasoning_content": f"{reasoning}\n", "content": f"As {reasoning} \\boxed{{4}}"}
    row = {"prompt": [{"role": "user", "content": f"Is this right? {reasoning} Or not?"}], "completion": [answer]}
    template = TEMPLATES[name].read_text(encoding="utf-8")
    if classify(template, "field").kind == "dropped":
        with pytest.raises(ValueError, match="completion_rendering='verbatim'"):
            prepare(tmp_path, shared_model, template, [row], completion_rendering="template")
        return
    trainer, tokenizer = prepare(tmp_path, shared_model, template, [row], completion_rendering="template")
    row = trainer.train_dataset[0]
    inside = np.flatnonzero(row["segment_units"])
    parts = np.split(np.array(row["input_ids"]), [inside[0], inside[-1] + 1])
    before, found, after = map(tokenizer.decode, parts)
    assert found.strip() == reasoning
    assert before.count(reasoning) == after.count(reasoning) == 1


@pytest.mark.parametrize("name", TEMPLATES)
def test_verbatim_rendering_trains_every_reasoning_once(name, tmp_path, shared_model):
    template = TEMPLATES[name].read_text(encoding="utf-8")
    rows = [make_row(form, classify(template, form).as_parts) for form in FORMS]
    trainer, tokenizer = prepare(tmp_path, shared_model, template, rows, completion_rendering="verbatim")
    check_units(trainer, tokenizer)
    for row in trainer.train_dataset:
        text = tokenizer.decode(row["input_ids"])
        assert text.count("<think>") == 1
        assert text.count("</think>") == 1
        assert row["input_ids"].count(tokenizer.bos_token_id) == 1
        trained = tokenizer.decode([label for label in row["labels"] if label != -100])
        assert trained.removeprefix("<think>").lstrip().startswith("Two and two.")
        assert trained.endswith(f"</think>\n\n{RESPONSE}{tokenizer.eos_token}")


@pytest.mark.parametrize("rendering", ["template", "verbatim"])
@pytest.mark.parametrize("name", ["idefics3", "llava_next", "smolvlm"])
def test_content_as_text_where_the_template_wants_parts_is_an_error_that_says_so(
    name, rendering, tmp_path, shared_model
):
    template = TEMPLATES[name].read_text(encoding="utf-8")
    with pytest.raises(ValueError, match=r"'type': 'text'"):
        prepare(tmp_path, shared_model, template, [make_row("tags")], completion_rendering=rendering)


def test_the_table_names_every_template_and_all_four_words_are_understood():
    lines = table().splitlines()
    for name in TEMPLATES:
        assert sum(line.startswith(f"| `{name}`") for line in lines) == 1
    assert classify("{{ messages[0]['content'] }}", "tags").kind == "dropped"
    assert classify("{{ raise_exception('no') }}", "tags").kind == "cannot render"
    everything = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    assert classify(everything, "tags").kind == "kept"
    assert classify(everything, "field").kind == "dropped"
    stripped = "{% for m in messages %}{{ (m['reasoning_content'] or '').strip() + m['content'] }}{% endfor %}"
    assert classify(stripped, "field").kind == "re-spaced"
    assert REASONING.strip() in classify(stripped, "field").text
