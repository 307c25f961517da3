r"""The trainer against SFTTrainer itself, and against a loss computed by hand on text."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import trl
from datasets import Dataset, IterableDataset
from helpers import make_rows, real_rows, real_tokenizer, store_settings, tiny_model
from trl import SFTConfig, SFTTrainer

from trl_segment import SegmentSelectiveSFTConfig, SegmentSelectiveSFTTrainer
from trl_segment.store import AttributionStore, StoredAttribution


QUICK = {
    "max_steps": 10,
    "per_device_train_batch_size": 2,
    "logging_steps": 1,
    "bf16": False,
    "use_cpu": True,
    "report_to": [],
    "save_strategy": "no",
    "gradient_checkpointing": False,
    "max_length": 256,
    "disable_tqdm": True,
}
ATTRIBUTION = {"attribution_rule": "midpoint", "attribution_evaluations": 2}


def messages(rows):
    return Dataset.from_list(
        [
            {
                "messages": [
                    {"role": "user", "content": row["question"]},
                    {"role": "assistant", "content": row["solution"]},
                ],
                "answer": row["answer"],
            }
            for row in rows
        ]
    )


def prompt_completion(rows):
    return Dataset.from_list(
        [{"prompt": f"Q: {row['question']}\nA:", "completion": " " + row["solution"]} for row in rows]
    )


def conversational_prompt_completion(rows):
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": row["question"]}],
                "completion": [{"role": "assistant", "content": row["solution"]}],
            }
            for row in rows
        ]
    )


def text(rows):
    return Dataset.from_list([{"text": f"Q: {row['question']}\n{row['solution']}"} for row in rows])


def sharegpt(rows):
    return Dataset.from_list(
        [
            {
                "conversations": [
                    {"from": "user", "value": row["question"]},
                    {"from": "assistant", "value": row["solution"]},
                ]
            }
            for row in rows
        ]
    )


def make_trainer(folder, tokenizer, dataset, cls=SegmentSelectiveSFTTrainer, model=None, **options):
    selective = cls is SegmentSelectiveSFTTrainer
    trainer_options = {
        name: options.pop(name) for name in ("peft_config", "formatting_func", "segmenter") if name in options
    }
    trainer_options |= {name: options.pop(name) for name in ("eval_dataset", "answer_func") if name in options}
    for name in ("attribution_model", "attribution_processing_class"):
        if not isinstance(options.get(name), (str, type(None))):
            trainer_options[name] = options.pop(name)
    config = SegmentSelectiveSFTConfig if selective else SFTConfig
    args = config(str(folder), **{**QUICK, **(ATTRIBUTION if selective else {}), **options})
    model = model or tiny_model(tokenizer)
    return cls(model, args, train_dataset=dataset, processing_class=tokenizer, **trainer_options)


def curve(trainer):
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    return [(log["loss"], log["grad_norm"], log["learning_rate"]) for log in logs]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"packing": True},
        {"packing": True, "packing_strategy": "bfd_split", "shuffle_dataset": True},
        {"packing": True, "packing_strategy": "wrapped"},
        {"padding_free": True, "max_length": None},
        {"max_length": 120, "shuffle_dataset": True},
        {"max_length": 120, "truncation_mode": "keep_end"},
        {"gradient_accumulation_steps": 2, "dataloader_num_workers": 2, "completion_only_loss": True},
        {"gradient_checkpointing": True, "assistant_only_loss": True},
        {"loss_type": "dft", "weight_decay": 0.1, "pad_to_multiple_of": 64},
    ],
    ids=lambda options: ",".join(options) or "default",
)
def test_with_every_segment_kept_training_is_sfttrainers_to_the_bit(options, tmp_path, tokenizer):
    dataset = messages(make_rows(8))
    options = {**options, "max_steps": 10}
    theirs = curve(make_trainer(tmp_path / "sft", tokenizer, dataset, SFTTrainer, **options))
    ours = curve(make_trainer(tmp_path / "all", tokenizer, dataset, tau=1.0, beta=1.0, **options))
    assert len(theirs) == 10
    assert ours == theirs
    selective = curve(make_trainer(tmp_path / "some", tokenizer, dataset, tau=0.2, keep_last=0, **options))
    assert selective != theirs


@pytest.mark.parametrize("make", [messages, prompt_completion, conversational_prompt_completion, text, sharegpt])
def test_every_text_format_equals_sfttrainer_when_all_is_kept(make, tmp_path, tokenizer):
    dataset = make(make_rows(6))
    theirs = curve(make_trainer(tmp_path / "sft", tokenizer, dataset, SFTTrainer))
    trainer = make_trainer(tmp_path / "all", tokenizer, dataset, tau=1.0, beta=1.0)
    assert trainer.segment_table.num_segments.min() >= 2
    assert curve(trainer) == theirs


def write_store(path, trainer, kept):
    """A store whose scores make the selection keep just the segments `kept(index, count)` says (tau 1, beta 1)."""
    store = AttributionStore(path, store_settings())
    for index in range(trainer.num_traces):
        name, trace = trainer.get_trace(index)
        flags = [bool(kept(i, len(trace.segments))) for i in range(len(trace.segments))]
        scores = [float(flag) for flag in flags]
        store.add(StoredAttribution(trace.key, name, None, [4] * len(flags), scores, scores, 99, -1.0, -2.0, 0.0, 1))
    store.compact()
    return store


ALL_SCORED = {"tau": 1.0, "beta": 1.0, "keep_first": 0, "keep_last": 0}


def trained_text(tokenizer, batch_row):
    """The text of the trained tokens of one row of a batch; dropped tokens become one `_` a run."""
    parts = []
    for token, label in zip(batch_row["input_ids"].tolist(), batch_row["labels"].tolist(), strict=True):
        parts.append(tokenizer.decode([token]) if label != -100 else "_")
    return re.sub("_+", "_", "".join(parts))


@pytest.mark.parametrize("transition", ["after_kept", "every", "none"])
def test_labels_follow_the_text_of_the_segments(transition, tmp_path, tokenizer):
    reasoning = "Two and two. Five.\n\nWait, no. Six.\n\nAlternatively, count. One two.\n\nHowever, fine. It is four."
    row = {
        "messages": [
            {"role": "user", "content": "2 + 2?"},
            {"role": "assistant", "content": f"<think>{reasoning}</think>It is \\boxed{{4}}."},
        ]
    }
    dataset = Dataset.from_list([row, row])
    trainer = make_trainer(tmp_path, tokenizer, dataset, transition=transition, assistant_only_loss=True, **ALL_SCORED)
    store = write_store(tmp_path / "store", trainer, lambda i, count: i == 1)
    trainer.select_segments(store)
    batch = next(iter(trainer.get_train_dataloader()))
    # `.\n\n` is one token and starts in the segment before, so it goes with that segment
    expected = {
        "after_kept": "_<think>_Wait, no. Six.\n\nAlternatively_</think>It is \\boxed{4}.<|im_end|>",
        "every": "_<think>Two_Wait, no. Six.\n\nAlternatively_However_</think>It is \\boxed{4}.<|im_end|>",
        "none": "_<think>_Wait, no. Six.\n\n_</think>It is \\boxed{4}.<|im_end|>",
    }[transition]
    shown = trained_text(tokenizer, {k: v[0] for k, v in batch.items() if k in ("input_ids", "labels")})
    assert shown.removesuffix("\n").removesuffix("_") == expected


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"packing": True},
        {"packing": True, "packing_strategy": "wrapped"},
        {"padding_free": True, "max_length": None},
    ],
    ids=lambda options: ",".join(options) or "default",
)
def test_loss_equals_a_hand_computation_on_the_kept_tokens(options, tmp_path, tokenizer):
    rows = make_rows(4)
    model = tiny_model(tokenizer)
    trainer = make_trainer(
        tmp_path,
        tokenizer,
        messages(rows),
        model=model,
        transition="none",
        per_device_train_batch_size=4,
        **{"max_length": 1024, **options},
        **ALL_SCORED,
    )
    store = write_store(tmp_path / "store", trainer, lambda i, count: i % 2 == 0)
    trainer.select_segments(store)

    # By hand: whole texts, full logits, and characters that belong to odd segments left out
    total, count = 0.0, 0
    for row in rows:
        chat = [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["solution"]}]
        whole = tokenizer.apply_chat_template(chat, tokenize=False)
        begin = whole.index("<think>") + len("<think>")
        reasoning = whole[begin : whole.index("</think>")]
        dropped = np.zeros(len(whole), dtype=bool)
        openers = r"\n\n(?=Wait\b|Alternatively\b|But wait\b|However\b|Going back\b|Another\b)"
        starts = [0, *(m.start() for m in re.finditer(openers, reasoning)), len(reasoning)]
        for i in range(1, len(starts) - 1, 2):
            dropped[begin + starts[i] : begin + starts[i + 1]] = True
        encoded = tokenizer(whole, return_offsets_mapping=True, add_special_tokens=False)
        ids = torch.tensor([encoded["input_ids"]])
        with torch.no_grad():
            log_probs = model(ids).logits[0].log_softmax(-1)
        for position in range(1, ids.shape[1]):
            if not dropped[encoded["offset_mapping"][position][0]]:
                total -= log_probs[position - 1, ids[0, position]].item()
                count += 1
    losses, weights = [], []
    trainer.model.eval()
    for batch in trainer.get_train_dataloader():
        labels = batch["labels"]
        with torch.no_grad():
            losses.append(trainer.compute_loss(trainer.model, dict(batch)).item())
        weights.append((labels[:, 1:] != -100).sum().item())
    if options.get("packing_strategy") != "wrapped":  # which joins texts, so that contexts differ
        assert sum(weights) == count
        assert np.dot(losses, weights) / sum(weights) == pytest.approx(total / count, rel=1e-5)
    else:
        assert abs(sum(weights) - count) <= len(rows)


def test_masking_starts_with_the_first_batch_and_is_logged(tmp_path, tokenizer):
    dataset = messages(make_rows(4))
    trainer = make_trainer(
        tmp_path, tokenizer, dataset, tau=0.2, keep_last=0, per_device_train_batch_size=4, max_steps=1
    )
    trainer.train()
    log = trainer.state.log_history[0]
    batch = next(iter(trainer.get_train_dataloader()))
    full = sum(sum(label != -100 for label in row) for row in trainer.train_dataset["labels"])
    assert log["trained_token_share"] == pytest.approx((batch["labels"] != -100).sum().item() / full)
    assert 0 < log["trained_segment_share"] < 1


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_see_a_table_that_changes_later(workers, tmp_path, tokenizer):
    dataset = messages(make_rows(4))
    trainer = make_trainer(
        tmp_path,
        tokenizer,
        dataset,
        per_device_train_batch_size=4,
        dataloader_num_workers=workers,
        dataloader_persistent_workers=workers > 0,
        **ALL_SCORED,
    )
    loader = trainer.get_train_dataloader()

    def trained():
        return sum((batch["labels"] != -100).sum().item() for batch in loader)

    whole = trained()
    trainer.select_segments(write_store(tmp_path / "one", trainer, lambda i, count: i == 0))
    first = trained()
    trainer.select_segments(write_store(tmp_path / "two", trainer, lambda i, count: i < 2))
    assert first < trained() < whole


def test_lora_attributes_with_the_base_model(tmp_path, tokenizer):
    peft = pytest.importorskip("peft")
    dataset = messages(make_rows(4))
    lora = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    base = make_trainer(tmp_path / "full", tokenizer, dataset, max_steps=1)
    base.train()
    adapted = make_trainer(tmp_path / "lora", tokenizer, dataset, max_steps=1, peft_config=lora)
    adapted.train()
    ours, theirs = (AttributionStore(tmp_path / run / "_attributions") for run in ("lora", "full"))
    assert ours.settings == theirs.settings
    for key in theirs:
        assert ours[key].sum_signed == pytest.approx(theirs[key].sum_signed, rel=1e-6, abs=1e-9)
    # and the adapter is on again: it is random, so what it computes is not the base model's
    trainable = [name for name, parameter in adapted.model.named_parameters() if parameter.requires_grad]
    assert trainable
    assert all("lora_" in name for name in trainable)
    ids = torch.tensor([[5, 6, 7]])
    with adapted.model.disable_adapter():
        off = adapted.model(ids).logits
    assert not torch.allclose(off, adapted.model(ids).logits)


def test_attribution_before_training_does_not_change_training(tmp_path, tokenizer):
    """The same run, once computing its attributions and once reading them, with dropout so that the RNG counts."""
    dataset = messages(make_rows(6))
    computing = make_trainer(tmp_path / "a", tokenizer, dataset, model=tiny_model(tokenizer, attention_dropout=0.2))
    computed = curve(computing)
    stored = str(tmp_path / "a" / "_attributions")
    reading = make_trainer(
        tmp_path / "b", tokenizer, dataset, model=tiny_model(tokenizer, attention_dropout=0.2), attributions=stored
    )
    assert curve(reading) == computed
    assert not (tmp_path / "b" / "_attributions").exists()


def test_resume_reads_the_first_runs_attributions(tmp_path, tokenizer):
    dataset = messages(make_rows(6))
    options = {"save_strategy": "steps", "save_steps": 2, "tau": 0.3, "learning_rate": 0.01}
    whole = curve(make_trainer(tmp_path, tokenizer, dataset, **options))
    resumed = make_trainer(tmp_path, tokenizer, dataset, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    logs = [log for log in resumed.state.log_history if "loss" in log]
    assert [(log["loss"], log["grad_norm"], log["learning_rate"]) for log in logs] == whole


def logged(caplog):
    return " ".join(record.getMessage() for record in caplog.records)


@pytest.fixture
def trl_segment_log(caplog):
    """Messages of transformers' logger, which does not propagate."""
    from transformers.utils import logging

    logging.enable_propagation()
    yield caplog
    logging.disable_propagation()


