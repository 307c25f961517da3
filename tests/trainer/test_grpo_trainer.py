r"""The GRPO trainer against TRL's own, and against a loss computed by hand on text."""

import copy
import dataclasses
import functools
import re
import sys

import numpy as np
import pytest
import torch
from datasets import Dataset
from grpo_rows import (
    GROUP,
    RIGHT,
    assert_same,
    completions_of,
    make_grpo,
    make_plain,
    question_of,
    rollout_of,
    segment_metrics,
    train,
)
from helpers import REPOSITORY, make_rows, tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig

from trl_segment import (
    AttributionConfig,
    SegmentWeightedGRPOConfig,
    SegmentWeightedGRPOTrainer,
    SelectionConfig,
    build_trace,
)
from trl_segment.attribution import BackwardSweep
from trl_segment.attribution.sequences import sequence_of
from trl_segment.trainer import grpo_trainer


WORLD = REPOSITORY / "examples" / "tiny_world"
sys.path.insert(0, str(WORLD))

import world  # noqa: E402


LOSSES = ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo")
# On random weights no loss reaches a nat
SENSITIVE = {"attribution_threshold": 1e-3, "min_strength": 1e-3}
# Checks are dropped, everything else is kept: what a scorer without a model says
OF_WORDS = {"attribution_scorer": "verification_opener", "selection": "attribution", "tau": 1.0}
EQUAL = {"segment_weight_kept": 1.0, "segment_weight_dropped": 1.0}


@pytest.fixture(scope="module")
def of_world():
    """The trained model of the tiny world, and short problems of it."""
    settings = world.get_settings("repetition", steps=(2, 3), redundancy=(1, 2))
    rows = [
        {**row, "question": row["question"] + world.PROMPT_SUFFIX}
        for row in world.make_rows(settings, 12, split="test-of-grpo")
    ]
    folder = WORLD / "checkpoint"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    return model, AutoTokenizer.from_pretrained(folder), rows


def test_these_are_the_losses_that_trl_offers():
    (field,) = [field for field in dataclasses.fields(GRPOConfig) if field.name == "loss_type"]
    offered = field.metadata["help"].split("Supported values are ")[1].split(". ")[0]
    assert set(re.findall(r"'(\w+)'", offered)) == set(LOSSES)


def test_what_two_parents_of_the_config_call_alike_is_settled(tmp_path):
    """One field of that name would silently mean the other thing."""
    ours = {field.name for cls in (SelectionConfig, AttributionConfig) for field in dataclasses.fields(cls)}
    assert ours & {field.name for field in dataclasses.fields(GRPOConfig)} == {"seed", "beta"}
    config = SegmentWeightedGRPOConfig(str(tmp_path), bf16=False, use_cpu=True)
    assert config.beta == GRPOConfig(str(tmp_path), bf16=False, use_cpu=True).beta == 0.0
    config = SegmentWeightedGRPOConfig(str(tmp_path), bf16=False, use_cpu=True, beta=1.5, tau=0.3, seed=7)
    assert config.beta == 1.5
    assert (config.segment_selection.beta, config.segment_selection.tau, config.segment_selection.seed) == (
        1.0,
        0.3,
        7,
    )


@pytest.mark.parametrize("loss_type", LOSSES)
def test_with_equal_weights_training_is_grpotrainers_to_the_bit(loss_type, of_world, tmp_path):
    model, tokenizer, rows = of_world
    theirs = train(make_plain(tmp_path / "grpo", copy.deepcopy(model), tokenizer, rows, loss_type=loss_type))
    equal = make_grpo(tmp_path / "equal", copy.deepcopy(model), tokenizer, rows, loss_type=loss_type, **EQUAL)
    ours = train(equal)
    assert len(ours[0]) == 10
    assert_same(ours, theirs)
    # The scorer has run and chosen meanwhile
    assert sum(one["rows_weighted"] for one in segment_metrics(equal)) > 10
    assert all(0 <= one.get("kept_tokens", 0.5) <= 1 and one.get("std", 0) == 0 for one in segment_metrics(equal))


