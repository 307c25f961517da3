"""Options of SFTTrainer one by one (docs/compatibility.md): its run when all is kept, the right text when not."""

import inspect
import itertools
import json
import re
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import trl
from datasets import Dataset, DatasetDict
from helpers import make_rows, tiny_model, tiny_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from test_trainer import (
    ALL_SCORED,
    conversational_prompt_completion,
    curve,
    make_trainer,
    messages,
    prompt_completion,
    sharegpt,
    text,
    trained_text,
    write_store,
)
from trl import SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from trl_segment import SegmentSelectiveSFTTrainer, SelectionConfig
from trl_segment.cli import main as cli
from trl_segment.store import AttributionStore
from trl_segment.trainer.callback import STORE_FOLDER


REASONING = ("One and one. Two.", "\n\nWait, no. Three.", "\n\nAlternatively, count. Two.")
SOLUTION = f"<think>\n{''.join(REASONING)}\n</think>\n\nIt is \\boxed{{2}}."
TEMPLATES = Path(trl.__file__).parent / "chat_templates"


# Every segment is kept, by a selection that goes the whole way: numbered, attributed, selected, looked up
EVERY = 10**6


def assert_same_training(folder, tokenizer, dataset, make_model=tiny_model, **options):
    """Losses, gradient norms and learning rates of SFTTrainer's, with every segment kept after a real attribution."""
    # both made before TRL gives the tokenizer other special tokens
    models = [make_model(tokenizer), make_model(tokenizer)]
    theirs = make_trainer(folder / "sft", tokenizer, dataset, SFTTrainer, model=models[0], **options)
    expected = curve(theirs)
    assert expected
    # built when the other has run: a trainer seeds the generators when it is built
    ours = make_trainer(folder / "all", tokenizer, dataset, model=models[1], keep_first=EVERY, **options)
    assert curve(ours) == expected
    return theirs, ours


def keep(folder, trainer, kept):
    """Select just the segments `kept(index, count)` of every trace, without the openings of others."""
    store = write_store(folder / "store", trainer, kept)
    return trainer.select_segments(store, SelectionConfig(transition="none", **ALL_SCORED))


def shown(tokenizer, trainer, index=0):
    """The trained text of a row of the training set, `_` for what is not."""
    return trained_text(
        tokenizer, {name: row[0] for name, row in trainer.data_collator([trainer.train_dataset[index]]).items()}
    )


# Formats


TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds two numbers.", "parameters": {}}}]
# Says before the conversation what it was called with, so that a dropped argument changes the tokens
ARGUMENTS_TEMPLATE = "{% if tools %}{{ tools | tojson }}{% endif %}{{ style | default('') }}"


@pytest.mark.parametrize("tools", [TOOLS, json.dumps(TOOLS)], ids=["list", "json"])
@pytest.mark.parametrize("make", [messages, conversational_prompt_completion])
def test_tools_and_template_arguments_of_a_row_reach_the_template(make, tools, tmp_path, tokenizer):
    tokenizer.chat_template = ARGUMENTS_TEMPLATE + tokenizer.chat_template
    rows = [{**row, "tools": tools, "chat_template_kwargs": {"style": "Short."}} for row in make(make_rows(4))]
    options = {"max_length": 512, "max_steps": 10}
    _, trainer = assert_same_training(tmp_path, tokenizer, Dataset.from_list(rows), **options)
    rendered = tokenizer.decode(trainer.train_dataset[0]["input_ids"])
    assert "Adds two numbers." in rendered
    assert "Short.<|im_start|>user" in rendered
    keep(tmp_path, trainer, lambda i, count: i == 0)
    trained = shown(tokenizer, trainer)
    assert "I need to add 3 and 11." in trained
    assert "Wait, let me check" not in trained