def test_a_checkpoint_of_plain_sft_is_resumed(tmp_path, tokenizer, trl_segment_log):
    """SFTTrainer resumes it. Without scores of a first run the model is attributed as it is, and that is said."""
    dataset = messages(make_rows(4))
    options = {"save_strategy": "steps", "save_steps": 1}
    make_trainer(tmp_path, tokenizer, dataset, SFTTrainer, max_steps=1, **options).train()
    trainer = make_trainer(tmp_path, tokenizer, dataset, max_steps=2, **options)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 2
    assert len(AttributionStore(tmp_path / "_attributions")) == 4
    assert "attributed with the model as it now is" in logged(trl_segment_log)


def test_rows_added_before_a_resumption_are_attributed_and_the_others_keep_their_scores(
    tmp_path, tokenizer, trl_segment_log
):
    rows = make_rows(5)
    options = {"save_strategy": "steps", "save_steps": 1}
    make_trainer(tmp_path, tokenizer, messages(rows[:3]), max_steps=1, **options).train()
    first = dict(AttributionStore(tmp_path / "_attributions").items())
    trainer = make_trainer(tmp_path, tokenizer, messages(rows), max_steps=3, **options)
    trainer.train(resume_from_checkpoint=True)
    assert "2 of 5 traces that the first run did not know (row 3, row 4)" in logged(trl_segment_log)
    assert dict(AttributionStore(tmp_path / "_attributions").items()) == first
    added = AttributionStore(tmp_path / "_attributions" / "resumed-1")
    assert len(added) == 2 and not set(added) & set(first)
    # The table is filled from both: a third resumption attributes nothing
    again = make_trainer(tmp_path, tokenizer, messages(rows), max_steps=4, **options)
    again.train(resume_from_checkpoint=True)
    assert sorted(path.name for path in (tmp_path / "_attributions").glob("resumed-*")) == ["resumed-1"]
    assert again.segment_table.trained.tolist() == trainer.segment_table.trained.tolist()