@pytest.mark.parametrize(
    "options",
    [
        {"num_iterations": 2, "gradient_accumulation_steps": 2},
        {"steps_per_generation": 2, "beta": 0.04, "mask_truncated_completions": True},
        {"top_entropy_quantile": 0.5, "off_policy_mask_threshold": 0.5, "num_iterations": 2, "pad_to_multiple_of": 8},
        {"attribution_scorer": "attention", "selection": "attribution", "tau": 0.5},
        {"attribution_scorer": "rest_perplexity", "selection": "attribution", "tau": 0.5},
        {"attribution_scorer": "gradient_x_input", "selection": "attribution", "gradient_checkpointing": True},
    ],
    ids=lambda options: ",".join(map(str, options.values())),
)
def test_with_equal_weights_every_other_option_is_grpotrainers_too(options, tmp_path, tokenizer):
    # Dropout: the scorer must neither draw random numbers nor leave evaluation mode on
    rows, dropout = make_rows(8), {"attention_dropout": 0.1}
    ours_only = {"attribution_scorer", "selection", "tau"}
    shared = {"max_steps": 6, **{name: value for name, value in options.items() if name not in ours_only}}
    if "beta" in options:
        folder = tmp_path / "model"
        tiny_model(tokenizer, **dropout).save_pretrained(folder)
        models = [AutoModelForCausalLM.from_pretrained(folder) for _ in range(3)]
    else:
        models = [tiny_model(tokenizer, **dropout) for _ in range(3)]
    theirs = train(make_plain(tmp_path / "grpo", models[0], tokenizer, rows, **shared))
    chosen = {**(SENSITIVE if "selection" not in options else {}), **options, "max_steps": 6}
    equal = make_grpo(tmp_path / "equal", models[1], tokenizer, rows, **chosen, **EQUAL)
    assert_same(train(equal), theirs)
    assert max(one.get("rows_weighted", 0) for one in segment_metrics(equal)) > 0
    assert equal.model.training and all(p.requires_grad for p in equal.model.parameters())
    assert equal.model.config._attn_implementation == models[0].config._attn_implementation
    weighted = train(make_grpo(tmp_path / "weighted", models[2], tokenizer, rows, **chosen))
    assert any(not torch.equal(value, theirs[1][name]) for name, value in weighted[1].items())


def first_batch(trainer):
    """A batch as a training step gets it, rows in the order of the group."""
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    prompts = next(iter(trainer.get_train_dataloader()))
    return trainer._generate_and_score_completions(prompts), prompts


def weights_by_hand(tokenizer, text, ends, kept_weight, dropped_weight, counted=None):
    """A character at a time: checks are dropped, and so is nothing else."""
    start, end = text.index("<think>") + len("<think>"), text.index("</think>")
    start += 1  # the newline behind the mark
    starts = [start] + [
        m.start() for m in re.finditer(r"\n\n(?=Wait|Alternatively|But wait|However|Going|Another)", text)
    ]
    of_characters = np.ones(len(text))
    for a, b in zip(starts, [*starts[1:], end], strict=True):
        dropped = re.match(r"\n\n(Wait|Alternatively|But wait)", text[a:b]) is not None
        of_characters[a:b] = dropped_weight if dropped else kept_weight
    place, raw = 0, []
    for token in tokenizer(text)["input_ids"]:
        raw.append(of_characters[place])
        place += len(tokenizer.decode([token]))
    assert place == len(text)
    raw = np.array(raw + [1.0] * ends)
    counted = np.ones(len(raw), dtype=bool) if counted is None else counted
    return np.where(counted, raw * counted.sum() / raw[counted].sum(), 1.0)


