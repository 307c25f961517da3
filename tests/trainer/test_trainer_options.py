"""What the trainer does with dropped segments, and where its attributions come from, option by option."""

import itertools
import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers import make_rows, tiny_model, tiny_tokenizer
from test_trainer import ALL_SCORED, QUICK, curve, make_trainer, messages, write_store
from trl import SFTTrainer

from trl_segment import SegmentSelectiveSFTConfig, SelectionConfig
from trl_segment.selection import select
from trl_segment.store import AttributionStore


def token_losses(model, batch):
    """Negative log-likelihood of every label from full logits, 0 where there is none, shape (batch, tokens - 1)."""
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="none", ignore_index=-100
    )
    return losses.view(len(logits), -1)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_down_weighting_is_the_weighted_mean_over_the_accumulated_batch(accumulation, tmp_path, tokenizer):
    rows, dropped_weight, kept_weight = make_rows(6), 0.25, 1.5
    model = tiny_model(tokenizer)
    options = {
        "dropped_segments": "weight",
        "dropped_weight": dropped_weight,
        "kept_weight": kept_weight,
        "transition": "none",
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": accumulation,
        "max_steps": 1,
        "learning_rate": 1e-9,
        **ALL_SCORED,
    }
    draft = make_trainer(tmp_path / "draft", tokenizer, messages(rows), **options)
    write_store(tmp_path / "store", draft, lambda i, count: i % 2 == 0)
    trainer = make_trainer(
        tmp_path / "run", tokenizer, messages(rows), model=model, attributions=str(tmp_path / "store"), **options
    )
    trainer.train()
    logged = trainer.state.log_history[0]

    # By hand: odd segments weigh a quarter, even ones one and a half, what is outside the reasoning one
    trainer.model.eval()
    total = weight_sum = 0.0
    for _, batch in zip(range(accumulation), trainer.get_train_dataloader(), strict=False):
        losses = token_losses(tiny_model(tokenizer), batch)
        for row, ids in enumerate(batch["input_ids"].tolist()):
            prompt = tokenizer.decode(ids).split("What is ")[1].split("?")[0]
            source = next(r for r in rows if f"What is {prompt}?" in r["question"])
            chat = [
                {"role": "user", "content": source["question"]},
                {"role": "assistant", "content": source["solution"]},
            ]
            text = tokenizer.apply_chat_template(chat, tokenize=False)
            begin = text.index("<think>") + len("<think>")
            trace = next(t for _, t in map(trainer.get_trace, range(6)) if t.completion == source["solution"])
            weights = np.ones(len(text))
            for i, piece in enumerate(trace.segment_texts):
                weights[begin : begin + len(piece)] = kept_weight if i % 2 == 0 else dropped_weight
                begin += len(piece)
            starts = [
                a for a, _ in tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)["offset_mapping"]
            ]
            for position in range(1, len(starts)):
                total += weights[starts[position]] * losses[row, position - 1].item()
                weight_sum += weights[starts[position]]
    assert logged["loss"] == pytest.approx(total / weight_sum, rel=1e-5)
    assert 0 < logged["trained_token_share"] < 1