def test_train_a_second_time_keeps_the_scores(tmp_path, tokenizer, monkeypatch):
    """As in a notebook; SFTTrainer trains on from where it is."""
    trainer = make_trainer(tmp_path, tokenizer, messages(make_rows(3)), max_steps=1)
    trainer.train()
    table = trainer.segment_table.trained.tolist()
    monkeypatch.setattr("trl_segment.trainer.callback.attribute_traces", None)  # would fail
    trainer.train()
    assert trainer.segment_table.trained.tolist() == table


def test_question_rows_are_rendered_as_the_paper_does(tmp_path, tokenizer):
    rows = make_rows(2)
    trainer = make_trainer(tmp_path, tokenizer, Dataset.from_list(rows))
    for row, prepared in zip(rows, trainer.train_dataset, strict=True):
        expected = (
            f"<|im_start|>user\n{row['question']}\nPlease reason step by step, and put your final answer within "
            f"\\boxed{{}}.<|im_end|>\n<|im_start|>assistant\n{row['solution']}<|im_end|>"
        )
        assert tokenizer.decode(prepared["input_ids"]) == expected
        trained = [
            token for token, label in zip(prepared["input_ids"], prepared["labels"], strict=True) if label != -100
        ]
        assert tokenizer.decode(trained) == row["solution"] + "<|im_end|>"