@pytest.mark.parametrize("loss_type", ["dapo", "grpo"])
def test_a_weighted_batch_equals_a_loss_by_hand(loss_type, tmp_path, tokenizer):
    rows = make_rows(8)[7:]
    options = {"segment_weight_kept": 3.0, "segment_weight_dropped": 0.5, "loss_type": loss_type, **OF_WORDS}
    trainer = make_grpo(tmp_path, tiny_model(tokenizer), tokenizer, rows, temperature=0.7, **options)
    batch, _ = first_batch(trainer)
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()

    model = tiny_model(tokenizer)
    rewards = torch.tensor([float(right) for right in RIGHT])
    advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
    prompt = tokenizer.apply_chat_template(question_of(rows[0]), add_generation_prompt=True, return_dict=True)[
        "input_ids"
    ]
    terms, lengths = [], []
    for number, (text, ends) in enumerate(completions_of(rows[0])):
        own = tokenizer(text)["input_ids"] + [tokenizer.eos_token_id] * ends
        weights = np.ones(len(own))
        if number < 3:
            weights = weights_by_hand(tokenizer, text, ends, 3.0, 0.5)
            assert weights.min() < 0.9 < 1.2 < weights.max() and weights.mean() == pytest.approx(1)
        assert batch["advantages"][number, : len(own)].numpy() == pytest.approx(
            advantages[number].item() * weights, rel=1e-5
        )
        logits = model(torch.tensor([prompt + own])).logits[0, len(prompt) - 1 : -1] / 0.7
        log_probs = logits.log_softmax(-1).gather(-1, torch.tensor(own)[:, None])[:, 0]
        # The ratio to the policy that has written it is one, with the gradient of the log-probability
        terms.append(-(advantages[number] * torch.tensor(weights) * (log_probs - log_probs.detach()).exp()).sum())
        lengths.append(len(own))
    assert batch["advantages"].shape == batch["completion_ids"].shape == (GROUP, max(lengths))
    if loss_type == "dapo":
        expected = sum(terms) / sum(lengths)
    else:
        expected = sum(term / length for term, length in zip(terms, lengths, strict=True)) / GROUP
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-6)
    for name, parameter in model.named_parameters():
        other = trainer.model.get_parameter(name).grad
        assert torch.allclose(parameter.grad, other, rtol=1e-3, atol=1e-6), name


def test_the_answer_that_is_given_is_explained_by_the_policy_itself(of_world, tmp_path):
    """Weights follow the sweep over the completion's own answer, the wrong one of the second row too."""
    model, tokenizer, rows = of_world
    trainer = make_grpo(tmp_path, copy.deepcopy(model), tokenizer, rows, answer_statements="visible")
    batch, prompts = first_batch(trainer)
    row = next(row for row in rows if question_of(row) == prompts[0]["prompt"])
    config, different = AttributionConfig(attribution_scorer="marginal"), 0
    for number in (0, 1):
        text = completions_of(row)[number][0]
        trace = build_trace({"prompt": question_of(row), "completion": text})
        assert (trace.answer == row["answer"]) == (number == 0)
        sequence, _ = sequence_of(trace, tokenizer, model.config, config)
        scores = BackwardSweep(model).attribute(sequence.input_ids, sequence.target, sequence.segments).segments.scores
        kept = scores >= 1.0
        length = int(batch["completion_mask"][number].sum())
        weights = (batch["advantages"][number] / batch["advantages"][number].abs().min()).abs()[:length]
        if kept.all() or not kept.any():
            assert (weights == 1).all()
            continue
        different += 1
        shift = len(
            tokenizer.apply_chat_template(question_of(row), add_generation_prompt=True, return_dict=True)["input_ids"]
        )
        for (start, end), one in zip(sequence.segments, kept, strict=True):
            assert weights[start - shift : end - shift].numpy() == pytest.approx(2.0 if one else 1.0, rel=1e-5)
    assert different > 0


