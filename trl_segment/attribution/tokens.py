"""Token attributions of one trace, which stores do not hold."""

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..traces import Trace, join_completion, render_prompt
from .config import AttributionConfig
from .integrated_gradients import Attribution
from .runner import _make_engine, _sequence
from .store import AttributionStore


def attribute_tokens(
    trace: Trace,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    config: AttributionConfig,
    store: AttributionStore,
) -> tuple[np.ndarray, np.ndarray, Attribution]:
    """
    Attribute one trace and keep every token's score, which stores do not.

    Args:
        trace ([`~trl_segment.Trace`]):
            A trace that can be attributed.
        model ([`~transformers.PreTrainedModel`]):
            Attribution model.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        config ([`AttributionConfig`]):
            Settings.
        store ([`AttributionStore`]):
            Store of the same settings; the rule `"density"` finds its nodes there.

    Returns:
        `tuple[np.ndarray, np.ndarray, Attribution]`: For each token of the reasoning its first character in
        `trace.completion` and its signed attribution in nats, both of shape (tokens,), and the whole result.

    Raises:
        `ValueError`: If the trace cannot be attributed.
    """
    sequence, problem = _sequence(trace, tokenizer, model, config)
    if problem is not None:
        raise ValueError(f"This trace has no token attributions: {problem}.")
    engine = _make_engine(model, tokenizer, config, store, [trace])
    result = engine.attribute(sequence.input_ids, sequence.target, sequence.segments)
    first, last = sequence.segments[0][0], sequence.segments[-1][1]
    prompt = render_prompt(trace, tokenizer)
    shift = len(prompt) - join_completion(prompt, trace.completion)[1]
    return sequence.spans[first:last, 0] - shift, result.tokens[first:last], result
