"""A tokenizer, models and rows that are small enough to make in a test, and the real ones where they are at hand."""

import dataclasses
import functools
import json
import os
from pathlib import Path

import pytest


REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("TRL_SEGMENT_SHARED") or REPOSITORY.parent / "shared")
REAL_TOKENIZERS = ("qwen2", "llama3", "phi3")

CHATML_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>\n' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# How Qwen2 splits text before it merges bytes: punctuation takes the newlines behind it along, so that `.\n\n` can be
# one token
_QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_OPENERS = ("Wait", "Alternatively", "But wait", "However", "Going back", "Another way")


def make_rows(n: int) -> list[dict[str, str]]:
    r"""`n` different question/solution/answer rows with three to six segments and a `\boxed` answer."""
    rows = []
    for i in range(n):
        a, b = 3 + i, 11 + 7 * i % 29
        pieces = [f"I need to add {a} and {b}. That is {a} plus {b}."]
        for j in range(2 + i % 4):
            opener = _OPENERS[(i + j) % len(_OPENERS)]
            pieces.append(f"{opener}, let me check step {j + 1}: {a} + {b} is {a + b + j % 2}.")
            if j % 2:
                pieces[-1] += f"\nSo it might be {a + b}.\n\nLet me see whether {a + b} - {b} = {a}."
        reasoning = "\n\n".join(pieces) + "\n"
        answer = str(a + b) if i % 3 else f"\\frac{{{a + b}}}{{1}}"
        rows.append(
            {
                "question": f"What is {a} + {b}? (problem {i})",
                "solution": f"<think>\n{reasoning}</think>\n\nThe sum of {a} and {b} is \\boxed{{{answer}}}.",
                "answer": answer,
            }
        )
    return rows


@functools.cache
def _tokenizer_json() -> str:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN2_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=640,
        min_frequency=2,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    corpus = [text for row in make_rows(60) for text in (row["question"], row["solution"])]
    tokenizer.train_from_iterator([*corpus, "user system assistant " * 4], trainer)
    return tokenizer.to_str()


def store_settings(**changes):
    """Settings of a store that no model was needed for; what is no field of [`StoreSettings`] is an option."""
    from trl_segment.store import StoreSettings
    from trl_segment.traces import ANSWER_TEMPLATE, TraceConfig

    options = {"rule": "paper", "evaluations": 50, "path": "all", **changes.pop("options", {})}
    fields = {
        "model_type": "qwen2",
        "config": "00000000000000c0",
        "weights": "0123456789abcdef",
        "dtype": "float32",
        "autocast": "no",
        "adapter": "off",
        "tokenizer": "0000000000000070",
        "chat_template": "00000000000000c7",
        **dataclasses.asdict(TraceConfig()),
        "answer_template": ANSWER_TEMPLATE,
        "scorer": "integrated_gradients",
    }
    names = {field.name for field in dataclasses.fields(StoreSettings)}
    options |= {name: value for name, value in changes.items() if name not in names}
    return StoreSettings(**{**fields, "options": options, **{n: v for n, v in changes.items() if n in names}})


def card_cells(section):
    """The table of a model card's section as a dictionary."""
    rows = [line.strip("|").split("|", 1) for line in section.splitlines() if line.startswith("| ")]
    return {name.strip(): value.strip() for name, value in rows}


def tiny_tokenizer():
    """A byte-level BPE tokenizer in which `.` and a blank line are one token, with a ChatML template."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_tokenizer_json()),
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        chat_template=CHATML_TEMPLATE,
        model_max_length=4096,
    )


def tiny_model(tokenizer, **overrides):
    """A random Qwen2 for `tokenizer`, always the same one; `overrides` go to its config (`seed` to the generator)."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    seed = overrides.pop("seed", 0)
    config = Qwen2Config(
        **{
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "initializer_range": 0.2,
            "tie_word_embeddings": False,
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": None,
            **overrides,
        }
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(config)
        if config.pad_token_id is not None:
            # transformers leaves the row of the pad token at zero, a trained model has something in it
            with torch.no_grad():
                model.get_input_embeddings().weight[config.pad_token_id].normal_(std=config.initializer_range)
    return model.eval()


@functools.cache
def _real_tokenizer(name: str):
    from transformers import AutoTokenizer

    folder = SHARED / "tokenizers" / name
    if not folder.is_dir():
        pytest.skip(f"real tokenizers/traces are not here: no {folder} (set TRL_SEGMENT_SHARED)")
    return AutoTokenizer.from_pretrained(folder)


def real_tokenizer(name: str):
    """One of `REAL_TOKENIZERS`; skips the test where it is absent. Shared between tests: do not change it."""
    return _real_tokenizer(name)


@functools.cache
def _real_rows() -> list[dict]:
    file = SHARED / "data" / "r1_distill_qwen7b_traces.jsonl"
    if not file.is_file():
        pytest.skip(f"real tokenizers/traces are not here: no {file} (set TRL_SEGMENT_SHARED)")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def real_rows() -> list[dict]:
    """The real traces as question/solution/answer rows; skips the test where they are absent."""
    return [dict(row) for row in _real_rows()]