R1_TEMPLATE = Path(trl.__file__).parent / "chat_templates" / "deepseekv3.jinja"


def test_a_template_that_drops_the_reasoning_is_an_error_that_names_the_cure(tmp_path, tokenizer):
    tokenizer.chat_template = R1_TEMPLATE.read_text()
    tokenizer.bos_token = "<|endoftext|>"
    with pytest.raises(ValueError, match="completion_rendering='verbatim'"):
        make_trainer(tmp_path, tokenizer, conversational_prompt_completion(make_rows(2)))


def test_verbatim_rendering_trains_what_such_a_template_drops(tmp_path, tokenizer):
    tokenizer.chat_template = R1_TEMPLATE.read_text()
    tokenizer.bos_token = "<|endoftext|>"
    rows = make_rows(2)
    dataset = conversational_prompt_completion(rows)
    trainer = make_trainer(tmp_path, tokenizer, dataset, completion_rendering="verbatim")
    rendered = tokenizer.decode(trainer.train_dataset[0]["input_ids"])
    # The template's generation prompt may hold the opening tag already
    assert rendered.endswith(rows[0]["solution"].removeprefix("<think>\n") + "<|im_end|>")
    assert rendered.count("<think>") == 1
    assert rendered.count("<|endoftext|>") == 1
    assert trainer.segment_table.num_segments.min() >= 3