@pytest.mark.parametrize("layout", [{}, {"packing": True}, {"padding_free": True, "max_length": None}])
def test_weight_zero_is_the_mask_and_weight_one_is_sfttrainer(layout, tmp_path, tokenizer):
    dataset = messages(make_rows(6))
    masked = curve(make_trainer(tmp_path / "a", tokenizer, dataset, tau=0.3, **layout))
    zero = make_trainer(
        tmp_path / "b", tokenizer, dataset, tau=0.3, dropped_segments="weight", dropped_weight=0.0, **layout
    )
    for ours, theirs in zip(curve(zero), masked, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    one = make_trainer(
        tmp_path / "c", tokenizer, dataset, tau=0.3, dropped_segments="weight", dropped_weight=1.0, **layout
    )
    for ours, theirs in zip(
        curve(one), curve(make_trainer(tmp_path / "d", tokenizer, dataset, SFTTrainer, **layout)), strict=True
    ):
        assert ours == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("layout", [{}, {"packing": True}, {"max_length": 60}])
def test_pruning_takes_dropped_segments_out_of_the_sequence(layout, tmp_path, tokenizer):
    reasoning = "Two and two. Five.\n\nWait, no. Six.\n\nAlternatively, count. One two.\n\nHowever, fine. It is four."
    turns = [
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": f"<think>{reasoning}</think>It is \\boxed{{4}}."},
    ]
    dataset = Dataset.from_list([{"messages": turns}, {"messages": turns}])
    draft = make_trainer(tmp_path / "draft", tokenizer, dataset, **ALL_SCORED)
    write_store(tmp_path / "store", draft, lambda i, count: i == 2)
    trainer = make_trainer(
        tmp_path / "run",
        tokenizer,
        dataset,
        dropped_segments="prune",
        transition="none",
        attributions=str(tmp_path / "store"),
        **{"max_length": 256, **layout},
        **ALL_SCORED,
    )
    whole = (
        "<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n<think>Alternatively, count. One two.\n\n</think>"
        "It is \\boxed{4}.<|im_end|>\n"
    )
    ids = trainer.train_dataset[0]["input_ids"]
    if layout.get("packing"):
        assert tokenizer.decode(ids) == whole * 2
    else:
        assert tokenizer.decode(ids) == tokenizer.decode(tokenizer(whole)["input_ids"][: layout.get("max_length")])
        assert len(trainer.train_dataset[0]["segment_units"]) == len(ids)
    assert curve(trainer)


def test_random_selection_keeps_as_many_segments_of_each_trace(tmp_path, tokenizer):
    dataset = messages(make_rows(12))
    ours = make_trainer(tmp_path / "a", tokenizer, dataset, tau=0.3, keep_last=0, max_steps=1)
    ours.train()
    stored = str(tmp_path / "a" / "_attributions")
    options = {"tau": 0.3, "keep_last": 0, "attributions": stored}
    drawn = make_trainer(tmp_path / "b", tokenizer, dataset, selection="random", **options)
    again = make_trainer(tmp_path / "c", tokenizer, dataset, selection="random", **options)
    other = make_trainer(tmp_path / "d", tokenizer, dataset, selection="random", seed=1, **options)
    for trainer in (drawn, again, other):
        trainer.select_segments(AttributionStore(stored))

    def kept(trainer):  # the rest of segment i of all traces
        return trainer.segment_table.trained[2::2].tolist()

    bounds = np.cumsum([0, *ours.segment_table.num_segments])
    for start, end in itertools.pairwise(bounds):
        assert sum(kept(drawn)[start:end]) == sum(kept(ours)[start:end])
        assert kept(drawn)[start]  # the first segment is always trained
    assert kept(drawn) == kept(again)
    assert kept(drawn) != kept(other)
    assert kept(drawn) != kept(ours)
    # What commands show for the same seed is what is trained
    store = AttributionStore(stored)
    config = SelectionConfig(tau=0.3, keep_last=0, selection="random", seed=drawn.args.seed)
    shown = [select(store[key].segment_scores, config, key).kept for key in drawn.segment_table.keys]
    assert np.concatenate(shown).tolist() == kept(drawn)


def test_all_segments_takes_whatever_sfttrainer_takes(tmp_path, tokenizer):
    """No scores are needed: tokens without text, streams and prepared datasets train as in SFTTrainer, to the bit."""
    rows = make_rows(6)
    whole = messages(rows)
    tokens = Dataset.from_list([{"input_ids": tokenizer(row["solution"])["input_ids"]} for row in rows])
    prepared = tokens.map(lambda row: {"labels": row["input_ids"]})
    cases = {
        "messages": (whole, {}),
        "tokens": (tokens, {}),
        "prepared": (prepared, {"dataset_kwargs": {"skip_prepare_dataset": True}, "max_length": None}),
        "packed": (whole, {"packing": True}),
    }
    for name, (dataset, options) in cases.items():
        theirs = curve(make_trainer(tmp_path / f"{name}-sft", tokenizer, dataset, SFTTrainer, **options))
        trainer = make_trainer(tmp_path / name, tokenizer, dataset, selection="all", **options)
        assert curve(trainer) == theirs, name
        assert trainer.segment_table is None
        assert not (tmp_path / name / "_attributions").exists()
        with pytest.raises(ValueError, match="made with `selection='all'`"):
            trainer.select_segments({})

    stream = whole.to_iterable_dataset()
    theirs = curve(make_trainer(tmp_path / "stream-sft", tokenizer, stream, SFTTrainer, max_steps=2))
    assert curve(make_trainer(tmp_path / "stream", tokenizer, stream, selection="all", max_steps=2)) == theirs


def test_an_evaluation_set_may_be_called_train(tmp_path, tokenizer):
    rows = make_rows(6)
    evaluation = {"train": messages(rows[3:5]), "other": messages(rows[5:])}
    options = {"eval_selective": True, "max_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    trainer = make_trainer(tmp_path, tokenizer, messages(rows[:3]), eval_dataset=evaluation, **options)
    trainer.train()
    assert trainer.num_traces == 6
    (logged,) = [log for log in trainer.state.log_history if "eval_train_loss" in log]
    assert math.isfinite(logged["eval_train_loss"])
    assert any("selective_loss" in key for log in trainer.state.log_history for key in log)


def test_another_model_attributes_with_its_own_tokenizer(tmp_path, tokenizer):
    """The scores of a model that spells every byte, put on the tokens of one that does not."""
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    backend = tiny_tokenizer().backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("", "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    spelling = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        chat_template=tokenizer.chat_template,
    )
    # Not a Qwen2: beside its config, transformers puts Qwen2's own split into whatever tokenizer it loads
    torch.manual_seed(3)
    other = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(spelling),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            initializer_range=0.2,
            max_position_embeddings=4096,
            pad_token_id=None,
            eos_token_id=spelling.eos_token_id,
        )
    )
    other.save_pretrained(tmp_path / "other")
    spelling.save_pretrained(tmp_path / "other")
    spelling = AutoTokenizer.from_pretrained(tmp_path / "other")
    dataset = messages(make_rows(3))
    trainer = make_trainer(
        tmp_path / "run", tokenizer, dataset, attribution_model=str(tmp_path / "other"), max_steps=1, tau=0.3
    )
    trainer.train()
    store = AttributionStore(tmp_path / "run" / "_attributions")
    from trl_segment import IntegratedGradients
    from trl_segment.traces import attributed_sequence

    for index in range(3):
        _, trace = trainer.get_trace(index)
        sequence = attributed_sequence(trace, spelling)
        engine = IntegratedGradients(other, rule="midpoint", evaluations=2, baseline=spelling.pad_token_id)
        expected = engine.attribute(sequence.input_ids, sequence.target, sequence.segments)
        assert store[trace.key].sum_abs == pytest.approx(expected.segments.sum_abs.tolist(), rel=1e-5)
        # nearly a token a character: really its own tokenizer
        assert sum(store[trace.key].num_tokens) > 0.9 * (trace.reasoning[1] - trace.reasoning[0])

    instance = {"attribution_model": other, "attribution_processing_class": spelling}
    make_trainer(tmp_path / "instance", tokenizer, dataset, max_steps=1, tau=0.3, **instance).train()
    same = AttributionStore(tmp_path / "instance" / "_attributions")
    assert {key: row.sum_abs for key, row in same.items()} == {key: row.sum_abs for key, row in store.items()}
    with pytest.raises(ValueError, match="belong together"):
        make_trainer(tmp_path / "half", tokenizer, dataset, attribution_model=other)