def test_rows_that_weigh_one_are_counted_by_reason(tmp_path, tokenizer):
    rows = make_rows(8)[7:]
    trainer = make_grpo(tmp_path, tiny_model(tokenizer), tokenizer, rows, max_steps=2, **OF_WORDS)
    trainer.train()
    metrics = segment_metrics(trainer)
    counts = {name: value for name, value in metrics[0].items() if name.startswith("rows_") and value}
    assert counts == {"rows_weighted": 3, "rows_truncated": 1, "rows_no_answer": 1, "rows_one_segment": 1}
    lengths = [len(tokenizer(text)["input_ids"]) + ends for text, ends in completions_of(rows[0])]
    expected = [weights_by_hand(tokenizer, text, True, 2.0, 1.0) for text, _ in completions_of(rows[0])[:3]]
    joined = np.concatenate(expected)
    assert metrics[0]["weighted_tokens"] == pytest.approx(sum(lengths[:3]) / sum(lengths))
    assert metrics[0]["std"] == pytest.approx(joined.std(), rel=1e-5)
    largest = np.concatenate([one > one.min() + 1e-6 for one in expected])
    assert metrics[0]["kept_tokens"] == pytest.approx(largest.mean())
    assert metrics[0]["seconds"] > 0 and "share_of_step" not in metrics[0]
    assert 0 < metrics[1]["share_of_step"] < 1


def test_negative_advantages_can_be_left_alone(tmp_path, tokenizer):
    rows = make_rows(8)[7:]
    options = {**OF_WORDS, "segment_weight_negative": False}
    trainer = make_grpo(tmp_path, tiny_model(tokenizer), tokenizer, rows, **options)
    batch, _ = first_batch(trainer)
    for number, right in enumerate(RIGHT):
        row = batch["advantages"][number, : int(batch["completion_mask"][number].sum())]
        assert (row > 0).all() == right
        assert (len(row.unique()) > 1) == (number in (0, 2)), number


def test_rows_of_a_group_without_differences_are_not_scored(tmp_path, tokenizer, monkeypatch):
    trainer = make_grpo(tmp_path, tiny_model(tokenizer), tokenizer, make_rows(1), max_steps=1)
    trainer.reward_funcs = [lambda completions, **kwargs: [1.0] * len(completions)]
    monkeypatch.setattr(BackwardSweep, "attribute", None)
    batch, _ = first_batch(trainer)
    assert not batch["advantages"].any()
    recorded = trainer._metrics["train"]
    assert recorded["segment_weights/rows_zero_advantage"] == [GROUP - 1]
    assert recorded["segment_weights/rows_truncated"] == [1]


def test_completions_of_tools_count_without_what_the_tools_wrote(tmp_path, tokenizer):
    """`env_mask` of a rollout, which TRL treats as a tool's mask: the mean is 1 over what is the model's own."""
    rows = make_rows(8)[7:]
    own = rollout_of(rows, tokenizer)

    def rollout(prompts, trainer):
        output = own(prompts, trainer)
        output["env_mask"] = [
            [int(not 10 <= place < 40) for place in range(len(ids))] for ids in output["completion_ids"]
        ]
        return output

    trainer = make_grpo(tmp_path, tiny_model(tokenizer), tokenizer, rows, rollout=rollout, **OF_WORDS)
    batch, _ = first_batch(trainer)
    text, ends = completions_of(rows[0])[0]
    counted = np.array([not 10 <= place < 40 for place in range(len(tokenizer(text)["input_ids"]) + ends)])
    expected = weights_by_hand(tokenizer, text, ends, 2.0, 1.0, counted)
    rewards = torch.tensor([float(right) for right in RIGHT])
    advantage = ((rewards - rewards.mean()) / (rewards.std() + 1e-4))[0].item()
    assert batch["advantages"][0, : len(expected)].numpy() == pytest.approx(advantage * expected, rel=1e-5)
    assert expected[counted].mean() == pytest.approx(1)


