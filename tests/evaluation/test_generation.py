"""Batched decoding, against `model.generate` and against a by-hand sampler."""

import numpy as np
import pytest
import torch
from helpers import tiny_model, tiny_tokenizer

from trl_segment.evaluation.generation import (
    DecodingConfig,
    Request,
    _new_cache,
    end_token_ids,
    generate_outputs,
    sample_tokens,
)
from trl_segment.evaluation.outputs import decode_output, special_marks
from trl_segment.traces import build_trace


def requests_for(tokenizer, lengths, samples=1):
    text = "What is 3 + 11? (problem 0) I need to add 5 and 18. However, let me check step 1: Wait, that is 23. " * 3
    ids = tokenizer(text)["input_ids"]
    return [Request(f"p{i}", s, ids[i : i + n]) for i, n in enumerate(lengths) for s in range(samples)]


def by_generate(model, tokenizer, request, max_new_tokens, ends):
    ids = torch.tensor([list(request.prompt_ids)])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=sorted(ends),
        pad_token_id=tokenizer.pad_token_id,
    )
    written = out[0, ids.shape[1] :].tolist()
    return (written[:-1], False) if written[-1] in ends else (written, True)


# Several end tokens, so that a random model's rows end at many different steps
def many_ends(tokenizer):
    return {tokenizer.eos_token_id, *range(100, 640, 25)}


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_greedy_outputs_are_those_of_generate(model, tokenizer, batch_size):
    ends = many_ends(tokenizer)
    requests = requests_for(tokenizer, [9, 30, 30, 4, 17, 30, 22, 5, 41, 13, 28, 60])
    outputs = {o.id: o for o in generate_outputs(model, requests, ends, DecodingConfig(max_new_tokens=90), batch_size)}
    expected = {r.id: by_generate(model, tokenizer, r, 90, ends) for r in requests}
    assert {i: (o.token_ids, o.cut_off) for i, o in outputs.items()} == expected
    lengths = {o.tokens for o in outputs.values()}
    assert len(lengths) > 4, "the rows end at different steps, so rows were dropped in between"
    assert all(o.tokens == len(o.token_ids) + (not o.cut_off) for o in outputs.values())


def test_greedy_outputs_of_a_sliding_window_model(tokenizer):
    """Its cache cannot lose rows, so it takes the other way."""
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=16,
        initializer_range=0.2,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = MistralForCausalLM(config).eval()
    assert not _new_cache(model)[1]
    ends = many_ends(tokenizer)
    requests = requests_for(tokenizer, [9, 30, 4, 17])
    outputs = {o.id: o for o in generate_outputs(model, requests, ends, DecodingConfig(max_new_tokens=60), 4)}
    expected = {r.id: by_generate(model, tokenizer, r, 60, ends) for r in requests}
    assert {i: (o.token_ids, o.cut_off) for i, o in outputs.items()} == expected


def test_samples_do_not_depend_on_the_batch(model, tokenizer):
    ends = many_ends(tokenizer)
    requests = requests_for(tokenizer, [9, 30, 30, 4, 17], samples=3)
    config = DecodingConfig(max_new_tokens=40, temperature=0.8, seed=5)
    together = {(o.id, o.sample): o for o in generate_outputs(model, requests, ends, config, 15)}
    alone = {(o.id, o.sample): o for o in generate_outputs(model, requests[::-1], ends, config, 1)}
    assert together == alone
    assert len({tuple(together["p1", s].token_ids) for s in range(3)}) > 1
    other = {(o.id, o.sample): o for o in generate_outputs(model, requests, ends, DecodingConfig(40, 0.8, 1.0, 6), 15)}
    assert other != together


def test_sampling_follows_the_distribution():
    logits = torch.tensor([[2.0, 0.0, 1.0, -30.0]])
    uniform = torch.tensor((np.arange(100_000) + 0.5) / 100_000)
    drawn = sample_tokens(logits.expand(100_000, -1), uniform, 0.5, 1.0)
    shares = np.bincount(drawn.numpy(), minlength=4) / 100_000
    expected = np.exp(np.array([4.0, 0.0, 2.0, -60.0]))
    assert shares == pytest.approx(expected / expected.sum(), abs=1e-4)
    # The two likeliest hold .98 of it
    nucleus = sample_tokens(logits.expand(100_000, -1), uniform, 0.5, 0.9)
    shares = np.bincount(nucleus.numpy(), minlength=4) / 100_000
    assert shares == pytest.approx(np.array([expected[0], 0, expected[2], 0]) / (expected[0] + expected[2]), abs=1e-4)
    # At temperature to 0 sampling is greedy
    assert (sample_tokens(logits.expand(100, -1), torch.tensor(np.linspace(0, 1 - 1e-9, 100)), 0.01, 1.0) == 0).all()


def test_a_model_that_never_ends_is_cut_off(model, tokenizer):
    outputs = list(
        generate_outputs(model, requests_for(tokenizer, [9, 12]), {10**6}, DecodingConfig(max_new_tokens=70))
    )
    assert [(o.tokens, o.cut_off) for o in outputs] == [(70, True), (70, True)]