def test_traces_that_cannot_be_attributed_are_counted_named_and_trained_in_full(tmp_path, tokenizer, capfd):
    rows = make_rows(6)
    rows[1]["solution"], rows[1]["answer"] = "No tags and no\n\nWait box.", None
    rows[2]["solution"] = "<think>\n</think>\\boxed{3}"
    rows[3]["answer"] = ""
    rows[4]["solution"] = "<think>One piece.</think>\\boxed{3}"
    for index, row in enumerate(rows):
        row["id"] = f"trace-{index}"
    rows.append(dict(rows[0]))
    trainer = make_trainer(tmp_path, tokenizer, messages(rows), tau=0.2, keep_last=0, max_steps=1)
    ids = Dataset.from_list(rows)["id"]
    trainer = make_trainer(
        tmp_path, tokenizer, messages(rows).add_column("id", ids), tau=0.2, keep_last=0, max_steps=1
    )
    trainer.train()
    shown = capfd.readouterr()
    assert re.search(r"trained in full\s+4 traces", shown.out)
    for reason, name in [
        ("no answer", "trace-1"),
        ("no reasoning", "trace-2"),
        ("answer is empty", "trace-3"),
        ("one segment", "trace-4"),
    ]:
        assert re.search(rf"1 x .*{reason}.*: {name}", shown.out)
    masked = [
        trainer.data_collator([trainer.train_dataset[i]])["labels"].shape[1]
        - (trainer.data_collator([trainer.train_dataset[i]])["labels"] != -100).sum().item()
        for i in range(7)
    ]
    assert masked[1:5] == [0, 0, 0, 0]
    assert masked[0] > 0
    assert masked[6] == masked[0]