def test_truncated_rows_that_are_masked_weigh_one(tmp_path, tokenizer):
    rows = make_rows(8)[7:]
    options = {**OF_WORDS, "mask_truncated_completions": True}
    trainer = make_grpo(tmp_path, tiny_model(tokenizer), tokenizer, rows, **options)
    batch, _ = first_batch(trainer)
    assert not batch["completion_mask"][3].any()
    assert len(batch["advantages"][3].unique()) == 1
    assert trainer._metrics["train"]["segment_weights/rows_truncated"] == [1]


def test_generation_is_trls_and_evaluation_too(of_world, tmp_path):
    """Sampled completions, and an evaluation whose loss no weight has touched."""
    model, tokenizer, rows = of_world
    options = {"max_steps": 2, "max_completion_length": 300, "eval_strategy": "steps", "eval_steps": 1}
    options |= {"per_device_eval_batch_size": GROUP, "learning_rate": 1e-4}
    evaluated = Dataset.from_list([{"prompt": question_of(row), "answer": row["answer"]} for row in rows[:1]])
    results = []
    for make, own in ((make_plain, {}), (make_grpo, EQUAL)):
        trainer = make(
            tmp_path / make.__name__, copy.deepcopy(model), tokenizer, rows, eval_dataset=evaluated, **options, **own
        )
        trainer.rollout_func = None
        results.append(train(trainer))
        evaluations = [log for log in trainer.state.log_history if "eval_loss" in log]
        assert len(evaluations) == 2 and not any("segment_weights" in key for log in evaluations for key in log)
        results[-1][0].extend({key: log[key] for key in ("eval_loss", "eval_reward")} for log in evaluations)
    assert_same(results[1], results[0])
    assert segment_metrics(trainer)[0]["rows_weighted"] > 0


@pytest.mark.parametrize("equal", [True, False])
def test_adapters(equal, tmp_path, tokenizer, monkeypatch):
    peft = pytest.importorskip("peft")
    rows, results, seen = make_rows(4), [], []

    def watched(weigh, model, rows):
        seen.append(model)
        return weigh(model, rows)

    for make, own in ((make_plain, {}), (make_grpo, {**SENSITIVE, **(EQUAL if equal else {})})):
        config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        trainer = make(
            tmp_path / make.__name__, tiny_model(tokenizer), tokenizer, rows, peft_config=config, max_steps=4, **own
        )
        if own:
            monkeypatch.setattr(trainer._weigher, "weigh", functools.partial(watched, trainer._weigher.weigh))
        results.append(train(trainer))
    # The policy as it is, adapter included
    assert all(isinstance(model, peft.PeftModel) and model.active_adapters == ["default"] for model in seen)
    trainable = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert trainable and all("lora" in name for name in trainable)
    if equal:
        assert_same(results[1], results[0])
    else:
        assert any(not torch.equal(value, results[0][1][name]) for name, value in results[1][1].items())


def test_segments_by_a_function_of_ones_own(tmp_path, tokenizer):
    rows = make_rows(8)[7:]

    def halves(text):
        middle = len(text) // 2
        return [text[:middle], text[middle:]]

    options = {"attribution_scorer": "random", "selection": "attribution", "tau": 0.1}
    trainer = make_grpo(tmp_path, tiny_model(tokenizer), tokenizer, rows, segmenter=halves, **options)
    batch, _ = first_batch(trainer)
    row = batch["advantages"][0, : int(batch["completion_mask"][0].sum())].numpy()
    # One weight in either half of the reasoning, and the smaller one around it
    changes = np.flatnonzero(np.diff(row))
    assert len(changes) in (1, 2, 3) and len(np.unique(row.round(5))) == 2