@pytest.mark.parametrize("kind", ["rotary", "learned"])
@pytest.mark.parametrize("batch_size", [1, 8])
def test_outputs_end_where_the_model_has_no_more_positions(kind, batch_size, tokenizer):
    """Learned positions end in an error there; rotary ones go on with what no training has seen."""
    if kind == "rotary":
        model = tiny_model(tokenizer, max_position_embeddings=40).eval()
    else:
        from transformers import GPT2Config, GPT2LMHeadModel

        config = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40, "initializer_range": 0.2}
        model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **config)).eval()
    requests = requests_for(tokenizer, [9, 30, 39, 40, 41])
    outputs = {o.id: o for o in generate_outputs(model, requests, {10**6}, DecodingConfig(90), batch_size)}
    assert [(outputs[f"p{i}"].tokens, outputs[f"p{i}"].cut_off) for i in range(5)] == [
        (31, True),
        (10, True),
        (1, True),
        (0, True),
        (0, True),
    ]
    for i, room in ((0, 31), (1, 10)):
        assert outputs[f"p{i}"].token_ids == by_generate(model, tokenizer, requests[i], room, {10**6})[0]


def test_training_mode_is_given_back(model, tokenizer):
    model.train()
    list(generate_outputs(model, requests_for(tokenizer, [9]), {1}, DecodingConfig(max_new_tokens=3)))
    assert model.training


def test_end_tokens_are_the_models_and_the_tokenizers(model, tokenizer):
    model.generation_config.eos_token_id = [5, 7]
    assert end_token_ids(model.generation_config, tokenizer) == {5, 7, tokenizer.eos_token_id}
    model.generation_config.eos_token_id = None
    bare = tiny_tokenizer()
    bare.eos_token = None
    with pytest.raises(ValueError, match="no output would ever end"):
        end_token_ids(model.generation_config, bare)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "at least 1, but 0"),
        ({"temperature": -1.0}, "cannot be negative, but -1.0"),
        ({"temperature": float("nan")}, "must be finite"),
        ({"temperature": float("inf")}, "must be finite"),
        ({"top_p": float("nan")}, r"in \(0, 1\], but nan"),
        ({"top_p": 0.0}, r"in \(0, 1\], but 0.0"),
    ],
)
def test_bad_decoding_options(options, message):
    with pytest.raises(ValueError, match=message):
        DecodingConfig(**options)


def test_an_empty_prompt_is_named(tokenizer):
    with pytest.raises(ValueError, match="The prompt of 'p7' has no tokens"):
        list(generate_outputs(tiny_model(tokenizer), [Request("p7", 0, [])], {1}, DecodingConfig()))


def test_out_of_memory_halves_the_batch(model, tokenizer, monkeypatch):
    ends = many_ends(tokenizer)
    requests = requests_for(tokenizer, [9, 30, 30, 4, 17, 22])
    config = DecodingConfig(max_new_tokens=40, temperature=0.8)
    expected = {o.id: o for o in generate_outputs(model, requests, ends, config, 1)}
    forward, sizes = type(model).forward, []

    def forward_with_little_memory(self, input_ids=None, **kwargs):
        sizes.append(len(input_ids))
        # Also in the middle of a batch, when some of it has ended
        if len(input_ids) > 4 or (len(input_ids) == 2 and kwargs["position_ids"].max() > 55):
            raise torch.OutOfMemoryError("no memory")
        return forward(self, input_ids, **kwargs)

    monkeypatch.setattr(type(model), "forward", forward_with_little_memory)
    outputs = list(generate_outputs(model, requests, ends, config, 6))
    assert {o.id: o for o in outputs} == expected and len(outputs) == 6
    assert sizes[0] == 6 and max(sizes[1:]) <= 3


SPECIAL = ["[THINK]", "[/THINK]", "<unused94>", "<unused95>", "<|channel|>", "<|message|>", "<|start|>", "<|end|>"]
FINAL = "<|end|><|start|>assistant<|channel|>final<|message|>"
ENDS = "<|im_end|><|endoftext|>"


@pytest.mark.parametrize(
    ("opening", "closing"),
    [
        ("[THINK]", "[/THINK]"),
        ("<unused94>thought\n", "<unused95>"),
        ("<|channel|>analysis<|message|>", FINAL),
        ("<|im_start|>think\n", "<|im_start|>answer\n"),
    ],
)
def test_marks_that_are_special_tokens_stay_in_outputs(opening, closing):
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [*SPECIAL, "<|im_start|>", "<|other|>"]})
    text = f"{opening}Add.\n\nWait, check.{closing}It is <|other|>5."
    output = decode_output(tokenizer, tokenizer(f"{text}{ENDS}")["input_ids"])
    assert output == text.replace("<|other|>", "")
    trace = build_trace({"prompt": "p", "completion": output, "answer": "5"})
    assert [piece.strip() for piece in trace.segment_texts] == ["Add.", "Wait, check."]


def test_without_special_marks_outputs_are_as_they_were():
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [*SPECIAL, "<|im_start|>", "<|other|>"]})
    for text in ("<think>Add.</think>It is 5.", "a <|im_start|>user b<|other|>", "<|end|> c <|start|>", ""):
        ids = tokenizer(f"{text}{ENDS}")["input_ids"]
        assert decode_output(tokenizer, ids) == tokenizer.decode(ids, skip_special_tokens=True)
    assert special_marks(tiny_tokenizer()) == []
