"""The answer's log-probability after each prefix, against passes over each prefix by itself."""

import numpy as np
import pytest
import torch
from helpers import make_rows

from trl_segment.attribution.scorers import ConfidenceGain
from trl_segment.evaluation.confidence import answer_log_probs
from trl_segment.traces import attributed_sequence, build_trace


def by_hand(model, ids, target, segments):
    ids, suffix_start = list(ids), segments[-1][1]
    values = []
    for end in (segments[0][0], *(end for _, end in segments)):
        shortened = torch.tensor([ids[:end] + ids[suffix_start : target[1]]])
        with torch.no_grad():
            log_probs = model(shortened).logits[0].log_softmax(-1)
        size = target[1] - target[0]
        values.append(sum(log_probs[-size - 1 + i, shortened[0, -size + i]].item() for i in range(size)))
    return np.array(values)


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_values_are_those_of_each_prefix_by_itself(model, tokenizer, number):
    sequence = attributed_sequence(build_trace(make_rows(4)[number]), tokenizer)
    arguments = (sequence.input_ids, sequence.target, sequence.segments)
    values = answer_log_probs(model, *arguments)
    assert values == pytest.approx(by_hand(model, *arguments), abs=1e-4)
    scored = ConfidenceGain(model).attribute(*arguments)
    assert np.maximum(np.diff(values), 0) == pytest.approx(scored.segments.strength, abs=1e-4)


def test_an_answer_right_behind_the_reasoning(model, tokenizer):
    """Nothing stands between: the answer's first token is predicted from the prefix's last one."""
    sequence = attributed_sequence(build_trace(make_rows(1)[0]), tokenizer)
    ids = np.concatenate([sequence.input_ids[: sequence.segments[-1][1]], [11, 12, 13]])
    arguments = (ids, (len(ids) - 3, len(ids)), sequence.segments)
    assert answer_log_probs(model, *arguments) == pytest.approx(by_hand(model, *arguments), abs=1e-4)


def test_a_sliding_window_model_runs_every_prefix(tokenizer):
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
    )
    model = MistralForCausalLM(config).eval()
    sequence = attributed_sequence(build_trace(make_rows(1)[0]), tokenizer)
    arguments = (sequence.input_ids, sequence.target, sequence.segments)
    assert answer_log_probs(model, *arguments) == pytest.approx(by_hand(model, *arguments), abs=1e-4)
