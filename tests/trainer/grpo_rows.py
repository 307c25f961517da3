"""Prompts with completions that are written here, so that GRPO runs without generating: for one process or several."""

import re

import torch
from datasets import Dataset
from helpers import make_rows, tiny_model, tiny_tokenizer
from trl import GRPOConfig, GRPOTrainer

from trl_segment import SegmentWeightedGRPOConfig, SegmentWeightedGRPOTrainer


# Completions of a prompt: right, wrong, right and shorter, cut off, without an answer, right in one segment
GROUP = 6
RIGHT = (True, False, True, False, False, True)
QUICK = {
    "max_steps": 10,
    "num_generations": GROUP,
    "per_device_train_batch_size": GROUP,
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "bf16": False,
    "use_cpu": True,
    "report_to": [],
    "save_strategy": "no",
    "gradient_checkpointing": False,
    "disable_tqdm": True,
}


def completions_of(row):
    """The texts of a group, and whether each ends."""
    solution, answer = row["solution"], row["answer"]
    head, response = solution.split("</think>")
    pieces = re.split(r"(?=\n\n[A-Z])", head)
    shorter = "".join([*pieces[:-2], pieces[-1]]) if len(pieces) > 2 else head
    return [
        (solution, True),
        (f"{head}</think>{response.replace(answer, '17')}", True),
        (f"{shorter}</think>{response}", True),
        (head[: 2 * len(head) // 3], False),
        (f"{head}</think>", True),
        (f"<think>\nIt is clear.\n</think>{response}", True),
    ]


def question_of(row):
    return [{"role": "user", "content": row["question"]}]


def reward(completions, answer, **kwargs):
    """1 for completions whose box holds the answer."""
    texts = [completion[0]["content"] for completion in completions]
    return [float(f"\\boxed{{{right}}}" in text) for text, right in zip(texts, answer, strict=True)]


def rollout_of(rows, tokenizer):
    """What stands in for generation. Processes get consecutive parts of the batch."""
    written = {row["question"]: completions_of(row) for row in rows}

    def rollout(prompts, trainer):
        prompt_ids, completion_ids = [], []
        for number, prompt in enumerate(prompts, trainer.accelerator.process_index * len(prompts)):
            text, ends = written[prompt[-1]["content"]][number % GROUP]
            rendered = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)
            prompt_ids.append(rendered["input_ids"])
            completion_ids.append(tokenizer(text)["input_ids"] + [tokenizer.eos_token_id] * ends)
        return {"prompt_ids": prompt_ids, "completion_ids": completion_ids, "logprobs": None}

    return rollout


def make_grpo(folder, model, tokenizer, rows, cls=SegmentWeightedGRPOTrainer, rollout=None, **options):
    trainer_options = {
        name: options.pop(name)
        for name in ("peft_config", "segmenter", "callbacks", "eval_dataset")
        if name in options
    }
    config = SegmentWeightedGRPOConfig if issubclass(cls, SegmentWeightedGRPOTrainer) else GRPOConfig
    dataset = Dataset.from_list([{"prompt": question_of(row), "answer": row["answer"]} for row in rows])
    return cls(
        model,
        reward,
        config(str(folder), **{**QUICK, **options}),
        train_dataset=dataset,
        processing_class=tokenizer,
        rollout_func=rollout or rollout_of(rows, tokenizer),
        **trainer_options,
    )


def make_plain(*args, **options):
    return make_grpo(*args, cls=GRPOTrainer, **options)


def train(trainer):
    """Every figure of every step but times and our own, and the weights that came out."""
    trainer.train()
    times = ("step_time", "runtime", "per_second")
    logs = [
        {key: value for key, value in log.items() if "segment_weights" not in key and not key.endswith(times)}
        for log in trainer.state.log_history
        if "grad_norm" in log
    ]
    model = trainer.accelerator.unwrap_model(trainer.model)
    return logs, {name: value.detach().clone() for name, value in model.state_dict().items()}


def assert_same(ours, theirs):
    """Equal to the bit."""
    assert len(ours[0]) == len(theirs[0]) > 0
    for one, other in zip(ours[0], theirs[0], strict=True):
        assert {name: repr(value) for name, value in one.items()} == {
            name: repr(value) for name, value in other.items()
        }
    assert ours[1].keys() == theirs[1].keys()
    assert all(torch.equal(ours[1][name], theirs[1][name]) for name in theirs[1])


def segment_metrics(trainer):
    """Our figures of every step, without the prefix."""
    return [
        {key.removeprefix("segment_weights/"): value for key, value in log.items() if "segment_weights" in key}
        for log in trainer.state.log_history
        if "grad_norm" in log
    ]


def figures_of_grpo(folder, **options):
    """Loss, gradient norm and our own figures of four weighted steps, by one process or by several."""
    tokenizer = tiny_tokenizer()
    # On random weights no loss reaches a nat
    options = {"max_steps": 4, "attribution_threshold": 1e-3, "min_strength": 1e-3, **options}
    trainer = make_grpo(folder, tiny_model(tokenizer), tokenizer, make_rows(5), **options)
    trainer.train()
    logs = [(log["step"], log["loss"], float(log["grad_norm"])) for log in trainer.state.log_history if "loss" in log]
    return {"logs": logs, "metrics": segment_metrics(trainer)}