@pytest.mark.parametrize("assistant_only", [False, True])
def test_of_several_turns_the_last_is_segmented(assistant_only, tmp_path, tokenizer):
    earlier = "<think>Hm. So.\n\nWait, a greeting. So.\n\nHowever, fine. Yes.</think>Hello."
    turns = [("system", "Be kind."), ("user", "Hi."), ("assistant", earlier), ("user", "1 + 1?")]
    turns = [{"role": role, "content": content} for role, content in [*turns, ("assistant", SOLUTION)]]
    dataset = Dataset.from_list([{"messages": turns}] * 4)
    _, trainer = assert_same_training(tmp_path, tokenizer, dataset, max_steps=10, assistant_only_loss=assistant_only)
    assert trainer.segment_table.num_segments.tolist() == [3] * 4
    keep(tmp_path, trainer, lambda i, count: i == 1)
    # `.\n\n` is one token and goes with the segment that it starts in
    last = "<think>\n_Wait, no. Three.\n\n_</think>\n\nIt is \\boxed{2}.<|im_end|>\n"
    if assistant_only:
        assert shown(tokenizer, trainer) == f"_{earlier}<|im_end|>\n_{last}"
    else:
        before = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi.<|im_end|>\n<|im_start|>assistant\n"
        between = "<|im_end|>\n<|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n"
        assert shown(tokenizer, trainer) == before + earlier + between + last


@pytest.mark.parametrize("options", [{}, {"assistant_only_loss": True}], ids=["all", "assistant"])
def test_reasoning_in_a_field_of_its_own(options, tmp_path, tokenizer):
    """Qwen3's template renders it; with the loss on the assistant TRL trains with another template of its own."""
    tokenizer.chat_template = (TEMPLATES / "qwen3.jinja").read_text()
    rows = [
        [
            {"role": "user", "content": f"1 + 1? ({i})"},
            {"role": "assistant", "content": "It is \\boxed{2}.", "reasoning_content": "".join(REASONING)},
        ]
        for i in range(4)
    ]
    dataset = Dataset.from_list([{"messages": row} for row in rows])
    _, trainer = assert_same_training(tmp_path, tokenizer, dataset, max_steps=10, **options)
    keep(tmp_path, trainer, lambda i, count: i == 0)
    trained = shown(tokenizer, trainer).removesuffix("\n").removesuffix("_")
    # the line break before the closing tag shares a token with the end of the last segment
    assert trained.endswith("<think>\nOne and one. Two.\n\n_</think>\n\nIt is \\boxed{2}.<|im_end|>")
    assert trained.startswith("_" if options else "<|im_start|>user\n1 + 1? (0)")


def test_a_template_from_a_file(tmp_path, tokenizer):
    """`chat_template_path` gives it to the tokenizer only while TRL builds its trainer."""
    tokenizer.chat_template = None
    options = {"chat_template_path": str(TEMPLATES / "qwen3.jinja"), "max_steps": 10}
    dataset = conversational_prompt_completion(make_rows(4))
    _, trainer = assert_same_training(tmp_path, tokenizer, dataset, **options)
    assert trainer.segment_table.num_segments.min() >= 3