def test_rows_without_marks_are_named_in_training_too(tmp_path, tokenizer, trl_segment_log):
    rows = [{"prompt": "1 + 1?", "completion": f"One.\n\nWait, {i}.\n\nIt is \\boxed{{2}}."} for i in range(3)]
    rows[0]["completion"] = "<think>One.\n\nWait, 0.</think>\\boxed{2}"
    make_trainer(tmp_path, tokenizer, Dataset.from_list(rows))
    assert "2 of 3 traces do not say where their reasoning or their answer stands" in logged(trl_segment_log)


def test_traces_beyond_max_length_are_counted_and_named(tmp_path, tokenizer, caplog):
    dataset = messages(make_rows(6)).add_column("id", list("abcdef"))
    lengths = [
        len(ids) for ids in make_trainer(tmp_path, tokenizer, dataset, max_length=None).train_dataset["input_ids"]
    ]
    limit = sorted(lengths)[3]
    caplog.clear()
    make_trainer(tmp_path, tokenizer, dataset, max_length=limit)
    shown = caplog.text
    caplog.clear()
    cut = [name for name, length in zip("abcdef", lengths, strict=True) if length > limit]
    assert (
        f"{len(cut)} of 6 traces are longer than max_length={limit} tokens (the longest has {max(lengths)})" in shown
    )
    assert f"kept or not: {', '.join(cut)}" in shown
    make_trainer(tmp_path, tokenizer, dataset, max_length=max(lengths))
    make_trainer(tmp_path, tokenizer, dataset, max_length=limit, packing=True, packing_strategy="wrapped")
    assert "longer than" not in caplog.text


def test_the_summary_counts_what_max_length_leaves(tmp_path, tokenizer):
    """Against the labels of the batches, less what stands outside the reasoning."""
    dataset = messages(make_rows(6))
    lengths = [
        len(ids)
        for ids in make_trainer(tmp_path / "a", tokenizer, dataset, max_length=None).train_dataset["input_ids"]
    ]
    limit = min(lengths) // 2  # inside every reasoning
    trainer = make_trainer(tmp_path / "b", tokenizer, dataset, max_length=limit)
    everything = trainer.select_segments(write_store(tmp_path / "all", trainer, lambda i, count: i < count))
    some = trainer.select_segments(write_store(tmp_path / "some", trainer, lambda i, count: i == 0))
    assert everything.trained_tokens == everything.reached_tokens == some.reached_tokens > 0
    batches = [trainer.data_collator([row]) for row in trainer.train_dataset]
    labeled = sum((batch["labels"] != -100).sum().item() for batch in batches)
    units = [unit for row in trainer.train_dataset for unit in row["segment_units"]]
    completion = [label for row in trainer.train_dataset for label in row["labels"]]
    outside = sum(unit == 0 and label != -100 for unit, label in zip(units, completion, strict=True))
    assert some.trained_tokens == labeled - outside < some.reached_tokens
    assert f"within max_length {some.trained_tokens:>9,} of {some.reached_tokens:,} (" in str(some)
    whole = make_trainer(tmp_path / "c", tokenizer, dataset, max_length=max(lengths))
    assert "within max_length" not in str(
        whole.select_segments(write_store(tmp_path / "w", whole, lambda i, n: i == 0))
    )


def test_evaluation_loss_is_that_of_the_full_completion(tmp_path, tokenizer):
    train, test = messages(make_rows(8)).select(range(4)), messages(make_rows(8)).select(range(4, 8))
    theirs = make_trainer(tmp_path / "a", tokenizer, train, SFTTrainer, eval_dataset=test)
    ours = make_trainer(tmp_path / "b", tokenizer, train, eval_dataset={"held_out": test, "train": test}, tau=0.2)
    expected = theirs.evaluate()["eval_loss"]
    losses = ours.evaluate()
    assert losses["eval_held_out_loss"] == expected
    assert losses["eval_train_loss"] == expected