def test_attribution_with_the_adapter_on(tmp_path, tokenizer):
    peft = pytest.importorskip("peft")
    dataset = messages(make_rows(2))

    def stored(name, **options):
        lora = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        make_trainer(tmp_path / name, tokenizer, dataset, max_steps=1, peft_config=lora, **options).train()
        return AttributionStore(tmp_path / name / "_attributions")

    off, on = stored("off"), stored("on", attribution_adapter=True)
    assert on.settings.adapter not in ("off", None)
    for key in off:
        assert not np.allclose(off[key].sum_signed, on[key].sum_signed, rtol=1e-3)


def test_reattribution_follows_the_model_as_it_becomes(tmp_path, tokenizer):
    dataset = messages(make_rows(4))
    options = {
        "max_steps": -1,
        "num_train_epochs": 3,
        "learning_rate": 0.05,
        "tau": 0.3,
        "keep_last": 0,
        "save_strategy": "epoch",
        "reattribute_every_epochs": 1,
    }
    trainer = make_trainer(tmp_path, tokenizer, dataset, **options)
    whole = curve(trainer)
    stores = [AttributionStore(tmp_path / "_attributions" / name) for name in ("", "epoch-1", "epoch-2")]
    assert len({store.settings.weights for store in stores}) == 3
    assert not (tmp_path / "_attributions" / "epoch-3").exists()
    # the checkpoint of the first epoch has the weights that the second epoch's segments were selected with
    from transformers import AutoModelForCausalLM

    from trl_segment.models import weights_fingerprint

    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-2")
    assert weights_fingerprint(saved) == stores[1].settings.weights
    resumed = make_trainer(tmp_path, tokenizer, dataset, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    logs = [log for log in resumed.state.log_history if "loss" in log]
    assert [(log["loss"], log["grad_norm"], log["learning_rate"]) for log in logs] == whole


def test_tokenized_rows_keep_their_labels(tmp_path, tokenizer):
    """Labels that a user has set to -100 stay so, and segments are masked besides."""
    rows = make_rows(3)
    prepared = make_trainer(tmp_path / "a", tokenizer, messages(rows)).train_dataset
    tokenized = prepared.remove_columns(["segment_units"]).map(
        lambda row: {"labels": [-100 if i % 3 == 0 else token for i, token in enumerate(row["input_ids"])]}
    )
    trainer = make_trainer(tmp_path / "b", tokenizer, tokenized, per_device_train_batch_size=3, **ALL_SCORED)
    assert trainer.train_dataset["segment_units"][:] == prepared["segment_units"][:]
    trainer.select_segments(write_store(tmp_path / "store", trainer, lambda i, count: i == 0))
    for row in trainer.train_dataset:
        labels = trainer.data_collator([row])["labels"][0]
        kept = trainer.segment_table.trained[torch.tensor(row["segment_units"])]
        for i, label in enumerate(labels.tolist()):
            assert (label != -100) == (i % 3 != 0 and bool(kept[i]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropped_segments": "delete"}, "dropped segments"),
        ({"dropped_weight": 1.5}, "dropped_weight"),
        ({"dropped_segments": "prune"}, "attributions"),
        ({"dropped_segments": "weight", "loss_type": "dft"}, "negative log-likelihood"),
        ({"reattribute_every_epochs": 0}, "at least 1"),
        ({"selection": "best"}, "Unknown selection"),
        ({"attribution_scorer": "shap"}, "scorer"),
        ({"attribution_stop": "never"}, "stop"),
        ({"attribution_tolerance": 0.0}, "tolerance"),
    ],
)
def test_bad_values_end_in_a_clear_error(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        SegmentSelectiveSFTConfig(str(tmp_path), **{**QUICK, **options})


@pytest.mark.parametrize(
    "scorer",
    [
        "gradient_x_input",
        "entropy",
        "rest_perplexity",
        "attention",
        "confidence_gain",
        "necessity_sufficiency",
        "random",
    ],
)
def test_every_scorer_can_select(scorer, tmp_path, tokenizer):
    trainer = make_trainer(
        tmp_path, tokenizer, messages(make_rows(4)), attribution_scorer=scorer, max_steps=1, tau=0.3, keep_last=0
    )
    trainer.train()
    assert math.isfinite(trainer.state.log_history[0]["loss"])
    assert trainer.state.log_history[0]["trained_segment_share"] < 1
    assert AttributionStore(tmp_path / "_attributions").settings.scorer == scorer


@pytest.mark.parametrize("make", [messages, lambda rows: Dataset.from_list(rows)], ids=["messages", "questions"])
@pytest.mark.parametrize("layout", [{}, {"packing": True, "packing_strategy": "wrapped"}, {"max_length": 120}])
def test_a_streamed_dataset_is_masked_like_one_in_memory(make, layout, tmp_path, tokenizer):
    dataset = make(make_rows(6))
    whole = make_trainer(tmp_path / "a", tokenizer, dataset, tau=0.2, keep_last=0, max_steps=1, **layout)
    whole.train()
    stored = str(tmp_path / "a" / "_attributions")
    streamed = make_trainer(
        tmp_path / "b", tokenizer, dataset.to_iterable_dataset(), tau=0.2, keep_last=0, attributions=stored, **layout
    )
    streamed.train()
    for theirs, ours in zip(whole.train_dataset, streamed.train_dataset, strict=True):
        labels = [
            trainer.data_collator([row])["labels"].tolist() for trainer, row in ((whole, theirs), (streamed, ours))
        ]
        assert labels[0] == labels[1]
    assert streamed.state.log_history[0]["trained_token_share"] < 1


def test_a_streamed_row_that_the_store_could_not_attribute_takes_no_other_rows_units(tmp_path, tokenizer):
    """A trace of one segment has nothing to select: it is in the store, without scores."""
    rows = make_rows(3)
    rows[1]["solution"] = "<think>\nOne segment alone.\n</think>\n\nIt is \\boxed{5}."
    dataset = messages(rows)
    whole = make_trainer(tmp_path / "a", tokenizer, dataset, max_steps=1, **ALL_SCORED)
    whole.train()
    stored = str(tmp_path / "a" / "_attributions")
    streamed = make_trainer(
        tmp_path / "b", tokenizer, dataset.to_iterable_dataset(), max_steps=1, attributions=stored, **ALL_SCORED
    )
    prepared = list(streamed.train_dataset)
    assert not any(prepared[1]["segment_units"])
    used = [set(row["segment_units"]) - {0} for row in prepared]
    assert used[0] and used[2] and not used[0] & used[2]
    streamed.select_segments(AttributionStore(stored))
    for row, other in zip(prepared, whole.train_dataset, strict=True):
        one, two = (trainer.data_collator([r])["labels"] for trainer, r in ((streamed, row), (whole, other)))
        assert torch.equal(one, two)


def test_a_streamed_row_without_attribution_is_named(tmp_path, tokenizer):
    rows = make_rows(4)
    make_trainer(tmp_path / "a", tokenizer, messages(rows[:2]), max_steps=1).train()
    dataset = messages(rows).add_column("id", ["a", "b", "c", "d"]).to_iterable_dataset()
    trainer = make_trainer(
        tmp_path / "b", tokenizer, dataset, attributions=str(tmp_path / "a" / "_attributions"), max_steps=4
    )
    with pytest.raises(ValueError, match=r"c of the streamed dataset has no attribution.*trl-segment attribute"):
        trainer.train()


@pytest.mark.parametrize("layout", [{}, {"packing": True}, {"padding_free": True, "max_length": None}])
def test_selective_evaluation_is_logged_beside_the_full_one(layout, tmp_path, tokenizer):
    """One batch per set, so that the mean over batches is the mean over tokens."""
    rows = make_rows(12)
    train, first, second = (messages(rows[start : start + 4]) for start in (0, 4, 8))
    options = {
        "max_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "learning_rate": 1e-9, "transition": "none",
        "per_device_eval_batch_size": 8, "eval_dataset": {"a": first, "b": second}, **layout, **ALL_SCORED,
    }  # fmt: skip
    draft = make_trainer(tmp_path / "draft", tokenizer, train, **{**options, "eval_selective": True})
    assert draft.num_traces == 12
    write_store(tmp_path / "store", draft, lambda i, count: i % 2 == 0)
    stored = str(tmp_path / "store")
    model = tiny_model(tokenizer)
    trainer = make_trainer(
        tmp_path / "run", tokenizer, train, model=model, eval_selective=True, attributions=stored, **options
    )
    trainer.train()
    plain = make_trainer(tmp_path / "plain", tokenizer, train, attributions=stored, **options)
    plain.train()
    logs, plain_logs = (
        [log for log in t.state.log_history if "eval_a_loss" in log or "eval_b_loss" in log] for t in (trainer, plain)
    )
    for name, log, plain_log, part in zip("ab", logs, plain_logs, (rows[4:8], rows[8:12]), strict=True):
        assert log[f"eval_{name}_loss"] == plain_log[f"eval_{name}_loss"]
        assert "eval_selective_loss" not in plain_log
        total = count = 0.0
        for row in part:
            chat = [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["solution"]}]
            text = tokenizer.apply_chat_template(chat, tokenize=False)
            begin = text.index("<think>") + len("<think>")
            trace = next(t for _, t in map(trainer.get_trace, range(12)) if t.completion == row["solution"])
            kept = np.ones(len(text), dtype=bool)
            for i, piece in enumerate(trace.segment_texts):
                kept[begin : begin + len(piece)] = i % 2 == 0
                begin += len(piece)
            encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
            ids = torch.tensor([encoded["input_ids"]])
            losses = token_losses(
                tiny_model(tokenizer), {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
            )
            flags = np.array([kept[a] for a, _ in encoded["offset_mapping"]][1:])
            total += losses[0].numpy()[flags].sum()
            count += flags.sum()
        assert log["eval_selective_loss"] == pytest.approx(total / count, rel=1e-4)
        assert log["eval_selective_loss"] != pytest.approx(log[f"eval_{name}_loss"], rel=1e-4)


def test_a_strict_run_refuses_scores_that_are_not_settled(tmp_path, tokenizer):
    """Two points on the path of all tokens, with random weights."""
    dataset = messages(make_rows(3))
    options = {"attribution_path": "all", "attribution_rule": "midpoint", "attribution_evaluations": 2}
    trainer = make_trainer(tmp_path / "a", tokenizer, dataset, max_steps=1, **options)
    trainer.train()
    count = trainer._selected[0].reliability
    assert count.traces == 3 and len(count.unsettled) == 3
    assert "attributions settled for 0 of 3 traces" in str(trainer._selected[0])
    strict = make_trainer(tmp_path / "b", tokenizer, dataset, max_steps=1, attribution_strict=True, **options)
    with pytest.raises(ValueError, match=r"3 of 3 traces \(100%\) are not settled.*`attribution_strict` refuses"):
        strict.train()
    assert strict.state.global_step == 0


@pytest.mark.parametrize(
    "options", [{"kept_weight": math.inf}, {"min_strength": math.inf}, {"attribution_threshold": math.inf}]
)
def test_infinite_options_are_refused(tmp_path, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        SegmentSelectiveSFTConfig(str(tmp_path), use_cpu=True, bf16=False, **options)


def test_every_step_of_preparation_runs_main_process_first_and_in_as_many_workers_as_asked(
    tmp_path, tokenizer, monkeypatch
):
    """Else every rank maps the whole dataset at once, and the first step ignores `dataset_num_proc`."""
    from contextlib import contextmanager

    from trl_segment.trainer import preparation, sft_trainer

    depth, seen = [0], []

    @contextmanager
    def first():
        depth[0] += 1
        yield
        depth[0] -= 1

    original = Dataset.map

    def noting(self, function=None, *args, **kwargs):
        if getattr(function, "__module__", "").startswith("trl_segment."):
            seen.append((function.__name__, depth[0] > 0, kwargs.get("num_proc")))
            kwargs["num_proc"] = None
        return original(self, function, *args, **kwargs)

    for module in (preparation, sft_trainer):
        monkeypatch.setattr(module, "main_process_first", first)
    monkeypatch.setattr(Dataset, "map", noting)
    make_trainer(tmp_path, tokenizer, Dataset.from_list(make_rows(3)), dataset_num_proc=2)
    names = [name for name, _, _ in seen]
    assert names == ["question_to_messages", "describe_trace", "render_verbatim", "add_units"]
    assert all(inside and workers == 2 for _, inside, workers in seen)