def test_a_mixture_of_datasets_in_a_config_file(tmp_path, tokenizer, capsys):
    tiny_model(tokenizer).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = list(messages(make_rows(5)).select_columns(["messages"]))
    for name, part in (("first", rows[:2]), ("second", rows[2:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    (tmp_path / "config.yaml").write_text(
        f"model_name_or_path: {tmp_path / 'model'}\n"
        f"output_dir: {tmp_path / 'out'}\n"
        f"datasets:\n"
        f"  - path: json\n    data_files: {tmp_path / 'first.jsonl'}\n"
        f"  - path: json\n    data_files: {tmp_path / 'second.jsonl'}\n"
        "max_steps: 1\nbf16: false\nuse_cpu: true\nreport_to: none\ntau: 0.3\n"
        "attribution_rule: midpoint\nattribution_evaluations: 2\n"
    )
    cli.main(["sft", "--config", str(tmp_path / "config.yaml")])
    assert "Segment selection over 5 traces" in capsys.readouterr().out
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_given_collators_are_wrapped(tmp_path, tokenizer):
    class Reversed(DataCollatorForLanguageModeling):
        """Puts the examples of a batch in another order, which masks made after it would not follow."""

        def torch_call(self, examples):
            return super().torch_call(examples[::-1])

    def build(cls, folder, **options):
        trainer = make_trainer(folder, tokenizer, dataset, cls, **options)
        return cls(
            tiny_model(tokenizer),
            trainer.args,
            train_dataset=dataset,
            processing_class=tokenizer,
            data_collator=Reversed(pad_token_id=tokenizer.pad_token_id),
        )

    dataset = messages(make_rows(4))
    ours = build(SegmentSelectiveSFTTrainer, tmp_path / "a", keep_first=EVERY, max_steps=10)
    assert curve(ours) == curve(build(SFTTrainer, tmp_path / "b", max_steps=10))
    trainer = build(SegmentSelectiveSFTTrainer, tmp_path / "c", **ALL_SCORED)
    keep(tmp_path, trainer, lambda i, count: i == 0)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    for i in range(4):
        row = {name: batch[name][3 - i] for name in ("input_ids", "labels")}
        assert f"I need to add {3 + i} and" in trained_text(tokenizer, row)
        assert "let me check step 2" not in trained_text(tokenizer, row)


# Masks compose


@pytest.mark.parametrize(
    ("make", "options", "prompt"),
    [
        (messages, {"assistant_only_loss": True}, False),
        (conversational_prompt_completion, {"assistant_only_loss": True}, False),
        (conversational_prompt_completion, {}, False),
        (conversational_prompt_completion, {"completion_only_loss": False}, True),
        (prompt_completion, {"completion_only_loss": True}, False),
        (prompt_completion, {"completion_only_loss": False}, True),
    ],
    ids=lambda value: ",".join(value) or "default" if isinstance(value, dict) else getattr(value, "__name__", None),
)
def test_masks_are_intersected(make, options, prompt, tmp_path, tokenizer):
    dataset = make(make_rows(2))
    theirs = make_trainer(tmp_path / "a", tokenizer, dataset, SFTTrainer, **options).train_dataset
    trainer = make_trainer(tmp_path / "b", tokenizer, dataset, transition="none", **options, **ALL_SCORED)
    keep(tmp_path, trainer, lambda i, count: i != 1)
    for row, before in zip(trainer.train_dataset, theirs, strict=True):
        labels = trainer.data_collator([row])["labels"][0].tolist()
        dropped = [a for a, b in zip(before["labels"], labels, strict=True) if a != b]
        # segment 1 and nothing else, of what TRL trains
        assert re.fullmatch(r"\S+, let me check step 1: \d+ \+ \d+ is \d+\.(\n\n)?", tokenizer.decode(dropped))
        assert ("What is" in tokenizer.decode([label for label in labels if label != -100])) == prompt


# Layouts


@pytest.mark.parametrize(
    "options",
    [
        {"train_sampling_strategy": "group_by_length"},
        {"train_sampling_strategy": "sequential", "remove_unused_columns": False},
        {"dataset_num_proc": 2},
        {"neftune_noise_alpha": 5.0},
        {"bf16": True},
        {"label_smoothing_factor": 0.1},
        {"eval_strategy": "steps", "eval_steps": 2, "eval_packing": False, "packing": True},
        {"average_tokens_across_devices": False, "gradient_accumulation_steps": 2},
        {"eos_token": "<|endoftext|>", "pad_token": "<|im_start|>"},
        {"max_length": 100, "completion_only_loss": True},
    ],
    ids=lambda options: ",".join(options),
)
def test_options_equal_sfttrainer_when_all_is_kept(options, tmp_path, tokenizer):
    make = conversational_prompt_completion if options.get("completion_only_loss") else messages
    rows = make_rows(8)
    # a prompt that fills `max_length` alone: TRL leaves such a row out
    rows[2]["question"] = "many words " * 60
    evaluated = {"eval_dataset": make(make_rows(2))} if options.get("eval_strategy") else {}
    theirs, ours = assert_same_training(tmp_path, tokenizer, make(rows), **options, **evaluated)
    assert theirs.train_dataset["labels"][:] == ours.train_dataset["labels"][:]
    assert len(ours.train_dataset) == 7 or not options.get("completion_only_loss")
    for key in ("eval_loss", "eval_mean_token_accuracy") if evaluated else ():
        values = [[log[key] for log in trainer.state.log_history if key in log] for trainer in (theirs, ours)]
        assert values[0] == values[1] != []


def test_noise_on_the_embeddings_does_not_reach_the_attribution(tmp_path, tokenizer):
    """NEFTune's hook hangs on the embeddings before training begins."""
    dataset = messages(make_rows(2))
    for name, options in (("a", {}), ("b", {"neftune_noise_alpha": 50.0})):
        make_trainer(tmp_path / name, tokenizer, dataset, max_steps=1, **options).train()
    plain, noisy = (AttributionStore(tmp_path / name / STORE_FOLDER) for name in "ab")
    for key in plain:
        assert noisy[key].sum_signed == plain[key].sum_signed


def test_spawned_workers_see_a_table_that_changes_later(tmp_path, tokenizer):
    """They get the collator by pickle; its table must stay the one in shared memory."""
    trainer = make_trainer(
        tmp_path,
        tokenizer,
        messages(make_rows(2)),
        dataloader_num_workers=1,
        dataloader_persistent_workers=True,
        dataloader_multiprocessing_context="spawn",
        **ALL_SCORED,
    )
    loader = trainer.get_train_dataloader()

    def trained():
        return sum((batch["labels"] != -100).sum().item() for batch in loader)

    whole = trained()
    keep(tmp_path, trainer, lambda i, count: i == 0)
    assert 0 < trained() < whole


def test_activations_are_offloaded_in_training_and_not_in_attribution(tmp_path, tokenizer, monkeypatch):
    """TRL's own offloading needs an accelerator, so that torch's stands in for it."""
    entered = []

    class Offload(torch.autograd.graph.save_on_cpu):
        def __enter__(self):
            entered.append(True)
            return super().__enter__()

    monkeypatch.setattr("trl.trainer.sft_trainer.get_act_offloading_ctx_manager", lambda model: Offload())
    assert_same_training(tmp_path, tokenizer, messages(make_rows(4)), activation_offloading=True)
    assert len(entered) == 10 + 10


LAYOUTS = {
    "accumulated": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 6},
    "uneven": {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
    "multiple": {"pad_to_multiple_of": 96},
    "checkpointed": {"gradient_checkpointing": True},
    "padding_free": {"padding_free": True, "max_length": None},
    "packed": {"packing": True, "max_length": 4096},
    "packs": {"packing": True, "max_length": 500, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 3},
    "split": {"packing": True, "max_length": 4096, "packing_strategy": "bfd_split"},
}


@pytest.mark.parametrize(
    ("dropped", "layouts"),
    [("mask", LAYOUTS), ("weight", ["uneven", "padding_free", "packs"])],
    ids=["mask", "weight"],
)
def test_every_layout_of_a_batch_has_the_same_loss_and_gradient(dropped, layouts, tmp_path, tokenizer):
    """One step over all rows, with a selection that leaves very different numbers of tokens to them."""
    dataset = messages(make_rows(6))
    options = {
        "dropped_segments": dropped,
        "assistant_only_loss": True,
        "max_steps": 1,
        "per_device_train_batch_size": 6,
        "max_length": 1024,
        **ALL_SCORED,
    }
    draft = make_trainer(tmp_path / "draft", tokenizer, dataset, **options)
    write_store(tmp_path / "store", draft, lambda i, count: i != 1 if count % 2 else i == 1)
    stored = {"attributions": str(tmp_path / "store")}
    reference = make_trainer(tmp_path / "padded", tokenizer, dataset, **options, **stored)
    ((loss, norm, _),) = curve(reference)
    assert reference.state.log_history[0]["trained_token_share"] < 1
    for name in layouts:
        trainer = make_trainer(tmp_path / name, tokenizer, dataset, **{**options, **LAYOUTS[name]}, **stored)
        if name == "packs":
            assert len(trainer.train_dataset) == 3
        ((other_loss, other_norm, _),) = curve(trainer)
        assert other_loss == pytest.approx(loss, rel=1e-5), name
        assert other_norm == pytest.approx(norm, rel=1e-5), name


@pytest.mark.parametrize("mode", ["keep_start", "keep_end"])
def test_rows_cut_in_the_middle_of_a_segment(mode, tmp_path, tokenizer):
    dataset = Dataset.from_list(
        [{"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": SOLUTION}]}]
    )
    whole = "<|im_start|>user\n?<|im_end|>\n<|im_start|>assistant\n" + SOLUTION + "<|im_end|>\n"
    before, after = whole.split("Alternatively, count.")
    # of the dropped segment 1 and the kept segment 2, half of segment 2 stays; its end shares a token with `\n`
    length = len(tokenizer(before + "Alternatively," if mode == "keep_start" else after)["input_ids"])
    trainer = make_trainer(tmp_path, tokenizer, dataset, max_length=length, truncation_mode=mode)
    keep(tmp_path, trainer, lambda i, count: i == (2 if mode == "keep_start" else 1))
    start = before.split("One and")[0] + "_Alternatively,"
    assert shown(tokenizer, trainer) == (start if mode == "keep_start" else "_" + after.split(" Two.\n")[1])


# Every token, by an oracle that knows where it put each character


WORDS = st.sampled_from(["one", "two", "né", "数学", "🙂", "x = 3.", "so.", "<b>", "a\nb", "12"])
OPENERS = st.sampled_from(["Wait,", "Alternatively,", "But wait,", "However,"])


@st.composite
def traces(draw, number):
    """Pieces of a reasoning, the first one without an opener, and which of them are kept."""
    pieces = []
    for i in range(draw(st.integers(1, 5))):
        body = " ".join(draw(st.lists(WORDS, min_size=1, max_size=6)))
        pieces.append(f"\n\n{draw(OPENERS)} {body}" if i else f"\nRow {number}: {body}")
    kept = draw(st.lists(st.booleans(), min_size=len(pieces), max_size=len(pieces)))
    kept[draw(st.integers(0, len(pieces) - 1))] = True
    return pieces, kept


MAKERS = [messages, prompt_completion, conversational_prompt_completion, text, sharegpt]
CUTS = [
    {"max_length": None},
    {"max_length": 40},
    {"max_length": 40, "truncation_mode": "keep_end"},
    {"max_length": 50, "packing": True},
    {"max_length": 50, "packing": True, "packing_strategy": "bfd_split"},
    {"max_length": 50, "packing": True, "packing_strategy": "wrapped"},
    {"max_length": None, "padding_free": True},
]


def expected_row(tokenizer, make, row, pieces, kept, transition):
    """Token IDs of an example and its labels, from flags of its characters."""
    if make in (messages, conversational_prompt_completion, sharegpt):
        prompt = f"<|im_start|>user\n{row['question']}<|im_end|>\n<|im_start|>assistant\n"
        whole = f"{prompt}{row['solution']}<|im_end|>\n"
    else:
        prompt = f"Q: {row['question']}\n" + "A: " * (make is prompt_completion)
        whole = f"{prompt}{row['solution']}<|im_end|>"
    trained = np.ones(len(whole) + 1, dtype=bool)
    if make in (prompt_completion, conversational_prompt_completion):
        trained[: len(prompt.rstrip(" "))] = False
    position = len(prompt) + len("<think>")
    for i, (piece, keeps) in enumerate(zip(pieces, kept, strict=True)):
        opening = len(re.match(r"\s*\w+", piece).group())
        says = transition == "every" or (transition == "after_kept" and i > 0 and kept[i - 1])
        trained[position : position + opening] = keeps or says
        trained[position + opening : position + len(piece)] = keeps
        position += len(piece)
    encoded = tokenizer(whole, return_offsets_mapping=True)
    starts = [start for start, _ in encoded["offset_mapping"]]
    ids = encoded["input_ids"]
    return ids, [token if trained[start] else -100 for token, start in zip(ids, starts, strict=True)]


def pieces_of(trainer):
    """Pairs of token IDs and labels as the collator gets them: of each example, of each in a pack."""
    for row in trainer.train_dataset:
        labels = np.where(trainer.segment_table.trained.numpy()[row["segment_units"]], row["labels"], -100).tolist()
        start = 0
        for length in row.get("seq_lengths") or [len(labels)]:
            yield tuple(row["input_ids"][start : start + length]), tuple(labels[start : start + length])
            start += length


@settings(max_examples=25)
@given(data=st.data())
def test_exactly_the_right_tokens_are_left_out(data):
    tokenizer = tiny_tokenizer()
    make, cut = data.draw(st.sampled_from(MAKERS)), data.draw(st.sampled_from(CUTS))
    transition = data.draw(st.sampled_from(["after_kept", "every", "none"]))
    drawn = [data.draw(traces(number)) for number in range(data.draw(st.integers(1, 4)))]
    rows = [
        {
            "question": f"Which ({number})?",
            "solution": f"<think>{''.join(pieces)}</think>It is \\boxed{{{number}}}.",
            "answer": "1",
        }
        for number, (pieces, _) in enumerate(drawn)
    ]
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(folder, tokenizer, make(rows), transition=transition, **cut, **ALL_SCORED)
        assert trainer.segment_table.num_segments.tolist() == [len(kept) for _, kept in drawn]
        flags = iter([flag for _, kept in drawn for flag in kept])
        trainer.select_segments(write_store(Path(folder, "store"), trainer, lambda i, count: next(flags)))
        # what comes out of the collator is what went into it
        batch = trainer.data_collator(list(trainer.train_dataset))
    found = list(pieces_of(trainer))
    assert (batch["labels"] != -100).sum() == sum(
        sum(label != -100 for label in labels[bool(trainer.padding_free) :]) for _, labels in found
    )
    wanted = [
        expected_row(tokenizer, make, row, pieces, kept, transition)
        for row, (pieces, kept) in zip(rows, drawn, strict=True)
    ]
    length, strategy = cut["max_length"], cut.get("packing_strategy", "bfd") if cut.get("packing") else None
    if strategy == "wrapped":
        for part in range(2):
            streams = [list(itertools.chain.from_iterable(pair[part] for pair in pairs)) for pairs in (found, wanted)]
            assert streams[0] == streams[1]
        return
    if strategy == "bfd_split":
        wanted = [
            (ids[i : i + length], labels[i : i + length]) for ids, labels in wanted for i in range(0, len(ids), length)
        ]
    elif length is not None:
        side = slice(-length, None) if cut.get("truncation_mode") else slice(length)
        # TRL takes out what has no label left, before segments are dropped
        wanted = [(ids[side], labels[side]) for ids, labels in wanted]
    assert Counter(found) == Counter((tuple(ids), tuple(labels)) for ids, labels in wanted)


# Life of a run


def test_two_trainers_in_one_process_do_not_disturb_each_other(tmp_path, tokenizer):
    options = {"tau": 0.3, "keep_last": 0, "max_steps": 2}
    datasets = {"a": messages(make_rows(4)), "b": conversational_prompt_completion(make_rows(3))}
    alone = {
        name: curve(make_trainer(tmp_path / name, tokenizer, dataset, **options)) for name, dataset in datasets.items()
    }
    first = make_trainer(tmp_path / "c", tokenizer, datasets["a"], **options)
    labels = {}
    first.select_segments(AttributionStore(tmp_path / "a" / STORE_FOLDER))
    labels["before"] = [first.data_collator([row])["labels"].tolist() for row in first.train_dataset]
    second = make_trainer(tmp_path / "d", tokenizer, datasets["b"], **options)
    assert curve(second) == alone["b"]
    labels["after"] = [first.data_collator([row])["labels"].tolist() for row in first.train_dataset]
    assert labels["before"] == labels["after"]
    torch.manual_seed(first.args.seed)
    assert curve(first) == alone["a"]


def test_shares_are_in_the_history_and_in_tensorboard(tmp_path, tokenizer, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    trainer = make_trainer(tmp_path, tokenizer, messages(make_rows(4)), tau=0.3, keep_last=0, report_to="tensorboard")
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert len(logs) == 10
    (file,) = (tmp_path / "events").rglob("events.*")
    events = EventAccumulator(str(file.parent))
    events.Reload()
    for name in ("trained_token_share", "trained_segment_share"):
        shares = [log[name] for log in logs]
        assert all(0 < share < 1 for share in shares)
        written = [event.value for event in events.Scalars(f"train/{name}")]
        assert written == pytest.approx(shares)


def test_evaluation_and_prediction_in_and_after_training(tmp_path, tokenizer):
    """Of several sets, with and without a function of the logits; shares are of training alone."""
    train, test = messages(make_rows(4)), messages(make_rows(6)).select([4, 5])
    sets = DatasetDict({"held_out": test, "train": train.select([0])})
    options = {"eval_strategy": "steps", "eval_steps": 1, "max_steps": 3, "eval_dataset": sets}
    trainers = assert_same_training(tmp_path, tokenizer, train, **options)
    histories = [
        [{k: v for k, v in log.items() if k.startswith("eval_") and "per_second" not in k} for log in logs]
        for logs in (trainer.state.log_history for trainer in trainers)
    ]
    for log in histories[0] + histories[1]:
        log.pop("eval_held_out_runtime", None)
        log.pop("eval_train_runtime", None)
    assert histories[0] == histories[1]
    assert sum("eval_held_out_loss" in log for log in histories[1]) == 3
    assert all("trained_token_share" in log for log in trainers[1].state.log_history if "loss" in log)
    for metric in ("entropy", "mean_token_accuracy"):
        values = [[log[metric] for log in t.state.log_history if metric in log] for t in trainers]
        assert values[0] == values[1]

    # an evaluation with a selection in force: still of the full completion
    keep(tmp_path, trainers[1], lambda i, count: i == 0)
    losses = [trainer.evaluate(test)["eval_loss"] for trainer in trainers]
    assert losses[0] == losses[1]
    predictions = [trainer.predict(trainer.eval_dataset["held_out"]) for trainer in trainers]
    assert np.array_equal(predictions[0].predictions, predictions[1].predictions)
    assert np.array_equal(predictions[0].label_ids, predictions[1].label_ids)
    assert predictions[0].metrics["test_loss"] == predictions[1].metrics["test_loss"]


def test_evaluating_the_prepared_training_set_is_of_the_full_completion_too(tmp_path, tokenizer):
    dataset = messages(make_rows(2))
    trainer = make_trainer(tmp_path, tokenizer, dataset)
    keep(tmp_path, trainer, lambda i, count: i == 0)
    assert trainer.evaluate(trainer.train_dataset)["eval_loss"] == trainer.evaluate(dataset)["eval_loss"]


def test_messages_are_evaluated_as_in_sfttrainer_beside_question_rows(tmp_path, tokenizer):
    rows = make_rows(2)
    trainer = make_trainer(tmp_path / "a", tokenizer, Dataset.from_list(rows), eval_dataset=messages(rows))
    reference = make_trainer(tmp_path / "b", tokenizer, messages(rows), SFTTrainer, eval_dataset=messages(rows))
    assert trainer.evaluate()["eval_loss"] == reference.evaluate()["eval_loss"]


def test_the_saved_model_is_an_ordinary_one(tmp_path, tokenizer):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    trainer = make_trainer(tmp_path, tokenizer, messages(make_rows(4)), tau=0.3, max_steps=2, learning_rate=0.01)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    ids = torch.tensor([[5, 6, 7]])
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(loaded(ids).logits, trainer.model.eval()(ids).logits)
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").chat_template == tokenizer.chat_template
    arguments = torch.load(tmp_path / "saved" / "training_args.bin", weights_only=False)
    assert arguments.tau == 0.3


# What cannot work


def own_loss(outputs, labels, num_items_in_batch=None):
    return outputs.logits.mean()


def test_weights_and_a_loss_of_ones_own_are_refused_at_construction(tmp_path, tokenizer):
    args = make_trainer(tmp_path, tokenizer, messages(make_rows(2)), dropped_segments="weight").args
    with pytest.raises(ValueError, match="compute_loss_func"):
        SegmentSelectiveSFTTrainer(
            tiny_model(tokenizer),
            args,
            train_dataset=messages(make_rows(2)),
            processing_class=tokenizer,
            compute_loss_func=own_loss,
        ).train()


def test_arguments_by_position_are_those_of_sfttrainer():
    theirs = list(inspect.signature(SFTTrainer.__init__).parameters)
    positional = [
        name
        for name, parameter in inspect.signature(SegmentSelectiveSFTTrainer.__init__).parameters.items()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    assert positional == theirs[: len(positional)]