REFUSED = [
    ({"importance_sampling_level": "sequence"}, "one ratio"),
    ({"attribution_scorer": "integrated_gradients"}, "costs up to 32 gradient evaluations of every completion"),
    (
        {"attribution_scorer": "integrated_gradients", "attribution_evaluations": 50, "attribution_noise_samples": 3},
        "150",
    ),
    ({"attribution_scorer": "recursive"}, "costs up to 8 gradient"),
    ({"attribution_preset": "paper"}, "procedure of Integrated Gradients"),
    ({"attribution_scorer": "counterfactual"}, "rewrites the text"),
    ({"attribution_scorer": "attention"}, "numbers without a unit"),
    ({"attribution_scorer": "rest_perplexity"}, "nats a token"),
    ({"selection": "all"}, "keeps every segment"),
    ({"segment_weight_kept": 0.0}, "must be positive"),
    ({"segment_weight_dropped": -1.0}, "at least 0"),
    ({"segment_weight_dropped": float("nan")}, "at least 0"),
    ({"answer_column": "solution"}, "the policy's own"),
    ({"question_column": "q"}, "the policy's own"),
    ({"tau": 0.0}, "`tau`"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=lambda value: str(value)[:60])
def test_what_cannot_work_is_refused(options, message, tmp_path):
    with pytest.raises(ValueError, match=re.escape(message)):
        SegmentWeightedGRPOConfig(str(tmp_path), bf16=False, use_cpu=True, **options)


def test_what_the_model_cannot_do_is_refused(tmp_path, tokenizer, monkeypatch):
    with pytest.raises(TypeError, match=r"`args` is a GRPOConfig.*Pass a `SegmentWeightedGRPOConfig`"):
        SegmentWeightedGRPOTrainer(tiny_model(tokenizer), print, GRPOConfig(str(tmp_path), bf16=False, use_cpu=True))
    for name, message in (("slices_logits", "logits_to_keep"), ("cache_can_be_cut", "rest_perplexity")):
        with monkeypatch.context() as patch:
            patch.setattr(grpo_trainer, name, lambda model: False)
            with pytest.raises(ValueError, match=message):
                make_grpo(tmp_path, tiny_model(tokenizer), tokenizer, make_rows(1))
    with monkeypatch.context() as patch:
        patch.setattr(grpo_trainer, "parallel_over_one_trace", lambda accelerator: True)
        with pytest.raises(NotImplementedError, match="parallelism"):
            make_grpo(tmp_path, tiny_model(tokenizer), tokenizer, make_rows(1))


def test_odd_completions_stop_nothing(tmp_path, tokenizer, caplog):
    """Texts that no trained model writes, and answers that cannot be attributed."""
    rows = make_rows(8)[7:]
    odd = [
        "",
        "\\boxed{}",
        "</think></think>\\boxed{5}",
        "<think>\n" + "a\n\nWait, b" * 40 + "\n</think>\\boxed{" + "9" * 400 + "}",
        "<think>\nÄ€\n\nWait, 你好\n\nWait, x\n</think>\n\\boxed{你}",
        "\ufffd\n\nWait, \ufffd\n\n\\boxed{3}",
    ]

    def rollout(prompts, trainer):
        ids = [tokenizer(text)["input_ids"] + [tokenizer.eos_token_id] for text in odd]
        return {"prompt_ids": [[5, 6]] * len(prompts), "completion_ids": ids, "logprobs": None}

    trainer = make_grpo(tmp_path, tiny_model(tokenizer), tokenizer, rows, rollout=rollout, **SENSITIVE)
    trainer.reward_funcs = [lambda completions, **kwargs: [float(i) for i in range(len(completions))]]
    batch, _ = first_batch(trainer)
    assert torch.isfinite(batch["advantages"]).all()
    recorded = trainer._metrics["train"]
    assert sum(value[0] for name, value in recorded.items() if "/rows_" in name) == GROUP
    assert recorded["segment_weights/rows_no_answer"] == [2]
    assert recorded["segment_weights/rows_not_scored"][0] > 0
    assert "cannot be scored" in caplog.text