def test_formatting_func_and_callables(tmp_path, tokenizer):
    rows = Dataset.from_list([{"q": row["question"], "s": row["solution"]} for row in make_rows(4)])
    trainer = make_trainer(
        tmp_path,
        tokenizer,
        rows,
        formatting_func=lambda row: f"Q: {row['q']}\n{row['s']}",
        segmenter=lambda reasoning: reasoning.splitlines(keepends=True),
        answer_func=lambda row: re.search(r"\d+", row["q"]).group(),
        max_steps=1,
    )
    trainer.train()
    store = AttributionStore(tmp_path / "_attributions")
    _, trace = trainer.get_trace(2)
    assert trace.answer == "5"
    assert len(store[trace.key].num_tokens) == trace.completion[slice(*trace.reasoning)].count("\n")
    assert store.settings.segmenter == "custom" and "lambda" in store.settings.custom_segmenter


def test_a_store_that_lacks_traces_is_refused(tmp_path, tokenizer):
    rows = make_rows(4)
    make_trainer(tmp_path / "a", tokenizer, messages(rows[:3]), max_steps=1).train()
    trainer = make_trainer(
        tmp_path / "b", tokenizer, messages(rows), attributions=str(tmp_path / "a" / "_attributions")
    )
    with pytest.raises(ValueError, match=r"1 of 4 traces have no attribution.*row 3"):
        trainer.train()


def test_a_used_output_folder_is_made_anew_for_another_model_and_found_again(tmp_path, tokenizer, trl_segment_log):
    """A cell that is run again, another model with the same `output_dir`: SFTTrainer goes on, and so does this one."""
    dataset = messages(make_rows(2))
    make_trainer(tmp_path, tokenizer, dataset, max_steps=1).train()
    first = dict(AttributionStore(tmp_path / "_attributions").items())
    other = make_trainer(tmp_path, tokenizer, dataset, max_steps=1, model=tiny_model(tokenizer, seed=1))
    other.train()
    assert "do not fit this run and are made again" in logged(trl_segment_log)
    assert "weights of the attribution model" in logged(trl_segment_log)
    second = dict(AttributionStore(tmp_path / "_attributions").items())
    assert second.keys() == first.keys() and second != first
    # The first model again: its scores are still there, and nothing is attributed twice
    make_trainer(tmp_path, tokenizer, dataset, max_steps=1).train()
    assert dict(AttributionStore(tmp_path / "_attributions").items()) == first


def test_a_store_that_the_user_points_to_is_refused_where_it_lacks_traces(tmp_path, tokenizer):
    make_trainer(tmp_path / "a", tokenizer, messages(make_rows(2)), max_steps=1).train()
    options = {"attributions": str(tmp_path / "a" / "_attributions"), "max_steps": 1}
    trainer = make_trainer(tmp_path / "b", tokenizer, messages(make_rows(3)), **options)
    with pytest.raises(ValueError, match=r"1 of 3 traces have no attribution in the store at .*: row 2"):
        trainer.train()


def test_plain_sft_config_is_converted(tmp_path, tokenizer):
    trainer = SegmentSelectiveSFTTrainer(
        tiny_model(tokenizer),
        SFTConfig(str(tmp_path), **QUICK),
        train_dataset=messages(make_rows(2)),
        processing_class=tokenizer,
    )
    assert trainer.args.tau == 0.7
    assert trainer.args.max_length == 256


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau": 0}, "tau"),
        ({"tau": 1.1}, "tau"),
        ({"beta": -0.1}, "beta"),
        ({"segmenter": "sentences"}, "Unknown segmenter 'sentences'"),
        ({"transition": "always"}, "transition"),
        ({"completion_rendering": "raw"}, "completion rendering"),
        ({"attribution_rule": "simpson's"}, "quadrature rule"),
        ({"attribution_evaluations": 0}, "at least"),
        ({"attribution_baseline": "nothing"}, "baseline"),
        ({"answer_template": "the answer is"}, "answer_template"),
    ],
)
def test_bad_values_end_in_a_clear_error(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        SegmentSelectiveSFTConfig(str(tmp_path), bf16=False, use_cpu=True, **options)


def test_bad_datasets_end_in_a_clear_error(tmp_path, tokenizer):
    dataset = messages(make_rows(2))
    with pytest.raises(ValueError, match="empty"):
        make_trainer(tmp_path, tokenizer, dataset.select([]))
    with pytest.raises(ValueError, match="IterableDataset"):
        make_trainer(tmp_path, tokenizer, IterableDataset.from_generator(lambda: iter(dataset)))
    with pytest.raises(ValueError, match="already tokenized"):
        make_trainer(tmp_path, tokenizer, Dataset.from_list([{"input_ids": [1, 2, 3]}]))
    with pytest.raises(ValueError, match="skip_prepare_dataset"):
        make_trainer(tmp_path, tokenizer, dataset, dataset_kwargs={"skip_prepare_dataset": True})


def test_a_processor_for_images_ends_in_a_clear_error(tmp_path, tokenizer):
    from transformers import ProcessorMixin

    class Processor(ProcessorMixin):
        def __init__(self):
            pass

    with pytest.raises(ValueError, match="sees images"):
        make_trainer(tmp_path, Processor(), messages(make_rows(2)), model=tiny_model(tokenizer))


def test_no_pad_token_anywhere_is_an_error_that_names_alternatives(tokenizer):
    from trl_segment import IntegratedGradients

    with pytest.raises(ValueError, match=r"attribution_baseline.*'eos'"):
        IntegratedGradients(tiny_model(tokenizer, pad_token_id=None))


def test_trls_own_script_runs_with_the_two_names_swapped(tmp_path, tokenizer, monkeypatch):
    source = (Path(trl.__file__).parent / "scripts" / "sft.py").read_text()
    source = source.replace("from trl import SFTTrainer, ", "from trl import ")
    source = source.replace("ScriptArguments, SFTConfig, TrlParser", "ScriptArguments, TrlParser")
    swapped = (
        "from trl_segment import SegmentSelectiveSFTConfig as SFTConfig\n"
        "from trl_segment import SegmentSelectiveSFTTrainer as SFTTrainer\n"
    )
    script = tmp_path / "sft.py"
    script.write_text(source.replace("import argparse\n", f"import argparse\n{swapped}", 1))
    assert source.count("SFTTrainer") >= 1
    tiny_model(tokenizer).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    data = tmp_path / "data"
    data.mkdir()
    with open(data / "train.jsonl", "w") as file:
        file.writelines(json.dumps({"messages": row["messages"]}) + "\n" for row in messages(make_rows(4)))
    output = tmp_path / "out"
    argv = (
        f"sft.py --model_name_or_path {tmp_path / 'model'} --dataset_name {data} --output_dir {output} --max_steps 1 "
        "--bf16 False --use_cpu --report_to none --tau 0.4 --attribution_evaluations 2 --attribution_rule midpoint"
    )
    monkeypatch.setattr("sys.argv", argv.split())
    exec(compile(script.read_text(), str(script), "exec"), {"__name__": "__main__"})
    assert (output / "model.safetensors").exists()
    assert (output / "_attributions" / "settings.json").exists()


def test_model_card_cites_the_paper(tmp_path, tokenizer):
    trainer = make_trainer(tmp_path, tokenizer, messages(make_rows(2)))
    trainer.create_model_card(model_name="tiny")
    card = (tmp_path / "README.md").read_text()
    assert "2602.00425" in card
    assert "trl-segment" in card
    assert "Segment-selective SFT" in card


def test_preparing_the_real_traces_places_every_segment(tmp_path):
    tokenizer = real_tokenizer("qwen2")
    rows = Dataset.from_list(real_rows()).select(range(30, 46))
    trainer = make_trainer(
        tmp_path,
        tokenizer,
        rows,
        model=tiny_model(tokenizer, hidden_size=16),
        max_length=None,
        attribution_baseline="eos",
    )
    for index, row in enumerate(trainer.train_dataset):
        _, trace = trainer.get_trace(index)
        units = np.array(row["segment_units"]) - trainer.segment_table.offsets[index]
        for i, piece in enumerate(trace.segment_texts[1:], start=1):
            tokens = [t for t, unit in zip(row["input_ids"], units, strict=True) if unit in (2 * i + 1, 2 * i + 2)]
            # Its newlines went with the segment before, unless they are tokens of their own
            assert piece.strip() in piece
            assert tokenizer.decode(tokens).strip() == piece.strip()
